//! How far everybody is, as the leader sees it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_rocks::driver::{NodeInfo, Status};
use raft_rocks_grpc::proto::StatusResponse;
use raft_rocks_grpc::{ClientError, ClusterClient, Tls};
use tokio::time::timeout;

/// How long the leader is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long what it said is told again.
const FRESH: Duration = Duration::from_millis(500);
/// raft forgets at every election timeout who was active, and knows again a heartbeat later.
const REMEMBERED: Duration = Duration::from_secs(2);

/// What the leader says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderView {
    pub commit: u64,
    pub last_index: u64,
    pub progress: Vec<Progress>,
}

/// How far one node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub id: u64,
    pub matched: u64,
    pub active: bool,
    pub pending_snapshot: u64,
}

impl LeaderView {
    pub fn of(&self, id: u64) -> Option<&Progress> {
        self.progress.iter().find(|progress| progress.id == id)
    }
}

/// Asks the leader, whoever it is.
pub struct Leader {
    tls: Option<Tls>,
    asked: tokio::sync::Mutex<Asked>,
    seen: Mutex<HashMap<u64, Instant>>,
}

#[derive(Default)]
struct Asked {
    client: Option<(NodeInfo, ClusterClient)>,
    answer: Option<(Instant, u64, Option<LeaderView>)>,
}

impl Leader {
    pub fn new(tls: Option<Tls>) -> Self {
        Leader {
            tls,
            asked: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// `None`: nobody leads, or the leader did not answer.
    pub async fn view(&self, status: &Status) -> Option<LeaderView> {
        let mut view = match status.leader == status.id {
            true => own(status),
            false => self.ask(status).await?,
        };
        self.remember(&mut view.progress);
        Some(view)
    }

    /// Those that ask at the same time wait for one answer.
    async fn ask(&self, status: &Status) -> Option<LeaderView> {
        let leader = status.book.node(status.leader)?;
        let mut asked = self.asked.lock().await;
        if let Some((at, of, view)) = &asked.answer
            && *of == leader.id
            && at.elapsed() < FRESH
        {
            return view.clone();
        }
        let known = asked.client.take().filter(|(node, _)| node == leader);
        let view = match timeout(PATIENCE, self.call(leader, known)).await {
            Ok(Ok((answer, client))) => {
                asked.client = Some((leader.clone(), client));
                // It may lead no longer.
                (answer.leader == answer.id).then(|| told(&answer))
            }
            Ok(Err(e)) => {
                tracing::debug!("the leader, node {}, was not asked: {e}", leader.id);
                None
            }
            Err(_) => None,
        };
        asked.answer = Some((Instant::now(), leader.id, view.clone()));
        view
    }

    async fn call(
        &self,
        leader: &NodeInfo,
        known: Option<(NodeInfo, ClusterClient)>,
    ) -> Result<(StatusResponse, ClusterClient), ClientError> {
        let mut client = match known {
            Some((_, client)) => client,
            None => ClusterClient::connect(&leader.address, self.tls.clone()).await?,
        };
        Ok((client.status().await?, client))
    }

    fn remember(&self, progress: &mut [Progress]) {
        let mut seen = self.seen.lock();
        seen.retain(|_, at| at.elapsed() < REMEMBERED);
        for of in progress {
            if of.active {
                seen.insert(of.id, Instant::now());
            }
            of.active = seen.contains_key(&of.id);
        }
    }
}

fn own(status: &Status) -> LeaderView {
    let progress = status.progress.iter().map(|of| Progress {
        id: of.id,
        matched: of.matched,
        active: of.recent_active || of.id == status.id,
        pending_snapshot: of.pending_snapshot,
    });
    LeaderView {
        commit: status.commit,
        last_index: status.last_index,
        progress: progress.collect(),
    }
}

fn told(answer: &StatusResponse) -> LeaderView {
    let progress = answer.progress.iter().map(|of| Progress {
        id: of.id,
        matched: of.matched,
        active: of.active || of.id == answer.id,
        pending_snapshot: of.pending_snapshot,
    });
    LeaderView {
        commit: answer.commit,
        last_index: answer.last_index,
        progress: progress.collect(),
    }
}
