//! The storage of this crate.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, Ready, Storage};
use raft_rocks::testing::conformance::{
    AsyncStoreUnderTest, OnDurable, OnFetched, ReadyWrite, Step, StepError, StoreUnderTest,
};
use raft_rocks::{Options, RaftMachineStorage};
use tempfile::TempDir;

/// Holds up the thread that comes to it.
struct Pause {
    reached: Sender<()>,
    released: Receiver<()>,
}

impl Pause {
    /// The pause, who learns that a thread has come, and who lets it go by being dropped.
    fn new() -> (Self, Receiver<()>, Sender<()>) {
        let (release, released) = mpsc::channel();
        let (reached, at_it) = mpsc::channel();
        (Pause { reached, released }, at_it, release)
    }

    fn wait(self) {
        self.reached.send(()).unwrap_or_default();
        // An error: the sender is gone, which is what this waits for.
        let _ = self.released.recv();
    }
}

/// A store in a directory of its own, with small limits, so that short logs reach both the
/// cache and the disk, and short snapshots both the record and a file.
pub struct Rocks {
    /// Each holds up a thread of the store while it is there.
    held: Vec<Sender<()>>,
    /// Whether RocksDB has been told to let writers wait.
    stopped: bool,
    /// Who is to be held up by what was fetched next.
    next_fetch: Arc<Mutex<Option<Pause>>>,
    /// `None` only while it is closed.
    storage: Option<RaftMachineStorage>,
    /// Whether the database's directory has been moved away.
    broken: bool,
    dir: TempDir,
}

impl Rocks {
    fn open(path: PathBuf) -> raft_rocks::Result<RaftMachineStorage> {
        let mut options = Options::default();
        options.entry_cache_bytes = 16 << 10;
        options.snapshot_inline_bytes_max = 4 << 10;
        // In memory its room costs time.
        options.reserve_bytes = 0;
        RaftMachineStorage::open(path, options)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// With a limit of none, every write of RocksDB waits for a compaction that never comes.
    fn stop_writes(&mut self, stopped: bool) -> Step {
        let limit = if stopped { "0" } else { "36" };
        let database = self.storage().store().database();
        database.set_options(&[("level0_stop_writes_trigger", limit)])?;
        self.stopped = stopped;
        Ok(())
    }

    fn let_go(&mut self) -> Step {
        self.held.clear();
        if self.stopped {
            self.stop_writes(false)?;
        }
        Ok(())
    }

    /// The database's directory, and where it is while the disk is broken.
    fn database(&self) -> [PathBuf; 2] {
        [self.path().join("db"), self.dir.path().join("elsewhere")]
    }
}

impl StoreUnderTest for Rocks {
    type Storage = RaftMachineStorage;

    fn fresh() -> Result<Self, StepError> {
        let dir = crate::scratch::scratch()?;
        let mut rocks = Rocks {
            held: Vec::new(),
            stopped: false,
            next_fetch: Arc::default(),
            storage: None,
            broken: false,
            dir,
        };
        rocks.storage = Some(Rocks::open(rocks.path())?);
        Ok(rocks)
    }

    fn storage(&self) -> &RaftMachineStorage {
        self.storage.as_ref().expect("the store is open")
    }

    fn applied(&self) -> Result<u64, StepError> {
        Ok(self.storage().applied_index())
    }

    fn append(&mut self, entries: &[Entry]) -> Step {
        Ok(self.storage().append(entries)?)
    }

    fn set_hard_state(&mut self, hard_state: &HardState) -> Step {
        Ok(self.storage().set_hard_state(hard_state)?)
    }

    fn set_commit(&mut self, commit: u64) -> Step {
        Ok(self.storage().set_commit(commit)?)
    }

    fn set_conf_state(&mut self, conf_state: &ConfState, applied: u64) -> Step {
        Ok(self.storage().set_conf_state(conf_state, applied)?)
    }

    fn set_applied(&mut self, applied: u64) -> Step {
        Ok(self.storage().set_applied(applied)?)
    }

    fn write(&mut self, write: &ReadyWrite) -> Step {
        let mut batch = self.storage().batch().entries(&write.entries);
        if let Some(snapshot) = &write.snapshot {
            batch = batch.snapshot(snapshot);
        }
        if let Some(hard_state) = &write.hard_state {
            batch = batch.hard_state(hard_state);
        }
        Ok(batch.write()?)
    }

    fn install(&mut self, snapshot: &Snapshot) -> Step {
        Ok(self.storage().apply_snapshot(snapshot)?)
    }

    fn create_snapshot(&mut self, index: u64, conf_state: &ConfState, data: &[u8]) -> Step {
        Ok(self.storage().create_snapshot(index, conf_state, data)?)
    }

    fn compact(&mut self, to: u64) -> Step {
        Ok(self.storage().compact(to)?)
    }

    fn reopen(&mut self) -> Step {
        self.let_go()?;
        // The directory is locked until the old handle is gone.
        self.storage = None;
        if std::mem::take(&mut self.broken) {
            let [database, elsewhere] = self.database();
            std::fs::rename(elsewhere, database)?;
        }
        self.storage = Some(Rocks::open(self.path())?);
        Ok(())
    }
}

impl AsyncStoreUnderTest for Rocks {
    fn submit_ready(&mut self, ready: &mut Ready, on_durable: OnDurable) -> Step {
        let on_durable =
            move |result: raft_rocks::Result<()>| on_durable(result.map_err(Into::into));
        Ok(self.storage().submit_ready(ready, on_durable)?)
    }

    fn persisted_index(&self) -> Result<u64, StepError> {
        Ok(self.storage().persisted_index())
    }

    fn syncs(&self) -> Option<u64> {
        Some(self.storage().store().commit_stats().syncs)
    }

    /// Acknowledgements are given by the thread that syncs: one that does not return holds up
    /// both. What comes behind it waits in front of RocksDB.
    fn hold(&mut self) -> Step {
        let (pause, at_it, release) = Pause::new();
        let batch = self.storage().batch().must_sync(true);
        batch.submit(move |_| pause.wait())?;
        at_it.recv()?;
        self.held.push(release);
        self.stop_writes(true)
    }

    /// One thread fetches, and reports what it has fetched: it is held up in the report of a
    /// read that nobody waits for.
    fn hold_fetches(&mut self) -> Step {
        let (pause, at_it, release) = Pause::new();
        *self.next_fetch.lock().expect("not poisoned") = Some(pause);
        let low = self.storage().first_index();
        let context = GetEntriesContext::empty(true);
        let told = Storage::entries(self.storage(), low, low + 1, None, context);
        if told.is_ok() {
            return Err("the log is not cold".into());
        }
        at_it.recv()?;
        self.held.push(release);
        Ok(())
    }

    fn release(&mut self) -> Step {
        self.let_go()
    }

    /// A memtable that cannot be flushed, because the directory is gone, stops RocksDB for good.
    /// Writes that wait would keep it from trying; they go into a log that is still open.
    fn break_disk(&mut self) -> Step {
        let [database, elsewhere] = self.database();
        if self.stopped {
            self.stop_writes(false)?;
        }
        std::fs::rename(database, elsewhere)?;
        self.broken = true;
        match self.storage().store().database().flush() {
            Err(_) => Ok(()),
            Ok(()) => Err("a memtable was flushed into a directory that is not there".into()),
        }
    }

    /// The cache is filled by what is appended: after opening it is empty.
    fn cool(&mut self) -> Step {
        self.reopen()
    }

    fn set_async_fetch(&mut self, on_fetched: OnFetched) -> Step {
        let next_fetch = Arc::clone(&self.next_fetch);
        let report = move |context| match next_fetch.lock().expect("not poisoned").take() {
            Some(pause) => pause.wait(),
            None => on_fetched(context),
        };
        Ok(self.storage().set_async_fetch(Some(Arc::new(report)))?)
    }
}

impl Drop for Rocks {
    /// The store waits for what is held up when it is closed.
    fn drop(&mut self) {
        // An error: the disk is broken, which ends every wait too.
        let _ = self.let_go();
    }
}
