//! What each fault does.

use std::collections::HashSet;
use std::ops::Range;

use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use super::{Event, KEYS, NODES_MAX, SECOND, Step, Then, World, info};
use crate::testing::sim::checks::Broken;
use crate::testing::sim::faults::Fault;
use crate::testing::sim::machine;
use crate::testing::sim::network::{MILLISECOND, Time};
use crate::testing::sim::node::{CLOCK_PERCENT_MAX, CLOCK_PERCENT_MIN, TICK};
use crate::testing::sim::store::SimStore;

impl<S: SimStore> World<S> {
    pub(super) fn fault(&mut self) -> Step {
        if self.calm {
            return Ok(());
        }
        let at = self.now + self.rng.u64(20 * MILLISECOND..300 * MILLISECOND);
        self.schedule(at, Event::Fault);
        let fault = Fault::draw(&mut self.rng);
        if self.inflict(fault)? {
            self.count(fault.name());
            self.note(|| format!("fault: {}", fault.name()));
        }
        Ok(())
    }

    /// A node that runs, any of them.
    fn any_running(&mut self) -> Option<u64> {
        let running = self.nodes.values().filter(|node| node.running.is_some());
        let ids: Vec<u64> = running.map(|node| node.id).collect();
        self.rng.choice(&ids).copied()
    }

    /// Whether there was anything to do.
    fn inflict(&mut self, fault: Fault) -> Result<bool, Broken> {
        let Some(id) = self.any_running() else {
            return Ok(false);
        };
        let until = self.now + self.rng.u64(50 * MILLISECOND..2 * SECOND);
        match fault {
            Fault::FailedSync | Fault::Snapshot if self.is_paused(id) => return Ok(false),
            Fault::Crash => self.crash(id, false)?,
            Fault::Bounce => self.crash(id, true)?,
            Fault::CrashAtPoint => self.plant(id),
            Fault::CrashAll => {
                let all: Vec<u64> = self.nodes.keys().copied().collect();
                for id in all {
                    self.crash(id, false)?;
                }
            }
            Fault::Partition | Fault::OneWayCut => return Ok(self.cut(fault)),
            Fault::Isolate => {
                let leader = self.leader();
                let cut = self.cut(fault);
                // What it gets now it has to throw away.
                if let Some(leader) = leader.filter(|_| cut && self.rng.u32(0..4) != 0) {
                    self.burst(leader, 10..80)?;
                    self.then(200..700, Then::Snapshot);
                }
                return Ok(cut);
            }
            Fault::PausedLeader => {
                let Some(leader) = self.leader().filter(|_| self.cut(Fault::Isolate)) else {
                    return Ok(false);
                };
                self.hamper(leader, Fault::Pause, until);
            }
            Fault::Heal => self.network.cut.clear(),
            Fault::LossyNetwork => {
                self.network.lost_per_mille = self.rng.u32(0..300);
                self.network.delay_max = self.rng.u64(1..60) * MILLISECOND;
            }
            Fault::FailedSync => {
                let Some(running) = self.nodes.get_mut(&id).and_then(|n| {
                    n.disk_failed = true;
                    n.running.as_mut()
                }) else {
                    return Ok(false);
                };
                running.peer.store().fail();
                self.after(id)?;
                // Where nothing was under way, the next write finds out.
            }
            Fault::SlowDisk
            | Fault::SlowMachine
            | Fault::LongSync
            | Fault::LongApply
            | Fault::Pause
            | Fault::ClockRate => {
                self.hamper(id, fault, until);
            }
            Fault::TransferLeader => return self.transfer(),
            Fault::Campaign => return self.campaign(id),
            Fault::AddNode | Fault::RemoveNode | Fault::ReplaceNode => {
                return self.change_members(fault);
            }
            Fault::Snapshot => self.make_snapshot(id)?,
            Fault::Burst => return self.burst(id, 5..40),
            Fault::CutLink => return Ok(self.cut_link().is_some()),
            Fault::DeafLeader => {
                return Ok(self.leader().is_some_and(|leader| self.deafen(leader)));
            }
            Fault::Succession => {
                if self.leader().is_none() {
                    return Ok(false);
                }
                // Nobody writes, so that the one that misses the leader does not lag.
                self.reads_only_until = self.now + 500 * MILLISECOND;
                self.then(50..100, Then::LoseLeader);
            }
        }
        Ok(true)
    }

    /// Stops the node in the middle of a Ready, some steps from now.
    fn plant(&mut self, id: u64) {
        let mut steps = self.rng.u32(0..40);
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
            running.peer.set_fault_hook(Some(Box::new(move |_| {
                steps = steps.saturating_sub(1);
                steps == 0
            })));
        }
    }

    /// Many commands at once on a node that takes itself for the leader: logs grow, and where
    /// nobody follows it, have to be thrown away again.
    fn burst(&mut self, id: u64, commands: Range<u32>) -> Result<bool, Broken> {
        let leads = |status: crate::driver::Status| status.role == StateRole::Leader;
        if self.is_paused(id) || !self.status(id).is_some_and(leads) {
            return Ok(false);
        }
        for _ in 0..self.rng.u32(commands) {
            self.requests += 1;
            let (request, command) = (self.requests, machine::swap(KEYS + 1, self.requests));
            if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
                running.peer.propose(request, None, command);
            }
        }
        self.after(id)?;
        Ok(true)
    }

    fn hamper(&mut self, id: u64, fault: Fault, until: Time) {
        let rate = self.rng.u64(CLOCK_PERCENT_MIN..=CLOCK_PERCENT_MAX);
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        match fault {
            Fault::SlowDisk => node.slow_disk_until = until,
            Fault::SlowMachine => node.slow_machine_until = until,
            Fault::LongSync => node.long_sync = true,
            Fault::LongApply => node.long_apply = true,
            Fault::Pause => node.paused_until = until.max(node.paused_until),
            _ => node.tick = TICK * rate / 100,
        }
    }

    fn cut(&mut self, fault: Fault) -> bool {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let side: HashSet<u64> = match fault {
            Fault::Isolate => self.leader().into_iter().collect(),
            _ => ids.iter().copied().filter(|_| self.rng.bool()).collect(),
        };
        let one_way = fault == Fault::OneWayCut || (fault == Fault::Isolate && self.rng.bool());
        let mut any = false;
        for &from in &ids {
            for &to in &ids {
                let (inside, other) = (side.contains(&from), side.contains(&to));
                if (inside && !other) || (!one_way && !inside && other) {
                    self.network.cut.insert((from, to));
                    any = true;
                }
            }
        }
        any
    }

    /// Cuts the link between the leader and another node.
    pub(super) fn cut_link(&mut self) -> Option<(u64, u64)> {
        let leader = self.leader()?;
        let others = self.nodes.values().filter(|node| node.running.is_some());
        let others: Vec<u64> = others
            .map(|node| node.id)
            .filter(|id| *id != leader)
            .collect();
        let follower = self.rng.choice(&others).copied()?;
        self.network.cut.insert((leader, follower));
        self.network.cut.insert((follower, leader));
        Some((leader, follower))
    }

    pub(super) fn deafen(&mut self, id: u64) -> bool {
        let others: Vec<u64> = self
            .nodes
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect();
        self.network
            .cut
            .extend(others.iter().map(|other| (*other, id)));
        !others.is_empty()
    }

    fn transfer(&mut self) -> Result<bool, Broken> {
        let to = self.any_running().unwrap_or(0);
        let leader = self.leader().filter(|id| *id != to);
        let Some(id) = leader.filter(|id| !self.is_paused(*id)) else {
            return Ok(false);
        };
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
            running.peer.transfer_leader(to);
        }
        if self.rng.u32(0..4) != 0 {
            // It does not learn of its successor.
            self.then(0..3, Then::Deafen(id));
        }
        self.after(id)?;
        Ok(true)
    }

    fn change_members(&mut self, fault: Fault) -> Result<bool, Broken> {
        let Some(leader) = self.leader().filter(|id| !self.is_paused(*id)) else {
            return Ok(false);
        };
        let Some(running) = self.nodes.get(&leader).and_then(|n| n.running.as_ref()) else {
            return Ok(false);
        };
        let conf_state = running.peer.conf_state().clone();
        let new = self.nodes.keys().next_back().map_or(1, |last| last + 1);
        let members = conf_state.get_voters().len() + conf_state.get_learners().len();
        let leaving = self.rng.choice(conf_state.get_voters()).copied();
        let adds = fault != Fault::RemoveNode;
        let removes = fault != Fault::AddNode;
        if (adds && members >= NODES_MAX) || (removes && conf_state.get_voters().len() < 2) {
            return Ok(false);
        }
        let mut changes = Vec::new();
        if adds {
            self.create(new)?;
            self.start(new)?;
            changes.push(single(ConfChangeType::AddLearnerNode, new));
        }
        if let Some(leaving) = leaving.filter(|_| removes) {
            changes.push(single(ConfChangeType::RemoveNode, leaving));
        }
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.into());
        self.requests += 1;
        let request = self.requests;
        let told = if adds { vec![info(new)] } else { Vec::new() };
        if let Some(running) = self.nodes.get_mut(&leader).and_then(|n| n.running.as_mut()) {
            running.peer.propose_change(request, &change, told);
        }
        self.after(leader)?;
        Ok(true)
    }
}

fn single(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = id;
    single
}
