//! What a node says of its cluster, and its leader of how far the others are.

use std::time::Duration;

use raft_rocks_grpc::proto::{Member, Progress, Role, StatusResponse};
use raft_rocks_grpc::{ClientError, ClusterClient, Tls};
use serde_json::{Value, json};

use crate::commands::hex;

/// A leader that does not answer so soon is not waited for: the rest is known.
const LEADER_PATIENCE: Duration = Duration::from_secs(1);

/// A cluster, as one of its nodes and its leader see it.
pub struct View {
    pub status: StatusResponse,
    /// Of the leader; `None` when it could not be asked.
    led: Option<StatusResponse>,
}

impl View {
    pub async fn of(client: &mut ClusterClient, tls: Option<&Tls>) -> Result<View, ClientError> {
        let status = client.status().await?;
        let led = match status.leader == status.id {
            true => Some(status.clone()),
            false => ask_leader(&status, tls).await,
        };
        Ok(View { status, led })
    }

    pub fn is_from_leader(&self) -> bool {
        self.led.is_some()
    }

    /// The member with this id or address, for nodes or for clients.
    pub fn find(&self, who: &str) -> Option<&Member> {
        let is_meant = |member: &&Member| {
            member.address == who
                || member.id.to_string() == who
                || published(member, "client").as_str() == Some(who)
        };
        self.status.members.iter().find(is_meant)
    }

    /// All of them in a line.
    pub fn who_is_there(&self) -> String {
        let members = self.status.members.iter();
        let named: Vec<_> = members
            .map(|member| format!("{} ({})", member.id, member.address))
            .collect();
        named.join(", ")
    }

    pub fn is_voter(&self, id: u64) -> bool {
        self.status.voters.contains(&id)
    }

    pub fn role_of(&self, id: u64) -> &'static str {
        match id {
            id if id == self.status.leader => "leader",
            id if self.is_voter(id) => "follower",
            _ => "learner",
        }
    }

    fn progress(&self, id: u64) -> Option<(&StatusResponse, &Progress)> {
        let led = self.led.as_ref()?;
        let progress = led.progress.iter().find(|progress| progress.id == id)?;
        Some((led, progress))
    }

    /// Entries of the leader's log that a member is not known to have.
    pub fn lag(&self, id: u64) -> Option<u64> {
        let (led, progress) = self.progress(id)?;
        Some(led.last_index.saturating_sub(progress.matched))
    }

    pub fn node_json(&self) -> Value {
        let status = &self.status;
        json!({
            "id": status.id,
            "role": role(status),
            "term": status.term,
            "leader": Some(status.leader).filter(|leader| *leader != 0),
            "commit": status.commit,
            "applied": status.applied,
            "first_index": status.first_index,
            "last_index": status.last_index,
            "snapshot_index": status.snapshot_index,
            "removed": status.removed,
        })
    }

    pub fn member_json(&self, member: &Member) -> Value {
        let progress = self.progress(member.id).map(|(_, progress)| progress);
        json!({
            "id": member.id,
            "address": member.address,
            "client_address": published(member, "client"),
            "http_address": published(member, "http"),
            "role": self.role_of(member.id),
            "voter": self.is_voter(member.id),
            "matched": progress.map(|progress| progress.matched),
            "lag": self.lag(member.id),
            "active": progress.map(|progress| progress.active),
            "pending_snapshot": progress.map(|progress| progress.pending_snapshot),
        })
    }

    pub fn members_json(&self) -> Vec<Value> {
        let members = self.status.members.iter();
        members.map(|member| self.member_json(member)).collect()
    }

    pub fn json(&self) -> Value {
        json!({
            "cluster_id": hex(&self.status.cluster_id),
            "node": self.node_json(),
            "members": self.members_json(),
            "from_leader": self.is_from_leader(),
        })
    }
}

async fn ask_leader(status: &StatusResponse, tls: Option<&Tls>) -> Option<StatusResponse> {
    let leader = status
        .members
        .iter()
        .find(|member| member.id == status.leader)?;
    let asked = async {
        let mut client = ClusterClient::connect(&leader.address, tls.cloned()).await?;
        client.status().await
    };
    let answered = tokio::time::timeout(LEADER_PATIENCE, asked)
        .await
        .ok()?
        .ok()?;
    // Another may lead by now.
    (answered.leader == answered.id).then_some(answered)
}

/// What a member tells all others of itself beside its address; null where it does not.
fn published(member: &Member, name: &str) -> Value {
    let context: Value = serde_json::from_slice(&member.context).unwrap_or_default();
    match context.get(name) {
        Some(Value::String(address)) if !address.is_empty() => address.as_str().into(),
        _ => Value::Null,
    }
}

fn role(status: &StatusResponse) -> &'static str {
    let is_voter = status.voters.contains(&status.id);
    match Role::try_from(status.role) {
        Ok(Role::LeaderRole) => "leader",
        Ok(Role::Candidate | Role::PreCandidate) => "candidate",
        _ if is_voter => "follower",
        _ => "learner",
    }
}
