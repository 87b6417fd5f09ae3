//! `import`: makes a store from another layout.
//!
//! What the other layout does not know is asked for, not guessed. What is copied is read again
//! afterwards, through the store as a node opens it, and compared with the source.

mod engine;
mod json;
mod write;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use raft_rocks::raft::eraftpb::Entry;
use raft_rocks::record::{ConfState, HardState, SnapshotRecord};

use crate::args::Common;
use crate::exit::Exit;

#[derive(Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    layout: LayoutArgs,
}

#[derive(Subcommand)]
enum LayoutArgs {
    /// A RocksDB with `/raft/entry/<decimal>` keys and JSON values; it is only read
    Json(json::JsonArgs),
    /// A raft-engine directory; a copy of it is read
    RaftEngine(engine::EngineArgs),
}

#[derive(Args)]
struct Paths {
    /// The directory to read
    source: PathBuf,
    /// The store's directory, which is made
    store: PathBuf,
}

/// A group of another layout. Its entries are `[base + 1, last]`.
struct Group {
    id: u64,
    /// The index before the first entry, and the term at it.
    base: (u64, u64),
    last: u64,
    hard_state: HardState,
    conf_state: ConfState,
    applied: u64,
    snapshot: Option<SnapshotRecord>,
}

/// Another layout.
trait Layout {
    fn groups(&self) -> Result<Vec<Group>>;

    /// The entry at an index that the group has; an error names what is wrong with it.
    fn entry(&self, group: &Group, index: u64) -> Result<Entry>;
}

pub fn run(common: &Common, args: &ImportArgs) -> Result<Exit> {
    match &args.layout {
        LayoutArgs::Json(args) => {
            let layout = json::Json::open(args, common)?;
            write::import(&layout, &args.paths.store)
        }
        LayoutArgs::RaftEngine(args) => {
            let layout = engine::RaftEngine::open(args, common)?;
            write::import(&layout, &args.paths.store)
        }
    }
}

impl Group {
    /// Raises the commit to what was applied, and refuses states that contradict the log.
    fn check(&mut self) -> Result<()> {
        let (base, last) = (self.base.0, self.last);
        ensure!(
            last < u64::MAX,
            "group {}: no log can have the index {last}",
            self.id
        );
        self.hard_state.commit = self.hard_state.commit.max(self.applied);
        let commit = self.hard_state.commit;
        ensure!(
            (base..=last).contains(&commit),
            "group {}: its commit, {commit}, lies outside of its log, {base} to {last}",
            self.id
        );
        ensure!(
            self.applied >= base,
            "group {}: {} is applied, but its log begins behind {base}: entries are missing",
            self.id,
            self.applied
        );
        if (base == 0) != (self.base.1 == 0) {
            bail!("group {}: the term at {base} is {}", self.id, self.base.1);
        }
        Ok(())
    }
}

/// Where a log begins whose first entry is `first`, when the term before it is not known: behind
/// that entry, whose own term is. It must have been applied.
fn base_behind(first: &Entry, applied: u64) -> Result<(u64, u64)> {
    ensure!(
        applied >= first.index,
        "the term at {}, before the first entry, is not known, and the first entry itself is not \
         applied yet: the log cannot begin behind it",
        first.index - 1
    );
    Ok((first.index, first.term))
}
