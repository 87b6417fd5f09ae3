//! Five nodes in one process: how each comes into being, stops, and comes back.
//!
//! What a halt stands for: the node's threads leave their work where they are and drop everything
//! they hold in memory: raft's state, entries not yet written or applied, messages and answers not
//! yet sent. Only its directory remains, and the next start reads nothing else. It is less than a
//! killed process or a power cut: the store is closed, which syncs it, so that nothing which was
//! written can go missing. This shows that the parts work together across restarts; that what was
//! acknowledged survives a kill, and was synced at all, is shown by the tests of the store itself
//! (`tests/crash.rs`, `tests/fsync.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use raft_rocks::driver::{
    Builder, Compaction, JoinOptions, LocalNetwork, Node, NodeOptions, Status, store_options,
};
use raft_rocks::raft::StateRole;
use raft_rocks::{CommitStats, Options, RaftMachineStorage};
use tokio::task::{JoinSet, spawn_blocking};

use crate::Failure;
use crate::machine::{FAMILIES, Machine};

pub const NODES: u64 = 5;

pub fn node_ids() -> impl Iterator<Item = u64> {
    1..=NODES
}

pub fn node_dir(dir: &Path, id: u64) -> PathBuf {
    dir.join(address(id))
}

/// Where the others reach a node, on a network within the process.
fn address(id: u64) -> String {
    format!("node-{id}")
}

pub fn open_store(dir: &Path, id: u64) -> raft_rocks::Result<RaftMachineStorage> {
    let mut options = Options::default();
    options.column_families = FAMILIES.map(str::to_owned).to_vec();
    // Low enough for the run to make snapshots of both kinds: in the record, and in a file.
    options.snapshot_inline_bytes_max = 8 << 10;
    RaftMachineStorage::open(node_dir(dir, id), store_options(options))
}

/// The nodes that run, as clients see them.
pub type Nodes = Arc<Mutex<BTreeMap<u64, Node<Machine>>>>;

/// What the nodes that run say of themselves.
pub type Seen = BTreeMap<u64, Status>;

/// Who takes itself for the leader, in the newest term.
pub fn leader(seen: &Seen) -> Option<&Status> {
    let leading = seen.values().filter(|of| of.role == StateRole::Leader);
    leading.max_by_key(|of| of.term)
}

/// For people.
pub fn describe(seen: &Seen) -> String {
    let one = |of: &Status| {
        let log = format!("log {}..={}", of.first_index, of.last_index);
        let (id, role, term, applied) = (of.id, of.role, of.term, of.applied);
        format!("node {id}: {role:?} of term {term}, {log}, applied {applied}")
    };
    let all: Vec<String> = seen.values().map(one).collect();
    all.join("; ")
}

pub struct Cluster {
    dir: PathBuf,
    compaction: Compaction,
    network: LocalNetwork,
    pub nodes: Nodes,
    /// Second handles of the stores of the nodes that run, for their statistics.
    stores: BTreeMap<u64, RaftMachineStorage>,
    /// Nodes that needed a snapshot because they had fallen behind the others' logs.
    pub catch_ups: Arc<AtomicU64>,
    /// What the nodes that have been stopped had written.
    pub written: CommitStats,
}

impl Cluster {
    /// Without nodes yet. Each is to make a snapshot every so many entries, and to keep as many.
    pub fn new(dir: &Path, entries: u64, seed: u64) -> Self {
        let compaction = Compaction {
            every_entries: entries,
            keep_entries: entries,
            // Otherwise the log waits for a node that has stopped until the leader misses it.
            keep_entries_max: entries,
            ..Compaction::default()
        };
        Cluster {
            dir: dir.to_path_buf(),
            compaction,
            network: LocalNetwork::new(seed),
            nodes: Nodes::default(),
            stores: BTreeMap::new(),
            catch_ups: Arc::default(),
            written: CommitStats::default(),
        }
    }

    /// Starts a cluster of one node, the first.
    pub async fn bootstrap(&mut self) -> Result<(), Failure> {
        let node = self.builder(1).await?.bootstrap()?;
        self.nodes.lock().insert(1, node);
        Ok(())
    }

    /// A node joins by the address of the first: as a learner, which the leader makes a voter
    /// when it has caught up.
    pub async fn join(&mut self, id: u64) -> Result<(), Failure> {
        let join = JoinOptions {
            id: Some(id),
            promote: true,
        };
        let node = self.builder(id).await?.join(vec![address(1)], join).await?;
        self.nodes.lock().insert(id, node);
        Ok(())
    }

    /// A node comes back, from nothing but its directory.
    pub async fn reopen(&mut self, id: u64) -> Result<(), Failure> {
        let node = self.builder(id).await?.open_as(id)?;
        self.nodes.lock().insert(id, node);
        Ok(())
    }

    /// A node that is about to start: its store, its machine, its place in the network.
    async fn builder(&mut self, id: u64) -> Result<Builder<RaftMachineStorage, Machine>, Failure> {
        let (dir, catch_ups) = (self.dir.clone(), Arc::clone(&self.catch_ups));
        // It reads everything that is there, while the client goes on.
        let opened = spawn_blocking(move || {
            let store = open_store(&dir, id)?;
            let machine = Machine::load(store.clone(), catch_ups)?;
            Ok::<_, Failure>((store, machine))
        });
        let (store, machine) = opened.await??;
        let mut options = NodeOptions::new(address(id));
        options.compaction = self.compaction;
        let transport = self.network.endpoint(address(id));
        let builder = Builder::new(store.clone(), machine, transport, options)?;
        self.network.listen(address(id), builder.inbox());
        self.stores.insert(id, store);
        Ok(builder)
    }

    /// Stops nodes in the middle of their work, all at the same time.
    pub async fn halt(&mut self, ids: &[u64]) {
        let nodes: Vec<_> = ids.iter().filter_map(|id| self.take(*id)).collect();
        let mut halts = JoinSet::new();
        for node in nodes {
            halts.spawn(async move { node.halt().await });
        }
        halts.join_all().await;
    }

    /// Stops all nodes in good order. The leader goes last: it would hand leadership over, and
    /// the nodes that are down already would not hear of the new term.
    pub async fn shut_down(&mut self, leader: u64) {
        let followers = node_ids().filter(|id| *id != leader);
        for id in followers.chain([leader]) {
            if let Some(node) = self.take(id) {
                node.shutdown().await;
            }
        }
    }

    /// A node that is to stop. The handle of its store goes first: it would keep the directory
    /// from being opened again.
    fn take(&mut self, id: u64) -> Option<Node<Machine>> {
        if let Some(store) = self.stores.remove(&id) {
            let stats = store.store().commit_stats();
            self.written.writes += stats.writes;
            self.written.batches += stats.batches;
            self.written.syncs += stats.syncs;
        }
        self.nodes.lock().remove(&id)
    }

    /// Asks the nodes that run where they stand; an error when one has stopped by itself.
    pub async fn look(&self) -> Result<Seen, Failure> {
        let nodes = self.nodes.lock().clone();
        let mut seen = Seen::new();
        for (id, node) in nodes {
            let status = node.status().await;
            let status = status.map_err(|e| format!("node {id}: {e}"))?;
            seen.insert(id, status.raft);
        }
        Ok(seen)
    }
}
