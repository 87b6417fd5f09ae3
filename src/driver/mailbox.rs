//! What waits for the raft thread.
//!
//! Invariants:
//! 1. Messages of other nodes are bounded in number and bytes; what does not fit is dropped and
//!    counted, which raft makes up for.
//! 2. Everything else is kept: requests are bounded by those who let them in, the rest by what
//!    the node itself has under way.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use raft::eraftpb::Message;
use tokio::sync::oneshot;

use super::applier::Applied;
use super::peer::{Consistency, Status};
use super::request::Ask;
use super::shared::{Answerer, Permit};

/// Who waits for the end of a request, and the room it takes until then.
pub(crate) struct Waiting {
    pub answerer: Answerer,
    pub _permit: Permit,
}

/// What the raft thread is told, beside the messages of others.
pub(crate) enum Event {
    /// The log was given something with this number, and it is durable or lost.
    Persisted(u64, crate::Result<()>),
    /// The machine has applied these.
    Applied(Vec<Applied>),
    /// The machine was restored, and is at this index.
    Restored(u64),
    Ask(Ask, Waiting),
    Read(Consistency, Waiting),
    Campaign,
    Status(oneshot::Sender<Status>),
    /// A snapshot at this index was stored, or could not be made.
    Snapshotted(Option<u64>),
    /// The stream of a snapshot to a node ended.
    Streamed {
        to: u64,
        ok: bool,
    },
    /// A snapshot has arrived whole.
    Arrived,
    /// Others say that this node was removed.
    Removed,
    /// Another thread of the node failed.
    Failed(String),
    /// Hand over what there is, and stop.
    Shutdown,
}

#[derive(Default)]
struct State {
    messages: VecDeque<(usize, Message)>,
    message_bytes: usize,
    events: VecDeque<Event>,
    unreachable: BTreeSet<u64>,
    closed: bool,
}

/// What the raft thread takes at once.
#[derive(Default)]
pub(crate) struct Mail {
    pub messages: Vec<Message>,
    pub events: VecDeque<Event>,
    pub unreachable: BTreeSet<u64>,
    pub closed: bool,
}

/// Messages handled between two looks at the clock.
const MESSAGES_AT_ONCE: usize = 512;

pub(crate) struct Mailbox {
    state: Mutex<State>,
    wake: Condvar,
    messages_max: usize,
    bytes_max: usize,
}

impl Mailbox {
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Mailbox {
            state: Mutex::default(),
            wake: Condvar::new(),
            messages_max,
            bytes_max,
        }
    }

    /// Tells the raft thread something; `false` when it does not listen any more.
    pub(crate) fn tell(&self, event: Event) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            // What it holds may tell somebody when it is dropped.
            drop(state);
            return false;
        }
        state.events.push_back(event);
        drop(state);
        self.wake.notify_one();
        true
    }

    /// Takes messages of another node; how many were dropped.
    pub(crate) fn take_messages(&self, messages: Vec<Message>) -> u64 {
        let mut dropped = 0;
        let mut state = self.state.lock();
        for message in messages {
            let bytes = bytes_of(&message);
            let is_full = state.messages.len() >= self.messages_max
                || (state.message_bytes + bytes > self.bytes_max && state.message_bytes > 0);
            if is_full || state.closed {
                dropped += 1;
            } else {
                state.message_bytes += bytes;
                state.messages.push_back((bytes, message));
            }
        }
        drop(state);
        self.wake.notify_one();
        dropped
    }

    pub(crate) fn unreachable(&self, id: u64) {
        self.state.lock().unreachable.insert(id);
        self.wake.notify_one();
    }

    /// Waits until there is something, or for `deadline`.
    pub(crate) fn take(&self, deadline: Instant) -> Mail {
        let mut state = self.state.lock();
        while state.messages.is_empty()
            && state.events.is_empty()
            && state.unreachable.is_empty()
            && !state.closed
        {
            if self.wake.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let count = state.messages.len().min(MESSAGES_AT_ONCE);
        let taken: Vec<_> = state.messages.drain(..count).collect();
        state.message_bytes -= taken.iter().map(|(bytes, _)| bytes).sum::<usize>();
        Mail {
            messages: taken.into_iter().map(|(_, message)| message).collect(),
            events: std::mem::take(&mut state.events),
            unreachable: std::mem::take(&mut state.unreachable),
            closed: state.closed,
        }
    }

    /// Nothing is taken any more; what waited is dropped, outside of the lock.
    pub(crate) fn close(&self) {
        let waited = {
            let mut state = self.state.lock();
            let closed = State {
                closed: true,
                ..State::default()
            };
            std::mem::replace(&mut *state, closed)
        };
        self.wake.notify_one();
        drop(waited);
    }

    /// Messages that wait, and their bytes.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.messages.len(), state.message_bytes)
    }
}

/// About what a message takes in memory.
pub(crate) fn bytes_of(message: &Message) -> usize {
    let entries = message.get_entries().iter();
    let data: usize = entries
        .map(|entry| entry.data.len() + entry.context.len() + 64)
        .sum();
    data + message.context.len() + 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn message(bytes: usize) -> Message {
        let mut entry = Entry::default();
        entry.data = vec![0; bytes].into();
        let mut message = Message::default();
        message.set_entries(vec![entry].into());
        message
    }

    #[test]
    fn messages_that_do_not_fit_are_dropped_and_events_never() {
        let mailbox = Mailbox::new(3, 10_000);
        assert_eq!(mailbox.take_messages(vec![message(1); 4]), 1);
        for _ in 0..10 {
            assert!(mailbox.tell(Event::Campaign));
        }
        let mail = mailbox.take(Instant::now());
        assert_eq!((mail.messages.len(), mail.events.len()), (3, 10));
        assert_eq!(mailbox.take_messages(vec![message(6000); 2]), 1);
        assert_eq!(mailbox.take(Instant::now()).messages.len(), 1);
        // One that is larger than all the room is taken when there is nothing else.
        assert_eq!(mailbox.take_messages(vec![message(20_000)]), 0);
        assert_eq!(mailbox.depth().0, 1);
    }

    #[test]
    fn a_closed_mailbox_takes_nothing() {
        let mailbox = Mailbox::new(3, 10_000);
        mailbox.close();
        assert!(!mailbox.tell(Event::Campaign));
        assert_eq!(mailbox.take_messages(vec![message(1)]), 1);
        assert!(mailbox.take(Instant::now()).closed);
    }
}
