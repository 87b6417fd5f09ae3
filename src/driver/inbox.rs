//! Where a transport hands in what it receives.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::book::NodeInfo;
use super::mailbox::{Event, Waiting};
use super::request::{Ask, Ending, RequestError};
use super::shared::{Answerer, Shared};
use super::transport::{Body, Frame, Packet, Reply, Request};

/// Refusals that are remembered, in order not to be logged again.
const REFUSALS_MAX: usize = 1000;

/// Where a transport hands in what it receives for one node. A clone is another handle; it does
/// not keep the node alive.
#[derive(Clone)]
pub struct Inbox {
    shared: Weak<Shared>,
}

impl Inbox {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Inbox {
            shared: Arc::downgrade(shared),
        }
    }

    /// Takes a packet, without waiting.
    ///
    /// # Errors
    /// It is of another cluster, for another node, or of a node under an id that is not its own
    /// any more, and is dropped; the first of its kind is logged.
    pub fn receive(&self, packet: Packet) -> Result<(), Refused> {
        let shared = self.shared.upgrade().ok_or(Refused::Gone)?;
        let from = packet.from;
        let checked = shared.check(&packet);
        match checked {
            Ok(()) => {
                shared.silent.lock().remove(&from);
                shared.take(packet);
            }
            Err(why) => {
                shared.dropped.packets.fetch_add(1, Ordering::Relaxed);
                // Who took this node in is faster than the answer.
                if why != Refused::NotYet && shared.is_new_refusal(from, why) {
                    log::warn!("packets of node {from} are refused: {why}");
                }
            }
        }
        checked
    }

    /// Messages that were sent to this node did not arrive, or nobody knows.
    pub fn unreachable(&self, id: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.miss(id);
        }
    }

    /// Whether the node is there.
    pub fn is_open(&self) -> bool {
        self.shared
            .upgrade()
            .is_some_and(|shared| shared.stopped.borrow().is_none())
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// This node is starting, and belongs to no cluster yet.
    #[error("this node belongs to no cluster yet")]
    NotYet,
    /// It is an answer to an earlier start of this node, or to nobody.
    #[error("it answers what was not asked")]
    NotAsked,
    /// Another node is reached at that address by now.
    #[error("it is for another node")]
    OtherNode,
    /// The receiver has another store than the sender thinks. raft would be told of entries that
    /// this store never had.
    #[error("it is for another store under this node's id")]
    OtherStore,
    /// The sender belongs to another cluster.
    #[error("it is of another cluster")]
    OtherCluster,
    /// The sender has left the cluster.
    #[error("its id belongs to a node that left")]
    Left,
    /// The sender's id belongs to another store.
    #[error(
        "its store is not the one of that node: a node that lost its disk joins under a new id"
    )]
    Wiped,
    /// The receiver has ended.
    #[error("the node has ended")]
    Gone,
}

impl Shared {
    /// Whether this has not been said before; it would be with every packet.
    fn is_new_refusal(&self, from: u64, why: Refused) -> bool {
        let mut refusals = self.refusals.lock();
        if refusals.len() >= REFUSALS_MAX {
            refusals.clear();
        }
        refusals.insert((from, why))
    }

    fn check(&self, packet: &Packet) -> Result<(), Refused> {
        if let Body::Reply(reply) = &packet.body {
            // Its key was drawn here; a node that asks to join knows no more yet.
            let own = reply.key.incarnation == self.incarnation;
            return own.then_some(()).ok_or(Refused::NotAsked);
        }
        let own = self.own();
        if let Body::Request(Request {
            ask: Ask::Join(_), ..
        }) = &packet.body
            && packet.cluster_id.is_empty()
            && packet.to == 0
            && own.info.id != 0
            && !self.book.read().is_retired(packet.from)
        {
            return Ok(());
        }
        if own.info.id == 0 {
            return Err(Refused::NotYet);
        }
        // What is wrong with most of what comes from another cluster is said first.
        if packet.cluster_id != own.cluster_id {
            return Err(Refused::OtherCluster);
        }
        if packet.to != own.info.id {
            return Err(Refused::OtherNode);
        }
        if !packet.to_store.is_empty() && packet.to_store != own.info.store_id {
            return Err(Refused::OtherStore);
        }
        let book = self.book.read();
        if book.is_retired(packet.from) {
            drop(book);
            if packet.body != Body::Removed {
                self.tell_removed(packet.from, packet.reply_address());
            }
            return Err(Refused::Left);
        }
        match book.node(packet.from) {
            Some(known) if !known.store_id.is_empty() && known.store_id != packet.from_store => {
                Err(Refused::Wiped)
            }
            _ => Ok(()),
        }
    }

    /// A node that left does not hear of it through the log.
    fn tell_removed(&self, id: u64, address: Option<String>) {
        let known = self.departed.lock().get(&id).cloned();
        let to = address.map(|address| NodeInfo {
            id,
            address,
            ..NodeInfo::default()
        });
        if let Some(to) = to.or(known) {
            // It will ask again.
            let _ = self.send(&to, Body::Removed);
        }
    }

    fn take(&self, packet: Packet) {
        let from = packet.from;
        match packet.body {
            Body::Raft(messages) => {
                self.hear_of(from, packet.from_address, packet.from_store);
                let own = messages.into_iter().filter(|message| message.from == from);
                let dropped = self.mailbox.take_messages(own.collect());
                self.dropped.messages.fetch_add(dropped, Ordering::Relaxed);
            }
            Body::Request(request) => self.take_request(from, request),
            Body::Reply(Reply { key, ending }) => self.take_reply(from, key.counter, ending),
            Body::Snapshot(frame) => self.take_frame(from, frame),
            // A stranger cannot know.
            Body::Removed if self.knows(from) => {
                // When the node has stopped it needs no telling.
                self.mailbox.tell(Event::Removed);
            }
            Body::Removed => {}
        }
    }

    fn knows(&self, id: u64) -> bool {
        let is_member = self.book.read().node(id).is_some();
        is_member || self.own().seeds.iter().any(|node| node.id == id)
    }

    fn take_request(&self, from: u64, request: Request) {
        let to = NodeInfo {
            id: from,
            address: request.reply_to,
            ..NodeInfo::default()
        };
        let key = request.key;
        if !self.recent.lock().is_new(from, key) {
            // Sent once and delivered twice: it would be carried out twice.
            return;
        }
        let refuse = |error| {
            // The asker gives up by itself.
            let _ = self.send(
                &to,
                Body::Reply(Reply {
                    key,
                    ending: Err(error),
                }),
            );
        };
        match self.try_room(request.ask.bytes()) {
            Err(error) => refuse(error),
            Ok(permit) => {
                let waiting = Waiting {
                    answerer: Answerer::Remote {
                        to: to.clone(),
                        key,
                    },
                    _permit: permit,
                };
                if !self.mailbox.tell(Event::Ask(request.ask, waiting)) {
                    refuse(RequestError::Dropped);
                }
            }
        }
    }

    fn take_reply(&self, from: u64, counter: u64, ending: Ending) {
        let asked = self.forwarded.lock().get(&counter).map(|of| of.to);
        if asked == Some(0) || asked == Some(from) {
            self.settle_forwarded(counter, ending);
        }
    }

    fn take_frame(&self, from: u64, frame: Frame) {
        let taken = match &frame {
            Frame::Begin { .. } | Frame::Chunk { .. } => {
                let inbound = self.inbound.lock();
                let inbound = inbound.as_ref();
                inbound.is_some_and(|inbound| inbound.try_send((from, frame)).is_ok())
            }
            Frame::Resume { .. } | Frame::Ack { .. } | Frame::Done { .. } => {
                let outbound = self.outbound.lock();
                let stream = outbound.get(&frame.transfer());
                stream.is_some_and(|stream| stream.try_send(frame).is_ok())
            }
        };
        if !taken {
            self.dropped.frames.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Packet {
    fn reply_address(&self) -> Option<String> {
        let address = match &self.body {
            Body::Request(request) => &request.reply_to,
            _ => &self.from_address,
        };
        (!address.is_empty()).then(|| address.clone())
    }
}
