//! How a node that was started without a cluster comes into one: it waits to be invited.
//!
//! Invariants:
//! 1. One invitation is taken: whoever comes while the node follows it, or later, hears so.
//! 2. With certificates only those of the same authority and cluster may invite.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::proto::newcomer_server::Newcomer;
use crate::proto::{self, AddResponse};
use crate::server::Caller;

/// An invitation that a node follows; tell how that ended.
pub struct Invitation {
    /// What the node is to be, if it matters.
    pub id: Option<u64>,
    /// Where members of the cluster are reached: `seeds` of
    /// [`Builder::join`](raft_rocks::driver::Builder::join).
    pub members: Vec<String>,
    /// Whether the node becomes a voter once it has caught up.
    pub promote: bool,
    state: Arc<watch::Sender<State>>,
}

/// Where a node learns that a cluster wants it. A clone is another handle of the same.
#[derive(Clone)]
pub struct Invitations {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone)]
enum State {
    Waits,
    Invited(proto::Invitation),
    Follows,
    Joined(u64),
    Failed(String),
}

impl Default for Invitations {
    fn default() -> Self {
        Invitations {
            state: Arc::new(watch::Sender::new(State::Waits)),
        }
    }
}

impl Invitations {
    /// Waits for an invitation.
    pub async fn next(&self) -> Invitation {
        let mut changes = self.state.subscribe();
        loop {
            // The sender is here.
            let _ = changes
                .wait_for(|state| matches!(state, State::Invited(_)))
                .await;
            let mut taken = None;
            self.state.send_if_modified(|state| {
                let State::Invited(invitation) = state else {
                    return false;
                };
                taken = Some(std::mem::take(invitation));
                *state = State::Follows;
                true
            });
            if let Some(invitation) = taken {
                return Invitation {
                    id: Some(invitation.id).filter(|id| *id != 0),
                    members: invitation.members,
                    promote: invitation.promote,
                    state: Arc::clone(&self.state),
                };
            }
        }
    }

    /// Whether nobody has invited the node yet.
    pub fn waits(&self) -> bool {
        matches!(*self.state.borrow(), State::Waits)
    }
}

impl Invitation {
    /// The node is in the cluster.
    pub fn joined(self, id: u64) {
        self.state.send_replace(State::Joined(id));
    }

    /// It is not, and why.
    pub fn failed(self, problem: impl ToString) {
        self.state.send_replace(State::Failed(problem.to_string()));
    }
}

pub(crate) struct NewcomerService {
    pub invitations: Invitations,
    pub caller: Caller,
}

#[tonic::async_trait]
impl Newcomer for NewcomerService {
    async fn invite(
        &self,
        request: Request<proto::Invitation>,
    ) -> Result<Response<AddResponse>, Status> {
        self.caller.check(&request)?;
        let invitation = request.into_inner();
        if invitation.members.is_empty() {
            return Err(Status::invalid_argument(
                "an invitation names members to ask",
            ));
        }
        let state = &self.invitations.state;
        let mut changes = state.subscribe();
        let mut met = None;
        state.send_if_modified(|state| {
            met = Some(state.clone());
            let waits = matches!(state, State::Waits);
            if waits {
                *state = State::Invited(invitation);
            }
            waits
        });
        match met {
            Some(State::Waits) => {}
            Some(State::Joined(id)) => return Err(is_member(id)),
            _ => return Err(Status::aborted("the node has been invited, and is joining")),
        }
        let ended = changes.wait_for(|state| matches!(state, State::Joined(_) | State::Failed(_)));
        let ended = ended.await.map(|state| state.clone());
        match ended {
            Ok(State::Joined(id)) => Ok(Response::new(AddResponse { id })),
            Ok(State::Failed(problem)) => Err(Status::failed_precondition(problem)),
            _ => Err(Status::unavailable("the node stops")),
        }
    }
}

fn is_member(id: u64) -> Status {
    Status::failed_precondition(format!(
        "it is node {id} of a cluster already; a node that is to join this one starts with an \
         empty directory"
    ))
}
