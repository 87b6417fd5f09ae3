//! Nodes in this process, and connections to them.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "shared by tests that each use a part of it, and that may stop"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use raft_rocks::FsyncPolicy;
use raft_rocks::driver::Compaction;
use raft_rocks_server::instance::{Backend, Instance, Settings};
use raft_rocks_server::resp::Options;
pub use raft_rocks_testkit::{DEADLINE, until};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub fn free_address() -> String {
    raft_rocks_testkit::free_address().unwrap().to_string()
}

/// Nodes with directories of their own, by id.
pub struct Cluster {
    dirs: TempDir,
    pub nodes: BTreeMap<u64, Instance>,
    /// What a node that comes back listens at.
    addresses: BTreeMap<u64, (String, String)>,
    pub adapt: Box<dyn Fn(&mut Settings)>,
}

impl Cluster {
    pub fn new() -> Self {
        let filter = tracing_subscriber::fmt().with_test_writer();
        // Set already by another test.
        let _ = filter
            .with_max_level(tracing::level_filters::LevelFilter::WARN)
            .try_init();
        Cluster {
            dirs: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
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
        self.start(1).await;
        self.start_all_but_first(count).await;
    }

    pub async fn start_all_but_first(&mut self, count: u64) {
        for id in 2..=count {
            self.start(id).await;
            until("it is a voter", || async {
                let status = self.nodes[&id].node().status().await.unwrap().raft;
                status.conf_state.get_voters().contains(&id).then_some(())
            })
            .await;
        }
    }

    pub fn settings(&self, id: u64) -> Settings {
        let any = || (free_address(), free_address());
        let (listen, peer_listen) = self.addresses.get(&id).cloned().unwrap_or_else(any);
        let first = self.addresses.get(&1).filter(|_| id != 1);
        let mut settings = Settings {
            id: Some(id),
            dir: self.dirs.path().join(id.to_string()),
            listen,
            peer_listen,
            advertise: None,
            client_advertise: None,
            http_listen: Some("127.0.0.1:0".to_owned()),
            http_advertise: None,
            join: first.map(|(_, peer)| peer.clone()).into_iter().collect(),
            await_invitation: false,
            alone_when_removed: false,
            force_new_cluster: None,
            fsync: FsyncPolicy::Never,
            backend: Backend::RocksDb,
            tick: Duration::from_millis(30),
            compaction: Compaction::default(),
            tls: None,
            insecure: false,
            clients: Options::default(),
        };
        settings.clients.patience = Duration::from_secs(20);
        (self.adapt)(&mut settings);
        settings
    }

    /// Starts a node, for the first time or again.
    pub async fn start(&mut self, id: u64) {
        let instance = Instance::start(self.settings(id)).await.unwrap();
        let clients = instance.client_address().to_string();
        let peers = instance.peer_address().to_string();
        self.addresses.insert(id, (clients, peers));
        self.nodes.insert(id, instance);
    }

    /// Stops a node as a crash would.
    pub async fn kill(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().halt().await;
    }

    /// Takes a node's disk away.
    pub fn wipe(&self, id: u64) {
        std::fs::remove_dir_all(self.settings(id).dir).unwrap();
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

    pub fn address(&self, id: u64) -> String {
        self.nodes[&id].client_address().to_string()
    }

    /// Where its HTTP is.
    pub fn url(&self, id: u64, path: &str) -> String {
        let address = self.nodes[&id].http_address().unwrap();
        format!("http://{address}{path}")
    }

    /// A client of the crate `redis`.
    pub async fn client(&self, id: u64) -> Client {
        Client::connect(&format!("redis://{}/", self.address(id)))
            .await
            .unwrap()
    }

    /// A client that sends what it is told.
    pub async fn raw(&self, id: u64) -> Raw {
        Raw(TcpStream::connect(self.address(id)).await.unwrap())
    }
}

pub struct Client(MultiplexedConnection);

impl Client {
    pub async fn connect(url: &str) -> RedisResult<Self> {
        let client = redis::Client::open(url)?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        let connected = client.get_multiplexed_async_connection_with_config(&config);
        connected.await.map(Client)
    }

    /// Words of a command, separated by spaces.
    pub async fn try_run<T: FromRedisValue>(&mut self, line: &str) -> RedisResult<T> {
        let mut words = line.split(' ');
        let mut cmd = Cmd::new();
        cmd.arg(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cmd.query_async(&mut self.0).await
    }

    pub async fn run<T: FromRedisValue>(&mut self, line: &str) -> T {
        let ran = self.try_run(line).await;
        ran.unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    pub async fn fails(&mut self, line: &str) -> String {
        let ran = self.try_run::<redis::Value>(line).await;
        ran.expect_err(line).to_string()
    }

    pub fn connection(&mut self) -> &mut MultiplexedConnection {
        &mut self.0
    }
}

pub struct Raw(TcpStream);

impl Raw {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// As much as the other side takes.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        // It may have closed already.
        let _ = self.0.write_all(bytes).await;
    }

    /// Nothing more is sent.
    pub async fn end(&mut self) {
        // As above.
        let _ = self.0.shutdown().await;
    }

    /// As much as `expected` is long; it must be that.
    pub async fn expect(&mut self, expected: &str) {
        let mut found = vec![0; expected.len()];
        let read = timeout(DEADLINE, self.0.read_exact(&mut found)).await;
        if let Err(e) = read.expect("a reply in time") {
            panic!("{e} where {expected:?} was due");
        }
        let found = String::from_utf8_lossy(&found);
        let shown = found.get(..200).unwrap_or(&found);
        assert!(
            found == expected,
            "{shown:?} where {:?} was due",
            expected.get(..200)
        );
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> String {
        let mut found = Vec::new();
        let read = timeout(DEADLINE, self.0.read_to_end(&mut found)).await;
        // The other side may have left bytes of ours unread.
        let _ = read.expect("the end in time");
        String::from_utf8_lossy(&found).into_owned()
    }
}
