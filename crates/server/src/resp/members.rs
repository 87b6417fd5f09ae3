//! The cluster: who is in it, who leads, and changes of both.

use raft::StateRole;
use raft_rocks::driver::{NodeInfo, Status};

use super::command::Member;
use super::data::{not_answered, refusal};
use super::reply::Reply;
use super::server::Context;
use crate::address::client_address;
use crate::admin::{self, AdminError, Newcomer};

/// Clients of a cluster of Redis map keys to these; here every node serves all.
const SLOT_LAST: i64 = 16_383;

pub async fn answer(context: &Context, member: Member) -> Reply {
    let frontend = &context.frontend;
    let status = match frontend.node().status().await {
        Ok(status) => status.raft,
        Err(e) => return refusal(e),
    };
    match member {
        Member::Slots => slots(&status),
        Member::Nodes => nodes(&status),
        Member::Shards => shards(&status),
        Member::ClusterInfo => cluster_info(&status),
        Member::MyId => Reply::text(name(status.id)),
        Member::Peers => peers(&status),
        Member::Leader => match leader(&status) {
            Some(leader) => Reply::text(client_address(leader)),
            None => Reply::Null,
        },
        Member::State => Reply::text(state(&status)),
        Member::Stats => stats(&status),
        Member::Snapshot => {
            frontend.node().snapshot_now();
            Reply::OK
        }
        Member::Add(address) => {
            let newcomer = Newcomer {
                id: None,
                address: text(&address),
                voter: true,
            };
            done(admin::add(frontend, &newcomer).await.map(drop))
        }
        Member::Remove(who) => done(admin::remove(frontend, &text(&who)).await),
        Member::Transfer(to) => done(admin::transfer(frontend, &text(&to)).await),
    }
}

/// What is no text is nobody's address.
fn text(who: &[u8]) -> String {
    String::from_utf8_lossy(who).into_owned()
}

fn done(ended: Result<(), AdminError>) -> Reply {
    match ended {
        Ok(()) => Reply::OK,
        Err(AdminError::Refused(refused)) => not_answered(refused),
        Err(e @ AdminError::NoMember(_)) => Reply::error(format!("{e}; RAFTPEERS names them")),
        Err(e) => Reply::error(e),
    }
}

fn leader(status: &Status) -> Option<&NodeInfo> {
    status.book.node(status.leader)
}

fn state(status: &Status) -> &'static str {
    match status.role {
        StateRole::Leader => "Leader",
        StateRole::Candidate | StateRole::PreCandidate => "Candidate",
        StateRole::Follower => "Follower",
    }
}

fn state_of(status: &Status, id: u64) -> &'static str {
    match id {
        id if id == status.leader => "Leader",
        id if status.conf_state.get_voters().contains(&id) => "Follower",
        _ => "Learner",
    }
}

/// Address and state, one after the other.
fn peers(status: &Status) -> Reply {
    let nodes = status.book.nodes.iter();
    let pairs = nodes.flat_map(|node| {
        let state = state_of(status, node.id);
        [Reply::text(client_address(node)), Reply::text(state)]
    });
    Reply::Array(pairs.collect())
}

/// Names and values, one after the other.
fn stats(status: &Status) -> Reply {
    let voters = status.conf_state.get_voters().len();
    let learners = status.conf_state.get_learners().len();
    let pairs = [
        ("state", state(status).to_owned()),
        ("id", status.id.to_string()),
        ("term", status.term.to_string()),
        ("leader", status.leader.to_string()),
        ("commit_index", status.commit.to_string()),
        ("applied_index", status.applied.to_string()),
        ("first_log_index", status.first_index.to_string()),
        ("last_log_index", status.last_index.to_string()),
        (
            "num_peers",
            status.book.nodes.len().saturating_sub(1).to_string(),
        ),
        ("voters", voters.to_string()),
        ("learners", learners.to_string()),
        ("proposals_waiting", status.proposals.to_string()),
        ("reads_waiting", status.reads.to_string()),
    ];
    let pairs = pairs.into_iter();
    let flat = pairs.flat_map(|(name, value)| [Reply::text(name), Reply::text(value)]);
    Reply::Array(flat.collect())
}

/// A node as clients of a cluster know it: 40 digits.
fn name(id: u64) -> String {
    format!("{id:040x}")
}

/// The leader first.
fn in_order(status: &Status) -> Vec<&NodeInfo> {
    let others = status
        .book
        .nodes
        .iter()
        .filter(|node| node.id != status.leader);
    leader(status).into_iter().chain(others).collect()
}

fn host_and_port(node: &NodeInfo) -> (String, i64) {
    let address = client_address(node);
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, "0"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host.to_owned(), port.parse().unwrap_or(0))
}

fn slots(status: &Status) -> Reply {
    if leader(status).is_none() {
        return Reply::Array(Vec::new());
    }
    let mut range = vec![Reply::Integer(0), Reply::Integer(SLOT_LAST)];
    range.extend(in_order(status).into_iter().map(|node| {
        let (host, port) = host_and_port(node);
        let name = Reply::text(name(node.id));
        Reply::Array(vec![Reply::text(host), Reply::Integer(port), name])
    }));
    Reply::Array(vec![Reply::Array(range)])
}

fn nodes(status: &Status) -> Reply {
    let mut lines = String::new();
    for node in in_order(status) {
        let address = client_address(node);
        let myself = if node.id == status.id { "myself," } else { "" };
        let (role, of, slots) = match node.id == status.leader {
            true => ("master", "-".to_owned(), format!(" 0-{SLOT_LAST}")),
            false => ("slave", name(status.leader), String::new()),
        };
        let (name, term) = (name(node.id), status.term);
        lines.push_str(&format!(
            "{name} {address}@0 {myself}{role} {of} 0 0 {term} connected{slots}\n"
        ));
    }
    Reply::text(lines)
}

fn shards(status: &Status) -> Reply {
    let nodes = in_order(status).into_iter().map(|node| {
        let (host, port) = host_and_port(node);
        let role = match node.id == status.leader {
            true => "master",
            false => "replica",
        };
        let text = Reply::text;
        Reply::Map(vec![
            (text("id"), Reply::text(name(node.id))),
            (text("port"), Reply::Integer(port)),
            (text("ip"), Reply::text(host.clone())),
            (text("endpoint"), Reply::text(host)),
            (text("role"), text(role)),
            (text("replication-offset"), Reply::count(status.applied)),
            (text("health"), text("online")),
        ])
    });
    let range = vec![Reply::Integer(0), Reply::Integer(SLOT_LAST)];
    Reply::Array(vec![Reply::Map(vec![
        (Reply::text("slots"), Reply::Array(range)),
        (Reply::text("nodes"), Reply::Array(nodes.collect())),
    ])])
}

fn cluster_info(status: &Status) -> Reply {
    let is_ok = leader(status).is_some();
    let (word, slots) = match is_ok {
        true => ("ok", SLOT_LAST + 1),
        false => ("fail", 0),
    };
    let (known, term) = (status.book.nodes.len(), status.term);
    Reply::text(format!(
        "cluster_state:{word}\r\ncluster_slots_assigned:{slots}\r\ncluster_slots_ok:{slots}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{known}\r\n\
         cluster_size:1\r\ncluster_current_epoch:{term}\r\ncluster_my_epoch:{term}\r\n"
    ))
}
