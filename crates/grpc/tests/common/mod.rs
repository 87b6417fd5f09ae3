//! Nodes with a server each.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared by tests that each use a part of it, and that may stop"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use raft_rocks::driver::{
    Builder, Consistency, Forwarding, JoinOptions, Node, NodeOptions, StateMachine, store_options,
};
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage};
use raft_rocks_grpc::certs::Authority;
use raft_rocks_grpc::{GrpcTransport, Invitations, Party, Server, Tls, TransportOptions};
pub use raft_rocks_testkit::{DEADLINE, until};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const TICK: Duration = Duration::from_millis(30);

pub fn free_address() -> String {
    raft_rocks_testkit::free_address().unwrap().to_string()
}

/// Keeps every command, of one byte each.
#[derive(Default)]
pub struct Journal(Vec<u8>);

impl StateMachine for Journal {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        self.0.extend(command.first());
        self.0.len().to_string().into_bytes()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn restore(&mut self, snapshot: &[u8]) -> std::io::Result<()> {
        self.0 = snapshot.to_vec();
        Ok(())
    }
}

pub struct Waiting {
    id: u64,
    joining: JoinHandle<Option<Node<Journal>>>,
}

struct Serving {
    end: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

pub struct Cluster {
    dirs: TempDir,
    pub authority: Option<Authority>,
    pub redirect: bool,
    pub nodes: BTreeMap<u64, Node<Journal>>,
    addresses: BTreeMap<u64, SocketAddr>,
    servers: BTreeMap<u64, Serving>,
}

impl Cluster {
    pub fn new(with_tls: bool) -> Self {
        // Set already by another test.
        let _ = env_logger::builder().is_test(true).try_init();
        Cluster {
            dirs: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            authority: with_tls.then(|| Authority::new("blue").unwrap()),
            redirect: false,
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            servers: BTreeMap::new(),
        }
    }

    pub fn address(&self, id: u64) -> String {
        self.addresses[&id].to_string()
    }

    /// The address that a node has from its next start on.
    pub fn move_to(&mut self, id: u64, address: &str) {
        self.addresses.insert(id, address.parse().unwrap());
    }

    fn tls(&self, id: u64) -> Option<Tls> {
        self.tls_of(&Party::Node(id))
    }

    pub fn tls_of(&self, party: &Party) -> Option<Tls> {
        let authority = self.authority.as_ref()?;
        let pem = authority.issue(party).unwrap();
        let authority = &authority.pem().certificate;
        Some(Tls::from_pem(authority, &pem.certificate, &pem.key).unwrap())
    }

    /// A node that serves once it is started.
    async fn builder(&mut self, id: u64) -> Starting {
        let address = self.addresses.get(&id).copied();
        let address = address.unwrap_or_else(|| free_address().parse().unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        self.addresses.insert(id, listener.local_addr().unwrap());
        let mut options = Options::default();
        options.fsync = FsyncPolicy::Never;
        options.reserve_bytes = 0;
        let dir = self.dirs.path().join(id.to_string());
        let store = RaftMachineStorage::open(dir, store_options(options)).unwrap();
        let transport = GrpcTransport::new(TransportOptions::default(), self.tls(id)).unwrap();
        let transport = Arc::new(transport);
        let mut options = NodeOptions::new(self.address(id));
        options.tick = TICK;
        options.compaction.every_entries = 20;
        options.compaction.keep_entries = 10;
        options.compaction.keep_entries_max = 20;
        if self.redirect {
            options.forwarding = Forwarding::Redirect;
        }
        let builder = Builder::new(store, Journal::default(), transport.clone(), options);
        let builder = builder.unwrap();
        transport.report_to(builder.inbox());
        Starting {
            builder,
            listener,
            tls: self.tls(id),
        }
    }

    fn serve(&mut self, id: u64, starting: Starting) -> Started {
        self.serve_invited(id, starting, None)
    }

    fn serve_invited(
        &mut self,
        id: u64,
        starting: Starting,
        invitations: Option<&Invitations>,
    ) -> Started {
        let node = Arc::new(OnceLock::new());
        let mut server = Server::new(starting.builder.inbox(), starting.tls);
        if let Some(invitations) = invitations {
            server = server.with_invitations(invitations);
        }
        let server = server.with_cluster(Arc::clone(&node));
        let (end, ended) = oneshot::channel();
        let served = tokio::spawn(server.serve(starting.listener, async move {
            let _ = ended.await;
        }));
        self.servers.insert(id, Serving { end, served });
        (starting.builder, node)
    }

    fn started(&mut self, id: u64, place: &OnceLock<Node<Journal>>, node: Node<Journal>) {
        place.set(node.clone()).ok().unwrap();
        self.nodes.insert(id, node);
    }

    pub async fn bootstrap(&mut self) {
        let starting = self.builder(1).await;
        let (builder, place) = self.serve(1, starting);
        self.started(1, &place, builder.bootstrap().unwrap());
        self.leader().await;
    }

    pub async fn join(&mut self, id: u64) {
        let starting = self.builder(id).await;
        let (builder, place) = self.serve(id, starting);
        let options = JoinOptions {
            id: Some(id),
            ..JoinOptions::default()
        };
        let node = builder.join(vec![self.address(1)], options).await.unwrap();
        self.started(id, &place, node);
        until("it is a voter", || async {
            let status = self.nodes[&id].status().await.unwrap();
            status
                .raft
                .conf_state
                .get_voters()
                .contains(&id)
                .then_some(())
        })
        .await;
    }

    /// A node without a cluster, with the certificate and the place of node `id`. What is returned
    /// ends when it has joined, or was refused; then it is a node of this cluster, or nothing.
    pub async fn wait_for_invitation(&mut self, id: u64) -> Waiting {
        let starting = self.builder(id).await;
        let invitations = Invitations::default();
        let (builder, place) = self.serve_invited(id, starting, Some(&invitations));
        let joining = tokio::spawn(async move {
            let invitation = invitations.next().await;
            let options = JoinOptions {
                id: invitation.id,
                promote: invitation.promote,
            };
            match builder.join(invitation.members.clone(), options).await {
                Ok(node) => {
                    place.set(node.clone()).ok().unwrap();
                    invitation.joined(node.id());
                    Some(node)
                }
                Err(e) => {
                    invitation.failed(e);
                    None
                }
            }
        });
        Waiting { id, joining }
    }

    /// A node without a cluster that the test answers for; it can follow no invitation.
    pub async fn waits_for_the_test(&mut self, id: u64) -> Invitations {
        let starting = self.builder(id).await;
        let invitations = Invitations::default();
        drop(self.serve_invited(id, starting, Some(&invitations)));
        invitations
    }

    pub async fn invited(&mut self, waiting: Waiting) -> Option<u64> {
        let Waiting { id, joining } = waiting;
        let node = joining.await.unwrap();
        let Some(node) = node else {
            let serving = self.servers.remove(&id).unwrap();
            drop(serving.end);
            serving.served.await.unwrap().unwrap();
            return None;
        };
        // It is called what it was given.
        let given = node.id();
        let serving = self.servers.remove(&id).unwrap();
        self.servers.insert(given, serving);
        let address = self.addresses.remove(&id).unwrap();
        self.addresses.insert(given, address);
        self.nodes.insert(given, node);
        Some(given)
    }

    pub async fn stop(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().halt().await;
        let serving = self.servers.remove(&id).unwrap();
        drop(serving.end);
        serving.served.await.unwrap().unwrap();
    }

    /// As [`stop`](Cluster::stop), but nothing that is under way is waited for.
    pub async fn crash(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().halt().await;
        let serving = self.servers.remove(&id).unwrap();
        serving.served.abort();
        let _ = serving.served.await;
    }

    pub async fn reopen(&mut self, id: u64) {
        let starting = self.builder(id).await;
        let (builder, place) = self.serve(id, starting);
        self.started(id, &place, builder.open_as(id).unwrap());
    }

    pub async fn leader(&self) -> u64 {
        until("a leader", || async {
            let known = self.nodes.values().map(|node| node.leader());
            let newest = known.max_by_key(|known| known.term)?;
            self.nodes
                .contains_key(&newest.leader)
                .then_some(newest.leader)
        })
        .await
    }

    pub async fn propose(&self, command: u8) {
        let leader = self.leader().await;
        self.propose_at(leader, command).await;
    }

    /// Proposes until it is applied, once.
    pub async fn propose_at(&self, id: u64, command: u8) {
        let session = raft_rocks::driver::Session {
            client: 1 + u64::from(command),
            sequence: 1,
        };
        until("a proposal", || async {
            let node = self.nodes.get(&id)?;
            match node.propose_in(session, vec![command]).await {
                Ok(_) => Some(()),
                Err(e) => {
                    log::info!("a proposal ended: {e}");
                    None
                }
            }
        })
        .await;
    }

    /// Waits until every node has the same commands.
    pub async fn agreed(&self, at_least: usize) -> Vec<u8> {
        until("all have the same commands", || async {
            let mut all = Vec::new();
            for node in self.nodes.values() {
                let read = node.query(Consistency::Stale, |journal| journal.0.clone());
                all.push(read.await.unwrap());
            }
            let first = all.pop()?;
            let agree = all.iter().all(|other| *other == first);
            (agree && first.len() >= at_least).then_some(first)
        })
        .await
    }
}

type Started = (
    Builder<RaftMachineStorage, Journal>,
    Arc<OnceLock<Node<Journal>>>,
);

struct Starting {
    builder: Builder<RaftMachineStorage, Journal>,
    listener: TcpListener,
    tls: Option<Tls>,
}
