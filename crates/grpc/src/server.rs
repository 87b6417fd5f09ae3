//! The server of one node.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use raft_rocks::driver::{Inbox, Node, StateMachine};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::cluster::ClusterService;
use crate::incoming::{Accepted, Secured};
use crate::invitation::{Invitations, NewcomerService};
use crate::peer::PeerService;
use crate::proto::cluster_server::ClusterServer;
use crate::proto::newcomer_server::NewcomerServer;
use crate::proto::peer_server::PeerServer;
use crate::tls::{Party, Tls};
use crate::{MESSAGE_BYTES_MAX, PROTOCOL, PROTOCOL_KEY};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 1024;
/// Calls at a time on one of them.
const CALLS_MAX: u32 = 64;
/// How long calls that are under way may take when the server ends.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// A connection on which nothing comes back for this long is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Who calls, as far as it is known.
#[derive(Clone)]
pub(crate) struct Caller {
    pub tls: Option<Tls>,
}

impl Caller {
    /// Whom the certificate names; `None` without certificates.
    pub(crate) fn check<T>(&self, request: &Request<T>) -> Result<Option<Party>, Status> {
        let spoken = request.metadata().get(PROTOCOL_KEY);
        if spoken.is_none_or(|spoken| spoken != PROTOCOL) {
            return Err(Status::failed_precondition(format!(
                "this server speaks version {PROTOCOL} of the protocol, and wants that in the \
                 metadata {PROTOCOL_KEY}"
            )));
        }
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let shown = request.peer_certs();
        let party = tls.check(shown.as_ref().map(|shown| &shown[..]));
        party.map(Some).map_err(Status::unauthenticated)
    }
}

/// Receives what other nodes send, and serves the `Cluster` service.
pub struct Server {
    routes: Routes,
    caller: Caller,
    ends: watch::Sender<bool>,
    /// Of a node that waits for one.
    invitations: Option<Invitations>,
}

impl Server {
    /// A server for the node of this inbox. With `tls` who has no certificate of its authority is
    /// not served; the certificate of a node lets it be that node alone.
    pub fn new(inbox: Inbox, tls: Option<Tls>) -> Self {
        let caller = Caller { tls };
        let ends = watch::Sender::new(false);
        let peer = PeerService {
            inbox,
            caller: caller.clone(),
            ends: ends.subscribe(),
        };
        let peer = PeerServer::new(peer).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Server {
            routes: Routes::new(peer),
            caller,
            ends,
            invitations: None,
        }
    }

    /// Takes the invitation of a cluster, for a node that belongs to none yet. Before
    /// [`with_cluster`](Server::with_cluster), which tells then what the node waits for.
    #[must_use]
    pub fn with_invitations(self, invitations: &Invitations) -> Self {
        let newcomer = NewcomerService {
            invitations: invitations.clone(),
            caller: self.caller.clone(),
        };
        Server {
            routes: self.routes.add_service(NewcomerServer::new(newcomer)),
            invitations: Some(invitations.clone()),
            ..self
        }
    }

    /// Serves the `Cluster` service of a node, too, as soon as there is one: who joins hears the
    /// answer before it is a node.
    #[must_use]
    pub fn with_cluster<M: StateMachine>(self, node: Arc<OnceLock<Node<M>>>) -> Self {
        let cluster = ClusterService {
            node,
            caller: self.caller.clone(),
            invitations: self.invitations.clone(),
        };
        let cluster = ClusterServer::new(cluster).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Server {
            routes: self.routes.add_service(cluster),
            ..self
        }
    }

    /// Serves until `end` is ready, and everything that is under way has ended, for some seconds
    /// at most.
    ///
    /// # Errors
    /// HTTP/2 failed.
    pub async fn serve(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut server = tonic::transport::Server::builder()
            .max_concurrent_streams(CALLS_MAX)
            .http2_keepalive_interval(Some(KEEP_ALIVE / 2))
            .http2_keepalive_timeout(Some(KEEP_ALIVE / 2));
        let ended = CancellationToken::new();
        let connections = Accepted::new(listener, CONNECTIONS_MAX, ended.clone());
        let ends = self.ends;
        let end = async move {
            end.await;
            ends.send_replace(true);
            tokio::spawn(async move {
                tokio::time::sleep(END_PATIENCE).await;
                ended.cancel();
            });
        };
        let router = server.add_routes(self.routes);
        let served = match &self.caller.tls {
            None => router.serve_with_incoming_shutdown(connections, end).await,
            Some(tls) => {
                let connections = Secured::new(connections, tls.acceptor());
                router.serve_with_incoming_shutdown(connections, end).await
            }
        };
        served.map_err(io::Error::other)
    }
}
