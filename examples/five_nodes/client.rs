//! The client: puts pairs through any node that runs, proposes again what got no answer, and
//! remembers what was acknowledged.
//!
//! A proposal whose answer was lost may have been applied. It is repeated under the same session
//! and number, so that it is applied once however often it ends up in the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use raft_rocks::driver::{Node, RequestError, Session};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cluster::Nodes;
use crate::machine::{Machine, put_command};

/// How many puts are under way at a time.
pub const WINDOW: u64 = 16;
/// Longer than a proposal takes, shorter than an election.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// How long to wait before asking another node: an election takes ten times as long.
const PAUSE: Duration = Duration::from_millis(100);

pub fn put_key(number: u64) -> String {
    format!("key-{number:06}")
}

pub fn put_value(number: u64) -> String {
    format!("value-of-{number}")
}

/// What the client was told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The puts that were acknowledged, each with its index in the log.
    pub acknowledged: BTreeMap<u64, u64>,
    /// Attempts beyond the first of each put.
    pub retries: u64,
    /// A refusal that no repetition changes.
    pub refusal: Option<String>,
}

pub struct Client {
    end: watch::Sender<u64>,
    pub told: watch::Receiver<Told>,
    /// They end with the client.
    _workers: JoinSet<()>,
}

impl Client {
    /// One that is to put `puts` pairs, and waits until some of them are let through.
    pub fn new(nodes: &Nodes, puts: u64) -> Self {
        let (end, to_do) = watch::channel(0);
        let (tell, told) = watch::channel(Told::default());
        let next = Arc::new(AtomicU64::new(0));
        let workers = (1..=WINDOW).map(|id| Worker {
            // Unique in the cluster; clients that come and go draw it at random.
            client: id,
            nodes: Arc::clone(nodes),
            next: Arc::clone(&next),
            to_do: to_do.clone(),
            tell: tell.clone(),
        });
        Client {
            end,
            told,
            _workers: workers.map(|worker| worker.put_all(puts)).collect(),
        }
    }

    /// Lets the puts before `end` through, for now.
    pub fn let_through(&self, end: u64) {
        self.end.send_replace(end);
    }

    pub fn acknowledged(&self) -> u64 {
        self.told.borrow().acknowledged.len() as u64
    }
}

/// Puts one pair after the other.
struct Worker {
    client: u64,
    nodes: Nodes,
    next: Arc<AtomicU64>,
    to_do: watch::Receiver<u64>,
    tell: watch::Sender<Told>,
}

impl Worker {
    async fn put_all(mut self, puts: u64) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let is_let_through = self.to_do.wait_for(|end| *end > number).await.is_ok();
            if number >= puts || !is_let_through {
                return;
            }
            let put = self.put(number).await;
            self.tell.send_modify(|told| match put {
                Ok(index) => drop(told.acknowledged.insert(number, index)),
                Err(e) => told.refusal = Some(format!("put {number}: {e}")),
            });
        }
    }

    /// Until it is acknowledged; its index in the log.
    async fn put(&self, number: u64) -> Result<u64, RequestError> {
        let session = Session {
            client: self.client,
            sequence: number,
        };
        let command = put_command(&put_key(number), &put_value(number));
        let mut attempt = number;
        loop {
            if let Some(node) = self.node(attempt) {
                let proposed = node.propose_in(session, command.clone());
                match timeout(ANSWER_TIME_MAX, proposed).await {
                    Ok(Ok(proposed)) => return Ok(proposed.index),
                    Ok(Err(e)) if !is_to_be_repeated(&e) => return Err(e),
                    Ok(Err(_)) | Err(_) => self.tell.send_modify(|told| told.retries += 1),
                }
            }
            attempt += 1;
            sleep(PAUSE).await;
        }
    }

    /// Each attempt asks another node: whoever is asked hands the command on to the leader.
    fn node(&self, attempt: u64) -> Option<Node<Machine>> {
        let nodes = self.nodes.lock();
        let place = attempt.checked_rem(nodes.len() as u64)?;
        nodes.values().nth(place as usize).cloned()
    }
}

fn is_to_be_repeated(error: &RequestError) -> bool {
    let elsewhere = matches!(error, RequestError::Stopped { .. });
    // Only because of the session.
    let is_unknown = *error == RequestError::OutcomeUnknown;
    error.is_retryable() || is_unknown || elsewhere
}
