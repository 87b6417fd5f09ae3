//! Asynchronous reads: entries for a follower that lags behind the cache are fetched beside
//! raft's thread (rule 6 of the contract).
//!
//! Invariants:
//! 1. A context that was told "temporarily unavailable" is reported exactly once, after its
//!    answer is there: the entries, or the knowledge that they must be read in place.
//! 2. An answer is handed out only while its terms are those of the log: a truncation in
//!    between makes it a read in place.
//! 3. A group has at most [`SLOTS_MAX`] fetches, under way and answered together; when all are
//!    under way, a read is made in place.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;
use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use crate::error::{Error, Result};
use crate::raft_log::RaftLog;

/// Fetches that a group keeps: as many followers can lag, each at a place of its own.
const SLOTS_MAX: usize = 16;

/// Something to read.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The thread that fetches, one for all groups of a store. Dropped, it ends the work it has.
pub(crate) struct Fetcher {
    jobs: Sender<Option<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Fetcher {
    pub(crate) fn start() -> Result<Self> {
        let (jobs, work) = mpsc::channel::<Option<Job>>();
        let thread = thread::Builder::new()
            .name("raft-rocks-fetch".to_owned())
            .spawn(move || work.iter().map_while(|job| job).for_each(guarded))
            .map_err(|e| Error::io("start a thread of", Path::new("the fetcher"), e))?;
        Ok(Fetcher {
            jobs,
            thread: Some(thread),
        })
    }

    /// For the fetches of a group.
    pub(crate) fn jobs(&self) -> Sender<Option<Job>> {
        self.jobs.clone()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // The groups hold senders too; this is the last job that is taken.
        let _ = self.jobs.send(None);
        // A notifier may have held the last handle: its own thread ends by itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the fetching thread panicked");
        }
    }
}

/// A panic of one group's notifier is not to end the fetches of all.
fn guarded(job: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        log::error!("an on_fetched callback panicked; its context is lost");
    }
}

/// What is called with the context of a read whose answer has come.
pub(crate) type OnFetched = dyn Fn(GetEntriesContext) + Send + Sync;

/// The fetches of one group.
pub(crate) struct Fetches {
    slots: Mutex<VecDeque<Slot>>,
    jobs: Sender<Option<Job>>,
    on_fetched: Arc<OnFetched>,
}

/// The entries from one index on, asked for by one follower or several.
struct Slot {
    low: u64,
    askers: Vec<Asker>,
    /// Who has been told that the answer is there, and has not come for it.
    takers: usize,
    answer: Answer,
}

enum Answer {
    UnderWay,
    Entries(Vec<Entry>),
    /// Whoever asks learns why by reading.
    ReadInPlace,
}

/// A context, and what tells it from another: its fields are raft-rs's own.
struct Asker {
    context: GetEntriesContext,
    name: String,
}

/// What a read is told.
pub(crate) enum Told {
    Entries(Vec<Entry>),
    /// Later, by the notifier.
    Later,
    /// Read where you are.
    ReadInPlace,
}

impl Fetches {
    pub(crate) fn new(jobs: Sender<Option<Job>>, on_fetched: Arc<OnFetched>) -> Arc<Self> {
        Arc::new(Fetches {
            slots: Mutex::new(VecDeque::new()),
            jobs,
            on_fetched,
        })
    }

    /// The entries in `[low, high)` if they have been fetched; otherwise sees to it that they
    /// will be.
    pub(crate) fn ask(
        self: &Arc<Self>,
        log: &Arc<RaftLog>,
        low: u64,
        high: u64,
        max_size: Option<u64>,
        context: GetEntriesContext,
    ) -> Told {
        let name = format!("{context:?}");
        let mut slots = self.slots.lock();
        if let Some(at) = slots.iter().position(|slot| slot.low == low)
            && let Some(slot) = slots.get_mut(at)
        {
            if matches!(slot.answer, Answer::UnderWay) {
                // Raft asks again at every answer to a heartbeat.
                if slot.askers.iter().all(|asker| asker.name != name) {
                    slot.askers.push(Asker { context, name });
                }
                return Told::Later;
            }
            slot.takers = slot.takers.saturating_sub(1);
            let told = match &slot.answer {
                Answer::Entries(entries) => Told::Entries(entries.clone()),
                _ => Told::ReadInPlace,
            };
            if slot.takers == 0 {
                slots.remove(at);
            }
            return told;
        }
        if slots.len() >= SLOTS_MAX {
            let answered = |slot: &Slot| !matches!(slot.answer, Answer::UnderWay);
            let Some(oldest) = slots.iter().position(answered) else {
                return Told::ReadInPlace;
            };
            slots.remove(oldest);
        }
        slots.push_back(Slot {
            low,
            askers: vec![Asker { context, name }],
            takers: 0,
            answer: Answer::UnderWay,
        });
        drop(slots);
        self.send(Arc::downgrade(log), low, high, max_size);
        Told::Later
    }

    fn send(self: &Arc<Self>, log: Weak<RaftLog>, low: u64, high: u64, max_size: Option<u64>) {
        let fetches = Arc::clone(self);
        let job = move || {
            let fetched = log.upgrade().map(|log| log.fetch(low, high, max_size));
            fetches.answer(low, fetched.and_then(Result::ok));
        };
        if self.jobs.send(Some(Box::new(job))).is_err() {
            // The store is being dropped, and nobody asks any more.
            self.answer(low, None);
        }
    }

    fn answer(&self, low: u64, entries: Option<Vec<Entry>>) {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.iter_mut().find(|slot| slot.low == low) else {
            return;
        };
        slot.answer = entries.map_or(Answer::ReadInPlace, Answer::Entries);
        let askers = std::mem::take(&mut slot.askers);
        slot.takers = askers.len();
        drop(slots);
        for asker in askers {
            guarded(|| (self.on_fetched)(asker.context));
        }
    }
}

impl fmt::Debug for Fetches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetches").finish_non_exhaustive()
    }
}
