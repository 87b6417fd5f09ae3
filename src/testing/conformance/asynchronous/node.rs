//! A raft node over a store under test, driven as `advance_append_async` demands: what a Ready
//! held is submitted, and acknowledged when the store reports it.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode};

use super::super::case::{Case, ensure, must, said};
use super::super::{Checked, Failure, Step};
use super::AsyncStoreUnderTest;

/// The node's own id; 2 and 3 are the others.
pub(super) const SELF: u64 = 1;

/// A Ready that has been submitted.
pub(super) struct Submitted {
    pub number: u64,
    pub must_sync: bool,
    /// What may leave before it is durable.
    pub messages: Vec<Message>,
}

/// How a Ready ended.
pub(super) struct Report {
    pub number: u64,
    pub outcome: Step,
    /// What may leave only now.
    messages: Vec<Message>,
}

pub(super) struct Node<S: AsyncStoreUnderTest> {
    pub raft: RawNode<S::Storage>,
    told: Sender<Report>,
    reports: Receiver<Report>,
}

impl<S: AsyncStoreUnderTest> Node<S> {
    /// A node that starts from what the store holds.
    pub(super) fn start(case: &Case<S>) -> Checked<Self> {
        let config = Config {
            id: SELF,
            election_tick: 10,
            heartbeat_tick: 1,
            applied: case.applied()?,
            max_size_per_msg: u64::MAX,
            max_inflight_msgs: 256,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, case.storage().clone(), &logger)
            .map_err(|error| said("RawNode::new", &error))?;
        let (told, reports) = mpsc::channel();
        Ok(Node {
            raft,
            told,
            reports,
        })
    }

    pub(super) fn step(&mut self, message: Message) -> Checked {
        let what = format!("step of {:?}", message.get_msg_type());
        self.raft.step(message).map_err(|error| said(&what, &error))
    }

    /// Submits the next Ready; the store may refuse it.
    pub(super) fn try_submit(&mut self, case: &mut Case<S>) -> Checked<Result<Submitted, String>> {
        ensure!(
            self.raft.has_ready(),
            "the check expects a Ready where raft has none; it is mistaken"
        );
        let mut ready = self.raft.ready();
        let (number, must_sync) = (ready.number(), ready.must_sync());
        let messages = ready.take_messages();
        let persisted = ready.take_persisted_messages();
        let told = self.told.clone();
        let submitted = case.store.submit_ready(
            &mut ready,
            Box::new(move |outcome| {
                // An error: the check has ended.
                let _ = told.send(Report {
                    number,
                    outcome,
                    messages: persisted,
                });
            }),
        );
        if let Err(refusal) = submitted {
            return Ok(Err(refusal.to_string()));
        }
        self.raft.advance_append_async(ready);
        Ok(Ok(Submitted {
            number,
            must_sync,
            messages,
        }))
    }

    /// Submits the next Ready, which the store must take.
    pub(super) fn submit(&mut self, case: &mut Case<S>) -> Checked<Submitted> {
        let submitted = self.try_submit(case)?;
        submitted.map_err(|refusal| said("submit_ready", &refusal))
    }

    /// Steps a message and submits the Ready that it causes.
    pub(super) fn take(&mut self, case: &mut Case<S>, message: Message) -> Checked<Submitted> {
        self.step(message)?;
        self.submit(case)
    }

    /// The next report, for which it waits.
    pub(super) fn report(&self) -> Checked<Report> {
        self.reports.recv_timeout(S::patience()).map_err(|error| {
            Failure::new(match error {
                RecvTimeoutError::Timeout => "a submitted Ready was never acknowledged",
                RecvTimeoutError::Disconnected => "the check has lost its reports",
            })
        })
    }

    /// Waits until the Ready is acknowledged, as the next one; what may leave now.
    pub(super) fn persisted(&mut self, number: u64) -> Checked<Vec<Message>> {
        let report = self.report()?;
        ensure!(
            report.number == number,
            "Ready {} was acknowledged, expected Ready {number}",
            report.number
        );
        must(&format!("persisting Ready {number}"), report.outcome)?;
        self.raft.on_persist_ready(number);
        Ok(report.messages)
    }

    /// Submits what raft has to say until it has nothing more, waits for all of it, and applies
    /// it; what may leave then. Nothing else is under way.
    pub(super) fn settle(&mut self, case: &mut Case<S>) -> Checked<Vec<Message>> {
        let mut left = Vec::new();
        while self.raft.has_ready() {
            let submitted = self.submit(case)?;
            left.extend(submitted.messages);
            left.extend(self.persisted(submitted.number)?);
            // A snapshot counts as applied only once it is persisted.
            self.raft.advance_apply();
        }
        Ok(left)
    }

    /// Nothing has been acknowledged since the last report.
    pub(super) fn expect_no_report(&self) -> Checked {
        match self.reports.try_recv() {
            Ok(report) => Err(Failure::new(format!(
                "Ready {} was acknowledged while nothing can become durable",
                report.number
            ))),
            Err(_) => Ok(()),
        }
    }
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from;
    message.to = SELF;
    message.term = term;
    message
}

/// What a leader sends: `entries` behind `previous`, an index and its term.
pub(super) fn append(
    (from, term): (u64, u64),
    previous: (u64, u64),
    entries: &[Entry],
    commit: u64,
) -> Message {
    let mut message = message(MessageType::MsgAppend, from, term);
    (message.index, message.log_term) = previous;
    message.set_entries(entries.to_vec().into());
    message.commit = commit;
    message
}

/// What a leader sends that has nothing to append.
pub(super) fn heartbeat((from, term): (u64, u64), commit: u64) -> Message {
    let mut message = message(MessageType::MsgHeartbeat, from, term);
    message.commit = commit;
    message
}

/// What a leader sends to a follower that lags behind its log.
pub(super) fn install((from, term): (u64, u64), snapshot: raft::eraftpb::Snapshot) -> Message {
    let mut message = message(MessageType::MsgSnapshot, from, term);
    message.set_snapshot(snapshot);
    message
}

/// What a candidate sends whose log ends at `last`, an index and its term.
pub(super) fn request_vote((from, term): (u64, u64), last: (u64, u64)) -> Message {
    let mut message = message(MessageType::MsgRequestVote, from, term);
    (message.index, message.log_term) = last;
    message
}

/// What a voter answers.
pub(super) fn grant((from, term): (u64, u64)) -> Message {
    message(MessageType::MsgRequestVoteResponse, from, term)
}

/// What a follower answers whose log ends at `last`, to an append behind `rejected`.
pub(super) fn reject((from, term): (u64, u64), rejected: u64, last: (u64, u64)) -> Message {
    let mut message = message(MessageType::MsgAppendResponse, from, term);
    message.index = rejected;
    message.reject = true;
    (message.reject_hint, message.log_term) = last;
    message
}

/// The entries that the messages append at one node.
pub(super) fn appended<'a>(messages: &'a [Message], to: u64) -> Vec<&'a Message> {
    let append = |message: &&'a Message| {
        message.to == to
            && message.get_msg_type() == MessageType::MsgAppend
            && !message.get_entries().is_empty()
    };
    messages.iter().filter(append).collect()
}

/// The answers of one kind, as the indexes they confirm.
pub(super) fn answers(messages: &[Message], kind: MessageType) -> Vec<u64> {
    let of_kind = |message: &&Message| message.get_msg_type() == kind && !message.reject;
    messages
        .iter()
        .filter(of_kind)
        .map(|message| message.index)
        .collect()
}
