//! After the run: opens every directory again and compares what is in them with each other and
//! with what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use raft_rocks::raft::eraftpb::Entry;

use crate::Failure;
use crate::client::{put_key, put_value};
use crate::cluster::{node_ids, open_store};
use crate::machine::{History, Machine, put_command};

/// What a node's directory holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    pub id: u64,
    pub first: u64,
    pub last: u64,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub voters: BTreeSet<u64>,
    pub entries: Vec<Entry>,
    pub pairs: BTreeMap<String, String>,
    pub history: History,
}

impl Contents {
    fn entry(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.first)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }
}

/// Opens all stores, which checks each of them whole, and reads them.
pub fn read_all(dir: &Path) -> Result<Vec<Contents>, Failure> {
    node_ids()
        .map(|id| read(dir, id).map_err(|e| format!("node {id}, reopened: {e}").into()))
        .collect()
}

fn read(dir: &Path, id: u64) -> Result<Contents, Failure> {
    let storage = open_store(dir, id)?;
    let (first, last) = (storage.first_index(), storage.last_index());
    let hard_state = storage.hard_state();
    let machine = Machine::load(storage.clone(), Arc::default())?;
    Ok(Contents {
        id,
        first,
        last,
        term: hard_state.term,
        commit: hard_state.commit,
        applied: storage.applied_index(),
        snapshot: storage
            .snapshot_metadata()
            .map_or(0, |metadata| metadata.index),
        voters: storage.conf_state().voters.into_iter().collect(),
        entries: storage.entries(first, last + 1, None)?,
        pairs: machine.pairs,
        history: machine.history,
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged puts that some node does not hold.
    pub lost: usize,
    /// Indices of the log, keys and other states in which nodes differ, or are not as they must be.
    pub diverged: usize,
    /// Each of them in words.
    pub notes: Vec<String>,
}

/// Compares the nodes; of `puts` proposed puts those in `acknowledged` must be there, each at the
/// index of the log that the client was told.
///
/// # Errors
/// When there is nothing to compare: no two logs have an index in common.
pub fn compare(
    nodes: &[Contents],
    puts: u64,
    acknowledged: &BTreeMap<u64, u64>,
) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    findings.compare_logs(nodes)?;
    findings.compare_pairs(nodes, puts);
    let what = "history: puts left out, applied twice or in another order";
    findings.compare(nodes, what, |node| node.history);
    findings.compare(nodes, "term", |node| node.term);
    for node in nodes {
        findings.check_state(node);
    }
    findings.find_lost(nodes, acknowledged);
    Ok(findings)
}

impl Findings {
    fn diverge(&mut self, note: String) {
        self.diverged += 1;
        self.notes.push(note);
    }

    fn compare<'a, T: PartialEq>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a Contents>,
        what: &str,
        part: impl Fn(&'a Contents) -> T,
    ) {
        let mut nodes = nodes.into_iter();
        let Some(one) = nodes.next() else { return };
        if let Some(other) = nodes.find(|other| part(other) != part(one)) {
            let (one, other) = (one.id, other.id);
            self.diverge(format!("{what}: node {other} differs from node {one}"));
        }
    }

    /// Each index that two nodes or more hold: they compact when they like, and one that has just
    /// installed a snapshot holds none.
    fn compare_logs(&mut self, nodes: &[Contents]) -> Result<(), Failure> {
        let first = nodes.iter().map(|node| node.first).min().unwrap_or(1);
        let last = nodes.iter().map(|node| node.last).max().unwrap_or(0);
        let mut compared = 0;
        for index in first..=last {
            let holds = |node: &&Contents| (node.first..=node.last).contains(&index);
            let holders = || nodes.iter().filter(holds);
            let what = format!("log at {index}: entries of another term or with other data");
            self.compare(holders(), &what, |node| node.entry(index));
            compared += usize::from(holders().count() > 1);
        }
        self.compare(nodes, "last index", |node| node.last);
        match compared {
            0 => Err("no two logs have an index in common to be compared at".into()),
            _ => Ok(()),
        }
    }

    fn compare_pairs(&mut self, nodes: &[Contents], puts: u64) {
        let proposed: BTreeMap<_, _> = (0..puts).map(|n| (put_key(n), put_value(n))).collect();
        let keys: BTreeSet<&String> = nodes.iter().flat_map(|node| node.pairs.keys()).collect();
        for key in keys {
            self.compare(nodes, &format!("pair {key}"), |node| node.pairs.get(key));
            let is_foreign = |value: &String| Some(value) != proposed.get(key);
            let mut nodes = nodes.iter();
            if let Some(node) = nodes.find(|node| node.pairs.get(key).is_some_and(is_foreign)) {
                let id = node.id;
                self.diverge(format!("pair {key}: nobody proposed what node {id} holds"));
            }
        }
    }

    fn check_state(&mut self, node: &Contents) {
        let (id, term, voters) = (node.id, node.term, &node.voters);
        let (puts, pairs) = (node.history.puts, node.pairs.len());
        if puts != pairs as u64 {
            self.diverge(format!(
                "history: {puts} puts of {pairs} pairs on node {id}"
            ));
        }
        if !voters.iter().copied().eq(node_ids()) {
            self.diverge(format!("configuration: on node {id} vote {voters:?}"));
        }
        // A node whose term is behind its log has forgotten a term, and might vote in it again.
        let newest = node.entries.last().map_or(0, |entry| entry.term);
        if term < newest {
            self.diverge(format!("term: node {id} is at {term}, its log at {newest}"));
        }
    }

    fn find_lost(&mut self, nodes: &[Contents], acknowledged: &BTreeMap<u64, u64>) {
        for (number, index) in acknowledged {
            let (key, value) = (put_key(*number), put_value(*number));
            let command = put_command(&key, &value);
            let lacks = |node: &&Contents| {
                let is_in_log = match node.entry(*index) {
                    Some(entry) => entry.data == command,
                    // Compacted away, it is in the pairs alone.
                    None => *index < node.first,
                };
                !is_in_log || node.pairs.get(&key) != Some(&value)
            };
            if let Some(node) = nodes.iter().find(lacks) {
                let note = format!("acknowledged at index {index}, but not on node {}", node.id);
                self.notes.push(format!("pair {key}: {note}"));
                self.lost += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUTS: u64 = 3;

    fn node(id: u64) -> Contents {
        let entry = |index: u64| {
            let mut entry = Entry::default();
            (entry.index, entry.term) = (index, 2);
            let number = index - 7;
            entry.data = put_command(&put_key(number), &put_value(number)).into();
            entry
        };
        Contents {
            id,
            // Each node has compacted as far as it liked.
            first: 6 + id,
            last: 9,
            term: 2,
            commit: 9,
            applied: 9,
            snapshot: 5 + id,
            voters: node_ids().collect(),
            entries: (6 + id..=9).map(entry).collect(),
            pairs: (0..PUTS).map(|n| (put_key(n), put_value(n))).collect(),
            history: History {
                puts: PUTS,
                checksum: 1,
            },
        }
    }

    /// Lost and diverged after `damage` to the second of three nodes.
    fn found(damage: impl FnOnce(&mut Contents)) -> (usize, usize) {
        let mut nodes: Vec<Contents> = (1..=3).map(node).collect();
        damage(&mut nodes[1]);
        // At 7, 8 and 9: the first two nodes hold the last two of them.
        let acknowledged = (0..PUTS).map(|number| (number, number + 7)).collect();
        let findings = compare(&nodes, PUTS, &acknowledged).unwrap();
        assert_eq!(findings.notes.len(), findings.lost + findings.diverged);
        (findings.lost, findings.diverged)
    }

    #[test]
    fn each_difference_is_found() {
        type Case = (&'static str, fn(&mut Contents), (usize, usize));
        let cases: [Case; 11] = [
            ("equal nodes", |_| {}, (0, 0)),
            ("term of an entry", |of| of.entries[0].term = 1, (0, 1)),
            ("data", |of| of.entries[0].data = vec![0].into(), (1, 1)),
            ("missing entry", |of| drop(of.entries.pop()), (1, 1)),
            ("voters", |of| of.voters.clear(), (0, 1)),
            ("another term", |of| of.term = 3, (0, 1)),
            ("term behind the log's", |of| of.term = 1, (0, 2)),
            ("another order", |of| of.history.checksum = 4, (0, 1)),
            ("applied twice", |of| of.history.puts = 4, (0, 2)),
            ("no pair", |of| drop(of.pairs.remove(&put_key(1))), (1, 2)),
            (
                "no value",
                |of| of.pairs.values_mut().for_each(String::clear),
                (3, 6),
            ),
        ];
        for (name, damage, expected) in cases {
            assert_eq!(found(damage), expected, "{name}");
        }
    }

    #[test]
    fn what_all_nodes_lack_is_lost_too() {
        let mut nodes: Vec<Contents> = (1..=3).map(node).collect();
        for node in &mut nodes {
            node.pairs.remove(&put_key(0));
            node.history.puts = 2;
        }
        let findings = compare(&nodes, PUTS, &BTreeMap::from([(0, 7), (1, 8)])).unwrap();
        assert_eq!((findings.lost, findings.diverged), (1, 0));
    }

    #[test]
    fn logs_that_do_not_overlap_cannot_be_compared() {
        let mut nodes: Vec<Contents> = (1..=3).map(node).collect();
        nodes.iter_mut().for_each(|node| node.first = node.last + 1);
        assert!(compare(&nodes, PUTS, &BTreeMap::new()).is_err());
    }
}
