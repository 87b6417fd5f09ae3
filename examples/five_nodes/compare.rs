//! After the run: opens every directory again and compares what is in them with each other and
//! with what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use raft_rocks::raft::eraftpb::Entry;
use raft_rocks::{Options, RaftMachineStorage};

use crate::Failure;
use crate::client::{put_key, put_value};
use crate::cluster::node_dir;
use crate::machine::{self, History, Machine};
use crate::network::node_ids;

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
    let mut options = Options::default();
    options.column_families = machine::column_families();
    let storage = RaftMachineStorage::open(node_dir(dir, id), options)?;
    let (first, last) = (storage.first_index(), storage.last_index());
    let hard_state = storage.hard_state();
    let machine = Machine::new(storage.clone());
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
        pairs: machine.pairs()?,
        history: machine.history()?,
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged puts that some node does not hold.
    pub lost: usize,
    /// Indices of the log, keys and other states in which nodes differ.
    pub diverged: usize,
    /// Each of them in words.
    pub notes: Vec<String>,
}

impl Findings {
    fn diverge(&mut self, note: String) {
        self.diverged += 1;
        self.notes.push(note);
    }
}

/// Compares the nodes; of `puts` proposed puts those in `acknowledged` must be there.
///
/// # Errors
/// When there is nothing to compare: no two logs have an index in common.
pub fn compare(
    nodes: &[Contents],
    puts: usize,
    acknowledged: &BTreeSet<usize>,
) -> Result<Findings, Failure> {
    let nodes: &[&Contents] = &nodes.iter().collect::<Vec<_>>();
    let mut findings = Findings::default();
    compare_logs(nodes, &mut findings)?;
    compare_pairs(nodes, puts, &mut findings);
    compare_states(nodes, &mut findings);
    find_lost(nodes, acknowledged, &mut findings);
    Ok(findings)
}

/// Each index that two nodes or more hold: they compact when they like, and one that has just
/// installed a snapshot holds none.
fn compare_logs(nodes: &[&Contents], findings: &mut Findings) -> Result<(), Failure> {
    let first = nodes.iter().map(|node| node.first).min().unwrap_or(1);
    let last = nodes.iter().map(|node| node.last).max().unwrap_or(0);
    let mut compared = 0;
    for index in first..=last {
        let mut holders = nodes.to_vec();
        holders.retain(|node| (node.first..=node.last).contains(&index));
        let what = format!("log at {index}: entries of another term or with other data");
        note_difference(&holders, |node| node.entry(index), &what, findings);
        compared += usize::from(holders.len() > 1);
    }
    if compared == 0 {
        return Err("no two logs have an index in common to be compared at".into());
    }
    note_difference(nodes, |node| node.last, "last index", findings);
    Ok(())
}

fn compare_pairs(nodes: &[&Contents], puts: usize, findings: &mut Findings) {
    let proposed: BTreeMap<_, _> = (0..puts).map(|n| (put_key(n), put_value(n))).collect();
    let keys: BTreeSet<&String> = nodes.iter().flat_map(|node| node.pairs.keys()).collect();
    for key in keys {
        note_difference(
            nodes,
            |node| node.pairs.get(key),
            &format!("pair {key}"),
            findings,
        );
        let is_foreign = |node: &&Contents| {
            node.pairs
                .get(key)
                .is_some_and(|v| Some(v) != proposed.get(key))
        };
        if let Some(node) = nodes.iter().copied().find(is_foreign) {
            findings.diverge(format!(
                "pair {key}: nobody proposed what node {} holds",
                node.id
            ));
        }
    }
}

fn compare_states(nodes: &[&Contents], findings: &mut Findings) {
    let what = "history: puts left out, applied twice or in another order";
    note_difference(nodes, |node| node.history, what, findings);
    note_difference(nodes, |node| &node.voters, "configuration", findings);
    note_difference(nodes, |node| node.term, "term", findings);
    for node in nodes {
        // A node whose term is behind its log has forgotten a term, and might vote in it again.
        let newest = node.entries.last().map_or(0, |entry| entry.term);
        if node.term < newest {
            let (id, term) = (node.id, node.term);
            findings.diverge(format!("term: node {id} is at {term}, its log at {newest}"));
        }
    }
}

fn note_difference<'a, T: PartialEq>(
    nodes: &[&'a Contents],
    part: impl Fn(&'a Contents) -> T,
    what: &str,
    findings: &mut Findings,
) {
    let Some((one, others)) = nodes.split_first() else {
        return;
    };
    if let Some(other) = others.iter().find(|other| part(other) != part(one)) {
        findings.diverge(format!(
            "{what}: node {} differs from node {}",
            other.id, one.id
        ));
    }
}

fn find_lost(nodes: &[&Contents], acknowledged: &BTreeSet<usize>, findings: &mut Findings) {
    for number in acknowledged {
        let (key, value) = (put_key(*number), put_value(*number));
        let lacks = |node: &&Contents| node.pairs.get(&key) != Some(&value);
        if let Some(node) = nodes.iter().copied().find(lacks) {
            findings.lost += 1;
            findings.notes.push(format!(
                "pair {key}: acknowledged, but not on node {}",
                node.id
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUTS: usize = 3;

    fn node(id: u64) -> Contents {
        let entry = |index: u64| {
            let mut entry = Entry::default();
            (entry.index, entry.term) = (index, 2);
            entry.data = format!("put {index}").into_bytes().into();
            entry
        };
        Contents {
            id,
            // Each node has compacted as far as it liked.
            first: 3 + id,
            last: 9,
            term: 2,
            commit: 9,
            applied: 9,
            snapshot: 2 + id,
            voters: node_ids().collect(),
            entries: (3 + id..=9).map(entry).collect(),
            pairs: (0..PUTS).map(|n| (put_key(n), put_value(n))).collect(),
            history: History {
                puts: 3,
                checksum: 1,
            },
        }
    }

    /// Lost and diverged after `damage` to the last of three nodes.
    fn found(damage: impl FnOnce(&mut Contents)) -> (usize, usize) {
        let mut nodes: Vec<Contents> = (1..=3).map(node).collect();
        damage(nodes.last_mut().unwrap());
        let findings = compare(&nodes, PUTS, &(0..PUTS).collect()).unwrap();
        assert_eq!(findings.notes.len(), findings.lost + findings.diverged);
        (findings.lost, findings.diverged)
    }

    #[test]
    fn equal_nodes_pass() {
        assert_eq!(found(|_| {}), (0, 0));
    }

    #[test]
    fn each_difference_is_found() {
        assert_eq!(found(|node| node.entries[1].term = 1), (0, 1), "term");
        assert_eq!(
            found(|node| node.entries[1].data = vec![0].into()),
            (0, 1),
            "data"
        );
        assert_eq!(
            found(|node| drop(node.entries.pop())),
            (0, 1),
            "entry missing"
        );
        assert_eq!(found(|node| node.voters.clear()), (0, 1), "voters");
        assert_eq!(found(|node| node.term = 3), (0, 1), "another term");
        assert_eq!(
            found(|node| node.term = 1),
            (0, 2),
            "a term behind the log's"
        );
        assert_eq!(found(|node| node.history.puts = 4), (0, 1), "applied twice");
        assert_eq!(
            found(|node| drop(node.pairs.remove(&put_key(1)))),
            (1, 1),
            "pair missing"
        );
        let other = |node: &mut Contents| drop(node.pairs.insert(put_key(1), put_value(2)));
        assert_eq!(
            found(other),
            (1, 2),
            "another value, which nobody proposed for it"
        );
    }

    #[test]
    fn what_all_nodes_lack_is_lost_too() {
        let mut nodes: Vec<Contents> = (1..=3).map(node).collect();
        for node in &mut nodes {
            node.pairs.remove(&put_key(0));
        }
        let findings = compare(&nodes, PUTS, &(0..PUTS).collect()).unwrap();
        assert_eq!((findings.lost, findings.diverged), (1, 0));
    }

    #[test]
    fn logs_that_do_not_overlap_cannot_be_compared() {
        let mut nodes: Vec<Contents> = (1..=3).map(node).collect();
        nodes.iter_mut().for_each(|node| node.first = node.last + 1);
        assert!(compare(&nodes, PUTS, &BTreeSet::new()).is_err());
    }
}
