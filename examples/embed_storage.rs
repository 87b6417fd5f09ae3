//! The shortest honest use of the store: open a directory, hand it to `RawNode`, and persist
//! what each `Ready` holds before anything depends on it.
//!
//! `cargo run --example embed_storage [DIRECTORY]`; without a directory it uses one that is
//! removed at the end.

use std::error::Error;

use raft_rocks::raft::eraftpb::{ConfState, Entry};
use raft_rocks::raft::{Config, RawNode};
use raft_rocks::{Options, RaftMachineStorage};

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let dir = std::env::args_os()
        .nth(1)
        .map_or(scratch.path().join("node-1"), Into::into);
    println!(
        "the last value is {:?}",
        propose_one(dir.as_ref(), "hello, disk")?
    );
    Ok(())
}

/// Opens the store in `dir`, puts `value` through the log, and reads it back.
fn propose_one(dir: &std::path::Path, value: &str) -> Result<Option<String>, Box<dyn Error>> {
    // The state machine keeps its data in a column family of the same database, so that the
    // data and the index it was applied up to change in one write.
    let mut options = Options::default();
    options.column_families = vec!["values".to_owned()];
    let storage = RaftMachineStorage::open(dir, options)?;
    if storage.conf_state() == ConfState::default() {
        // Only ever on the first start, and the same on each node of the group.
        storage.initialize_with_conf_state((vec![1], vec![]))?;
    }

    // Not the commit index: what was committed and not yet applied must come again.
    let config = Config {
        applied: storage.applied_index(),
        ..Config::new(1)
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, storage.clone(), &logger)?;

    node.campaign()?; // The only voter need not wait for its election timeout.
    handle_readies(&mut node, &storage)?;
    node.propose(vec![], value.into())?;
    handle_readies(&mut node, &storage)?;

    let database = storage.store().database();
    let family = database.cf_handle("values").ok_or("no column family")?;
    let value = database.get_cf(family, "last")?;
    Ok(value.map(String::from_utf8).transpose()?)
}

fn handle_readies(
    node: &mut RawNode<RaftMachineStorage>,
    storage: &RaftMachineStorage,
) -> Result<(), Box<dyn Error>> {
    while node.has_ready() {
        let mut ready = node.ready();
        // With peers: send `ready.take_messages()` here.
        storage.write_ready(&ready)?; // Durable when it returns. On an error, stop the node.
        // With peers: send `ready.take_persisted_messages()` here, never before the write.
        apply(storage, &ready.take_committed_entries())?;
        let mut light = node.advance(ready);
        // With peers: send `light.take_messages()` here.
        apply(storage, &light.take_committed_entries())?;
        node.advance_apply();
    }
    Ok(())
}

fn apply(storage: &RaftMachineStorage, entries: &[Entry]) -> raft_rocks::Result<()> {
    let Some(last) = entries.last() else {
        return Ok(());
    };
    let mut batch = storage.batch().applied(last.index);
    // A new leader starts its term with an entry that holds nothing.
    for entry in entries.iter().filter(|entry| !entry.data.is_empty()) {
        batch = batch.put("values", "last", &entry.data[..]);
    }
    batch.write()
}

#[cfg(test)]
#[test]
fn the_value_is_there_after_each_start() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    assert_eq!(propose_one(dir.path(), "one")?.as_deref(), Some("one"));
    assert_eq!(propose_one(dir.path(), "two")?.as_deref(), Some("two"));
    Ok(())
}
