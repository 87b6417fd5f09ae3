//! The threads that send and receive snapshots.

use std::collections::HashMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft::eraftpb::Message;

use super::book::NodeInfo;
use super::log_store::LogStore;
use super::mailbox::Event;
use super::shared::Shared;
use super::transfer::{Incoming, Outgoing, Patience, Todo};
use super::transport::{Body, Frame, SendError};
use super::wire;
use crate::snapshot::SnapshotReference;

/// Frames that wait for a thread; with what is on its way this bounds the memory of a stream.
const FRAMES_MAX: usize = 32;
/// How long a full queue of the transport is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The outgoing streams, one per receiver.
pub(crate) struct Streams<S> {
    store: S,
    shared: Arc<Shared>,
    running: HashMap<u64, Running>,
}

struct Running {
    transfer: u64,
    thread: JoinHandle<()>,
}

impl<S: LogStore> Streams<S> {
    pub(crate) fn new(store: S, shared: Arc<Shared>) -> Self {
        Streams {
            store,
            shared,
            running: HashMap::new(),
        }
    }

    /// Starts to stream the snapshot that a message is about; `false` when it cannot be started.
    /// Otherwise [`Event::Streamed`] says how it ended, once.
    pub(crate) fn start(&mut self, message: Message) -> bool {
        let to = message.to;
        if self.running.contains_key(&to) {
            return false;
        }
        let Some(node) = self.shared.node(to) else {
            return false;
        };
        // Another start of this node draws others.
        let transfer = self.shared.incarnation.wrapping_add(self.shared.draw());
        let (frames, received) = mpsc::sync_channel(FRAMES_MAX);
        self.shared.outbound.lock().insert(transfer, frames);
        let (store, shared) = (self.store.clone(), Arc::clone(&self.shared));
        let thread = std::thread::Builder::new().name("raft-stream".to_owned());
        let thread = thread.spawn(move || {
            let stream = || {
                Stream::open(&store, &shared, node, &message, transfer)
                    .and_then(|mut stream| stream.run(&received))
            };
            let streamed = catch_unwind(AssertUnwindSafe(stream));
            let panicked = |_| Err(io::Error::other("it panicked"));
            let streamed = streamed.unwrap_or_else(panicked);
            if let Err(e) = &streamed {
                log::info!("the stream of a snapshot to node {to} ended: {e}");
            }
            shared.outbound.lock().remove(&transfer);
            drop(store);
            let ok = streamed.is_ok();
            shared.mailbox.tell(Event::Streamed { to, ok });
        });
        match thread {
            Ok(thread) => self.running.insert(to, Running { transfer, thread }),
            Err(e) => {
                log::warn!("no thread to stream a snapshot: {e}");
                self.shared.outbound.lock().remove(&transfer);
                return false;
            }
        };
        true
    }

    pub(crate) fn ended(&mut self, to: u64) {
        if let Some(running) = self.running.remove(&to) {
            // It has said so as its last act.
            drop(running.thread.join());
        }
    }

    /// Breaks all streams off and waits for their threads.
    pub(crate) fn stop(&mut self) {
        for (_, running) in self.running.drain() {
            self.shared.outbound.lock().remove(&running.transfer);
            drop(running.thread.join());
        }
    }
}

/// One outgoing stream.
struct Stream<'a, S: LogStore> {
    store: &'a S,
    shared: &'a Shared,
    node: NodeInfo,
    transfer: u64,
    message: Vec<u8>,
    index: u64,
    reader: S::Reader,
    position: u64,
    /// The chunk read last: the transport may not have taken it.
    chunk: (u64, Vec<u8>),
    outgoing: Outgoing,
    started: Instant,
}

impl<'a, S: LogStore> Stream<'a, S> {
    fn open(
        store: &'a S,
        shared: &'a Shared,
        node: NodeInfo,
        message: &Message,
        transfer: u64,
    ) -> io::Result<Self> {
        let index = message.get_snapshot().get_metadata().index;
        let reference = SnapshotReference::from_bytes(&message.get_snapshot().data);
        let total = reference.map_err(io::Error::other)?.data_bytes;
        let deadline = shared.options.snapshot_patience;
        let patience = Patience {
            deadline,
            retry: (deadline / 10).min(Duration::from_secs(1)),
        };
        Ok(Stream {
            store,
            shared,
            node,
            transfer,
            message: wire::message_bytes(message).map_err(io::Error::other)?,
            index,
            reader: open_at(store, index)?,
            position: 0,
            chunk: (0, Vec::new()),
            outgoing: Outgoing::new(transfer, total, patience, Duration::ZERO),
            started: Instant::now(),
        })
    }

    fn run(&mut self, frames: &mpsc::Receiver<Frame>) -> io::Result<()> {
        loop {
            let pause = match self.outgoing.todo(self.started.elapsed()) {
                Todo::GiveUp => return Err(io::Error::other("nothing moved for too long")),
                Todo::Wait(pause) => pause,
                Todo::Offer => self.offer()?,
                Todo::Send { offset, len } => self.send_chunk(offset, len)?,
            };
            let frame = match frames.recv_timeout(pause) {
                Ok(frame) => frame,
                Err(mpsc::RecvTimeoutError::Timeout) => continue,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the node stops"));
                }
            };
            match self.outgoing.on_frame(&frame, self.started.elapsed()) {
                None => {}
                Some(true) => return Ok(()),
                Some(false) => return Err(io::Error::other("the receiver refused it")),
            }
        }
    }

    fn offer(&mut self) -> io::Result<Duration> {
        let (transfer, message) = (self.transfer, self.message.clone());
        let sent = self.send(Frame::Begin { transfer, message })?;
        if sent {
            self.outgoing.offered(self.started.elapsed());
        }
        Ok(pause_after(sent))
    }

    fn send_chunk(&mut self, offset: u64, len: u64) -> io::Result<Duration> {
        let len_in_memory = usize::try_from(len).map_err(io::Error::other)?;
        if (self.chunk.0, self.chunk.1.len()) != (offset, len_in_memory) {
            self.seek(offset)?;
            self.chunk = (offset, vec![0; len_in_memory]);
            self.reader.read_exact(&mut self.chunk.1)?;
            self.position += len;
        }
        let sent = self.send(Frame::Chunk {
            transfer: self.transfer,
            offset,
            crc: crc32c::crc32c(&self.chunk.1),
            data: self.chunk.1.clone(),
        })?;
        if sent {
            self.outgoing.sent(len);
        }
        Ok(pause_after(sent))
    }

    fn seek(&mut self, offset: u64) -> io::Result<()> {
        if offset < self.position {
            self.reader = open_at(self.store, self.index)?;
            self.position = 0;
        }
        let skip = offset - self.position;
        let skipped = io::copy(&mut (&mut self.reader).take(skip), &mut io::sink())?;
        self.position += skipped;
        match skipped == skip {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Whether the transport took it.
    fn send(&self, frame: Frame) -> io::Result<bool> {
        match self.shared.send(&self.node, Body::Snapshot(frame)) {
            Ok(()) => Ok(true),
            Err(SendError::Full) => Ok(false),
            Err(SendError::Unreachable) => Err(io::ErrorKind::HostUnreachable.into()),
        }
    }
}

fn pause_after(sent: bool) -> Duration {
    match sent {
        true => Duration::ZERO,
        false => FULL_PAUSE,
    }
}

/// The stored snapshot, if it is still the one that was promised.
fn open_at<S: LogStore>(store: &S, index: u64) -> io::Result<S::Reader> {
    match store.open_snapshot().map_err(io::Error::other)? {
        Some((at, reader)) if at == index => Ok(reader),
        _ => Err(io::Error::other(
            "the stored snapshot is another one by now",
        )),
    }
}

/// A snapshot that has arrived, for the raft thread.
pub(crate) type Arrived<S> = Mutex<Option<(Message, <S as LogStore>::Staged)>>;

/// Where frames for [`receive`] come in; it ends when the node stops.
pub(crate) fn accept_frames(shared: &Shared) -> mpsc::Receiver<(u64, Frame)> {
    let (frames, received) = mpsc::sync_channel(FRAMES_MAX);
    *shared.inbound.lock() = Some(frames);
    received
}

/// Receives snapshots, until no more frames come.
pub(crate) fn receive<S: LogStore>(
    store: S,
    frames: mpsc::Receiver<(u64, Frame)>,
    shared: &Shared,
    arrived: &Arrived<S>,
) {
    let mut incoming = Incoming::new(store, shared.options.snapshot_bytes_max);
    for (from, frame) in frames {
        let received = incoming.on_frame(from, frame);
        if let Some(whole) = received.whole {
            *arrived.lock() = Some(whole);
            shared.mailbox.tell(Event::Arrived);
        }
        if let (Some(reply), Some(node)) = (received.reply, shared.node(from)) {
            // The sender asks again.
            let _ = shared.send(&node, Body::Snapshot(reply));
        }
    }
}
