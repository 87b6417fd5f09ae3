//! The order of writes, syncs and acknowledgements; no RocksDB in it, and no threads of its own.
//!
//! Every write of the store takes this way:
//!
//! ```text
//!   submitted -> queued -> written -> synced -> acknowledged
//!                  many become one    all that were
//!                                     written when it began
//! ```
//!
//! Writing and syncing are roles that one thread at a time can hold, each its own. A thread of
//! the store, the committer, takes both in turn, and acknowledges: so those who submit again
//! when they are acknowledged meet in the next batch, instead of falling into two groups that
//! wait for each other's syncs. When what is queued during a sync takes longer to write than a
//! sync lasts, a second thread writes it meanwhile. A blocking caller that finds nothing under
//! way takes both roles itself, without a hand-off. One that wants its write written, and no
//! sync, takes the writing role when nobody has it, also during a sync.
//!
//! Invariants:
//! 1. Tickets are given in the order of submission; writes reach the journal in that order.
//! 2. `durable <= written`: a sync covers what was written before it began, and no more.
//! 3. What needs a sync is acknowledged after one that covers it; what needs none, after
//!    everything submitted before it has been acknowledged, which spares its own sync only
//!    (rule 16 of the contract).
//! 4. Acknowledgements are given in the order of tickets, by one thread (the committer; a
//!    blocking caller that took the roles itself got them because nothing was before it).
//! 5. After a failed write or sync nothing is acknowledged any more: whoever waits, or comes
//!    later, gets an error. The first to fail gets the cause, the others a refusal.
//! 6. Everything accepted is answered exactly once, also when the queue is closed.
//! 7. What is accepted and not yet acknowledged holds no more than `bytes_max` bytes, or is a
//!    single write; submitters wait for room.
//! 8. [`Queue::wait_written`] returns once the write and all before it are in the journal. That
//!    acknowledges nothing: of what came before, the syncs may be under way, or fail.
//! 9. A sync that has had to wait for the end of a write begins after it, or after one more: those
//!    who write themselves let the committer go first, and it takes what is queued once.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

/// What the queue drives: the database, or a model of one.
pub(crate) trait Journal {
    /// The changes of one write.
    type Changes;
    /// Why a write or sync failed.
    type Error;

    /// Writes all of `changes`, in order, as one: all or nothing.
    fn write(&self, changes: Vec<Self::Changes>) -> Result<(), Self::Error>;

    /// Makes everything written before the call durable.
    fn sync(&self) -> Result<(), Self::Error>;

    /// The error of everything after the first failure.
    fn refusal(&self) -> Self::Error;

    /// Whether writing so many requests takes longer than a sync.
    fn outlasts_sync(&self, requests: usize) -> bool;

    /// Gives other threads a moment, the `round`-th in a row; false when more of it costs more
    /// than it saves.
    fn pause(&self, round: u32) -> bool;

    /// What waits now, for whoever observes it; called in the order of the changes.
    fn backlog_is(&self, _backlog: Backlog) {}

    /// A caller has to wait for room.
    fn stalled(&self) {}
}

/// Told once how a write ended.
pub(crate) type OnDone<E> = Box<dyn FnOnce(Result<(), E>) + Send>;

/// A write on its way in.
pub(crate) struct Request<J: Journal> {
    /// `None`: there is nothing to write, only an order to keep, or a sync to wait for.
    pub changes: Option<J::Changes>,
    /// What it holds in memory until it is acknowledged.
    pub bytes: usize,
    /// Whether its acknowledgement has to wait for a sync.
    pub sync: bool,
    /// Whether [`Queue::wait_written`] follows: then nobody else is woken to write it.
    pub attended: bool,
}

/// Bounds of the queue, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// What may be accepted and unacknowledged.
    pub bytes_max: usize,
    /// What is merged into one write, so that a sync need not wait for more.
    pub merge_bytes_max: usize,
}

/// What waits in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// Writes accepted and not yet acknowledged.
    pub writes: usize,
    /// The bytes they hold.
    pub bytes: usize,
}

/// What has gone through the queue since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitStats {
    /// Writes accepted. With `batches`, how many became one.
    pub writes: u64,
    /// Batches written to the log, of one or more writes.
    pub batches: u64,
    /// Of these, how many a blocking caller wrote itself, because nothing was under way.
    pub inline: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// How often a caller had to wait for room: [`Options::write_queue_bytes`] is too small
    /// for the load, or the disk too slow.
    ///
    /// [`Options::write_queue_bytes`]: crate::Options::write_queue_bytes
    pub stalls: u64,
}

/// One is written, one waits for its sync, one is acknowledged.
const SPARE_MAX: usize = 3;
const SPARE_CAPACITY_MAX: usize = 1024;

/// Enough to be worth a write of their own before all are there whom the committer waits for.
const WRITES_AT_ONCE_MIN: usize = 16;

pub(crate) struct Queue<J: Journal> {
    journal: J,
    limits: Limits,
    state: Mutex<State<J>>,
    to_commit: Condvar,
    to_overlap: Condvar,
    /// A write has ended.
    wrote: Condvar,
    room: Condvar,
    /// The last ticket given: to be watched without the lock.
    submitted: AtomicU64,
    /// Everything up to this ticket has been written.
    written: AtomicU64,
    /// Everything up to this ticket is durable.
    durable: AtomicU64,
}

struct State<J: Journal> {
    queued: VecDeque<Accepted<J>>,
    /// Written, in the order of tickets, and not yet acknowledged.
    unacknowledged: VecDeque<Accepted<J>>,
    /// Empty, with room for what comes next: growing one for each batch would cost more than
    /// to fill it.
    spare: Vec<VecDeque<Accepted<J>>>,
    queued_bytes: usize,
    /// Written since the last sync began, by the committer.
    unsynced_bytes: usize,
    /// Pauses since the committer has acknowledged at last.
    rounds: u32,
    /// Whether the committer waits for the end of a write to begin a sync.
    sync_is_due: bool,
    /// Whether a blocking caller writes and syncs itself.
    inline: bool,
    /// The ticket that is reached when as many have submitted as the committer has acknowledged
    /// at last: they come back, in all likelihood.
    company_at: u64,
    /// Of everything accepted, and of room given to submitters that are about to enqueue.
    backlog: Backlog,
    last_ticket: u64,
    writing: bool,
    syncing: bool,
    acknowledging: bool,
    failed: bool,
    closed: bool,
    stats: CommitStats,
}

struct Accepted<J: Journal> {
    ticket: u64,
    request: Request<J>,
    done: OnDone<J::Error>,
    /// Of the first request of a write that failed. Boxed: most have none, and move.
    cause: Option<Box<J::Error>>,
}

impl<J: Journal> State<J> {
    fn new() -> Self {
        State {
            queued: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            spare: Vec::new(),
            queued_bytes: 0,
            unsynced_bytes: 0,
            rounds: 0,
            sync_is_due: false,
            inline: false,
            company_at: 0,
            backlog: Backlog::default(),
            last_ticket: 0,
            writing: false,
            syncing: false,
            acknowledging: false,
            failed: false,
            closed: false,
            stats: CommitStats::default(),
        }
    }

    /// Whether nothing is under way beside what is queued.
    fn is_quiet(&self) -> bool {
        !self.writing && !self.syncing && !self.acknowledging && self.unacknowledged.is_empty()
    }

    fn can_write(&self) -> bool {
        !self.queued.is_empty() && !self.writing && !self.failed
    }

    /// The next requests that fit into one write; at least one.
    fn take_batch(&mut self, bytes_max: usize) -> VecDeque<Accepted<J>> {
        let mut batch = self.spare.pop().unwrap_or_default();
        if self.queued_bytes <= bytes_max {
            self.queued_bytes = 0;
            std::mem::swap(&mut batch, &mut self.queued);
            return batch;
        }
        let mut bytes = 0;
        while let Some(next) = self.queued.front() {
            bytes += next.request.bytes;
            if bytes > bytes_max && !batch.is_empty() {
                break;
            }
            self.queued_bytes -= next.request.bytes;
            batch.extend(self.queued.pop_front());
        }
        batch
    }

    /// What can be acknowledged now, in order; after a failure everything, once no write is
    /// under way whose requests come between.
    fn take_answered(&mut self, durable: u64) -> VecDeque<Accepted<J>> {
        if self.failed {
            if self.writing {
                return VecDeque::new();
            }
            let mut queued = std::mem::take(&mut self.queued);
            self.queued_bytes = 0;
            self.unacknowledged.append(&mut queued);
            return std::mem::take(&mut self.unacknowledged);
        }
        if self.inline {
            // It is before all of them.
            return VecDeque::new();
        }
        let answered =
            |accepted: &Accepted<J>| !accepted.request.sync || accepted.ticket <= durable;
        let waiting = |accepted: &Accepted<J>| !answered(accepted);
        match self.unacknowledged.iter().position(waiting) {
            Some(0) => VecDeque::new(),
            Some(count) => self.unacknowledged.drain(..count).collect(),
            None => {
                let empty = self.spare.pop().unwrap_or_default();
                std::mem::replace(&mut self.unacknowledged, empty)
            }
        }
    }

    /// Keeps what an emptied queue has allocated, unless it is much.
    fn keep(&mut self, emptied: VecDeque<Accepted<J>>) {
        if self.spare.len() < SPARE_MAX && emptied.capacity() <= SPARE_CAPACITY_MAX {
            self.spare.push(emptied);
        }
    }

    fn wants_sync(&self, durable: u64) -> bool {
        let waits = |accepted: &Accepted<J>| accepted.request.sync && accepted.ticket > durable;
        !self.syncing && !self.failed && self.unacknowledged.iter().any(waits)
    }
}

impl<J: Journal> Queue<J> {
    pub(crate) fn new(journal: J, limits: Limits) -> Self {
        Queue {
            journal,
            limits,
            state: Mutex::new(State::new()),
            to_commit: Condvar::new(),
            to_overlap: Condvar::new(),
            wrote: Condvar::new(),
            room: Condvar::new(),
            submitted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        }
    }

    /// Everything up to this ticket is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Whether something has been written that no sync has covered.
    pub(crate) fn is_dirty(&self) -> bool {
        self.written.load(Ordering::Acquire) > self.durable()
    }

    pub(crate) fn backlog(&self) -> Backlog {
        self.state.lock().backlog
    }

    pub(crate) fn stats(&self) -> CommitStats {
        self.state.lock().stats
    }

    /// Whether a sync waits for the end of a write.
    #[cfg(test)]
    pub(crate) fn sync_is_due(&self) -> bool {
        self.state.lock().sync_is_due
    }

    /// Writes and, if asked, syncs; returns the ticket when it is acknowledged. Inline when
    /// nothing is under way.
    pub(crate) fn commit(&self, request: Request<J>) -> Result<u64, J::Error>
    where
        J::Error: Send + 'static,
    {
        let state = self.state.lock();
        self.check(&state)?;
        if state.is_quiet() && state.queued.is_empty() {
            return self.commit_inline(state, request);
        }
        let mut state = self.wait_for_room(state, request.bytes)?;
        let answer = Arc::new(Answer::new());
        let theirs = Arc::clone(&answer);
        let done = Box::new(move |result| theirs.set(result));
        let ticket = self.push(&mut state, request, done);
        drop(state);
        answer.wait().map(|()| ticket)
    }

    /// Waits until `bytes` more fit and takes the room for them: [`Queue::enqueue`] follows.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), J::Error> {
        let state = self.state.lock();
        self.check(&state)?;
        drop(self.wait_for_room(state, bytes)?);
        Ok(())
    }

    /// Accepts a write that room has been reserved for; `done` is told of its end, in the
    /// order of tickets. A refusal gives it back: what it does when it is dropped may need what
    /// the caller holds.
    pub(crate) fn enqueue(
        &self,
        request: Request<J>,
        done: OnDone<J::Error>,
    ) -> Result<u64, (J::Error, OnDone<J::Error>)> {
        let mut state = self.state.lock();
        if let Err(refusal) = self.check(&state) {
            state.backlog.bytes -= request.bytes;
            return Err((refusal, done));
        }
        Ok(self.push(&mut state, request, done))
    }

    /// Returns when the write of this ticket and all before it are in the journal, which the
    /// caller sees to itself when nobody is at it. False: the store has failed, and the
    /// acknowledgement tells how.
    pub(crate) fn wait_written(&self, ticket: u64) -> bool {
        let mut state = self.state.lock();
        while !state.failed && self.written.load(Ordering::Acquire) < ticket {
            if state.can_write() && !state.sync_is_due {
                state = self.write_queued(state);
            } else {
                self.wrote.wait(&mut state);
            }
        }
        !state.failed
    }

    fn next_ticket(&self, state: &mut State<J>) -> u64 {
        state.last_ticket += 1;
        state.stats.writes += 1;
        self.submitted.store(state.last_ticket, Ordering::Release);
        state.last_ticket
    }

    /// Queues a request that room has been taken for.
    fn push(&self, state: &mut State<J>, request: Request<J>, done: OnDone<J::Error>) -> u64 {
        let ticket = self.next_ticket(state);
        let attended = request.attended;
        state.backlog.writes += 1;
        state.queued_bytes += request.bytes;
        state.queued.push_back(Accepted {
            ticket,
            request,
            done,
            cause: None,
        });
        self.journal.backlog_is(state.backlog);
        if attended {
            // Not one of those who come back because they have been acknowledged.
            state.company_at += u64::from(state.company_at >= ticket);
        } else {
            self.wake(state);
        }
        ticket
    }

    /// Lets the two threads end once everything accepted has been answered.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.to_overlap.notify_all();
        self.to_commit.notify_all();
    }

    /// The committer's thread, until the queue is closed and everything answered.
    ///
    /// # Errors
    /// Of the last sync, which covers what nobody asked to have synced.
    pub(crate) fn run_committer(&self) -> Result<(), J::Error> {
        let mut state = self.state.lock();
        // How many writes may come before a sync that is due; none is while it is `None`.
        let mut before_sync = None;
        loop {
            if std::mem::take(&mut state.sync_is_due) {
                before_sync = before_sync.or(Some(1));
                self.wrote.notify_all();
            }
            let answered = state.take_answered(self.durable());
            if !answered.is_empty() {
                state = self.acknowledge(state, answered);
            } else if self.has_work(&state) && !self.is_company_complete(&state) {
                state = self.gather(state);
            } else if self.may_write(&state) && before_sync != Some(0) {
                before_sync = before_sync.map(|writes: u32| writes - 1);
                state = self.write_queued(state);
            } else if self.may_sync(&state) {
                before_sync = None;
                state = self.sync_written(state);
            } else if state.closed && state.queued.is_empty() && state.is_quiet() {
                break;
            } else {
                state.sync_is_due = state.writing && state.wants_sync(self.durable());
                self.to_commit.wait(&mut state);
            }
        }
        if state.failed || !self.is_dirty() {
            return Ok(());
        }
        drop(state);
        self.journal.sync()
    }

    /// The thread that writes beside a sync, until the queue is closed.
    pub(crate) fn run_overlap(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            if self.overlaps(&state) {
                state = self.write_queued(state);
            } else {
                self.to_overlap.wait(&mut state);
            }
        }
    }

    /// Whether the committer may write; while there is something to sync, no more than fits
    /// into one write.
    fn may_write(&self, state: &State<J>) -> bool {
        let full = state.unsynced_bytes >= self.limits.merge_bytes_max;
        state.can_write() && !state.syncing && !(full && state.wants_sync(self.durable()))
    }

    fn may_sync(&self, state: &State<J>) -> bool {
        state.wants_sync(self.durable()) && !state.writing
    }

    fn has_work(&self, state: &State<J>) -> bool {
        self.may_write(state) || self.may_sync(state)
    }

    fn overlaps(&self, state: &State<J>) -> bool {
        state.syncing && state.can_write() && self.journal.outlasts_sync(state.queued.len())
    }

    /// Whether those who were acknowledged at last have submitted again, or enough of them to
    /// begin to write.
    fn is_company_complete(&self, state: &State<J>) -> bool {
        if state.last_ticket >= state.company_at || state.failed || state.closed {
            return true;
        }
        let enough = state.queued.len() >= WRITES_AT_ONCE_MIN && self.may_write(state);
        let full = state.unsynced_bytes >= self.limits.merge_bytes_max;
        // Without a sync there is nothing to share.
        let mut waiting = state.unacknowledged.iter().chain(&state.queued);
        enough || full || !waiting.any(|accepted| accepted.request.sync)
    }

    /// Waits a moment for those who were acknowledged at last: a sync that begins without them
    /// makes them wait for two.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State<J>>) -> MutexGuard<'a, State<J>> {
        let missing = WRITES_AT_ONCE_MIN.saturating_sub(state.queued.len()).max(1);
        let enough = state.company_at.min(state.last_ticket + missing as u64);
        let mut rounds = state.rounds;
        drop(state);
        let mut patient = true;
        // Without the lock, which those who are waited for need.
        while patient && self.submitted.load(Ordering::Acquire) < enough {
            patient = self.journal.pause(rounds);
            rounds += 1;
        }
        state = self.state.lock();
        state.rounds = rounds;
        if !patient {
            // Whoever has not come by now is not waited for.
            state.company_at = 0;
        }
        state
    }

    fn check(&self, state: &State<J>) -> Result<(), J::Error> {
        if state.failed {
            Err(self.journal.refusal())
        } else {
            Ok(())
        }
    }

    fn wait_for_room<'a>(
        &self,
        mut state: MutexGuard<'a, State<J>>,
        bytes: usize,
    ) -> Result<MutexGuard<'a, State<J>>, J::Error> {
        let fits = |backlog: Backlog| {
            backlog.bytes == 0 || backlog.bytes.saturating_add(bytes) <= self.limits.bytes_max
        };
        if !fits(state.backlog) {
            state.stats.stalls += 1;
            self.journal.stalled();
        }
        while !fits(state.backlog) && !state.failed {
            self.room.wait(&mut state);
        }
        self.check(&state)?;
        state.backlog.bytes += bytes;
        Ok(state)
    }

    /// Sees to it that somebody takes what is there to be done. Only then: a wake-up costs
    /// more than a write.
    fn wake(&self, state: &State<J>) {
        let answers = !state.unacknowledged.is_empty() || (state.failed && !state.writing);
        let writes = state.can_write() && !state.syncing;
        if answers || writes || state.closed {
            self.to_commit.notify_one();
        }
        if self.overlaps(state) {
            self.to_overlap.notify_one();
        }
    }

    /// Both roles in the caller's own thread; nothing is before this write.
    fn commit_inline(
        &self,
        mut state: MutexGuard<'_, State<J>>,
        request: Request<J>,
    ) -> Result<u64, J::Error> {
        let ticket = self.next_ticket(&mut state);
        state.writing = true;
        state.inline = true;
        state.stats.inline += 1;
        drop(state);
        let written = match request.changes {
            Some(changes) => self.journal.write(vec![changes]),
            None => Ok(()),
        };
        let mut state = self.state.lock();
        state.writing = false;
        if written.is_err() || !request.sync {
            state.inline = false;
        }
        self.end_write(&mut state, ticket, written)?;
        if !request.sync {
            return Ok(ticket);
        }
        state.syncing = true;
        drop(state);
        let synced = self.journal.sync();
        let mut state = self.state.lock();
        state.inline = false;
        self.end_sync(&mut state, ticket, synced)?;
        self.check(&state)?;
        Ok(ticket)
    }

    /// Writes the next requests as one, then leaves them to the committer.
    fn write_queued<'a>(&'a self, mut state: MutexGuard<'a, State<J>>) -> MutexGuard<'a, State<J>> {
        let mut batch = state.take_batch(self.limits.merge_bytes_max);
        state.writing = true;
        drop(state);
        let changes: Vec<_> = batch
            .iter_mut()
            .filter_map(|accepted| accepted.request.changes.take())
            .collect();
        let written = if changes.is_empty() {
            Ok(())
        } else {
            self.journal.write(changes)
        };
        let ticket = batch.back().map_or(0, |last| last.ticket);
        let bytes = batch.iter().map(|a| a.request.bytes).sum::<usize>();
        let mut state = self.state.lock();
        state.writing = false;
        if let Err(cause) = self.end_write(&mut state, ticket, written)
            && let Some(first) = batch.front_mut()
        {
            first.cause = Some(Box::new(cause));
        }
        state.unacknowledged.append(&mut batch);
        state.keep(batch);
        state.unsynced_bytes += bytes;
        self.wake(&state);
        state
    }

    /// Syncs everything that is written by now.
    fn sync_written<'a>(&'a self, mut state: MutexGuard<'a, State<J>>) -> MutexGuard<'a, State<J>> {
        state.syncing = true;
        state.unsynced_bytes = 0;
        let covered = self.written.load(Ordering::Acquire);
        drop(state);
        let synced = self.journal.sync();
        let mut state = self.state.lock();
        if let Err(cause) = self.end_sync(&mut state, covered, synced)
            && let Some(first) = state.unacknowledged.front_mut()
        {
            first.cause = Some(Box::new(cause));
        }
        state
    }

    fn end_write(
        &self,
        state: &mut State<J>,
        ticket: u64,
        written: Result<(), J::Error>,
    ) -> Result<(), J::Error> {
        state.stats.batches += 1;
        match written {
            Ok(()) => {
                self.written.store(ticket, Ordering::Release);
                self.wrote.notify_all();
                self.wake(state);
            }
            Err(_) => self.fail(state),
        }
        written
    }

    fn end_sync(
        &self,
        state: &mut State<J>,
        covered: u64,
        synced: Result<(), J::Error>,
    ) -> Result<(), J::Error> {
        state.syncing = false;
        state.stats.syncs += 1;
        match synced {
            Ok(()) => {
                self.durable.fetch_max(covered, Ordering::AcqRel);
                self.wake(state);
            }
            Err(_) => self.fail(state),
        }
        synced
    }

    /// From here on everything is refused; the committer tells everyone who waits.
    fn fail(&self, state: &mut State<J>) {
        state.failed = true;
        self.wake(state);
        self.room.notify_all();
        self.wrote.notify_all();
    }

    fn acknowledge<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<J>>,
        mut answered: VecDeque<Accepted<J>>,
    ) -> MutexGuard<'a, State<J>> {
        let failed = state.failed;
        state.acknowledging = true;
        let back = answered.iter().filter(|a| !a.request.attended).count();
        if back > 0 {
            state.company_at = state.last_ticket + back as u64;
            state.rounds = 0;
        }
        state.backlog.writes -= answered.len();
        state.backlog.bytes -= answered.iter().map(|a| a.request.bytes).sum::<usize>();
        self.journal.backlog_is(state.backlog);
        self.room.notify_all();
        drop(state);
        for accepted in answered.drain(..) {
            (accepted.done)(match accepted.cause {
                Some(cause) => Err(*cause),
                None if failed => Err(self.journal.refusal()),
                None => Ok(()),
            });
        }
        let mut state = self.state.lock();
        state.acknowledging = false;
        state.keep(answered);
        state
    }
}

/// Where a blocking caller waits for its acknowledgement.
struct Answer<E> {
    result: Mutex<Option<Result<(), E>>>,
    given: Condvar,
}

impl<E> Answer<E> {
    fn new() -> Self {
        Answer {
            result: Mutex::new(None),
            given: Condvar::new(),
        }
    }

    fn set(&self, result: Result<(), E>) {
        *self.result.lock() = Some(result);
        self.given.notify_one();
    }

    fn wait(&self) -> Result<(), E> {
        let mut result = self.result.lock();
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            self.given.wait(&mut result);
        }
    }
}
