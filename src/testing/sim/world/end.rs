//! The end of a run: faults stop, and the cluster must come to rest.

use super::{Step, World};
use crate::testing::sim::node::TICK;
use crate::testing::sim::store::SimStore;

impl<S: SimStore> World<S> {
    /// No more faults, and everything runs again.
    pub(super) fn calm_down(&mut self) -> Step {
        self.calm = true;
        self.network.heal();
        for own in &mut self.clients {
            // Some more, which see what the faults have left.
            own.last_sequence = own.sequence + 5;
        }
        self.note(|| "no more faults".to_owned());
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let failed = self.nodes.get_mut(&id).is_some_and(|node| {
                node.slow_disk_until = 0;
                node.slow_machine_until = 0;
                node.long_sync = false;
                node.long_apply = false;
                node.tick = TICK;
                if let Some(running) = node.running.as_mut() {
                    running.peer.set_fault_hook(None);
                }
                node.disk_failed
            });
            if failed {
                self.crash(id, false)?;
            }
            self.start(id)?;
        }
        Ok(())
    }

    /// Clients have what they asked for, and every member has applied everything.
    pub(super) fn is_at_rest(&self) -> bool {
        if self.clients.iter().any(|client| client.pending.is_some()) {
            return false;
        }
        let Some(leader) = self.leader() else {
            return false;
        };
        let Some(status) = self.status(leader) else {
            return false;
        };
        let conf_state = &status.conf_state;
        if !conf_state.get_voters_outgoing().is_empty() || !conf_state.get_learners().is_empty() {
            // Every learner here wants to become a voter.
            return false;
        }
        conf_state.get_voters().iter().all(|id| {
            let own = self.status(*id);
            own.is_some_and(|own| own.applied == status.last_index)
        })
    }
}
