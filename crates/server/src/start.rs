//! What a node begins as: the one that its store belongs to, the first of a cluster, one that
//! joins, or one that waits to be invited.

use std::future::Future;
use std::pin::pin;

use anyhow::{Context as _, anyhow, bail};
use raft_rocks::RaftMachineStorage;
use raft_rocks::driver::{Builder, JoinOptions, Node, RequestError, StartError};
use raft_rocks_grpc::{Invitation, Invitations};

use crate::config::digits;
use crate::kv::Machine;

/// Starts the node that the store belongs to, or a new one: of a cluster of its own, or of that of
/// which `join` names members. A node of the cluster `given_up` begins a new one with what it
/// holds; the new one has another id, so that the next start is one as any other.
///
/// # Errors
/// Why it cannot start, and what to do.
pub async fn node(
    builder: Builder<RaftMachineStorage, Machine>,
    id: Option<u64>,
    join: Vec<String>,
    given_up: Option<[u8; 16]>,
) -> anyhow::Result<Node<Machine>> {
    if let Some(identity) = builder.identity()? {
        let cluster = digits(&identity.cluster_id);
        let is_forced = given_up.is_some_and(|given_up| identity.cluster_id == given_up);
        if is_forced {
            if let Some(asked) = id
                && asked != identity.node_id
            {
                let stored = identity.node_id;
                return Err(StartError::OtherId { stored, asked }.into());
            }
            let forced = tokio::task::spawn_blocking(move || builder.force_new_cluster());
            return Ok(forced.await??);
        }
        if given_up.is_some() {
            tracing::info!("--force-new-cluster is ignored: the node is of cluster {cluster}");
        }
        if !join.is_empty() {
            let id = identity.node_id;
            tracing::info!("--join is ignored: the directory belongs to node {id}, a member");
        }
        // It may restore a machine: nothing for an executor.
        let opened = tokio::task::spawn_blocking(move || match id {
            Some(id) => builder.open_as(id),
            None => builder.open(),
        });
        return opened.await?.map_err(|e| match e {
            StartError::RestoredCopy(_) => anyhow!(
                "{e}: --force-new-cluster {cluster}, when no node of that cluster runs or ever \
                 will"
            ),
            e => e.into(),
        });
    }
    if given_up.is_some() {
        bail!(
            "--force-new-cluster: the directory holds no node; restore the backup into it, or \
             give --dir"
        );
    }
    if join.is_empty() {
        let id = id.unwrap_or(1);
        tracing::info!("beginning a new cluster as node {id}");
        return Ok(tokio::task::spawn_blocking(move || bootstrap(builder, id)).await??);
    }
    let promote = true;
    self::join(builder, join, JoinOptions { id, promote }).await
}

async fn join(
    builder: Builder<RaftMachineStorage, Machine>,
    join: Vec<String>,
    options: JoinOptions,
) -> anyhow::Result<Node<Machine>> {
    tracing::info!("asking {} to be taken in", join.join(", "));
    let asked = join.join(", ");
    let joined = builder.join(join, options).await;
    joined.with_context(|| format!("joining the cluster of {asked}"))
}

fn bootstrap(
    builder: Builder<RaftMachineStorage, Machine>,
    id: u64,
) -> Result<Node<Machine>, StartError> {
    let members = vec![builder.node_info(id)?];
    let mut cluster_id = [0; 16];
    getrandom::getrandom(&mut cluster_id).map_err(|_| {
        StartError::Options("cluster id: the system gives no random bytes; start it again")
    })?;
    builder.bootstrap_with(id, cluster_id, members)
}

/// Waits until a cluster invites the node, and joins it.
///
/// # Errors
/// It was not taken in; or `end` was ready before anybody had invited it.
pub async fn invited(
    builder: Builder<RaftMachineStorage, Machine>,
    id: Option<u64>,
    invitations: &Invitations,
    end: impl Future<Output = ()>,
) -> anyhow::Result<Node<Machine>> {
    tracing::info!("waiting to be invited: a member is to add this node");
    let mut end = pin!(end);
    loop {
        let invitation = tokio::select! {
            invitation = invitations.next() => invitation,
            () = &mut end => bail!("nobody had invited the node"),
        };
        match (id, invitation.id) {
            (Some(own), Some(asked)) if own != asked => {
                let problem = format!("it is to be node {own}, by its --id or certificate");
                tracing::warn!("invited to be node {asked}: {problem}");
                invitation.declined(problem);
            }
            _ => return follow(builder, id, invitation).await,
        }
    }
}

async fn follow(
    builder: Builder<RaftMachineStorage, Machine>,
    id: Option<u64>,
    invitation: Invitation,
) -> anyhow::Result<Node<Machine>> {
    let options = JoinOptions {
        id: id.or(invitation.id),
        promote: invitation.promote,
    };
    match join(builder, invitation.members.clone(), options).await {
        Ok(node) => {
            invitation.joined(node.id());
            Ok(node)
        }
        Err(e) => {
            let problem = format!("{e:#}");
            match e.downcast_ref() {
                Some(StartError::Join(RequestError::OutcomeUnknown)) => {
                    invitation.unsettled(problem)
                }
                _ => invitation.failed(problem),
            }
            Err(e)
        }
    }
}
