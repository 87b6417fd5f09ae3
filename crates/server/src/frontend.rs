//! What the Redis protocol and HTTP share: asking the cluster, again while nothing has happened.

use std::future::Future;
use std::time::{Duration, Instant};

use raft_rocks::driver::{Consistency, Node, NodeInfo, RequestError};
use raft_rocks_grpc::Tls;

use crate::kv::{Answer, Machine, Operation, decode_answers, encode};
use crate::metrics::Proposals;
use crate::resp::{ReadConsistency, Redirect};

/// Between two tries, while nobody leads.
const PAUSE: Duration = Duration::from_millis(20);

/// Why the cluster did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Requests are not handed on here, and this node leads, if anybody is known to.
    #[error("this node does not lead; {}", match .0 {
        Some(leader) => format!("ask node {}", leader.id),
        None => "no leader is known: try again after an election".to_owned(),
    })]
    Elsewhere(Option<Box<NodeInfo>>),
    /// As the driver says.
    #[error(transparent)]
    Failed(#[from] RequestError),
    /// It was carried out.
    #[error("done, but the answer is lost{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    AnswerLost(Option<String>),
}

/// A node, and how its clients are served.
pub struct Frontend {
    node: Node<Machine>,
    tls: Option<Tls>,
    consistency: ReadConsistency,
    redirect: Redirect,
    patience: Duration,
    started: Instant,
    proposals: Proposals,
}

impl Frontend {
    /// Serves this node.
    pub fn new(node: Node<Machine>, tls: Option<Tls>, options: &crate::resp::Options) -> Self {
        Frontend {
            node,
            tls,
            consistency: options.consistency,
            redirect: options.redirect,
            patience: options.patience,
            started: Instant::now(),
            proposals: Proposals::default(),
        }
    }

    /// The node itself.
    pub fn node(&self) -> &Node<Machine> {
        &self.node
    }

    /// What it shows other nodes.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Since when it serves.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What became of the changes that were asked for.
    pub fn proposals(&self) -> &Proposals {
        &self.proposals
    }

    /// Carries out operations as one command; one answer each.
    ///
    /// # Errors
    /// [`Refused`]; after [`RequestError::OutcomeUnknown`] they may have been carried out.
    pub async fn change(&self, operations: &[Operation]) -> Result<Vec<Answer>, Refused> {
        let begun = Instant::now();
        let command = encode(operations);
        let proposed = self.retried(|| self.node.propose(command.clone())).await;
        match &proposed {
            Ok(_) => self.proposals.latencies.add(begun.elapsed()),
            Err(_) => self.proposals.failed(),
        }
        let proposed = proposed?;
        let answer = proposed.answer.ok_or(Refused::AnswerLost(None))?;
        let answers = decode_answers(&answer);
        let answers = answers.map_err(|e| Refused::AnswerLost(Some(e.to_string())))?;
        match answers.len() == operations.len() {
            true => Ok(answers),
            false => Err(Refused::AnswerLost(None)),
        }
    }

    /// Asks this node's machine, as new as the options want it.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn query<R, Q>(&self, question: impl Fn() -> Q) -> Result<R, Refused>
    where
        R: Send + 'static,
        Q: FnOnce(&Machine) -> R + Send + 'static,
    {
        let is_leader = self.node.leader().leader == self.node.id();
        let consistency = match (self.consistency, self.redirect) {
            (ReadConsistency::Low, _) => Consistency::Stale,
            (_, Redirect::Try) if !is_leader => return Err(self.elsewhere().await),
            (ReadConsistency::Medium, _) if is_leader => Consistency::Leader,
            // On a follower nothing less is new enough.
            _ => Consistency::Linearizable,
        };
        self.retried(|| self.node.query(consistency, question()))
            .await
    }

    /// Asks again while nothing has happened, for some time.
    ///
    /// # Errors
    /// [`Refused`], of the last try.
    pub async fn retried<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, Refused>
    where
        F: Future<Output = Result<T, RequestError>>,
    {
        let deadline = Instant::now() + self.patience;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match error {
                RequestError::NotLeader { leader } if self.redirect == Redirect::Try => {
                    return Err(Refused::Elsewhere(leader));
                }
                error if !error.is_retryable() || Instant::now() >= deadline => {
                    return Err(error.into());
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn elsewhere(&self) -> Refused {
        match self.node.status().await {
            Ok(status) => {
                let leader = status.raft.book.node(status.raft.leader);
                Refused::Elsewhere(leader.cloned().map(Box::new))
            }
            Err(e) => e.into(),
        }
    }
}
