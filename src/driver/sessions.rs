//! Client sessions: a command that is sent again is applied once.
//!
//! A client that numbers its commands may repeat one whose outcome it does not know. The last
//! number of each client, and its answer, are part of the replicated state.
//!
//! Invariants:
//! 1. A function of the applied entries alone: which sessions are forgotten, too.
//! 2. One command under way per client: a number below the last one is stale and is not applied.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

/// Sessions that are kept; the one that has not been used for longest goes first.
pub(crate) const SESSIONS_MAX: usize = 10_000;

/// Who sent a command, and its number among those of that client.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Session {
    /// The client, unique in the cluster: drawn at random, for instance.
    #[prost(uint64, tag = "1")]
    pub client: u64,
    /// Ascending; a repetition carries the same number.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

/// What travels with a command. Encoded to nothing for most: but an entry with neither data nor
/// context is a new leader's, and not handed to the machine.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct CommandContext {
    #[prost(message, optional, tag = "1")]
    pub session: Option<Session>,
    /// The command is empty, and there is no session.
    #[prost(bool, tag = "2")]
    pub empty: bool,
}

impl CommandContext {
    pub(crate) fn of(session: Option<Session>, command: &[u8]) -> Self {
        CommandContext {
            session,
            empty: session.is_none() && command.is_empty(),
        }
    }
}

/// What is kept of one client.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct SessionRecord {
    #[prost(uint64, tag = "1")]
    pub client: u64,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// The index of the last command.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// Absent when the machine had applied it before a restart and its answer is lost.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub answer: Option<Vec<u8>>,
}

/// What is to be done with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    New,
    /// Applied before, with this answer.
    Repeated(Option<Vec<u8>>),
    /// A later command of the same client has been applied.
    Stale,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    by_client: HashMap<u64, SessionRecord>,
    /// By the index of the last command, which no two share.
    by_age: BTreeMap<u64, u64>,
}

impl Sessions {
    pub(crate) fn from_records(records: impl IntoIterator<Item = SessionRecord>) -> Self {
        let mut sessions = Sessions::default();
        for record in records {
            sessions.by_age.insert(record.index, record.client);
            sessions.by_client.insert(record.client, record);
        }
        sessions
    }

    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    /// By age, so that equal states have equal bytes.
    pub(crate) fn records(&self) -> Vec<SessionRecord> {
        let by_age = self.by_age.values();
        by_age
            .filter_map(|client| self.by_client.get(client).cloned())
            .collect()
    }

    pub(crate) fn look_up(&self, session: &Session) -> Seen {
        match self.by_client.get(&session.client) {
            None => Seen::New,
            Some(last) if last.sequence < session.sequence => Seen::New,
            Some(last) if last.sequence == session.sequence => Seen::Repeated(last.answer.clone()),
            Some(_) => Seen::Stale,
        }
    }

    /// Whether this client has a session among the `n` that are forgotten first.
    pub(crate) fn is_among_oldest(&self, client: u64, n: usize) -> bool {
        self.by_client.contains_key(&client)
            && self.by_age.values().take(n).any(|oldest| *oldest == client)
    }

    /// Keeps what was answered; returns the client that is forgotten for it.
    pub(crate) fn record(&mut self, record: SessionRecord) -> Option<u64> {
        let (client, index) = (record.client, record.index);
        if let Some(old) = self.by_client.insert(client, record) {
            self.by_age.remove(&old.index);
        }
        self.by_age.insert(index, client);
        if self.by_client.len() <= SESSIONS_MAX {
            return None;
        }
        let (_, oldest) = self.by_age.pop_first()?;
        self.by_client.remove(&oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(client: u64, sequence: u64, index: u64) -> SessionRecord {
        SessionRecord {
            client,
            sequence,
            index,
            answer: Some(vec![1]),
        }
    }

    #[test]
    fn a_repetition_gets_the_first_answer_and_an_older_number_none() {
        let mut sessions = Sessions::default();
        sessions.record(record(7, 2, 10));
        let seen = |sequence| {
            sessions.look_up(&Session {
                client: 7,
                sequence,
            })
        };
        assert_eq!(seen(2), Seen::Repeated(Some(vec![1])));
        assert_eq!(seen(3), Seen::New);
        assert_eq!(seen(1), Seen::Stale);
    }

    #[test]
    fn the_session_unused_for_longest_is_forgotten() {
        let mut sessions = Sessions::default();
        for client in 0..SESSIONS_MAX as u64 {
            assert_eq!(sessions.record(record(client, 1, client + 1)), None);
        }
        sessions.record(record(0, 2, 20_000));
        assert_eq!(sessions.record(record(77_777, 1, 20_001)), Some(1));
        assert_eq!(sessions.records().len(), SESSIONS_MAX);
        let again = Sessions::from_records(sessions.records());
        assert_eq!(again, sessions);
    }
}
