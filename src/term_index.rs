//! Run-length terms of a log: answers `term(index)` without I/O. Pure.
//!
//! raft-rs walks `term` one index at a time when it looks for a conflict (rule 18 of the
//! contract), so it is answered from memory. A log has as many runs as leaders wrote to it,
//! not as many as entries: a few, whatever its length.

use std::sync::Arc;

/// The terms at `[truncated index, last index]` as runs of equal terms.
///
/// Invariants:
/// 1. There is at least one run; the first starts at the truncated index (`first_index - 1`),
///    whose term stays known after the entry itself is gone.
/// 2. Runs start at strictly increasing indexes and have strictly increasing terms.
/// 3. The last run ends at `last`, which is not below the truncated index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermIndex {
    /// (first index of the run, its term). Shared with copies: most writes add to the last run,
    /// which changes `last` alone.
    runs: Arc<Vec<(u64, u64)>>,
    truncated: u64,
    last: u64,
}

impl TermIndex {
    /// An empty log behind `truncated`, the last index compacted away, which had `term`.
    pub fn new(truncated: u64, term: u64) -> Self {
        TermIndex {
            runs: Arc::new(vec![(truncated, term)]),
            truncated,
            last: truncated,
        }
    }

    /// The last index compacted away.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The last index, the truncated one when the log is empty.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The term at the last index.
    pub fn last_term(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.1)
    }

    /// The term at `index`; `None` outside `[truncated, last]`.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index < self.truncated || index > self.last {
            return None;
        }
        // Nearly always asked for what was written last.
        if let Some(last) = self.runs.last().filter(|run| run.0 <= index) {
            return Some(last.1);
        }
        let run = self
            .runs
            .partition_point(|run| run.0 <= index)
            .checked_sub(1)?;
        self.runs.get(run).map(|run| run.1)
    }

    /// Appends the next entry's term. The caller has checked that it is not below the last.
    pub fn push(&mut self, term: u64) {
        debug_assert!(term >= self.last_term());
        self.last += 1;
        if term != self.last_term() {
            Arc::make_mut(&mut self.runs).push((self.last, term));
        }
    }

    /// Appends entries of one term up to and including `last`, which is past the last index.
    pub fn push_run(&mut self, term: u64, last: u64) {
        debug_assert!(last > self.last);
        self.push(term);
        self.last = last;
    }

    /// Drops everything past `last`, which is in `[truncated, last]`.
    pub fn truncate_suffix(&mut self, last: u64) {
        debug_assert!((self.truncated..=self.last).contains(&last));
        while self.runs.len() > 1 && self.runs.last().is_some_and(|run| run.0 > last) {
            Arc::make_mut(&mut self.runs).pop();
        }
        self.last = last.max(self.truncated);
    }

    /// Forgets everything below `truncated`, which is in `[truncated, last]`; its own term
    /// stays known.
    pub fn compact(&mut self, truncated: u64) {
        debug_assert!((self.truncated..=self.last).contains(&truncated));
        let runs = Arc::make_mut(&mut self.runs);
        while runs.get(1).is_some_and(|run| run.0 <= truncated) {
            runs.remove(0);
        }
        if let Some(first) = runs.first_mut() {
            first.0 = truncated;
        }
        self.truncated = truncated;
    }

    #[cfg(test)]
    /// How many runs there are: what the index costs in memory, 16 bytes each.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index_of(truncated: (u64, u64), terms: &[u64]) -> TermIndex {
        let mut index = TermIndex::new(truncated.0, truncated.1);
        terms.iter().for_each(|term| index.push(*term));
        index
    }

    #[test]
    fn a_fresh_log_answers_for_zero_alone() {
        let index = TermIndex::new(0, 0);
        assert_eq!(
            (index.term(0), index.term(1), index.last()),
            (Some(0), None, 0)
        );
    }

    #[test]
    fn terms_are_answered_across_runs() {
        let index = index_of((4, 1), &[1, 2, 2, 5]);
        let terms: Vec<_> = (3..=9).map(|i| index.term(i)).collect();
        assert_eq!(
            terms,
            [None, Some(1), Some(1), Some(2), Some(2), Some(5), None]
        );
        assert_eq!(index.runs(), 3);
    }

    #[test]
    fn a_truncated_suffix_can_be_written_anew() {
        let mut index = index_of((0, 0), &[1, 1, 2, 3]);
        index.truncate_suffix(2);
        assert_eq!(
            (index.last(), index.last_term(), index.term(3)),
            (2, 1, None)
        );
        index.push(4);
        assert_eq!((index.term(2), index.term(3)), (Some(1), Some(4)));
        index.truncate_suffix(0);
        assert_eq!(index, TermIndex::new(0, 0));
    }

    #[test]
    fn the_term_before_the_first_entry_survives_compaction() {
        let mut index = index_of((0, 0), &[1, 1, 2, 3]);
        index.compact(2);
        assert_eq!(
            (index.term(1), index.term(2), index.term(3)),
            (None, Some(1), Some(2))
        );
        index.compact(4);
        assert_eq!((index.term(4), index.last(), index.runs()), (Some(3), 4, 1));
        index.push(3);
        assert_eq!((index.term(5), index.runs()), (Some(3), 1));
    }

    #[test]
    fn agrees_with_a_plain_list_of_terms() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut index = TermIndex::new(0, 0);
        let mut terms = vec![0u64];
        let mut base = 0u64;
        for _ in 0..20_000 {
            match random.u8(..10) {
                0 => {
                    let last = random.u64(base..=index.last());
                    index.truncate_suffix(last);
                    terms.truncate((last - base + 1) as usize);
                }
                1 => {
                    let to = random.u64(base..=index.last());
                    index.compact(to);
                    terms.drain(..(to - base) as usize);
                    base = to;
                }
                _ => {
                    let term = index.last_term() + u64::from(random.u8(..4) == 0);
                    index.push(term);
                    terms.push(term);
                }
            }
            let probe = base + random.u64(..terms.len() as u64 + 2);
            assert_eq!(
                index.term(probe),
                terms.get((probe - base) as usize).copied()
            );
            assert_eq!(index.last() + 1 - base, terms.len() as u64);
        }
    }
}
