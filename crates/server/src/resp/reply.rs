//! Replies, in the version of the protocol that a client speaks.

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::{BytesFrame as Frame3, FrameMap};
use redis_protocol::{resp2, resp3};

/// The version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The one that every client speaks.
    #[default]
    Resp2,
    /// With maps and one null.
    Resp3,
}

/// What is answered to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A word.
    Status(&'static str),
    /// An error, its kind in front.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Bytes),
    /// No value.
    Null,
    /// Several.
    Array(Vec<Reply>),
    /// Pairs; in the older version one after the other.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    /// What is answered when it was done.
    pub const OK: Reply = Reply::Status("OK");

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Reply::Bulk(Bytes::from(text.into()))
    }

    /// A number that cannot be negative.
    pub fn count(count: impl TryInto<i64>) -> Self {
        Reply::Integer(count.try_into().unwrap_or(i64::MAX))
    }

    /// An error of no kind of its own.
    pub fn error(problem: impl std::fmt::Display) -> Self {
        Reply::Error(format!("ERR {problem}"))
    }

    /// The bytes it holds, about.
    pub fn bytes(&self) -> usize {
        match self {
            Reply::Status(_) | Reply::Integer(_) | Reply::Null => 32,
            Reply::Error(problem) => problem.len() + 8,
            Reply::Bulk(bytes) => bytes.len() + 32,
            Reply::Array(items) => items.iter().map(Reply::bytes).sum::<usize>() + 32,
            Reply::Map(pairs) => {
                let pair = |(key, value): &(Reply, Reply)| key.bytes() + value.bytes();
                pairs.iter().map(pair).sum::<usize>() + 32
            }
        }
    }

    /// Appends it to what is to be sent.
    pub fn encode(self, protocol: Protocol, out: &mut BytesMut) {
        let at = out.len();
        let encoded = match protocol {
            Protocol::Resp2 => resp2::encode::extend_encode(out, &self.into_frame2(), false),
            Protocol::Resp3 => {
                resp3::encode::complete::extend_encode(out, &self.into_frame3(), false)
            }
        };
        if let Err(e) = encoded {
            // Every reply has a form; but a client must not wait for one that was not found.
            tracing::error!("a reply could not be encoded: {e}");
            out.truncate(at);
            out.extend_from_slice(b"-ERR the reply could not be encoded\r\n");
        }
    }

    fn into_frame2(self) -> Frame2 {
        match self {
            Reply::Status(word) => Frame2::SimpleString(Bytes::from_static(word.as_bytes())),
            Reply::Error(problem) => Frame2::Error(one_line(problem).into()),
            Reply::Integer(number) => Frame2::Integer(number),
            Reply::Bulk(bytes) => Frame2::BulkString(bytes),
            Reply::Null => Frame2::Null,
            Reply::Array(items) => {
                Frame2::Array(items.into_iter().map(Reply::into_frame2).collect())
            }
            Reply::Map(pairs) => {
                let pairs = pairs.into_iter();
                let flat = pairs.flat_map(|(key, value)| [key.into_frame2(), value.into_frame2()]);
                Frame2::Array(flat.collect())
            }
        }
    }

    fn into_frame3(self) -> Frame3 {
        let attributes = None;
        match self {
            Reply::Status(word) => Frame3::SimpleString {
                data: Bytes::from_static(word.as_bytes()),
                attributes,
            },
            Reply::Error(problem) => Frame3::SimpleError {
                data: one_line(problem).into(),
                attributes,
            },
            Reply::Integer(data) => Frame3::Number { data, attributes },
            Reply::Bulk(data) => Frame3::BlobString { data, attributes },
            Reply::Null => Frame3::Null,
            Reply::Array(items) => Frame3::Array {
                data: items.into_iter().map(Reply::into_frame3).collect(),
                attributes,
            },
            Reply::Map(pairs) => {
                let pairs = pairs.into_iter();
                let pairs = pairs.map(|(key, value)| (key.into_frame3(), value.into_frame3()));
                let data: FrameMap<_, _> = pairs.collect();
                Frame3::Map { data, attributes }
            }
        }
    }
}

/// An error ends with its line.
fn one_line(problem: String) -> String {
    problem.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_reply_has_a_form_in_each_version() {
        let reply = Reply::Array(vec![
            Reply::OK,
            Reply::Null,
            Reply::Integer(-7),
            Reply::text("a\r\n"),
            Reply::Error("ERR two\r\nlines".to_owned()),
            Reply::Map(vec![(Reply::text("k"), Reply::Integer(1))]),
        ]);
        let two =
            "*6\r\n+OK\r\n$-1\r\n:-7\r\n$3\r\na\r\n\r\n-ERR two  lines\r\n*2\r\n$1\r\nk\r\n:1\r\n";
        let three =
            "*6\r\n+OK\r\n_\r\n:-7\r\n$3\r\na\r\n\r\n-ERR two  lines\r\n%1\r\n$1\r\nk\r\n:1\r\n";
        assert_eq!(encoded(reply.clone(), Protocol::Resp2), two);
        assert_eq!(encoded(reply, Protocol::Resp3), three);
        let empty = encoded(Reply::Bulk(Bytes::new()), Protocol::Resp3);
        assert_eq!(empty, "$0\r\n\r\n");
    }
}
