//! `watch`: a line whenever something has changed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use raft_rocks_grpc::{ClientError, ClusterClient, Tls};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::args::{Target, WatchArgs};
use super::view::View;
use crate::args::Common;

/// A node that does not answer so soon is taken for one that cannot be reached.
const LOOK_PATIENCE: Duration = Duration::from_secs(3);

pub async fn run(common: &Common, args: &WatchArgs) -> Result<()> {
    let tls = args.target.tls()?;
    let mut watched = Watched::connect(&args.target, tls).await?;
    let mut looks = interval(Duration::from_millis(args.interval));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let look = async {
            looks.tick().await;
            watched.look().await
        };
        let changes = tokio::select! {
            ended = &mut interrupted => return Ok(ended?),
            changes = look => changes,
        };
        for change in changes {
            print(common, change)?;
        }
    }
}

fn print(common: &Common, mut change: Change) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    if common.json {
        if let Value::Object(fields) = &mut change.document {
            fields.insert("at_ms".to_owned(), (now.as_millis() as u64).into());
        }
        say!("{}", change.document);
    } else {
        let (seconds, millis) = (now.as_secs(), now.subsec_millis());
        say!("{seconds}.{millis:03} {}", change.line);
    }
    Ok(())
}

struct Change {
    document: Value,
    line: String,
}

/// What was last said of a member.
#[derive(PartialEq)]
struct Known {
    address: String,
    is_voter: bool,
    lag: Option<u64>,
}

struct Watched {
    client: ClusterClient,
    tls: Option<Tls>,
    /// Where to look when the node that was named is gone.
    addresses: Vec<String>,
    leader: Option<(u64, u64)>,
    members: BTreeMap<u64, Known>,
    is_lost: bool,
}

impl Watched {
    async fn connect(target: &Target, tls: Option<Tls>) -> Result<Self> {
        Ok(Watched {
            client: target
                .connect(tls.as_ref())
                .await?
                .with_patience(LOOK_PATIENCE),
            tls,
            addresses: vec![target.node.clone()],
            leader: None,
            members: BTreeMap::new(),
            is_lost: false,
        })
    }

    async fn look(&mut self) -> Vec<Change> {
        let viewed = match View::of(&mut self.client, self.tls.as_ref()).await {
            Ok(view) => Ok(view),
            Err(e) => self.look_elsewhere().await.ok_or(e),
        };
        match viewed {
            Ok(view) => self.compare(&view),
            Err(e) => self.lost(&e),
        }
    }

    /// Another member knows as much.
    async fn look_elsewhere(&mut self) -> Option<View> {
        for address in &self.addresses {
            let connected = ClusterClient::connect(address, self.tls.clone()).await;
            let Ok(client) = connected else { continue };
            let mut client = client.with_patience(LOOK_PATIENCE);
            // A node that was removed goes on, and knows nothing new.
            if let Ok(view) = View::of(&mut client, self.tls.as_ref()).await
                && !view.status.removed
            {
                self.client = client;
                return Some(view);
            }
        }
        None
    }

    fn lost(&mut self, error: &ClientError) -> Vec<Change> {
        match std::mem::replace(&mut self.is_lost, true) {
            true => Vec::new(),
            false => vec![Change {
                document: json!({ "event": "unreachable", "error": error.to_string() }),
                line: format!("no member is reached: {error}"),
            }],
        }
    }

    fn compare(&mut self, view: &View) -> Vec<Change> {
        let mut changes = Vec::new();
        if std::mem::take(&mut self.is_lost) {
            let node = view.status.id;
            changes.push(Change {
                document: json!({ "event": "reachable", "node": node }),
                line: format!("node {node} answers"),
            });
        }
        let leader = (view.status.leader, view.status.term);
        if self.leader.replace(leader) != Some(leader) {
            changes.push(led(leader));
        }
        let members = view.status.members.iter();
        let found: BTreeMap<u64, Known> = members
            .map(|member| {
                let known = Known {
                    address: member.address.clone(),
                    is_voter: view.is_voter(member.id),
                    lag: view.lag(member.id),
                };
                (member.id, known)
            })
            .collect();
        for (id, known) in &found {
            changes.extend(changed(*id, self.members.get(id), known));
        }
        let left = self.members.keys().filter(|id| !found.contains_key(id));
        changes.extend(left.map(|id| Change {
            document: json!({ "event": "left", "id": id }),
            line: format!("node {id} has left"),
        }));
        if !view.status.removed {
            self.addresses = found.values().map(|known| known.address.clone()).collect();
        }
        self.members = found;
        changes
    }
}

fn led((leader, term): (u64, u64)) -> Change {
    Change {
        document: json!({
            "event": "leader",
            "leader": Some(leader).filter(|leader| *leader != 0),
            "term": term,
        }),
        line: match leader {
            0 => format!("no leader is known in term {term}"),
            leader => format!("node {leader} leads in term {term}"),
        },
    }
}

fn changed(id: u64, before: Option<&Known>, now: &Known) -> Option<Change> {
    let Known {
        address,
        is_voter,
        lag,
    } = now;
    let is_same = |before: &Known| before.address == *address && before.is_voter == *is_voter;
    if !before.is_some_and(is_same) {
        let what = if *is_voter { "voter" } else { "learner" };
        let behind = lag.map_or_else(String::new, |lag| format!(", {lag} entries behind"));
        return Some(Change {
            document: json!({
                "event": "member", "id": id, "address": address, "voter": is_voter, "lag": lag,
            }),
            line: format!("node {id} at {address} is a {what}{behind}"),
        });
    }
    if before == Some(now) {
        return None;
    }
    Some(Change {
        document: json!({ "event": "lag", "id": id, "lag": lag }),
        line: match lag {
            Some(lag) => format!("node {id} is {lag} entries behind"),
            None => format!("nobody says how far node {id} is"),
        },
    })
}
