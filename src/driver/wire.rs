//! Packets as bytes: protobuf, with raft's own messages as bytes within, so that both codecs of
//! raft-rs speak alike.

use std::sync::Arc;

use prost::{Message as _, Oneof};
use raft::eraftpb::{ConfChangeV2, Message};

use super::book::{Book, NodeInfo, Refusal};
use super::request::{Ask, Done, Ending, RequestError};
use super::sessions::Session;
use super::transport::{Body, FRAME_BYTES_MAX, Frame, Packet, Reply, Request, RequestKey};

/// More raft messages than this are not taken in one packet.
const MESSAGES_MAX: usize = 4096;

/// Bytes that are no packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a packet: {0}")]
pub struct PacketError(String);

fn bad(why: impl ToString) -> PacketError {
    PacketError(why.to_string())
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePacket {
    #[prost(bytes = "vec", tag = "1")]
    cluster_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    from: u64,
    #[prost(bytes = "vec", tag = "3")]
    from_store: Vec<u8>,
    #[prost(uint64, tag = "4")]
    to: u64,
    #[prost(bytes = "vec", tag = "10")]
    to_store: Vec<u8>,
    #[prost(string, tag = "11")]
    from_address: String,
    #[prost(oneof = "WireBody", tags = "5, 6, 7, 8, 9")]
    body: Option<WireBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum WireBody {
    #[prost(message, tag = "5")]
    Raft(WireMessages),
    #[prost(message, tag = "6")]
    Request(WireRequest),
    #[prost(message, tag = "7")]
    Reply(WireReply),
    #[prost(message, tag = "8")]
    Snapshot(WireFrame),
    #[prost(bool, tag = "9")]
    Removed(bool),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMessages {
    #[prost(bytes = "vec", repeated, tag = "1")]
    messages: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRequest {
    #[prost(fixed64, tag = "1")]
    incarnation: u64,
    #[prost(uint64, tag = "2")]
    counter: u64,
    #[prost(string, tag = "3")]
    reply_to: String,
    #[prost(oneof = "WireAsk", tags = "4, 5, 6, 7")]
    ask: Option<WireAsk>,
}

#[derive(Clone, PartialEq, Oneof)]
enum WireAsk {
    #[prost(message, tag = "4")]
    Propose(WirePropose),
    #[prost(message, tag = "5")]
    Change(WireChange),
    #[prost(message, tag = "6")]
    Join(NodeInfo),
    #[prost(uint64, tag = "7")]
    Transfer(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePropose {
    #[prost(message, optional, tag = "1")]
    session: Option<Session>,
    #[prost(bytes = "vec", tag = "2")]
    command: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireChange {
    #[prost(bytes = "vec", tag = "1")]
    change: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    nodes: Vec<NodeInfo>,
}

/// `code` says which of the others count.
#[derive(Clone, PartialEq, prost::Message)]
struct WireReply {
    #[prost(fixed64, tag = "1")]
    incarnation: u64,
    #[prost(uint64, tag = "2")]
    counter: u64,
    #[prost(uint32, tag = "3")]
    code: u32,
    #[prost(uint64, tag = "4")]
    number: u64,
    #[prost(bytes = "vec", optional, tag = "5")]
    answer: Option<Vec<u8>>,
    #[prost(string, tag = "6")]
    text: String,
    #[prost(message, optional, tag = "7")]
    leader: Option<NodeInfo>,
    #[prost(message, optional, tag = "8")]
    book: Option<Book>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireFrame {
    #[prost(fixed64, tag = "1")]
    transfer: u64,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(uint64, tag = "3")]
    offset: u64,
    #[prost(fixed32, tag = "4")]
    crc: u32,
    #[prost(bytes = "vec", tag = "5")]
    data: Vec<u8>,
}

impl Packet {
    /// The packet as bytes.
    ///
    /// # Errors
    /// It would have more than [`FRAME_BYTES_MAX`] bytes.
    pub fn encode(self) -> Result<Vec<u8>, PacketError> {
        let wire = WirePacket {
            cluster_id: self.cluster_id,
            from: self.from,
            from_store: self.from_store,
            from_address: self.from_address,
            to: self.to,
            to_store: self.to_store,
            body: Some(encode_body(self.body)?),
        };
        match wire.encoded_len() {
            len if len > FRAME_BYTES_MAX => Err(bad(format!("{len} bytes are too many"))),
            _ => Ok(wire.encode_to_vec()),
        }
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// These bytes are none, or too many.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(bad(format!("{} bytes are too many", bytes.len())));
        }
        let wire = WirePacket::decode(bytes).map_err(bad)?;
        Ok(Packet {
            cluster_id: wire.cluster_id,
            from: wire.from,
            from_store: wire.from_store,
            from_address: wire.from_address,
            to: wire.to,
            to_store: wire.to_store,
            body: decode_body(wire.body.ok_or_else(|| bad("nothing in it"))?)?,
        })
    }
}

pub(crate) fn message_bytes(message: &Message) -> Result<Vec<u8>, PacketError> {
    protobuf::Message::write_to_bytes(message).map_err(bad)
}

pub(crate) fn message_from(bytes: &[u8]) -> Result<Message, PacketError> {
    let mut message = Message::default();
    protobuf::Message::merge_from_bytes(&mut message, bytes).map_err(bad)?;
    Ok(message)
}

fn encode_body(body: Body) -> Result<WireBody, PacketError> {
    Ok(match body {
        Body::Raft(messages) => {
            let messages: Result<_, _> = messages.iter().map(message_bytes).collect();
            WireBody::Raft(WireMessages {
                messages: messages?,
            })
        }
        Body::Request(request) => WireBody::Request(WireRequest {
            incarnation: request.key.incarnation,
            counter: request.key.counter,
            reply_to: request.reply_to,
            ask: Some(encode_ask(request.ask)?),
        }),
        Body::Reply(reply) => WireBody::Reply(encode_reply(reply)),
        Body::Snapshot(frame) => WireBody::Snapshot(encode_frame(frame)),
        Body::Removed => WireBody::Removed(true),
    })
}

fn decode_body(body: WireBody) -> Result<Body, PacketError> {
    Ok(match body {
        WireBody::Raft(WireMessages { messages }) => {
            if messages.len() > MESSAGES_MAX {
                return Err(bad(format!("{} messages are too many", messages.len())));
            }
            let messages: Result<_, _> = messages.iter().map(|bytes| message_from(bytes)).collect();
            Body::Raft(messages?)
        }
        WireBody::Request(request) => Body::Request(Request {
            key: RequestKey {
                incarnation: request.incarnation,
                counter: request.counter,
            },
            reply_to: request.reply_to,
            ask: decode_ask(request.ask.ok_or_else(|| bad("an empty request"))?)?,
        }),
        WireBody::Reply(reply) => Body::Reply(decode_reply(reply)?),
        WireBody::Snapshot(frame) => Body::Snapshot(decode_frame(frame)?),
        WireBody::Removed(_) => Body::Removed,
    })
}

fn encode_ask(ask: Ask) -> Result<WireAsk, PacketError> {
    Ok(match ask {
        Ask::Propose { session, command } => WireAsk::Propose(WirePropose { session, command }),
        Ask::Change { change, nodes } => WireAsk::Change(WireChange {
            change: protobuf::Message::write_to_bytes(&change).map_err(bad)?,
            nodes,
        }),
        Ask::Join(node) => WireAsk::Join(node),
        Ask::Transfer { to } => WireAsk::Transfer(to),
    })
}

fn decode_ask(ask: WireAsk) -> Result<Ask, PacketError> {
    Ok(match ask {
        WireAsk::Propose(WirePropose { session, command }) => Ask::Propose { session, command },
        WireAsk::Change(wire) => {
            let mut change = ConfChangeV2::default();
            protobuf::Message::merge_from_bytes(&mut change, &wire.change).map_err(bad)?;
            let nodes = wire.nodes;
            Ask::Change { change, nodes }
        }
        WireAsk::Join(node) => Ask::Join(node),
        WireAsk::Transfer(to) => Ask::Transfer { to },
    })
}

fn encode_reply(reply: Reply) -> WireReply {
    let mut wire = WireReply {
        incarnation: reply.key.incarnation,
        counter: reply.key.counter,
        ..WireReply::default()
    };
    match reply.ending {
        Ok(Done::Applied { index, answer }) => {
            (wire.code, wire.number, wire.answer) = (1, index, answer);
        }
        Ok(Done::Readable { index }) => (wire.code, wire.number) = (2, index),
        Ok(Done::Joined { id, book }) => {
            (wire.code, wire.number, wire.book) = (3, id, Some(book));
        }
        Ok(Done::Transferred) => wire.code = 4,
        Err(RequestError::NotLeader { leader }) => {
            (wire.code, wire.leader) = (10, leader.map(|node| *node));
        }
        Err(RequestError::Dropped) => wire.code = 11,
        Err(RequestError::OutcomeUnknown) => wire.code = 12,
        Err(RequestError::Busy) => wire.code = 13,
        Err(RequestError::ChangeUnderWay) => wire.code = 14,
        Err(RequestError::Rejected(text)) => (wire.code, wire.text) = (15, text),
        Err(RequestError::Stale) => wire.code = 16,
        Err(RequestError::TooLarge { bytes, max }) => {
            (wire.code, wire.number) = (17, bytes as u64);
            wire.text = max.to_string();
        }
        Err(RequestError::Removed) => wire.code = 18,
        Err(RequestError::Stopped { cause }) => (wire.code, wire.text) = (19, cause.to_string()),
        Err(RequestError::Refused(Refusal::Retired(id))) => (wire.code, wire.number) = (20, id),
        Err(RequestError::Refused(Refusal::OtherStore(id))) => (wire.code, wire.number) = (21, id),
        Err(RequestError::Refused(Refusal::Unknown(id))) => (wire.code, wire.number) = (22, id),
        Err(RequestError::Refused(Refusal::Raft(text))) => (wire.code, wire.text) = (23, text),
        Err(RequestError::Refused(Refusal::BadId(id))) => (wire.code, wire.number) = (24, id),
        Err(RequestError::Refused(Refusal::TooLarge)) => wire.code = 26,
        Err(RequestError::Refused(Refusal::NotAdded(id))) => (wire.code, wire.number) = (25, id),
    }
    wire
}

fn decode_reply(wire: WireReply) -> Result<Reply, PacketError> {
    let (index, id, text) = (wire.number, wire.number, wire.text);
    let ending: Ending = match wire.code {
        1 => Ok(Done::Applied {
            index,
            answer: wire.answer,
        }),
        2 => Ok(Done::Readable { index }),
        3 => Ok(Done::Joined {
            id,
            book: wire.book.unwrap_or_default(),
        }),
        4 => Ok(Done::Transferred),
        10 => Err(RequestError::NotLeader {
            leader: wire.leader.map(Box::new),
        }),
        11 => Err(RequestError::Dropped),
        12 => Err(RequestError::OutcomeUnknown),
        13 => Err(RequestError::Busy),
        14 => Err(RequestError::ChangeUnderWay),
        15 => Err(RequestError::Rejected(text)),
        16 => Err(RequestError::Stale),
        17 => Err(RequestError::TooLarge {
            bytes: usize::try_from(wire.number).map_err(bad)?,
            max: text.parse().map_err(bad)?,
        }),
        18 => Err(RequestError::Removed),
        19 => Err(RequestError::Stopped {
            cause: Arc::from(text),
        }),
        20 => Err(Refusal::Retired(id).into()),
        21 => Err(Refusal::OtherStore(id).into()),
        22 => Err(Refusal::Unknown(id).into()),
        23 => Err(Refusal::Raft(text).into()),
        24 => Err(Refusal::BadId(id).into()),
        25 => Err(Refusal::NotAdded(id).into()),
        26 => Err(Refusal::TooLarge.into()),
        other => return Err(bad(format!("a reply of kind {other}"))),
    };
    let key = RequestKey {
        incarnation: wire.incarnation,
        counter: wire.counter,
    };
    Ok(Reply { key, ending })
}

fn encode_frame(frame: Frame) -> WireFrame {
    let mut wire = WireFrame {
        transfer: frame.transfer(),
        ..WireFrame::default()
    };
    match frame {
        Frame::Begin { message, .. } => (wire.kind, wire.data) = (1, message),
        Frame::Resume { offset, .. } => (wire.kind, wire.offset) = (2, offset),
        Frame::Chunk {
            offset, crc, data, ..
        } => (wire.kind, wire.offset, wire.crc, wire.data) = (3, offset, crc, data),
        Frame::Ack { offset, .. } => (wire.kind, wire.offset) = (4, offset),
        Frame::Done { ok, .. } => (wire.kind, wire.offset) = (5, u64::from(ok)),
    }
    wire
}

fn decode_frame(wire: WireFrame) -> Result<Frame, PacketError> {
    let (transfer, offset) = (wire.transfer, wire.offset);
    Ok(match wire.kind {
        1 => Frame::Begin {
            transfer,
            message: wire.data,
        },
        2 => Frame::Resume { transfer, offset },
        3 => Frame::Chunk {
            transfer,
            offset,
            crc: wire.crc,
            data: wire.data,
        },
        4 => Frame::Ack { transfer, offset },
        5 => Frame::Done {
            transfer,
            ok: offset == 1,
        },
        other => return Err(bad(format!("a frame of kind {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(body: Body) -> Packet {
        Packet {
            cluster_id: vec![7; 16],
            from: 1,
            from_store: vec![1; 16],
            from_address: "one:1".to_owned(),
            to: 2,
            to_store: vec![2; 16],
            body,
        }
    }

    fn bodies() -> Vec<Body> {
        let key = RequestKey {
            incarnation: u64::MAX,
            counter: 3,
        };
        let node = NodeInfo {
            id: 4,
            address: "four:1".to_owned(),
            ..NodeInfo::default()
        };
        let mut message = Message::default();
        (message.from, message.to, message.term) = (1, 2, 5);
        let mut bodies = vec![Body::Raft(vec![message; 3]), Body::Removed];
        let asks = [
            Ask::Propose {
                session: Some(Session {
                    client: 1,
                    sequence: 2,
                }),
                command: vec![1, 2],
            },
            Ask::Change {
                change: super::super::peer::single_change(
                    raft::eraftpb::ConfChangeType::AddLearnerNode,
                    4,
                ),
                nodes: vec![node.clone()],
            },
            Ask::Join(node.clone()),
            Ask::Transfer { to: 3 },
        ];
        bodies.extend(asks.map(|ask| {
            let reply_to = "one:1".to_owned();
            Body::Request(Request { key, reply_to, ask })
        }));
        let endings: [Ending; 16] = [
            Ok(Done::Applied {
                index: 3,
                answer: Some(vec![]),
            }),
            Ok(Done::Applied {
                index: 3,
                answer: None,
            }),
            Ok(Done::Readable { index: 4 }),
            Ok(Done::Joined {
                id: 4,
                book: Book::new([7; 16], [node.clone()]),
            }),
            Ok(Done::Transferred),
            Err(RequestError::NotLeader {
                leader: Some(Box::new(node)),
            }),
            Err(RequestError::Dropped),
            Err(RequestError::OutcomeUnknown),
            Err(RequestError::Busy),
            Err(RequestError::ChangeUnderWay),
            Err(RequestError::Rejected("no".to_owned())),
            Err(RequestError::Stale),
            Err(RequestError::TooLarge { bytes: 9, max: 8 }),
            Err(RequestError::Removed),
            Err(RequestError::Stopped {
                cause: Arc::from("gone"),
            }),
            Err(Refusal::OtherStore(3).into()),
        ];
        bodies.extend(endings.map(|ending| Body::Reply(Reply { key, ending })));
        let transfer = 9;
        let frames = [
            Frame::Begin {
                transfer,
                message: vec![1],
            },
            Frame::Resume {
                transfer,
                offset: 1,
            },
            Frame::Chunk {
                transfer,
                offset: 2,
                crc: 3,
                data: vec![4],
            },
            Frame::Ack {
                transfer,
                offset: 6,
            },
            Frame::Done { transfer, ok: true },
        ];
        bodies.extend(frames.map(Body::Snapshot));
        bodies
    }

    #[test]
    fn every_packet_is_read_as_it_was_written() {
        for body in bodies() {
            let sent = packet(body);
            let bytes = sent.clone().encode().unwrap();
            assert_eq!(Packet::decode(&bytes).unwrap().body, sent.body);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        for body in bodies() {
            let bytes = packet(body).encode().unwrap();
            for cut in 0..bytes.len() {
                let _ = Packet::decode(&bytes[..cut]);
                let mut bent = bytes.clone();
                bent[cut] ^= 0x55;
                let _ = Packet::decode(&bent);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_neither_sent_nor_read() {
        let ask = Ask::Propose {
            session: None,
            command: vec![0; FRAME_BYTES_MAX],
        };
        let key = RequestKey {
            incarnation: 0,
            counter: 0,
        };
        let reply_to = String::new();
        assert!(
            packet(Body::Request(Request { key, reply_to, ask }))
                .encode()
                .is_err()
        );
        assert!(Packet::decode(&vec![0; FRAME_BYTES_MAX + 1]).is_err());
    }
}
