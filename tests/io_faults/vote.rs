//! A node that is asked for its vote, on a disk that fails.

use std::sync::mpsc;

use raft::eraftpb::{Message, MessageType};
use raft::{Config, RawNode};
use raft_rocks::{RaftMachineStorage, RaftStore, Result};

use crate::child::Report;

/// The term that is voted in.
pub const TERM: u64 = 5;
const ME: u64 = 1;
const FIRST: u64 = 2;
pub const SECOND: u64 = 3;

type Node = RawNode<RaftMachineStorage>;

fn node(storage: &RaftMachineStorage) -> Node {
    let mut config = Config::new(ME);
    config.applied = storage.applied_index();
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, storage.clone(), &logger).unwrap()
}

fn ask(node: &mut Node, candidate: u64) {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgRequestVote);
    message.from = candidate;
    message.to = ME;
    message.term = TERM;
    message.index = 100;
    message.log_term = TERM;
    node.step(message).unwrap();
}

fn grants(messages: &[Message]) -> usize {
    let granted = |message: &&Message| {
        message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject
    };
    messages.iter().filter(granted).count()
}

fn initialized(store: &RaftStore) -> Result<RaftMachineStorage> {
    let storage = store.group(0)?;
    storage.initialize_with_conf_state((vec![1, 2, 3], vec![]))?;
    Ok(storage)
}

/// Asked for its vote by `candidate`, the votes that left the node: its messages are sent when
/// the write was acknowledged, and not otherwise.
///
/// # Errors
/// Of the write.
pub fn vote_waiting(storage: &RaftMachineStorage, candidate: u64) -> Result<usize> {
    let mut node = node(storage);
    ask(&mut node, candidate);
    let mut ready = node.ready();
    let mut left = grants(&ready.take_messages());
    storage.write_ready(&ready)?;
    left += grants(&ready.take_persisted_messages());
    Ok(left)
}

/// The same with a callback that sends.
///
/// # Errors
/// Of the write.
fn vote_submitting(storage: &RaftMachineStorage, candidate: u64) -> Result<usize> {
    let mut node = node(storage);
    ask(&mut node, candidate);
    let mut ready = node.ready();
    let mut left = grants(&ready.take_messages());
    let persisted = ready.take_persisted_messages();
    let (tell, told) = mpsc::channel();
    storage.submit_ready(&ready, move |result| tell.send(result).unwrap())?;
    node.advance_append_async(ready);
    told.recv().unwrap()?;
    left += grants(&persisted);
    Ok(left)
}

pub fn wait(store: &RaftStore, report: &mut Report) -> Result<()> {
    let storage = initialized(store)?;
    tell(store, vote_waiting(&storage, FIRST), report);
    // A driver that does not stop is refused.
    again(&storage, report);
    Ok(())
}

pub fn submit(store: &RaftStore, report: &mut Report) -> Result<()> {
    let storage = initialized(store)?;
    tell(store, vote_submitting(&storage, FIRST), report);
    again(&storage, report);
    Ok(())
}

fn tell(store: &RaftStore, voted: Result<usize>, report: &mut Report) {
    let poisoned = store.sync().is_err();
    match voted {
        Ok(left) => report.line(&format!("voted {left}")),
        Err(e) => report.line(&format!("vote-failed {} {e}", u8::from(poisoned))),
    }
}

fn again(storage: &RaftMachineStorage, report: &mut Report) {
    for candidate in [FIRST, SECOND] {
        if let Ok(left) = vote_waiting(storage, candidate) {
            report.line(&format!("voted {left}"));
        }
    }
}
