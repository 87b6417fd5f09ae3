//! Why a node did not do what it was asked.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use tokio_rustls::rustls;
use tonic::{Code, Status};

/// What came of a request to a node instead of an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It cannot be an address.
    #[error("{0:?} is no address; give HOST:PORT, where other nodes reach the node")]
    Address(String),
    /// No connection came about: nothing has happened.
    #[error(
        "nobody is reached at {address}: {problem}; is the node running, and is this its address \
         for nodes (--peer-listen)?"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What the system says.
        problem: String,
    },
    /// One side does not take the other's certificate: nothing has happened.
    #[error(
        "the certificates do not fit at {address}: {problem}; both sides need one of the same \
         cluster's authority"
    )]
    Certificate {
        /// Where.
        address: String,
        /// What does not fit.
        problem: String,
    },
    /// Somebody else answers: nothing has happened.
    #[error(
        "no node answers at {address}: {problem}; give the address for nodes (--peer-listen), not \
         the one for clients, and certificates where the nodes have some"
    )]
    NotANode {
        /// Where.
        address: String,
        /// What was heard.
        problem: String,
    },
    /// The node cannot now: nothing has happened, and the same may succeed later.
    #[error("the node at {address}: {problem}")]
    NotNow {
        /// Where.
        address: String,
        /// What it said.
        problem: String,
    },
    /// The node refuses: nothing has happened.
    #[error("the node at {address}: {problem}")]
    Refused {
        /// Where.
        address: String,
        /// What it said.
        problem: String,
    },
    /// It may have happened, or may yet.
    #[error("the node at {address}: {problem}; it may have happened, or may yet: look")]
    OutcomeUnknown {
        /// Where.
        address: String,
        /// What it said, or how the connection ended.
        problem: String,
    },
    /// No answer in time; where something was to be changed, it may have happened, or may yet.
    #[error(
        "no answer from {address} within {patience:?}: it is busy, stands still, or is cut off \
         from its cluster; what was to be changed may be yet"
    )]
    Silent {
        /// Where.
        address: String,
        /// How long was waited.
        patience: Duration,
    },
}

impl ClientError {
    /// Whether nothing has happened, and the same request may succeed when it is made again.
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::NotNow { .. } | ClientError::Unreachable { .. } => true,
            ClientError::Address(_)
            | ClientError::Certificate { .. }
            | ClientError::NotANode { .. }
            | ClientError::Refused { .. }
            | ClientError::OutcomeUnknown { .. }
            | ClientError::Silent { .. } => false,
        }
    }

    /// Whether what was to be changed may have been, or may be yet.
    pub fn is_open(&self) -> bool {
        matches!(
            self,
            ClientError::OutcomeUnknown { .. } | ClientError::Silent { .. }
        )
    }

    /// Of a connection that did not come about.
    pub(super) fn of_connecting(address: &str, error: &tonic::transport::Error) -> Self {
        of_transport(address, error).unwrap_or_else(|| ClientError::Unreachable {
            address: address.to_owned(),
            problem: innermost(error),
        })
    }

    /// Of the first call of a connection; `is_known`: with certificates, of which the other side's
    /// is one of the cluster.
    pub(crate) fn of_first_call(address: &str, status: &Status, is_known: bool) -> Self {
        let address = address.to_owned();
        if let Some(source) = status.source() {
            if let Some(error) = of_transport(&address, source) {
                return error;
            }
            let problem = innermost(source);
            return match is_known {
                // In TLS 1.3 a client has done its part before the server looks at its certificate.
                true => ClientError::Certificate {
                    address,
                    problem: format!("it ends the connection when it sees ours ({problem})"),
                },
                false => ClientError::NotANode { address, problem },
            };
        }
        let problem = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                ClientError::Certificate { address, problem }
            }
            // Of a node in another version.
            Code::FailedPrecondition => ClientError::Refused { address, problem },
            _ => ClientError::NotANode { address, problem },
        }
    }

    /// Of an invitation, to one that has answered before.
    pub(crate) fn of_invitation(address: &str, status: &Status) -> Self {
        match status.code() {
            Code::Unimplemented => ClientError::Refused {
                address: address.to_owned(),
                problem: "it does not wait to be invited".to_owned(),
            },
            _ => ClientError::of(address, status),
        }
    }

    /// Of a call.
    pub(super) fn of(address: &str, status: &Status) -> Self {
        let address = address.to_owned();
        if let Some(source) = status.source() {
            let was_sent = !chain(source).any(|e| e.is::<tonic::ConnectError>());
            let problem = innermost(source);
            return match was_sent {
                true => ClientError::OutcomeUnknown { address, problem },
                false => ClientError::Unreachable { address, problem },
            };
        }
        let problem = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted => {
                ClientError::NotNow { address, problem }
            }
            Code::Unauthenticated => ClientError::Certificate { address, problem },
            Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unimplemented => ClientError::Refused { address, problem },
            _ => ClientError::OutcomeUnknown { address, problem },
        }
    }
}

/// What TLS and the system say of a connection, if either says something.
fn of_transport(address: &str, error: &(dyn StdError + 'static)) -> Option<ClientError> {
    let address = address.to_owned();
    if let Some(tls) = chain(error).find_map(of_tls) {
        let problem = tls.to_string();
        return Some(match tls {
            rustls::Error::InvalidMessage(_) => ClientError::NotANode { address, problem },
            _ => ClientError::Certificate { address, problem },
        });
    }
    let io = chain(error).find_map(|e| e.downcast_ref::<io::Error>())?;
    let is_unreachable = matches!(
        io.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::TimedOut
    );
    let problem = io.to_string();
    is_unreachable.then_some(ClientError::Unreachable { address, problem })
}

/// An I/O error does not name what it holds as its source.
fn of_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let held = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    let held = held.and_then(|held| held.downcast_ref());
    held.or_else(|| error.downcast_ref())
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    // Without the asterisk it would be that of the reference.
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The others say where it happened, in words of the library.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}
