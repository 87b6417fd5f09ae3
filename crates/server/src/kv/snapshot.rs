//! The state as a stream.
//!
//! ```text
//! "rrkv" | format: u8 = 1 | time: u64 | count: u64 | count x row
//! row    key length: u32 | value length: u32 | expiry: u64, 0 for never | key | value
//! ```
//! Numbers are big-endian; keys ascend.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use super::command::VALUE_BYTES_MAX;
use super::rows::{
    Changes, Frozen, META, Meta, Rows, Value, due_row, key_of_value_row, value_row, value_rows,
};

const MAGIC: [u8; 5] = *b"rrkv\x01";

/// Keys come in commands, which are shorter.
const KEY_BYTES_MAX: usize = 4 << 20;

/// Rows are written together up to this many bytes.
const BATCH_BYTES: usize = 1 << 20;

pub(crate) fn write(meta: Meta, rows: &dyn Frozen, out: &mut dyn Write) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(64 << 10, out);
    out.write_all(&MAGIC)?;
    out.write_all(&meta.time.to_be_bytes())?;
    out.write_all(&meta.count.to_be_bytes())?;
    let (low, high) = value_rows(meta.generation);
    let mut written = 0;
    rows.scan(&low, &high, &mut |row, value| {
        let key = key_of_value_row(row)?;
        let value = Value::from_row(value.to_vec())?;
        out.write_all(&length(key)?)?;
        out.write_all(&length(&value.data)?)?;
        out.write_all(&value.expiry.to_be_bytes())?;
        out.write_all(key)?;
        out.write_all(&value.data)?;
        written += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    match written == meta.count {
        true => out.flush(),
        false => Err(invalid(&format!(
            "there are {written} values where {} are counted",
            meta.count
        ))),
    }
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(bytes.len()).map_err(|_| invalid("a value is too long"))?;
    Ok(length.to_be_bytes())
}

/// Writes what is read as rows of `generation`, and last that this is the state.
pub(crate) fn read(source: &mut dyn Read, generation: u64, rows: &mut dyn Rows) -> io::Result<()> {
    let mut source = io::BufReader::with_capacity(64 << 10, source);
    if take::<5>(&mut source)? != MAGIC {
        return Err(invalid(
            "it is none of this program, or of a later version of it",
        ));
    }
    let meta = Meta {
        time: u64::from_be_bytes(take(&mut source)?),
        generation,
        count: u64::from_be_bytes(take(&mut source)?),
    };
    let mut pending = Pending::default();
    let mut last: Option<Vec<u8>> = None;
    for _ in 0..meta.count {
        let (key, value) = read_row(&mut source)?;
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(invalid("keys do not ascend"));
        }
        pending.add(generation, &key, &value);
        if pending.bytes >= BATCH_BYTES {
            rows.write(std::mem::take(&mut pending).changes)?;
        }
        last = Some(key);
    }
    if source.read(&mut [0])? != 0 {
        return Err(invalid("there is more behind its end"));
    }
    let mut changes = pending.changes;
    changes.insert(META.to_vec(), Some(meta.to_row()));
    rows.write(changes)
}

#[derive(Default)]
struct Pending {
    changes: Changes,
    bytes: usize,
}

impl Pending {
    fn add(&mut self, generation: u64, key: &[u8], value: &Value) {
        let row = Value::to_row(value.expiry, &value.data);
        self.bytes += key.len() + row.len();
        self.changes.insert(value_row(generation, key), Some(row));
        if value.expiry != 0 {
            let due = due_row(generation, value.expiry, key);
            self.changes.insert(due, Some(Vec::new()));
        }
    }
}

fn read_row(source: &mut impl Read) -> io::Result<(Vec<u8>, Value)> {
    let key_bytes = read_length(source, KEY_BYTES_MAX)?;
    let value_bytes = read_length(source, VALUE_BYTES_MAX)?;
    let expiry = u64::from_be_bytes(take(source)?);
    let key = read_bytes(source, key_bytes)?;
    let data = read_bytes(source, value_bytes)?;
    Ok((key, Value { expiry, data }))
}

fn read_length(source: &mut impl Read, max: usize) -> io::Result<usize> {
    let length = u32::from_be_bytes(take(source)?) as usize;
    match length <= max {
        true => Ok(length),
        false => Err(invalid("a length is too large")),
    }
}

fn read_bytes(source: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take<const N: usize>(source: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(problem: &str) -> io::Error {
    let problem = format!("not a snapshot of this state machine: {problem}");
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
