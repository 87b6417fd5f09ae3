//! Applies what is committed to the state machine: order, sessions, and what must be written in
//! one batch. No threads: the runtime gives it one, the simulator calls it.
//!
//! Invariants:
//! 1. Every committed entry reaches the machine once, in the order of the log, also over
//!    restarts and snapshots: what its durable state contains already is left out.
//! 2. The data of a [`Durability::Shared`] machine, the applied index, the configuration, the
//!    book and the sessions change in one write.
//! 3. A snapshot is labelled with the index at which the machine was frozen, and carries the
//!    configuration, the book and the sessions of that index.
//! 4. An index is recorded as applied only with data that survives a restart with it: of a
//!    machine in memory by a snapshot alone.

use std::io::{self, Read, Write};

use prost::Message;
use raft::StorageError;
use raft::eraftpb::{ConfState, Entry, EntryType};

use super::book::{Book, Refusal};
use super::error::{Error, Result};
use super::log_store::{DRIVER_FAMILY, LogStore, Writes};
use super::sessions::{CommandContext, SESSIONS_MAX, Seen, Session, SessionRecord, Sessions};
use super::state_machine::{Command, Durability, SnapshotSource, StateMachine};

const BOOK_KEY: &[u8] = b"book";
const MACHINE_KEY: &[u8] = b"machine";
const SESSION_PREFIX: &[u8] = b"session/";
/// A longer answer is not kept for a repetition.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// More than any part before the machine's data has: sessions and answers at their most.
const PART_BYTES_MAX: u32 = 128 << 20;
const HEADER: &str = "the header of the snapshot";
const HEADER_MAGIC: &[u8; 8] = b"RRDRIV\0\x01";

/// What is committed, and what the configuration changes among it have led to.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Entries, contiguous.
    pub entries: Vec<Entry>,
    /// By ascending index, one for each configuration change among the entries.
    pub changes: Vec<Change>,
}

/// The outcome of one configuration change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its place in the log.
    pub index: u64,
    /// The configuration and the book from here on, or why they stay as they were.
    pub outcome: std::result::Result<(ConfState, Book), Refusal>,
}

/// One entry has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// What came of it.
    pub answer: Answer,
}

/// What came of an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The machine's answer to a command; of a repeated one, the answer it got first.
    Command(Vec<u8>),
    /// The command was repeated, took effect the first time, and its answer is not kept.
    AnswerLost,
    /// A later command of the same client has been applied; this one was not, now.
    Stale,
    /// A configuration change was carried out.
    Changed,
    /// A configuration change was not carried out.
    Refused(Refusal),
    /// An entry without a command: of a new leader.
    Empty,
}

/// What a snapshot begins with; the sessions follow, then the machine's data.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotHeader {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// A `ConfState`, encoded.
    #[prost(bytes = "vec", tag = "2")]
    pub conf_state: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub book: Option<Book>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionRecords {
    #[prost(message, repeated, tag = "1")]
    sessions: Vec<SessionRecord>,
}

/// A snapshot that is to be written, elsewhere.
pub struct SnapshotJob {
    index: u64,
    term: u64,
    conf_state: ConfState,
    header: Vec<u8>,
    source: SnapshotSource,
}

impl SnapshotJob {
    /// The index it was taken at.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Writes and stores it. For a thread of its own: it takes as long as the state is large.
    ///
    /// # Errors
    /// It could not be written; nothing has changed.
    pub fn run<S: LogStore>(self, store: &S) -> Result<()> {
        let staged = self.stage(store)?;
        Ok(store.create_snapshot(staged)?)
    }

    pub(crate) fn stage<S: LogStore>(self, store: &S) -> Result<S::Staged> {
        let mut writer = store.stage_snapshot(self.index, self.term, &self.conf_state)?;
        let written = writer
            .write_all(&self.header)
            .and_then(|()| (self.source)(&mut writer));
        written.map_err(Error::machine("writing a snapshot"))?;
        Ok(store.finish_snapshot(writer)?)
    }
}

/// The state machine with what the driver keeps beside it.
pub struct Applier<S, M> {
    store: S,
    machine: M,
    applied: u64,
    /// What the machine's own durable state contains already.
    skip_to: u64,
    conf_state: ConfState,
    book: Book,
    sessions: Sessions,
    /// Entries and bytes applied since the last snapshot began.
    since_snapshot: (u64, u64),
    /// A snapshot has replaced entries that were to be applied: what comes before the machine is
    /// restored from it is part of it.
    overtaken: bool,
}

impl<S: LogStore, M: StateMachine> Applier<S, M> {
    /// Brings the machine to where the store has it: restored from the snapshot where it must
    /// be.
    ///
    /// # Errors
    /// The store or the machine failed.
    pub fn open(store: S, machine: M) -> Result<Self> {
        let mut applier = Applier {
            machine,
            applied: 0,
            skip_to: 0,
            conf_state: store.conf_state(),
            book: Book::default(),
            sessions: Sessions::default(),
            since_snapshot: (0, 0),
            overtaken: false,
            store,
        };
        match applier.machine.durability() {
            Durability::Memory => {}
            Durability::Own => applier.skip_to = applier.machine.applied_index().unwrap_or(0),
            Durability::Shared => applier.load_shared()?,
        }
        // A machine ahead of the snapshot needs no more of it than the driver's part; one behind
        // was interrupted between the arrival of the snapshot and its restoration.
        applier.restore()?;
        Ok(applier)
    }

    fn load_shared(&mut self) -> Result<()> {
        let Some(index) = self.store.get(DRIVER_FAMILY, MACHINE_KEY)? else {
            return Ok(());
        };
        let index = <[u8; 8]>::try_from(&index[..])
            .map_err(|_| Error::format("the applied index of the machine", index.len()))?;
        self.applied = u64::from_be_bytes(index);
        if let Some(book) = self.store.get(DRIVER_FAMILY, BOOK_KEY)? {
            self.book =
                Book::decode(&book[..]).map_err(|e| Error::format("the address book", e))?;
        }
        let records = self.store.scan(DRIVER_FAMILY, SESSION_PREFIX)?;
        let records = records
            .iter()
            .map(|(_, value)| SessionRecord::decode(&value[..]));
        let records = records.collect::<std::result::Result<Vec<_>, _>>();
        self.sessions =
            Sessions::from_records(records.map_err(|e| Error::format("a client session", e))?);
        Ok(())
    }

    /// The index up to which everything has been applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The book at the applied index.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The configuration at the applied index.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, to be changed in what is not replicated.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Entries and bytes applied since the last snapshot began, or since the node started.
    pub fn since_snapshot(&self) -> (u64, u64) {
        self.since_snapshot
    }

    /// Whether a snapshot has been stored that is ahead of what was to be applied: nothing is,
    /// until the machine is restored from it.
    pub fn is_overtaken(&self) -> bool {
        self.overtaken
    }

    /// What was to be applied is gone from the log.
    pub(crate) fn overtake(&mut self) {
        self.overtaken = true;
    }

    /// Applies what is committed. What has been applied before, by a snapshot that came
    /// meanwhile, is left out; what is left to be restored from one is answered with nothing.
    ///
    /// # Errors
    /// The node must stop: the store or the machine failed, or an entry is missing.
    pub fn apply(&mut self, committed: &Committed) -> Result<Vec<Applied>> {
        let mut step = Step::default();
        let mut changes = committed.changes.iter();
        for entry in &committed.entries {
            if self.overtaken {
                return Ok(Vec::new());
            }
            let change = match entry.get_entry_type() {
                EntryType::EntryNormal => None,
                _ => changes.next(),
            };
            if entry.index <= self.applied {
                continue;
            }
            let next = step.last.unwrap_or(self.applied) + 1;
            if entry.index != next {
                let found = format!("entry {} where {next} follows", entry.index);
                return Err(Error::format("what is to be applied", found));
            }
            step.last = Some(entry.index);
            self.since_snapshot.0 += 1;
            self.since_snapshot.1 += (entry.data.len() + entry.context.len()) as u64;
            self.take(entry, change, &mut step)?;
        }
        self.run(&mut step)?;
        self.finish(step)
    }

    fn take<'a>(
        &mut self,
        entry: &'a Entry,
        change: Option<&Change>,
        step: &mut Step<'a>,
    ) -> Result<()> {
        let answer = match (entry.get_entry_type(), change) {
            (EntryType::EntryNormal, _) if entry.data.is_empty() && entry.context.is_empty() => {
                Answer::Empty
            }
            (EntryType::EntryNormal, _) => return self.take_command(entry, step),
            (_, Some(change)) if change.index == entry.index => match &change.outcome {
                Ok((conf_state, book)) => {
                    self.conf_state = conf_state.clone();
                    self.book = book.clone();
                    step.changed = true;
                    Answer::Changed
                }
                Err(refusal) => Answer::Refused(refusal.clone()),
            },
            _ => {
                let found = format!("no outcome of the change at {}", entry.index);
                return Err(Error::format("what is to be applied", found));
            }
        };
        step.answer(entry, answer);
        Ok(())
    }

    fn take_command<'a>(&mut self, entry: &'a Entry, step: &mut Step<'a>) -> Result<()> {
        let context = CommandContext::decode(&entry.context[..]);
        let session = context
            .map_err(|e| Error::format("the context of a command", e))?
            .session;
        if let Some(session) = &session {
            // Its last command may be among those not yet applied; and one of them may be the one
            // for which this session is forgotten. Where a batch ends must make no difference.
            let pending = step.clients.len();
            let may_forget = self.sessions.len() + pending >= SESSIONS_MAX
                && self.sessions.is_among_oldest(session.client, pending);
            if step.clients.contains(&session.client) || may_forget {
                self.run(step)?;
                // What the machine reads of its own must be what it has written.
                self.record(entry.index - 1, step)?;
            }
            let answer = match self.sessions.look_up(session) {
                Seen::New => None,
                Seen::Repeated(Some(answer)) => Some(Answer::Command(answer)),
                Seen::Repeated(None) => Some(Answer::AnswerLost),
                Seen::Stale => Some(Answer::Stale),
            };
            if let Some(answer) = answer {
                step.answer(entry, answer);
                return Ok(());
            }
        }
        if entry.index <= self.skip_to {
            if let Some(session) = session {
                self.record_session(session, entry.index, None, step);
            }
            step.answer(entry, Answer::AnswerLost);
            return Ok(());
        }
        step.clients.extend(session.map(|session| session.client));
        step.pending.push((entry, session));
        Ok(())
    }

    /// Hands the commands collected so far to the machine.
    fn run(&mut self, step: &mut Step<'_>) -> Result<()> {
        let pending = std::mem::take(&mut step.pending);
        step.clients.clear();
        if pending.is_empty() {
            return Ok(());
        }
        let commands: Vec<_> = pending
            .iter()
            .map(|(entry, _)| Command {
                index: entry.index,
                data: &entry.data,
            })
            .collect();
        let answers = self
            .machine
            .apply_batch(&commands, &mut step.writes)
            .map_err(Error::machine("applying commands"))?;
        if answers.len() != commands.len() {
            let found = format!("{} answers to {} commands", answers.len(), commands.len());
            return Err(Error::machine("applying commands")(io::Error::other(found)));
        }
        for ((entry, session), answer) in pending.into_iter().zip(answers) {
            if let Some(session) = session {
                let kept = (answer.len() <= ANSWER_BYTES_MAX).then(|| answer.clone());
                self.record_session(session, entry.index, kept, step);
            }
            step.answer(entry, Answer::Command(answer));
        }
        Ok(())
    }

    fn record_session(
        &mut self,
        session: Session,
        index: u64,
        answer: Option<Vec<u8>>,
        step: &mut Step<'_>,
    ) {
        let record = SessionRecord {
            client: session.client,
            sequence: session.sequence,
            index,
            answer,
        };
        if self.machine.durability() == Durability::Shared {
            step.writes.put(
                DRIVER_FAMILY,
                session_key(record.client),
                record.encode_to_vec(),
            );
        }
        if let Some(forgotten) = self.sessions.record(record)
            && self.machine.durability() == Durability::Shared
        {
            step.writes.delete(DRIVER_FAMILY, session_key(forgotten));
        }
    }

    fn finish(&mut self, mut step: Step<'_>) -> Result<Vec<Applied>> {
        let Some(last) = step.last else {
            return Ok(Vec::new());
        };
        self.record(last, &mut step)?;
        if self.overtaken {
            return Ok(Vec::new());
        }
        step.answers.sort_unstable_by_key(|applied| applied.index);
        Ok(step.answers)
    }

    /// What was collected has been applied up to `last`.
    fn record(&mut self, last: u64, step: &mut Step<'_>) -> Result<()> {
        if last <= self.applied {
            return Ok(());
        }
        if self.machine.durability() == Durability::Shared {
            let changed = std::mem::take(&mut step.changed);
            let mut writes = std::mem::take(&mut step.writes);
            self.put_own(last, changed, &mut writes);
            let conf_state = changed.then_some(&self.conf_state);
            let recorded = self.store.record_applied(last, conf_state, &writes);
            self.overtaken = self.is_behind(last, recorded)?;
        }
        if !self.overtaken {
            self.applied = last;
        }
        Ok(())
    }

    fn put_own(&self, applied: u64, changed: bool, writes: &mut Writes) {
        writes.put(DRIVER_FAMILY, MACHINE_KEY, applied.to_be_bytes());
        if changed {
            writes.put(DRIVER_FAMILY, BOOK_KEY, self.book.encode_to_vec());
        }
    }

    /// Restores the machine from the stored snapshot, where that is newer than the machine.
    ///
    /// # Errors
    /// The store or the machine failed.
    pub fn restore(&mut self) -> Result<()> {
        let Some((index, mut reader)) = self.store.open_snapshot()? else {
            return Ok(());
        };
        self.overtaken = false;
        if index <= self.applied {
            return Ok(());
        }
        let header = read_header(&mut reader)?;
        if header.index != index {
            let found = format!("of index {} at index {index}", header.index);
            return Err(Error::format(HEADER, found));
        }
        let sessions: SessionRecords = read_part(&mut reader)?;
        if index > self.skip_to {
            self.machine
                .restore_from(&mut reader)
                .map_err(Error::machine("restoring a snapshot"))?;
            // The reader verifies the whole only when it is read to its end.
            io::copy(&mut reader, &mut io::sink()).map_err(Error::machine("reading a snapshot"))?;
        }
        self.conf_state = decode_conf_state(&header.conf_state)?;
        self.book = header.book.unwrap_or_default();
        let sessions = Sessions::from_records(sessions.sessions);
        let old = std::mem::replace(&mut self.sessions, sessions);
        if self.machine.durability() == Durability::Shared {
            self.write_restored(index, &old)?;
        }
        self.applied = index;
        self.since_snapshot = (0, 0);
        Ok(())
    }

    fn write_restored(&self, index: u64, old: &Sessions) -> Result<()> {
        let mut writes = Writes::default();
        for record in old.records() {
            writes.delete(DRIVER_FAMILY, session_key(record.client));
        }
        for record in self.sessions.records() {
            let key = session_key(record.client);
            writes.put(DRIVER_FAMILY, key, record.encode_to_vec());
        }
        self.put_own(index, true, &mut writes);
        let conf_state = Some(&self.conf_state);
        let recorded = self.store.record_applied(index, conf_state, &writes);
        // A newer one comes next.
        self.is_behind(index, recorded).map(drop)
    }

    /// A snapshot may have been stored meanwhile that is ahead of what was to be recorded: then
    /// the log refuses it, nothing of it is written, and the machine is about to be restored from
    /// that one.
    fn is_behind(&self, applied: u64, recorded: crate::Result<()>) -> Result<bool> {
        match recorded {
            Err(crate::Error::InvalidBatch { .. }) if self.store.first_index()? > applied + 1 => {
                Ok(true)
            }
            recorded => Ok(recorded.map(|()| false)?),
        }
    }

    /// Freezes the state as it is now, to be written elsewhere. `None` while that has no index:
    /// a machine with a place of its own is ahead after a restart, until what it has applied
    /// before has been handed out again; or a received snapshot has taken its place in the log,
    /// and the machine is about to be restored from that one.
    ///
    /// # Errors
    /// The machine cannot now.
    pub fn snapshot(&mut self) -> Result<Option<SnapshotJob>> {
        let index = self.applied;
        if index < self.skip_to || self.overtaken {
            return Ok(None);
        }
        let term = match self.store.term(index) {
            Ok(term) => term,
            Err(raft::Error::Store(StorageError::Compacted)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let source = self
            .machine
            .snapshot_source()
            .map_err(Error::machine("making a snapshot"))?;
        self.since_snapshot = (0, 0);
        Ok(Some(SnapshotJob {
            index,
            term,
            conf_state: self.conf_state.clone(),
            header: header(
                index,
                &self.conf_state,
                self.book.clone(),
                self.sessions.records(),
            )?,
            source,
        }))
    }

    /// The first snapshot of a cluster, at index 1: from it every later node learns the first
    /// configuration, which no entry names.
    ///
    /// # Errors
    /// It could not be written or stored.
    pub fn begin(&mut self, conf_state: &ConfState, book: Book) -> Result<()> {
        let job = SnapshotJob {
            index: 1,
            term: 1,
            conf_state: conf_state.clone(),
            header: header(1, conf_state, book, Vec::new())?,
            source: self
                .machine
                .snapshot_source()
                .map_err(Error::machine("making the first snapshot"))?,
        };
        let staged = job.stage(&self.store)?;
        self.store.begin_with(staged, &Writes::default())?;
        self.restore()
    }

    /// Makes the state as it is the beginning of another cluster: a snapshot with its
    /// configuration and its book, which is all that newcomers get.
    ///
    /// # Errors
    /// It could not be written or stored; it may be done again.
    pub(crate) fn begin_anew(&mut self, conf_state: &ConfState, book: Book) -> Result<()> {
        self.conf_state = conf_state.clone();
        self.book = book;
        let Some(job) = self.snapshot()? else {
            let found = format!("ahead of the log, which ends at {}", self.applied);
            return Err(Error::format("the state of the machine", found));
        };
        job.run(&self.store)?;
        let mut writes = Writes::default();
        if self.machine.durability() == Durability::Shared {
            self.put_own(self.applied, true, &mut writes);
        }
        let conf_state = Some(&self.conf_state);
        self.store
            .record_applied(self.applied, conf_state, &writes)?;
        Ok(self.store.sync()?)
    }
}

/// What one call of [`Applier::apply`] collects.
#[derive(Default)]
struct Step<'a> {
    last: Option<u64>,
    pending: Vec<(&'a Entry, Option<Session>)>,
    /// Of the pending commands.
    clients: std::collections::HashSet<u64>,
    answers: Vec<Applied>,
    writes: Writes,
    changed: bool,
}

impl Step<'_> {
    fn answer(&mut self, entry: &Entry, answer: Answer) {
        let (index, term) = (entry.index, entry.term);
        self.answers.push(Applied {
            index,
            term,
            answer,
        });
    }
}

fn session_key(client: u64) -> Vec<u8> {
    [SESSION_PREFIX, &client.to_be_bytes()].concat()
}

fn header(
    index: u64,
    conf_state: &ConfState,
    book: Book,
    sessions: Vec<SessionRecord>,
) -> Result<Vec<u8>> {
    let header = SnapshotHeader {
        index,
        conf_state: protobuf::Message::write_to_bytes(conf_state)
            .map_err(|e| Error::format("a configuration", e))?,
        book: Some(book),
    };
    let sessions = SessionRecords { sessions };
    Ok([HEADER_MAGIC.to_vec(), part(&header)?, part(&sessions)?].concat())
}

/// A length of 4 bytes, and the message.
fn part(message: &impl Message) -> Result<Vec<u8>> {
    let body = message.encode_to_vec();
    let len = u32::try_from(body.len()).map_err(|_| Error::format(HEADER, body.len()))?;
    Ok([&len.to_be_bytes()[..], &body].concat())
}

pub(crate) fn read_header(reader: &mut impl Read) -> Result<SnapshotHeader> {
    let mut magic = [0; 8];
    let read = reader.read_exact(&mut magic);
    read.map_err(|e| Error::format(HEADER, e))?;
    if magic != *HEADER_MAGIC {
        return Err(Error::format(HEADER, format!("{magic:02x?}")));
    }
    read_part(reader)
}

fn read_part<T: Message + Default>(reader: &mut impl Read) -> Result<T> {
    let mut len = [0; 4];
    let read = reader.read_exact(&mut len);
    read.map_err(|e| Error::format(HEADER, e))?;
    let len = u32::from_be_bytes(len);
    if len > PART_BYTES_MAX {
        return Err(Error::format(HEADER, format!("of {len} bytes")));
    }
    let mut body = Vec::new();
    reader
        .take(u64::from(len))
        .read_to_end(&mut body)
        .map_err(|e| Error::format(HEADER, e))?;
    T::decode(&body[..]).map_err(|e| Error::format(HEADER, e))
}

fn decode_conf_state(bytes: &[u8]) -> Result<ConfState> {
    let mut conf_state = ConfState::default();
    protobuf::Message::merge_from_bytes(&mut conf_state, bytes)
        .map_err(|e| Error::format("a configuration", e))?;
    Ok(conf_state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::MemoryLog;

    /// Counts what it has applied.
    struct Count(u64);

    impl StateMachine for Count {
        fn apply(&mut self, _index: u64, _command: &[u8]) -> Vec<u8> {
            self.0 += 1;
            self.0.to_be_bytes().to_vec()
        }

        fn snapshot(&self) -> Vec<u8> {
            self.0.to_be_bytes().to_vec()
        }

        fn restore(&mut self, _snapshot: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }

    fn command(index: u64, client: u64, sequence: u64) -> Entry {
        let mut entry = Entry::default();
        entry.index = index;
        entry.term = 1;
        entry.data = vec![1].into();
        let session = Some(Session { client, sequence });
        let context = CommandContext::of(session, &entry.data);
        entry.context = context.encode_to_vec().into();
        entry
    }

    fn applied(batches: &[&[Entry]]) -> u64 {
        let mut applier = Applier::open(MemoryLog::new([0; 16]), Count(0)).unwrap();
        for entries in batches {
            let committed = Committed {
                entries: entries.to_vec(),
                changes: Vec::new(),
            };
            applier.apply(&committed).unwrap();
        }
        applier.machine().0
    }

    /// Adds up in the store that holds the log, and reads there.
    struct Sum(MemoryLog);

    impl Sum {
        const FAMILY: &str = "sum";

        fn read(&self) -> u64 {
            let read = self.0.get(Self::FAMILY, b"sum").unwrap();
            read.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
        }
    }

    impl StateMachine for Sum {
        fn apply(&mut self, _index: u64, _command: &[u8]) -> Vec<u8> {
            unreachable!("commands come in batches")
        }

        fn apply_batch(
            &mut self,
            commands: &[Command<'_>],
            writes: &mut Writes,
        ) -> io::Result<Vec<Vec<u8>>> {
            let sum = self.read() + commands.len() as u64;
            writes.put(Self::FAMILY, *b"sum", sum.to_be_bytes());
            Ok(vec![Vec::new(); commands.len()])
        }

        fn snapshot(&self) -> Vec<u8> {
            Vec::new()
        }

        fn restore(&mut self, _snapshot: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn durability(&self) -> Durability {
            Durability::Shared
        }
    }

    /// A client's second command in a batch was handed to the machine before the first was
    /// written: a machine that reads what it has written lost the first.
    #[test]
    fn a_machine_that_shares_the_store_reads_what_it_has_applied() {
        let log = MemoryLog::new([0; 16]);
        let mut applier = Applier::open(log.clone(), Sum(log)).unwrap();
        let entries = vec![command(1, 7, 1), command(2, 8, 1), command(3, 7, 2)];
        let changes = Vec::new();
        applier.apply(&Committed { entries, changes }).unwrap();
        assert_eq!((applier.machine().read(), applier.applied()), (3, 3));
    }

    /// Their writes were refused, and they were answered all the same, and read.
    #[test]
    fn commands_that_a_stored_snapshot_has_overtaken_are_not_answered() {
        let log = MemoryLog::new([0; 16]);
        let mut applier = Applier::open(log.clone(), Sum(log.clone())).unwrap();
        let batch = |indexes: std::ops::Range<u64>| Committed {
            entries: indexes.map(|index| command(index, index, 1)).collect(),
            changes: Vec::new(),
        };
        assert_eq!(applier.apply(&batch(1..3)).unwrap().len(), 2);
        let snapshot = log.stage_snapshot(10, 1, &ConfState::default()).unwrap();
        let snapshot = log.finish_snapshot(snapshot).unwrap();
        log.begin_with(snapshot, &Writes::default()).unwrap();
        for late in [batch(3..5), batch(5..11)] {
            assert_eq!(applier.apply(&late).unwrap(), []);
            assert!(applier.is_overtaken());
        }
        assert_eq!((applier.applied(), applier.machine().read()), (2, 2));
    }

    /// With the table full, a new client's command made room by forgetting the oldest one, whose
    /// repetition in the same batch had been looked up before that, and in the next one after it:
    /// where a batch ends differs from node to node, and so did their machines.
    #[test]
    fn where_a_batch_ends_makes_no_difference_to_sessions() {
        let max = SESSIONS_MAX as u64;
        let full: Vec<Entry> = (1..=max).map(|at| command(at, at, 1)).collect();
        let (newcomer, again) = (command(max + 1, max + 1, 1), command(max + 2, 1, 1));
        let together = applied(&[&full, &[newcomer.clone(), again.clone()]]);
        let apart = applied(&[&full, &[newcomer], &[again]]);
        assert_eq!(together, apart);
    }
}
