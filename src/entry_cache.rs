//! The tail of the log, bounded in bytes. Pure.
//!
//! raft-rs reads what it just wrote: to send it to followers that keep up and to apply it.
//! That tail is answered from here; anything older comes from RocksDB. Entries stand in the
//! bytes of the write that brought them, so that keeping them copies nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use raft::eraftpb::Entry;
use smallvec::SmallVec;

use crate::changes::Batch;
use crate::record;

/// What a chunk costs beyond its bytes and places.
const CHUNK_OVERHEAD_BYTES: usize = 96;

/// Where records stand in the bytes of a write. One costs no allocation: most appends of a store
/// with many groups hold a single entry.
pub(crate) type Places = SmallVec<[Range<usize>; 1]>;

/// Consecutive entries, in the bytes of one write.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// The index of the first.
    pub first: u64,
    /// Where each one's record stands in `bytes`.
    pub places: Places,
    pub bytes: Arc<Batch>,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    fn cost(&self) -> usize {
        let places = if self.places.spilled() {
            self.places.capacity() * size_of::<Range<usize>>()
        } else {
            0
        };
        self.bytes.capacity() + places + CHUNK_OVERHEAD_BYTES
    }

    /// Hands over entries from the `skip`-th on until `take` has enough; whether it has not.
    fn visit(&self, skip: usize, take: &mut impl FnMut(Entry) -> bool) -> bool {
        let bytes = self.bytes.bytes();
        let places = self.places.get(skip..).unwrap_or_default();
        for (index, place) in (self.first + skip as u64..).zip(places) {
            let Some(entry) = record::recall_entry(index, bytes, place) else {
                debug_assert!(false, "it was encoded here");
                return false;
            };
            if !take(entry) {
                return false;
            }
        }
        true
    }
}

/// The newest entries of a log.
///
/// Invariants:
/// 1. The entries are contiguous and end at the last index of the log, or there are none.
/// 2. No chunk is empty.
/// 3. The chunks cost no more than the budget, but for those with pinned entries: nothing else
///    holds them.
#[derive(Debug)]
pub(crate) struct EntryCache {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    bytes_max: usize,
    /// Entries from here on stay, whatever they cost.
    pinned_from: u64,
}

impl EntryCache {
    /// An empty cache that holds up to `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        EntryCache {
            chunks: VecDeque::new(),
            bytes: 0,
            bytes_max,
            pinned_from: u64::MAX,
        }
    }

    /// Changes the budget, dropping the oldest chunks that no longer fit.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.evict();
    }

    /// Keeps entries from `index` on until it is called again; `u64::MAX` keeps none. What no
    /// longer fits goes with the next [`evict`](Self::evict).
    pub(crate) fn pin(&mut self, index: u64) {
        self.pinned_from = index;
    }

    /// Appends entries that follow the log's last one, after anything at or past the first of
    /// them has been dropped.
    pub(crate) fn append(&mut self, chunk: Chunk) {
        if chunk.places.is_empty() {
            return;
        }
        self.truncate_from(chunk.first);
        if self
            .chunks
            .back()
            .is_some_and(|last| last.end() != chunk.first)
        {
            self.clear();
        }
        self.bytes += chunk.cost();
        self.chunks.push_back(chunk);
        self.evict();
    }

    /// Drops every entry at or past `index`.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        while self.chunks.back().is_some_and(|chunk| chunk.first >= index) {
            self.pop(VecDeque::pop_back);
        }
        if let Some(last) = self.chunks.back_mut() {
            // Its bytes are held, and counted, as before.
            let len = usize::try_from(index - last.first).unwrap_or(usize::MAX);
            last.places.truncate(len);
        }
    }

    /// Drops every entry before `index`.
    pub(crate) fn compact(&mut self, index: u64) {
        while self
            .chunks
            .front()
            .is_some_and(|chunk| chunk.end() <= index)
        {
            self.pop(VecDeque::pop_front);
        }
        if let Some(first) = self.chunks.front_mut()
            && first.first < index
        {
            let count = usize::try_from(index - first.first).unwrap_or(usize::MAX);
            first.places.drain(..count.min(first.places.len()));
            first.first = index;
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }

    /// The first index that is held; `None` when nothing is.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.chunks.front().map(|chunk| chunk.first)
    }

    /// Hands over the entries from `low` on until `take` has enough or there are no more;
    /// whether `low` is held.
    pub(crate) fn visit(&self, low: u64, mut take: impl FnMut(Entry) -> bool) -> bool {
        let at = self.chunks.partition_point(|chunk| chunk.end() <= low);
        let held = self.chunks.get(at).filter(|chunk| chunk.first <= low);
        let Some(skip) = held.and_then(|chunk| usize::try_from(low - chunk.first).ok()) else {
            return false;
        };
        let mut skip = skip;
        for chunk in self.chunks.range(at..) {
            if !chunk.visit(skip, &mut take) {
                break;
            }
            skip = 0;
        }
        true
    }

    /// Drops the oldest chunks until the rest fits.
    pub(crate) fn evict(&mut self) {
        let pinned_from = self.pinned_from;
        let pinned = |chunk: &Chunk| chunk.end() > pinned_from;
        while self.bytes > self.bytes_max && !self.chunks.front().is_none_or(pinned) {
            self.pop(VecDeque::pop_front);
        }
    }

    fn pop(&mut self, end: impl FnOnce(&mut VecDeque<Chunk>) -> Option<Chunk>) {
        match end(&mut self.chunks) {
            Some(chunk) if !self.chunks.is_empty() => self.bytes -= chunk.cost(),
            _ => self.bytes = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::{Changes, PutTag};

    fn chunk(range: Range<u64>, len: usize) -> Chunk {
        let mut rocks = vec![0; 12];
        rocks[8] = 1;
        rocks.extend_from_slice(&[1, 1, b'k', 0]);
        let tag = PutTag::learn(&rocks, b"k").unwrap();
        let mut changes = Changes::with_capacity(range.clone().count() * (len + 32));
        let first = range.start;
        let places = range
            .map(|index| {
                let mut entry = Entry::default();
                entry.index = index;
                entry.term = 1;
                entry.data = vec![7; len].into();
                let encode = |out: &mut Vec<u8>| record::append_entry(5, &entry, out);
                changes
                    .put(&tag, b"key", record::entry_len(&entry), encode)
                    .unwrap()
            })
            .collect();
        let bytes = Arc::new(changes.finish());
        Chunk {
            first,
            places,
            bytes,
        }
    }

    fn held(cache: &EntryCache) -> Vec<u64> {
        from(cache, cache.first_index().unwrap_or(0)).unwrap_or_default()
    }

    /// `None` when `low` is not held.
    fn from(cache: &EntryCache, low: u64) -> Option<Vec<u64>> {
        let mut indexes = Vec::new();
        let held = cache.visit(low, |entry| {
            indexes.push(entry.index);
            true
        });
        held.then_some(indexes)
    }

    #[test]
    fn the_oldest_chunks_make_room() {
        let one = chunk(1..2, 100).cost();
        let mut cache = EntryCache::new(3 * one);
        (1..6).for_each(|index| cache.append(chunk(index..index + 1, 100)));
        assert_eq!(held(&cache), [3, 4, 5]);
        assert_eq!(cache.bytes, 3 * one);
        cache.set_bytes_max(one);
        assert_eq!(held(&cache), [5]);
    }

    #[test]
    fn a_chunk_larger_than_the_budget_leaves_an_empty_cache() {
        let mut cache = EntryCache::new(1000);
        cache.append(chunk(1..3, 4096));
        assert_eq!((held(&cache).len(), cache.bytes), (0, 0));
    }

    #[test]
    fn pinned_entries_stay_until_they_are_released() {
        let mut cache = EntryCache::new(0);
        cache.pin(3);
        cache.append(chunk(1..3, 100));
        assert_eq!(held(&cache), [] as [u64; 0]);
        cache.append(chunk(3..6, 100));
        cache.append(chunk(6..8, 100));
        assert_eq!(held(&cache), [3, 4, 5, 6, 7]);
        cache.pin(5);
        cache.evict();
        assert_eq!(held(&cache), [3, 4, 5, 6, 7], "one of a chunk keeps it");
        cache.pin(6);
        cache.evict();
        assert_eq!(held(&cache), [6, 7]);
        cache.pin(u64::MAX);
        cache.evict();
        assert_eq!((held(&cache).len(), cache.bytes), (0, 0));
    }

    #[test]
    fn overwriting_drops_the_old_tail() {
        let mut cache = EntryCache::new(1 << 20);
        cache.append(chunk(1..6, 1));
        cache.append(chunk(3..4, 9));
        assert_eq!(held(&cache), [1, 2, 3]);
        let mut third = Entry::default();
        assert!(cache.visit(3, |entry| {
            third = entry;
            false
        }));
        assert_eq!((third.index, third.data.len()), (3, 9));
        cache.append(chunk(9..10, 1));
        assert_eq!(held(&cache), [9], "a gap would make the cache lie");
    }

    #[test]
    fn reads_start_inside_or_not_at_all() {
        let mut cache = EntryCache::new(1 << 20);
        assert_eq!(from(&cache, 1), None);
        cache.append(chunk(4..6, 1));
        cache.append(chunk(6..8, 1));
        assert_eq!((from(&cache, 3), from(&cache, 8)), (None, None));
        assert_eq!(from(&cache, 5), Some(vec![5, 6, 7]));
        assert_eq!(from(&cache, 6), Some(vec![6, 7]));
        cache.compact(5);
        assert_eq!(held(&cache), [5, 6, 7]);
        cache.compact(6);
        assert_eq!(held(&cache), [6, 7]);
        cache.truncate_from(0);
        assert_eq!((held(&cache).len(), cache.bytes), (0, 0));
    }

    #[test]
    fn agrees_with_a_plain_list_of_indexes() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut cache = EntryCache::new(usize::MAX);
        let mut all: Vec<u64> = Vec::new();
        for _ in 0..5_000 {
            let (first, last) = (
                all.first().copied().unwrap_or(1),
                all.last().copied().unwrap_or(0),
            );
            match random.u8(..6) {
                0 if last > 0 => {
                    let index = random.u64(first..=last + 1);
                    cache.truncate_from(index);
                    all.retain(|held| *held < index);
                }
                1 if last > 0 => {
                    let index = random.u64(first..=last + 1);
                    cache.compact(index);
                    all.retain(|held| *held >= index);
                }
                _ => {
                    let from = random.u64(first.max(last.saturating_sub(3))..=last + 1);
                    let range = from..from + random.u64(1..5);
                    cache.append(chunk(range.clone(), 3));
                    all.retain(|held| *held < from);
                    all.extend(range);
                }
            }
            assert_eq!(held(&cache), all);
            let cost: usize = cache.chunks.iter().map(Chunk::cost).sum();
            assert_eq!(cache.bytes, cost);
        }
    }
}
