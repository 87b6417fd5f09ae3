//! The layout that this project descends from, in one column family of a RocksDB.
//!
//! | key | value, as JSON |
//! |---|---|
//! | `/raft/first_index`, `/raft/last_index` | a number |
//! | `/raft/hard_state`, `/raft/conf_state` | the bytes of raft's message, as an array of numbers |
//! | `/raft/entry/<index in decimal>` | the same |
//! | `/raft/snapshot` | the same |
//! | `/raft/uncommit_index` | a set that nothing is told by: not read |
//!
//! Entries past `last_index` are left from a tail that was replaced, or from a crash: not read.
//! Entries before `first_index` are left from a compaction. The applied index is not stored: what
//! is committed there has been applied. Its hard state has the term of the last committed entry
//! in place of the node's own whenever something was committed: a vote may have been forgotten.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use raft_rocks::raft::eraftpb::{Entry, Snapshot};
use raft_rocks::record::{ConfState, HardState, SnapshotRecord};
use raft_rocks::rocksdb::{self, DB};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::{Group, Layout, Paths, base_behind};
use crate::args::Common;

const FIRST_INDEX: &str = "/raft/first_index";
const LAST_INDEX: &str = "/raft/last_index";
const HARD_STATE: &str = "/raft/hard_state";
const CONF_STATE: &str = "/raft/conf_state";
const SNAPSHOT: &str = "/raft/snapshot";

#[derive(Args)]
pub struct JsonArgs {
    #[command(flatten)]
    pub(super) paths: Paths,

    /// The column family; if not given, the one that has a hard state
    #[arg(long, value_name = "NAME")]
    family: Option<String>,

    /// The group that it becomes
    #[arg(long, value_name = "ID", default_value_t = 0)]
    group: u64,

    /// How far the state machine's state is durable; the commit if not given
    #[arg(long, value_name = "INDEX")]
    applied: Option<u64>,

    /// Raises the term, to one that is higher than that of every node of the cluster, without a
    /// vote in it: this layout may have forgotten votes
    #[arg(long)]
    term: Option<u64>,
}

/// A database of that layout, opened for reading.
pub struct Json {
    db: DB,
    family: String,
    group: u64,
    applied: Option<u64>,
    term: Option<u64>,
    /// Of RocksDB's log of events, which must not be written beside the source.
    _scratch: TempDir,
}

impl Json {
    pub fn open(args: &JsonArgs, common: &Common) -> Result<Json> {
        let source = &args.paths.source;
        let scratch = TempDir::new_in(&common.scratch)?;
        let mut options = rocksdb::Options::default();
        options.set_db_log_dir(scratch.path());
        ensure!(
            source.join("CURRENT").exists(),
            "{} is no RocksDB",
            source.display()
        );
        let families = DB::list_cf(&options, source).context("reading the source")?;
        let db = DB::open_cf_for_read_only(&options, source, &families, false);
        let db = db.with_context(|| format!("opening {}", source.display()))?;
        let family = match &args.family {
            Some(family) => family.clone(),
            None => find_family(&db, &families, source)?,
        };
        ensure!(
            families.contains(&family),
            "there is no column family {family:?}"
        );
        Ok(Json {
            db,
            family,
            group: args.group,
            applied: args.applied,
            term: args.term,
            _scratch: scratch,
        })
    }

    fn get<T: DeserializeOwned>(&self, key: &str, what: &str) -> Result<Option<T>> {
        let family = self.db.cf_handle(&self.family);
        let family = family.context("the column family is gone")?;
        let read = self.db.get_pinned_cf(&family, key);
        let Some(bytes) = read.with_context(|| format!("reading {key}"))? else {
            return Ok(None);
        };
        let value =
            serde_json::from_slice(&bytes).with_context(|| format!("{key} is no {what}"))?;
        Ok(Some(value))
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "index")
    }

    fn message<M: prost::Message + Default>(&self, key: &str) -> Result<Option<M>> {
        let Some(bytes) = self.get::<Vec<u8>>(key, "array of bytes")? else {
            return Ok(None);
        };
        let message = M::decode(bytes.as_slice());
        message
            .map(Some)
            .with_context(|| format!("{key} is no message of raft"))
    }

    fn find_entry(&self, index: u64) -> Result<Option<Entry>> {
        let key = format!("/raft/entry/{index}");
        let Some(entry) = self.message::<Entry>(&key)? else {
            return Ok(None);
        };
        ensure!(
            entry.index == index,
            "{key} holds the entry {}",
            entry.index
        );
        Ok(Some(entry))
    }

    /// The last index before the log, and its term.
    fn base(&self, first: u64, last: u64, applied: u64) -> Result<(u64, u64)> {
        if first <= 1 {
            return Ok((0, 0));
        }
        // The entries before the first one are never removed there.
        if let Some(before) = self.find_entry(first - 1)? {
            return Ok((before.index, before.term));
        }
        let Some(entry) = self.find_entry(first)?.filter(|_| first <= last) else {
            bail!(
                "the log begins at {first}, and neither that entry nor the one before it is there"
            );
        };
        base_behind(&entry, applied)
    }
}

impl Layout for Json {
    fn groups(&self) -> Result<Vec<Group>> {
        let hard_state: HardState = self.message(HARD_STATE)?.with_context(|| {
            format!("there is no {HARD_STATE}: without its term and vote a node may vote twice")
        })?;
        let conf_state: ConfState = self
            .message(CONF_STATE)?
            .with_context(|| format!("there is no {CONF_STATE}"))?;
        let snapshot: Option<Snapshot> = self.message(SNAPSHOT)?;
        let snapshot_index = snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.get_metadata().index);
        let last = self.number(LAST_INDEX)?.unwrap_or(snapshot_index);
        let first = self
            .number(FIRST_INDEX)?
            .unwrap_or(snapshot_index.saturating_add(1));
        let applied = self.applied.unwrap_or(hard_state.commit);
        let hard_state = self.raised(hard_state)?;
        let base = self.base(first, last, applied)?;
        let mut group = Group {
            id: self.group,
            base,
            last: last.max(base.0),
            hard_state,
            conf_state,
            applied,
            snapshot: None,
        };
        group.check()?;
        group.snapshot = self.snapshot(&group, snapshot)?;
        Ok(vec![group])
    }

    fn entry(&self, _group: &Group, index: u64) -> Result<Entry> {
        self.find_entry(index)?
            .with_context(|| format!("/raft/entry/{index} is missing: the log has a hole"))
    }
}

impl Json {
    /// With the term that was given: nobody has voted in it.
    fn raised(&self, hard_state: HardState) -> Result<HardState> {
        let Some(term) = self.term else {
            return Ok(hard_state);
        };
        let stored = hard_state.term;
        ensure!(
            term > stored,
            "--term {term} is not above the stored term, {stored}"
        );
        Ok(HardState {
            term,
            vote: 0,
            commit: hard_state.commit,
        })
    }

    /// The snapshot, if the log agrees with it.
    fn snapshot(
        &self,
        group: &Group,
        snapshot: Option<Snapshot>,
    ) -> Result<Option<SnapshotRecord>> {
        let Some(snapshot) = snapshot else {
            return Ok(None);
        };
        let (index, term) = (snapshot.get_metadata().index, snapshot.get_metadata().term);
        let known = match index {
            0 => None,
            index if index == group.base.0 => Some(group.base.1),
            index if index > group.base.0 && index <= group.applied => {
                Some(self.entry(group, index)?.term)
            }
            index if index < group.base.0 => Some(term),
            _ => None,
        };
        if known != Some(term) {
            eprintln!(
                "raft-rocks-ctl: the snapshot at {index}, term {term}, contradicts the log and is \
                 left out: make a new one"
            );
            return Ok(None);
        }
        Ok(Some(SnapshotRecord {
            index,
            term,
            conf_state: snapshot.get_metadata().get_conf_state().into(),
            data: snapshot.data.to_vec(),
            file: None,
        }))
    }
}

fn find_family(db: &DB, families: &[String], source: &Path) -> Result<String> {
    for family in families {
        let Some(handle) = db.cf_handle(family) else {
            continue;
        };
        for key in [HARD_STATE, LAST_INDEX] {
            if db.get_cf(&handle, key)?.is_some() {
                return Ok(family.clone());
            }
        }
    }
    bail!(
        "no column family of {} has a {HARD_STATE} or {LAST_INDEX}",
        source.display()
    )
}
