//! A few `RawNode`s in one process, on stores of their own, without threads, clocks or losses:
//! messages are handed over until there are none. The state machine counts, which is not
//! idempotent: a command that is applied twice shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message,
};
use raft::{Config, RawNode, Ready, SnapshotStatus, StateRole};
use raft_rocks::{Batch, Options, RaftMachineStorage, Result};

const FAMILY: &str = "counter";
const KEY: &[u8] = b"count";
const INCREMENT: &[u8] = b"INCR";
/// What settles takes far less.
const TICKS_MAX: usize = 300;

pub struct Node {
    raft: RawNode<RaftMachineStorage>,
    pub storage: RaftMachineStorage,
}

pub fn options() -> Options {
    let mut options = Options::default();
    options.column_families = vec![FAMILY.to_owned()];
    options.reserve_bytes = 0;
    options
}

/// The durable count.
pub fn count(storage: &RaftMachineStorage) -> u64 {
    let database = storage.store().database();
    let family = database.cf_handle(FAMILY).unwrap();
    let bytes = database.get_cf(family, KEY).unwrap();
    bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

impl Node {
    /// Opens a node; the first ones of a group are told the voters.
    pub fn open(id: u64, dir: &Path, voters: &[u64], options: Options) -> Result<Node> {
        let storage = RaftMachineStorage::open(dir, options)?;
        let fresh = storage.conf_state() == ConfState::default() && storage.last_index() == 0;
        if fresh && !voters.is_empty() {
            storage.initialize_with_conf_state((voters.to_vec(), vec![]))?;
        }
        Ok(Node::on(id, storage))
    }

    pub fn on(id: u64, storage: RaftMachineStorage) -> Node {
        let config = Config {
            applied: storage.applied_index(),
            ..Config::new(id)
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Node {
            raft: RawNode::new(&config, storage.clone(), &logger).unwrap(),
            storage,
        }
    }

    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Alone in its group it commits at once.
    pub fn campaign(&mut self) {
        self.raft.campaign().unwrap();
    }

    pub fn increment(&mut self) {
        self.raft.propose(vec![], INCREMENT.to_vec()).unwrap();
    }

    /// Persists, then answers; applies with the applied index in one write.
    pub fn handle_readies(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while self.raft.has_ready() {
            let mut ready = self.raft.ready();
            messages.extend(ready.take_messages());
            self.persist(&ready);
            messages.extend(ready.take_persisted_messages());
            self.apply(&ready.take_committed_entries());
            let mut light = self.raft.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.storage.set_commit(commit).unwrap();
            }
            messages.extend(light.take_messages());
            self.apply(&light.take_committed_entries());
            self.raft.advance_apply();
        }
        messages
    }

    fn persist(&self, ready: &Ready) {
        let mut batch = self.storage.batch().ready(ready);
        if !ready.snapshot().is_empty() {
            batch = batch.put(FAMILY, KEY, ready.snapshot().data.to_vec());
        }
        batch.write().unwrap();
    }

    fn apply(&mut self, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        let mut conf_state = None;
        for entry in entries {
            let change: ConfChangeV2 = match entry.get_entry_type() {
                EntryType::EntryNormal => continue,
                EntryType::EntryConfChange => {
                    let mut change = ConfChange::default();
                    change.merge_from_bytes(&entry.data).unwrap();
                    into_v2(&change)
                }
                EntryType::EntryConfChangeV2 => {
                    let mut change = ConfChangeV2::default();
                    change.merge_from_bytes(&entry.data).unwrap();
                    change
                }
            };
            conf_state = Some(self.raft.apply_conf_change(&change).unwrap());
        }
        let batch = match &conf_state {
            Some(conf_state) => self.storage.batch().conf_state(conf_state, last.index),
            None => self.storage.batch().applied(last.index),
        };
        counted(batch, count(&self.storage), entries)
            .write()
            .unwrap();
    }

    /// Snapshots what is applied, and drops the log it stands for.
    pub fn snapshot(&self) {
        let applied = self.storage.applied_index();
        let (conf_state, data) = (
            self.storage.conf_state(),
            count(&self.storage).to_le_bytes(),
        );
        self.storage
            .create_snapshot(applied, &conf_state, &data)
            .unwrap();
        self.storage.compact(applied + 1).unwrap();
    }
}

fn into_v2(change: &ConfChange) -> ConfChangeV2 {
    use raft::eraftpb::ConfChangeSingle;
    let mut single = ConfChangeSingle::default();
    single.node_id = change.node_id;
    single.set_change_type(change.get_change_type());
    let mut v2 = ConfChangeV2::default();
    v2.set_changes(vec![single].into());
    v2
}

/// Counts the increments among entries in the write that records them as applied.
fn counted<'a>(batch: Batch<'a>, before: u64, entries: &[Entry]) -> Batch<'a> {
    let more = entries
        .iter()
        .filter(|entry| &entry.data[..] == INCREMENT)
        .count() as u64;
    batch.put(FAMILY, KEY, (before + more).to_le_bytes().to_vec())
}

/// Nodes by id.
pub struct Cluster {
    root: tempfile::TempDir,
    pub nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    pub fn new(voters: &[u64]) -> Cluster {
        let mut cluster = Cluster {
            root: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
        };
        voters
            .iter()
            .for_each(|id| cluster.start(*id, voters).unwrap());
        cluster
    }

    pub fn dir(&self, id: u64) -> PathBuf {
        self.root.path().join(id.to_string())
    }

    pub fn start(&mut self, id: u64, voters: &[u64]) -> Result<()> {
        let node = Node::open(id, &self.dir(id), voters, options())?;
        self.nodes.insert(id, node);
        Ok(())
    }

    pub fn stop(&mut self, id: u64) {
        let Node { raft, storage } = self.nodes.remove(&id).unwrap();
        let store = storage.store().clone();
        drop((raft, storage));
        store.close().unwrap();
    }

    /// Hands messages over until there are none; who is away is reported.
    pub fn settle(&mut self) {
        loop {
            let all: Vec<_> = self
                .nodes
                .values_mut()
                .flat_map(Node::handle_readies)
                .collect();
            if all.is_empty() {
                return;
            }
            all.into_iter().for_each(|message| self.deliver(message));
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        let snapshot = message.get_msg_type() == raft::eraftpb::MessageType::MsgSnapshot;
        let delivered = self
            .nodes
            .get_mut(&to)
            .is_some_and(|node| node.raft.step(message).is_ok());
        let Some(sender) = self.nodes.get_mut(&from) else {
            return;
        };
        if !delivered {
            sender.raft.report_unreachable(to);
        }
        if snapshot {
            let status = if delivered {
                SnapshotStatus::Finish
            } else {
                SnapshotStatus::Failure
            };
            sender.raft.report_snapshot(to, status);
        }
    }

    /// Lets time pass until it is so.
    pub fn until(&mut self, what: &str, so: impl Fn(&Cluster) -> bool) {
        for _ in 0..TICKS_MAX {
            self.settle();
            if so(self) {
                return;
            }
            for node in self.nodes.values_mut() {
                node.raft.tick();
            }
        }
        panic!("not after {TICKS_MAX} ticks: {what}");
    }

    pub fn leader(&mut self) -> &mut Node {
        self.until("a leader", |c| c.nodes.values().any(Node::is_leader));
        self.nodes
            .values_mut()
            .find(|node| node.is_leader())
            .unwrap()
    }

    pub fn increment(&mut self, times: u64) {
        for _ in 0..times {
            self.leader().increment();
            self.settle();
        }
    }

    pub fn change(&mut self, kind: ConfChangeType, id: u64) {
        let mut change = ConfChange::default();
        change.set_change_type(kind);
        change.node_id = id;
        let leader = self.leader();
        let before = leader.storage.conf_state();
        leader.raft.propose_conf_change(vec![], change).unwrap();
        self.until("the change is applied", |c| {
            let leader = c.nodes.values().find(|node| node.is_leader());
            leader.is_some_and(|leader| leader.storage.conf_state() != before)
        });
    }
}
