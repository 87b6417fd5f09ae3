//! Rows in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_rocks::driver::{Durability, Writes};

use super::rows::{Changes, Frozen, Rows, Visit};

type Map = BTreeMap<Bytes, Bytes>;

/// Rows that are gone with the process: the node restores its last snapshot and applies the log
/// behind it.
#[derive(Clone, Debug, Default)]
pub struct MemoryRows {
    /// The first change after a freeze copies the map, without the bytes.
    map: Arc<Map>,
}

impl MemoryRows {
    fn change(&mut self, changes: Changes) {
        let map = Arc::make_mut(&mut self.map);
        for (row, value) in changes {
            match value {
                Some(value) => map.insert(row.into(), value.into()),
                None => map.remove(&row[..]),
            };
        }
    }
}

impl Frozen for MemoryRows {
    fn scan(&self, low: &[u8], high: &[u8], visit: Visit<'_>) -> io::Result<()> {
        if low >= high {
            return Ok(());
        }
        for (row, value) in self.map.range::<[u8], _>((
            std::ops::Bound::Included(low),
            std::ops::Bound::Excluded(high),
        )) {
            if visit(row, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Rows for MemoryRows {
    fn get(&self, row: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.map.get(row).map(|value| value.to_vec()))
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn stage(&mut self, changes: Changes, _writes: &mut Writes) {
        self.change(changes);
    }

    fn write(&mut self, changes: Changes) -> io::Result<()> {
        self.change(changes);
        Ok(())
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }
}
