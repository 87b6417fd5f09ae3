//! Nodes of the server in this process.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: each uses some of them, and a failure may stop it"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use raft_rocks::FsyncPolicy;
use raft_rocks::driver::Compaction;
use raft_rocks_server::instance::{Backend, Instance, Settings};
use raft_rocks_server::resp::Options;
pub use raft_rocks_testkit::{DEADLINE, until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Nodes with directories of their own, by id.
pub struct Cluster {
    dirs: TempDir,
    pub nodes: BTreeMap<u64, Instance>,
    pub adapt: Box<dyn Fn(&mut Settings)>,
}

impl Cluster {
    pub fn new() -> Self {
        Cluster {
            dirs: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            nodes: BTreeMap::new(),
            adapt: Box::new(|_| {}),
        }
    }

    /// Members 1 to `count`.
    pub async fn of(count: u64) -> Self {
        let mut cluster = Cluster::new();
        cluster.start_all(count).await;
        cluster
    }

    pub async fn start_all(&mut self, count: u64) {
        for id in 1..=count {
            self.start(id).await;
            until("it is a voter", || async {
                self.is_voter(id).await.then_some(())
            })
            .await;
        }
        self.leader().await;
    }

    pub async fn is_voter(&self, id: u64) -> bool {
        let status = self.nodes[&id].node().status().await.unwrap().raft;
        status.conf_state.get_voters().contains(&id)
    }

    /// A node of its own, or one that joins those there are.
    pub fn settings(&self, id: u64) -> Settings {
        let members = self.nodes.values();
        Settings {
            id: Some(id),
            dir: self.dirs.path().join(id.to_string()),
            listen: free_address(),
            peer_listen: free_address(),
            advertise: None,
            client_advertise: None,
            http_listen: None,
            http_advertise: None,
            join: members
                .map(|node| node.peer_address().to_string())
                .collect(),
            await_invitation: false,
            alone_when_removed: false,
            force_new_cluster: None,
            fsync: FsyncPolicy::Never,
            backend: Backend::Memory,
            tick: Duration::from_millis(30),
            compaction: Compaction::default(),
            tls: None,
            insecure: false,
            clients: Options::default(),
        }
    }

    pub async fn start(&mut self, id: u64) {
        let mut settings = self.settings(id);
        (self.adapt)(&mut settings);
        self.nodes
            .insert(id, Instance::start(settings).await.unwrap());
    }

    /// A node of no cluster, where other nodes reach it; it has started when it is in one.
    pub async fn wait_for_invitation(
        &mut self,
        id: u64,
    ) -> (String, tokio::task::JoinHandle<anyhow::Result<Instance>>) {
        let mut settings = self.settings(id);
        settings.join.clear();
        settings.await_invitation = true;
        settings.peer_listen = free_address();
        (self.adapt)(&mut settings);
        let address = settings.peer_listen.clone();
        (address, tokio::spawn(Instance::start(settings)))
    }

    /// Stops a node as a crash would.
    pub async fn kill(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().halt().await;
    }

    pub async fn shutdown(self) {
        for (_, node) in self.nodes {
            node.shutdown().await.unwrap();
        }
    }

    pub async fn leader(&self) -> u64 {
        until("a leader", || async {
            let known = self.nodes.values().map(|node| node.node().leader());
            let newest = known.max_by_key(|known| known.term)?.leader;
            self.nodes.contains_key(&newest).then_some(newest)
        })
        .await
    }

    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.nodes.keys().find(|id| **id != leader).unwrap()
    }

    pub fn client_address(&self, id: u64) -> String {
        self.nodes[&id].client_address().to_string()
    }

    pub fn peer_address(&self, id: u64) -> String {
        self.nodes[&id].peer_address().to_string()
    }

    pub async fn applied(&self, id: u64) -> u64 {
        self.nodes[&id].node().status().await.unwrap().raft.applied
    }

    /// Puts a key, with its name as the value, and waits for the answer.
    pub async fn set(&self, id: u64, key: &str) {
        assert_eq!(self.try_set(id, key).await, *b"+OK\r\n");
    }

    /// As [`set`](Cluster::set), without waiting for an answer that does not come.
    pub async fn try_set(&self, id: u64, key: &str) -> [u8; 5] {
        let address = self.client_address(id);
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let line = format!("SET {key} {key}\r\n");
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut reply = [0; 5];
        let read = stream.read_exact(&mut reply);
        // It stays as it is.
        let _ = tokio::time::timeout(Duration::from_millis(200), read).await;
        reply
    }
}

fn free_address() -> String {
    raft_rocks_testkit::free_address().unwrap().to_string()
}
