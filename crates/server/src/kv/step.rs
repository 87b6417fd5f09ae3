//! The operations of one batch: each sees what those before it have changed.

use std::collections::BTreeSet;
use std::io;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::command::{Answer, Expiry, OnlyIf, Operation, VALUE_BYTES_MAX};
use super::rows::{Changes, META, Meta, Rows, Value, due_row, due_rows, parse_due_row, value_row};

/// What one purge removes at the most: it is part of a batch like any other command.
const PURGED_MAX: usize = 1_000;

const NO_INTEGER: &str = "ERR value is not an integer or out of range";
const OVERFLOW: &str = "ERR increment or decrement would overflow";
const TOO_LONG: &str = "ERR string exceeds maximum allowed size (1048576 bytes)";
const BAD_EXPIRY: &str = "ERR invalid expire time";

/// What a batch has changed so far.
pub(crate) struct Step<'a> {
    rows: &'a dyn Rows,
    changes: Changes,
    pub meta: Meta,
    /// Nothing expires before this.
    next_due: u64,
    /// Something that expires may have been what `next_due` was found at.
    look_again: bool,
}

/// What a batch comes to.
pub(crate) struct Stepped {
    pub changes: Changes,
    pub meta: Meta,
    pub next_due: u64,
}

impl<'a> Step<'a> {
    pub(crate) fn new(rows: &'a dyn Rows, meta: Meta, next_due: u64) -> Self {
        Step {
            rows,
            changes: Changes::new(),
            meta,
            next_due,
            look_again: false,
        }
    }

    /// Time goes on, never back: a new leader's clock may be behind.
    pub(crate) fn advance(&mut self, stamp: u64) {
        self.meta.time = self.meta.time.max(stamp);
    }

    /// Ends the batch.
    pub(crate) fn finish(mut self) -> io::Result<Stepped> {
        if self.look_again {
            let (low, high) = due_rows(self.meta.generation, self.next_due, u64::MAX);
            let first = self.first_rows(&low, &high, 1)?;
            let first = first.first().map(|row| parse_due_row(row)).transpose()?;
            self.next_due = first.map_or(u64::MAX, |(at, _)| at);
        }
        self.changes.insert(META.to_vec(), Some(self.meta.to_row()));
        Ok(Stepped {
            changes: self.changes,
            meta: self.meta,
            next_due: self.next_due,
        })
    }

    /// Removes a row that is not part of the state.
    pub(crate) fn sweep(&mut self, row: Vec<u8>) {
        self.changes.insert(row, None);
    }

    pub(crate) fn run(&mut self, operation: Operation) -> io::Result<Answer> {
        match operation {
            Operation::Set {
                key,
                value,
                expiry,
                only_if,
                return_old,
            } => self.set(&key, &value, expiry, only_if, return_old),
            Operation::Delete(keys) => self.delete(&keys),
            Operation::SetMany(pairs) => self.set_many(&pairs),
            Operation::Increment { key, by } => self.increment(&key, by),
            Operation::Append { key, value } => self.append(&key, &value),
            Operation::Expire { key, expiry } => self.expire(&key, expiry),
            Operation::Persist(key) => self.persist(&key),
            Operation::Clear => {
                self.clear();
                Ok(Answer::Done)
            }
            Operation::Purge => self.purge(),
        }
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        only_if: OnlyIf,
        return_old: bool,
    ) -> io::Result<Answer> {
        let old = self.live(key)?;
        let Some(at) = self.expiry(expiry, old.as_ref()) else {
            return Ok(Answer::Failed(BAD_EXPIRY.to_owned()));
        };
        if value.len() > VALUE_BYTES_MAX {
            return Ok(Answer::Failed(TOO_LONG.to_owned()));
        }
        let is_set = match only_if {
            OnlyIf::Always => true,
            OnlyIf::Absent => old.is_none(),
            OnlyIf::Present => old.is_some(),
        };
        if is_set {
            self.put(key, value, at)?;
        }
        Ok(match (return_old, is_set) {
            (true, _) => Answer::Value(old.map(|old| Bytes::from(old.data))),
            (false, true) => Answer::Done,
            (false, false) => Answer::Skipped,
        })
    }

    fn delete(&mut self, keys: &[Bytes]) -> io::Result<Answer> {
        let mut deleted = 0;
        for key in keys {
            deleted += i64::from(self.live(key)?.is_some());
            self.remove(key)?;
        }
        Ok(Answer::Integer(deleted))
    }

    fn set_many(&mut self, pairs: &[(Bytes, Bytes)]) -> io::Result<Answer> {
        if pairs.iter().any(|(_, value)| value.len() > VALUE_BYTES_MAX) {
            return Ok(Answer::Failed(TOO_LONG.to_owned()));
        }
        for (key, value) in pairs {
            self.put(key, value, 0)?;
        }
        Ok(Answer::Done)
    }

    fn increment(&mut self, key: &[u8], by: i64) -> io::Result<Answer> {
        let old = self.live(key)?;
        let expiry = old.as_ref().map_or(0, |old| old.expiry);
        let Some(number) = old.map_or(Some(0), |old| parse_integer(&old.data)) else {
            return Ok(Answer::Failed(NO_INTEGER.to_owned()));
        };
        let Some(sum) = number.checked_add(by) else {
            return Ok(Answer::Failed(OVERFLOW.to_owned()));
        };
        self.put(key, sum.to_string().as_bytes(), expiry)?;
        Ok(Answer::Integer(sum))
    }

    fn append(&mut self, key: &[u8], value: &[u8]) -> io::Result<Answer> {
        let mut whole = self.live(key)?.unwrap_or(Value {
            expiry: 0,
            data: Vec::new(),
        });
        if whole.data.len() + value.len() > VALUE_BYTES_MAX {
            return Ok(Answer::Failed(TOO_LONG.to_owned()));
        }
        whole.data.extend_from_slice(value);
        self.put(key, &whole.data, whole.expiry)?;
        Ok(integer(whole.data.len()))
    }

    fn expire(&mut self, key: &[u8], expiry: Expiry) -> io::Result<Answer> {
        let Some(old) = self.live(key)? else {
            return Ok(Answer::Integer(0));
        };
        let Some(at) = self.expiry(expiry, Some(&old)) else {
            return Ok(Answer::Failed(BAD_EXPIRY.to_owned()));
        };
        self.put(key, &old.data, at)?;
        Ok(Answer::Integer(1))
    }

    fn persist(&mut self, key: &[u8]) -> io::Result<Answer> {
        match self.live(key)? {
            Some(old) if old.expiry != 0 => {
                self.put(key, &old.data, 0)?;
                Ok(Answer::Integer(1))
            }
            _ => Ok(Answer::Integer(0)),
        }
    }

    fn clear(&mut self) {
        self.meta.generation += 1;
        self.meta.count = 0;
        self.next_due = u64::MAX;
        self.look_again = false;
    }

    fn purge(&mut self) -> io::Result<Answer> {
        let (from, until) = (self.next_due, self.meta.time.saturating_add(1));
        let (low, high) = due_rows(self.meta.generation, from, until);
        let due = self.first_rows(&low, &high, PURGED_MAX)?;
        for row in &due {
            let (_, key) = parse_due_row(row)?;
            self.remove(key)?;
        }
        Ok(integer(due.len()))
    }

    /// The first rows in `[low, high)` as they are now.
    fn first_rows(&self, low: &[u8], high: &[u8], max: usize) -> io::Result<BTreeSet<Vec<u8>>> {
        let mut found = BTreeSet::new();
        if low >= high {
            return Ok(found);
        }
        let bounds = (Bound::Included(low), Bound::Excluded(high));
        let changed = self.changes.range::<[u8], _>(bounds);
        let here = changed.filter(|(_, value)| value.is_some());
        found.extend(here.take(max).map(|(row, _)| row.clone()));
        let mut stored = 0;
        self.rows.scan(low, high, &mut |row, _| {
            if !self.changes.contains_key(row) {
                found.insert(row.to_vec());
                stored += 1;
            }
            Ok(match stored < max {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            })
        })?;
        // The first of both are among the first of each.
        Ok(found.into_iter().take(max).collect())
    }

    fn get(&self, row: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.changes.get(row) {
            Some(value) => Ok(value.clone()),
            None => self.rows.get(row),
        }
    }

    fn stored(&self, key: &[u8]) -> io::Result<Option<Value>> {
        let row = self.get(&value_row(self.meta.generation, key))?;
        row.map(Value::from_row).transpose()
    }

    fn live(&self, key: &[u8]) -> io::Result<Option<Value>> {
        let value = self.stored(key)?;
        Ok(value.filter(|value| value.is_live(self.meta.time)))
    }

    /// When it expires; 0: never.
    fn expiry(&self, expiry: Expiry, old: Option<&Value>) -> Option<u64> {
        let at = match expiry {
            Expiry::Never => return Some(0),
            Expiry::Keep => return Some(old.map_or(0, |old| old.expiry)),
            Expiry::In(ms) => i64::try_from(self.meta.time).ok()?.checked_add(ms)?,
            Expiry::At(at) => at,
        };
        // 0 is taken; and before the epoch is as gone as at its beginning.
        Some(u64::try_from(at).unwrap_or(0).max(1))
    }

    /// Puts a value, which is none when it has expired already.
    fn put(&mut self, key: &[u8], data: &[u8], expiry: u64) -> io::Result<()> {
        self.remove(key)?;
        if expiry != 0 && expiry <= self.meta.time {
            return Ok(());
        }
        let generation = self.meta.generation;
        if expiry != 0 {
            let row = due_row(generation, expiry, key);
            self.changes.insert(row, Some(Vec::new()));
            self.next_due = self.next_due.min(expiry);
        }
        let row = value_row(generation, key);
        self.changes.insert(row, Some(Value::to_row(expiry, data)));
        self.meta.count += 1;
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> io::Result<()> {
        let Some(old) = self.stored(key)? else {
            return Ok(());
        };
        let generation = self.meta.generation;
        if old.expiry != 0 {
            self.changes
                .insert(due_row(generation, old.expiry, key), None);
            self.look_again |= old.expiry <= self.next_due;
        }
        self.changes.insert(value_row(generation, key), None);
        self.meta.count = self.meta.count.saturating_sub(1);
        Ok(())
    }
}

fn integer(count: usize) -> Answer {
    Answer::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A number as Redis takes it: no sign before 0 or a positive one, no zeros in front, nothing
/// around it.
fn parse_integer(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_way_to_be_written() {
        for number in [0, 7, -7, i64::MAX, i64::MIN] {
            let written = number.to_string();
            assert_eq!(parse_integer(written.as_bytes()), Some(number));
        }
        for other in [
            "",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "1.0",
            "9223372036854775808",
        ] {
            assert_eq!(parse_integer(other.as_bytes()), None, "{other:?}");
        }
    }
}
