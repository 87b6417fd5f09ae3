//! What waits for the state machine.
//!
//! Invariants:
//! 1. In the order in which it was committed; a query sees everything that was committed before
//!    it was asked.
//! 2. What waits is taken together: each application is a write of its own. A node that is slow
//!    would fall behind one by one.
//! 3. Bounded in bytes: beyond the limit only the indexes are kept, and the entries are read from
//!    the log again.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};
use raft::eraftpb::Entry;

use super::applier::{Change, Committed};
use super::shared::Permit;

/// Reads the machine, on its thread.
pub(crate) type Query<M> = Box<dyn FnOnce(&M) + Send>;

pub(crate) enum Task<M> {
    Apply(Committed),
    /// As above, but the entries `[low, high)` are to be read from the log.
    Reread {
        low: u64,
        high: u64,
        changes: Vec<Change>,
    },
    Restore,
    Query(Query<M>, Permit),
    /// Make a snapshot now.
    Snapshot,
}

/// Entries that are applied in one write, in bytes; a single one may be larger.
const TOGETHER_BYTES: usize = 1 << 20;
/// And how many: none of them is answered before all are applied, which a slow machine takes long
/// for.
const TOGETHER_MAX: usize = 256;

struct State<M> {
    tasks: VecDeque<Task<M>>,
    bytes: usize,
    closed: bool,
}

pub(crate) struct ApplyQueue<M> {
    state: Mutex<State<M>>,
    wake: Condvar,
    bytes_max: usize,
}

impl<M> ApplyQueue<M> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let state = State {
            tasks: VecDeque::new(),
            bytes: 0,
            closed: false,
        };
        ApplyQueue {
            state: Mutex::new(state),
            wake: Condvar::new(),
            bytes_max,
        }
    }

    /// Takes what is committed, or only where it stands when too much waits already.
    pub(crate) fn apply(&self, committed: Committed) {
        let bytes = bytes_of(&committed.entries);
        let mut state = self.state.lock();
        // Once entries are left in the log, those behind them are too: they follow soon.
        let rereads = matches!(state.tasks.back(), Some(Task::Reread { .. }));
        if state.bytes > 0 && (rereads || state.bytes + bytes > self.bytes_max) {
            state.leave_in_log(committed);
        } else {
            state.bytes += bytes;
            state.tasks.push_back(Task::Apply(committed));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// `false` when the queue is closed.
    pub(crate) fn push(&self, task: Task<M>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            // What it holds may tell somebody when it is dropped.
            drop(state);
            return false;
        }
        state.tasks.push_back(task);
        drop(state);
        self.wake.notify_one();
        true
    }

    /// Waits for the next task; `None` when the queue is closed and empty.
    pub(crate) fn next(&self) -> Option<Task<M>> {
        let mut state = self.state.lock();
        loop {
            match state.tasks.pop_front() {
                Some(Task::Apply(committed)) => {
                    return Some(Task::Apply(state.take_together(committed)));
                }
                Some(task) => return Some(task),
                None => {}
            }
            if state.closed {
                return None;
            }
            self.wake.wait(&mut state);
        }
    }

    /// Nothing is taken any more. What waits is dropped, unless it is to be finished.
    pub(crate) fn close(&self, finish: bool) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            match finish {
                true => VecDeque::new(),
                false => {
                    state.bytes = 0;
                    std::mem::take(&mut state.tasks)
                }
            }
        };
        self.wake.notify_one();
        drop(dropped);
    }

    /// Tasks that wait, and the bytes of their entries in memory.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.tasks.len(), state.bytes)
    }
}

impl<M> State<M> {
    /// What has been taken, and what follows it directly.
    fn take_together(&mut self, mut first: Committed) -> Committed {
        let mut taken = bytes_of(&first.entries);
        while let Some(Task::Apply(next)) = self.tasks.front() {
            let bytes = bytes_of(&next.entries);
            let entries = first.entries.len() + next.entries.len();
            if taken + bytes > TOGETHER_BYTES || entries > TOGETHER_MAX {
                break;
            }
            if let Some(Task::Apply(next)) = self.tasks.pop_front() {
                taken += bytes;
                first.entries.extend(next.entries);
                first.changes.extend(next.changes);
            }
        }
        self.bytes -= taken;
        first
    }

    fn leave_in_log(&mut self, committed: Committed) {
        let (Some(first), Some(last)) = (committed.entries.first(), committed.entries.last())
        else {
            return;
        };
        let (first, end) = (first.index, last.index + 1);
        match self.tasks.back_mut() {
            Some(Task::Reread { high, changes, .. }) if *high == first => {
                *high = end;
                changes.extend(committed.changes);
            }
            _ => self.tasks.push_back(Task::Reread {
                low: first,
                high: end,
                changes: committed.changes,
            }),
        }
    }
}

fn bytes_of(entries: &[Entry]) -> usize {
    let bytes = |entry: &Entry| entry.data.len() + entry.context.len() + 64;
    entries.iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(index: u64, bytes: usize) -> Committed {
        let mut entry = Entry::default();
        entry.index = index;
        entry.data = vec![0; bytes].into();
        Committed {
            entries: vec![entry],
            changes: Vec::new(),
        }
    }

    fn taken(queue: &ApplyQueue<()>) -> Vec<u64> {
        let Some(Task::Apply(committed)) = queue.next() else {
            panic!("not entries in memory");
        };
        committed.entries.iter().map(|entry| entry.index).collect()
    }

    /// A follower whose syncs took 20 to 200 ms fell thousands of entries behind: each small
    /// batch of entries was applied by a write of its own, which waited for a sync.
    #[test]
    fn what_waits_is_taken_together_up_to_a_query() {
        let queue: ApplyQueue<()> = ApplyQueue::new(16 << 20);
        for index in 1..=3 {
            queue.apply(committed(index, 200));
        }
        queue.push(Task::Restore);
        queue.apply(committed(4, 200));
        queue.apply(committed(5, TOGETHER_BYTES));
        queue.apply(committed(6, 200));
        assert_eq!(taken(&queue), [1, 2, 3]);
        assert!(matches!(queue.next(), Some(Task::Restore)));
        assert_eq!(taken(&queue), [4]);
        assert_eq!(taken(&queue), [5]);
        assert_eq!(taken(&queue), [6]);
        assert_eq!(queue.depth(), (0, 0));
    }

    #[test]
    fn what_does_not_fit_stays_in_the_log_and_is_one_range() {
        let queue: ApplyQueue<()> = ApplyQueue::new(1000);
        for index in 1..=20 {
            queue.apply(committed(index, 200));
        }
        let (tasks, bytes) = queue.depth();
        assert_eq!(tasks, 4);
        assert!(bytes <= 1000, "{bytes}");
        assert_eq!(taken(&queue), [1, 2, 3]);
        let Some(Task::Reread { low, high, .. }) = queue.next() else {
            panic!("not a range");
        };
        assert_eq!((low, high), (4, 21));
        queue.apply(committed(21, 2000));
        assert!(matches!(queue.next(), Some(Task::Apply(_))));
        queue.close(true);
        assert!(queue.next().is_none());
    }
}
