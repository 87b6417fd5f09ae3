//! What memory knows of a group: bounds, terms, states. Pure.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::record::{ConfState, HardState, SnapshotRecord};
use crate::term_index::TermIndex;

/// The state of one group, equal to what the last successful write left on disk.
///
/// Cheap to clone: a write works on a copy, and the copy takes the original's place once the
/// write has succeeded (rule 19 of the contract).
///
/// Invariants, checked by [`GroupState::check`] before every write and at open:
/// 1. `first_index - 1 <= applied <= commit <= last_index` (rules 12 and 13).
/// 2. The snapshot's index is not past `applied`, and where the log still knows the term at
///    its index, it is the snapshot's.
/// 3. A log that does not start at 1 was truncated at an index with a term above 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupState {
    /// Whether the group's records are on disk.
    pub exists: bool,
    pub terms: TermIndex,
    pub hard_state: HardState,
    pub conf_state: Arc<ConfState>,
    pub applied: u64,
    pub snapshot: Option<Arc<SnapshotRecord>>,
}

impl GroupState {
    /// A group that has never been written to.
    pub(crate) fn fresh() -> Self {
        GroupState {
            exists: false,
            terms: TermIndex::new(0, 0),
            hard_state: HardState::default(),
            conf_state: Arc::default(),
            applied: 0,
            snapshot: None,
        }
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.terms.truncated() + 1
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.terms.last()
    }

    pub(crate) fn commit(&self) -> u64 {
        self.hard_state.commit
    }

    /// The index of the snapshot, 0 without one.
    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index)
    }

    /// The term at `index`, for any in `[first_index - 1, last_index]`.
    ///
    /// # Errors
    /// [`Error::Compacted`] below, [`Error::Unavailable`] above.
    pub(crate) fn term(&self, index: u64) -> Result<u64> {
        match self.terms.term(index) {
            Some(term) => Ok(term),
            None if index < self.first_index() => Err(Error::Compacted {
                index,
                first: self.first_index(),
            }),
            None => Err(Error::Unavailable {
                index,
                last: self.last_index(),
            }),
        }
    }

    /// The first invariant that does not hold, as (what was expected, what was found).
    pub(crate) fn check(&self) -> std::result::Result<(), (String, String)> {
        let (truncated, last) = (self.terms.truncated(), self.last_index());
        let (commit, applied) = (self.commit(), self.applied);
        if !(truncated..=last).contains(&commit) {
            return Err((
                format!("commit in {truncated}..={last}"),
                format!("commit {commit}"),
            ));
        }
        if !(truncated..=commit).contains(&applied) {
            return Err((
                format!("applied in {truncated}..={commit}"),
                format!("applied {applied}"),
            ));
        }
        if (truncated == 0) != (self.terms.term(truncated) == Some(0)) {
            return Err((
                "term 0 at index 0 and nowhere else".to_owned(),
                format!(
                    "term {:?} at the truncated index {truncated}",
                    self.terms.term(truncated)
                ),
            ));
        }
        let Some(snapshot) = &self.snapshot else {
            return Ok(());
        };
        let (index, term) = (snapshot.index, snapshot.term);
        if !(1..=applied).contains(&index) {
            let expected = format!("a snapshot at an index in 1..={applied}");
            return Err((expected, format!("a snapshot at {index}")));
        }
        match self.terms.term(index) {
            Some(known) if known != term => Err((
                format!("a snapshot of term {known} at index {index}"),
                format!("one of term {term}"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(truncated: (u64, u64), terms: &[u64], commit: u64, applied: u64) -> GroupState {
        let mut state = GroupState::fresh();
        state.terms = TermIndex::new(truncated.0, truncated.1);
        terms.iter().for_each(|term| state.terms.push(*term));
        state.hard_state.commit = commit;
        state.applied = applied;
        state
    }

    #[test]
    fn sound_states_pass() {
        assert_eq!(GroupState::fresh().check(), Ok(()));
        assert_eq!(state((4, 2), &[2, 3], 5, 4).check(), Ok(()));
    }

    #[test]
    fn each_broken_invariant_is_found() {
        assert!(
            state((4, 2), &[2], 3, 4).check().is_err(),
            "commit before the log"
        );
        assert!(
            state((4, 2), &[2], 6, 4).check().is_err(),
            "commit past the log"
        );
        assert!(
            state((4, 2), &[2], 5, 3).check().is_err(),
            "applied before the log"
        );
        assert!(
            state((0, 0), &[2, 2], 1, 2).check().is_err(),
            "applied past commit"
        );
        assert!(
            state((4, 0), &[2], 5, 4).check().is_err(),
            "truncated without a term"
        );
        let with_snapshot = |index, term| {
            let mut state = state((4, 2), &[3, 3], 6, 5);
            let record = SnapshotRecord {
                index,
                term,
                ..SnapshotRecord::default()
            };
            state.snapshot = Some(Arc::new(record));
            state.check()
        };
        assert_eq!(with_snapshot(5, 3), Ok(()));
        assert_eq!(
            with_snapshot(2, 1),
            Ok(()),
            "behind the log: a producer makes newer ones"
        );
        assert!(with_snapshot(5, 2).is_err(), "of another term");
        assert!(with_snapshot(6, 3).is_err(), "not applied");
        assert!(with_snapshot(0, 0).is_err(), "at index 0");
    }
}
