//! Reads and changes of the state.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_rocks::driver::{NodeInfo, RequestError};

use super::budget::Share;
use super::command::Read;
use super::cursors::Cursors;
use super::glob;
use super::reply::Reply;
use super::server::Context;
use crate::address::client_address;
use crate::frontend::Refused;
use crate::kv::{Answer, Entry, Machine, Operation, VALUE_BYTES_MAX, now};

/// One reply that is longer is an error.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// Keys that one call of SCAN looks at.
const SCANNED_MAX: usize = 1_000;
/// Bytes of replies that one look at the state collects, and what comes last.
const LOOK_BYTES: usize = 64 << 10;

/// Bytes that an operation takes in the log, about.
pub fn bytes_of(operation: &Operation) -> usize {
    let payload = match operation {
        Operation::Set { key, value, .. } | Operation::Append { key, value } => {
            key.len() + value.len()
        }
        Operation::Delete(keys) => keys.iter().map(Bytes::len).sum(),
        Operation::SetMany(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| key.len() + value.len());
            pairs.sum()
        }
        Operation::Increment { key, .. }
        | Operation::Expire { key, .. }
        | Operation::Persist(key) => key.len(),
        Operation::Clear | Operation::Purge => 0,
    };
    payload + 32
}

/// Carries out operations as one command; one reply each.
pub async fn change(
    context: &Context,
    operations: &[Operation],
    share: &Mutex<Share>,
) -> Vec<Reply> {
    let replies = change_all(context, operations, share).await;
    replies.unwrap_or_else(|error| vec![error; operations.len()])
}

async fn change_all(
    context: &Context,
    operations: &[Operation],
    share: &Mutex<Share>,
) -> Result<Vec<Reply>, Reply> {
    let has_value = |operation: &Operation| {
        matches!(
            operation,
            Operation::Set {
                return_old: true,
                ..
            }
        )
    };
    if operations.iter().any(has_value) {
        hold(context, share, VALUE_BYTES_MAX).await?;
    }
    let answers = context.frontend.change(operations).await;
    let answers = answers.map_err(not_answered)?;
    Ok(answers.into_iter().map(reply_of).collect())
}

fn reply_of(answer: Answer) -> Reply {
    match answer {
        Answer::Done => Reply::OK,
        Answer::Skipped | Answer::Value(None) => Reply::Null,
        Answer::Integer(number) => Reply::Integer(number),
        Answer::Value(Some(value)) => Reply::Bulk(value),
        Answer::Failed(problem) => Reply::Error(problem),
    }
}

/// Answers some of the reads from `at` on, one at least, all at one moment.
pub async fn look(
    context: &Context,
    reads: &Arc<[Read]>,
    at: usize,
    share: &Arc<Mutex<Share>>,
) -> Vec<Reply> {
    let left = reads.len() - at;
    match try_look(context, reads, at, share).await {
        Ok(Some(replies)) => replies,
        // There was no memory for the first: with its share in hand it is tried again.
        Ok(None) => match hold(context, share, REPLY_BYTES_MAX + LOOK_BYTES).await {
            Err(error) => vec![error],
            Ok(()) => match try_look(context, reads, at, share).await {
                Ok(Some(replies)) => replies,
                Ok(None) => vec![no_memory()],
                Err(error) => vec![error; left],
            },
        },
        Err(error) => vec![error; left],
    }
}

async fn try_look(
    context: &Context,
    reads: &Arc<[Read]>,
    at: usize,
    share: &Arc<Mutex<Share>>,
) -> Result<Option<Vec<Reply>>, Reply> {
    let looked = query(context, || {
        let (reads, share) = (Arc::clone(reads), Arc::clone(share));
        let cursors = Arc::clone(&context.cursors);
        move |machine: &Machine| {
            let reads = reads.get(at..).unwrap_or_default();
            look_at(machine, reads, &cursors, &mut share.lock())
        }
    });
    looked.await?.map_err(failed)
}

fn look_at(
    machine: &Machine,
    reads: &[Read],
    cursors: &Cursors,
    share: &mut Share,
) -> io::Result<Option<Vec<Reply>>> {
    let mut replies = Vec::new();
    let mut bytes = 0;
    for read in reads {
        let reply = run(machine, read, cursors)?;
        bytes += reply.bytes();
        // Held twice while it is encoded.
        if !share.try_hold(2 * bytes) {
            break;
        }
        replies.push(reply);
        if bytes >= LOOK_BYTES {
            break;
        }
    }
    Ok((!replies.is_empty()).then_some(replies))
}

fn run(machine: &Machine, read: &Read, cursors: &Cursors) -> io::Result<Reply> {
    Ok(match read {
        Read::Get(key) => machine.get(key)?.map_or(Reply::Null, value),
        Read::GetMany(keys) => get_many(machine, keys)?,
        Read::Exists(keys) => {
            let mut found = 0;
            for key in keys {
                found += i64::from(machine.get(key)?.is_some());
            }
            Reply::Integer(found)
        }
        Read::Length(key) => Reply::count(machine.get(key)?.map_or(0, |entry| entry.data.len())),
        Read::Ttl(key, unit_ms) => Reply::Integer(time_to_live(machine, key, *unit_ms)?),
        Read::Type(key) => Reply::Status(match machine.get(key)? {
            Some(_) => "string",
            None => "none",
        }),
        Read::Count => Reply::count(machine.len()),
        Read::Scan {
            cursor,
            pattern,
            count,
            is_of_strings,
        } => {
            let pattern = pattern.as_deref().filter(|_| *is_of_strings);
            let pattern = pattern.or((!is_of_strings).then_some(b""));
            let last = match cursor {
                0 => None,
                cursor => match cursors.get(*cursor) {
                    Some(key) => Some(key),
                    None => return Ok(Reply::error(UNKNOWN_CURSOR)),
                },
            };
            scan(machine, last.as_deref(), pattern, *count, cursors)?
        }
    })
}

const UNKNOWN_CURSOR: &str = "invalid cursor: it is another node's, or too old; begin again with 0";

fn value(entry: Entry) -> Reply {
    Reply::Bulk(entry.data.into())
}

fn get_many(machine: &Machine, keys: &[Bytes]) -> io::Result<Reply> {
    let mut values = Vec::new();
    let mut bytes = 0;
    for key in keys {
        let reply = machine.get(key)?.map_or(Reply::Null, value);
        bytes += reply.bytes();
        if bytes > REPLY_BYTES_MAX / 2 {
            return Ok(too_long());
        }
        values.push(reply);
    }
    Ok(Reply::Array(values))
}

/// -2: there is no such key; -1: it never expires. How much is left is a matter of this node's
/// clock; whether there is a key is not.
fn time_to_live(machine: &Machine, key: &[u8], unit_ms: u64) -> io::Result<i64> {
    Ok(match machine.get(key)? {
        None => -2,
        Some(Entry { expiry: None, .. }) => -1,
        Some(Entry {
            expiry: Some(at), ..
        }) => {
            let left = at.saturating_sub(now().max(machine.time()));
            // Redis rounds to the nearest second.
            i64::try_from((left + unit_ms / 2) / unit_ms).unwrap_or(i64::MAX)
        }
    })
}

fn scan(
    machine: &Machine,
    last: Option<&[u8]>,
    pattern: Option<&[u8]>,
    count: usize,
    cursors: &Cursors,
) -> io::Result<Reply> {
    let mut found = Vec::new();
    let (mut looked_at, mut bytes) = (0, 0);
    let mut stopped_at = None;
    machine.keys().scan(last, &mut |key| {
        looked_at += 1;
        if pattern.is_none_or(|pattern| glob::matches(pattern, key)) {
            bytes += key.len();
            found.push(Reply::Bulk(Bytes::copy_from_slice(key)));
        }
        match looked_at < count.min(SCANNED_MAX) && bytes < LOOK_BYTES {
            true => ControlFlow::Continue(()),
            false => {
                stopped_at = Some(key.to_vec());
                ControlFlow::Break(())
            }
        }
    })?;
    let cursor = stopped_at.map_or(0, |key| cursors.put(key));
    Ok(Reply::Array(vec![
        Reply::text(cursor.to_string()),
        Reply::Array(found),
    ]))
}

/// All keys that match, as they are at one moment; looked for beside the machine, since that may
/// take long.
pub async fn keys(context: &Context, pattern: Bytes, share: &Mutex<Share>) -> Reply {
    if let Err(error) = hold(context, share, REPLY_BYTES_MAX).await {
        return error;
    }
    let keys = match query(context, || Machine::keys).await {
        Ok(keys) => keys,
        Err(error) => return error,
    };
    let found = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        let mut bytes = 0;
        keys.scan(None, &mut |key| {
            if glob::matches(&pattern, key) {
                let key = Reply::Bulk(Bytes::copy_from_slice(key));
                bytes += key.bytes();
                found.push(key);
            }
            match bytes <= REPLY_BYTES_MAX / 4 {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(match bytes <= REPLY_BYTES_MAX / 4 {
            true => Reply::Array(found),
            false => Reply::error("too many keys for one reply; use SCAN"),
        })
    });
    match found.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(e)) => failed(e),
        Err(e) => Reply::error(format!("the keys were not read: {e}")),
    }
}

async fn query<R, Q>(context: &Context, question: impl Fn() -> Q) -> Result<R, Reply>
where
    R: Send + 'static,
    Q: FnOnce(&Machine) -> R + Send + 'static,
{
    let answer = context.frontend.query(question).await;
    answer.map_err(not_answered)
}

pub fn not_answered(refused: Refused) -> Reply {
    match refused {
        Refused::Elsewhere(leader) => try_node(leader.as_deref()),
        Refused::Failed(e) => refusal(e),
        lost @ Refused::AnswerLost(_) => Reply::error(lost),
    }
}

fn try_node(leader: Option<&NodeInfo>) -> Reply {
    match leader {
        Some(leader) => Reply::Error(format!("TRY {}", client_address(leader))),
        None => Reply::error("leader not known"),
    }
}

pub fn refusal(error: RequestError) -> Reply {
    match error {
        RequestError::NotLeader { .. } | RequestError::Dropped => Reply::error("leader not known"),
        error => Reply::error(error),
    }
}

async fn hold(context: &Context, share: &Mutex<Share>, bytes: usize) -> Result<(), Reply> {
    // A lock is not held across a wait.
    let mut own = std::mem::replace(&mut *share.lock(), context.budget.share());
    let held = own.hold(bytes).await;
    *share.lock() = own;
    match held {
        true => Ok(()),
        false => Err(no_memory()),
    }
}

fn no_memory() -> Reply {
    Reply::error("no memory for the reply: others have all; try again later")
}

fn too_long() -> Reply {
    Reply::error(format!(
        "the reply would be longer than {} bytes; ask for less",
        REPLY_BYTES_MAX / 2
    ))
}

fn failed(error: io::Error) -> Reply {
    tracing::error!("the state could not be read: {error}");
    Reply::error("the state could not be read; the log of this node says why")
}
