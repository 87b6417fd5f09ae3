//! The changes of one atomic write, in the bytes of RocksDB's write batch. Pure.
//!
//! RocksDB writes these bytes into its log as they are, so their format is as stable as its
//! logs (`db/write_batch.cc`):
//!
//! ```text
//! batch    sequence number: 8, zero until it is written | count of records: 4 | records
//! put      tag of the column family | key length: varint | key | value length: varint | value
//! ```
//! All fixed integers are little-endian. Encoding them here spares a copy of every value and a
//! call through RocksDB's C interface for each, which were a third of the cost of an append;
//! and batches can be joined, which that interface cannot do. Records of other kinds are taken
//! from batches that RocksDB made.

use std::ops::Range;

use bytes::Bytes;

use crate::error::Result;

/// Sequence number and count.
const HEADER_LEN: usize = 12;

/// What stands before the key length of a put into one column family: learnt from a batch
/// that RocksDB made, so that neither tags nor ids of column families are repeated here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PutTag(Vec<u8>);

impl PutTag {
    /// From the batch that holds only a put of `key` without a value; `None` when it is not
    /// laid out as this module knows it.
    pub(crate) fn learn(batch: &[u8], key: &[u8]) -> Option<Self> {
        let mut tail = Vec::new();
        put_varint(&mut tail, key.len());
        tail.extend_from_slice(key);
        put_varint(&mut tail, 0);
        let (header, record) = batch.split_first_chunk::<HEADER_LEN>()?;
        let tag = record.strip_suffix(tail.as_slice())?;
        let one_record = header.ends_with(&1u32.to_le_bytes());
        (one_record && !tag.is_empty()).then(|| PutTag(tag.to_vec()))
    }
}

/// The changes of one atomic write, growing.
///
/// Invariant: `bytes` are a batch but for the count in their header, which is `count`.
#[derive(Debug)]
pub(crate) struct Changes {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for Changes {
    fn default() -> Self {
        Changes {
            bytes: vec![0; HEADER_LEN],
            count: 0,
        }
    }
}

impl Changes {
    /// With room for about this many bytes of keys and values.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut changes = Changes {
            bytes: Vec::with_capacity(HEADER_LEN + bytes),
            count: 0,
        };
        changes.bytes.resize(HEADER_LEN, 0);
        changes
    }

    /// Adds a put whose value, of `len` bytes, `encode` appends; returns where the value
    /// stands. Lengths are below 4 GiB: the caller has checked them.
    pub(crate) fn put(
        &mut self,
        tag: &PutTag,
        key: &[u8],
        len: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<Range<usize>> {
        self.bytes.extend_from_slice(&tag.0);
        put_varint(&mut self.bytes, key.len());
        self.bytes.extend_from_slice(key);
        put_varint(&mut self.bytes, len);
        let start = self.bytes.len();
        encode(&mut self.bytes)?;
        debug_assert_eq!(self.bytes.len() - start, len, "as long as announced");
        self.count += 1;
        Ok(start..self.bytes.len())
    }

    /// Adds the records of a batch that RocksDB made.
    pub(crate) fn append(&mut self, batch: &[u8]) {
        if let Some((header, records)) = batch.split_first_chunk::<HEADER_LEN>() {
            self.count += count_of(header);
            self.bytes.extend_from_slice(records);
        }
    }

    /// The batch, complete.
    pub(crate) fn finish(mut self) -> Batch {
        if let Some([.., c0, c1, c2, c3]) = self.bytes.first_chunk_mut::<HEADER_LEN>() {
            [*c0, *c1, *c2, *c3] = self.count.to_le_bytes();
        }
        let capacity = self.bytes.capacity();
        let bytes = self.bytes.into();
        Batch { bytes, capacity }
    }
}

/// The changes of one atomic write, complete.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Bytes,
    capacity: usize,
}

impl Batch {
    /// As RocksDB takes them. A part of them can be handed out without copying.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What they hold in memory.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

/// One batch with the records of all.
pub(crate) fn join<'a>(batches: impl Iterator<Item = &'a Batch> + Clone) -> Batch {
    let bytes = batches
        .clone()
        .map(|batch| batch.bytes.len())
        .sum::<usize>();
    let mut joined = Changes::with_capacity(bytes);
    batches.for_each(|batch| joined.append(&batch.bytes));
    joined.finish()
}

fn count_of(header: &[u8; HEADER_LEN]) -> u32 {
    let [.., c0, c1, c2, c3] = *header;
    u32::from_le_bytes([c0, c1, c2, c3])
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(changes: &mut Changes, key: &[u8], value: &[u8]) -> Range<usize> {
        let tag = PutTag(vec![1]);
        let encode = |out: &mut Vec<u8>| {
            out.extend_from_slice(value);
            Ok(())
        };
        changes.put(&tag, key, value.len(), encode).unwrap()
    }

    #[test]
    fn a_put_says_where_its_value_stands() {
        let mut changes = Changes::default();
        put(&mut changes, b"a", b"");
        let place = put(&mut changes, b"key", &[7; 300]);
        let batch = changes.finish();
        assert_eq!(batch.bytes()[place], [7; 300]);
        assert_eq!(batch.bytes()[8..12], [2, 0, 0, 0]);
        assert_eq!(batch.bytes()[12..16], [1, 1, b'a', 0]);
        assert_eq!(batch.bytes()[16..23], [1, 3, b'k', b'e', b'y', 0xac, 0x02]);
    }

    #[test]
    fn joined_batches_have_all_records_in_order() {
        let of = |key: &[u8]| {
            let mut changes = Changes::default();
            put(&mut changes, key, b"v");
            changes.finish()
        };
        let all = [of(b"a"), Changes::default().finish(), of(b"bc")];
        let joined = join(all.iter());
        let mut expected = Changes::default();
        put(&mut expected, b"a", b"v");
        put(&mut expected, b"bc", b"v");
        assert_eq!(joined.bytes(), expected.finish().bytes());
    }

    #[test]
    fn what_is_laid_out_otherwise_is_not_learnt_from() {
        let mut changes = Changes::default();
        put(&mut changes, b"key", b"");
        let batch = changes.finish();
        let learnt = PutTag::learn(batch.bytes(), b"key");
        assert_eq!(learnt, Some(PutTag(vec![1])));
        assert_eq!(PutTag::learn(batch.bytes(), b"kez"), None);
        assert_eq!(PutTag::learn(&batch.bytes()[..11], b"key"), None);
        let mut two = Changes::default();
        two.append(batch.bytes());
        two.append(batch.bytes());
        assert_eq!(PutTag::learn(two.finish().bytes(), b"key"), None);
    }
}
