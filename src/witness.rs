//! The witness: how far the log had been synced, in a file beside the database.
//!
//! The end of a write-ahead log does not say that there was more. So what a completed sync has
//! covered is written down outside of it, before it is acknowledged: a log that holds less has
//! lost acknowledged writes, and damage behind that point is a write that was torn.
//!
//! Invariants:
//! 1. The witness is never ahead of the log: a sequence number is recorded after a sync that
//!    began when it had been written. So its pages may reach the disk at any time.
//! 2. One slot at most is dirty. The other is taken only after a sync of this one, so that a
//!    power cut cannot tear both.
//! 3. Sequence numbers and counters never fall.
//! 4. A file under the final name has at least one whole slot, from its creation on: it is
//!    written under another name, synced and renamed.
//! 5. A failed write or sync is reported by the next [`Witness::record`], before anything that
//!    comes later is acknowledged.
//!
//! Under [`WitnessPolicy::Background`] the file is synced [`SYNC_INTERVAL`] after it was first
//! written to. That thread holds the lock while it syncs, so that once in this time an
//! acknowledgement waits for a second sync; to let it pass by would take a third slot, or
//! acknowledge what a killed process would not have recorded.

pub(crate) mod slot;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::config::WitnessPolicy;
use crate::error::{Error, Result};
use crate::snapshot::sync_dir;
use slot::{FILE_LEN, RECORD_LEN, Record, Slot};

const FILE: &str = "witness";
const TMP_FILE: &str = "witness.tmp";
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What kind of file errors name.
pub(crate) const WHAT: &str = "witness";

/// Where the witness of a store stands.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// What the witness of a store says; `None` when there is no file.
///
/// # Errors
/// [`Error::Corruption`]: neither slot is whole. [`Error::Io`]: it cannot be read.
pub(crate) fn read(dir: &Path) -> Result<Option<(Record, Slot)>> {
    let path = path(dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    match Record::newest(&bytes) {
        Some(newest) => Ok(Some(newest)),
        None => Err(Error::corruption(
            WHAT,
            path.display().to_string(),
            "two slots, one of them whole",
            format!("{} bytes without one", bytes.len()),
        )),
    }
}

/// Makes the file anew, whole or not at all, in place of any that is there.
pub(crate) fn write_new(dir: &Path, store_id: [u8; 16], sequence: u64) -> Result<Record> {
    let record = Record {
        store_id,
        counter: 1,
        sequence,
    };
    let mut bytes = record.encode().to_vec();
    bytes.resize(FILE_LEN, 0);
    let tmp = dir.join(TMP_FILE);
    let written = File::create(&tmp).and_then(|file| {
        file.write_all_at(&bytes, 0)?;
        file.sync_all()
    });
    written.map_err(|e| Error::io("write", &tmp, e))?;
    fs::rename(&tmp, path(dir)).map_err(|e| Error::io("rename", &tmp, e))?;
    sync_dir(dir)?;
    Ok(record)
}

/// The witness of an open store.
pub(crate) struct Witness {
    shared: Arc<Shared>,
    syncer: Option<thread::JoinHandle<()>>,
}

struct Shared {
    file: File,
    path: PathBuf,
    policy: WitnessPolicy,
    state: Mutex<State>,
    /// Dirty, or stopped.
    changed: Condvar,
}

struct State {
    last: Record,
    /// Written to next; the other one is whole and synced.
    slot: Slot,
    dirty: bool,
    syncs: u64,
    /// Of the background thread.
    failure: Option<Error>,
    stopped: bool,
}

impl Witness {
    /// Makes the file of a store that has none, or replaces one that never recorded anything.
    pub(crate) fn create(dir: &Path, store_id: [u8; 16], policy: WitnessPolicy) -> Result<Self> {
        let record = write_new(dir, store_id, 0)?;
        Witness::open(dir, (record, Slot::First), policy)
    }

    /// Goes on from what [`read`] found.
    pub(crate) fn open(
        dir: &Path,
        (last, whole): (Record, Slot),
        policy: WitnessPolicy,
    ) -> Result<Self> {
        let path = path(dir);
        let file = File::options().write(true).open(&path);
        let file = file.map_err(|e| Error::io("open", &path, e))?;
        // A process that was killed may have left it in the page cache alone.
        file.sync_data().map_err(|e| Error::io("sync", &path, e))?;
        Witness::start(Shared {
            file,
            path,
            policy,
            state: Mutex::new(State {
                last,
                slot: whole.other(),
                dirty: false,
                syncs: 0,
                failure: None,
                stopped: false,
            }),
            changed: Condvar::new(),
        })
    }

    fn start(shared: Shared) -> Result<Self> {
        let mut witness = Witness {
            shared: Arc::new(shared),
            syncer: None,
        };
        if witness.shared.policy == WitnessPolicy::Background {
            let shared = Arc::clone(&witness.shared);
            let thread = thread::Builder::new()
                .name("raft-rocks-witness".to_owned())
                .spawn(move || shared.sync_now_and_then());
            let thread =
                thread.map_err(|e| Error::io("start a thread of", Path::new("the witness"), e))?;
            witness.syncer = Some(thread);
        }
        Ok(witness)
    }

    /// Records that a completed sync has covered `sequence`: it was written when that began.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be acknowledged any more.
    pub(crate) fn record(&self, sequence: u64) -> Result<()> {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        // Syncs may end in another order than they began.
        if sequence <= state.last.sequence {
            return Ok(());
        }
        let next = Record {
            counter: state.last.counter + 1,
            sequence,
            ..state.last
        };
        shared.write(&next.encode(), state.slot)?;
        state.last = next;
        let was_dirty = std::mem::replace(&mut state.dirty, true);
        match shared.policy {
            WitnessPolicy::Strict => shared.sync(&mut state),
            WitnessPolicy::Background => {
                if !was_dirty {
                    shared.changed.notify_one();
                }
                Ok(())
            }
        }
    }

    /// What it says.
    pub(crate) fn last(&self) -> Record {
        self.shared.state.lock().last
    }

    /// How often the file has been synced.
    pub(crate) fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// One whose file takes no writes.
    #[cfg(test)]
    pub(crate) fn read_only(dir: &Path, policy: WitnessPolicy) -> Result<Self> {
        let witness = Witness::create(dir, [0; 16], policy)?;
        let path = path(dir);
        let state = State {
            last: witness.shared.state.lock().last,
            slot: Slot::Second,
            dirty: false,
            syncs: 0,
            failure: None,
            stopped: false,
        };
        Witness::start(Shared {
            file: File::open(&path).map_err(|e| Error::io("open", &path, e))?,
            path,
            policy,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.syncer.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the witness panicked");
        }
    }
}

impl Shared {
    fn write(&self, record: &[u8; RECORD_LEN], slot: Slot) -> Result<()> {
        self.file
            .write_all_at(record, slot.place() as u64)
            .map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes the slot durable, and takes the other one from here on.
    fn sync(&self, state: &mut State) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io("sync", &self.path, e))?;
        state.dirty = false;
        state.slot = state.slot.other();
        state.syncs += 1;
        Ok(())
    }

    /// The background thread, until it is stopped.
    fn sync_now_and_then(&self) {
        let mut state = self.state.lock();
        loop {
            while !state.dirty && !state.stopped {
                self.changed.wait(&mut state);
            }
            if !state.stopped {
                // Dirty already: only the stop wakes it.
                let _ = self.changed.wait_for(&mut state, SYNC_INTERVAL);
            }
            if state.dirty
                && let Err(e) = self.sync(&mut state)
            {
                log::error!("{e}");
                state.failure = Some(e);
                return;
            }
            if state.stopped {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [9; 16];

    fn read_slots(dir: &Path) -> Vec<u8> {
        fs::read(path(dir)).unwrap()
    }

    #[test]
    fn what_was_recorded_is_read_again() {
        for policy in [WitnessPolicy::Background, WitnessPolicy::Strict] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(read(dir.path()).unwrap(), None);
            let mut witness = Witness::create(dir.path(), ID, policy).unwrap();
            for life in 1..4 {
                for sequence in [life * 10, life * 10 + 5, life * 10 + 3] {
                    witness.record(sequence).unwrap();
                }
                // Before it is closed, as after a kill.
                let (record, _) = read(dir.path()).unwrap().unwrap();
                assert_eq!((record.store_id, record.sequence), (ID, life * 10 + 5));
                drop(witness);
                let found = read(dir.path()).unwrap().unwrap();
                assert_eq!(found.0, record);
                witness = Witness::open(dir.path(), found, policy).unwrap();
            }
        }
    }

    /// Until it is synced the slot is written again and again, and the other stays as it is.
    #[test]
    fn the_other_slot_is_taken_only_after_a_sync() {
        let dir = tempfile::tempdir().unwrap();
        drop(Witness::create(dir.path(), ID, WitnessPolicy::Strict).unwrap());
        let found = read(dir.path()).unwrap().unwrap();
        // Never synced by itself: no thread is started.
        let witness = Witness {
            shared: Arc::new(Shared {
                file: File::options().write(true).open(path(dir.path())).unwrap(),
                path: path(dir.path()),
                policy: WitnessPolicy::Background,
                state: Mutex::new(State {
                    last: found.0,
                    slot: found.1.other(),
                    dirty: false,
                    syncs: 0,
                    failure: None,
                    stopped: false,
                }),
                changed: Condvar::new(),
            }),
            syncer: None,
        };
        let mut kept = found.1;
        let mut sequence = 0;
        for _ in 0..5 {
            let before = read_slots(dir.path());
            for _ in 0..3 {
                sequence += 1;
                witness.record(sequence).unwrap();
            }
            let after = read_slots(dir.path());
            let of = |bytes: &[u8]| bytes[kept.place()..kept.place() + RECORD_LEN].to_vec();
            assert_eq!(of(&before), of(&after), "the synced slot was written to");
            assert_eq!(read(dir.path()).unwrap().unwrap().1, kept.other());
            witness
                .shared
                .sync(&mut witness.shared.state.lock())
                .unwrap();
            kept = kept.other();
        }
    }

    #[test]
    fn strict_syncs_each_record_once() {
        let dir = tempfile::tempdir().unwrap();
        let strict = Witness::create(dir.path(), ID, WitnessPolicy::Strict).unwrap();
        (1..20).for_each(|sequence| strict.record(sequence).unwrap());
        strict.record(19).unwrap();
        assert_eq!(strict.syncs(), 19);
    }

    #[test]
    fn a_failed_write_is_reported_and_a_failed_background_sync_by_the_next_record() {
        let dir = tempfile::tempdir().unwrap();
        for policy in [WitnessPolicy::Background, WitnessPolicy::Strict] {
            let witness = Witness::read_only(dir.path(), policy).unwrap();
            assert!(matches!(
                witness.record(1),
                Err(Error::Io { op: "write", .. })
            ));
        }
        let witness = Witness::create(dir.path(), ID, WitnessPolicy::Background).unwrap();
        let lost = Error::io("sync", Path::new("witness"), io::Error::other("lost"));
        witness.shared.state.lock().failure = Some(lost);
        assert!(matches!(
            witness.record(1),
            Err(Error::Io { op: "sync", .. })
        ));
    }

    #[test]
    fn a_witness_without_a_whole_slot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), vec![0; FILE_LEN]).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Corruption {
                    what: "witness",
                    ..
                }
            ),
            "{error}"
        );
    }
}
