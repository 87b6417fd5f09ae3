//! The stream to one receiver in one lane.
//!
//! Invariants:
//! 1. Packets leave in the order in which they were taken; what is lost is lost from the middle
//!    of nothing: with a stream that breaks everything goes that was on it and behind it.
//! 2. What waits is bounded, in packets and bytes.
//! 3. After a failure nothing is taken for a while that grows with every further one, and the
//!    node is told: raft goes back to probing, and a snapshot's stream fails at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use raft_rocks::driver::{Lane, SendError};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::proto::Frame;
use crate::proto::peer_client::PeerClient;
use crate::transport::Shared;
use crate::{MESSAGE_BYTES_MAX, PROTOCOL, PROTOCOL_KEY};

/// Frames between this task and HTTP/2, which has windows of its own.
const HANDED_OVER: usize = 4;
/// How long a stream to who is no member is kept.
const ANSWERED: Duration = Duration::from_secs(5);
/// A stream that lasted this long counts as one that worked.
const WORKED: Duration = Duration::from_secs(10);

pub(crate) struct Link {
    queue: mpsc::Sender<Vec<u8>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    bytes: AtomicUsize,
    is_down: AtomicBool,
}

impl Link {
    /// Starts the task of a link.
    pub(crate) fn start(shared: &Arc<Shared>, endpoint: Endpoint, to: u64, lane: Lane) -> Self {
        let (queue, queued) = mpsc::channel(shared.options.packets_max);
        let state = Arc::<State>::default();
        // The driver's threads are none of the runtime's.
        let _entered = shared.runtime.enter();
        let task = Task {
            shared: Arc::clone(shared),
            channel: endpoint.connect_lazy(),
            state: Arc::clone(&state),
            address: endpoint.uri().to_string(),
            queued,
            to,
            lane,
        };
        shared.runtime.spawn(task.run());
        Link { queue, state }
    }

    /// Whether its task has ended, since nothing was to be sent.
    pub(crate) fn has_ended(&self) -> bool {
        self.queue.is_closed()
    }

    pub(crate) fn send(&self, packet: Vec<u8>, bytes_max: usize) -> Result<(), SendError> {
        if self.state.is_down.load(Ordering::Acquire) {
            return Err(SendError::Unreachable);
        }
        let len = packet.len();
        let waiting = self.state.bytes.fetch_add(len, Ordering::AcqRel);
        // One always fits.
        let sent = match waiting == 0 || waiting + len <= bytes_max {
            true => self.queue.try_send(packet).map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => SendError::Full,
                mpsc::error::TrySendError::Closed(_) => SendError::Unreachable,
            }),
            false => Err(SendError::Full),
        };
        if sent.is_err() {
            self.state.bytes.fetch_sub(len, Ordering::AcqRel);
        }
        sent
    }
}

impl State {
    /// A packet has left the queue.
    fn left(&self, packet: Option<&Vec<u8>>) {
        let len = packet.map_or(0, Vec::len);
        self.bytes.fetch_sub(len, Ordering::AcqRel);
    }
}

struct Task {
    shared: Arc<Shared>,
    channel: Channel,
    state: Arc<State>,
    address: String,
    queued: mpsc::Receiver<Vec<u8>>,
    to: u64,
    lane: Lane,
}

impl Task {
    async fn run(mut self) {
        let options = self.shared.options.clone();
        let mut pause = options.reconnect_min;
        while let Some(first) = self.next().await {
            let begun = Instant::now();
            let Err(why) = self.stream(first).await else {
                continue;
            };
            if begun.elapsed() > WORKED {
                pause = options.reconnect_min;
            }
            self.break_off(&why, pause).await;
            pause = (pause * 2).min(options.reconnect_max);
        }
    }

    /// The next packet; `None` when there is none for a while, or never again.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let idle = match self.to {
            // An answer to who is no member yet.
            0 => self.shared.options.idle.min(ANSWERED),
            _ => self.shared.options.idle,
        };
        let packet = tokio::time::timeout(idle, self.queued.recv()).await;
        let packet = packet.ok().flatten();
        self.state.left(packet.as_ref());
        packet
    }

    /// Sends until there is nothing more to be sent for a while.
    async fn stream(&mut self, first: Vec<u8>) -> Result<(), Status> {
        let (frames, stream) = mpsc::channel(HANDED_OVER);
        let mut client = PeerClient::new(self.channel.clone())
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(ReceiverStream::new(stream));
        let protocol = PROTOCOL.parse().map_err(|_| Status::internal("protocol"))?;
        request.metadata_mut().insert(PROTOCOL_KEY, protocol);
        let lane = self.lane;
        let call = async move {
            match lane {
                Lane::Messages => client.messages(request).await,
                Lane::Snapshots => client.snapshots(request).await,
            }
        };
        tokio::pin!(call);
        let mut next = Some(first);
        loop {
            let Some(packet) = next.take() else {
                // Nothing for a while: the stream ends, and the next packet begins another.
                drop(frames);
                return call.await.map(drop);
            };
            let permit = tokio::select! {
                ended = &mut call => return ended_early(ended.map(drop)),
                permit = frames.reserve() => permit,
            };
            match permit {
                Ok(permit) => permit.send(Frame {
                    packet: packet.into(),
                }),
                // The call says why.
                Err(_) => return ended_early(call.await.map(drop)),
            }
            next = tokio::select! {
                ended = &mut call => return ended_early(ended.map(drop)),
                packet = self.next() => packet,
            };
        }
    }

    async fn break_off(&mut self, why: &Status, pause: Duration) {
        log::info!(
            "the stream to node {} at {} broke off: {}: {}",
            self.to,
            self.address,
            why.code(),
            why.message()
        );
        self.state.is_down.store(true, Ordering::Release);
        // The stream of a snapshot notices by itself.
        if let Some(inbox) = self.shared.inbox()
            && self.to != 0
            && self.lane == Lane::Messages
        {
            inbox.unreachable(self.to);
        }
        // Not all at once, when it was the receiver that failed.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        // What was taken before the failure was seen is older than what raft sends now.
        while let Ok(packet) = self.queued.try_recv() {
            self.state.left(Some(&packet));
        }
        self.state.is_down.store(false, Ordering::Release);
    }
}

/// A receiver that ends the stream has no reason of its own to: it stops.
fn ended_early(ended: Result<(), Status>) -> Result<(), Status> {
    ended.and(Err(Status::unavailable("the receiver ended the stream")))
}
