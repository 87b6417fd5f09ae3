//! Where the state stands: rows in order, and the bytes of their keys.
//!
//! ```text
//! m                                       format: u8 | time | generation | count, u64 each
//! k | generation: u64 | key               expiry: u64, 0 for never | value
//! d | generation: u64 | expiry: u64 | key   empty: what expires when
//! ```
//! Numbers are big-endian, so that rows stand in order. Rows of another generation than the one
//! in `m` are not part of the state: to clear it, or to replace it, takes one row, and what is
//! left over is swept away later.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use raft_rocks::driver::{Durability, Writes};

/// The column family of the rows in the node's store.
pub const FAMILY: &str = "kv";

pub(crate) const META: &[u8] = b"m";
const VALUES: u8 = b'k';
const DUE: u8 = b'd';
const FORMAT: u8 = 1;

/// What becomes of rows: another value, or none.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Is shown a row, and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> io::Result<ControlFlow<()>>;

/// Rows as they are at one moment.
pub trait Frozen: Send {
    /// Shows the rows with keys in `[low, high)`, in order.
    ///
    /// # Errors
    /// They could not be read, or `visit` failed.
    fn scan(&self, low: &[u8], high: &[u8], visit: Visit<'_>) -> io::Result<()>;
}

/// Where a machine keeps its rows.
pub trait Rows: Frozen + 'static {
    /// The value of a row.
    ///
    /// # Errors
    /// It could not be read.
    fn get(&self, row: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// The rows as they are now, while these go on.
    fn freeze(&self) -> Box<dyn Frozen>;

    /// Changes rows together with what else the driver writes.
    fn stage(&mut self, changes: Changes, writes: &mut Writes);

    /// Changes rows, all or none.
    ///
    /// # Errors
    /// None was changed, or the store has failed for good.
    fn write(&mut self, changes: Changes) -> io::Result<()>;

    /// Where they survive a restart.
    fn durability(&self) -> Durability;
}

/// What is known of the state as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The latest stamp, in milliseconds since the epoch.
    pub time: u64,
    pub generation: u64,
    /// Keys, those that have expired and are not removed yet among them.
    pub count: u64,
}

impl Meta {
    pub(crate) fn load(rows: &dyn Rows) -> io::Result<Self> {
        match rows.get(META)? {
            None => Ok(Meta::default()),
            Some(row) => Meta::from_row(&row),
        }
    }

    fn from_row(row: &[u8]) -> io::Result<Self> {
        let row: &[u8; 25] = row.try_into().map_err(|_| damaged("the state's own row"))?;
        if row.first() != Some(&FORMAT) {
            return Err(damaged("the state's own row"));
        }
        Ok(Meta {
            time: number_at(row, 1)?,
            generation: number_at(row, 9)?,
            count: number_at(row, 17)?,
        })
    }

    pub(crate) fn to_row(self) -> Vec<u8> {
        let mut row = vec![FORMAT];
        for number in [self.time, self.generation, self.count] {
            row.extend_from_slice(&number.to_be_bytes());
        }
        row
    }
}

/// A value as it stands in its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// 0: never.
    pub expiry: u64,
    pub data: Vec<u8>,
}

impl Value {
    pub(crate) fn from_row(mut row: Vec<u8>) -> io::Result<Self> {
        let expiry = number_at(&row, 0)?;
        row.drain(..8);
        Ok(Value { expiry, data: row })
    }

    pub(crate) fn to_row(expiry: u64, data: &[u8]) -> Vec<u8> {
        [&expiry.to_be_bytes()[..], data].concat()
    }

    pub(crate) fn is_live(&self, time: u64) -> bool {
        is_live(self.expiry, time)
    }
}

pub(crate) fn is_live(expiry: u64, time: u64) -> bool {
    expiry == 0 || expiry > time
}

pub(crate) fn value_row(generation: u64, key: &[u8]) -> Vec<u8> {
    [&[VALUES][..], &generation.to_be_bytes(), key].concat()
}

/// Every value of a generation, in `[low, high)`.
pub(crate) fn value_rows(generation: u64) -> (Vec<u8>, Vec<u8>) {
    (value_row(generation, b""), value_row(generation + 1, b""))
}

/// The key of a value's row.
pub(crate) fn key_of_value_row(row: &[u8]) -> io::Result<&[u8]> {
    row.get(9..).ok_or_else(|| damaged("the key of a value"))
}

pub(crate) fn due_row(generation: u64, expiry: u64, key: &[u8]) -> Vec<u8> {
    let (generation, expiry) = (generation.to_be_bytes(), expiry.to_be_bytes());
    [&[DUE][..], &generation, &expiry, key].concat()
}

/// Everything of a generation that expires from `from` until before `until`.
pub(crate) fn due_rows(generation: u64, from: u64, until: u64) -> (Vec<u8>, Vec<u8>) {
    (
        due_row(generation, from, b""),
        due_row(generation, until, b""),
    )
}

/// When, and which key.
pub(crate) fn parse_due_row(row: &[u8]) -> io::Result<(u64, &[u8])> {
    let key = row.get(17..);
    let key = key.ok_or_else(|| damaged("the row of an expiry"))?;
    Ok((number_at(row, 9)?, key))
}

/// The rows of generations before this one.
pub(crate) fn rows_before(generation: u64) -> [(Vec<u8>, Vec<u8>); 2] {
    [VALUES, DUE].map(|kind| {
        let high = [&[kind][..], &generation.to_be_bytes()].concat();
        (vec![kind], high)
    })
}

/// The rows of generations after this one.
pub(crate) fn rows_after(generation: u64) -> [(Vec<u8>, Vec<u8>); 2] {
    [VALUES, DUE].map(|kind| {
        let low = [&[kind][..], &(generation + 1).to_be_bytes()].concat();
        (low, vec![kind + 1])
    })
}

fn number_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk);
    let number = number.ok_or_else(|| damaged("a row"))?;
    Ok(u64::from_be_bytes(*number))
}

pub(crate) fn damaged(what: &str) -> io::Error {
    let problem = format!(
        "{what} is damaged; restore the node from a backup, or let it join anew with an empty \
         directory"
    );
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
