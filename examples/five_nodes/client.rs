//! The client: proposes to the leader, proposes again what got no answer, and remembers what
//! was acknowledged.
//!
//! Each put has a key of its own, so that one which ends up in the log twice (its answer was
//! lost, and it was proposed again) changes nothing, and is acknowledged once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::machine::put_command;
use crate::network::{Command, Mail, Network, Outcome, Proposal, ProposalId, Reply};

/// How many proposals are under way at a time.
pub const WINDOW: usize = 16;
/// Longer than a proposal takes, shorter than an election.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// How long to leave a node alone that has just dropped a proposal.
const PAUSE: Duration = Duration::from_millis(20);

pub fn put_key(number: usize) -> String {
    format!("key-{number:06}")
}

pub fn put_value(number: usize) -> String {
    format!("value-of-{number}")
}

struct UnderWay {
    attempt: u64,
    deadline: Instant,
}

pub struct Client {
    network: Arc<Network>,
    commands: Vec<Command>,
    waiting: VecDeque<usize>,
    under_way: BTreeMap<usize, UnderWay>,
    acknowledged: BTreeSet<usize>,
    attempts: u64,
    retries: u64,
    not_before: Instant,
    replies: SyncSender<Reply>,
    answers: Receiver<Reply>,
}

impl Client {
    pub fn new(network: Arc<Network>, commands: Vec<Command>) -> Self {
        let (replies, answers) = sync_channel(4 * WINDOW);
        Client {
            network,
            waiting: (0..commands.len()).collect(),
            commands,
            under_way: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            attempts: 0,
            retries: 0,
            not_before: Instant::now(),
            replies,
            answers,
        }
    }

    pub fn puts(network: Arc<Network>, puts: usize) -> Self {
        let command = |number| Command::Put(put_command(&put_key(number), &put_value(number)));
        Client::new(network, (0..puts).map(command).collect())
    }

    pub fn acknowledged(&self) -> &BTreeSet<usize> {
        &self.acknowledged
    }

    pub fn is_done(&self) -> bool {
        self.acknowledged.len() == self.commands.len()
    }

    /// Attempts beyond the first of each proposal.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Takes in answers, waiting for the first until `wait`, then proposes what there is room
    /// for: whatever the caller does next, it does with proposals under way.
    ///
    /// Of the proposals those before `end` are let through.
    pub fn work(&mut self, wait: Duration, end: usize) {
        if let Ok(reply) = self.answers.recv_timeout(wait) {
            self.take_in(reply);
        }
        while let Ok(reply) = self.answers.try_recv() {
            self.take_in(reply);
        }
        self.give_up_waiting();
        self.fill_window(end);
    }

    fn give_up_waiting(&mut self) {
        let now = Instant::now();
        let late = self
            .under_way
            .extract_if(.., |_, under_way| under_way.deadline <= now);
        let late: Vec<usize> = late.map(|(number, _)| number).collect();
        self.retries += late.len() as u64;
        self.waiting.extend(late);
    }

    fn fill_window(&mut self, end: usize) {
        let now = Instant::now();
        if now < self.not_before {
            return;
        }
        let Some(leader) = self.network.leader() else {
            return;
        };
        while self.under_way.len() < WINDOW {
            let Some(next) = self.waiting.iter().position(|number| *number < end) else {
                return;
            };
            let Some(number) = self.waiting.remove(next) else {
                return;
            };
            let Some(command) = self.commands.get(number) else {
                return;
            };
            self.attempts += 1;
            let attempt = self.attempts;
            let proposal = Proposal {
                id: ProposalId { number, attempt },
                command: command.clone(),
                replies: self.replies.clone(),
            };
            if !self.network.send(leader, Mail::Propose(proposal)) {
                self.waiting.push_front(number);
                self.not_before = now + PAUSE;
                return;
            }
            let deadline = now + ANSWER_TIME_MAX;
            self.under_way
                .insert(number, UnderWay { attempt, deadline });
        }
    }

    fn take_in(&mut self, reply: Reply) {
        let ProposalId { number, attempt } = reply.id;
        let is_current = self
            .under_way
            .get(&number)
            .is_some_and(|u| u.attempt == attempt);
        if reply.outcome == Outcome::Applied {
            // Also of an attempt that was given up: it is applied all the same.
            self.acknowledged.insert(number);
            self.under_way.remove(&number);
            self.waiting.retain(|waiting| *waiting != number);
        } else if is_current {
            self.under_way.remove(&number);
            self.retries += 1;
            self.waiting.push_back(number);
            self.not_before = Instant::now() + PAUSE;
        }
    }
}
