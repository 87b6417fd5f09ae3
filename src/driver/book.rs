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
        for single in change.get_changes() {
            let id = single.node_id;
            if single.get_change_type() == ConfChangeType::RemoveNode || id == 0 {
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
