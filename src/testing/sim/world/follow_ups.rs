//! What follows on a fault. What a rule is about often needs several things to happen one after
//! the other, each in its time; drawn one by one they seldom do.

use std::ops::Range;

use super::{Event, Step, World};
use crate::testing::sim::checks::Broken;
use crate::testing::sim::network::{MILLISECOND, Time};
use crate::testing::sim::store::SimStore;

/// What follows on a fault when that has had its effect.
#[derive(Debug)]
pub(super) enum Then {
    /// The leader makes a snapshot, which those need that were away; then they are back.
    Snapshot,
    Heal,
    /// Nothing reaches this node, which was asked to hand over leadership.
    Deafen(u64),
    /// A follower loses the leader.
    LoseLeader,
    /// The leader, which a follower has missed for a while, is lost to everybody, and that
    /// follower wants to lead.
    Succeed {
        leader: u64,
        follower: u64,
    },
    Campaign(u64),
}

impl<S: SimStore> World<S> {
    /// At some time within these milliseconds.
    pub(super) fn then(&mut self, within: Range<Time>, then: Then) {
        let within = within.start * MILLISECOND..within.end * MILLISECOND;
        let at = self.now + self.rng.u64(within);
        self.schedule(at, Event::Then(then));
    }

    pub(super) fn follow_up(&mut self, then: Then) -> Step {
        if self.calm {
            return Ok(());
        }
        self.note(|| format!("then: {then:?}"));
        match then {
            Then::Snapshot => {
                if let Some(leader) = self.leader().filter(|id| !self.is_paused(*id)) {
                    self.make_snapshot(leader)?;
                }
                self.then(45..200, Then::Heal);
            }
            Then::Heal => self.network.cut.clear(),
            Then::Deafen(id) => {
                if self.deafen(id) {
                    self.count("deaf leader");
                }
            }
            Then::LoseLeader => {
                if let Some((leader, follower)) = self.cut_link() {
                    self.then(120..250, Then::Succeed { leader, follower });
                }
            }
            Then::Succeed { leader, follower } if self.leader() == Some(leader) => {
                self.succeed(leader, follower)?;
            }
            Then::Succeed { .. } => {}
            Then::Campaign(id) => {
                self.campaign(id)?;
            }
        }
        Ok(())
    }

    /// Those that have heard the leader last are started again at this moment: what they have
    /// promised it must hold all the same.
    fn succeed(&mut self, leader: u64, follower: u64) -> Step {
        self.count("leader lost in restarts");
        let others: Vec<u64> = self
            .nodes
            .keys()
            .copied()
            .filter(|id| *id != leader)
            .collect();
        let other = self.rng.choice(&others).copied().unwrap_or(follower);
        let candidate = if self.rng.u32(0..3) == 0 {
            other
        } else {
            follower
        };
        for id in others {
            self.network.cut.insert((leader, id));
            let restarts = if id == follower { 1 } else { 3 };
            if self.rng.u32(0..4) < restarts {
                self.crash(id, true)?;
            }
        }
        self.then(2..12, Then::Campaign(candidate));
        Ok(())
    }

    /// Whether there was one to be told.
    pub(super) fn campaign(&mut self, id: u64) -> Result<bool, Broken> {
        if self.is_paused(id) {
            return Ok(false);
        }
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
            running.peer.campaign();
        }
        self.after(id)?;
        Ok(true)
    }
}
