//! Which nodes are stopped when: drawn from a seed, told in acknowledged puts.

use std::fmt;

use crate::network::{NODES, Network, node_ids};
use crate::node::Place;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// Whoever leads then.
    Leader,
    /// The follower that comes so many places after the leader.
    Follower(u64),
    /// All five at once: afterwards nothing is left but their directories.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// After so many more puts have been acknowledged.
    AfterPuts(usize),
    /// When the leader has dropped entries that the stopped node has not got.
    BehindTheLog,
}

/// Nodes that are stopped and started again. One outage at a time: more than two nodes away
/// would only stop the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// How many puts are acknowledged when it begins.
    pub begin: usize,
    pub victims: Victims,
    pub place: Place,
    pub until: Return,
}

impl Outage {
    /// The ids of the victims; none while there is no leader to go by.
    pub fn choose(&self, network: &Network) -> Vec<u64> {
        match (self.victims, network.leader()) {
            (Victims::All, _) => node_ids().collect(),
            (Victims::Leader, Some(leader)) => vec![leader],
            (Victims::Follower(places), Some(leader)) => {
                vec![(leader - 1 + 1 + places % (NODES - 1)) % NODES + 1]
            }
            (_, None) => vec![],
        }
    }
}

impl fmt::Display for Victims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victims::Leader => "the leader",
            Victims::Follower(_) => "a follower",
            Victims::All => "all nodes",
        })
    }
}

/// At least `restarts` restarts over the first four fifths of `puts`: once all nodes, once a
/// follower until it needs a snapshot, otherwise leaders and followers in turn.
pub fn draw(puts: usize, restarts: u64, seed: u64) -> Vec<Outage> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let singles = restarts.saturating_sub(NODES).max(3);
    let mut victims = vec![Victims::All];
    victims.extend((1..singles).map(|turn| match turn % 2 {
        0 => Victims::Follower(rng.u64(..NODES - 1)),
        _ => Victims::Leader,
    }));
    rng.shuffle(&mut victims);
    // Early, while much of the log is still to come.
    victims.insert(1, Victims::Follower(rng.u64(..NODES - 1)));

    let slot = puts * 4 / 5 / victims.len();
    let mut outages = Vec::new();
    let mut places = Place::ALL;
    rng.shuffle(&mut places);
    let places = places.into_iter().cycle();
    for ((turn, victims), place) in victims.into_iter().enumerate().zip(places) {
        let until = match (turn, victims) {
            (1, _) => Return::BehindTheLog,
            (_, Victims::All) => Return::AfterPuts(0),
            _ => Return::AfterPuts(rng.usize(..=slot / 2)),
        };
        let begin = turn * slot + rng.usize(..=slot / 2);
        outages.push(Outage {
            begin,
            victims,
            place,
            until,
        });
    }
    outages
}
