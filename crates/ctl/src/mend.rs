//! What would make a group open again, and what that costs.
//!
//! Two rules decide. What the bounds say can be told from the entries, and an entry that the
//! snapshot stands in for is not needed: that forgets nothing. Everything else forgets something
//! that the node has acknowledged, an uncommitted entry as well: the leader may have counted it.

use raft_rocks::keys::{self, Meta};
use raft_rocks::record::{self, FirstIndex, LastIndex, MetaRecord, UncommitIndex};
use raft_rocks::tools::Change;

use crate::survey::{States, Survey};

/// One thing to do.
#[derive(Clone, Debug)]
pub struct Step {
    pub group: u64,
    pub what: String,
    /// Afterwards the store no longer knows something that it acknowledged.
    pub forgets: bool,
    pub changes: Vec<Change>,
}

/// The way back for a group. Nothing to do for one that is sound.
pub enum Mend {
    Steps(Vec<Step>),
    /// There is none, and why.
    None(String),
}

impl Mend {
    /// What makes `survey`'s group open again.
    pub fn of(survey: &Survey) -> Mend {
        match plan(survey) {
            Ok(steps) => Mend::Steps(steps),
            Err(why) => Mend::None(why),
        }
    }
}

/// Where the log begins: the last index that is not in it, and its term.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Base {
    index: u64,
    term: u64,
}

struct Plan<'a> {
    survey: &'a Survey,
    states: &'a States,
    base: Base,
    last: u64,
    commit: u64,
    applied: u64,
    steps: Vec<Step>,
}

fn plan(survey: &Survey) -> Result<Vec<Step>, String> {
    let states = &survey.states;
    if survey.log.is_unreadable {
        return Err("RocksDB cannot read all of its tables: what is in them is unknown".into());
    }
    if !survey.log.strays.is_empty() {
        return Err("there are keys between the entries that no version writes".into());
    }
    let Some(hard_state) = states.hard_state.sound() else {
        return Err("its term and vote are unknown: it could vote twice in a term".into());
    };
    let Some(conf_state) = states.conf_state.sound() else {
        return Err("its configuration and what it has applied are unknown".into());
    };
    if states
        .problems()
        .iter()
        .any(|(meta, _)| *meta == Meta::Snapshot)
    {
        return Err("its snapshot is unknown, and with it the state it began from".into());
    }
    let base = base(survey, conf_state.applied)?;
    let mut plan = Plan {
        survey,
        states,
        base,
        last: survey.log.reach(base.index),
        commit: hard_state.commit,
        applied: conf_state.applied,
        steps: Vec::new(),
    };
    plan.mend_log()?;
    plan.check()?;
    plan.mend_bounds();
    plan.mend_snapshot_file();
    Ok(plan.steps)
}

/// Where the log begins, by the record or, without one, by what stands there.
fn base(survey: &Survey, applied: u64) -> Result<Base, String> {
    let (states, log) = (&survey.states, &survey.log);
    if let Some(first) = states.first.sound() {
        if first.truncated_index.checked_add(1) != Some(first.first_index) {
            return Err("its first index contradicts itself".into());
        }
        return Ok(Base {
            index: first.truncated_index,
            term: first.truncated_term,
        });
    }
    let snapshot = states.snapshot.sound();
    let snapshot = snapshot.filter(|_| survey.snapshot_file.is_none());
    match log.lowest() {
        Some(1) => Ok(Base { index: 0, term: 0 }),
        Some(lowest) => match snapshot {
            Some(s) if s.index.saturating_add(1) >= lowest => Ok(Base {
                index: s.index,
                term: s.term,
            }),
            // The term before the first entry is gone, that of the entry is not.
            _ if applied >= lowest => Ok(Base {
                index: lowest,
                term: log.term(lowest).unwrap_or(0),
            }),
            _ => Err(format!(
                "the term of the entry before {lowest}, the first one left, is gone"
            )),
        },
        None => match states.last.sound() {
            Some(last) => Ok(Base {
                index: last.last_index,
                term: last.last_term,
            }),
            None => Err("it has neither entries nor bounds".into()),
        },
    }
}

impl Plan<'_> {
    /// Where the log should end, by its bounds and by what stands there.
    fn target(&self) -> u64 {
        let stated = self.states.last.sound().map_or(0, |last| last.last_index);
        stated.max(self.survey.log.highest).max(self.base.index)
    }

    fn mend_log(&mut self) -> Result<(), String> {
        let stated_base = self.states.first.sound().map(|first| first.truncated_index);
        if self.last < self.target() && self.last < self.commit {
            self.begin_behind_the_snapshot()?;
        }
        if stated_base != Some(self.base.index) {
            let lowest = self.survey.log.lowest().unwrap_or(u64::MAX);
            if lowest <= self.base.index {
                let what = format!(
                    "remove the entries up to {}, which are applied and not needed",
                    self.base.index
                );
                self.step(what, false, vec![self.delete_up_to_base()]);
            }
        }
        if self.last < self.target() {
            let (from, to) = (self.last + 1, self.target());
            let what = format!(
                "drop the entries [{from}, {}), which are not known to be committed, and of which \
                 {from} is missing or damaged; the leader may have counted them",
                to.saturating_add(1)
            );
            let group = self.states.group;
            let (low, high) = (keys::entry(group, from), keys::entries_end(group));
            self.step(what, true, vec![Change::DeleteRange(low, high)]);
        }
        Ok(())
    }

    /// A committed entry is gone: nothing is lost if the snapshot stands in for it.
    fn begin_behind_the_snapshot(&mut self) -> Result<(), String> {
        let gone = self.last + 1;
        let Some(snapshot) = self.states.snapshot.sound().filter(|s| s.index >= gone) else {
            return Err(format!(
                "entry {gone} is committed and gone, and no snapshot stands in for it"
            ));
        };
        if self.survey.snapshot_file.is_some() {
            return Err(format!(
                "entry {gone} is committed and gone, and the file of the snapshot that would \
                 stand in for it is missing or damaged"
            ));
        }
        self.base = Base {
            index: snapshot.index,
            term: snapshot.term,
        };
        self.last = self.survey.log.reach(snapshot.index);
        Ok(())
    }

    fn delete_up_to_base(&self) -> Change {
        let group = self.states.group;
        let end = keys::entry(group, self.base.index.saturating_add(1));
        Change::DeleteRange(keys::entry(group, 0), end)
    }

    /// The rules that an open checks, on what would be there.
    fn check(&self) -> Result<(), String> {
        let (base, last) = (self.base.index, self.last);
        if last == u64::MAX {
            return Err("its last index is one that no log can have".into());
        }
        if !(base..=last).contains(&self.commit) {
            return Err(format!(
                "its commit, {}, lies outside of the log that is left, {base} to {last}",
                self.commit
            ));
        }
        if !(base..=self.commit).contains(&self.applied) {
            return Err(format!(
                "what it has applied, {}, lies outside of {base} to its commit, {}",
                self.applied, self.commit
            ));
        }
        if (base == 0) != (self.base.term == 0) || self.term_of_last() < self.base.term {
            return Err("the term that the log begins with contradicts its entries".into());
        }
        if let Some(snapshot) = self.states.snapshot.sound() {
            let known = match snapshot.index {
                index if index == base => Some(self.base.term),
                index => self.survey.log.term(index).filter(|_| index > base),
            };
            let fits = known.is_none_or(|term| term == snapshot.term);
            if !fits || !(1..=self.applied).contains(&snapshot.index) {
                return Err("its snapshot contradicts the log".into());
            }
        }
        Ok(())
    }

    fn term_of_last(&self) -> u64 {
        if self.last == self.base.index {
            return self.base.term;
        }
        self.survey.log.term(self.last).unwrap_or(0)
    }

    fn mend_bounds(&mut self) {
        let first = FirstIndex {
            first_index: self.base.index + 1,
            truncated_index: self.base.index,
            truncated_term: self.base.term,
        };
        if self.states.first.sound() != Some(&first) {
            let what = format!(
                "make {} the first index, from what stands there",
                first.first_index
            );
            self.put(what, &first);
        }
        let last = LastIndex {
            last_index: self.last,
            last_term: self.term_of_last(),
        };
        if self.states.last.sound() != Some(&last) {
            let what = format!("make {} the last index, from the entries", last.last_index);
            self.put(what, &last);
        }
        let uncommit = UncommitIndex {
            uncommit_index: self.commit + 1,
        };
        if self.states.uncommit.sound() != Some(&uncommit) {
            let what = format!(
                "make {} the uncommit index, from the commit",
                self.commit + 1
            );
            self.put(what, &uncommit);
        }
    }

    fn mend_snapshot_file(&mut self) {
        if let (Some(_), Some(record)) = (&self.survey.snapshot_file, self.states.snapshot.sound())
        {
            let what = format!(
                "forget the snapshot at {}, whose file is missing or damaged; a state machine \
                 that starts from it starts with nothing",
                record.index
            );
            let key = keys::meta(self.states.group, Meta::Snapshot);
            self.step(what, true, vec![Change::Delete(key)]);
        }
    }

    fn put<R: MetaRecord>(&mut self, what: String, record: &R) {
        let group = self.states.group;
        let key = keys::meta(group, R::META);
        let value = record::encode_meta(group, record);
        self.step(what, false, vec![Change::Put(key, value)]);
    }

    fn step(&mut self, what: String, forgets: bool, changes: Vec<Change>) {
        self.steps.push(Step {
            group: self.states.group,
            what,
            forgets,
            changes,
        });
    }
}
