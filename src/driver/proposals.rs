//! Proposals that wait for their outcome, matched by term and index; pure.
//!
//! Invariants:
//! 1. A proposal is answered `Applied` only with the result of the entry that has its index
//!    *and* its term: after a change of leaders another entry may stand at its index.
//! 2. `Dropped` only when another entry has been applied at its index: what is committed there
//!    is committed for ever, so that the proposal never will be. That its entry is gone from
//!    this node's log says nothing: a later leader may still have it.
//! 3. Everything else ends as unknown: it may or may not take effect.

use std::collections::BTreeMap;

/// How the asker names a proposal, read or change.
pub type RequestId = u64;

#[derive(Debug, Default)]
pub(crate) struct Proposals {
    /// By (index, term): after a change of leaders two may wait at one index.
    waiting: BTreeMap<(u64, u64), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    since_tick: u64,
}

/// How one proposal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Applied(RequestId),
    Dropped(RequestId),
}

impl Proposals {
    pub(crate) fn insert(&mut self, id: RequestId, index: u64, term: u64, tick: u64) {
        let since_tick = tick;
        self.waiting
            .insert((index, term), Waiting { id, since_tick });
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// An entry has been applied: those that waited at its index, and below.
    pub(crate) fn settle(&mut self, index: u64, term: u64) -> Vec<Settled> {
        let later = self.waiting.split_off(&(index + 1, 0));
        let settled = std::mem::replace(&mut self.waiting, later);
        let outcome = |(at, waiting): ((u64, u64), Waiting)| match at == (index, term) {
            true => Settled::Applied(waiting.id),
            false => Settled::Dropped(waiting.id),
        };
        settled.into_iter().map(outcome).collect()
    }

    /// A snapshot stands for the entries up to `index`: nobody knows what they were.
    pub(crate) fn forget_to(&mut self, index: u64) -> Vec<RequestId> {
        let later = self.waiting.split_off(&(index + 1, 0));
        let unknown = std::mem::replace(&mut self.waiting, later);
        unknown.into_values().map(|waiting| waiting.id).collect()
    }

    /// Those that have waited since `tick` or longer.
    pub(crate) fn expire(&mut self, tick: u64) -> Vec<RequestId> {
        let mut expired = Vec::new();
        self.waiting.retain(|_, waiting| {
            let stays = waiting.since_tick > tick;
            if !stays {
                expired.push(waiting.id);
            }
            stays
        });
        expired
    }

    pub(crate) fn take_all(&mut self) -> Vec<RequestId> {
        let all = std::mem::take(&mut self.waiting);
        all.into_values().map(|waiting| waiting.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(at: &[(u64, u64, RequestId)]) -> Proposals {
        let mut proposals = Proposals::default();
        for &(index, term, id) in at {
            proposals.insert(id, index, term, index);
        }
        proposals
    }

    #[test]
    fn the_entry_of_its_own_term_answers_a_proposal() {
        let mut proposals = waiting(&[(5, 2, 50), (6, 2, 60)]);
        assert_eq!(proposals.settle(5, 2), [Settled::Applied(50)]);
        assert_eq!(proposals.len(), 1);
    }

    #[test]
    fn an_entry_of_another_term_at_its_index_drops_a_proposal() {
        let mut proposals = waiting(&[(5, 2, 50), (5, 4, 54)]);
        let settled = proposals.settle(5, 4);
        assert_eq!(settled, [Settled::Dropped(50), Settled::Applied(54)]);
    }

    #[test]
    fn a_snapshot_past_a_proposal_leaves_its_outcome_unknown() {
        let mut proposals = waiting(&[(5, 2, 50), (6, 2, 60), (7, 2, 70)]);
        assert_eq!(proposals.forget_to(6), [50, 60]);
        assert_eq!(proposals.settle(7, 2), [Settled::Applied(70)]);
    }

    #[test]
    fn what_has_waited_too_long_is_given_up() {
        let mut proposals = waiting(&[(5, 2, 50), (6, 2, 60)]);
        assert_eq!(proposals.expire(5), [50]);
        assert_eq!(proposals.take_all(), [60]);
    }
}
