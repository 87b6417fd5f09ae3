//! Which nodes are stopped when: drawn from a seed, told in acknowledged puts.

use crate::cluster::{NODES, node_ids};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// Whoever leads then.
    Leader,
    /// The follower that comes so many places after the leader.
    Follower(u64),
    /// All five at once: afterwards nothing is left but their directories.
    All,
}

/// Nodes that are stopped and started again. One outage at a time: more than two nodes away
/// would only stop the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// How many puts are acknowledged when it begins.
    pub begin: u64,
    pub victims: Victims,
    /// How many more are when it ends. `None`: it ends when the others have dropped entries that
    /// the stopped node has not got.
    pub puts: Option<u64>,
}

impl Outage {
    /// What the victims are called, and their ids under this leader.
    pub fn choose(&self, leader: u64) -> (&'static str, Vec<u64>) {
        match self.victims {
            Victims::Leader => ("the leader", vec![leader]),
            Victims::Follower(places) => {
                let id = (leader + places % (NODES - 1)) % NODES + 1;
                ("a follower", vec![id])
            }
            Victims::All => ("all nodes", node_ids().collect()),
        }
    }
}

/// Outages begin before so many puts: the last ones reach all nodes as entries of the log.
pub fn end(puts: u64) -> u64 {
    puts * 4 / 5
}

/// At least `restarts` restarts: once all nodes, once a follower until it needs a snapshot,
/// otherwise leaders and followers in turn.
pub fn draw(puts: u64, restarts: u64, seed: u64) -> Vec<Outage> {
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

    let slot = end(puts) / victims.len() as u64;
    let turns = (0..).zip(victims);
    let outage = |(turn, victims)| Outage {
        begin: turn * slot + rng.u64(..=slot / 2),
        victims,
        puts: match (turn, victims) {
            (1, _) => None,
            (_, Victims::All) => Some(0),
            _ => Some(rng.u64(..=slot / 2)),
        },
    };
    turns.map(outage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_stops_a_leader_all_nodes_and_one_for_long() {
        for seed in 0..200 {
            let drawn = draw(1000, 16, seed);
            let of = |outage: &Outage| outage.choose(1).1.len();
            let restarts: usize = drawn.iter().map(of).sum();
            assert!(restarts >= 16, "seed {seed}: {drawn:?}");
            let any = |is_it: fn(&Outage) -> bool| assert!(drawn.iter().any(is_it), "{drawn:?}");
            any(|outage| outage.victims == Victims::Leader);
            any(|outage| outage.victims == Victims::All);
            any(|outage| outage.puts.is_none());
            assert!(drawn.is_sorted_by_key(|outage| outage.begin));
            assert!(drawn.iter().all(|outage| outage.begin < 1000));
        }
    }
}
