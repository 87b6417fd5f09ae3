//! What clients asked and saw.
//!
//! Invariants:
//! 1. An operation is written down once, when its client knows how it ended. Clients are asked to
//!    end, never aborted: an operation that was sent is always in the history.
//! 2. What nobody knows the outcome of stays open: it may take effect at any later time, or never.
//!    What has certainly not happened is left out. Whoever mistakes the second for the first hides
//!    a lost write, and the other way round finds one that is none.
//! 3. Times are those of one clock, in this process, that the faults do not touch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use raft_rocks::testing::linearizability::{Operation, Step};

/// What a key holds; nothing before it was written.
pub type State = Option<Arc<str>>;

/// What was done to a key, and seen; `None` where the answer never came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// SET.
    Set(Arc<str>),
    /// GET.
    Get(State),
    /// INCR, and the sum.
    Increment(Option<i64>),
    /// APPEND, and the new length.
    Append(Arc<str>, Option<i64>),
    /// DEL, and how many there were.
    Delete(Option<i64>),
}

impl Step for Action {
    type State = State;

    fn step(&self, state: &State) -> Option<State> {
        let held = state.as_deref();
        match self {
            Action::Set(value) => Some(Some(Arc::clone(value))),
            Action::Get(seen) => (seen == state).then(|| state.clone()),
            Action::Increment(seen) => {
                let sum = held.map_or(Some(0), |text| text.parse::<i64>().ok())? + 1;
                let fits = seen.is_none_or(|seen| seen == sum);
                fits.then(|| Some(sum.to_string().into()))
            }
            Action::Append(token, seen) => {
                let value = format!("{}{token}", held.unwrap_or_default());
                let len = i64::try_from(value.len()).ok()?;
                let fits = seen.is_none_or(|seen| seen == len);
                fits.then(|| Some(value.into()))
            }
            Action::Delete(seen) => {
                let fits = seen.is_none_or(|seen| seen == i64::from(state.is_some()));
                fits.then_some(None)
            }
        }
    }
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done, and this is what was seen.
    Done(Action),
    /// It may have been done, or may yet be.
    Unknown(Action),
    /// It was not done and will not be.
    Nothing,
}

/// What has been counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Operations that were acknowledged.
    pub acknowledged: u64,
    /// Of which nobody knows.
    pub unknown: u64,
    /// That certainly did not happen.
    pub nothing: u64,
    /// What was answered instead, and how often.
    pub errors: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Written {
    operations: Vec<Operation<Action>>,
    counts: Counts,
    last_acknowledged: u64,
    longest_gap: u64,
    puts: Vec<(String, String)>,
}

/// Takes down a history.
pub struct Recorder {
    begun: Instant,
    asked: AtomicU64,
    acknowledged: AtomicU64,
    written: Mutex<Written>,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            begun: Instant::now(),
            asked: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            written: Mutex::default(),
        }
    }
}

impl Recorder {
    /// The time now.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// An operation is about to be asked for; how many were before.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }

    /// How many operations have been asked for.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// How an operation on `key`, asked for at `invoked`, has ended just now.
    pub fn ended(&self, key: u64, invoked: u64, outcome: Outcome) {
        let now = self.now();
        let mut written = self.written.lock();
        match outcome {
            Outcome::Nothing => written.counts.nothing += 1,
            // A read that nobody saw says nothing.
            Outcome::Unknown(Action::Get(_)) => written.counts.unknown += 1,
            Outcome::Unknown(action) => {
                written.counts.unknown += 1;
                written.write(key, action, invoked, None);
            }
            Outcome::Done(action) => {
                written.acknowledge(now);
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                written.write(key, action, invoked, Some(now));
            }
        }
    }

    /// A key that is written once has been acknowledged just now.
    pub fn put(&self, key: String, value: String) {
        let now = self.now();
        let mut written = self.written.lock();
        written.acknowledge(now);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        written.puts.push((key, value));
    }

    /// What was answered where no answer was.
    pub fn error(&self, what: String) {
        *self.written.lock().counts.errors.entry(what).or_default() += 1;
    }

    /// How many operations have been acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// From here on it is watched how long nothing is acknowledged.
    pub fn watch_gaps(&self) {
        let now = self.now();
        let mut written = self.written.lock();
        (written.last_acknowledged, written.longest_gap) = (now, 0);
    }

    /// The longest time in which nothing was acknowledged, in milliseconds.
    pub fn longest_gap_ms(&self) -> u64 {
        self.written.lock().longest_gap / 1_000_000
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.written.lock().counts.clone()
    }

    /// The history so far.
    pub fn operations(&self) -> Vec<Operation<Action>> {
        self.written.lock().operations.clone()
    }

    /// Keys that are written once, and what was acknowledged.
    pub fn puts(&self) -> Vec<(String, String)> {
        self.written.lock().puts.clone()
    }
}

impl Written {
    fn write(&mut self, key: u64, action: Action, invoked: u64, returned: Option<u64>) {
        self.operations.push(Operation {
            key,
            action,
            invoked,
            returned,
        });
    }

    fn acknowledge(&mut self, now: u64) {
        self.counts.acknowledged += 1;
        let gap = now.saturating_sub(self.last_acknowledged);
        self.longest_gap = self.longest_gap.max(gap);
        self.last_acknowledged = now;
    }
}
