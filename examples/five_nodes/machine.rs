//! The state machine: pairs of strings, in memory to be read and in column families of the node's
//! own store to survive.
//!
//! It is one of [`Durability::Shared`]: what a command changes is handed to the driver, which
//! writes it in one batch with the applied index. So after a restart the pairs are those of the
//! stored applied index, nothing is applied twice, and nothing has to be replayed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_rocks::RaftMachineStorage;
use raft_rocks::driver::{Command, Durability, StateMachine, Writes};
use raft_rocks::rocksdb::IteratorMode;
use serde_json::json;

use crate::Failure;

/// The column families that the machine needs in its node's store.
pub const FAMILIES: [&str; 2] = [PAIRS, HISTORY];
const PAIRS: &str = "pairs";
const HISTORY: &str = "history";
const HISTORY_KEY: &str = "applied";

/// How many puts were applied, and a checksum over all of them in their order. Putting a pair
/// twice leaves the pairs as they are; the history tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub puts: u64,
    pub checksum: u32,
}

impl History {
    fn extend(self, index: u64, command: &[u8]) -> Self {
        let checksum = crc32c::crc32c_append(self.checksum, &index.to_be_bytes());
        History {
            puts: self.puts + 1,
            checksum: crc32c::crc32c_append(checksum, command),
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        json!([self.puts, self.checksum]).to_string().into_bytes()
    }
}

/// The command that puts a pair.
pub fn put_command(key: &str, value: &str) -> Vec<u8> {
    format!("put {key} {value}").into_bytes()
}

fn parse_put(command: &[u8]) -> Option<(&str, &str)> {
    let command = std::str::from_utf8(command).ok()?;
    command.strip_prefix("put ")?.split_once(' ')
}

pub struct Machine {
    pub pairs: BTreeMap<String, String>,
    pub history: History,
    storage: RaftMachineStorage,
    catch_ups: Arc<AtomicU64>,
}

impl Machine {
    /// What the store holds. `catch_ups` counts the snapshots that replace a state that is not
    /// empty: of nodes that had fallen behind the others' logs.
    pub fn load(storage: RaftMachineStorage, catch_ups: Arc<AtomicU64>) -> Result<Self, Failure> {
        let database = storage.store().database();
        let family = |name| database.cf_handle(name).ok_or("a column family is missing");
        let mut pairs = BTreeMap::new();
        for pair in database.iterator_cf(family(PAIRS)?, IteratorMode::Start) {
            let (key, value) = pair?;
            pairs.insert(
                String::from_utf8(key.into())?,
                String::from_utf8(value.into())?,
            );
        }
        let history = match database.get_cf(family(HISTORY)?, HISTORY_KEY)? {
            None => History::default(),
            Some(stored) => {
                let (puts, checksum) = serde_json::from_slice(&stored)?;
                History { puts, checksum }
            }
        };
        Ok(Machine {
            pairs,
            history,
            storage,
            catch_ups,
        })
    }
}

impl StateMachine for Machine {
    /// The answer is the value that the key had before.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        let Some((key, value)) = parse_put(command) else {
            return b"a command is: put KEY VALUE".to_vec();
        };
        self.history = self.history.extend(index, command);
        let before = self.pairs.insert(key.to_owned(), value.to_owned());
        before.unwrap_or_default().into_bytes()
    }

    fn apply_batch(
        &mut self,
        commands: &[Command<'_>],
        writes: &mut Writes,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        for command in commands {
            answers.push(self.apply(command.index, command.data));
            if let Some((key, value)) = parse_put(command.data) {
                writes.put(PAIRS, key, value);
            }
        }
        writes.put(HISTORY, HISTORY_KEY, self.history.to_bytes());
        Ok(answers)
    }

    fn snapshot(&self) -> Vec<u8> {
        let History { puts, checksum } = self.history;
        let state = json!([puts, checksum, self.pairs]);
        state.to_string().into_bytes()
    }

    /// Writes by itself, in one batch: after a crash the old state is there, or the new one.
    fn restore(&mut self, snapshot: &[u8]) -> io::Result<()> {
        let (puts, checksum, pairs): (_, _, BTreeMap<String, String>) =
            serde_json::from_slice(snapshot)?;
        let history = History { puts, checksum };
        let mut batch = self.storage.batch();
        for key in self.pairs.keys() {
            batch = batch.delete(PAIRS, key.as_str());
        }
        for (key, value) in &pairs {
            batch = batch.put(PAIRS, key.as_str(), value.as_str());
        }
        let batch = batch.put(HISTORY, HISTORY_KEY, history.to_bytes());
        batch.write().map_err(io::Error::other)?;
        if self.history.puts > 0 {
            self.catch_ups.fetch_add(1, Ordering::Relaxed);
        }
        (self.history, self.pairs) = (history, pairs);
        Ok(())
    }

    fn durability(&self) -> Durability {
        Durability::Shared
    }
}

/// Takes a pair away behind raft's back.
#[cfg(test)]
pub fn remove_pair(storage: &RaftMachineStorage, key: &str) {
    storage.batch().delete(PAIRS, key).write().unwrap();
}
