//! The other side of the `Cluster` service: for those who run a cluster, and for applications.

mod error;

use std::future::Future;
use std::time::Duration;

use raft_rocks::driver::{Consistency, MemberChange, NodeInfo, Proposed, Session};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

pub use self::error::ClientError;
use crate::proto::cluster_client::ClusterClient as Calls;
use crate::proto::{
    self, AddRequest, ChangeMembershipRequest, Nothing, ProposeRequest, ReadRequest,
    StatusResponse, TransferLeaderRequest, member_change,
};
use crate::{LEADER_KEY, MESSAGE_BYTES_MAX, PROTOCOL, PROTOCOL_KEY, Tls};

/// How long a connection may take to come about.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long everything that is asked may take, unless it is said otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a node may take to say that something was not done in time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Before the same is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a request follows a hint to another leader.
const HOPS_MAX: usize = 4;

pub(crate) type Spoken = InterceptedService<Channel, Version>;

/// A connection to one node. What only the leader does is handed on by the node, or asked of the
/// leader that it names. What nodes say cannot be done now is asked again until the deadline.
///
/// ```no_run
/// # async fn run() -> Result<(), raft_rocks_grpc::ClientError> {
/// let mut client = raft_rocks_grpc::ClusterClient::connect("127.0.0.1:7482", None).await?;
/// let status = client.status().await?;
/// println!("node {} of {}", status.id, status.members.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClusterClient {
    home: Connection,
    tls: Option<Tls>,
    patience: Duration,
}

#[derive(Clone)]
struct Connection {
    address: String,
    calls: Calls<Spoken>,
}

/// What is done with a request that nothing has come of.
#[derive(Clone, Copy)]
struct Ask {
    /// It is for the leader, whoever leads.
    follows: bool,
    /// It is made again.
    repeats: bool,
}

const OF_THE_LEADER: Ask = Ask {
    follows: true,
    repeats: true,
};
const OF_THE_NODE: Ask = Ask {
    follows: false,
    repeats: false,
};

impl ClusterClient {
    /// Connects to the node that others reach at `address`, `host:port`. With certificates the
    /// node must show one of the same cluster, and a client one as
    /// [`Party::Client`](crate::Party::Client).
    ///
    /// # Errors
    /// [`ClientError`]: nobody is there, or no node, or one side does not know the other.
    pub async fn connect(address: &str, tls: Option<Tls>) -> Result<Self, ClientError> {
        Ok(ClusterClient {
            home: Connection::open(address, tls.as_ref()).await?,
            tls,
            patience: PATIENCE,
        })
    }

    /// How long each request may take from now on. At first: 10 s.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        ClusterClient { patience, ..self }
    }

    /// The address that was given.
    pub fn address(&self) -> &str {
        &self.home.address
    }

    /// Where the node stands.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&mut self) -> Result<StatusResponse, ClientError> {
        self.ask(OF_THE_NODE, (), |mut calls, ()| async move {
            calls.status(Nothing {}).await
        })
        .await
    }

    /// Replicates a command; returns when it is applied. With a session it is applied once,
    /// however often it is sent.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn propose(
        &mut self,
        command: impl Into<Vec<u8>>,
        session: Option<Session>,
    ) -> Result<Proposed, ClientError> {
        let request = ProposeRequest {
            command: command.into().into(),
            client: session.map(|session| session.client),
            sequence: session.map_or(0, |session| session.sequence),
        };
        let call = |mut calls: Calls<Spoken>, request| async move { calls.propose(request).await };
        let proposed = self.ask(OF_THE_LEADER, request, call).await?;
        Ok(Proposed {
            index: proposed.index,
            answer: proposed.answer.map(Into::into),
        })
    }

    /// Waits until the node's machine may be read with this consistency; the index it has applied
    /// at least.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn read(&mut self, consistency: Consistency) -> Result<u64, ClientError> {
        let consistency = match consistency {
            Consistency::Linearizable => proto::Consistency::Linearizable,
            Consistency::Lease => proto::Consistency::Lease,
            Consistency::Leader => proto::Consistency::Leader,
            Consistency::Stale => proto::Consistency::Stale,
        };
        let request = ReadRequest {
            consistency: consistency.into(),
        };
        let call = |mut calls: Calls<Spoken>, request| async move { calls.read(request).await };
        Ok(self.ask(OF_THE_NODE, request, call).await?.index)
    }

    /// Changes the membership; several changes are one joint change.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn change_membership(
        &mut self,
        changes: Vec<MemberChange>,
    ) -> Result<(), ClientError> {
        let changes = changes.into_iter().map(member_change).collect();
        let request = ChangeMembershipRequest { changes };
        let call = |mut calls: Calls<Spoken>, request| async move {
            calls.change_membership(request).await
        };
        self.ask(OF_THE_LEADER, request, call).await.map(drop)
    }

    /// Invites the node that waits at `address`, as node `id` or as what it or the leader chooses;
    /// or makes a learner there a voter. Returns its id when it is in the cluster and, if
    /// `as_voter`, a voter.
    ///
    /// # Errors
    /// [`ClientError`]; under [`Silent`](ClientError::Silent) and
    /// [`OutcomeUnknown`](ClientError::OutcomeUnknown) it may become a member yet.
    pub async fn add(
        &mut self,
        address: &str,
        id: Option<u64>,
        as_voter: bool,
    ) -> Result<u64, ClientError> {
        let timeout_ms = self.patience.as_millis().try_into().unwrap_or(u64::MAX);
        let request = AddRequest {
            address: address.to_owned(),
            id: id.unwrap_or(0),
            voter: as_voter,
            timeout_ms,
        };
        let call = |mut calls: Calls<Spoken>, request| async move { calls.add(request).await };
        // The node says more of why it is not done in time.
        let patience = self.patience + ANSWER_PATIENCE;
        let asked = self.clone().with_patience(patience);
        Ok(asked.ask(OF_THE_LEADER, request, call).await?.id)
    }

    /// Hands leadership over to a voter; returns when that one leads.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transfer_leader(&mut self, to: u64) -> Result<(), ClientError> {
        let request = TransferLeaderRequest { to };
        let call =
            |mut calls: Calls<Spoken>, request| async move { calls.transfer_leader(request).await };
        self.ask(OF_THE_LEADER, request, call).await.map(drop)
    }

    /// The node leaves its cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leave(&mut self) -> Result<(), ClientError> {
        self.ask(
            Ask {
                repeats: true,
                ..OF_THE_NODE
            },
            (),
            |mut calls, ()| async move { calls.leave(Nothing {}).await },
        )
        .await
        .map(drop)
    }

    /// Has the node make a snapshot of its state, and does not wait for it:
    /// [`status`](ClusterClient::status) tells the index of the last.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn snapshot(&mut self) -> Result<(), ClientError> {
        self.ask(OF_THE_NODE, (), |mut calls, ()| async move {
            calls.snapshot(Nothing {}).await
        })
        .await
        .map(drop)
    }

    async fn ask<Q: Clone, A, F>(
        &self,
        ask: Ask,
        request: Q,
        call: impl Fn(Calls<Spoken>, Q) -> F,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + self.patience;
        let mut hops = 0;
        let mut at = self.home.clone();
        loop {
            let called = timeout_at(deadline, call(at.calls.clone(), request.clone())).await;
            let status = match called {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(self.silent(&at.address)),
            };
            let leader = leader_named(&status).filter(|_| ask.follows && hops < HOPS_MAX);
            let error = match leader {
                None => ClientError::of(&at.address, &status),
                Some(leader) => match Connection::open(&leader, self.tls.as_ref()).await {
                    Ok(leader) => {
                        (at, hops) = (leader, hops + 1);
                        continue;
                    }
                    // It may have another soon.
                    Err(error) => error,
                },
            };
            let is_in_time = Instant::now() + PAUSE < deadline;
            if !ask.repeats || !error.is_retryable() || !is_in_time {
                return Err(error);
            }
            sleep(PAUSE).await;
            (at, hops) = (self.home.clone(), 0);
        }
    }

    fn silent(&self, address: &str) -> ClientError {
        ClientError::Silent {
            address: address.to_owned(),
            patience: self.patience,
        }
    }
}

impl Connection {
    /// It counts when a node has answered on it.
    async fn open(address: &str, tls: Option<&Tls>) -> Result<Self, ClientError> {
        let channel = connect(address, tls).await?;
        let calls = Calls::with_interceptor(channel, Version);
        let calls = calls.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut first = calls.clone();
        let deadline = Instant::now() + CONNECT_PATIENCE;
        match timeout_at(deadline, first.status(Nothing {})).await {
            Ok(Ok(_)) => {}
            // It will be one.
            Ok(Err(status)) if is_starting(&status) => {}
            Ok(Err(status)) => {
                return Err(ClientError::of_first_call(address, &status, tls.is_some()));
            }
            Err(_) => {
                return Err(ClientError::Silent {
                    address: address.to_owned(),
                    patience: CONNECT_PATIENCE,
                });
            }
        }
        Ok(Connection {
            address: address.to_owned(),
            calls,
        })
    }
}

fn is_starting(status: &Status) -> bool {
    status.code() == tonic::Code::Unavailable && std::error::Error::source(status).is_none()
}

/// A connection to whatever listens at `address`.
pub(crate) async fn connect(address: &str, tls: Option<&Tls>) -> Result<Channel, ClientError> {
    let bad = || ClientError::Address(address.to_owned());
    let host_and_port = address.rsplit_once(':').ok_or_else(bad)?;
    host_and_port.1.parse::<u16>().map_err(|_| bad())?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|_| bad())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(CONNECT_PATIENCE)
        .keep_alive_timeout(CONNECT_PATIENCE);
    let refused = |e| ClientError::of_connecting(address, &e);
    let endpoint = match tls {
        None => endpoint,
        Some(tls) => {
            let config = tls.client_config(0).timeout(CONNECT_PATIENCE);
            endpoint.tls_config(config).map_err(refused)?
        }
    };
    endpoint.connect().await.map_err(refused)
}

/// Every call says which version of the protocol it is in.
#[derive(Clone)]
pub(crate) struct Version;

impl Interceptor for Version {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let version = MetadataValue::from_static(PROTOCOL);
        request.metadata_mut().insert(PROTOCOL_KEY, version);
        Ok(request)
    }
}

fn leader_named(status: &Status) -> Option<String> {
    let leader = status.metadata().get(LEADER_KEY)?;
    leader.to_str().ok().map(str::to_owned)
}

fn member_change(change: MemberChange) -> proto::MemberChange {
    let change = match change {
        MemberChange::Learner(node) => member_change::Change::Learner(member(node)),
        MemberChange::Voter(node) => member_change::Change::Voter(member(node)),
        MemberChange::Promote(id) => member_change::Change::Promote(id),
        MemberChange::Remove(id) => member_change::Change::Remove(id),
    };
    let change = Some(change);
    proto::MemberChange { change }
}

pub(crate) fn member(node: NodeInfo) -> proto::Member {
    proto::Member {
        id: node.id,
        address: node.address,
        store_id: node.store_id.into(),
        context: node.context.into(),
        promote: node.promote,
    }
}
