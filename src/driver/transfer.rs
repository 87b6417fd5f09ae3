//! The stream of one snapshot, on either side: no threads, no clock, no sockets.
//!
//! ```text
//! sender    Begin(message) ............ Chunk Chunk Chunk ................. Chunk
//! receiver  ............... Resume(n) ........... Ack ... Ack ... Ack ........... Done(ok)
//! ```
//!
//! Invariants:
//! 1. A snapshot is handed on only when every byte has arrived in order and the checksum that
//!    raft's message names is that of the whole.
//! 2. What has arrived stays when the stream breaks; the next offer of the same snapshot, by
//!    whomever, goes on from there.
//! 3. A stream ends when nothing has moved for a while, never because it takes long.
//! 4. Neither side holds more than the window in memory.

use std::io::Write;
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};

use super::log_store::LogStore;
use super::transport::Frame;
use super::wire;
use crate::snapshot::SnapshotReference;

/// Bytes of data in one frame.
pub(crate) const CHUNK_BYTES: u64 = 256 << 10;
/// Chunks on their way at once.
const WINDOW_BYTES: u64 = 8 * CHUNK_BYTES;

/// How long a stream may stand still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// After this the stream has failed.
    pub deadline: Duration,
    /// After this it is offered again.
    pub retry: Duration,
}

/// The sender's side.
#[derive(Debug)]
pub(crate) struct Outgoing {
    transfer: u64,
    total: u64,
    /// Where the receiver wants the data from; `None` until it has said so.
    sent: Option<u64>,
    acked: u64,
    patience: Patience,
    progress_at: Duration,
    offered_at: Option<Duration>,
}

/// What the sender is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    Offer,
    Send { offset: u64, len: u64 },
    Wait(Duration),
    GiveUp,
}

impl Outgoing {
    pub(crate) fn new(transfer: u64, total: u64, patience: Patience, now: Duration) -> Self {
        Outgoing {
            transfer,
            total,
            sent: None,
            acked: 0,
            patience,
            progress_at: now,
            offered_at: None,
        }
    }

    pub(crate) fn todo(&self, now: Duration) -> Todo {
        if now >= self.progress_at + self.patience.deadline {
            return Todo::GiveUp;
        }
        let retry_at = match self.offered_at {
            None => return Todo::Offer,
            Some(offered_at) => offered_at.max(self.progress_at) + self.patience.retry,
        };
        if let Some(offset) = self.sent
            && offset < self.total
            && offset < self.acked + WINDOW_BYTES
        {
            let len = CHUNK_BYTES.min(self.total - offset);
            return Todo::Send { offset, len };
        }
        match now >= retry_at {
            true => Todo::Offer,
            false => Todo::Wait(retry_at - now),
        }
    }

    pub(crate) fn offered(&mut self, now: Duration) {
        self.offered_at = Some(now);
    }

    pub(crate) fn sent(&mut self, len: u64) {
        self.sent = self.sent.map(|sent| sent + len);
    }

    /// Takes what the receiver says; how the stream ended, when it did.
    pub(crate) fn on_frame(&mut self, frame: &Frame, now: Duration) -> Option<bool> {
        if frame.transfer() != self.transfer {
            return None;
        }
        match frame {
            Frame::Resume { offset, .. } if *offset <= self.total => {
                // Raft's own patience is not worn out by a receiver that says the same for ever.
                if self.sent.is_none() || *offset > self.acked {
                    self.progress_at = now;
                }
                self.sent = Some(*offset);
                self.acked = *offset;
            }
            Frame::Ack { offset, .. } if *offset > self.acked && *offset <= self.total => {
                self.acked = *offset;
                self.sent = self.sent.map(|sent| sent.max(*offset));
                self.progress_at = now;
            }
            Frame::Done { ok, .. } => return Some(*ok),
            _ => {}
        }
        None
    }
}

/// The receiver's side: one snapshot at a time.
pub(crate) struct Incoming<S: LogStore> {
    store: S,
    bytes_max: u64,
    partial: Option<Partial<S::Writer>>,
    /// What the last finished stream was told, for a sender that has not heard it.
    last: Option<(u64, bool)>,
}

/// What has arrived of a snapshot.
struct Partial<W> {
    transfer: u64,
    message: Message,
    reference: SnapshotReference,
    writer: W,
    offset: u64,
    crc: u32,
    /// Where the sender was last told to go back to.
    gap_at: Option<u64>,
}

/// What comes of a frame.
pub(crate) struct Received<S: LogStore> {
    pub reply: Option<Frame>,
    /// A snapshot is whole, and durable.
    pub whole: Option<(Message, S::Staged)>,
}

impl<S: LogStore> Received<S> {
    fn reply(reply: Option<Frame>) -> Self {
        let whole = None;
        Received { reply, whole }
    }
}

impl<S: LogStore> Incoming<S> {
    pub(crate) fn new(store: S, bytes_max: u64) -> Self {
        Incoming {
            store,
            bytes_max,
            partial: None,
            last: None,
        }
    }

    pub(crate) fn on_frame(&mut self, from: u64, frame: Frame) -> Received<S> {
        match frame {
            Frame::Begin { transfer, message } => self.begin(from, transfer, &message),
            Frame::Chunk {
                transfer,
                offset,
                crc,
                data,
            } => self.chunk(transfer, offset, crc, &data),
            // For a sender.
            Frame::Resume { .. } | Frame::Ack { .. } | Frame::Done { .. } => Received::reply(None),
        }
    }

    fn begin(&mut self, from: u64, transfer: u64, message: &[u8]) -> Received<S> {
        if let Some((last, ok)) = self.last
            && last == transfer
        {
            return Received::reply(Some(Frame::Done { transfer, ok }));
        }
        match self.take_offer(from, transfer, message) {
            Ok(()) => self.finish_or(|partial| Frame::Resume {
                transfer,
                offset: partial.offset,
            }),
            Err(why) => {
                log::warn!("a snapshot offered by node {from} is refused: {why}");
                let ok = false;
                Received::reply(Some(Frame::Done { transfer, ok }))
            }
        }
    }

    fn take_offer(&mut self, from: u64, transfer: u64, message: &[u8]) -> Result<(), String> {
        let message = wire::message_from(message).map_err(|e| e.to_string())?;
        let metadata = message.get_snapshot().get_metadata().clone();
        if message.get_msg_type() != MessageType::MsgSnapshot || message.from != from {
            return Err("its message is none of a snapshot of the sender's".to_owned());
        }
        let reference = SnapshotReference::from_bytes(&message.get_snapshot().data)
            .map_err(|e| e.to_string())?;
        if (reference.index, reference.term) != (metadata.index, metadata.term) {
            return Err("its message contradicts itself".to_owned());
        }
        if reference.data_bytes > self.bytes_max {
            let (len, max) = (reference.data_bytes, self.bytes_max);
            return Err(format!("{len} bytes are declared, {max} are allowed"));
        }
        if let Some(partial) = &mut self.partial {
            if message.term < partial.message.term {
                return Err("another one, of a later term, is on its way".to_owned());
            }
            if partial.reference == reference {
                (partial.transfer, partial.message) = (transfer, message);
                partial.gap_at = None;
                return Ok(());
            }
        }
        // Its room is free again before the next one takes any.
        self.partial = None;
        let conf_state = metadata.get_conf_state();
        let writer = self
            .store
            .stage_snapshot(metadata.index, metadata.term, conf_state)
            .map_err(|e| e.to_string())?;
        self.partial = Some(Partial {
            transfer,
            message,
            reference,
            writer,
            offset: 0,
            crc: 0,
            gap_at: None,
        });
        Ok(())
    }

    fn chunk(&mut self, transfer: u64, offset: u64, crc: u32, data: &[u8]) -> Received<S> {
        let partial = self.partial.as_mut();
        let Some(partial) = partial.filter(|partial| partial.transfer == transfer) else {
            return Received::reply(None);
        };
        let expected = partial.offset;
        let end = offset.saturating_add(data.len() as u64);
        let whole = crc32c::crc32c(data) == crc && end <= partial.reference.data_bytes;
        if offset < expected {
            // Again; the answer may have been lost.
            let offset = expected;
            return Received::reply(Some(Frame::Ack { transfer, offset }));
        }
        if offset > expected || !whole {
            let told = partial.gap_at.replace(expected) == Some(expected);
            let resume = Frame::Resume {
                transfer,
                offset: expected,
            };
            return Received::reply((!told).then_some(resume));
        }
        if let Err(e) = partial.writer.write_all(data) {
            log::warn!("a snapshot cannot be received: {e}");
            return self.end(transfer, false);
        }
        partial.offset = end;
        partial.crc = crc32c::crc32c_append(partial.crc, data);
        self.finish_or(|partial| Frame::Ack {
            transfer,
            offset: partial.offset,
        })
    }

    /// Hands the snapshot on when it is whole.
    fn finish_or(&mut self, answer: impl FnOnce(&Partial<S::Writer>) -> Frame) -> Received<S> {
        let is_whole =
            |partial: &mut Partial<S::Writer>| partial.offset == partial.reference.data_bytes;
        let Some(partial) = self.partial.take_if(is_whole) else {
            return Received::reply(self.partial.as_ref().map(answer));
        };
        let transfer = partial.transfer;
        if partial.crc != partial.reference.data_crc {
            log::warn!("a received snapshot has not the checksum it was announced with");
            return self.end(transfer, false);
        }
        match self.store.finish_snapshot(partial.writer) {
            Ok(staged) => Received {
                whole: Some((partial.message, staged)),
                ..self.end(transfer, true)
            },
            Err(e) => {
                log::warn!("a received snapshot cannot be kept: {e}");
                self.end(transfer, false)
            }
        }
    }

    fn end(&mut self, transfer: u64, ok: bool) -> Received<S> {
        self.partial = None;
        self.last = Some((transfer, ok));
        Received::reply(Some(Frame::Done { transfer, ok }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::memory_log::MemoryLog;

    const PATIENCE: Patience = Patience {
        deadline: Duration::from_secs(30),
        retry: Duration::from_secs(1),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn data(len: u64) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    /// As raft makes it: the data's length and checksum stand in the message.
    fn offer(data: &[u8], term: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (1, 2, term);
        let reference = SnapshotReference {
            index: 10,
            term: 3,
            data_bytes: data.len() as u64,
            data_crc: crc32c::crc32c(data),
        };
        let snapshot = message.mut_snapshot();
        snapshot.data = reference.to_bytes().into();
        snapshot.mut_metadata().index = 10;
        snapshot.mut_metadata().term = 3;
        message
    }

    fn begin(transfer: u64, message: &Message) -> Frame {
        let message = wire::message_bytes(message).unwrap();
        Frame::Begin { transfer, message }
    }

    fn chunk_of(data: &[u8], transfer: u64, offset: u64, len: u64) -> Frame {
        let data = data[offset as usize..(offset + len) as usize].to_vec();
        Frame::Chunk {
            transfer,
            offset,
            crc: crc32c::crc32c(&data),
            data,
        }
    }

    fn incoming() -> Incoming<MemoryLog> {
        Incoming::new(MemoryLog::new([2; 16]), 1 << 30)
    }

    /// Runs a stream, losing the frames that `lost` says so of; how many seconds it took.
    fn stream(
        incoming: &mut Incoming<MemoryLog>,
        transfer: u64,
        data: &[u8],
        mut lost: impl FnMut(&Frame) -> bool,
    ) -> (bool, u64) {
        let message = offer(data, 5);
        let mut outgoing = Outgoing::new(transfer, data.len() as u64, PATIENCE, at(0));
        let mut seconds = 0;
        loop {
            let frame = match outgoing.todo(at(seconds)) {
                Todo::Offer => {
                    outgoing.offered(at(seconds));
                    begin(transfer, &message)
                }
                Todo::Send { offset, len } => {
                    outgoing.sent(len);
                    chunk_of(data, transfer, offset, len)
                }
                Todo::Wait(_) => {
                    seconds += 1;
                    continue;
                }
                Todo::GiveUp => return (false, seconds),
            };
            if lost(&frame) {
                continue;
            }
            let reply = incoming.on_frame(1, frame).reply;
            if let Some(reply) = reply.filter(|reply| !lost(reply))
                && let Some(ok) = outgoing.on_frame(&reply, at(seconds))
            {
                return (ok, seconds);
            }
        }
    }

    #[test]
    fn a_snapshot_arrives_whole_whatever_is_lost() {
        let data = data(5 * CHUNK_BYTES + 17);
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut incoming = incoming();
            let (ok, _) = stream(&mut incoming, 1, &data, |_| rng.u8(..) < 50);
            assert!(ok, "seed {seed}");
        }
    }

    #[test]
    fn an_empty_snapshot_needs_no_chunk() {
        assert_eq!(stream(&mut incoming(), 1, &[], |_| false), (true, 0));
    }

    #[test]
    fn a_broken_stream_goes_on_where_it_was_also_from_another_sender() {
        let data = data(8 * CHUNK_BYTES);
        let mut incoming = incoming();
        let mut chunks = 0;
        let broken = stream(&mut incoming, 1, &data, |frame| {
            chunks += usize::from(matches!(frame, Frame::Chunk { .. }));
            chunks > 5
        });
        assert_eq!(broken, (false, PATIENCE.deadline.as_secs()));
        let mut again = Vec::new();
        let (ok, _) = stream(&mut incoming, 2, &data, |frame| {
            if let Frame::Chunk { offset, .. } = frame {
                again.push(*offset);
            }
            false
        });
        assert!(ok);
        assert_eq!(again[0], 5 * CHUNK_BYTES);
        assert_eq!(again.len(), 3);
    }

    /// Pitfall 7: a total timeout.
    #[test]
    fn a_slow_stream_is_not_given_up_and_one_that_stands_still_is() {
        let mut outgoing = Outgoing::new(1, 1000 * CHUNK_BYTES, PATIENCE, at(0));
        outgoing.offered(at(0));
        let (transfer, offset) = (1, 0);
        outgoing.on_frame(&Frame::Resume { transfer, offset }, at(0));
        let mut now = 0;
        for chunk in 1..=1000 {
            outgoing.sent(CHUNK_BYTES);
            now += 29;
            assert_ne!(outgoing.todo(at(now)), Todo::GiveUp);
            let offset = chunk * CHUNK_BYTES;
            outgoing.on_frame(&Frame::Ack { transfer, offset }, at(now));
        }
        assert_ne!(outgoing.todo(at(now + 29)), Todo::GiveUp);
        assert_eq!(outgoing.todo(at(now + 30)), Todo::GiveUp);
    }

    #[test]
    fn the_window_bounds_what_is_on_its_way() {
        let mut outgoing = Outgoing::new(1, 1 << 30, PATIENCE, at(0));
        outgoing.offered(at(0));
        let (transfer, offset) = (1, 0);
        outgoing.on_frame(&Frame::Resume { transfer, offset }, at(0));
        let mut on_its_way = 0;
        while let Todo::Send { len, .. } = outgoing.todo(at(0)) {
            outgoing.sent(len);
            on_its_way += len;
        }
        assert_eq!(on_its_way, WINDOW_BYTES);
    }

    #[test]
    fn a_snapshot_with_another_checksum_is_not_handed_on() {
        let good = data(10);
        let mut message = offer(&good, 5);
        let mut reference = SnapshotReference::from_bytes(&message.get_snapshot().data).unwrap();
        reference.data_crc ^= 1;
        message.mut_snapshot().data = reference.to_bytes().into();
        let mut incoming = incoming();
        incoming.on_frame(1, begin(1, &message));
        let received = incoming.on_frame(1, chunk_of(&good, 1, 0, 10));
        assert!(received.whole.is_none());
        let (transfer, ok) = (1, false);
        assert_eq!(received.reply, Some(Frame::Done { transfer, ok }));
    }

    #[test]
    fn what_is_too_long_or_of_an_earlier_term_is_refused() {
        let refused = |received: Received<MemoryLog>| {
            matches!(received.reply, Some(Frame::Done { ok: false, .. }))
        };
        let mut small = Incoming::new(MemoryLog::new([2; 16]), 9);
        assert!(refused(small.on_frame(1, begin(1, &offer(&data(10), 5)))));
        let mut incoming = incoming();
        assert!(!refused(
            incoming.on_frame(1, begin(1, &offer(&data(10), 5)))
        ));
        assert!(refused(
            incoming.on_frame(1, begin(2, &offer(&data(11), 4)))
        ));
        assert!(!refused(
            incoming.on_frame(1, begin(3, &offer(&data(11), 6)))
        ));
    }

    #[test]
    fn a_sender_that_missed_the_end_is_told_again() {
        let data = data(10);
        let mut incoming = incoming();
        incoming.on_frame(1, begin(1, &offer(&data, 5)));
        assert!(
            incoming
                .on_frame(1, chunk_of(&data, 1, 0, 10))
                .whole
                .is_some()
        );
        let again = incoming.on_frame(1, begin(1, &offer(&data, 5)));
        assert!(again.whole.is_none());
        let (transfer, ok) = (1, true);
        assert_eq!(again.reply, Some(Frame::Done { transfer, ok }));
    }
}
