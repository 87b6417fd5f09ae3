//! What is checked when a group is opened.
//!
//! A store that lost part of its log or a vote must not take part in elections as if nothing
//! had happened. So nothing on disk is believed because it is there: every record proves its
//! checksum and its place, and all of them together prove the invariants of
//! [`GroupState`]. A breach is an [`Error::Corruption`] that names the key.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::config::VerifyOnOpen;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::group_state::GroupState;
use crate::keys::{self, Key, Meta};
use crate::record::{
    self, AppliedConfState, FirstIndex, HardState, LastIndex, MetaRecord, SnapshotFile,
    SnapshotRecord, UncommitIndex,
};
use crate::snapshot::{self, SnapshotDir};
use crate::term_index::TermIndex;

/// Reads a group from disk, or finds that there is none.
///
/// # Errors
/// [`Error::Corruption`] for the first breach that is found; nothing is changed.
pub(crate) fn load(
    db: &Db,
    dir: &SnapshotDir,
    group: u64,
    verify: VerifyOnOpen,
) -> Result<GroupState> {
    let Some(first) = read::<FirstIndex>(db, group)? else {
        check_absent(db, group)?;
        return Ok(GroupState::fresh());
    };
    let last: LastIndex = read_required(db, group)?;
    check_bounds(group, &first, &last)?;
    let hard_state: HardState = read_required(db, group)?;
    let applied: AppliedConfState = read_required(db, group)?;
    let uncommit: UncommitIndex = read_required(db, group)?;
    if Some(uncommit.uncommit_index) != hard_state.commit.checked_add(1) {
        return Err(breach(
            group,
            Meta::UncommitIndex,
            format!("commit {} and one", hard_state.commit),
            uncommit.uncommit_index.to_string(),
        ));
    }
    let terms = match verify {
        VerifyOnOpen::Full => scan_log(db, group, &first, &last)?,
        VerifyOnOpen::Bounds => bisect_terms(db, group, &first, &last)?,
    };
    let state = GroupState {
        exists: true,
        terms,
        hard_state,
        conf_state: Arc::new(applied.conf_state),
        applied: applied.applied,
        snapshot: read::<SnapshotRecord>(db, group)?.map(Arc::new),
    };
    state.check().map_err(|(expected, found)| {
        Error::corruption("group", format!("group {group}"), expected, found)
    })?;
    if let Some(record) = &state.snapshot {
        snapshot::verify(dir, group, record, verify == VerifyOnOpen::Full)?;
    }
    Ok(state)
}

/// The groups that have a key on disk, ascending; also those whose records are damaged.
pub(crate) fn list_groups(db: &Db) -> Result<Vec<u64>> {
    let mut groups = Vec::new();
    // The keys of group 0 sort behind those of all others.
    db.scan(keys::GROUP_ZERO, None, |key, _| {
        groups.extend(keys::group_of(key));
        Ok(ControlFlow::Break(()))
    })?;
    let mut next = Some(1);
    while let Some(from) = next.take() {
        db.scan(
            &keys::group_floor(from),
            Some(keys::GROUP_ZERO),
            |key, _| {
                if let Some(group) = keys::group_of(key) {
                    groups.push(group);
                    next = group.checked_add(1);
                }
                Ok(ControlFlow::Break(()))
            },
        )?;
    }
    Ok(groups)
}

fn breach(group: u64, meta: Meta, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::corruption(
        name(meta),
        keys::display(&keys::meta(group, meta)),
        expected,
        found,
    )
}

const fn name(meta: Meta) -> &'static str {
    match meta {
        Meta::FirstIndex => "first index",
        Meta::LastIndex => "last index",
        Meta::HardState => "hard state",
        Meta::ConfState => "conf state",
        Meta::UncommitIndex => "uncommit index",
        Meta::Snapshot => "snapshot",
    }
}

fn read<R: MetaRecord>(db: &Db, group: u64) -> Result<Option<R>> {
    let key = keys::meta(group, R::META);
    let Some(bytes) = db.get(&key)? else {
        return Ok(None);
    };
    let decoded = record::decode_meta(group, &bytes);
    decoded
        .map(Some)
        .map_err(|damage| damage.at(name(R::META), keys::display(&key)))
}

fn read_required<R: MetaRecord>(db: &Db, group: u64) -> Result<R> {
    read(db, group)?.ok_or_else(|| breach(group, R::META, "a record", "none"))
}

/// The file that a group's snapshot record names.
pub(crate) fn snapshot_file(db: &Db, group: u64) -> Result<Option<SnapshotFile>> {
    Ok(read::<SnapshotRecord>(db, group)?.and_then(|record| record.file))
}

/// A group without a first index has nothing else either.
fn check_absent(db: &Db, group: u64) -> Result<()> {
    let missing = |key: &[u8]| {
        let found = format!("none, but a record at {}", keys::display(key));
        breach(group, Meta::FirstIndex, "a record", found)
    };
    for meta in Meta::ALL {
        let key = keys::meta(group, meta);
        if db.get(&key)?.is_some() {
            return Err(missing(&key));
        }
    }
    let (low, high) = (keys::entry(group, 0), keys::entries_end(group));
    db.scan(&low, Some(&high), |key, _| Err(missing(key)))
}

fn check_bounds(group: u64, first: &FirstIndex, last: &LastIndex) -> Result<()> {
    if first.truncated_index.checked_add(1) != Some(first.first_index) {
        let expected = format!("first index {} and one", first.truncated_index);
        return Err(breach(
            group,
            Meta::FirstIndex,
            expected,
            first.first_index.to_string(),
        ));
    }
    let empty = last.last_index == first.truncated_index;
    if last.last_index < first.truncated_index || last.last_index == u64::MAX {
        let expected = format!("at least {}", first.truncated_index);
        return Err(breach(
            group,
            Meta::LastIndex,
            expected,
            last.last_index.to_string(),
        ));
    }
    if empty && last.last_term != first.truncated_term {
        let expected = format!("term {} of an empty log", first.truncated_term);
        return Err(breach(
            group,
            Meta::LastIndex,
            expected,
            format!("term {}", last.last_term),
        ));
    }
    Ok(())
}

/// Reads every entry: checksums, contiguity of the indexes, monotony of the terms, nothing
/// past the last index.
fn scan_log(db: &Db, group: u64, first: &FirstIndex, last: &LastIndex) -> Result<TermIndex> {
    let mut terms = TermIndex::new(first.truncated_index, first.truncated_term);
    let (low, high) = (
        keys::entry(group, first.first_index),
        keys::entries_end(group),
    );
    db.scan(&low, Some(&high), |key, value| {
        let expected = terms.last() + 1;
        if expected > last.last_index {
            return Err(past_the_end(key, last));
        }
        let Some(Key::Entry(_, index)) =
            keys::parse(key).filter(|k| *k == Key::Entry(group, expected))
        else {
            return Err(missing_entry(group, expected, &keys::display(key)));
        };
        let term = term_of(group, index, value)?;
        check_term(group, index, term, terms.last_term())?;
        terms.push(term);
        Ok(ControlFlow::Continue(()))
    })?;
    if terms.last() != last.last_index {
        return Err(missing_entry(group, terms.last() + 1, "the end of the log"));
    }
    check_last_term(group, last, terms.last_term())?;
    Ok(terms)
}

/// The term of an entry whose bytes are sound.
fn term_of(group: u64, index: u64, bytes: &[u8]) -> Result<u64> {
    match record::view_entry(group, index, bytes) {
        Ok(view) => Ok(view.term),
        Err(damage) => Err(damage.at("entry", keys::display(&keys::entry(group, index)))),
    }
}

fn past_the_end(key: &[u8], last: &LastIndex) -> Error {
    let expected = format!("nothing past the last index {}", last.last_index);
    Error::corruption("entry", keys::display(key), expected, "an entry")
}

fn missing_entry(group: u64, index: u64, found: &str) -> Error {
    let key = keys::display(&keys::entry(group, index));
    Error::corruption("entry", key, "an entry: indexes have no gaps", found)
}

fn check_term(group: u64, index: u64, term: u64, previous: u64) -> Result<()> {
    if term == 0 || term < previous {
        let key = keys::display(&keys::entry(group, index));
        let expected = format!("a term of at least {}: terms never fall", previous.max(1));
        return Err(Error::corruption("entry", key, expected, term.to_string()));
    }
    Ok(())
}

fn check_last_term(group: u64, last: &LastIndex, found: u64) -> Result<()> {
    if found != last.last_term {
        let expected = format!("term {} of entry {}", found, last.last_index);
        return Err(breach(
            group,
            Meta::LastIndex,
            expected,
            format!("term {}", last.last_term),
        ));
    }
    Ok(())
}

/// Finds the runs of terms by bisection, which needs a few entries per run: terms never fall.
fn bisect_terms(db: &Db, group: u64, first: &FirstIndex, last: &LastIndex) -> Result<TermIndex> {
    let term_at = |index: u64| -> Result<u64> {
        match db.get(&keys::entry(group, index))? {
            Some(bytes) => term_of(group, index, &bytes),
            None => Err(missing_entry(group, index, "none")),
        }
    };
    let mut terms = TermIndex::new(first.truncated_index, first.truncated_term);
    while terms.last() < last.last_index {
        let start = terms.last() + 1;
        let term = term_at(start)?;
        check_term(group, start, term, terms.last_term())?;
        let (mut low, mut high) = (start, last.last_index);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let found = term_at(middle)?;
            check_term(group, middle, found, term)?;
            if found == term {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        terms.push_run(term, low);
    }
    check_last_term(group, last, terms.last_term())?;
    let (past, end) = (
        keys::entry(group, last.last_index + 1),
        keys::entries_end(group),
    );
    db.scan(&past, Some(&end), |key, _| Err(past_the_end(key, last)))?;
    Ok(terms)
}
