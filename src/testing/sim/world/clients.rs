//! What the clients do: an operation at a time each, repeated where that is safe.

use super::{Event, KEYS, SECOND, Step, World};
use crate::driver::{Answer, Consistency, Finished, Outcome, RequestId};
use crate::testing::sim::client::{Ask, Client, Pending};
use crate::testing::sim::machine::{self, answered};
use crate::testing::sim::network::MILLISECOND;
use crate::testing::sim::store::SimStore;

impl<S: SimStore> World<S> {
    pub(super) fn ask(&mut self, client: usize) -> Step {
        let Some(own) = self.clients.get_mut(client) else {
            return Ok(());
        };
        if own.pending.is_some() {
            return Ok(());
        }
        if self.calm && own.sequence >= own.last_sequence {
            return Ok(());
        }
        own.sequence += 1;
        let key = self.rng.u64(1..=KEYS);
        let lowest = if self.now < self.reads_only_until {
            5
        } else {
            0
        };
        let ask = match self.rng.u32(lowest..10) {
            0..5 => {
                self.values += 1;
                Ask::Swap { new: self.values }
            }
            5..8 => Ask::Get {
                consistency: Consistency::Linearizable,
            },
            _ => Ask::Get {
                consistency: Consistency::Lease,
            },
        };
        own.pending = Some(Pending {
            key,
            ask,
            invoked: self.now,
            request: 0,
            tries: 0,
        });
        self.request(client)
    }

    /// Sends a client's operation to a node: the leader it believes in, or any.
    pub(super) fn request(&mut self, client: usize) -> Step {
        let request = self.new_request(client);
        let up: Vec<u64> = self
            .nodes
            .values()
            .filter(|node| node.running.is_some() && !node.removed)
            .map(|node| node.id)
            .collect();
        let any = self.rng.choice(&up).copied().unwrap_or(0);
        let random = self.rng.u32(0..4) == 0;
        let Some(own) = self.clients.get_mut(client) else {
            return Ok(());
        };
        let Some(pending) = own.pending.as_mut() else {
            return Ok(());
        };
        pending.tries += 1;
        if matches!(pending.ask, Ask::Get { .. }) {
            // A read without an answer has done nothing: this is another one, which has to see
            // what was acknowledged meanwhile.
            pending.invoked = self.now;
        }
        let to = match up.contains(&own.leader) && !random {
            true => own.leader,
            false => any,
        };
        let waits = self.now + self.rng.u64(SECOND..3 * SECOND);
        self.schedule(waits, Event::GiveUp { client, request });
        let paused_until = self.nodes.get(&to).map_or(0, |node| node.paused_until);
        if paused_until > self.now {
            self.schedule(
                paused_until,
                Event::Late {
                    client,
                    request,
                    to,
                },
            );
            return Ok(());
        }
        self.ask_node(client, request, to)
    }

    pub(super) fn ask_node(&mut self, client: usize, request: RequestId, to: u64) -> Step {
        let now = self.now();
        let Some(own) = self.clients.get(client) else {
            return Ok(());
        };
        let session = own.session(client);
        let Some(pending) = own.pending.filter(|pending| pending.request == request) else {
            return Ok(());
        };
        let Some(running) = self.nodes.get_mut(&to).and_then(|n| n.running.as_mut()) else {
            return Ok(());
        };
        running.requests.insert(request, client);
        match pending.ask {
            Ask::Swap { new } => {
                let command = machine::swap(pending.key, new);
                running.peer.propose(request, session, command);
            }
            Ask::Get { consistency } => running.peer.read(request, consistency, now),
        }
        self.after(to)
    }

    pub(super) fn finish(&mut self, id: u64, finished: Finished) -> Step {
        let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) else {
            return Ok(());
        };
        let Some(client) = running.requests.remove(&finished.id) else {
            return Ok(());
        };
        let Some(pending) = self.clients.get(client).and_then(|own| own.pending) else {
            return Ok(());
        };
        if pending.request != finished.id {
            return Ok(());
        }
        match finished.outcome {
            Outcome::Applied {
                answer: Answer::Command(bytes),
                ..
            } => {
                let old = answered(&bytes);
                if old.is_none() {
                    return Err(("an answer is one", format!("{bytes:?} to a swap")));
                }
                self.answer(client, &pending, old);
                Ok(())
            }
            Outcome::Applied {
                answer: Answer::AnswerLost,
                ..
            } => {
                self.answer(client, &pending, None);
                Ok(())
            }
            Outcome::Readable { .. } => {
                let value = running.applier.machine().get(pending.key);
                if matches!(
                    pending.ask,
                    Ask::Get {
                        consistency: Consistency::Lease
                    }
                ) && self.lease
                {
                    self.count("lease read");
                }
                self.answer(client, &pending, Some(value));
                Ok(())
            }
            Outcome::NotLeader { leader } => {
                if let Some(own) = self.clients.get_mut(client) {
                    own.leader = leader;
                }
                self.again(client)
            }
            Outcome::Dropped => self.again(client),
            Outcome::Unknown => self.unknown(client),
            other => Err(("an answer is one", format!("{other:?} to {pending:?}"))),
        }
    }

    fn answer(&mut self, client: usize, pending: &Pending, old: Option<u64>) {
        self.report.answered += 1;
        self.note(|| format!("client {client}: {pending:?} answered {old:?}"));
        let operation = Client::finished(pending, old, Some(self.now));
        self.history.extend(operation);
        self.next_operation(client);
    }

    fn next_operation(&mut self, client: usize) {
        if let Some(own) = self.clients.get_mut(client) {
            own.pending = None;
        }
        let at = self.now + self.rng.u64(MILLISECOND..60 * MILLISECOND);
        self.schedule(at, Event::Client { client });
    }

    /// The request did nothing: the operation is tried again a little later.
    fn again(&mut self, client: usize) -> Step {
        let at = self.now + self.rng.u64(MILLISECOND..50 * MILLISECOND);
        let request = self.new_request(client);
        self.schedule(at, Event::Retry { client, request });
        Ok(())
    }

    /// From here on the answers of earlier requests are ignored.
    fn new_request(&mut self, client: usize) -> RequestId {
        self.requests += 1;
        let pending = self.clients.get_mut(client).map(|own| &mut own.pending);
        if let Some(Some(pending)) = pending {
            pending.request = self.requests;
        }
        self.requests
    }

    /// Nobody knows whether the request has done something. With a session it may be repeated.
    pub(super) fn unknown(&mut self, client: usize) -> Step {
        let repeats = self.rng.u32(0..4) != 0;
        let Some(own) = self.clients.get(client) else {
            return Ok(());
        };
        let Some(pending) = own.pending else {
            return Ok(());
        };
        let is_read = matches!(pending.ask, Ask::Get { .. });
        if (own.has_session || is_read) && repeats && pending.tries < 20 {
            if !is_read {
                self.count("command repeated");
            }
            return self.request(client);
        }
        self.give_up(client);
        self.next_operation(client);
        Ok(())
    }

    pub(super) fn give_up(&mut self, client: usize) {
        let pending = self
            .clients
            .get_mut(client)
            .and_then(|own| own.pending.take());
        if let Some(pending) = pending {
            self.history.extend(Client::finished(&pending, None, None));
        }
    }
}
