//! Several groups of a store, each with a workload: what they may be found with after a fault.

use raft::eraftpb::HardState;
use raft_rocks::{RaftStore, Result};

use super::workload::{Expected, Workload};

/// What is known of a group: the writes that it was found with.
#[derive(Clone)]
pub struct Group {
    pub id: u64,
    pub done: u64,
    pub workload: Workload,
}

/// Where a group was found.
pub struct Place {
    /// The writes it has.
    pub done: u64,
    /// Those it must have: up to the last acknowledged one that is synced.
    pub synced: u64,
}

impl Group {
    pub fn new(id: u64, workload: Workload) -> Group {
        Group {
            id,
            done: 0,
            workload,
        }
    }

    /// Finds the number of writes after which the group is as `found`, at most `at_most`, and
    /// goes there; `None` when it never was like that.
    pub fn go_to(&mut self, found: &Expected, acknowledged: u64, at_most: u64) -> Option<Place> {
        let mut synced = self.done;
        let mut at = None;
        let mut workload = self.workload.clone();
        let mut done = self.done;
        loop {
            if workload.expected == *found {
                at = Some(done);
                self.workload = workload.clone();
            }
            if done == at_most {
                break;
            }
            let is_synced = workload.next().is_synced();
            done += 1;
            if is_synced && done <= acknowledged {
                synced = done;
            }
        }
        self.done = at?;
        Some(Place {
            done: self.done,
            synced,
        })
    }

    /// Term, vote and commit that the last of the acknowledged writes left which is synced.
    pub fn synced_hard_state(&self, acknowledged: u64) -> HardState {
        let mut workload = self.workload.clone();
        let mut synced = workload.expected.hard_state.clone();
        for _ in self.done..acknowledged {
            if workload.next().is_synced() {
                synced = workload.expected.hard_state.clone();
            }
        }
        synced
    }

    /// Reads the group and goes to where it is found.
    ///
    /// # Errors
    /// What is wrong with it, in words; an error of the store as it is.
    pub fn check(
        &mut self,
        store: &RaftStore,
        acknowledged: u64,
        under_way_max: u64,
    ) -> Result<std::result::Result<Place, String>> {
        let found = Expected::found_in(&store.group(self.id)?);
        Ok(self
            .go_to(&found, acknowledged, acknowledged + under_way_max)
            .ok_or_else(|| {
                format!(
                    "group {}: in no state that it had up to write {acknowledged} and \
                     {under_way_max} beyond: hard state {:?}, entries {}..={}, applied {}, \
                     snapshot {:?}",
                    self.id,
                    found.hard_state,
                    found.first,
                    found.last(),
                    found.applied,
                    found.snapshot
                )
            }))
    }
}
