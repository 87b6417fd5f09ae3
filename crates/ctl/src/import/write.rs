//! Writing what was read from another layout, and comparing the two.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use indicatif::ProgressBar;
use raft_rocks::keys::{self, Meta};
use raft_rocks::record::{
    self, AppliedConfState, FirstIndex, LastIndex, MetaRecord, UncommitIndex,
};
use raft_rocks::tools::{Change, Editor};
use raft_rocks::{Options, RaftMachineStorage, RaftStore};

use super::{Group, Layout};
use crate::commands::progress_bar;
use crate::exit::Exit;

/// What goes into one write, and what is compared at a time.
const ENTRIES_PER_WRITE: u64 = 1000;

/// Makes the store in `dir`: under another name until it has been compared.
pub fn import(layout: &impl Layout, dir: &Path) -> Result<Exit> {
    ensure!(
        !dir.exists(),
        "{} exists: name a directory that does not",
        dir.display()
    );
    let groups = layout.groups()?;
    ensure!(!groups.is_empty(), "there is no group in the source");
    let partial = partial(dir);
    if partial.exists() {
        bail!(
            "{} is left from an earlier import: remove it",
            partial.display()
        );
    }
    let entries: u64 = groups.iter().map(|group| group.last - group.base.0).sum();
    let bar = progress_bar(2 * entries)?;
    copy(layout, &groups, &partial, &bar)?;
    compare(layout, &groups, &partial, &bar)?;
    bar.finish_and_clear();
    std::fs::rename(&partial, dir).with_context(|| format!("renaming {}", partial.display()))?;
    for group in &groups {
        say!(
            "group {}: entries [{}, {}), commit {}, applied {}: copied and compared",
            group.id,
            group.base.0 + 1,
            group.last + 1,
            group.hard_state.commit,
            group.applied
        );
    }
    Ok(Exit::Sound)
}

fn partial(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn copy(layout: &impl Layout, groups: &[Group], dir: &Path, bar: &ProgressBar) -> Result<()> {
    let editor = Editor::create(dir)?;
    for group in groups {
        let mut last_term = group.base.1;
        let mut next = group.base.0 + 1;
        while next <= group.last {
            let high = group.last.min(next.saturating_add(ENTRIES_PER_WRITE - 1));
            let mut changes = Vec::new();
            for index in next..=high {
                let entry = layout.entry(group, index)?;
                ensure!(
                    entry.term >= last_term.max(1),
                    "group {}: the term of entry {index} is {}, behind term {last_term}",
                    group.id,
                    entry.term
                );
                last_term = entry.term;
                let mut value = Vec::new();
                record::encode_entry(group.id, &entry, &mut value)?;
                changes.push(Change::Put(keys::entry(group.id, index), value));
            }
            editor.write(&changes)?;
            bar.inc(high - next + 1);
            next = high + 1;
        }
        editor.write(&states(group, last_term))?;
    }
    Ok(())
}

fn states(group: &Group, last_term: u64) -> Vec<Change> {
    let (base, base_term) = group.base;
    let first = FirstIndex {
        first_index: base + 1,
        truncated_index: base,
        truncated_term: base_term,
    };
    let last = LastIndex {
        last_index: group.last,
        last_term,
    };
    let applied = AppliedConfState {
        conf_state: group.conf_state.clone(),
        applied: group.applied,
    };
    let uncommit = UncommitIndex {
        uncommit_index: group.hard_state.commit + 1,
    };
    let mut changes = vec![
        put(group.id, &first),
        put(group.id, &last),
        put(group.id, &group.hard_state),
        put(group.id, &applied),
        put(group.id, &uncommit),
    ];
    changes.extend(
        group
            .snapshot
            .as_ref()
            .map(|snapshot| put(group.id, snapshot)),
    );
    changes
}

fn put<R: MetaRecord>(group: u64, record: &R) -> Change {
    Change::Put(
        keys::meta(group, R::META),
        record::encode_meta(group, record),
    )
}

/// Reads everything through the store as a node would open it.
fn compare(layout: &impl Layout, groups: &[Group], dir: &Path, bar: &ProgressBar) -> Result<()> {
    let store = RaftStore::open(dir, Options::default()).context("opening what was copied")?;
    let mut expected: Vec<u64> = groups.iter().map(|group| group.id).collect();
    expected.sort_unstable();
    ensure!(
        store.groups()? == expected,
        "other groups than in the source"
    );
    for group in groups {
        let storage = store.group(group.id).context("opening what was copied")?;
        compare_states(group, &storage)?;
        let mut next = group.base.0 + 1;
        while next <= group.last {
            let high = group.last.min(next.saturating_add(ENTRIES_PER_WRITE - 1));
            for copied in storage.entries(next, high + 1, None)? {
                let source = layout.entry(group, copied.index)?;
                ensure!(
                    copied == source,
                    "group {}: entry {} is not what is in the source",
                    group.id,
                    copied.index
                );
            }
            bar.inc(high - next + 1);
            next = high + 1;
        }
    }
    Ok(store.close()?)
}

fn compare_states(group: &Group, storage: &RaftMachineStorage) -> Result<()> {
    let id = group.id;
    let hard_state = record::HardState::from(&storage.hard_state());
    ensure!(
        hard_state == group.hard_state,
        "group {id}: {} differs",
        keys::display(&keys::meta(id, Meta::HardState))
    );
    let conf_state = record::ConfState::from(&storage.conf_state());
    ensure!(
        conf_state == group.conf_state,
        "group {id}: the configuration differs"
    );
    let bounds = (
        storage.first_index(),
        storage.last_index(),
        storage.applied_index(),
    );
    ensure!(
        bounds == (group.base.0 + 1, group.last, group.applied),
        "group {id}: the bounds differ"
    );
    Ok(())
}
