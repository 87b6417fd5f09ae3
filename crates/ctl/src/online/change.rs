//! The commands that change something; each returns when it has seen that it is done.

use std::time::Duration;

use anyhow::Result;
use raft_rocks::driver::MemberChange;
use raft_rocks_grpc::ClusterClient;
use raft_rocks_grpc::proto::Member;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Asked;
use super::args::{AddArgs, MemberArgs, Target};
use super::view::View;
use crate::args::Common;
use crate::commands::print_json;
use crate::exit::Ended;

/// How often is looked whether it is done.
const LOOK: Duration = Duration::from_millis(50);
/// A node that cannot make a snapshot now says nothing: it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

fn report(common: &Common, document: &Value, line: &str) -> Result<()> {
    match common.json {
        true => print_json(document),
        false => {
            say!("{line}");
            Ok(())
        }
    }
}

pub async fn add(common: &Common, args: &AddArgs) -> Result<()> {
    let mut asked = Asked::connect(&args.target).await?;
    let view = asked.view().await?;
    let address = match view.find(&args.address) {
        Some(member) => member.address.clone(),
        None => args.address.clone(),
    };
    eprintln!("adding {address}: waiting until it is in, and has caught up");
    let id = asked.client.add(&address, args.id, !args.learner).await?;
    let what = match args.learner {
        true => "a learner",
        false => "a voter",
    };
    let document = json!({ "id": id, "address": address, "voter": !args.learner });
    report(
        common,
        &document,
        &format!("node {id} at {address} is {what}"),
    )
}

/// The member that is meant.
fn member<'a>(view: &'a View, who: &str) -> Result<&'a Member> {
    let there = || {
        let there = view.who_is_there();
        Ended::refused(format!("no member {who}: there are {there}"))
    };
    view.find(who).ok_or_else(there)
}

pub async fn remove(common: &Common, args: &MemberArgs) -> Result<()> {
    let mut asked = Asked::connect(&args.target).await?;
    let view = asked.view().await?;
    let Member { id, address, .. } = member(&view, &args.member)?;
    let (id, status) = (*id, &view.status);
    if id == status.id {
        asked.client.leave().await?;
    } else {
        let leader = match id == status.leader {
            true => ClusterClient::connect(address, asked.tls.clone())
                .await
                .ok(),
            false => None,
        };
        match leader {
            // Removed by another it would go on until the others miss it.
            Some(leader) => leader.with_patience(args.target.patience()).leave().await?,
            None => {
                let change = vec![MemberChange::Remove(id)];
                asked.client.change_membership(change).await?;
            }
        }
    }
    let document = json!({ "id": id, "address": address, "removed": true });
    report(
        common,
        &document,
        &format!("node {id} at {address} has left the cluster"),
    )
}

pub async fn transfer(common: &Common, args: &MemberArgs) -> Result<()> {
    let mut asked = Asked::connect(&args.target).await?;
    let view = asked.view().await?;
    let Member { id, address, .. } = member(&view, &args.member)?;
    if !view.is_voter(*id) {
        let problem = format!("node {id} has no vote; `raft-rocks-ctl add {id}` makes it a voter");
        return Err(Ended::refused(problem));
    }
    if *id != view.status.leader {
        asked.client.transfer_leader(*id).await?;
    }
    let deadline = Instant::now() + args.target.patience();
    loop {
        let status = asked.client.status().await?;
        if status.leader == *id {
            let term = status.term;
            let document = json!({ "leader": id, "address": address, "term": term });
            let line = format!("node {id} at {address} leads in term {term}");
            return report(common, &document, &line);
        }
        if Instant::now() >= deadline {
            let asked = asked.client.address();
            let problem = format!("leadership was handed to node {id}, and {asked} has not heard");
            return Err(Ended::not_seen(problem));
        }
        sleep(LOOK).await;
    }
}

pub async fn snapshot(common: &Common, target: &Target) -> Result<()> {
    let mut asked = Asked::connect(target).await?;
    let before = asked.client.status().await?;
    let (id, wanted) = (before.id, before.applied);
    let last = before.snapshot_index;
    eprintln!("node {id}: the last snapshot is at {last}, what is applied at {wanted}");
    let deadline = Instant::now() + target.patience();
    let mut ask_at = Instant::now();
    loop {
        let now = asked.client.status().await?.snapshot_index;
        if now >= wanted {
            let document = json!({ "id": id, "snapshot_index": now, "was": last });
            let line = format!("node {id} has a snapshot at {now}");
            return report(common, &document, &line);
        }
        if Instant::now() >= deadline {
            let waited = target.patience();
            return Err(Ended::not_seen(format!(
                "node {id} has no newer snapshot after {waited:?}, the last is at {now}; it may be \
                 at it: see `status`, and its log"
            )));
        }
        if Instant::now() >= ask_at {
            asked.client.snapshot().await?;
            ask_at = Instant::now() + AGAIN;
        }
        sleep(LOOK).await;
    }
}
