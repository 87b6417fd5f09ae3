//! One simulated node: what runs, and what is left of it while it does not.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::machine::{OwnDisk, Registers};
use super::network::Time;
use super::store::SimStore;
use crate::driver::{
    Applier, Committed, Durability, Peer, PeerOptions, RequestId, Result, SnapshotJob, Writes,
};

pub(crate) const TICK: Time = 10_000;
pub(crate) const ELECTION_TICKS: usize = 10;
/// Of a true tick: how far clocks may go wrong.
pub(crate) const CLOCK_PERCENT_MIN: u64 = 80;
pub(crate) const CLOCK_PERCENT_MAX: u64 = 125;
/// What must not keep a node from ticking: a disk, a machine, that takes this long once.
pub(crate) const LONG_SYNC: Time = 500_000;
pub(crate) const LONG_APPLY: Time = 1_000_000;

/// Reported by the log, not yet told to the peer.
type Persisted = Arc<Mutex<VecDeque<(u64, crate::Result<()>)>>>;

pub(crate) enum ToApply {
    Restore,
    Committed(Committed),
}

/// A node while it runs.
pub(crate) struct Running<S: SimStore> {
    pub peer: Peer<S>,
    pub applier: Applier<S, Registers>,
    pub persisted: Persisted,
    pub to_apply: VecDeque<ToApply>,
    pub is_applying: bool,
    pub is_syncing: bool,
    pub snapshot: Option<SnapshotJob>,
    /// Requests of clients: which of which.
    pub requests: HashMap<RequestId, usize>,
    /// What the log was when it was last looked at: its terms.
    pub terms: BTreeMap<u64, u64>,
    /// The first index of its log when it was last looked at.
    pub first_index: u64,
    /// The term in which it was last seen leading.
    pub led_term: u64,
    pub applied_max: u64,
    /// Of its last tick, or of its start.
    pub ticked: Time,
}

/// A node, running or not.
pub(crate) struct Node<S: SimStore> {
    pub id: u64,
    pub running: Option<Running<S>>,
    /// What is left while it is down.
    pub store: Option<S>,
    pub disk: OwnDisk,
    /// Counts its starts: events of an earlier one are void.
    pub start: u64,
    pub tick: Time,
    pub paused_until: Time,
    pub slow_disk_until: Time,
    pub slow_machine_until: Time,
    /// The next sync takes [`LONG_SYNC`], the next step of the machine [`LONG_APPLY`].
    pub long_sync: bool,
    pub long_apply: bool,
    pub disk_failed: bool,
    /// It has left, and has seen it.
    pub removed: bool,
    /// Index and term of every entry its log ever held.
    pub written: HashSet<(u64, u64)>,
}

impl<S: SimStore> Node<S> {
    pub(crate) fn new(id: u64, store: S) -> Self {
        Node {
            id,
            running: None,
            store: Some(store),
            disk: OwnDisk::default(),
            start: 0,
            tick: TICK,
            paused_until: 0,
            slow_disk_until: 0,
            slow_machine_until: 0,
            long_sync: false,
            long_apply: false,
            disk_failed: false,
            removed: false,
            written: HashSet::new(),
        }
    }

    pub(crate) fn options(&self, seed: u64, lease: bool) -> PeerOptions {
        let mut options = PeerOptions::new(self.id);
        options.incarnation = self.start;
        options.election_seed = Some(seed);
        options.election_ticks = ELECTION_TICKS;
        options.heartbeat_ticks = 2;
        options.message_bytes_max = 256;
        options.inflight_max = 8;
        options.committed_bytes_max = 512;
        options.promote_lag_max = 4;
        options.request_ticks = 100;
        // As long as may be: a follower's promise lasts a tick less than an election timeout, of a
        // clock that is fast by a fifth at most.
        let promised = (ELECTION_TICKS as u64 - 1) * TICK * CLOCK_PERCENT_MIN / 100;
        let lease = lease.then(|| std::time::Duration::from_micros(promised - TICK / 10));
        options.lease = lease;
        options
    }

    pub(crate) fn machine(&self, durability: Durability, store: &S) -> Result<Registers> {
        let (family, key) = Registers::place();
        let shared = match durability {
            Durability::Shared => store.get(family, key)?,
            _ => None,
        };
        let store = store.clone();
        let write_shared = Box::new(move |writes: &Writes| store.write(writes));
        Ok(Registers::open(
            durability,
            &self.disk,
            shared,
            write_shared,
        ))
    }

    /// Starts on what its store has.
    pub(crate) fn start(
        &mut self,
        durability: Durability,
        seed: u64,
        lease: bool,
        now: Time,
    ) -> Result<()> {
        let Some(store) = self.store.take() else {
            return Ok(());
        };
        self.start += 1;
        self.disk_failed = false;
        let machine = self.machine(durability, &store)?;
        let applier = Applier::open(store.clone(), machine)?;
        let persisted = Persisted::default();
        let reports = Arc::clone(&persisted);
        let peer = Peer::new(
            self.options(seed, lease),
            store,
            applier.applied(),
            applier.book().clone(),
            Arc::new(move |number, result| reports.lock().push_back((number, result))),
        )?;
        self.running = Some(Running {
            peer,
            applier,
            persisted,
            to_apply: VecDeque::new(),
            is_applying: false,
            is_syncing: false,
            snapshot: None,
            requests: HashMap::new(),
            terms: BTreeMap::new(),
            first_index: 0,
            led_term: 0,
            applied_max: 0,
            ticked: now,
        });
        Ok(())
    }

    /// The process is gone; of what was not durable `kept` writes survive.
    pub(crate) fn crash(&mut self, kept: usize) -> std::io::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let store = running.peer.store().clone();
        self.paused_until = 0;
        drop(running);
        self.store = Some(store.after_crash(kept)?);
        Ok(())
    }

    pub(crate) fn log(&self) -> Option<&S> {
        let running = self.running.as_ref();
        running
            .map(|running| running.peer.store())
            .or(self.store.as_ref())
    }
}
