//! The entries of a group as they stand, whatever the bounds say.

use std::ops::ControlFlow;

use raft_rocks::keys::{self, Key};
use raft_rocks::record;
use raft_rocks::tools::View;

/// What is remembered of problems; the rest is counted.
const PROBLEMS_MAX: usize = 100;

/// How many entries are asked for one by one where RocksDB has given up.
const PROBES_MAX: u64 = 1_000_000;

/// Why an entry cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The entries on both sides are there.
    Missing,
    /// Its bytes are not what was written under this key.
    Damaged,
    /// Its term is 0, or below that of the entry before.
    FallingTerm,
    /// RocksDB cannot read the table that it is in.
    Unreadable,
}

/// Entries, one after the other, with the same fault.
#[derive(Clone, Debug)]
pub struct Problem {
    pub low: u64,
    /// The last of them.
    pub high: u64,
    pub fault: Fault,
    pub detail: String,
}

/// Sound entries without a gap, of terms that do not fall.
#[derive(Clone, Debug)]
pub struct Run {
    pub low: u64,
    /// The last of them.
    pub high: u64,
    /// (first index of a term, the term)
    terms: Vec<(u64, u64)>,
}

impl Run {
    fn new(index: u64, term: u64) -> Run {
        Run {
            low: index,
            high: index,
            terms: vec![(index, term)],
        }
    }

    fn last_term(&self) -> u64 {
        self.terms.last().map_or(0, |(_, term)| *term)
    }

    fn push(&mut self, term: u64) {
        self.high += 1;
        if term != self.last_term() {
            self.terms.push((self.high, term));
        }
    }

    fn term(&self, index: u64) -> Option<u64> {
        let within = (self.low..=self.high).contains(&index);
        let mut terms = self.terms.iter().rev().filter(|_| within);
        terms
            .find(|(from, _)| *from <= index)
            .map(|(_, term)| *term)
    }
}

/// The entries of a group.
#[derive(Default)]
pub struct LogSurvey {
    pub runs: Vec<Run>,
    pub problems: Vec<Problem>,
    pub problems_left_out: u64,
    /// Keys between the entries that are none.
    pub strays: Vec<String>,
    pub entries: u64,
    pub bytes: u64,
    /// The highest index that has a key.
    pub highest: u64,
    /// RocksDB could not read all of it.
    pub is_unreadable: bool,
}

impl LogSurvey {
    /// Reads every entry. `stated_last` is where the bounds say that the log ends.
    pub fn read(view: &View, group: u64, stated_last: u64, mut progress: impl FnMut(u64)) -> Self {
        let mut log = LogSurvey::default();
        let (low, high) = (keys::entry(group, 0), keys::entries_end(group));
        let scanned = view.scan(&low, &high, |key, value| {
            match keys::parse(key) {
                Some(Key::Entry(of, index)) if of == group => log.add(group, index, value),
                _ => log.strays.push(keys::display(key)),
            }
            progress(1);
            Ok(ControlFlow::Continue(()))
        });
        if let Err(e) = scanned {
            log.is_unreadable = true;
            log.probe(view, group, stated_last, &e.to_string());
        }
        log
    }

    /// After RocksDB has given up: asks for one entry after the other.
    fn probe(&mut self, view: &View, group: u64, stated_last: u64, why: &str) {
        let mut found_any = false;
        let from = self.highest.saturating_add(1);
        for index in from..=stated_last.min(from.saturating_add(PROBES_MAX)) {
            match view.get(&keys::entry(group, index)) {
                Ok(Some(value)) => self.add(group, index, &value),
                Ok(None) => {}
                Err(_) => {
                    found_any = true;
                    self.highest = index;
                    self.problem(index, index, Fault::Unreadable, why);
                }
            }
        }
        if !found_any {
            let index = self.highest.saturating_add(1);
            self.problem(index, index, Fault::Unreadable, why);
        }
    }

    fn add(&mut self, group: u64, index: u64, value: &[u8]) {
        self.entries += 1;
        self.bytes += value.len() as u64;
        let follows = self.highest.checked_add(1);
        if self.highest > 0 && Some(index) != follows {
            self.problem(self.highest + 1, index - 1, Fault::Missing, "none");
        }
        self.highest = index;
        let term = match record::view_entry(group, index, value) {
            Ok(view) => view.term,
            Err(damage) => {
                let detail = format!("{} where {} was expected", damage.found, damage.expected);
                return self.problem(index, index, Fault::Damaged, &detail);
            }
        };
        let previous = self.runs.last().map_or(0, Run::last_term);
        if term == 0 || term < previous {
            let detail = format!("term {term} behind term {previous}");
            return self.problem(index, index, Fault::FallingTerm, &detail);
        }
        match self
            .runs
            .last_mut()
            .filter(|run| run.high.checked_add(1) == Some(index))
        {
            Some(run) => run.push(term),
            None => self.runs.push(Run::new(index, term)),
        }
    }

    fn problem(&mut self, low: u64, high: u64, fault: Fault, detail: &str) {
        if let Some(last) = self.problems.last_mut()
            && last.fault == fault
            && last.high.checked_add(1) == Some(low)
        {
            last.high = high;
        } else if self.problems.len() < PROBLEMS_MAX {
            let detail = detail.to_owned();
            self.problems.push(Problem {
                low,
                high,
                fault,
                detail,
            });
        } else {
            self.problems_left_out += 1;
        }
    }

    /// The lowest index that has a sound entry.
    pub fn lowest(&self) -> Option<u64> {
        self.runs.first().map(|run| run.low)
    }

    /// The last entry of those that follow `index` without a gap; `index` itself if none does.
    pub fn reach(&self, index: u64) -> u64 {
        let next = index.saturating_add(1);
        let mut runs = self.runs.iter();
        runs.find(|run| (run.low..=run.high).contains(&next))
            .map_or(index, |run| run.high)
    }

    /// The term of a sound entry.
    pub fn term(&self, index: u64) -> Option<u64> {
        self.runs.iter().find_map(|run| run.term(index))
    }

    /// The problems from `from` on: those before the log do not count.
    pub fn problems_from(&self, from: u64) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .filter(move |problem| problem.high >= from)
    }
}
