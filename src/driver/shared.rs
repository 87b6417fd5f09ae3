//! What the threads of a node, its handles and its inbox share.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::book::{Book, NodeInfo};
use super::inbox::Refused;
use super::mailbox::Mailbox;
use super::options::NodeOptions;
use super::request::{Ask, Done, Ending, RequestError};
use super::transport::{Body, Frame, Packet, Reply, Request, RequestKey, SendError, Transport};

/// More than a cluster has members.
const HEARD_MAX: usize = 64;

/// Who leads, as a node knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader's id, 0 when none is known.
    pub leader: u64,
}

/// Who a node is: set once, when it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    pub info: NodeInfo,
    pub cluster_id: Vec<u8>,
    /// Where members are reached until the book says so.
    pub seeds: Vec<NodeInfo>,
}

/// How often something was dropped, since the node started.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    pub messages: AtomicU64,
    pub frames: AtomicU64,
    pub packets: AtomicU64,
    pub unsent: AtomicU64,
}

/// Room for a request, until it is answered.
#[derive(Clone)]
pub(crate) struct Permit {
    _held: Arc<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// Who waits for the end of a request.
pub(crate) enum Answerer {
    Local(oneshot::Sender<Ending>),
    Remote { to: NodeInfo, key: RequestKey },
}

/// A request handed on to another node.
pub(crate) struct Forwarded {
    /// Who must answer; 0: whoever was reached.
    pub to: u64,
    pub since_tick: u64,
    pub answer: Box<dyn FnOnce(Ending) + Send>,
}

/// Requests of others, the latest of them.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    known: HashSet<(u64, RequestKey)>,
    order: VecDeque<(u64, RequestKey)>,
}

impl Recent {
    /// More than a node has under way with another.
    const MAX: usize = 16 << 10;

    /// Whether this one was not among them.
    pub(crate) fn is_new(&mut self, from: u64, key: RequestKey) -> bool {
        if !self.known.insert((from, key)) {
            return false;
        }
        self.order.push_back((from, key));
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

pub(crate) struct Shared {
    pub options: NodeOptions,
    pub incarnation: u64,
    pub transport: Arc<dyn Transport>,
    pub mailbox: Mailbox,
    pub own: RwLock<Arc<Own>>,
    pub book: RwLock<Arc<Book>>,
    pub leadership: watch::Sender<Leadership>,
    /// Why the node stopped, when it has.
    pub stopped: watch::Sender<Option<Arc<str>>>,
    /// Every thread has ended and let go of the store.
    pub finished: watch::Sender<bool>,
    pub removed: AtomicBool,
    pub ticks: AtomicU64,
    pub counter: AtomicU64,
    pub forwarded: Mutex<HashMap<u64, Forwarded>>,
    pub recent: Mutex<Recent>,
    /// Frames for the thread that receives snapshots.
    pub inbound: Mutex<Option<mpsc::SyncSender<(u64, Frame)>>>,
    /// Frames for the threads that send them, by transfer.
    pub outbound: Mutex<HashMap<u64, mpsc::SyncSender<Frame>>>,
    /// Nodes that could not be sent to, and have not been heard of since.
    pub silent: Mutex<HashSet<u64>>,
    /// Nodes that send messages of raft, and are not in the book, or elsewhere by it.
    pub heard: Mutex<HashMap<u64, NodeInfo>>,
    /// Where nodes that left were reached, to tell them so.
    pub departed: Mutex<HashMap<u64, NodeInfo>>,
    /// Of packets, by sender and reason.
    pub refusals: Mutex<HashSet<(u64, Refused)>>,
    pub dropped: Dropped,
    counts: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(
        options: NodeOptions,
        incarnation: u64,
        transport: Arc<dyn Transport>,
    ) -> Arc<Self> {
        let room = |permits: usize| Arc::new(Semaphore::new(permits.min(u32::MAX as usize)));
        Arc::new(Shared {
            mailbox: Mailbox::new(options.messages_max, options.message_bytes_max),
            counts: room(options.requests_max),
            bytes: room(options.request_bytes_max),
            options,
            incarnation,
            transport,
            own: RwLock::default(),
            book: RwLock::default(),
            leadership: watch::channel(Leadership::default()).0,
            stopped: watch::channel(None).0,
            finished: watch::channel(false).0,
            removed: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            counter: AtomicU64::new(1),
            forwarded: Mutex::default(),
            recent: Mutex::default(),
            inbound: Mutex::default(),
            outbound: Mutex::default(),
            silent: Mutex::default(),
            heard: Mutex::default(),
            departed: Mutex::default(),
            refusals: Mutex::default(),
            dropped: Dropped::default(),
        })
    }

    pub(crate) fn own(&self) -> Arc<Own> {
        Arc::clone(&self.own.read())
    }

    pub(crate) fn id(&self) -> u64 {
        self.own.read().info.id
    }

    pub(crate) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.read())
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Takes the book of what is committed.
    pub(crate) fn set_book(&self, book: Book) {
        let old = std::mem::replace(&mut *self.book.write(), Arc::new(book));
        let new = self.book();
        let gone = old.nodes.iter().filter(|node| new.node(node.id).is_none());
        let mut departed = self.departed.lock();
        departed.extend(gone.map(|node| (node.id, node.clone())));
    }

    /// Where a node is reached, as far as this one knows.
    pub(crate) fn node(&self, id: u64) -> Option<NodeInfo> {
        let heard = self.heard.lock().get(&id).cloned();
        match (self.book.read().node(id), heard) {
            (Some(known), Some(heard)) if heard.store_id != known.store_id => {
                return Some(known.clone());
            }
            (_, Some(heard)) => return Some(heard),
            (Some(known), None) => return Some(known.clone()),
            (None, None) => {}
        }
        let own = self.own();
        own.seeds.iter().find(|node| node.id == id).cloned()
    }

    /// Remembers where a node is reached that is elsewhere by the book, or not in it: it has moved,
    /// or has come while this one was away, which hears of it only when it can answer.
    pub(crate) fn hear_of(&self, id: u64, address: String, store_id: Vec<u8>) {
        if let Some(known) = self.book.read().node(id)
            && known.address == address
        {
            self.heard.lock().remove(&id);
            return;
        }
        let mut heard = self.heard.lock();
        if heard.len() >= HEARD_MAX && !heard.contains_key(&id) {
            heard.clear();
        }
        let node = NodeInfo {
            id,
            address,
            store_id,
            ..NodeInfo::default()
        };
        heard.insert(id, node);
    }

    pub(crate) fn draw(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn send(&self, to: &NodeInfo, body: Body) -> Result<(), SendError> {
        let own = self.own();
        let packet = Packet {
            cluster_id: own.cluster_id.clone(),
            from: own.info.id,
            from_store: own.info.store_id.clone(),
            from_address: own.info.address.clone(),
            to: to.id,
            to_store: to.store_id.clone(),
            body,
        };
        let sent = self.transport.send(to, packet);
        if sent.is_err() {
            self.dropped.unsent.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// A node could not be sent to. What was asked of it may have arrived.
    pub(crate) fn miss(&self, id: u64) {
        self.silent.lock().insert(id);
        self.mailbox.unreachable(id);
        let asked: Vec<u64> = {
            let forwarded = self.forwarded.lock();
            let of_it = forwarded.iter().filter(|(_, of)| of.to == id);
            of_it.map(|(counter, _)| *counter).collect()
        };
        for counter in asked {
            self.settle_forwarded(counter, Err(RequestError::OutcomeUnknown));
        }
    }

    /// Hands a request to another node; `answer` is called once, with how it ended.
    pub(crate) fn forward(
        &self,
        to: &NodeInfo,
        ask: Ask,
        answer: impl FnOnce(Ending) + Send + 'static,
    ) {
        if self.silent.lock().contains(&to.id) {
            // A leader that has just gone: nothing is sent, so that it can be asked again.
            return answer(Err(RequestError::Dropped));
        }
        let counter = self.draw();
        let forwarded = Forwarded {
            to: to.id,
            since_tick: self.ticks.load(Ordering::Acquire),
            answer: Box::new(answer),
        };
        self.forwarded.lock().insert(counter, forwarded);
        let request = Request {
            key: RequestKey {
                incarnation: self.incarnation,
                counter,
            },
            reply_to: self.options.address.clone(),
            ask,
        };
        if self.send(to, Body::Request(request)).is_err() {
            self.settle_forwarded(counter, Err(RequestError::Dropped));
        }
        if self.stopped.borrow().is_some() {
            // Nobody counts the time any more.
            self.settle_forwarded(counter, Err(RequestError::OutcomeUnknown));
        }
    }

    pub(crate) fn settle_forwarded(&self, counter: u64, ending: Ending) {
        let forwarded = self.forwarded.lock().remove(&counter);
        if let Some(forwarded) = forwarded {
            (forwarded.answer)(ending);
        }
    }

    /// Gives up the requests handed on before `tick`.
    pub(crate) fn expire_forwarded(&self, tick: u64) {
        let expired: Vec<u64> = {
            let forwarded = self.forwarded.lock();
            let old = forwarded.iter().filter(|(_, of)| of.since_tick < tick);
            old.map(|(counter, _)| *counter).collect()
        };
        for counter in expired {
            self.settle_forwarded(counter, Err(RequestError::OutcomeUnknown));
        }
    }

    pub(crate) fn answer(&self, answerer: Answerer, ending: Ending) {
        match answerer {
            // Who waited may be gone.
            Answerer::Local(waiting) => drop(waiting.send(ending)),
            // The asker gives up by itself.
            Answerer::Remote { to, key } => {
                let ending = ending.map(Done::fit_to_send);
                let _ = self.send(&to, Body::Reply(Reply { key, ending }));
            }
        }
    }

    fn check_request(&self, bytes: usize) -> Result<u32, RequestError> {
        if self.stopped.borrow().is_some() {
            return Err(self.stopped_error());
        }
        let max = self.options.command_bytes_max;
        match u32::try_from(bytes) {
            Ok(permits) if bytes <= max => Ok(permits),
            _ => Err(RequestError::TooLarge { bytes, max }),
        }
    }

    /// Waits for room for a request.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Permit, RequestError> {
        let permits = self.check_request(bytes)?;
        let stopped = |_| self.stopped_error();
        let count = Arc::clone(&self.counts).acquire_owned().await;
        let count = count.map_err(stopped)?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(permits).await;
        let _held = Arc::new((count, bytes.map_err(stopped)?));
        Ok(Permit { _held })
    }

    /// Room for a request, if there is some.
    pub(crate) fn try_room(&self, bytes: usize) -> Result<Permit, RequestError> {
        let permits = self.check_request(bytes)?;
        let busy = |_| RequestError::Busy;
        let count = Arc::clone(&self.counts).try_acquire_owned();
        let count = count.map_err(busy)?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(permits);
        let _held = Arc::new((count, bytes.map_err(busy)?));
        Ok(Permit { _held })
    }

    pub(crate) fn requests(&self) -> usize {
        self.options
            .requests_max
            .saturating_sub(self.counts.available_permits())
    }

    pub(crate) fn stopped_error(&self) -> RequestError {
        let cause = self.stopped.borrow().clone();
        let cause = cause.unwrap_or_else(|| Arc::from("it was shut down"));
        RequestError::Stopped { cause }
    }

    /// The node has stopped: whoever waits learns that, and whoever comes later why.
    pub(crate) fn stop(&self, cause: Arc<str>) {
        self.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            stopped.get_or_insert(cause);
            first
        });
        self.counts.close();
        self.bytes.close();
        self.mailbox.close();
        self.inbound.lock().take();
        self.outbound.lock().clear();
        self.expire_forwarded(u64::MAX);
    }
}

/// The time of a clock that counts while the machine sleeps or the process is paused.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn clock() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => Duration::from(time),
        Err(_) => fallback_clock(),
    }
}

/// The time of a clock that counts while the machine sleeps, where the system has one.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn clock() -> Duration {
    fallback_clock()
}

fn fallback_clock() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
