//! Reads that wait until they may be served; pure.
//!
//! Invariants:
//! 1. A linearizable read is served only after a round begun *after* it arrived has been
//!    confirmed by a quorum, and after the machine has applied the index of that round.
//! 2. A lease lasts from the moment a confirmed round was *begun*: the quorum that answered
//!    it grants nobody else a vote for an election timeout from a later moment on. It is
//!    measured by the clock it is given, which counts the time a process is paused.
//! 3. A lease ends with the term, and with the first attempt to hand leadership over: that
//!    election does not wait for leases.

use std::collections::BTreeMap;
use std::time::Duration;

use super::proposals::RequestId;

/// Several reads that one question to the quorum answers.
#[derive(Debug)]
struct Round {
    /// Each question to the quorum has a number of its own: raft-rs takes an answer to an
    /// earlier question of the same name for one to the later, and with it to every question
    /// asked before that.
    numbers: Vec<u64>,
    reads: Vec<RequestId>,
    begun: Duration,
    term: u64,
    since_tick: u64,
    asked_tick: u64,
}

/// A read that waits for the machine.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    id: RequestId,
    since_tick: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    term: u64,
    until: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Arrived since the last round began.
    arrived: Vec<RequestId>,
    round: Option<Round>,
    questions: u64,
    /// By the index they wait for.
    confirmed: BTreeMap<u64, Vec<Confirmed>>,
    lease: Option<Lease>,
    /// The term in which leadership was to be handed over.
    transferred_term: u64,
}

impl Reads {
    pub(crate) fn arrive(&mut self, id: RequestId) {
        self.arrived.push(id);
    }

    pub(crate) fn len(&self) -> usize {
        let confirmed: usize = self.confirmed.values().map(Vec::len).sum();
        let asked = self.round.as_ref().map_or(0, |round| round.reads.len());
        self.arrived.len() + asked + confirmed
    }

    /// Begins a round when reads wait and none is under way. The number to ask with.
    pub(crate) fn begin(&mut self, now: Duration, term: u64, tick: u64) -> Option<u64> {
        if self.round.is_some() || self.arrived.is_empty() {
            return None;
        }
        self.questions += 1;
        self.round = Some(Round {
            numbers: vec![self.questions],
            reads: std::mem::take(&mut self.arrived),
            begun: now,
            term,
            since_tick: tick,
            asked_tick: tick,
        });
        Some(self.questions)
    }

    /// The number to ask with again: a question or its answer may be lost.
    pub(crate) fn ask_again(&mut self, tick: u64, every: u64) -> Option<u64> {
        let round = self.round.as_mut()?;
        if tick < round.asked_tick + every {
            return None;
        }
        round.asked_tick = tick;
        self.questions += 1;
        round.numbers.push(self.questions);
        Some(self.questions)
    }

    /// A quorum has answered a question at `index`. `lease` is how long that keeps another
    /// leader away, when this node leads in `term`.
    pub(crate) fn confirm(&mut self, number: u64, index: u64, term: u64, lease: Option<Duration>) {
        let Some(round) = self.round.take_if(|round| round.numbers.contains(&number)) else {
            return;
        };
        for id in round.reads {
            self.wait_for(index, id, round.since_tick);
        }
        if let Some(lasts) = lease
            && round.term == term
            && self.transferred_term != term
        {
            let until = round.begun + lasts;
            self.lease = Some(Lease { term, until });
        }
    }

    pub(crate) fn has_lease(&self, now: Duration, term: u64) -> bool {
        self.lease
            .is_some_and(|lease| lease.term == term && now < lease.until)
    }

    /// Leadership is to be handed over in this term.
    pub(crate) fn end_lease(&mut self, term: u64) {
        self.transferred_term = term;
        self.lease = None;
    }

    /// Serves a read of tick `since_tick` as soon as `index` is applied.
    pub(crate) fn wait_for(&mut self, index: u64, id: RequestId, since_tick: u64) {
        let confirmed = self.confirmed.entry(index).or_default();
        confirmed.push(Confirmed { id, since_tick });
    }

    /// Those that may be served now.
    pub(crate) fn serve(&mut self, applied: u64) -> Vec<RequestId> {
        let later = self.confirmed.split_off(&(applied + 1));
        let served = std::mem::replace(&mut self.confirmed, later);
        served.into_values().flatten().map(|read| read.id).collect()
    }

    /// Gives up what has waited since `tick`, for the quorum or for the machine.
    pub(crate) fn expire(&mut self, tick: u64) -> Vec<RequestId> {
        let expired = self.round.take_if(|round| round.since_tick <= tick);
        let mut expired = expired.map_or_else(Vec::new, |round| round.reads);
        self.confirmed.retain(|_, reads| {
            let old = reads.extract_if(.., |read| read.since_tick <= tick);
            expired.extend(old.map(|read| read.id));
            !reads.is_empty()
        });
        expired
    }

    pub(crate) fn take_all(&mut self) -> Vec<RequestId> {
        let mut all = std::mem::take(&mut self.arrived);
        all.extend(self.round.take().into_iter().flat_map(|round| round.reads));
        let confirmed = std::mem::take(&mut self.confirmed);
        all.extend(confirmed.into_values().flatten().map(|read| read.id));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_read_that_arrives_during_a_round_waits_for_the_next() {
        let mut reads = Reads::default();
        reads.arrive(1);
        let first = reads.begin(SECOND, 1, 0).unwrap();
        reads.arrive(2);
        assert_eq!(reads.begin(SECOND, 1, 0), None);
        reads.confirm(first, 10, 1, None);
        assert_eq!(reads.serve(9), []);
        assert_eq!(reads.serve(10), [1]);
        let second = reads.begin(SECOND, 1, 0).unwrap();
        reads.confirm(first, 11, 1, None);
        assert_eq!(reads.serve(11), []);
        reads.confirm(second, 11, 1, None);
        assert_eq!(reads.serve(11), [2]);
    }

    #[test]
    fn a_lease_lasts_from_the_beginning_of_its_round_and_ends_with_the_term() {
        let mut reads = Reads::default();
        reads.arrive(1);
        let round = reads.begin(SECOND, 3, 0).unwrap();
        reads.confirm(round, 10, 3, Some(SECOND));
        assert!(reads.has_lease(SECOND + SECOND / 2, 3));
        assert!(!reads.has_lease(2 * SECOND, 3));
        assert!(!reads.has_lease(SECOND, 4));
    }

    #[test]
    fn no_lease_in_a_term_whose_leadership_was_to_be_handed_over() {
        let mut reads = Reads::default();
        reads.arrive(1);
        let round = reads.begin(SECOND, 3, 0).unwrap();
        reads.end_lease(3);
        reads.confirm(round, 10, 3, Some(SECOND));
        assert!(!reads.has_lease(SECOND, 3));
    }

    #[test]
    fn a_round_of_an_earlier_term_makes_no_lease() {
        let mut reads = Reads::default();
        reads.arrive(1);
        let round = reads.begin(SECOND, 3, 0).unwrap();
        reads.confirm(round, 10, 4, Some(SECOND));
        assert!(!reads.has_lease(SECOND, 4));
    }

    #[test]
    fn a_round_without_an_answer_is_asked_again_and_given_up() {
        let mut reads = Reads::default();
        reads.arrive(1);
        let round = reads.begin(SECOND, 1, 5).unwrap();
        assert_eq!(reads.ask_again(6, 2), None);
        let again = reads.ask_again(7, 2).unwrap();
        assert_ne!(again, round, "an answer to the first is none to the second");
        assert_eq!(reads.ask_again(8, 2), None);
        assert_eq!(reads.expire(4), []);
        assert_eq!(reads.expire(5), [1]);
        assert_eq!(reads.len(), 0);
    }

    /// It waited for ever when the machine did not come to its index: one that was replaced by a
    /// snapshot of another cluster's node, or hangs.
    #[test]
    fn a_confirmed_read_is_given_up_when_the_machine_does_not_come_to_it() {
        let mut reads = Reads::default();
        reads.arrive(1);
        let round = reads.begin(SECOND, 1, 5).unwrap();
        reads.confirm(round, 10, 1, None);
        reads.wait_for(10, 2, 6);
        assert_eq!(reads.expire(4), []);
        assert_eq!(reads.expire(5), [1]);
        assert_eq!(reads.serve(10), [2]);
        assert_eq!(reads.len(), 0);
    }
}
