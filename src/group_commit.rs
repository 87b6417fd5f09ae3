//! Group commit: the one way of every write of a store, shared by all of its groups.
//!
//! A sync costs the same for one write as for a hundred, and while it lasts the next writes
//! can be encoded and handed to the system. So what all groups have submitted becomes one
//! RocksDB write, and one sync acknowledges everything that was written when it began. The
//! order of things is [`queue`]'s; this module gives it the database and two threads.

pub(crate) mod queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::batch::Sync;
use crate::changes::Batch;
use crate::config::{FsyncPolicy, Options};
use crate::db::Db;
use crate::error::{Error, Result};
use crate::metrics;
use queue::{Backlog, CommitStats, Journal, Limits, OnDone, Queue, Request};

/// What the queue is built on: here the locks of the crate, in the model check of
/// `tests/group_commit_model.rs` those of the checker.
pub(crate) mod sync {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}

/// What is merged into one write. More would hold up the sync that waits for it: a megabyte
/// takes about as long to write as a sync does.
const MERGE_BYTES_MAX: usize = 1 << 20;

/// The committer waits for those it has just acknowledged no longer than this part of a sync,
/// all waits since then together: what is waited for in vain costs that much.
const SYNC_TO_WAIT: u64 = 2;

/// What a queued write costs beyond its changes.
const WRITE_OVERHEAD_BYTES: usize = 256;

/// What a commit has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    /// Its place in the order of all writes; durable once [`GroupCommit::durable`] is there.
    pub ticket: u64,
    /// Whether the write is durable already, and with it every earlier one.
    pub durable: bool,
}

/// The database as the queue drives it, and how long it takes.
struct Log {
    db: Arc<Db>,
    /// Of a sync, in nanoseconds: a moving average.
    sync_nanos: AtomicU64,
    /// Of writing one request, in nanoseconds: a moving average.
    write_nanos: AtomicU64,
    /// When the committer began to wait for company, in nanoseconds since `origin`.
    waits_since: AtomicU64,
    origin: Instant,
}

impl Log {
    fn new(db: Arc<Db>) -> Self {
        Log {
            db,
            sync_nanos: AtomicU64::new(0),
            write_nanos: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
            origin: Instant::now(),
        }
    }

    /// The logger is the application's, and may panic where a failure is told. The thread holds the
    /// role of writing or syncing then: everybody else would wait for it for ever.
    fn guarded(&self, run: impl FnOnce() -> Result<()>) -> Result<()> {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(self.db.panicked()))
    }
}

/// Takes a new value into a moving average of about eight.
fn average(of: &AtomicU64, nanos: u64) {
    let old = of.load(Ordering::Relaxed);
    of.store(old - old / 8 + nanos / 8, Ordering::Relaxed);
}

fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Journal for Log {
    type Changes = Arc<Batch>;
    type Error = Error;

    fn write(&self, changes: Vec<Arc<Batch>>) -> Result<()> {
        self.guarded(|| {
            let start = Instant::now();
            let batches: Vec<&Batch> = changes.iter().map(Arc::as_ref).collect();
            let written = self.db.write(&batches);
            let nanos = nanos_since(start);
            average(&self.write_nanos, nanos / changes.len().max(1) as u64);
            if written.is_ok() {
                metrics::wrote(batches.iter().map(|batch| batch.bytes().len()));
            }
            written
        })
    }

    fn sync(&self) -> Result<()> {
        self.guarded(|| {
            let start = Instant::now();
            let synced = self.db.sync();
            average(&self.sync_nanos, nanos_since(start));
            metrics::synced(start.elapsed());
            synced
        })
    }

    fn refusal(&self) -> Error {
        self.db.poisoned()
    }

    fn outlasts_sync(&self, requests: usize) -> bool {
        let write = self.write_nanos.load(Ordering::Relaxed);
        write.saturating_mul(requests as u64) > self.sync_nanos.load(Ordering::Relaxed)
    }

    fn pause(&self, round: u32) -> bool {
        let now = nanos_since(self.origin);
        if round == 0 {
            self.waits_since.store(now, Ordering::Relaxed);
        }
        thread::yield_now();
        let waited = now - self.waits_since.load(Ordering::Relaxed);
        waited < self.sync_nanos.load(Ordering::Relaxed) / SYNC_TO_WAIT
    }

    fn backlog_is(&self, backlog: Backlog) {
        metrics::queue(backlog.writes, backlog.bytes);
    }

    fn stalled(&self) {
        metrics::stalled();
    }
}

/// The writes of one store. Dropped last of all handles: it answers what is still queued,
/// syncs what is not, and ends its threads.
pub(crate) struct GroupCommit {
    queue: Arc<Queue<Log>>,
    fsync: FsyncPolicy,
    committer: Option<thread::JoinHandle<()>>,
    overlap: Option<thread::JoinHandle<()>>,
    ticker: Option<Ticker>,
}

impl GroupCommit {
    pub(crate) fn start(db: Arc<Db>, options: &Options) -> Result<Self> {
        let limits = Limits {
            bytes_max: options.write_queue_bytes,
            merge_bytes_max: MERGE_BYTES_MAX,
        };
        let queue = Arc::new(Queue::new(Log::new(db), limits));
        let (committers, overlap) = (Arc::clone(&queue), Arc::clone(&queue));
        // From here on `drop` ends what has been started.
        let mut commits = GroupCommit {
            queue,
            fsync: options.fsync,
            committer: None,
            overlap: None,
            ticker: None,
        };
        commits.overlap = Some(spawn("raft-rocks-write", move || overlap.run_overlap())?);
        commits.committer = Some(spawn("raft-rocks-commit", move || {
            if let Err(e) = committers.run_committer() {
                log::error!("the sync at close failed: {e}");
            }
        })?);
        if let FsyncPolicy::Interval(interval) = options.fsync {
            commits.ticker = Some(Ticker::start(&commits.queue, interval)?);
        }
        Ok(commits)
    }

    /// Everything up to this ticket is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.queue.durable()
    }

    /// What has been accepted and not yet acknowledged.
    pub(crate) fn backlog(&self) -> Backlog {
        self.queue.backlog()
    }

    /// What has gone through so far.
    pub(crate) fn stats(&self) -> CommitStats {
        self.queue.stats()
    }

    /// Writes `changes`, all or none of them, and waits until they are acknowledged: durable
    /// when `sync` asks for it.
    ///
    /// # Errors
    /// [`Error::Rocks`]: whether the changes reached the disk is unknown; the store is
    /// poisoned. [`Error::Poisoned`]: an earlier write or sync failed, or one beside it; as
    /// unknown, unless it is refused at once. [`Error::InvalidBatch`]: called from a callback.
    pub(crate) fn commit(&self, changes: Arc<Batch>, sync: Sync) -> Result<Committed> {
        self.check_thread()?;
        let durable = self.needs_sync(sync);
        let ticket = self.queue.commit(request(Some(changes), durable))?;
        Ok(Committed { ticket, durable })
    }

    /// Waits until everything submitted so far is acknowledged, durable when `sync` asks.
    ///
    /// # Errors
    /// As [`GroupCommit::commit`].
    pub(crate) fn barrier(&self, sync: Sync) -> Result<()> {
        self.check_thread()?;
        let durable = self.needs_sync(sync);
        self.queue.commit(request(None, durable)).map(|_| ())
    }

    /// Waits for room for `changes`, which [`Reserved::submit`] then takes; `attended`: and
    /// [`GroupCommit::wait_written`] follows.
    ///
    /// # Errors
    /// [`Error::Poisoned`]: nothing was written, or will be.
    pub(crate) fn reserve(
        &self,
        changes: Option<Arc<Batch>>,
        sync: Sync,
        attended: bool,
    ) -> Result<Reserved<'_>> {
        let mut request = request(changes, self.needs_sync(sync));
        request.attended = attended;
        self.queue.reserve(request.bytes)?;
        Ok(Reserved {
            commits: self,
            request,
        })
    }

    /// Returns when the write of this ticket and all before it are in the log, if not on the
    /// disk. False: the store has failed; the `on_durable` of the write is told how.
    pub(crate) fn wait_written(&self, ticket: u64) -> bool {
        self.queue.wait_written(ticket)
    }

    fn needs_sync(&self, sync: Sync) -> bool {
        match sync {
            Sync::No => false,
            Sync::ByPolicy => self.fsync == FsyncPolicy::Always,
            Sync::Force => true,
        }
    }

    /// Refuses on the thread that acknowledges: it would wait for itself.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`].
    pub(crate) fn check_thread(&self) -> Result<()> {
        if is_current(&self.committer) {
            return Err(Error::invalid_batch(
                "on_durable must not write, nor read what may have to wait for a write: every \
                 acknowledgement waits for it to return; send a message and act on it elsewhere",
            ));
        }
        Ok(())
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        // On the committer's own thread: the ticker may wait for it.
        let is_committer = is_current(&self.committer);
        if let Some(ticker) = self.ticker.take() {
            ticker.stop(!is_committer);
        }
        self.queue.close();
        for thread in [self.overlap.take(), self.committer.take()] {
            // A callback may have held the last handle: its own thread ends by itself.
            if let Some(handle) = thread
                && handle.thread().id() != thread::current().id()
                && handle.join().is_err()
            {
                log::error!("a thread of the group commit panicked");
            }
        }
    }
}

/// Room for one write, about to be submitted.
pub(crate) struct Reserved<'a> {
    commits: &'a GroupCommit,
    request: Request<Log>,
}

impl Reserved<'_> {
    /// Submits the write, and returns its place in the order of all. `on_durable` is told how
    /// it ended, after everything submitted before.
    ///
    /// # Errors
    /// [`Error::Poisoned`]: nothing was written, or will be; `on_durable` is not called and
    /// comes back, to be dropped when no lock is held.
    pub(crate) fn submit(
        self,
        on_durable: impl FnOnce(Result<()>) + Send + 'static,
    ) -> std::result::Result<u64, (Error, OnDone<Error>)> {
        let done = Box::new(move |result| {
            if catch_unwind(AssertUnwindSafe(|| on_durable(result))).is_err() {
                log::error!("an on_durable callback panicked; its acknowledgement is lost");
            }
        });
        self.commits.queue.enqueue(self.request, done)
    }
}

fn request(changes: Option<Arc<Batch>>, sync: bool) -> Request<Log> {
    let bytes = changes.as_ref().map_or(0, |batch| batch.capacity()) + WRITE_OVERHEAD_BYTES;
    Request {
        changes,
        bytes,
        sync,
        attended: false,
    }
}

fn is_current(thread: &Option<thread::JoinHandle<()>>) -> bool {
    let current = thread::current().id();
    thread
        .as_ref()
        .is_some_and(|handle| handle.thread().id() == current)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|e| Error::io("start a thread of", Path::new("the group commit"), e))
}

/// The background thread of [`FsyncPolicy::Interval`].
struct Ticker {
    stop: Arc<(sync::Mutex<bool>, sync::Condvar)>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Ticker {
    fn start(queue: &Arc<Queue<Log>>, interval: Duration) -> Result<Ticker> {
        let stop = Arc::new((sync::Mutex::new(false), sync::Condvar::new()));
        let (theirs, queue) = (Arc::clone(&stop), Arc::downgrade(queue));
        let thread = spawn("raft-rocks-tick", move || {
            sync_every(interval, &theirs, &queue);
        })?;
        Ok(Ticker {
            stop,
            thread: Some(thread),
        })
    }
}

impl Ticker {
    /// Ends the thread, and waits for that unless it is told not to.
    fn stop(mut self, wait: bool) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take().filter(|_| wait)
            && thread.join().is_err()
        {
            log::error!("the ticking thread panicked");
        }
    }
}

fn sync_every(
    interval: Duration,
    stop: &(sync::Mutex<bool>, sync::Condvar),
    queue: &Weak<Queue<Log>>,
) {
    loop {
        let mut stopped = stop.0.lock();
        if !*stopped {
            let _ = stop.1.wait_for(&mut stopped, interval);
        }
        if *stopped {
            return;
        }
        // Whoever stops this thread must not wait for a sync to do so.
        drop(stopped);
        let Some(queue) = queue.upgrade() else { return };
        if queue.is_dirty() && queue.commit(request(None, true)).is_err() {
            // Poisoned: whoever writes next is told.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Event {
        Write(Vec<&'static str>),
        Sync,
    }

    /// Tells of each write and sync when it begins; a write ends when it is let go.
    struct Told {
        events: Sender<Event>,
        go: sync::Mutex<Receiver<()>>,
    }

    impl Journal for Told {
        type Changes = &'static str;
        type Error = Infallible;

        fn write(&self, changes: Vec<&'static str>) -> std::result::Result<(), Infallible> {
            self.events.send(Event::Write(changes)).unwrap();
            self.go.lock().recv().unwrap();
            Ok(())
        }

        fn sync(&self) -> std::result::Result<(), Infallible> {
            // At the end nobody listens any more.
            let _ = self.events.send(Event::Sync);
            Ok(())
        }

        fn refusal(&self) -> Infallible {
            unreachable!("nothing fails")
        }

        fn outlasts_sync(&self, _: usize) -> bool {
            false
        }

        fn pause(&self, _: u32) -> bool {
            false
        }
    }

    fn told(changes: &'static str, sync: bool, attended: bool) -> Request<Told> {
        Request {
            changes: Some(changes),
            bytes: 1,
            sync,
            attended,
        }
    }

    fn enqueue(queue: &Queue<Told>, request: Request<Told>, done: OnDone<Infallible>) -> u64 {
        queue.reserve(1).unwrap();
        let accepted = queue.enqueue(request, done);
        accepted.map_err(|(never, _)| never).unwrap()
    }

    /// A thread that writes this itself, if nobody else does.
    fn attend(queue: &Arc<Queue<Told>>, changes: &'static str) -> thread::JoinHandle<bool> {
        let queue = Arc::clone(queue);
        thread::spawn(move || {
            let ticket = enqueue(&queue, told(changes, false, true), Box::new(drop));
            queue.wait_written(ticket)
        })
    }

    /// What has happened next; with a deadline, for a test that fails.
    fn next(happened: &Receiver<Event>) -> Event {
        let next = happened.recv_timeout(Duration::from_secs(60));
        next.expect("nothing happens")
    }

    /// Those who write themselves left the committer no moment in which nobody wrote, and gave it
    /// more to write before each sync.
    #[test]
    fn a_sync_begins_after_the_write_under_way_though_others_want_to_write() {
        for merge_bytes_max in [1, 100] {
            begins(merge_bytes_max);
        }
    }

    fn begins(merge_bytes_max: usize) {
        let merges = merge_bytes_max > 1;
        let (events, happened) = channel();
        let (let_go, go) = channel();
        let go = sync::Mutex::new(go);
        let limits = Limits {
            bytes_max: 100,
            merge_bytes_max,
        };
        let queue = Arc::new(Queue::new(Told { events, go }, limits));
        let until = |so: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !so() {
                assert!(Instant::now() < deadline, "not in time");
                thread::yield_now();
            }
        };
        let committer = Arc::clone(&queue);
        let committer = thread::spawn(move || committer.run_committer());
        // The committer is held where it acknowledges.
        let (reached, at_it) = channel();
        let (release, released) = channel::<()>();
        let hold = move |_| {
            reached.send(()).unwrap();
            released.recv().unwrap();
        };
        enqueue(&queue, told("held", false, false), Box::new(hold));
        assert_eq!(next(&happened), Event::Write(vec!["held"]));
        let_go.send(()).unwrap();
        at_it.recv().unwrap();
        // Somebody else writes what wants a sync.
        enqueue(&queue, told("synced", true, false), Box::new(drop));
        let mut writers = vec![attend(&queue, "first")];
        let writes = match merges {
            true => vec![vec!["synced", "first"]],
            false => vec![vec!["synced"], vec!["first"]],
        };
        for write in writes {
            assert_eq!(next(&happened), Event::Write(write));
            let_go.send(()).unwrap();
        }
        writers.push(attend(&queue, "second"));
        assert_eq!(next(&happened), Event::Write(vec!["second"]));
        release.send(()).unwrap();
        until(&|| queue.sync_is_due());
        writers.extend((0..4).map(|_| attend(&queue, "later")));
        // They, the second, and the two before it, which the sync is to cover.
        until(&|| queue.backlog().writes == 7);
        let_go.send(()).unwrap();
        if merges {
            // The sync is to cover these, too, since they were there, and no others.
            assert_eq!(next(&happened), Event::Write(vec!["later"; 4]));
            writers.extend((0..2).map(|_| attend(&queue, "latest")));
            until(&|| queue.backlog().writes == 9);
            let_go.send(()).unwrap();
        }
        // A write may begin while it lasts, and is not let go.
        let two = [next(&happened), next(&happened)];
        assert!(two.contains(&Event::Sync), "{two:?}");
        (0..6).for_each(|_| let_go.send(()).unwrap());
        for writer in writers {
            assert!(writer.join().unwrap());
        }
        queue.close();
        committer.join().unwrap().unwrap();
    }
}
