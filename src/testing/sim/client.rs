//! The clients of a simulation: one operation at a time each, some of them with sessions.

use crate::driver::{Consistency, RequestId, Session};
use crate::testing::linearizability::{Action, Operation};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Swap { new: u64 },
    Get { consistency: Consistency },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub key: u64,
    pub ask: Ask,
    pub invoked: u64,
    /// The request whose answer counts; an earlier one's is ignored.
    pub request: RequestId,
    pub tries: u32,
}

pub(crate) struct Client {
    pub has_session: bool,
    pub sequence: u64,
    /// When no more faults happen: it ends here.
    pub last_sequence: u64,
    pub pending: Option<Pending>,
    /// The node it believes to lead.
    pub leader: u64,
}

impl Client {
    pub(crate) fn new(has_session: bool) -> Self {
        Client {
            has_session,
            sequence: 0,
            last_sequence: 0,
            pending: None,
            leader: 0,
        }
    }

    pub(crate) fn session(&self, client: usize) -> Option<Session> {
        self.has_session.then_some(Session {
            client: client as u64 + 1,
            sequence: self.sequence,
        })
    }

    /// The operation has taken effect, or may have when `returned` is `None`.
    pub(crate) fn finished(
        pending: &Pending,
        old: Option<u64>,
        returned: Option<u64>,
    ) -> Option<Operation> {
        let action = match (pending.ask, old, returned) {
            (Ask::Swap { new }, old, _) => Action::Swap { new, old },
            (Ask::Get { .. }, Some(value), Some(_)) => Action::Get { value },
            // A read that nobody saw.
            (Ask::Get { .. }, _, _) => return None,
        };
        Some(Operation {
            key: pending.key,
            action,
            invoked: pending.invoked,
            returned,
        })
    }
}
