//! `raft-engine` as TiKV uses it: all groups hand their appends to one writer thread, which
//! merges whatever is queued into one batch, writes and syncs it, and tells everybody.
//!
//! TiKV's writer may wait 20 us for more when its batch is small; this one does not, as that
//! only helps where syncs are dearer than the wait.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use ::raft_engine::{Engine, LogBatch};
use anyhow::{Context as _, Result, anyhow};
use parking_lot::{Condvar, Mutex};
use raft_rocks::raft::eraftpb::{Entry, HardState};

use super::message::{self, EntryMessage};
use super::{Contender, Done, Setup, raft_engine};

/// `raft-engine` behind its writer.
pub struct RaftEngineWriter {
    engine: Arc<Engine>,
    /// Dropped first, which ends the writer.
    queue: Option<Sender<Task>>,
    writer: Option<JoinHandle<()>>,
    waiters: Vec<Arc<Waiter>>,
}

struct Task {
    group: u64,
    entries: Vec<EntryMessage>,
    hard_state: Option<HardState>,
    done: Reply,
}

/// Who is told that an append is durable.
enum Reply {
    Call(Done),
    Wake(Arc<Waiter>),
}

/// A group's thread that waits for its append.
#[derive(Default)]
struct Waiter {
    outcome: Mutex<Option<Outcome>>,
    ready: Condvar,
}

/// The buffers come back, as they do where nothing is handed over.
struct Outcome {
    result: Result<()>,
    entries: Vec<EntryMessage>,
}

impl RaftEngineWriter {
    /// Opens the engine in `dir` and starts the writer.
    pub fn open(dir: &Path, setup: Setup) -> Result<Self> {
        let engine = Arc::new(raft_engine::open(dir, setup)?);
        let (queue, tasks) = mpsc::channel();
        let written = Arc::clone(&engine);
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(&written, &tasks, setup.synced))?;
        Ok(RaftEngineWriter {
            engine,
            queue: Some(queue),
            writer: Some(writer),
            waiters: (0..setup.groups).map(|_| Arc::default()).collect(),
        })
    }

    fn send(&self, task: Task) -> Result<()> {
        let queue = self.queue.as_ref().context("the writer has ended")?;
        queue
            .send(task)
            .map_err(|_| anyhow!("the writer has ended"))
    }
}

impl Drop for RaftEngineWriter {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            eprintln!("the writer of raft-engine-writer panicked");
        }
    }
}

/// The writer: everything queued goes into one batch and one sync.
fn write_all(engine: &Engine, tasks: &Receiver<Task>, synced: bool) {
    let mut batch = LogBatch::default();
    let mut written = Vec::new();
    while let Ok(first) = tasks.recv() {
        let mut result = Ok(());
        for task in std::iter::once(first).chain(tasks.try_iter()) {
            let hard_state = task.hard_state.as_ref();
            let added = raft_engine::add(&mut batch, task.group, &task.entries, hard_state);
            result = result.and(added);
            written.push(task);
        }
        let result = result.and_then(|()| Ok(engine.write(&mut batch, synced)?));
        let failure = result.err().map(|e| format!("{e:#}"));
        for task in written.drain(..) {
            let result = match &failure {
                None => Ok(()),
                Some(failure) => Err(anyhow!("{failure}")),
            };
            task.done.tell(result, task.entries);
        }
    }
}

impl Reply {
    fn tell(self, result: Result<()>, entries: Vec<EntryMessage>) {
        match self {
            Reply::Call(done) => done(result),
            Reply::Wake(waiter) => {
                *waiter.outcome.lock() = Some(Outcome { result, entries });
                waiter.ready.notify_one();
            }
        }
    }
}

impl Waiter {
    fn wait(&self) -> Outcome {
        let mut outcome = self.outcome.lock();
        loop {
            match outcome.take() {
                Some(outcome) => return outcome,
                None => self.ready.wait(&mut outcome),
            }
        }
    }
}

impl Contender for RaftEngineWriter {
    fn append(
        &self,
        group: u64,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<()> {
        let waiter = self.waiters.get(group as usize).context("no such group")?;
        self.send(Task {
            group,
            entries: message::to_messages(std::mem::take(entries)),
            hard_state: hard_state.cloned(),
            done: Reply::Wake(Arc::clone(waiter)),
        })?;
        let outcome = waiter.wait();
        *entries = message::to_entries(outcome.entries);
        outcome.result
    }

    fn submit(
        &self,
        group: u64,
        entries: Vec<Entry>,
        hard_state: Option<HardState>,
        done: Done,
    ) -> Result<()> {
        let entries = message::to_messages(entries);
        let done = Reply::Call(done);
        self.send(Task {
            group,
            entries,
            hard_state,
            done,
        })
    }

    fn compact(&self, group: u64, first: u64) -> Result<()> {
        self.engine.compact_to(group, first);
        Ok(())
    }

    fn purge(&self) -> Result<()> {
        self.engine.purge_expired_files()?;
        Ok(())
    }

    fn fetch(&self, group: u64, low: u64, high: u64) -> Result<Vec<Entry>> {
        raft_engine::fetch(&self.engine, group, low, high)
    }
}
