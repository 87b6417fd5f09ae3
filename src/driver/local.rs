//! A network within one process, with faults: for tests, and for examples.
//!
//! Invariants:
//! 1. Without faults, packets of one sender to one receiver arrive in the order of their lane.
//! 2. Every sender has a bounded queue to every receiver and lane: nobody waits for another.
//! 3. What happens to a packet follows from the seed and the order of the sends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::book::NodeInfo;
use super::inbox::Inbox;
use super::transport::{Lane, Packet, SendError, Transport};

/// Packets that one sender may have on their way to one receiver, per lane.
const QUEUE_MAX: usize = 1024;

/// What is done to packets. Probabilities are in thousandths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Lost.
    pub drop: u32,
    /// Delivered twice.
    pub duplicate: u32,
    /// Delivered without regard to those sent before.
    pub reorder: u32,
    /// On their way for at least this long.
    pub delay: Duration,
    /// And for up to this much longer.
    pub jitter: Duration,
}

/// What has happened to packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Handed to a receiver.
    pub delivered: u64,
    /// Lost by [`Faults::drop`].
    pub dropped: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Taken out of their order.
    pub reordered: u64,
    /// Lost because the way was cut.
    pub cut: u64,
    /// Refused because the queue was full.
    pub full: u64,
}

/// A network within one process. A clone is another handle.
#[derive(Clone)]
pub struct LocalNetwork {
    wire: Arc<Wire>,
    /// Ends the thread that delivers, with the last handle and endpoint.
    _alive: Arc<Alive>,
}

struct Alive(Arc<Wire>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.state.lock().over = true;
        self.0.wake.notify_one();
    }
}

struct Wire {
    state: Mutex<State>,
    wake: Condvar,
}

type Way = (String, String);

struct State {
    inboxes: HashMap<String, Inbox>,
    cuts: HashSet<(Way, Lane)>,
    faults: Faults,
    traffic: Traffic,
    random: u64,
    sequence: u64,
    underway: BinaryHeap<Reverse<(Instant, u64)>>,
    packets: HashMap<u64, Underway>,
    /// How many are on their way, and when the last one arrives.
    queues: BTreeMap<(Way, Lane), (usize, Instant)>,
    over: bool,
}

struct Underway {
    way: Way,
    lane: Lane,
    bytes: Vec<u8>,
}

impl LocalNetwork {
    /// A network whose faults follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            inboxes: HashMap::new(),
            cuts: HashSet::new(),
            faults: Faults::default(),
            traffic: Traffic::default(),
            random: seed,
            sequence: 0,
            underway: BinaryHeap::new(),
            packets: HashMap::new(),
            queues: BTreeMap::new(),
            over: false,
        };
        let wire = Arc::new(Wire {
            state: Mutex::new(state),
            wake: Condvar::new(),
        });
        let delivery = Arc::clone(&wire);
        let thread = std::thread::Builder::new().name("local-network".to_owned());
        if let Err(e) = thread.spawn(move || delivery.deliver()) {
            log::error!("the local network has no thread, and delivers nothing: {e}");
        }
        let _alive = Arc::new(Alive(Arc::clone(&wire)));
        LocalNetwork { wire, _alive }
    }

    /// The transport of the node that is reached at `address`.
    pub fn endpoint(&self, address: impl Into<String>) -> Arc<dyn Transport> {
        let (network, address) = (self.clone(), address.into());
        Arc::new(Endpoint { network, address })
    }

    /// Delivers what is sent to `address` here, from now on.
    pub fn listen(&self, address: impl Into<String>, inbox: Inbox) {
        let mut state = self.wire.state.lock();
        state.inboxes.insert(address.into(), inbox);
    }

    /// What is done to packets from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.wire.state.lock().faults = faults;
    }

    /// Loses what is sent from one address to the other, not the other way round.
    pub fn cut(&self, from: &str, to: &str) {
        for lane in [Lane::Messages, Lane::Snapshots] {
            self.cut_lane(from, to, lane);
        }
    }

    /// Loses what is sent from one address to the other in one lane.
    pub fn cut_lane(&self, from: &str, to: &str, lane: Lane) {
        let way = (from.to_owned(), to.to_owned());
        self.wire.state.lock().cuts.insert((way, lane));
    }

    /// Cuts an address off from all others, both ways.
    pub fn isolate(&self, address: &str) {
        let others: Vec<String> = self.wire.state.lock().inboxes.keys().cloned().collect();
        for other in others.iter().filter(|other| *other != address) {
            self.cut(address, other);
            self.cut(other, address);
        }
    }

    /// Joins everything again.
    pub fn heal(&self) {
        self.wire.state.lock().cuts.clear();
    }

    /// What has happened so far.
    pub fn traffic(&self) -> Traffic {
        self.wire.state.lock().traffic
    }
}

struct Endpoint {
    network: LocalNetwork,
    address: String,
}

impl Transport for Endpoint {
    fn send(&self, to: &NodeInfo, packet: Packet) -> Result<(), SendError> {
        let lane = packet.lane();
        let way = (self.address.clone(), to.address.clone());
        let bytes = packet.encode().map_err(|e| {
            log::warn!("a packet cannot be sent: {e}");
            SendError::Full
        })?;
        let mut state = self.network.wire.state.lock();
        let sent = state.send(way, lane, bytes);
        drop(state);
        self.network.wire.wake.notify_one();
        sent
    }
}

impl State {
    /// A number below `below`, by splitmix64.
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.draw(1000) < u64::from(thousandths)
    }

    fn send(&mut self, way: Way, lane: Lane, bytes: Vec<u8>) -> Result<(), SendError> {
        let way = (way, lane);
        if self.cuts.contains(&way) {
            self.traffic.cut += 1;
            return Ok(());
        }
        let (way, lane) = way;
        if !self.inboxes.get(&way.1).is_some_and(Inbox::is_open) {
            return Err(SendError::Unreachable);
        }
        let faults = self.faults.clone();
        if self.happens(faults.drop) {
            self.traffic.dropped += 1;
            return Ok(());
        }
        if self.happens(faults.duplicate) {
            self.traffic.duplicated += 1;
            self.put(way.clone(), lane, bytes.clone(), &faults)?;
        }
        self.put(way, lane, bytes, &faults)
    }

    fn put(
        &mut self,
        way: Way,
        lane: Lane,
        bytes: Vec<u8>,
        faults: &Faults,
    ) -> Result<(), SendError> {
        let now = Instant::now();
        let jitter = u64::try_from(faults.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(self.draw(jitter.saturating_add(1)));
        let mut due = now + faults.delay + jitter;
        let reordered = self.happens(faults.reorder);
        let (waiting, last) = self.queues.entry((way.clone(), lane)).or_insert((0, now));
        if *waiting >= QUEUE_MAX {
            self.traffic.full += 1;
            return Err(SendError::Full);
        }
        *waiting += 1;
        if reordered {
            self.traffic.reordered += 1;
        } else {
            due = due.max(*last);
            *last = due;
        }
        self.sequence += 1;
        self.underway.push(Reverse((due, self.sequence)));
        let underway = Underway { way, lane, bytes };
        self.packets.insert(self.sequence, underway);
        Ok(())
    }

    /// The next packet that is due, or when that will be.
    fn next(&mut self, now: Instant) -> Result<Underway, Option<Instant>> {
        let Some(Reverse((due, sequence))) = self.underway.peek().copied() else {
            return Err(None);
        };
        if due > now {
            return Err(Some(due));
        }
        self.underway.pop();
        let underway = self.packets.remove(&sequence).ok_or(Some(now))?;
        let queue = (underway.way.clone(), underway.lane);
        if let Some((waiting, _)) = self.queues.get_mut(&queue) {
            *waiting -= 1;
        }
        Ok(underway)
    }
}

impl Wire {
    fn deliver(&self) {
        let mut state = self.state.lock();
        while !state.over {
            match state.next(Instant::now()) {
                Err(None) => self.wake.wait(&mut state),
                Err(Some(due)) => drop(self.wake.wait_until(&mut state, due)),
                Ok(Underway { way, lane, bytes }) => {
                    let inbox = state.inboxes.get(&way.1).cloned();
                    if state.cuts.contains(&(way, lane)) {
                        state.traffic.cut += 1;
                        continue;
                    }
                    state.traffic.delivered += 1;
                    drop(state);
                    hand_in(inbox, &bytes);
                    state = self.state.lock();
                }
            }
        }
    }
}

/// Outside of the lock: who receives may send.
fn hand_in(inbox: Option<Inbox>, bytes: &[u8]) {
    match (inbox, Packet::decode(bytes)) {
        // The node has logged it.
        (Some(inbox), Ok(packet)) => drop(inbox.receive(packet)),
        (None, _) => {}
        (_, Err(e)) => log::warn!("a packet was lost: {e}"),
    }
}
