//! Channels instead of a network: a bounded inbox for each node, and the board on which nodes
//! say how they are.

use std::array;
use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use raft_rocks::raft::eraftpb::{Entry, EntryType, Message};

pub const NODES: u64 = 5;

pub fn node_ids() -> impl Iterator<Item = u64> {
    1..=NODES
}

/// Full, it drops what comes: raft sends again, and clients ask again.
const INBOX_MESSAGES: usize = 4096;

pub enum Mail {
    Raft(Box<Message>),
    Propose(Proposal),
}

/// What a client wants to have in the log, and where it waits for the outcome.
pub struct Proposal {
    pub id: ProposalId,
    pub command: Command,
    pub replies: SyncSender<Reply>,
}

/// The client's own name for a proposal; each retry is an attempt of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalId {
    pub number: usize,
    pub attempt: u64,
}

#[derive(Clone)]
pub enum Command {
    Put(Vec<u8>),
    AddNode(u64),
}

impl Command {
    /// Whether `entry`, which has the index and the term of this proposal's, still holds it:
    /// raft-rs empties a configuration change that is proposed while another is under way.
    pub fn is_in(&self, entry: &Entry) -> bool {
        match self {
            Command::Put(_) => true,
            Command::AddNode(_) => entry.get_entry_type() == EntryType::EntryConfChange,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log for good and has been applied.
    Applied,
    /// It is not in the log and never will be: safe to propose again.
    Dropped,
    /// The node lost track of it. Proposing again may put it into the log twice.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub struct Reply {
    pub id: ProposalId,
    pub outcome: Outcome,
}

impl Proposal {
    /// A client that has lost interest, or has more answers waiting than it asked for, gets
    /// none: it asks again after a while.
    pub fn reply(self, outcome: Outcome) {
        let _ = self.replies.try_send(Reply {
            id: self.id,
            outcome,
        });
    }
}

/// How a node is, as of its last pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub is_up: bool,
    pub is_leader: bool,
    pub term: u64,
    pub first: u64,
    pub last: u64,
    pub applied: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status {
            term,
            first,
            last,
            applied,
            ..
        } = self;
        f.write_str(match (self.is_up, self.is_leader) {
            (false, _) => "down",
            (true, false) => "up",
            (true, true) => "leads",
        })?;
        write!(f, ", term {term}, log {first}..={last}, applied {applied}")
    }
}

#[derive(Default)]
struct Seat {
    inbox: Option<SyncSender<Mail>>,
    status: Status,
    /// Snapshots installed by a node that had a log already: it had fallen behind it.
    catch_ups: u64,
}

#[derive(Default)]
pub struct Network {
    seats: [Mutex<Seat>; NODES as usize],
    news: (Mutex<()>, Condvar),
}

impl Network {
    fn seat(&self, id: u64) -> Option<&Mutex<Seat>> {
        self.seats.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    /// A new inbox for a node that starts. What was in the old one is gone with it.
    pub fn connect(&self, id: u64) -> Receiver<Mail> {
        let (sender, receiver) = sync_channel(INBOX_MESSAGES);
        if let Some(seat) = self.seat(id) {
            seat.lock().inbox = Some(sender);
        }
        receiver
    }

    /// For a node that has stopped.
    pub fn disconnect(&self, id: u64) {
        if let Some(seat) = self.seat(id) {
            let mut seat = seat.lock();
            seat.inbox = None;
            seat.status = Status {
                is_up: false,
                is_leader: false,
                ..seat.status
            };
        }
    }

    /// Whether it was delivered. It never waits: a slow node must not hold up the others.
    pub fn send(&self, to: u64, mail: Mail) -> bool {
        let inbox = self.seat(to).and_then(|seat| seat.lock().inbox.clone());
        inbox.is_some_and(|inbox| inbox.try_send(mail).is_ok())
    }

    pub fn publish(&self, id: u64, status: Status) {
        if let Some(seat) = self.seat(id) {
            seat.lock().status = status;
            self.news.1.notify_all();
        }
    }

    /// Until a node has published how it is, or `time_max` has passed.
    pub fn wait_for_news(&self, time_max: Duration) {
        self.news.1.wait_for(&mut self.news.0.lock(), time_max);
    }

    pub fn count_catch_up(&self, id: u64) {
        if let Some(seat) = self.seat(id) {
            seat.lock().catch_ups += 1;
        }
    }

    pub fn catch_ups(&self) -> u64 {
        self.seats.iter().map(|seat| seat.lock().catch_ups).sum()
    }

    pub fn status(&self, id: u64) -> Status {
        self.seat(id)
            .map(|seat| seat.lock().status)
            .unwrap_or_default()
    }

    /// The leader of the newest term that one has been seen in.
    pub fn leader(&self) -> Option<u64> {
        let leaders = node_ids().map(|id| (self.status(id), id));
        let leaders = leaders.filter(|(status, _)| status.is_up && status.is_leader);
        leaders
            .max_by_key(|(status, _)| status.term)
            .map(|(_, id)| id)
    }

    pub fn statuses(&self) -> [Status; NODES as usize] {
        array::from_fn(|seat| self.status(seat as u64 + 1))
    }
}
