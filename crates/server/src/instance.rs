//! A node and everything that serves it, from its settings to its end.

mod checks;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use raft_rocks::driver::{Builder, Compaction, Forwarding, Node, NodeOptions, store_options};
use raft_rocks::{FsyncPolicy, RaftMachineStorage};
use raft_rocks_grpc::{GrpcTransport, Invitations, Tls, TransportOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::address::Published;
use crate::expiry;
use crate::frontend::Frontend;
use crate::http;
use crate::kv::{Due, FAMILY, Machine, MemoryRows, RocksRows};
use crate::{metrics, resp, start};
use checks::{bind, check_exposure, chosen_id, make_private, reached_at, warn_of_strangers};

/// A request of a client, and what a command adds to it.
const COMMAND_BYTES_MAX: usize = 3 << 20;

/// Where the state stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In the store that holds the log.
    RocksDb,
    /// In memory: it is made again from the last snapshot and the log at each start.
    Memory,
}

/// What a node is to be.
#[derive(Clone)]
pub struct Settings {
    /// `None`: 1, or what the certificate says, or what the leader gives.
    pub id: Option<u64>,
    /// Where everything of the node stands.
    pub dir: PathBuf,
    /// `host:port` for clients.
    pub listen: String,
    /// `host:port` for the other nodes.
    pub peer_listen: String,
    /// Where the other nodes reach it. `None`: where it listens.
    pub advertise: Option<String>,
    /// Where clients reach it. `None`: where it listens.
    pub client_advertise: Option<String>,
    /// `host:port` for HTTP. `None`: there is none.
    pub http_listen: Option<String>,
    /// Where HTTP is reached. `None`: where it listens.
    pub http_advertise: Option<String>,
    /// Members to ask to be taken in; none: a cluster of its own.
    pub join: Vec<String>,
    /// Whether a node of no cluster waits until one invites it.
    pub await_invitation: bool,
    /// Whether a node that was removed goes on alone when it is started again.
    pub alone_when_removed: bool,
    /// The cluster that is given up for a new one of this node alone.
    pub force_new_cluster: Option<[u8; 16]>,
    /// When the log is synced.
    pub fsync: FsyncPolicy,
    /// Where the state stands.
    pub backend: Backend,
    /// The time between two ticks.
    pub tick: Duration,
    /// When snapshots are made, and what stays of the log.
    pub compaction: Compaction,
    /// Certificates between nodes.
    pub tls: Option<Tls>,
    /// Whether nodes may talk without certificates beyond this machine.
    pub insecure: bool,
    /// How clients are served.
    pub clients: resp::Options,
}

/// A node that runs.
pub struct Instance {
    node: Node<Machine>,
    client_address: SocketAddr,
    peer_address: SocketAddr,
    http_address: Option<SocketAddr>,
    ends: Ends,
    purge: JoinHandle<()>,
    samples: JoinHandle<()>,
    serving: Arc<http::Serving>,
}

struct Ends {
    clients: watch::Sender<bool>,
    peers: watch::Sender<bool>,
    clients_served: JoinHandle<()>,
    http_served: Option<JoinHandle<()>>,
    peers_served: JoinHandle<io::Result<()>>,
}

impl Instance {
    /// Starts a node: the one that the directory belongs to, or a new one.
    ///
    /// # Errors
    /// Why it cannot start, and what to do.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        Instance::start_until(settings, std::future::pending()).await
    }

    /// As [`start`](Instance::start), and does not wait to be invited any longer once `end` is
    /// ready.
    ///
    /// # Errors
    /// As there; or nobody had invited the node.
    pub async fn start_until(
        settings: Settings,
        end: impl Future<Output = ()>,
    ) -> anyhow::Result<Self> {
        let id = chosen_id(&settings)?;
        make_private(&settings.dir)?;
        let clients = bind(&settings.listen, "--listen").await?;
        let peers = bind(&settings.peer_listen, "--peer-listen").await?;
        let http = match &settings.http_listen {
            Some(address) => Some(bind(address, "--http-listen").await?),
            None => None,
        };
        check_exposure(&settings, peers.local_addr()?)?;
        let mut options = NodeOptions::new(reached_at(
            settings.advertise.as_deref(),
            peers.local_addr()?,
            "--advertise",
        )?);
        let client_address = clients.local_addr()?;
        let client = settings.client_advertise.as_deref();
        let client = reached_at(client, client_address, "--client-advertise")?;
        let http_address = http.as_ref().map(TcpListener::local_addr).transpose()?;
        let reached = |at| reached_at(settings.http_advertise.as_deref(), at, "--http-advertise");
        let published = Published {
            client,
            http: http_address.map(reached).transpose()?,
        };
        options.context = published.to_context();
        options.tick = settings.tick;
        options.compaction = settings.compaction;
        options.alone_when_removed = settings.alone_when_removed;
        options.command_bytes_max = COMMAND_BYTES_MAX;
        if settings.clients.redirect == resp::Redirect::Try {
            options.forwarding = Forwarding::Redirect;
        }
        let (peers_end, clients_end) = (watch::Sender::new(false), watch::Sender::new(false));
        // A store may take long to open: probes hear that the node is starting.
        let http_place = http::Place::default();
        let http_served = http.map(|listener| {
            let secret = settings.clients.secret.clone();
            let name = settings.http_advertise.clone();
            let server = http::Server::new(http_place.clone(), secret, name);
            tokio::spawn(server.serve(listener, ended(&clients_end)))
        });
        let peer_address = peers.local_addr()?;
        let begun = Begun::begin(&settings, id, options, peers, &peers_end, &http_place, end).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(e) => {
                clients_end.send_replace(true);
                if let Some(served) = http_served {
                    // Why the node did not start says more.
                    let _ = served.await;
                }
                return Err(e);
            }
        };
        let Begun {
            node,
            storage,
            due,
            peers_served,
        } = begun;
        if settings.clients.secret.is_none() {
            warn_of_strangers("--listen", client_address);
            http_address.inspect(|address| warn_of_strangers("--http-listen", *address));
        }
        let frontend = Arc::new(Frontend::new(
            node.clone(),
            settings.tls.clone(),
            &settings.clients,
        ));
        let server = resp::Server::new(Arc::clone(&frontend), settings.clients);
        let (tls, dir) = (settings.tls, &settings.dir);
        let serving = http::Serving::new(frontend, server.context(), tls, storage, dir);
        let serving = Arc::new(serving);
        http_place.started(Arc::clone(&serving));
        let clients_served = tokio::spawn(server.serve(clients, ended(&clients_end)));
        tracing::info!(
            id = node.id(),
            "serving clients at {client_address}, nodes at {peer_address}"
        );
        if let Some(address) = http_address {
            tracing::info!("status page at http://{address}/");
        }
        Ok(Instance {
            purge: tokio::spawn(expiry::purge(node.clone(), due)),
            samples: tokio::spawn(http::sample(Arc::clone(&serving))),
            serving,
            node,
            client_address,
            peer_address,
            http_address,
            ends: Ends {
                clients: clients_end,
                peers: peers_end,
                clients_served,
                http_served,
                peers_served,
            },
        })
    }

    /// The node itself.
    pub fn node(&self) -> &Node<Machine> {
        &self.node
    }

    /// Where it listens for clients.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where it listens for other nodes.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Where it listens for HTTP, if it does.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Ends in good order: what is under way is answered, and leadership handed over.
    ///
    /// # Errors
    /// The server for other nodes had failed before.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.ends.clients.send_replace(true);
        self.ends.clients_served.await?;
        if let Some(served) = self.ends.http_served {
            served.await?;
        }
        self.purge.abort();
        self.samples.abort();
        self.serving.close().await;
        self.node.shutdown().await;
        self.ends.peers.send_replace(true);
        self.ends.peers_served.await??;
        Ok(())
    }

    /// Ends as a crash would.
    pub async fn halt(self) {
        self.purge.abort();
        self.samples.abort();
        self.ends.clients_served.abort();
        if let Some(served) = &self.ends.http_served {
            served.abort();
        }
        self.serving.close().await;
        self.node.halt().await;
        self.ends.peers_served.abort();
        // Cancelled, or failed before: nothing of either matters now.
        let _ = self.ends.clients_served.await;
        if let Some(served) = self.ends.http_served {
            let _ = served.await;
        }
        let _ = self.ends.peers_served.await;
    }
}

/// A node that talks to others, and is not served to clients yet.
struct Begun {
    node: Node<Machine>,
    storage: RaftMachineStorage,
    due: Due,
    peers_served: JoinHandle<io::Result<()>>,
}

impl Begun {
    async fn begin(
        settings: &Settings,
        id: Option<u64>,
        options: NodeOptions,
        peers: TcpListener,
        peers_end: &watch::Sender<bool>,
        place: &http::Place,
        end: impl Future<Output = ()>,
    ) -> anyhow::Result<Self> {
        // The store tells this recorder, or none.
        metrics::process();
        let opened = settings.clone();
        let (storage, machine) =
            tokio::task::spawn_blocking(move || open_machine(&opened)).await??;
        let transport = GrpcTransport::new(TransportOptions::default(), settings.tls.clone())?;
        let transport = Arc::new(transport);
        let due = machine.due();
        let builder = Builder::new(storage.clone(), machine, transport.clone(), options)?;
        transport.report_to(builder.inbox());
        let is_newcomer = settings.await_invitation && builder.identity()?.is_none();
        let invitations = is_newcomer.then(Invitations::default);
        place.opened(invitations.clone());
        let server = raft_rocks_grpc::Server::new(builder.inbox(), settings.tls.clone());
        let server = match &invitations {
            None => server,
            Some(invitations) => server.with_invitations(invitations),
        };
        // Who joins hears the answer before it is a node.
        let member = Arc::new(OnceLock::new());
        let server = server.with_cluster(Arc::clone(&member));
        let peers_served = tokio::spawn(server.serve(peers, ended(peers_end)));
        let (join, given_up) = (settings.join.clone(), settings.force_new_cluster);
        let started = match &invitations {
            None => start::node(builder, id, join, given_up).await,
            Some(invitations) => start::invited(builder, id, invitations, end).await,
        };
        match started {
            Ok(node) => {
                // It is set once, here.
                let _ = member.set(node.clone());
                Ok(Begun {
                    node,
                    storage,
                    due,
                    peers_served,
                })
            }
            Err(e) => {
                peers_end.send_replace(true);
                // Why the node did not start says more.
                let _ = peers_served.await;
                Err(e)
            }
        }
    }
}

/// Ready when it is told.
fn ended(sender: &watch::Sender<bool>) -> impl Future<Output = ()> + use<> {
    let mut receiver = sender.subscribe();
    async move {
        // An error: nobody is left who could tell.
        let _ = receiver.wait_for(|ends| *ends).await;
    }
}

fn open_machine(settings: &Settings) -> anyhow::Result<(RaftMachineStorage, Machine)> {
    let storage = open_store(settings)?;
    let machine = match settings.backend {
        Backend::RocksDb => Machine::open(RocksRows::new(storage.clone())?)?,
        Backend::Memory => Machine::open(MemoryRows::default())?,
    };
    Ok((storage, machine))
}

fn open_store(settings: &Settings) -> anyhow::Result<RaftMachineStorage> {
    let mut options = raft_rocks::Options::default();
    options.fsync = settings.fsync;
    options.column_families = vec![FAMILY.to_owned()];
    let dir = settings.dir.join("store");
    let opened = RaftMachineStorage::open(&dir, store_options(options));
    opened.with_context(|| format!("opening {}", dir.display()))
}
