//! Several nodes, each with a directory of its own, over a network within the process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_rocks::driver::{
    Builder, Faults, JoinOptions, LocalNetwork, LogStore, Node, NodeInfo, NodeOptions, NodeStatus,
    RequestError, StateMachine, Transport, store_options,
};
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage};
use tempfile::TempDir;

use crate::machines::{FAMILY, Journal};
use crate::scratch::scratch;

pub const TICK: Duration = Duration::from_millis(20);
/// For whatever takes milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
pub const CLUSTER_ID: [u8; 16] = [7; 16];

pub type TestNode = Node<Journal>;
pub type TestBuilder = Builder<RaftMachineStorage, Journal>;

pub fn address(id: u64) -> String {
    format!("node-{id}")
}

pub fn node_options(id: u64) -> NodeOptions {
    let mut options = NodeOptions::new(address(id));
    options.tick = TICK;
    options
}

/// Options of a store whose syncs are not what a test is about.
pub fn unsynced() -> Options {
    let mut options = Options::default();
    options.fsync = FsyncPolicy::Never;
    options.reserve_bytes = 0;
    options.column_families = vec![FAMILY.to_owned()];
    store_options(options)
}

/// The seed of random faults.
pub fn seed() -> u64 {
    let seed = std::env::var("RAFT_ROCKS_SEED");
    let seed = seed.map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("RAFT_ROCKS_SEED={seed}");
    seed
}

/// Looks until it is so.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks again while nothing has happened.
pub async fn retried<T, F: Future<Output = Result<T, RequestError>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    until(what, || {
        let asked = ask();
        async {
            match asked.await {
                Ok(answer) => Some(answer),
                Err(e) if e.is_retryable() => None,
                Err(e) => panic!("{what}: {e}"),
            }
        }
    })
    .await
}

pub struct Cluster {
    pub network: LocalNetwork,
    dirs: TempDir,
    pub nodes: BTreeMap<u64, TestNode>,
    /// What differs from the defaults.
    pub adapt: Box<dyn Fn(&mut NodeOptions)>,
    pub machine: Journal,
    pub store_options: Options,
}

impl Cluster {
    /// Without nodes.
    pub fn empty() -> Self {
        Cluster {
            network: LocalNetwork::new(seed()),
            dirs: scratch().unwrap(),
            nodes: BTreeMap::new(),
            adapt: Box::new(|_| {}),
            machine: Journal::default(),
            store_options: unsynced(),
        }
    }

    /// The first members, running.
    pub async fn of(ids: &[u64]) -> Self {
        Cluster::empty().start(ids).await
    }

    pub async fn start(mut self, ids: &[u64]) -> Self {
        let builders: Vec<_> = ids.iter().map(|id| (*id, self.builder(*id))).collect();
        let infos = builders.iter().map(|(id, of)| of.node_info(*id).unwrap());
        let members: Vec<NodeInfo> = infos.collect();
        for (id, builder) in builders {
            let node = builder.bootstrap_with(id, CLUSTER_ID, members.clone());
            self.nodes.insert(id, node.unwrap());
        }
        self.leader().await;
        self
    }

    pub fn dir(&self, id: u64) -> PathBuf {
        self.dirs.path().join(address(id))
    }

    pub fn store(&self, id: u64) -> RaftMachineStorage {
        RaftMachineStorage::open(self.dir(id), self.store_options.clone()).unwrap()
    }

    pub fn builder(&self, id: u64) -> TestBuilder {
        self.builder_on(id, self.store(id), self.network.endpoint(address(id)))
    }

    pub fn builder_on<S: LogStore>(
        &self,
        id: u64,
        store: S,
        transport: Arc<dyn Transport>,
    ) -> Builder<S, Journal> {
        let mut options = node_options(id);
        (self.adapt)(&mut options);
        let builder = Builder::new(store, self.machine.clone(), transport, options).unwrap();
        self.network.listen(address(id), builder.inbox());
        builder
    }

    pub async fn join(&mut self, id: u64, seed: u64) -> TestNode {
        let join = JoinOptions {
            id: Some(id),
            ..JoinOptions::default()
        };
        let node = self.builder(id).join(vec![address(seed)], join).await;
        self.nodes.insert(id, node.unwrap());
        self.node(id)
    }

    pub fn node(&self, id: u64) -> TestNode {
        self.nodes[&id].clone()
    }

    pub fn reopen(&mut self, id: u64) -> TestNode {
        let node = self.builder(id).open_as(id).unwrap();
        self.nodes.insert(id, node);
        self.node(id)
    }

    /// Stops a node as a crash would.
    pub async fn halt(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        node.halt().await;
    }

    /// The leader that a majority of those that run agree on.
    pub async fn leader(&self) -> TestNode {
        until("a leader", || async {
            let known = self.nodes.values().map(|node| node.leader());
            let known = known.filter(|known| known.leader != 0);
            let newest = known.max_by_key(|known| known.term)?;
            let agree = self.nodes.values().filter(|node| node.leader() == newest);
            let node = self.nodes.get(&newest.leader)?;
            (agree.count() * 2 > self.nodes.len()).then(|| node.clone())
        })
        .await
    }

    pub async fn follower(&self) -> TestNode {
        let leader = self.leader().await.id();
        let other = self.nodes.keys().find(|id| **id != leader).unwrap();
        self.node(*other)
    }

    /// Proposes, at whoever leads, until it is applied.
    pub async fn propose(&self, command: &str) {
        retried("a proposal", || async {
            self.leader().await.propose(command).await
        })
        .await;
    }

    /// Waits until every running node has the same commands, and returns them.
    pub async fn agreed(&self, at_least: usize) -> Vec<Vec<u8>> {
        until("all have the same commands", || async {
            let mut all = Vec::new();
            for node in self.nodes.values() {
                all.push(commands(node).await);
            }
            let first = all.pop()?;
            let agree = all.iter().all(|other| *other == first);
            (agree && first.len() >= at_least).then_some(first)
        })
        .await
    }

    pub fn heal(&self) {
        self.network.heal();
        self.network.set_faults(Faults::default());
    }

    pub async fn shutdown(&mut self) {
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.shutdown().await;
        }
    }
}

pub async fn commands(node: &TestNode) -> Vec<Vec<u8>> {
    let stale = raft_rocks::driver::Consistency::Stale;
    node.query(stale, |journal| journal.commands.clone())
        .await
        .unwrap()
}

pub async fn status_when<M: StateMachine>(
    node: &Node<M>,
    what: &str,
    is_so: impl Fn(&NodeStatus) -> bool,
) -> NodeStatus {
    let last = RefCell::new(None);
    let shown = Shown(&last);
    let found = until(what, || async {
        let status = node.status().await.ok()?;
        let found = is_so(&status).then(|| status.clone());
        last.replace(Some(status));
        found
    });
    let found = found.await;
    drop(shown);
    found
}

/// Shows what was seen last when a test fails.
struct Shown<'a>(&'a RefCell<Option<NodeStatus>>);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seen last: {:?}", self.0.borrow());
        }
    }
}
