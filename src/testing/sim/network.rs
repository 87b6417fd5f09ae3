//! The simulated network: what it does to one message.

use std::collections::{HashMap, HashSet};

use raft::eraftpb::{Message, MessageType};

/// Microseconds.
pub(crate) type Time = u64;
pub(crate) const MILLISECOND: Time = 1_000;

pub(crate) struct Network {
    /// Directed links that carry nothing.
    pub cut: HashSet<(u64, u64)>,
    /// Of a thousand messages.
    pub lost_per_mille: u32,
    /// Of a thousand votes and requests for one: so that elections fail halfway.
    pub votes_lost_per_mille: u32,
    pub duplicated_per_mille: u32,
    pub reordered_per_mille: u32,
    pub delay_max: Time,
    last_arrival: HashMap<(u64, u64), Time>,
}

/// What becomes of one message.
#[derive(Default)]
pub(crate) struct Fate {
    pub arrivals: Vec<Time>,
    pub counted: Vec<&'static str>,
}

impl Network {
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Self {
        Network {
            cut: HashSet::new(),
            lost_per_mille: rng.u32(0..30),
            votes_lost_per_mille: *rng.choice(&[0, 0, 200, 500]).unwrap_or(&0),
            duplicated_per_mille: rng.u32(0..20),
            reordered_per_mille: rng.u32(0..50),
            delay_max: rng.u64(1..10) * MILLISECOND,
            last_arrival: HashMap::new(),
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.lost_per_mille = 0;
        self.votes_lost_per_mille = 0;
        self.delay_max = 2 * MILLISECOND;
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    pub(crate) fn send(&mut self, rng: &mut fastrand::Rng, now: Time, message: &Message) -> Fate {
        let (from, to) = (message.from, message.to);
        let mut fate = Fate::default();
        if self.is_cut(from, to) {
            fate.counted.push("message cut off");
            return fate;
        }
        if rng.u32(0..1000) < self.lost_per_mille {
            fate.counted.push("message lost");
            return fate;
        }
        if is_of_a_vote(message) && rng.u32(0..1000) < self.votes_lost_per_mille {
            fate.counted.push("vote lost");
            return fate;
        }
        let mut arrival = now + rng.u64(100..=self.delay_max.max(101));
        if rng.u32(0..1000) < self.reordered_per_mille {
            // Behind what is sent later, or before what was sent earlier.
            fate.counted.push("message reordered");
            arrival += rng.u64(0..4 * self.delay_max);
        } else {
            let last = self.last_arrival.entry((from, to)).or_default();
            arrival = arrival.max(*last + 1);
            *last = arrival;
        }
        fate.arrivals.push(arrival);
        if rng.u32(0..1000) < self.duplicated_per_mille {
            fate.counted.push("message duplicated");
            fate.arrivals.push(arrival + rng.u64(0..8 * self.delay_max));
        }
        fate
    }
}

fn is_of_a_vote(message: &Message) -> bool {
    matches!(
        message.get_msg_type(),
        MessageType::MsgRequestVote | MessageType::MsgRequestVoteResponse
    )
}
