//! The bytes of a command and of its answers; pure.
//!
//! ```text
//! command   version: u8 = 1 | stamp: u64, little-endian | operations, postcard
//! answers   postcard
//! ```
//!
//! An operation that is added, or changed, raises the version: a node that does not know it must
//! stop, where one that does would go on with another state.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 9;

/// A value holds this many bytes at the most: it must fit a command, and an answer a packet.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// When a value that is set expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// Never.
    Never,
    /// When the one that it replaces would have.
    Keep,
    /// This many milliseconds from the time of the machine on.
    In(i64),
    /// At this time, in milliseconds since the epoch.
    At(i64),
}

/// What must hold for a value to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnlyIf {
    /// Nothing.
    Always,
    /// There is no such key.
    Absent,
    /// There is one.
    Present,
}

/// One change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Sets a value. Answers [`Answer::Done`] or [`Answer::Skipped`], or the old value.
    Set {
        /// Its key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// When it expires.
        expiry: Expiry,
        /// Whether it is set at all.
        only_if: OnlyIf,
        /// Answer [`Answer::Value`], whether or not it was set.
        return_old: bool,
    },
    /// Deletes keys. Answers how many there were.
    Delete(Vec<Bytes>),
    /// Sets values that never expire. Answers [`Answer::Done`].
    SetMany(Vec<(Bytes, Bytes)>),
    /// Adds to a number, 0 where there is none. Answers the sum.
    Increment {
        /// Its key.
        key: Bytes,
        /// What is added.
        by: i64,
    },
    /// Appends to a value. Answers its new length.
    Append {
        /// Its key.
        key: Bytes,
        /// What is appended.
        value: Bytes,
    },
    /// Gives a key another time to expire. Answers 1, or 0 where there is no such key.
    Expire {
        /// The key.
        key: Bytes,
        /// Never or keep: as it was.
        expiry: Expiry,
    },
    /// Lets a key never expire. Answers 1, or 0 where nothing changed.
    Persist(Bytes),
    /// Deletes all keys. Answers [`Answer::Done`].
    Clear,
    /// Removes what has expired, some of it. Answers how many keys.
    Purge,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It was done.
    Done,
    /// It was not: a condition did not hold.
    Skipped,
    /// A number.
    Integer(i64),
    /// A value, or none.
    Value(Option<Bytes>),
    /// The operation makes no sense here; nothing was changed. An error in the words of Redis.
    Failed(String),
}

/// These bytes are no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Of a later version of this program.
    #[error("a command of version {0}, this program knows {VERSION}; upgrade this node")]
    Version(u8),
    /// Of none.
    #[error("these bytes are no command: {0}")]
    Malformed(String),
}

/// Operations as a command without a time; the leader stamps it.
pub fn encode(operations: &[Operation]) -> Vec<u8> {
    let mut command = vec![VERSION];
    command.extend_from_slice(&0_u64.to_le_bytes());
    extend(&mut command, &operations);
    command
}

/// The same command with a time in it, milliseconds since the epoch.
///
/// # Errors
/// It is no command.
pub(crate) fn stamp(mut command: Vec<u8>, time: u64) -> Result<Vec<u8>, CommandError> {
    decode(&command)?;
    if let Some(place) = command.get_mut(1..HEADER_BYTES) {
        place.copy_from_slice(&time.to_le_bytes());
    }
    Ok(command)
}

/// The time and the operations of a command.
///
/// # Errors
/// It is no command.
pub(crate) fn decode(command: &[u8]) -> Result<(u64, Vec<Operation>), CommandError> {
    let short = || CommandError::Malformed("too short".to_owned());
    let (header, rest) = command
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or_else(short)?;
    let [version, stamp @ ..] = *header;
    if version != VERSION {
        return Err(CommandError::Version(version));
    }
    Ok((u64::from_le_bytes(stamp), take(rest)?))
}

pub(crate) fn encode_answers(answers: &[Answer]) -> Vec<u8> {
    let mut bytes = Vec::new();
    extend(&mut bytes, &answers);
    bytes
}

/// The answers to the operations of a command, one each.
///
/// # Errors
/// These bytes are none.
pub fn decode_answers(bytes: &[u8]) -> Result<Vec<Answer>, CommandError> {
    take(bytes)
}

fn extend<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    let at = bytes.len();
    // Lengths are known and memory takes everything: what could fail is not there.
    if postcard::to_io(value, &mut *bytes).is_err() {
        bytes.truncate(at);
    }
}

fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CommandError> {
    let malformed = |e: postcard::Error| CommandError::Malformed(e.to_string());
    match postcard::take_from_bytes(bytes).map_err(malformed)? {
        (value, []) => Ok(value),
        (_, rest) => {
            let problem = format!("{} bytes behind it", rest.len());
            Err(CommandError::Malformed(problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_operations_when_it_is_stamped() {
        let operations = vec![
            Operation::Clear,
            Operation::Increment {
                key: Bytes::from_static(b"n"),
                by: -3,
            },
        ];
        let command = stamp(encode(&operations), 1 << 40).unwrap();
        assert_eq!(decode(&command), Ok((1 << 40, operations)));
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let whole = encode(&[Operation::Delete(vec![Bytes::from_static(b"key")])]);
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).is_err(), "cut at {end}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(matches!(decode(&longer), Err(CommandError::Malformed(_))));
        let mut newer = whole;
        newer[0] = 2;
        assert_eq!(stamp(newer, 1), Err(CommandError::Version(2)));
        // Four thousand million operations, in five bytes.
        let lying = [
            &[1, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
        ]
        .concat();
        assert!(matches!(decode(&lying), Err(CommandError::Malformed(_))));
    }
}
