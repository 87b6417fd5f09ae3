//! The state machine over its rows.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use raft_rocks::driver::{Command, Durability, Preprocessor, SnapshotSource, StateMachine, Writes};

use super::command::{Answer, CommandError, Operation, decode, encode_answers, stamp};
use super::rows::{
    Frozen, Meta, Rows, Value, due_rows, is_live, key_of_value_row, parse_due_row, rows_after,
    rows_before, value_row, value_rows,
};
use super::snapshot;
use super::step::Step;

/// Rows of older generations that a batch removes by the way.
const SWEPT_MAX: usize = 1_000;

/// A value and when it expires, in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub data: Vec<u8>,
    /// `None`: never.
    pub expiry: Option<u64>,
}

/// Tells, outside of the machine, when a purge has something to do.
#[derive(Clone, Debug)]
pub struct Due(Arc<AtomicU64>);

impl Due {
    /// Whether something has expired at this time, in milliseconds since the epoch, or rows of
    /// no use are left over.
    pub fn is_due(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

/// The clock of this node, in milliseconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Keys with values that may expire.
///
/// Invariants:
/// 1. What it becomes depends on the commands alone: time comes with them.
/// 2. A key with an expiry has one row of it, and no other key has; the count is that of the
///    values of the generation.
/// 3. What is in memory is what the rows say, or will say once the driver has written them.
pub struct Machine {
    rows: Box<dyn Rows>,
    meta: Meta,
    next_due: u64,
    /// Where rows of older generations may be left.
    leftovers: Vec<(Vec<u8>, Vec<u8>)>,
    due: Due,
}

impl Machine {
    /// The state that these rows hold.
    ///
    /// # Errors
    /// They could not be read, or are damaged.
    pub fn open(rows: impl Rows) -> io::Result<Self> {
        let mut machine = Machine {
            rows: Box::new(rows),
            meta: Meta::default(),
            next_due: u64::MAX,
            leftovers: Vec::new(),
            due: Due(Arc::new(AtomicU64::new(u64::MAX))),
        };
        machine.load()?;
        Ok(machine)
    }

    /// Tells when a [`Operation::Purge`] has something to do.
    pub fn due(&self) -> Due {
        self.due.clone()
    }

    /// The latest time that a command brought, in milliseconds since the epoch.
    pub fn time(&self) -> u64 {
        self.meta.time
    }

    /// How many keys there are, those among them that have expired and are not removed yet.
    pub fn len(&self) -> u64 {
        self.meta.count
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    ///
    /// # Errors
    /// It could not be read.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Entry>> {
        let row = self.rows.get(&value_row(self.meta.generation, key))?;
        let value = row.map(Value::from_row).transpose()?;
        let live = value.filter(|value| value.is_live(self.meta.time));
        Ok(live.map(|Value { expiry, data }| Entry {
            data,
            expiry: (expiry != 0).then_some(expiry),
        }))
    }

    /// The keys as they are now, to be read elsewhere.
    pub fn keys(&self) -> Keys {
        Keys {
            rows: self.rows.freeze(),
            meta: self.meta,
        }
    }

    fn load(&mut self) -> io::Result<()> {
        self.meta = Meta::load(&*self.rows)?;
        // An interrupted restoration.
        for (low, high) in rows_after(self.meta.generation) {
            self.remove_rows(low, &high)?;
        }
        let (low, high) = due_rows(self.meta.generation, 0, u64::MAX);
        let mut first = None;
        self.rows.scan(&low, &high, &mut |row, _| {
            first = Some(parse_due_row(row)?.0);
            Ok(ControlFlow::Break(()))
        })?;
        self.next_due = first.unwrap_or(u64::MAX);
        self.leftovers.clear();
        for (low, high) in rows_before(self.meta.generation) {
            if !some_rows(&*self.rows, &low, &high)?.is_empty() {
                self.leftovers.push((low, high));
            }
        }
        self.tell_due();
        Ok(())
    }

    fn tell_due(&self) {
        let next = match self.leftovers.is_empty() {
            true => self.next_due,
            false => 0,
        };
        self.due.0.store(next, Ordering::Relaxed);
    }

    fn remove_rows(&mut self, mut low: Vec<u8>, high: &[u8]) -> io::Result<()> {
        loop {
            let found = some_rows(&*self.rows, &low, high)?;
            let Some(last) = found.last().cloned() else {
                return Ok(());
            };
            let changes = found.into_iter().map(|row| (row, None)).collect();
            self.rows.write(changes)?;
            low = after(last);
        }
    }

    fn apply_all(
        &mut self,
        commands: &[Command<'_>],
        writes: &mut Writes,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut step = Step::new(&*self.rows, self.meta, self.next_due);
        let mut answers = Vec::new();
        for command in commands {
            answers.push(apply_one(&mut step, command)?);
        }
        let mut leftovers = std::mem::take(&mut self.leftovers);
        if let Some((low, high)) = leftovers.first_mut() {
            let found = some_rows(&*self.rows, low, high)?;
            match found.last() {
                // What was removed is not read again: that is slow until it is compacted.
                Some(last) => *low = after(last.clone()),
                None => drop(leftovers.remove(0)),
            }
            found.into_iter().for_each(|row| step.sweep(row));
        }
        let stepped = step.finish()?;
        let is_cleared = stepped.meta.generation != self.meta.generation;
        (self.meta, self.next_due) = (stepped.meta, stepped.next_due);
        self.leftovers = leftovers;
        self.rows.stage(stepped.changes, writes);
        if is_cleared {
            self.leftovers = rows_before(self.meta.generation).into();
        }
        self.tell_due();
        Ok(answers)
    }
}

/// The answer to one command, as bytes.
fn apply_one(step: &mut Step<'_>, command: &Command<'_>) -> io::Result<Vec<u8>> {
    let (stamp, operations) = match decode(command.data) {
        Ok(decoded) => decoded,
        // Those who know it go on with what it does.
        Err(e @ CommandError::Version(_)) => {
            let problem = format!("entry {}: {e}", command.index);
            return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
        }
        // No leader proposes it: it is the same nothing on every node.
        Err(e) => {
            let answer = Answer::Failed(format!("ERR {e}"));
            return Ok(encode_answers(&[answer]));
        }
    };
    step.advance(stamp);
    let answers = operations
        .into_iter()
        .map(|operation: Operation| step.run(operation));
    let answers: io::Result<Vec<Answer>> = answers.collect();
    Ok(encode_answers(&answers?))
}

fn some_rows(rows: &dyn Rows, low: &[u8], high: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    rows.scan(low, high, &mut |row, _| {
        found.push(row.to_vec());
        Ok(match found.len() < SWEPT_MAX {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    })?;
    Ok(found)
}

/// The first row that may follow.
fn after(mut row: Vec<u8>) -> Vec<u8> {
    row.push(0);
    row
}

impl StateMachine for Machine {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        let command = Command {
            index,
            data: command,
        };
        // The driver hands over batches; this is for who calls it by hand.
        let answers = self.apply_batch(&[command], &mut Writes::default());
        let answer = answers.map(|answers| answers.into_iter().next());
        answer.ok().flatten().unwrap_or_default()
    }

    fn apply_batch(
        &mut self,
        commands: &[Command<'_>],
        writes: &mut Writes,
    ) -> io::Result<Vec<Vec<u8>>> {
        self.apply_all(commands, writes)
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut data = Vec::new();
        // As above; a cut one is refused where it is read.
        let _ = snapshot::write(self.meta, &*self.rows.freeze(), &mut data);
        data
    }

    fn restore(&mut self, snapshot: &[u8]) -> io::Result<()> {
        let mut snapshot = snapshot;
        self.restore_from(&mut snapshot)
    }

    fn snapshot_source(&self) -> io::Result<SnapshotSource> {
        let (meta, rows) = (self.meta, self.rows.freeze());
        Ok(Box::new(move |out| snapshot::write(meta, &*rows, out)))
    }

    /// The old state stands until the last row of the new one does: whoever interrupts it leaves
    /// the old one, and rows that the next call, or the next open, removes.
    fn restore_from(&mut self, source: &mut dyn Read) -> io::Result<()> {
        self.load()?;
        let generation = self.meta.generation + 1;
        snapshot::read(source, generation, &mut *self.rows)?;
        self.load()?;
        for (low, high) in rows_before(generation) {
            self.remove_rows(low, &high)?;
        }
        self.leftovers.clear();
        self.tell_due();
        Ok(())
    }

    fn durability(&self) -> Durability {
        self.rows.durability()
    }

    fn preprocessor(&self) -> Option<Preprocessor> {
        Some(Arc::new(|command| {
            stamp(command, now()).map_err(|e| e.to_string())
        }))
    }
}

/// Keys as they were at one moment.
pub struct Keys {
    rows: Box<dyn Frozen>,
    meta: Meta,
}

impl Keys {
    /// Shows the keys behind `last`, in order, until `visit` says to stop.
    ///
    /// # Errors
    /// They could not be read.
    pub fn scan(
        &self,
        last: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let (mut low, high) = value_rows(self.meta.generation);
        if let Some(last) = last {
            low = after(value_row(self.meta.generation, last));
        }
        self.rows.scan(&low, &high, &mut |row, value| {
            let expiry = value
                .first_chunk()
                .map(|expiry| u64::from_be_bytes(*expiry));
            match expiry.is_some_and(|expiry| is_live(expiry, self.meta.time)) {
                true => Ok(visit(key_of_value_row(row)?)),
                false => Ok(ControlFlow::Continue(())),
            }
        })
    }
}
