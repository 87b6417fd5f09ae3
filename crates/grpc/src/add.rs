//! How a member has another node join.

use std::error::Error as _;
use std::time::Duration;

use raft_rocks::driver::{Node, RequestError, StateMachine, Status as RaftStatus};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tonic::{Code, Status};

use crate::client::{CONNECT_PATIENCE, ClientError, Version, connect};
use crate::cluster::refusal;
use crate::proto::cluster_client::ClusterClient;
use crate::proto::newcomer_client::NewcomerClient;
use crate::proto::{Invitation, Nothing};
use crate::tls::Tls;

/// How often is looked whether it has come so far.
const LOOK: Duration = Duration::from_millis(50);

/// A node to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Where nodes reach it: it waits there to be invited, or is a learner.
    pub address: String,
    /// What it is to be; `None`: what it was told itself, or else what the leader gives.
    pub id: Option<u64>,
    /// Whether it is to have a vote.
    pub as_voter: bool,
}

/// Why a node was not added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The cluster does not take it, or says why it is not known whether it does.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It cannot be invited.
    #[error("{0}{hint}", hint = hint(.0))]
    Invite(#[from] ClientError),
    /// Another node is at this address.
    #[error("the node at {address} is member {found}, not {asked}")]
    OtherId {
        /// Where.
        address: String,
        /// Who is there.
        found: u64,
        /// Who was to be.
        asked: u64,
    },
    /// It was invited, or given a vote, and this node cannot tell how that goes on.
    #[error("node {id} is on its way into the cluster, and is not watched: {source}; look")]
    NotWatched {
        /// Who.
        id: u64,
        /// Why not.
        source: RequestError,
    },
    /// It is on its way.
    #[error(
        "node {id} is a member, and has not caught up with the log within {patience:?}; it becomes \
         a voter when it has: look at its lag"
    )]
    Behind {
        /// Who.
        id: u64,
        /// How long was waited.
        patience: Duration,
    },
    /// Nothing was seen of it.
    #[error(
        "the node at {address} was invited, and is no member after {patience:?}; its log says why"
    )]
    NotSeen {
        /// Where.
        address: String,
        /// How long was waited.
        patience: Duration,
    },
}

fn hint(error: &ClientError) -> &'static str {
    match error.is_open() {
        true => "",
        false => "; start it with --await-invitation, or with --join and the address of a member",
    }
}

impl AddError {
    /// Whether the node may have been added, or may be yet.
    pub fn is_open(&self) -> bool {
        match self {
            AddError::NotWatched { .. } | AddError::Behind { .. } | AddError::NotSeen { .. } => {
                true
            }
            AddError::Invite(error) => error.is_open(),
            AddError::Request(error) => matches!(error, RequestError::OutcomeUnknown),
            AddError::OtherId { .. } => false,
        }
    }

    /// As the .proto file says.
    pub(crate) fn into_status(self) -> Status {
        let code = match self {
            AddError::Request(e) => return refusal(e),
            AddError::Behind { .. } | AddError::NotSeen { .. } => Code::DeadlineExceeded,
            AddError::NotWatched { .. } => Code::Unknown,
            AddError::Invite(ref e) if e.is_open() => Code::Unknown,
            AddError::Invite(_) | AddError::OtherId { .. } => Code::FailedPrecondition,
        };
        Status::new(code, self.to_string())
    }
}

/// Has a node join that waits for it, or makes a learner a voter. Returns its id when it is in the
/// cluster and, if it is to be a voter, one.
///
/// # Errors
/// [`AddError`]; [`is_open`](AddError::is_open) tells whether it may come so far yet.
pub async fn add_member<M: StateMachine>(
    node: &Node<M>,
    tls: Option<&Tls>,
    newcomer: Newcomer,
    patience: Duration,
) -> Result<u64, AddError> {
    let deadline = Instant::now() + patience;
    let status = node.status().await?.raft;
    let mut nodes = status.book.nodes.iter();
    let known = nodes.find(|known| known.address == newcomer.address);
    let id = match known {
        Some(known) => {
            check_id(&newcomer, known.id)?;
            if newcomer.as_voter && !is_voter(&status, known.id) {
                node.promote(known.id).await?;
            }
            known.id
        }
        None => {
            let members = status.book.nodes.iter().map(|node| node.address.clone());
            let invited = timeout_at(deadline, invite(tls, &newcomer, members.collect())).await;
            let not_seen = |_| AddError::NotSeen {
                address: newcomer.address.clone(),
                patience,
            };
            invited.map_err(not_seen)??
        }
    };
    wait(node, id, &newcomer, patience, deadline).await
}

fn check_id(newcomer: &Newcomer, found: u64) -> Result<(), AddError> {
    match newcomer.id {
        Some(asked) if asked != found => Err(AddError::OtherId {
            address: newcomer.address.clone(),
            found,
            asked,
        }),
        _ => Ok(()),
    }
}

/// Returns when the node has joined, or was refused.
async fn invite(
    tls: Option<&Tls>,
    newcomer: &Newcomer,
    members: Vec<String>,
) -> Result<u64, ClientError> {
    let address = &newcomer.address;
    let channel = connect(address, tls).await?;
    // Whether the other side is a node that takes our certificate shows in its first answer,
    // whatever that says. A connection that breaks after it may have carried the invitation.
    let mut first = ClusterClient::with_interceptor(channel.clone(), Version);
    match timeout(CONNECT_PATIENCE, first.status(Nothing {})).await {
        Ok(Err(status)) if status.source().is_some() => {
            return Err(ClientError::of_first_call(address, &status, tls.is_some()));
        }
        Ok(_) => {}
        Err(_) => {
            return Err(ClientError::NotNow {
                address: address.clone(),
                problem: format!("it says nothing for {CONNECT_PATIENCE:?}"),
            });
        }
    }
    let mut client = NewcomerClient::with_interceptor(channel, Version);
    let invitation = Invitation {
        id: newcomer.id.unwrap_or(0),
        members,
        promote: newcomer.as_voter,
    };
    let invited = client.invite(invitation).await;
    let refused = |status| ClientError::of_invitation(address, &status);
    let joined = invited.map_err(refused)?;
    Ok(joined.into_inner().id)
}

async fn wait<M: StateMachine>(
    node: &Node<M>,
    id: u64,
    newcomer: &Newcomer,
    patience: Duration,
    deadline: Instant,
) -> Result<u64, AddError> {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let not_watched = |source| AddError::NotWatched { id, source };
        let status = node.status().await.map_err(not_watched)?.raft;
        let is_member = status.book.node(id).is_some();
        if is_member && (!newcomer.as_voter || is_voter(&status, id)) {
            return Ok(id);
        }
        if timeout_at(deadline, looks.tick()).await.is_err() {
            return Err(match is_member {
                true => AddError::Behind { id, patience },
                false => AddError::NotSeen {
                    address: newcomer.address.clone(),
                    patience,
                },
            });
        }
    }
}

fn is_voter(status: &RaftStatus, id: u64) -> bool {
    status.conf_state.get_voters().contains(&id)
}
