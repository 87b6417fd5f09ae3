//! What may be asked of a node.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use raft::StateRole;
use raft_rocks::driver::{
    Consistency, MemberChange, Node, NodeInfo, NodeStatus, RequestError, Session, StateMachine,
};
use tonic::{Code, Request, Response, Status};

use crate::LEADER_KEY;
use crate::add::{AddError, Newcomer, add_member};
use crate::client::member;
use crate::invitation::Invitations;
use crate::proto::cluster_server::Cluster;
use crate::proto::{
    self, AddRequest, AddResponse, ChangeMembershipRequest, Member, Nothing, Progress,
    ProposeRequest, ProposeResponse, ReadRequest, ReadResponse, Role, StatusResponse,
    TransferLeaderRequest, member_change,
};
use crate::server::Caller;
use crate::tls::Party;

/// How long a newcomer may take to catch up, at the most.
const ADD_PATIENCE: Duration = Duration::from_secs(600);

pub(crate) struct ClusterService<M: StateMachine> {
    pub node: Arc<OnceLock<Node<M>>>,
    pub caller: Caller,
    /// Of a node that waits to be invited.
    pub invitations: Option<Invitations>,
}

impl<M: StateMachine> ClusterService<M> {
    /// The node, for who may ask it.
    fn node_for<T>(&self, request: &Request<T>) -> Result<&Node<M>, Status> {
        let party = self.caller.check(request)?;
        let node = self.node.get().ok_or_else(|| self.starting())?;
        if let Some(Party::Node(id)) = party
            && node.book().is_retired(id)
        {
            return Err(Status::permission_denied(format!(
                "node {id} has left the cluster"
            )));
        }
        Ok(node)
    }

    fn starting(&self) -> Status {
        let waits = self.invitations.as_ref().is_some_and(Invitations::waits);
        Status::unavailable(match waits {
            true => "the node waits to be invited into a cluster: have a member add it",
            false => "the node is starting",
        })
    }
}

#[tonic::async_trait]
impl<M: StateMachine> Cluster for ClusterService<M> {
    async fn status(&self, request: Request<Nothing>) -> Result<Response<StatusResponse>, Status> {
        let node = self.node_for(&request)?;
        let status = node.status().await.map_err(refusal)?;
        let cluster_id = node.cluster_id();
        Ok(Response::new(status_response(status, cluster_id)))
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let node = self.node_for(&request)?;
        let request = request.into_inner();
        let command = request.command.to_vec();
        let proposed = match request.client {
            None => node.propose(command).await,
            Some(client) => {
                let sequence = request.sequence;
                let session = Session { client, sequence };
                node.propose_in(session, command).await
            }
        };
        let proposed = proposed.map_err(refusal)?;
        Ok(Response::new(ProposeResponse {
            index: proposed.index,
            answer: proposed.answer.map(Into::into),
        }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        let node = self.node_for(&request)?;
        let asked = request.into_inner().consistency;
        let consistency = match proto::Consistency::try_from(asked) {
            Ok(proto::Consistency::Linearizable) => Consistency::Linearizable,
            Ok(proto::Consistency::Lease) => Consistency::Lease,
            Ok(proto::Consistency::Leader) => Consistency::Leader,
            Ok(proto::Consistency::Stale) => Consistency::Stale,
            Err(_) => {
                let problem = format!("no consistency {asked}");
                return Err(Status::invalid_argument(problem));
            }
        };
        let index = node.read(consistency).await.map_err(refusal)?;
        Ok(Response::new(ReadResponse { index }))
    }

    async fn join(&self, request: Request<Member>) -> Result<Response<Nothing>, Status> {
        let node = self.node_for(&request)?;
        let member = request.into_inner();
        nothing(node.add_learner(node_info(member)).await)
    }

    async fn add(&self, request: Request<AddRequest>) -> Result<Response<AddResponse>, Status> {
        let node = self.node_for(&request)?;
        let request = request.into_inner();
        let patience = match request.timeout_ms {
            0 => ADD_PATIENCE,
            ms => Duration::from_millis(ms).min(ADD_PATIENCE),
        };
        let newcomer = Newcomer {
            address: request.address,
            id: Some(request.id).filter(|id| *id != 0),
            as_voter: request.voter,
        };
        let added = add_member(node, self.caller.tls.as_ref(), newcomer, patience).await;
        let id = added.map_err(AddError::into_status)?;
        Ok(Response::new(AddResponse { id }))
    }

    async fn change_membership(
        &self,
        request: Request<ChangeMembershipRequest>,
    ) -> Result<Response<Nothing>, Status> {
        let node = self.node_for(&request)?;
        let mut changes = Vec::new();
        for change in request.into_inner().changes {
            changes.push(match change.change {
                Some(member_change::Change::Learner(node)) => {
                    MemberChange::Learner(node_info(node))
                }
                Some(member_change::Change::Voter(node)) => MemberChange::Voter(node_info(node)),
                Some(member_change::Change::Promote(id)) => MemberChange::Promote(id),
                Some(member_change::Change::Remove(id)) => MemberChange::Remove(id),
                None => return Err(Status::invalid_argument("a change of nothing")),
            });
        }
        nothing(node.change_membership(changes).await)
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<Nothing>, Status> {
        let node = self.node_for(&request)?;
        nothing(node.transfer_leader(request.into_inner().to).await)
    }

    async fn leave(&self, request: Request<Nothing>) -> Result<Response<Nothing>, Status> {
        let node = self.node_for(&request)?;
        nothing(node.leave().await)
    }

    async fn snapshot(&self, request: Request<Nothing>) -> Result<Response<Nothing>, Status> {
        let node = self.node_for(&request)?;
        node.snapshot_now();
        nothing(Ok(()))
    }
}

fn nothing(ended: Result<(), RequestError>) -> Result<Response<Nothing>, Status> {
    ended.map(|()| Response::new(Nothing {})).map_err(refusal)
}

/// As the .proto file says.
pub(crate) fn refusal(error: RequestError) -> Status {
    let code = match &error {
        // It will have one.
        RequestError::NotLeader { leader: None } => Code::Unavailable,
        RequestError::NotLeader { .. } | RequestError::Refused(_) | RequestError::Removed => {
            Code::FailedPrecondition
        }
        RequestError::Dropped | RequestError::Stopped { .. } => Code::Unavailable,
        RequestError::OutcomeUnknown => Code::Unknown,
        RequestError::Busy => Code::ResourceExhausted,
        RequestError::ChangeUnderWay => Code::Aborted,
        RequestError::Stale => Code::AlreadyExists,
        RequestError::TooLarge { .. } | RequestError::Rejected(_) => Code::InvalidArgument,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, error.to_string());
    if let RequestError::NotLeader { leader: Some(node) } = &error
        && let Ok(address) = node.address.parse()
    {
        status.metadata_mut().insert(LEADER_KEY, address);
    }
    status
}

fn node_info(member: Member) -> NodeInfo {
    NodeInfo {
        id: member.id,
        address: member.address,
        store_id: member.store_id.to_vec(),
        context: member.context.to_vec(),
        promote: member.promote,
    }
}

fn status_response(status: NodeStatus, cluster_id: Vec<u8>) -> StatusResponse {
    let raft = status.raft;
    let role = match raft.role {
        StateRole::Follower => Role::Follower,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::LeaderRole,
        StateRole::PreCandidate => Role::PreCandidate,
    };
    let members = raft.book.nodes.into_iter().map(member);
    let progress = raft.progress.into_iter().map(|of| Progress {
        id: of.id,
        matched: of.matched,
        active: of.recent_active,
        pending_snapshot: of.pending_snapshot,
    });
    StatusResponse {
        id: raft.id,
        cluster_id: cluster_id.into(),
        role: role.into(),
        term: raft.term,
        leader: raft.leader,
        commit: raft.commit,
        applied: raft.applied,
        first_index: raft.first_index,
        last_index: raft.last_index,
        snapshot_index: raft.snapshot_index,
        voters: raft.conf_state.get_voters().to_vec(),
        learners: raft.conf_state.get_learners().to_vec(),
        voters_outgoing: raft.conf_state.get_voters_outgoing().to_vec(),
        members: members.collect(),
        progress: progress.collect(),
        removed: status.removed,
    }
}
