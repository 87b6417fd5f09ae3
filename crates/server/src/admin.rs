//! Changes of the membership and of the leadership, for whatever protocol they are asked in.

use std::time::Duration;

use raft_rocks::driver::{NodeInfo, RequestError, Status};
use raft_rocks_grpc::{AddError, add_member};

use crate::address::client_address;
use crate::frontend::{Frontend, Refused};

/// How long a newcomer may take until it is in and has caught up: less than a request by HTTP.
const ADD_PATIENCE: Duration = Duration::from_secs(25);

/// Why a member was not added, removed or made the leader. Nothing has happened, except where
/// [`Refused`] or [`AddError::is_open`] says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody has this address or id.
    #[error("no member has the address or id '{}'", .0.escape_debug())]
    NoMember(String),
    /// Several say that they are reached there.
    #[error(
        "several members, {ids:?}, have the address '{}'; give the id, and each its own \
         --client-advertise", who.escape_debug()
    )]
    Several {
        /// The address.
        who: String,
        /// Theirs.
        ids: Vec<u64>,
    },
    /// None that could be invited was found there, or it is not known to have come in.
    #[error(transparent)]
    NotAdded(AddError),
    /// The member is another than was meant.
    #[error("the node at '{}' is node {is}, not {asked}; leave the id out, or give that one", address.escape_debug())]
    OtherId {
        /// Where it is.
        address: String,
        /// Which it is.
        is: u64,
        /// Which it should be.
        asked: u64,
    },
    /// A voter is not made a learner here.
    #[error("node {0} votes already; remove it, and let it join anew without a vote")]
    IsVoter(u64),
    /// The cluster did not answer, or refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl From<RequestError> for AdminError {
    fn from(error: RequestError) -> Self {
        AdminError::Refused(error.into())
    }
}

/// Who is to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// `None`: whatever the leader gives, or has given.
    pub id: Option<u64>,
    /// `host:port`, where the other nodes or clients reach it.
    pub address: String,
    /// Whether it gets a vote.
    pub voter: bool,
}

/// The member with this address, for clients or for nodes, or this id.
///
/// # Errors
/// [`AdminError::Several`].
pub fn find(status: &Status, who: &str) -> Result<Option<u64>, AdminError> {
    let is_meant = |node: &&NodeInfo| {
        node.address == who || client_address(node) == who || node.id.to_string() == who
    };
    let found = status.book.nodes.iter().filter(is_meant);
    let found: Vec<u64> = found.map(|node| node.id).collect();
    match found.as_slice() {
        [] => Ok(None),
        [id] => Ok(Some(*id)),
        _ => Err(AdminError::Several {
            who: who.to_owned(),
            ids: found,
        }),
    }
}

/// Sees to it that this node is a member, and returns its id. A learner is made a voter, if it is to
/// be one; a node that waits to be invited joins by itself, since nobody else knows its store, and
/// is waited for.
///
/// # Errors
/// [`AdminError`].
pub async fn add(frontend: &Frontend, newcomer: &Newcomer) -> Result<u64, AdminError> {
    let Newcomer { address, .. } = newcomer;
    let status = status(frontend).await?;
    let Some(is) = find(&status, address)? else {
        return invite(frontend, newcomer).await;
    };
    if let Some(asked) = newcomer.id
        && asked != is
    {
        let address = address.clone();
        return Err(AdminError::OtherId { address, is, asked });
    }
    let is_voter = status.conf_state.get_voters().contains(&is);
    match (newcomer.voter, is_voter) {
        (true, true) | (false, false) => {}
        (true, false) => {
            let promoted = frontend.retried(|| frontend.node().promote(is));
            promoted.await?;
        }
        (false, true) => return Err(AdminError::IsVoter(is)),
    }
    Ok(is)
}

async fn invite(frontend: &Frontend, newcomer: &Newcomer) -> Result<u64, AdminError> {
    let newcomer = raft_rocks_grpc::Newcomer {
        address: newcomer.address.clone(),
        id: newcomer.id,
        as_voter: newcomer.voter,
    };
    let added = add_member(frontend.node(), frontend.tls(), newcomer, ADD_PATIENCE).await;
    added.map_err(|error| match error {
        AddError::Request(error) => error.into(),
        error => AdminError::NotAdded(error),
    })
}

/// Removes the member with this address or id.
///
/// # Errors
/// [`AdminError`].
pub async fn remove(frontend: &Frontend, who: &str) -> Result<(), AdminError> {
    let status = status(frontend).await?;
    let id = member(&status, who)?;
    let node = frontend.node();
    if id == node.id() {
        return Ok(frontend.retried(|| node.leave()).await?);
    }
    let is_voter = status.conf_state.get_voters().contains(&node.id());
    if id == status.leader && is_voter {
        // A leader that removes itself would go on until the others miss it.
        frontend.retried(|| node.transfer_leader(node.id())).await?;
    }
    Ok(frontend.retried(|| node.remove(id)).await?)
}

/// Makes the member with this address or id the leader.
///
/// # Errors
/// [`AdminError`].
pub async fn transfer(frontend: &Frontend, to: &str) -> Result<(), AdminError> {
    let to = member(&status(frontend).await?, to)?;
    let node = frontend.node();
    Ok(frontend.retried(|| node.transfer_leader(to)).await?)
}

async fn status(frontend: &Frontend) -> Result<Status, AdminError> {
    Ok(frontend.node().status().await?.raft)
}

fn member(status: &Status, who: &str) -> Result<u64, AdminError> {
    find(status, who)?.ok_or_else(|| AdminError::NoMember(who.to_owned()))
}
