//! What can be asked of a cluster, and how it ends.

use std::sync::Arc;

use raft::eraftpb::ConfChangeV2;

use super::applier::Answer;
use super::book::{Book, NodeInfo, Refusal};
use super::peer::Outcome;
use super::sessions::Session;

/// What only the leader can do. Any node takes it; one that does not lead hands it on, or says
/// who does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ask {
    /// Replicate and apply a command.
    Propose {
        /// Makes a repetition apply once.
        session: Option<Session>,
        /// For the state machine.
        command: Vec<u8>,
    },
    /// Change the membership.
    Change {
        /// Several changes become one joint change.
        change: ConfChangeV2,
        /// Where those that it adds are reached.
        nodes: Vec<NodeInfo>,
    },
    /// Take this node in as a learner. Id 0: the leader gives it one.
    Join(NodeInfo),
    /// Hand leadership over.
    Transfer {
        /// To this voter.
        to: u64,
    },
}

impl Ask {
    /// The bytes it holds, for the bounds of queues.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Ask::Propose { command, .. } => command.len(),
            Ask::Change { change, nodes } => {
                let nodes = nodes.iter().map(prost::Message::encoded_len);
                change.get_changes().len() * 16 + nodes.sum::<usize>()
            }
            Ask::Join(node) => prost::Message::encoded_len(node),
            Ask::Transfer { .. } => 0,
        }
    }
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// Committed, and applied at this index.
    Applied {
        /// Its place in the log.
        index: u64,
        /// The machine's answer; none for what is no command, and for a repeated command whose
        /// first answer is not kept.
        answer: Option<Vec<u8>>,
    },
    /// The machine may be read; it has applied at least `index`.
    Readable {
        /// The index that was waited for.
        index: u64,
    },
    /// The node is a member, under this id.
    Joined {
        /// Its id.
        id: u64,
        /// Who else is in the cluster.
        book: Book,
    },
    /// Leadership has been handed over.
    Transferred,
}

/// A longer answer would not fit a packet.
const ANSWER_BYTES_MAX: usize = 7 << 20;

impl Done {
    /// The same, without an answer that is too long to be sent: what happened is told in any case.
    pub(crate) fn fit_to_send(mut self) -> Self {
        if let Done::Applied { answer, .. } = &mut self {
            answer.take_if(|answer| answer.len() > ANSWER_BYTES_MAX);
        }
        self
    }
}

/// A request that was not carried out, or of which nobody knows whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nothing has happened: this node does not lead.
    #[error("this node does not lead; {}", ask_whom(leader.as_deref()))]
    NotLeader {
        /// Who leads, when it is known.
        leader: Option<Box<NodeInfo>>,
    },
    /// Nothing has happened and nothing will.
    #[error("the request was dropped and will not take effect; try it again")]
    Dropped,
    /// It may have taken effect, or may yet.
    #[error(
        "the outcome is unknown: it may have taken effect, or may yet; look, or repeat it with \
         the same session and number"
    )]
    OutcomeUnknown,
    /// Nothing has happened: as much waits as may wait.
    #[error("too much waits already; try again later")]
    Busy,
    /// Nothing has happened: another change of the membership is under way.
    #[error("another change of the membership is under way; try again when it is done")]
    ChangeUnderWay,
    /// Nothing has happened: the change is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing has happened: the machine's preprocessor refused the command.
    #[error("the state machine refuses the command: {0}")]
    Rejected(String),
    /// The command was not applied: a later one of the same client has been.
    #[error("a later command of this client has been applied; number commands upwards")]
    Stale,
    /// Nothing has happened: the command is too long.
    #[error("the command has {bytes} bytes, at most {max} are taken; split it")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What is taken.
        max: usize,
    },
    /// Nothing has happened: this node is no longer a member.
    #[error("this node was removed from the cluster; ask another, or let it join under a new id")]
    Removed,
    /// Nothing has happened: the node has stopped.
    #[error("the node has stopped: {cause}; open it again")]
    Stopped {
        /// Why.
        cause: Arc<str>,
    },
}

fn ask_whom(leader: Option<&NodeInfo>) -> String {
    match leader {
        Some(node) => format!("ask node {} at {}", node.id, node.address),
        None => "no leader is known: try again after an election".to_owned(),
    }
}

impl RequestError {
    /// Whether nothing has happened, and the same request may succeed when it is tried again.
    pub fn is_retryable(&self) -> bool {
        match self {
            RequestError::NotLeader { .. }
            | RequestError::Dropped
            | RequestError::Busy
            | RequestError::ChangeUnderWay => true,
            RequestError::OutcomeUnknown
            | RequestError::Refused(_)
            | RequestError::Rejected(_)
            | RequestError::Stale
            | RequestError::TooLarge { .. }
            | RequestError::Removed
            | RequestError::Stopped { .. } => false,
        }
    }
}

/// How a request ended.
pub type Ending = Result<Done, RequestError>;

/// Names the leader by what the book knows of it.
pub(crate) fn ending_of(outcome: Outcome, node: impl Fn(u64) -> Option<NodeInfo>) -> Ending {
    match outcome {
        Outcome::Applied { index, answer } => applied(index, answer),
        Outcome::Readable { index } => Ok(Done::Readable { index }),
        Outcome::NotLeader { leader } => Err(RequestError::NotLeader {
            leader: node(leader).map(Box::new),
        }),
        Outcome::Dropped => Err(RequestError::Dropped),
        Outcome::ChangeUnderWay => Err(RequestError::ChangeUnderWay),
        Outcome::Refused(refusal) => Err(RequestError::Refused(refusal)),
        Outcome::Unknown => Err(RequestError::OutcomeUnknown),
    }
}

fn applied(index: u64, answer: Answer) -> Ending {
    let answer = match answer {
        Answer::Command(answer) => Some(answer),
        Answer::AnswerLost | Answer::Changed | Answer::Empty => None,
        Answer::Stale => return Err(RequestError::Stale),
        Answer::Refused(refusal) => return Err(RequestError::Refused(refusal)),
    };
    Ok(Done::Applied { index, answer })
}
