//! How a node that was started without a cluster comes into one: it waits to be invited.
//!
//! Invariants:
//! 1. One invitation is taken: whoever comes while the node follows it, or later, hears so.
//! 2. With certificates only those of the same authority and cluster may invite.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};
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
    answer: Answer,
    state: Arc<watch::Sender<State>>,
}

/// Where a node learns that a cluster wants it. A clone is another handle of the same.
#[derive(Clone)]
pub struct Invitations {
    state: Arc<watch::Sender<State>>,
}

type Answer = oneshot::Sender<Result<u64, Status>>;

enum State {
    Waits,
    Invited(proto::Invitation, Answer),
    Follows,
    Joined(u64),
}

impl Default for Invitations {
    fn default() -> Self {
        Invitations {
            state: Arc::new(watch::Sender::new(State::Waits)),
        }
    }
}

impl Invitations {
    /// Waits for an invitation. Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Invitation {
        let mut changes = self.state.subscribe();
        loop {
            let invited = |state: &State| matches!(state, State::Invited(..));
            // An error is impossible: the sender is here.
            let _ = changes.wait_for(invited).await;
            let mut taken = None;
            self.state.send_if_modified(|state| {
                let is_invited = invited(state);
                if is_invited {
                    taken = Some(std::mem::replace(state, State::Follows));
                }
                is_invited
            });
            // Or another handle has taken it.
            let Some(State::Invited(invitation, answer)) = taken else {
                continue;
            };
            return Invitation {
                id: Some(invitation.id).filter(|id| *id != 0),
                members: invitation.members,
                promote: invitation.promote,
                answer,
                state: Arc::clone(&self.state),
            };
        }
    }

    /// Whether nobody has invited the node yet.
    pub fn waits(&self) -> bool {
        matches!(*self.state.borrow(), State::Waits)
    }

    /// The invitation is taken by one who waits, or refused.
    fn take(
        &self,
        invitation: proto::Invitation,
    ) -> Result<oneshot::Receiver<Result<u64, Status>>, Status> {
        let (answer, answered) = oneshot::channel();
        let mut refused = None;
        self.state.send_if_modified(|state| match state {
            State::Waits => {
                *state = State::Invited(invitation, answer);
                true
            }
            State::Joined(id) => {
                refused = Some(is_member(*id));
                false
            }
            State::Invited(..) | State::Follows => {
                refused = Some(Status::aborted(
                    "the node was invited before, and is joining",
                ));
                false
            }
        });
        refused.map_or(Ok(answered), Err)
    }
}

impl Invitation {
    /// The node is in the cluster.
    pub fn joined(self, id: u64) {
        self.state.send_replace(State::Joined(id));
        // Who invited it may have gone.
        let _ = self.answer.send(Ok(id));
    }

    /// It is not, and why; and it does not wait for another invitation.
    pub fn failed(self, problem: impl ToString) {
        // As above.
        let _ = self
            .answer
            .send(Err(Status::failed_precondition(problem.to_string())));
    }

    /// It may be, and why that is not known; and it does not wait for another invitation.
    pub fn unsettled(self, problem: impl ToString) {
        // As above.
        let _ = self.answer.send(Err(Status::unknown(problem.to_string())));
    }

    /// It does not follow this one, and why. It waits for another.
    pub fn declined(self, problem: impl ToString) {
        self.state.send_replace(State::Waits);
        // As above.
        let _ = self
            .answer
            .send(Err(Status::failed_precondition(problem.to_string())));
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
        match self.invitations.take(invitation)?.await {
            Ok(Ok(id)) => Ok(Response::new(AddResponse { id })),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::unknown(
                "it stopped while it followed the invitation",
            )),
        }
    }
}

fn is_member(id: u64) -> Status {
    Status::failed_precondition(format!(
        "it is node {id} of a cluster already; a node that is to join this one starts with an \
         empty directory"
    ))
}
