//! The thread of the state machine: what is committed, restorations, queries; and the thread
//! beside it that writes snapshots.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use raft::GetEntriesContext;

use super::applier::{Applier, Change, Committed, SnapshotJob};
use super::apply_queue::{ApplyQueue, Task};
use super::error::{Error, Result};
use super::identity;
use super::log_store::LogStore;
use super::mailbox::Event;
use super::shared::Shared;
use super::state_machine::StateMachine;

/// Bytes of entries read from the log at once.
pub(crate) const REREAD_BYTES: u64 = 4 << 20;

/// For the thread that writes snapshots.
pub(crate) enum Job {
    Snapshot(SnapshotJob),
    /// Remove the entries before this one.
    Compact(u64),
    /// Note down that this node is no longer a member.
    Removed,
}

pub(crate) struct ApplyThread<S: LogStore, M: StateMachine> {
    pub store: S,
    pub applier: Applier<S, M>,
    pub queue: Arc<ApplyQueue<M>>,
    pub shared: Arc<Shared>,
    pub jobs: mpsc::Sender<Job>,
    /// A snapshot is being written.
    pub snapshotting: Arc<AtomicBool>,
}

impl<S: LogStore, M: StateMachine> ApplyThread<S, M> {
    /// Runs until the queue is closed.
    ///
    /// # Errors
    /// The node must stop.
    pub(crate) fn run(&mut self) -> Result<()> {
        while let Some(task) = self.queue.next() {
            match task {
                Task::Apply(committed) => self.apply(&committed)?,
                Task::Reread { low, high, changes } => self.reread(low, high, changes)?,
                Task::Restore => self.restore()?,
                Task::Query(query, permit) => {
                    query(self.applier.machine());
                    drop(permit);
                }
                Task::Snapshot => self.snapshot(),
            }
        }
        Ok(())
    }

    fn apply(&mut self, committed: &Committed) -> Result<()> {
        let applied = self.applier.apply(committed)?;
        self.tell(Event::Applied(applied));
        let (entries, bytes) = self.applier.since_snapshot();
        let compaction = &self.shared.options.compaction;
        if entries >= compaction.every_entries || bytes >= compaction.every_bytes {
            self.snapshot();
        }
        Ok(())
    }

    fn reread(&mut self, mut low: u64, high: u64, mut changes: Vec<Change>) -> Result<()> {
        while low < high && !self.applier.is_overtaken() {
            let context = GetEntriesContext::empty(false);
            let read = self.store.entries(low, high, REREAD_BYTES, context);
            if self.store.first_index()? > low {
                self.applier.overtake();
                return Ok(());
            }
            let entries = read?;
            let Some(last) = entries.last() else {
                let found = format!("no entry {low}");
                return Err(Error::format("what is to be applied", found));
            };
            low = last.index + 1;
            let later = changes.split_off(changes.partition_point(|change| change.index < low));
            let changes = std::mem::replace(&mut changes, later);
            self.apply(&Committed { entries, changes })?;
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        self.applier.restore()?;
        self.tell(Event::Restored(self.applier.applied()));
        Ok(())
    }

    /// Freezes the state, to be written beside. Where one is being written already it does
    /// nothing: who wants another will say so again.
    fn snapshot(&mut self) {
        if self.snapshotting.swap(true, Ordering::AcqRel) {
            return;
        }
        if !self.start_snapshot() {
            self.snapshotting.store(false, Ordering::Release);
            self.tell(Event::Snapshotted(None));
        }
    }

    fn start_snapshot(&mut self) -> bool {
        match self.applier.snapshot() {
            Ok(Some(job)) => self.jobs.send(Job::Snapshot(job)).is_ok(),
            Ok(None) => false,
            Err(e) => {
                log::warn!("no snapshot can be made now: {e}");
                false
            }
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens when the node has stopped.
        self.shared.mailbox.tell(event);
    }
}

/// Writes snapshots and compacts the log, until nobody asks any more.
pub(crate) fn run_jobs<S: LogStore>(
    store: &S,
    jobs: &mpsc::Receiver<Job>,
    shared: &Shared,
    snapshotting: &AtomicBool,
) -> Result<()> {
    for job in jobs {
        match job {
            Job::Compact(to) => match store.compact(to) {
                Err(e) if e.is_fatal() => return Err(e.into()),
                Err(e) => log::warn!("the log was not compacted to {to}: {e}"),
                Ok(()) => {}
            },
            Job::Removed => identity::note_removed(store)?,
            Job::Snapshot(job) => {
                let index = job.index();
                let made = job.run(store);
                snapshotting.store(false, Ordering::Release);
                if let Err(e) = &made {
                    log::warn!("the snapshot at {index} was not made: {e}");
                }
                let made = made.ok().map(|()| index);
                shared.mailbox.tell(Event::Snapshotted(made));
            }
        }
    }
    Ok(())
}
