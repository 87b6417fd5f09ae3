//! Rows in a column family of the store that holds the node's log.

use std::io;

use raft_rocks::RaftMachineStorage;
use raft_rocks::driver::{Durability, Writes};
use raft_rocks::rocksdb::{ColumnFamily, DB, Direction, IteratorMode, ReadOptions, Snapshot};
use self_cell::self_cell;

use super::rows::{Changes, FAMILY, Frozen, Rows, Visit};

/// Rows that are written in one batch with the applied index.
pub struct RocksRows {
    storage: RaftMachineStorage,
}

impl RocksRows {
    /// The rows of this store, one of whose column families is [`FAMILY`].
    ///
    /// # Errors
    /// The store has no such column family.
    pub fn new(storage: RaftMachineStorage) -> io::Result<Self> {
        family(storage.store().database())?;
        Ok(RocksRows { storage })
    }
}

self_cell!(
    struct Pinned {
        owner: RaftMachineStorage,
        #[covariant]
        dependent: Snapshot,
    }
);

impl Frozen for RocksRows {
    fn scan(&self, low: &[u8], high: &[u8], visit: Visit<'_>) -> io::Result<()> {
        scan(
            self.storage.store().database(),
            ReadOptions::default(),
            low,
            high,
            visit,
        )
    }
}

impl Rows for RocksRows {
    fn get(&self, row: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let database = self.storage.store().database();
        let value = database.get_cf(family(database)?, row);
        value.map_err(io::Error::other)
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(Pinned::new(self.storage.clone(), |storage| {
            storage.store().database().snapshot()
        }))
    }

    fn stage(&mut self, changes: Changes, writes: &mut Writes) {
        for (row, value) in changes {
            match value {
                Some(value) => writes.put(FAMILY, row, value),
                None => writes.delete(FAMILY, row),
            }
        }
    }

    fn write(&mut self, changes: Changes) -> io::Result<()> {
        let batch =
            changes
                .into_iter()
                .fold(self.storage.batch(), |batch, (row, value)| match value {
                    Some(value) => batch.put(FAMILY, row, value),
                    None => batch.delete(FAMILY, row),
                });
        batch.write().map_err(io::Error::other)
    }

    fn durability(&self) -> Durability {
        Durability::Shared
    }
}

impl Frozen for Pinned {
    fn scan(&self, low: &[u8], high: &[u8], visit: Visit<'_>) -> io::Result<()> {
        let mut options = ReadOptions::default();
        options.set_snapshot(self.borrow_dependent());
        // What everybody reads stays in the cache.
        options.fill_cache(false);
        let database = self.borrow_owner().store().database();
        scan(database, options, low, high, visit)
    }
}

fn scan(
    database: &DB,
    mut options: ReadOptions,
    low: &[u8],
    high: &[u8],
    visit: Visit<'_>,
) -> io::Result<()> {
    if low >= high {
        return Ok(());
    }
    options.set_iterate_upper_bound(high);
    let from = IteratorMode::From(low, Direction::Forward);
    for row in database.iterator_cf_opt(family(database)?, options, from) {
        let (row, value) = row.map_err(io::Error::other)?;
        if visit(&row, &value)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn family(database: &DB) -> io::Result<&ColumnFamily> {
    let missing = || {
        let problem = format!("the store has no column family {FAMILY}; open it with one");
        io::Error::new(io::ErrorKind::NotFound, problem)
    };
    database.cf_handle(FAMILY).ok_or_else(missing)
}
