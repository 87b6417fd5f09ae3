//! The state machine: pairs of strings, kept in column families of the node's own store.
//!
//! Nothing of it is held in memory that a restart would have to rebuild: the pairs, the history
//! below and the applied index change in one write, so that after a restart the pairs are those
//! of the stored applied index, no entry is applied twice, and none is left out.

use std::collections::BTreeMap;

use raft_rocks::raft::eraftpb::Entry;
use raft_rocks::rocksdb::{ColumnFamily, IteratorMode};
use raft_rocks::{Batch, RaftMachineStorage};

use crate::Failure;

const PAIRS: &str = "pairs";
const HISTORY: &str = "history";
const HISTORY_KEY: &[u8] = b"applied";

/// The column families a node's store needs.
pub fn column_families() -> Vec<String> {
    vec![PAIRS.to_owned(), HISTORY.to_owned()]
}

/// How many puts were applied, and a checksum over all of them in their order. Putting a pair
/// twice leaves the pairs as they are; the history tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub puts: u64,
    pub checksum: u32,
}

impl History {
    fn extend(self, entry: &Entry) -> Self {
        let checksum = crc32c::crc32c_append(self.checksum, &entry.index.to_be_bytes());
        let checksum = crc32c::crc32c_append(checksum, &entry.data);
        History {
            puts: self.puts + 1,
            checksum,
        }
    }
}

/// The data of an entry that puts a pair.
pub fn put_command(key: &str, value: &str) -> Vec<u8> {
    format!("put {key} {value}").into_bytes()
}

fn parse_put(data: &[u8]) -> Result<(&str, &str), Failure> {
    let command = std::str::from_utf8(data)?;
    let pair = command
        .strip_prefix("put ")
        .and_then(|pair| pair.split_once(' '));
    pair.ok_or_else(|| format!("not a command of this state machine: {command:?}").into())
}

pub struct Machine {
    storage: RaftMachineStorage,
}

impl Machine {
    pub fn new(storage: RaftMachineStorage) -> Self {
        Machine { storage }
    }

    /// Adds to `batch` what `entries` change. Those without data are a new leader's first.
    pub fn apply<'a>(
        &self,
        mut batch: Batch<'a>,
        entries: &[&Entry],
    ) -> Result<Batch<'a>, Failure> {
        let mut history = self.history()?;
        for entry in entries.iter().filter(|entry| !entry.data.is_empty()) {
            let (key, value) = parse_put(&entry.data)?;
            batch = batch.put(PAIRS, key, value);
            history = history.extend(entry);
        }
        put_history(batch, history)
    }

    /// The whole state, as a snapshot carries it.
    pub fn to_snapshot(&self) -> Result<Vec<u8>, Failure> {
        let History { puts, checksum } = self.history()?;
        Ok(serde_json::to_vec(&(puts, checksum, self.pairs()?))?)
    }

    /// Adds to `batch` what replaces the whole state by a snapshot's.
    pub fn restore<'a>(&self, mut batch: Batch<'a>, snapshot: &[u8]) -> Result<Batch<'a>, Failure> {
        let (puts, checksum, pairs): (_, _, BTreeMap<String, String>) =
            serde_json::from_slice(snapshot)?;
        for key in self.pairs()?.into_keys() {
            batch = batch.delete(PAIRS, key);
        }
        for (key, value) in pairs {
            batch = batch.put(PAIRS, key, value);
        }
        put_history(batch, History { puts, checksum })
    }

    pub fn pairs(&self) -> Result<BTreeMap<String, String>, Failure> {
        let family = self.family(PAIRS)?;
        let mut pairs = BTreeMap::new();
        for pair in self
            .storage
            .store()
            .database()
            .iterator_cf(family, IteratorMode::Start)
        {
            let (key, value) = pair?;
            pairs.insert(
                String::from_utf8(key.into())?,
                String::from_utf8(value.into())?,
            );
        }
        Ok(pairs)
    }

    pub fn history(&self) -> Result<History, Failure> {
        let database = self.storage.store().database();
        let Some(stored) = database.get_cf(self.family(HISTORY)?, HISTORY_KEY)? else {
            return Ok(History::default());
        };
        let (puts, checksum) = serde_json::from_slice(&stored)?;
        Ok(History { puts, checksum })
    }

    /// Takes a pair away behind raft's back.
    #[cfg(test)]
    pub fn remove(&self, key: &str) -> Result<(), Failure> {
        Ok(self.storage.batch().delete(PAIRS, key).write()?)
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily, Failure> {
        let family = self.storage.store().database().cf_handle(name);
        family.ok_or_else(|| format!("the store has no column family {name}").into())
    }
}

fn put_history(batch: Batch<'_>, history: History) -> Result<Batch<'_>, Failure> {
    let value = serde_json::to_vec(&(history.puts, history.checksum))?;
    Ok(batch.put(HISTORY, HISTORY_KEY, value))
}
