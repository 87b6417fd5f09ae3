//! How a node comes into being: first of a cluster, newcomer, or back after a restart.
//!
//! Invariants:
//! 1. The identity is in the store before anything else is.
//! 2. A store takes part under its own id alone, and in one cluster; a restored copy of a store
//!    is not that store any more.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use raft::GetEntriesContext;
use raft::eraftpb::ConfState;
use tokio::sync::oneshot;

use super::applier::{Applier, Change, Committed};
use super::apply_thread::REREAD_BYTES;
use super::book::{Book, NodeInfo};
use super::error::Error;
use super::identity::{self, Identity};
use super::inbox::Inbox;
use super::log_store::LogStore;
use super::node::Node;
use super::options::NodeOptions;
use super::peer::decode_change;
use super::request::{Ask, Done, Ending, RequestError};
use super::runtime;
use super::shared::{Own, Shared};
use super::state_machine::StateMachine;
use super::transport::Transport;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store or the machine failed.
    #[error(transparent)]
    Node(#[from] Error),
    /// An option cannot work.
    #[error("option {0}")]
    Options(&'static str),
    /// The store belongs to a node already.
    #[error("the store belongs to node {} already; open it, or give an empty directory", .0.node_id)]
    HasIdentity(Box<Identity>),
    /// The store belongs to no node.
    #[error("the store belongs to no node yet: bootstrap a cluster or join one")]
    NoIdentity,
    /// The store belongs to another node.
    #[error("the store belongs to node {stored}, not to {asked}; a node keeps its store")]
    OtherId {
        /// Whose it is.
        stored: u64,
        /// Who was to be started.
        asked: u64,
    },
    /// The store is a copy: what its node promised since is not in it.
    #[error(
        "the store is a restored copy: what node {0} promised since is not in it, and it might \
         vote twice; join with an empty directory under a new id, or force a new cluster"
    )]
    RestoredCopy(u64),
    /// The store has a log that was not written by a node.
    #[error("the store has a log but no identity; give an empty directory")]
    NotEmpty,
    /// The store's log and identity are of two clusters.
    #[error("forcing a new cluster was interrupted; do it again")]
    Interrupted,
    /// The first membership is none.
    #[error("the first membership {0}")]
    Membership(&'static str),
    /// No member took the node in.
    #[error("no member took this node in: {0}")]
    Join(RequestError),
}

impl From<crate::Error> for StartError {
    fn from(error: crate::Error) -> Self {
        StartError::Node(Error::Store(error))
    }
}

/// How a node joins.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Its id; `None`: the leader gives it one.
    pub id: Option<u64>,
    /// Whether it becomes a voter once it has caught up. Default: yes.
    pub promote: bool,
}

impl Default for JoinOptions {
    fn default() -> Self {
        let (id, promote) = (None, true);
        JoinOptions { id, promote }
    }
}

/// A node that is about to start. Hand [`inbox`](Builder::inbox) to the transport first.
pub struct Builder<S: LogStore, M: StateMachine> {
    store: S,
    machine: M,
    shared: Arc<Shared>,
}

impl<S: LogStore, M: StateMachine> Builder<S, M> {
    /// A node on this store, with this machine.
    ///
    /// # Errors
    /// [`StartError::Options`]; [`StartError::Node`]: the system gives no random bytes.
    pub fn new(
        store: S,
        machine: M,
        transport: Arc<dyn Transport>,
        options: NodeOptions,
    ) -> Result<Self, StartError> {
        if let Some(problem) = options.problem() {
            return Err(StartError::Options(problem));
        }
        let shared = Shared::new(options, u64::from_be_bytes(random()?), transport);
        Ok(Builder {
            store,
            machine,
            shared,
        })
    }

    /// Where the transport hands in what it receives.
    pub fn inbox(&self) -> Inbox {
        Inbox::new(&self.shared)
    }

    /// This node as the others are to know it, under this id.
    ///
    /// # Errors
    /// The id of the store could not be read.
    pub fn node_info(&self, id: u64) -> Result<NodeInfo, StartError> {
        Ok(NodeInfo {
            id,
            address: self.shared.options.address.clone(),
            store_id: self.store.store_id()?.to_vec(),
            context: self.shared.options.context.clone(),
            promote: false,
        })
    }

    /// Whose store it is, if it is anybody's.
    ///
    /// # Errors
    /// It could not be read.
    pub fn identity(&self) -> Result<Option<Identity>, StartError> {
        Ok(identity::load(&self.store)?)
    }

    /// Starts a cluster of this node alone, under id 1.
    ///
    /// # Errors
    /// The store belongs to a node already, or failed.
    pub fn bootstrap(self) -> Result<Node<M>, StartError> {
        let members = vec![self.node_info(1)?];
        let cluster_id = random()?;
        self.bootstrap_with(1, cluster_id, members)
    }

    /// Starts one node of a new cluster; every other one is started with the same cluster id and
    /// members. The store ids of the members are what keeps a node that lost its disk from
    /// coming back as itself: give them, with [`node_info`](Builder::node_info).
    ///
    /// # Errors
    /// As [`bootstrap`](Builder::bootstrap); [`StartError::Membership`].
    pub fn bootstrap_with(
        self,
        id: u64,
        cluster_id: [u8; 16],
        members: Vec<NodeInfo>,
    ) -> Result<Node<M>, StartError> {
        self.check_fresh()?;
        if members.iter().any(|member| member.id == 0) {
            return Err(StartError::Membership("has an id 0, which means none"));
        }
        for (at, member) in members.iter().enumerate() {
            let mut earlier = members.iter().take(at);
            if earlier.any(|other| other.id == member.id || other.address == member.address) {
                return Err(StartError::Membership("names an id or an address twice"));
            }
        }
        if !members.iter().any(|member| member.id == id) {
            return Err(StartError::Membership("lacks this node"));
        }
        let identity = Identity {
            node_id: id,
            cluster_id: cluster_id.to_vec(),
            store_id: self.store.store_id()?.to_vec(),
            members,
            is_founder: true,
            removed: false,
            forcing: false,
        };
        identity::save(&self.store, &identity)?;
        self.start(identity)
    }

    /// Joins the cluster of which a member is reached at one of these addresses. A store that
    /// belongs to a node already is opened instead: it has joined.
    ///
    /// # Errors
    /// As [`open`](Builder::open); [`StartError::Join`].
    pub async fn join(self, seeds: Vec<String>, join: JoinOptions) -> Result<Node<M>, StartError> {
        // It waits with a deadline and may restore a machine: nothing for an executor.
        let (started, starting) = oneshot::channel();
        let thread = std::thread::Builder::new().name("raft-join".to_owned());
        let thread = thread.spawn(move || {
            // Who asked may be gone.
            drop(started.send(self.join_now(&seeds, &join)));
        });
        thread.map_err(Error::machine("starting a thread"))?;
        let lost = |_| StartError::Join(RequestError::OutcomeUnknown);
        starting.await.map_err(lost)?
    }

    fn join_now(self, seeds: &[String], join: &JoinOptions) -> Result<Node<M>, StartError> {
        if self.identity()?.is_some() {
            return self.open();
        }
        self.check_fresh()?;
        if seeds.is_empty() {
            return Err(StartError::Options("seeds: name a member to ask"));
        }
        let mut node = self.node_info(join.id.unwrap_or(0))?;
        node.promote = join.promote;
        *self.shared.own.write() = Arc::new(Own {
            info: NodeInfo {
                id: 0,
                ..node.clone()
            },
            ..Own::default()
        });
        let (id, book) = self.ask_to_join(seeds, &node)?;
        let identity = Identity {
            node_id: id,
            cluster_id: book.cluster_id,
            store_id: node.store_id,
            members: book.nodes,
            is_founder: false,
            removed: false,
            forcing: false,
        };
        identity::save(&self.store, &identity)?;
        self.start(identity)
    }

    fn ask_to_join(&self, seeds: &[String], node: &NodeInfo) -> Result<(u64, Book), StartError> {
        let deadline = Instant::now() + self.shared.options.join_patience;
        let mut last = RequestError::NotLeader { leader: None };
        let mut hint = None;
        while Instant::now() < deadline {
            for seed in seeds {
                let address = hint.take().unwrap_or_else(|| seed.clone());
                match self.ask_one(address, node) {
                    Ok(Done::Joined { id, book }) => return Ok((id, book)),
                    Ok(_) => {}
                    Err(RequestError::NotLeader { leader: Some(node) }) => {
                        hint = Some(node.address);
                    }
                    Err(RequestError::Refused(refusal)) if node.id != 0 => {
                        return Err(StartError::Join(refusal.into()));
                    }
                    // With an id that the leader gives, another newcomer may have got it.
                    Err(e) => last = e,
                }
            }
        }
        Err(StartError::Join(last))
    }

    fn ask_one(&self, address: String, node: &NodeInfo) -> Ending {
        let (answer, ending) = mpsc::channel();
        let to = NodeInfo {
            address,
            ..NodeInfo::default()
        };
        // The thread may have given up.
        let answer = move |ending| drop(answer.send(ending));
        let begun = Instant::now();
        self.shared.forward(&to, Ask::Join(node.clone()), answer);
        let patience = self.shared.options.tick * 10;
        let ending = ending.recv_timeout(patience);
        let ending = ending.unwrap_or(Err(RequestError::OutcomeUnknown));
        if ending.is_err() {
            // Not more often than that.
            let (_nobody, pause) = mpsc::channel::<()>();
            let rest = self.shared.options.tick.saturating_sub(begun.elapsed());
            let _ = pause.recv_timeout(rest.max(Duration::from_millis(1)));
        }
        ending
    }

    /// Starts the node that the store belongs to.
    ///
    /// # Errors
    /// The store belongs to no node, or is a restored copy, or failed.
    pub fn open(self) -> Result<Node<M>, StartError> {
        let identity = self.identity()?.ok_or(StartError::NoIdentity)?;
        if identity.store_id != self.store.store_id()? {
            return Err(StartError::RestoredCopy(identity.node_id));
        }
        if identity.removed && self.shared.options.alone_when_removed {
            return self.force_new_cluster();
        }
        self.start(identity)
    }

    /// As [`open`](Builder::open), when the store belongs to node `id`.
    ///
    /// # Errors
    /// As there; [`StartError::OtherId`].
    pub fn open_as(self, id: u64) -> Result<Node<M>, StartError> {
        let stored = self.identity()?.ok_or(StartError::NoIdentity)?.node_id;
        match stored == id {
            true => self.open(),
            false => Err(StartError::OtherId { stored, asked: id }),
        }
    }

    /// Starts a new cluster of this node alone with everything that is in its log, committed or
    /// not: for the one survivor of a cluster whose majority is lost for good. The old cluster
    /// must never run again. What only the lost nodes had is lost; what had never been committed
    /// may take effect now.
    ///
    /// # Errors
    /// The store belongs to no node: nothing has happened. It failed: from then on
    /// [`open`](Builder::open) asks for this to be done again.
    pub fn force_new_cluster(self) -> Result<Node<M>, StartError> {
        let old = self.identity()?.ok_or(StartError::NoIdentity)?;
        let (id, mut info) = (old.node_id, self.node_info(old.node_id)?);
        log::warn!(
            "node {id} begins a new cluster of its own with everything in its log, committed or \
             not; no other node of the old cluster may ever run again"
        );
        info.promote = false;
        if self.holds_nothing()? && !old.is_founder {
            // Its cluster may be well.
            return Err(StartError::Membership("has not reached this node yet"));
        }
        let forcing = true;
        identity::save(
            &self.store,
            &Identity {
                forcing,
                ..old.clone()
            },
        )?;
        let mut opened = self.begin(&old)?;
        let told = opened.apply_all()?;
        if opened.applier.applied() == 0 {
            return Err(StartError::Membership("has not reached this node yet"));
        }
        let book = book_of_one(opened.applier.book(), info, told)?;
        let identity = Identity {
            node_id: id,
            cluster_id: book.cluster_id.clone(),
            store_id: opened.store.store_id()?.to_vec(),
            members: book.nodes.clone(),
            is_founder: false,
            removed: false,
            forcing: false,
        };
        let conf_state = ConfState::from((vec![id], vec![]));
        opened.applier.begin_anew(&conf_state, book)?;
        identity::save(&opened.store, &identity)?;
        opened.start(identity)
    }

    /// Brings the machine to where the store has it.
    fn begin(self, identity: &Identity) -> Result<Opened<S, M>, StartError> {
        let (store, shared) = (self.store, self.shared);
        let mut applier = Applier::open(store.clone(), self.machine)?;
        if identity.is_founder && store.snapshot_metadata().is_none() {
            let voters: Vec<u64> = identity.members.iter().map(|member| member.id).collect();
            let cluster_id = to_array(&identity.cluster_id)?;
            let book = Book::new(cluster_id, identity.members.iter().cloned());
            applier.begin(&ConfState::from((voters, vec![])), book)?;
        }
        Ok(Opened {
            store,
            shared,
            applier,
        })
    }

    fn start(self, identity: Identity) -> Result<Node<M>, StartError> {
        if identity.forcing {
            return Err(StartError::Interrupted);
        }
        self.begin(&identity)?.start(identity)
    }

    fn check_fresh(&self) -> Result<(), StartError> {
        if let Some(identity) = self.identity()? {
            return Err(StartError::HasIdentity(Box::new(identity)));
        }
        match self.holds_nothing()? {
            true => Ok(()),
            false => Err(StartError::NotEmpty),
        }
    }

    fn holds_nothing(&self) -> Result<bool, StartError> {
        let last_index = self.store.last_index().map_err(Error::Raft)?;
        Ok(self.store.snapshot_metadata().is_none() && last_index == 0)
    }
}

/// A node whose machine is where the store has it.
struct Opened<S: LogStore, M: StateMachine> {
    store: S,
    shared: Arc<Shared>,
    applier: Applier<S, M>,
}

impl<S: LogStore, M: StateMachine> Opened<S, M> {
    fn start(self, identity: Identity) -> Result<Node<M>, StartError> {
        let shared = self.shared;
        let info = NodeInfo {
            id: identity.node_id,
            address: shared.options.address.clone(),
            store_id: identity.store_id,
            context: shared.options.context.clone(),
            promote: false,
        };
        *shared.own.write() = Arc::new(Own {
            info,
            cluster_id: identity.cluster_id,
            seeds: identity.members,
        });
        shared.removed.store(identity.removed, Ordering::Release);
        let started = runtime::start(&shared, self.store, self.applier)?;
        Ok(Node::new(shared, started))
    }

    /// Applies everything in the log; the ids of nodes that it tells of.
    fn apply_all(&mut self) -> Result<Vec<u64>, Error> {
        let last = self.store.last_index()?;
        let mut told = Vec::new();
        while self.applier.applied() < last {
            let context = GetEntriesContext::empty(false);
            let low = self.applier.applied() + 1;
            let entries = self.store.entries(low, last + 1, REREAD_BYTES, context)?;
            let mut changes = Vec::new();
            for entry in &entries {
                if let Some((_, nodes)) = decode_change(entry)? {
                    told.extend(nodes.iter().map(|node| node.id));
                    // Whatever it says: the next membership is this node alone.
                    let unchanged = (
                        self.applier.conf_state().clone(),
                        self.applier.book().clone(),
                    );
                    let (index, outcome) = (entry.index, Ok(unchanged));
                    changes.push(Change { index, outcome });
                }
            }
            self.applier.apply(&Committed { entries, changes })?;
        }
        Ok(told)
    }
}

/// A new cluster of one node: the others of the old one have left.
fn book_of_one(old: &Book, info: NodeInfo, told: Vec<u64>) -> Result<Book, StartError> {
    let id = info.id;
    let mut book = Book::new(random()?, [info]);
    let nodes = old.nodes.iter().map(|node| node.id);
    let retired = old.retired.iter().copied().chain(nodes).chain(told);
    book.retired = retired.filter(|retired| *retired != id).collect();
    book.retired.sort_unstable();
    book.retired.dedup();
    Ok(book)
}

fn to_array(cluster_id: &[u8]) -> Result<[u8; 16], StartError> {
    let found = cluster_id.len();
    let array = cluster_id.try_into();
    array.map_err(|_| StartError::Node(Error::format("the cluster id", found)))
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    getrandom::getrandom(&mut bytes)
        .map_err(|e| Error::machine("drawing random bytes")(std::io::Error::from(e)))?;
    Ok(bytes)
}
