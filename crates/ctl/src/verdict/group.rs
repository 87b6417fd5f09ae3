//! What is wrong with a group.

use raft_rocks::Error;
use raft_rocks::keys::{self, Meta};

use super::Finding;
use crate::survey::Survey;
use crate::survey::log::{Fault, Problem};

/// Every finding; none exactly when an open takes the group.
pub fn judge(survey: &Survey) -> Vec<Finding> {
    let mut findings = records(survey);
    findings.extend(log(survey));
    findings.extend(bounds(survey));
    findings.extend(uncommit(survey));
    findings.extend(snapshot_file(survey));
    if findings.is_empty()
        && let Some(refusal) = &survey.refusal
    {
        findings.push(refused(survey, refusal));
    }
    if survey.refusal.is_none() {
        // What stands outside of the log is no damage: nobody reads it.
        findings.clear();
    }
    findings
}

fn group(survey: &Survey) -> u64 {
    survey.states.group
}

fn records(survey: &Survey) -> Vec<Finding> {
    let problems = survey.states.problems().into_iter();
    let findings = problems.map(|(meta, found)| {
        let (invariant, meaning) = of_record(meta);
        Finding {
            code: if found == "none" {
                "record-missing"
            } else {
                "record-damaged"
            },
            group: Some(group(survey)),
            at: keys::display(&keys::meta(group(survey), meta)),
            expected: "the record that was written".to_owned(),
            found,
            invariant,
            meaning,
        }
    });
    findings.collect()
}

fn of_record(meta: Meta) -> (&'static str, &'static str) {
    match meta {
        Meta::FirstIndex => (
            "a group knows where its log begins",
            "it can be told from the entries, as long as these are there",
        ),
        Meta::LastIndex => (
            "a group knows where its log ends",
            "it can be told from the entries, as long as these are there",
        ),
        Meta::HardState => (
            "a group knows its term and its vote",
            "the node could vote a second time in a term: two leaders, and committed entries lost",
        ),
        Meta::ConfState => (
            "a group knows its members and what it has applied",
            "the node could count votes of the wrong members, and apply entries twice",
        ),
        Meta::UncommitIndex => (
            "the uncommit index is the commit and one",
            "it follows from the commit: nothing is lost",
        ),
        Meta::Snapshot => (
            "a group's snapshot is the one that was stored",
            "a state machine that starts from it cannot start, and followers that lag cannot be \
             served",
        ),
    }
}

fn log(survey: &Survey) -> Vec<Finding> {
    let first = survey
        .states
        .first
        .sound()
        .map_or(0, |first| first.first_index);
    let commit = survey
        .states
        .hard_state
        .sound()
        .map_or(u64::MAX, |state| state.commit);
    let problems = survey.log.problems_from(first);
    problems
        .map(|problem| entry(survey, problem, commit))
        .collect()
}

fn entry(survey: &Survey, problem: &Problem, commit: u64) -> Finding {
    let (code, invariant) = match problem.fault {
        Fault::Missing => ("hole", "the log has no gaps"),
        Fault::Damaged => ("entry-damaged", "an entry is what was written at its index"),
        Fault::FallingTerm => ("terms-fall", "terms never fall along the log"),
        Fault::Unreadable => ("table-damaged", "RocksDB's tables are as it wrote them"),
    };
    let expected = match problem.high - problem.low {
        0 => "an entry".to_owned(),
        more => {
            format!("entries up to {}", problem.high).replace("up", &format!("({}) up", more + 1))
        }
    };
    Finding {
        code,
        group: Some(group(survey)),
        at: keys::display(&keys::entry(group(survey), problem.low)),
        expected,
        found: problem.detail.clone(),
        invariant,
        meaning: meaning_of_loss(survey, problem.low, problem.high, commit),
    }
}

fn meaning_of_loss(survey: &Survey, low: u64, high: u64, commit: u64) -> &'static str {
    let snapshot = survey
        .states
        .snapshot
        .sound()
        .map_or(0, |snapshot| snapshot.index);
    if high <= snapshot {
        "the snapshot stands in for it: nothing is lost, if the snapshot is whole"
    } else if low > commit {
        "it is not known here to be committed, but this node may have acknowledged it: if the \
         leader counted that, an entry that the cluster holds to be committed is on one node less \
         than it thinks"
    } else {
        "a committed entry is gone on this node: what it would apply, or send to others, would not \
         be what the cluster agreed on"
    }
}

/// The ends of the log, and where its states lie in it.
fn bounds(survey: &Survey) -> Vec<Finding> {
    let states = &survey.states;
    let (Some(first), Some(last)) = (states.first.sound(), states.last.sound()) else {
        return Vec::new();
    };
    let log = &survey.log;
    let mut findings = Vec::new();
    let mut add = |code, key: Vec<u8>, expected: String, found: String, meaning| {
        findings.push(Finding {
            code,
            group: Some(states.group),
            at: keys::display(&key),
            expected,
            found,
            invariant: "the bounds, the commit and the applied index fit the entries",
            meaning,
        });
    };
    let commit = states
        .hard_state
        .sound()
        .map_or(u64::MAX, |state| state.commit);
    let entry = |index| keys::entry(states.group, index);
    if last.last_index > log.highest.max(first.truncated_index) {
        let gone = log.highest.max(first.truncated_index) + 1;
        let meaning = meaning_of_loss(survey, gone, last.last_index, commit);
        let expected = format!("entries up to the last index, {}", last.last_index);
        add(
            "hole",
            entry(gone),
            expected,
            "the end of the log".to_owned(),
            meaning,
        );
    }
    if let Some(lowest) = log.lowest().filter(|lowest| *lowest > first.first_index) {
        let meaning = meaning_of_loss(survey, first.first_index, lowest - 1, commit);
        let expected = format!("the first entry, {}", first.first_index);
        add(
            "hole",
            entry(first.first_index),
            expected,
            format!("entry {lowest}"),
            meaning,
        );
    }
    let key = |meta| keys::meta(states.group, meta);
    if last.last_index < log.highest {
        let meaning = "entries that nobody would read, or a last index that was put back: they \
                       follow without a gap and their terms do not fall, or they are named above";
        let expected = format!("last index {}", log.highest);
        add(
            "last-index-wrong",
            key(Meta::LastIndex),
            expected,
            last.last_index.to_string(),
            meaning,
        );
    } else if let Some(term) = log.term(last.last_index)
        && term != last.last_term
    {
        let meaning = "it can be told from the entry";
        let (expected, found) = (format!("term {term}"), format!("term {}", last.last_term));
        add(
            "last-index-wrong",
            key(Meta::LastIndex),
            expected,
            found,
            meaning,
        );
    }
    if commit != u64::MAX && !(first.truncated_index..=last.last_index).contains(&commit) {
        let meaning = "raft does not start on it: entries that this node knew to be committed are \
                       not there";
        let expected = format!("commit in {}..={}", first.truncated_index, last.last_index);
        add(
            "commit-outside",
            key(Meta::HardState),
            expected,
            commit.to_string(),
            meaning,
        );
    }
    findings
}

fn uncommit(survey: &Survey) -> Option<Finding> {
    let (uncommit, hard_state) = (
        survey.states.uncommit.sound()?,
        survey.states.hard_state.sound()?,
    );
    if hard_state.commit.checked_add(1) == Some(uncommit.uncommit_index) {
        return None;
    }
    let (invariant, meaning) = of_record(Meta::UncommitIndex);
    Some(Finding {
        code: "uncommit-index-wrong",
        group: Some(group(survey)),
        at: keys::display(&keys::meta(group(survey), Meta::UncommitIndex)),
        expected: format!("commit {} and one", hard_state.commit),
        found: uncommit.uncommit_index.to_string(),
        invariant,
        meaning,
    })
}

fn snapshot_file(survey: &Survey) -> Option<Finding> {
    let found = survey.snapshot_file.clone()?;
    let file = survey.states.snapshot.sound()?.file.as_ref()?;
    Some(Finding {
        code: "snapshot-file",
        group: Some(group(survey)),
        at: format!("snapshot file {}", file.name),
        expected: "the file that was written".to_owned(),
        found,
        invariant: "the file that the snapshot record names is there and whole",
        meaning: "log and vote are whole. A state machine that starts from the snapshot cannot \
                  start, and followers that lag cannot be served; a copy of the file from a backup \
                  of this store heals it",
    })
}

/// What an open refuses and nothing above has named.
fn refused(survey: &Survey, error: &Error) -> Finding {
    let (at, expected, found) = match error {
        Error::Corruption {
            key,
            expected,
            found,
            ..
        } => (key.clone(), expected.clone(), found.clone()),
        other => (
            "the group".to_owned(),
            "one that opens".to_owned(),
            other.to_string(),
        ),
    };
    Finding {
        code: "invariant",
        group: Some(group(survey)),
        at,
        expected,
        found,
        invariant: "the records of a group fit each other",
        meaning: "its bounds, its states and its snapshot contradict each other: which of them is \
                  right cannot be told",
    }
}
