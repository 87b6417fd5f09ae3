//! A raft group of one node: a loop on a thread, proposals over a channel that are answered
//! once they are applied, and restarts that find everything again.
//!
//! `cargo run --example single_node [DIRECTORY]`; without a directory it uses one that is
//! removed at the end.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use raft_rocks::raft::eraftpb::{ConfState, Entry};
use raft_rocks::raft::{Config, RawNode, StateRole};
use raft_rocks::{Options, RaftMachineStorage};

const TICK: Duration = Duration::from_millis(100);
/// The column family of the state machine: a key, and the value it was last given.
const PAIRS: &str = "pairs";

type Failure = Box<dyn Error + Send + Sync>;

struct Put {
    key: String,
    value: String,
    /// Gets the index once the put is applied; closed without one, the outcome is unknown.
    applied: SyncSender<u64>,
}

fn main() -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    let dir = std::env::args_os()
        .nth(1)
        .map_or(scratch.path().join("node-1"), PathBuf::from);
    for _ in 0..3 {
        let (pairs, term) = put_ten(&dir)?;
        println!("term {term}: 10 puts applied, {pairs} pairs in all; stopping the node");
    }
    Ok(())
}

/// Starts the node, adds ten pairs, stops it. Returns the pairs there are then, and the term.
fn put_ten(dir: &Path) -> Result<(usize, u64), Failure> {
    let node = Node::open(dir)?;
    let storage = node.storage.clone();
    let (puts, inbox) = sync_channel(16);
    let thread = thread::spawn(move || node.run(&inbox));

    let before = count_pairs(&storage)?;
    let answered = (before..before + 10).all(|number| {
        let (applied, answer) = sync_channel(1);
        let (key, value) = (format!("key-{number}"), format!("value-{number}"));
        puts.send(Put {
            key,
            value,
            applied,
        })
        .is_ok()
            && answer.recv().is_ok()
    });
    drop(puts); // The node stops when nobody can propose any more.
    thread.join().map_err(|_| "the node panicked")??;
    if !answered {
        return Err("a put was not answered, its outcome is unknown".into());
    }
    Ok((count_pairs(&storage)?, storage.hard_state().term))
}

fn count_pairs(storage: &RaftMachineStorage) -> Result<usize, Failure> {
    let database = storage.store().database();
    let family = database
        .cf_handle(PAIRS)
        .ok_or("the column family is missing")?;
    let mut pairs = 0;
    for pair in database.iterator_cf(family, raft_rocks::rocksdb::IteratorMode::Start) {
        pair?;
        pairs += 1;
    }
    Ok(pairs)
}

struct Node {
    raft: RawNode<RaftMachineStorage>,
    storage: RaftMachineStorage,
    /// Proposals under way: by index, with the term of their entry.
    proposed: BTreeMap<u64, (u64, SyncSender<u64>)>,
}

impl Node {
    fn open(dir: &Path) -> Result<Self, Failure> {
        let mut options = Options::default();
        options.column_families = vec![PAIRS.to_owned()];
        let storage = RaftMachineStorage::open(dir, options)?;
        if storage.conf_state() == ConfState::default() {
            storage.initialize_with_conf_state((vec![1], vec![]))?;
        }
        // The pairs are exactly as old as the stored applied index: one write brought both.
        let config = Config {
            applied: storage.applied_index(),
            ..Config::new(1)
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = RawNode::new(&config, storage.clone(), &logger)?;
        raft.campaign()?; // The only voter need not wait for its election timeout.
        Ok(Node {
            raft,
            storage,
            proposed: BTreeMap::new(),
        })
    }

    fn run(mut self, inbox: &Receiver<Put>) -> Result<(), Failure> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            while self.raft.has_ready() {
                self.handle_ready()?;
            }
            match inbox.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(put) => {
                    self.propose(put)?;
                    // What else is waiting shares the next Ready, and with it one sync.
                    for put in inbox.try_iter() {
                        self.propose(put)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.raft.tick();
                    next_tick = Instant::now() + TICK;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn propose(&mut self, put: Put) -> Result<(), Failure> {
        if self.raft.raft.state != StateRole::Leader {
            return Ok(()); // Dropping `put.applied` tells the client.
        }
        let Put {
            key,
            value,
            applied,
        } = put;
        self.raft
            .propose(vec![], format!("{key}={value}").into_bytes())?;
        // Index and term together name an entry for good, across leaders and restarts.
        let (index, term) = (self.raft.raft.raft_log.last_index(), self.raft.raft.term);
        self.proposed.insert(index, (term, applied));
        Ok(())
    }

    /// There is nobody to send to, so the order is: persist, apply what was committed before,
    /// advance, apply what this write has committed.
    fn handle_ready(&mut self) -> Result<(), Failure> {
        let mut ready = self.raft.ready();
        self.storage.write_ready(&ready)?;
        self.apply(&ready.take_committed_entries())?;
        let mut light = self.raft.advance(ready);
        self.apply(&light.take_committed_entries())?;
        self.raft.advance_apply();
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let mut batch = self.storage.batch().applied(last.index);
        for entry in entries {
            let command = std::str::from_utf8(&entry.data)?;
            // A new leader starts its term with an entry that holds nothing.
            if let Some((key, value)) = command.split_once('=') {
                batch = batch.put(PAIRS, key, value);
            }
        }
        batch.write()?;
        for entry in entries {
            if let Some((term, applied)) = self.proposed.remove(&entry.index)
                && term == entry.term
            {
                // A client that has given up waiting is no error.
                let _ = applied.try_send(entry.index);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[test]
fn each_start_finds_what_the_last_one_put() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    assert_eq!(put_ten(dir.path())?, (10, 1));
    assert_eq!(put_ten(dir.path())?, (20, 2));
    Ok(())
}
