//! What nodes send each other, and who carries it.
//!
//! A transport carries packets to the address in a [`NodeInfo`] and hands those it receives to
//! the node's [`Inbox`](super::Inbox). It may lose packets, never mix those of two clusters, and
//! keeps the order of what it does not lose, per receiver and lane. Authentication is its
//! business: that `from` is who it says.

use std::fmt;

use raft::eraftpb::Message;

use super::book::NodeInfo;
use super::request::{Ask, Ending};

/// The most that an encoded packet has; a transport refuses a declared length beyond it before it
/// allocates.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// What one node sends another at once.
#[derive(Clone, PartialEq)]
pub struct Packet {
    /// The cluster of the sender, 16 bytes; empty when it asks to join one.
    pub cluster_id: Vec<u8>,
    /// The sender's id, 0 when it has none yet.
    pub from: u64,
    /// The id of the sender's store, 16 bytes.
    pub from_store: Vec<u8>,
    /// Where the sender is reached: a node that was away knows none of those who came meanwhile.
    pub from_address: String,
    /// The receiver's id, 0 when the sender only knows its address.
    pub to: u64,
    /// The id of the receiver's store, empty when the sender does not know it.
    pub to_store: Vec<u8>,
    /// What is sent.
    pub body: Body,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("lane", &self.lane())
            .finish_non_exhaustive()
    }
}

/// What a packet holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Body {
    /// Messages between the raft cores.
    Raft(Vec<Message>),
    /// A request for the leader.
    Request(Request),
    /// How a request ended.
    Reply(Reply),
    /// A piece of the stream of a snapshot.
    Snapshot(Frame),
    /// The receiver is no longer a member.
    Removed,
}

/// Names a request. Unique over restarts and nodes: an answer never meets another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Drawn at random whenever a node starts.
    pub incarnation: u64,
    /// Counted by the asker.
    pub counter: u64,
}

/// A request that one node hands on to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// To be repeated in the reply.
    pub key: RequestKey,
    /// Where the reply goes.
    pub reply_to: String,
    /// What is asked.
    pub ask: Ask,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// That of the request.
    pub key: RequestKey,
    /// How it ended.
    pub ending: Ending,
}

/// A piece of the stream of a snapshot; `transfer` names the stream.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// Offers a snapshot.
    Begin {
        /// Drawn by the sender.
        transfer: u64,
        /// The raft message, encoded; it says how long the data is, and its checksum.
        message: Vec<u8>,
    },
    /// Send from here on.
    Resume {
        /// That of the offer.
        transfer: u64,
        /// Bytes that are there already.
        offset: u64,
    },
    /// Some of the data.
    Chunk {
        /// That of the offer.
        transfer: u64,
        /// Where it belongs.
        offset: u64,
        /// The CRC-32C of `data`.
        crc: u32,
        /// The data.
        data: Vec<u8>,
    },
    /// Everything before `offset` has arrived.
    Ack {
        /// That of the offer.
        transfer: u64,
        /// How far.
        offset: u64,
    },
    /// The snapshot is whole and handed to raft, or it was refused.
    Done {
        /// That of the offer.
        transfer: u64,
        /// Whether it is whole.
        ok: bool,
    },
}

impl Frame {
    /// The stream it belongs to.
    pub fn transfer(&self) -> u64 {
        match self {
            Frame::Begin { transfer, .. }
            | Frame::Resume { transfer, .. }
            | Frame::Chunk { transfer, .. }
            | Frame::Ack { transfer, .. }
            | Frame::Done { transfer, .. } => *transfer,
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transfer = self.transfer();
        match self {
            Frame::Begin { .. } => write!(f, "Begin({transfer:x})"),
            Frame::Resume { offset, .. } => write!(f, "Resume({transfer:x}, {offset})"),
            Frame::Chunk { offset, data, .. } => {
                write!(f, "Chunk({transfer:x}, {offset}, {} bytes)", data.len())
            }
            Frame::Ack { offset, .. } => write!(f, "Ack({transfer:x}, {offset})"),
            Frame::Done { ok, .. } => write!(f, "Done({transfer:x}, {ok})"),
        }
    }
}

/// Packets of different lanes may overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Small, and urgent.
    Messages,
    /// Snapshots, which must not be in the way of the others.
    Snapshots,
}

impl Packet {
    /// The lane it travels in.
    pub fn lane(&self) -> Lane {
        match self.body {
            Body::Snapshot(_) => Lane::Snapshots,
            _ => Lane::Messages,
        }
    }
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver is slow: the queue to it is full.
    #[error("the queue to the receiver is full")]
    Full,
    /// There is no way to the receiver, as far as is known at once.
    #[error("the receiver cannot be reached")]
    Unreachable,
}

/// Carries packets to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Takes a packet for `to`, and does not wait for anything. Queues are bounded and apart per
    /// receiver and lane, so that nobody waits for a slow one. Packets may be lost, delivered
    /// twice soon after another, and out of order, which costs time and nothing else. What is
    /// lost later is told to [`Inbox::unreachable`](super::Inbox::unreachable).
    ///
    /// # Errors
    /// It was not taken.
    fn send(&self, to: &NodeInfo, packet: Packet) -> Result<(), SendError>;
}
