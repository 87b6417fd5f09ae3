//! The address book: who is in the cluster, who ever was, and where each node is reached.
//!
//! Invariants:
//! 1. It is a function of the committed log: every node that has applied the same entries holds
//!    the same book. It travels in the context of configuration changes, is stored with the
//!    applied index, and is part of every snapshot.
//! 2. It names exactly the nodes of the configuration it belongs to.
//! 3. An id names one store for ever: a node that lost its disk has forgotten its votes, and
//!    would vote twice under its old id. Ids that left are kept, and never come back.

use prost::Message;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, ConfState};

/// One node, as the others know it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeInfo {
    /// The node's raft id, never 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Where the other nodes reach it. The driver hands it to the transport and does not read
    /// it.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The id of its store, 16 random bytes made with the store.
    #[prost(bytes = "vec", tag = "3")]
    pub store_id: Vec<u8>,
    /// Whatever else the application wants everyone to know of it, such as the address for
    /// its clients.
    #[prost(bytes = "vec", tag = "4")]
    pub context: Vec<u8>,
    /// Whether a leader makes it a voter once it has caught up, when it joined as a learner.
    #[prost(bool, tag = "5")]
    pub promote: bool,
}

/// An id that is given is never given again, so that this many are enough, and the one after the
/// highest is always a number.
const ID_MAX: u64 = u64::MAX / 2;

/// What the whole book takes must fit a packet beside a message.
const NODES_MAX: usize = 256;
pub(crate) const ADDRESS_BYTES_MAX: usize = 1 << 10;
pub(crate) const CONTEXT_BYTES_MAX: usize = 16 << 10;
/// More than anybody changes at once.
const CHANGES_MAX: usize = 64;

/// Everything the cluster knows of its nodes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Book {
    /// 16 random bytes made at bootstrap. Nodes of another cluster are not talked to.
    #[prost(bytes = "vec", tag = "1")]
    pub cluster_id: Vec<u8>,
    /// The nodes of the configuration, by ascending id.
    #[prost(message, repeated, tag = "2")]
    pub nodes: Vec<NodeInfo>,
    /// Ids of nodes that left, ascending.
    #[prost(uint64, repeated, tag = "3")]
    pub retired: Vec<u64>,
}

/// Why a configuration change is not carried out, the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The id belonged to a node that left.
    #[error(
        "id {0} belonged to a node that left the cluster; ids are never used again: join with a new one"
    )]
    Retired(u64),
    /// The id belongs to a member with another store.
    #[error(
        "id {0} belongs to a member with another store; a node that lost its disk has forgotten \
         its votes: remove the old one, and join with a new id"
    )]
    OtherStore(u64),
    /// A node is added without saying where it is reached.
    #[error("node {0} is added without its address; give its NodeInfo")]
    Unknown(u64),
    /// An id that no node can have.
    #[error("a node cannot have id {0}: ids are from 1 to 2^63 - 1")]
    BadId(u64),
    /// What is told of a node is not part of the change, or is told twice.
    #[error("the change tells of node {0} twice, or without adding it")]
    NotAdded(u64),
    /// It would not fit what nodes send each other.
    #[error(
        "too much: a node's address has at most 1024 bytes, its context 16384, its store's id 16, \
         a change 64 parts, and a cluster 256 nodes"
    )]
    TooLarge,
    /// raft refuses the change.
    #[error("raft refuses the change: {0}")]
    Raft(String),
}

/// What travels with a configuration change.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ChangeContext {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NodeInfo>,
}

impl Book {
    /// The book of a new cluster.
    pub fn new(cluster_id: [u8; 16], nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut book = Book {
            cluster_id: cluster_id.to_vec(),
            ..Book::default()
        };
        for node in nodes {
            book.put(node);
        }
        book
    }

    /// The node with this id.
    pub fn node(&self, id: u64) -> Option<&NodeInfo> {
        let at = self.nodes.binary_search_by_key(&id, |node| node.id).ok()?;
        self.nodes.get(at)
    }

    /// Whether a node with this id has left.
    pub fn is_retired(&self, id: u64) -> bool {
        self.retired.binary_search(&id).is_ok()
    }

    /// An id that nobody has had.
    pub fn next_id(&self) -> u64 {
        let last = self.nodes.last().map_or(0, |node| node.id);
        last.max(self.retired.last().copied().unwrap_or(0)) + 1
    }

    /// Says whether `change`, with what is told of its nodes, may be carried out.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check(&self, change: &ConfChangeV2, told: &[NodeInfo]) -> Result<(), Refusal> {
        let is_added = |id: u64| {
            let mut singles = change.get_changes().iter();
            singles.any(|of| of.node_id == id && of.get_change_type() != ConfChangeType::RemoveNode)
        };
        let fits = |node: &NodeInfo| {
            node.address.len() <= ADDRESS_BYTES_MAX
                && node.context.len() <= CONTEXT_BYTES_MAX
                && node.store_id.len() <= 16
        };
        let parts = told.len().max(change.get_changes().len());
        let newcomers = told.iter().filter(|node| self.node(node.id).is_none());
        if parts > CHANGES_MAX
            || !told.iter().all(fits)
            || self.nodes.len() + newcomers.count() > NODES_MAX
        {
            return Err(Refusal::TooLarge);
        }
        for (at, node) in told.iter().enumerate() {
            let again = told.iter().take(at).any(|other| other.id == node.id);
            if again || !is_added(node.id) {
                return Err(Refusal::NotAdded(node.id));
            }
        }
        for single in change.get_changes() {
            let id = single.node_id;
            if !(1..=ID_MAX).contains(&id) {
                // 0 is nobody, and raft-rs passes a change of nobody by without a word.
                return Err(Refusal::BadId(id));
            }
            if single.get_change_type() == ConfChangeType::RemoveNode {
                continue;
            }
            let told = told.iter().find(|node| node.id == id);
            match (self.node(id), told) {
                (Some(known), Some(told)) if known.store_id != told.store_id => {
                    return Err(Refusal::OtherStore(id));
                }
                (Some(_), _) => {}
                (None, _) if self.is_retired(id) => return Err(Refusal::Retired(id)),
                (None, None) => return Err(Refusal::Unknown(id)),
                (None, Some(_)) => {}
            }
        }
        Ok(())
    }

    /// Follows a change that has been carried out: `conf_state` is what it led to. Nodes stay
    /// until they are in neither half of a joint configuration.
    pub fn follow(&mut self, conf_state: &ConfState, told: Vec<NodeInfo>) {
        for node in told {
            if contains(conf_state, node.id) {
                self.put(node);
            }
        }
        let (stay, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.nodes)
            .into_iter()
            .partition(|node| contains(conf_state, node.id));
        self.nodes = stay;
        self.retired.extend(left.iter().map(|node| node.id));
        self.retired.sort_unstable();
    }

    fn put(&mut self, node: NodeInfo) {
        match self.nodes.binary_search_by_key(&node.id, |node| node.id) {
            Ok(at) => {
                if let Some(known) = self.nodes.get_mut(at) {
                    *known = node;
                }
            }
            Err(at) => self.nodes.insert(at, node),
        }
    }
}

/// Whether a node is in any part of a configuration.
pub(crate) fn contains(conf_state: &ConfState, id: u64) -> bool {
    [
        conf_state.get_voters(),
        conf_state.get_learners(),
        conf_state.get_voters_outgoing(),
        conf_state.get_learners_next(),
    ]
    .iter()
    .any(|part| part.contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::ConfChangeSingle;

    fn node(id: u64, store: u8) -> NodeInfo {
        NodeInfo {
            id,
            address: format!("node-{id}"),
            store_id: vec![store; 16],
            ..NodeInfo::default()
        }
    }

    fn change(parts: &[(ConfChangeType, u64)]) -> ConfChangeV2 {
        let singles = parts.iter().map(|(kind, id)| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(*kind);
            single.node_id = *id;
            single
        });
        let mut change = ConfChangeV2::default();
        change.set_changes(singles.collect::<Vec<_>>().into());
        change
    }

    fn configuration(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState::from((voters.to_vec(), learners.to_vec()))
    }

    const VOTER: ConfChangeType = ConfChangeType::AddNode;
    const LEARNER: ConfChangeType = ConfChangeType::AddLearnerNode;
    const GONE: ConfChangeType = ConfChangeType::RemoveNode;

    #[test]
    fn an_id_is_given_once() {
        let mut book = Book::new([7; 16], [node(1, 1), node(2, 2)]);
        assert_eq!(book.next_id(), 3);
        book.follow(&configuration(&[1], &[]), vec![]);
        assert!(book.is_retired(2));
        assert_eq!(book.next_id(), 3);
        let refused = book.check(&change(&[(LEARNER, 2)]), &[node(2, 2)]);
        assert_eq!(refused, Err(Refusal::Retired(2)));
    }

    #[test]
    fn no_node_has_an_id_without_a_next_one() {
        let book = Book::new([7; 16], [node(1, 1)]);
        for id in [0, ID_MAX + 1, u64::MAX] {
            let refused = book.check(&change(&[(LEARNER, id)]), &[node(id, 2)]);
            assert_eq!(refused, Err(Refusal::BadId(id)));
        }
        let mut book = book;
        let highest = change(&[(LEARNER, ID_MAX)]);
        book.check(&highest, &[node(ID_MAX, 2)]).unwrap();
        book.follow(&configuration(&[1], &[ID_MAX]), vec![node(ID_MAX, 2)]);
        assert_eq!(book.next_id(), ID_MAX + 1);
    }

    #[test]
    fn a_member_keeps_its_store_and_may_move() {
        let mut book = Book::new([7; 16], [node(1, 1), node(2, 2)]);
        let same = change(&[(VOTER, 2)]);
        let refused = book.check(&same, &[node(2, 9)]);
        assert_eq!(refused, Err(Refusal::OtherStore(2)));
        let moved = NodeInfo {
            address: "elsewhere".to_owned(),
            ..node(2, 2)
        };
        book.check(&same, std::slice::from_ref(&moved)).unwrap();
        book.follow(&configuration(&[1, 2], &[]), vec![moved.clone()]);
        assert_eq!(book.node(2), Some(&moved));
    }

    /// One entry that no packet holds would have stopped the cluster: it is sent again for ever.
    #[test]
    fn what_no_packet_holds_is_refused() {
        let book = Book::new([7; 16], [node(1, 1)]);
        let large = NodeInfo {
            context: vec![0; CONTEXT_BYTES_MAX + 1],
            ..node(2, 2)
        };
        let far = NodeInfo {
            address: "x".repeat(ADDRESS_BYTES_MAX + 1),
            ..node(2, 2)
        };
        for told in [large, far] {
            let refused = book.check(&change(&[(LEARNER, 2)]), &[told]);
            assert_eq!(refused, Err(Refusal::TooLarge));
        }
        let many: Vec<_> = (2..=CHANGES_MAX as u64 + 2).collect();
        let parts: Vec<_> = many.iter().map(|id| (LEARNER, *id)).collect();
        let told: Vec<_> = many.iter().map(|id| node(*id, 2)).collect();
        assert_eq!(book.check(&change(&parts), &told), Err(Refusal::TooLarge));
        let full = Book::new([7; 16], (1..=NODES_MAX as u64).map(|id| node(id, 1)));
        let one_more = full.next_id();
        let refused = full.check(&change(&[(LEARNER, one_more)]), &[node(one_more, 2)]);
        assert_eq!(refused, Err(Refusal::TooLarge));
    }

    /// What was told of a node that the change did not add was taken without a look at its
    /// store: any change could put another store under a member's id.
    #[test]
    fn a_change_tells_of_those_it_adds_alone_and_once() {
        let book = Book::new([7; 16], [node(1, 1), node(2, 2)]);
        for (parts, told, refused) in [
            (vec![(LEARNER, 3)], vec![node(3, 3), node(2, 9)], 2),
            (vec![(GONE, 2)], vec![node(2, 9)], 2),
            (vec![(VOTER, 2)], vec![node(2, 2), node(2, 9)], 2),
            (vec![], vec![node(1, 9)], 1),
        ] {
            let found = book.check(&change(&parts), &told);
            assert_eq!(found, Err(Refusal::NotAdded(refused)));
        }
        let unknown = book.check(&change(&[(LEARNER, 3)]), &[]);
        assert_eq!(unknown, Err(Refusal::Unknown(3)));
        book.check(&change(&[(GONE, 2), (LEARNER, 3)]), &[node(3, 3)])
            .unwrap();
    }
}
