//! The tail of the log, bounded in bytes. Pure.
//!
//! raft-rs reads what it just wrote: to send it to followers that keep up and to apply it.
//! That tail is answered from here; anything older comes from RocksDB.

use std::collections::VecDeque;

use protobuf::Message as _;
use raft::eraftpb::Entry;

/// What an entry costs beyond its encoded size: the struct and its two buffers.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// The newest entries of a log.
///
/// Invariants:
/// 1. The entries are contiguous and end at the last index of the log, or there are none.
/// 2. Their bytes never exceed the budget.
#[derive(Debug, Default)]
pub struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    /// An empty cache that holds up to `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        EntryCache {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    #[cfg(test)]
    /// The bytes held, by the cache's own count.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the budget, dropping the oldest entries that no longer fit.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.evict();
    }

    /// Appends entries that follow the log's last one, after anything at or past the first of
    /// them has been dropped.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.truncate_from(first.index);
        if self
            .entries
            .back()
            .is_some_and(|last| last.index + 1 != first.index)
        {
            self.clear();
        }
        for entry in entries {
            self.bytes += cost(entry);
            self.entries.push_back(entry.clone());
        }
        self.evict();
    }

    /// Drops every entry at or past `index`.
    pub fn truncate_from(&mut self, index: u64) {
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.index >= index)
        {
            self.pop(VecDeque::pop_back);
        }
    }

    /// Drops every entry before `index`.
    pub fn compact(&mut self, index: u64) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.index < index)
        {
            self.pop(VecDeque::pop_front);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// The first index that is held; `None` when nothing is.
    pub fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// The entries from `low` on; `None` when `low` is not held.
    pub fn from(&self, low: u64) -> Option<impl Iterator<Item = &Entry>> {
        let skip = low.checked_sub(self.first_index()?)?;
        let skip = usize::try_from(skip)
            .ok()
            .filter(|skip| *skip < self.entries.len())?;
        Some(self.entries.iter().skip(skip))
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            self.pop(VecDeque::pop_front);
        }
    }

    fn pop(&mut self, end: impl FnOnce(&mut VecDeque<Entry>) -> Option<Entry>) {
        match end(&mut self.entries) {
            Some(entry) => self.bytes -= cost(&entry),
            None => self.bytes = 0,
        }
    }
}

fn cost(entry: &Entry) -> usize {
    entry.compute_size() as usize + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::Range<u64>, len: usize) -> Vec<Entry> {
        range
            .map(|index| {
                let mut entry = Entry::default();
                entry.index = index;
                entry.term = 1;
                entry.data = vec![7; len].into();
                entry
            })
            .collect()
    }

    fn held(cache: &EntryCache) -> Vec<u64> {
        cache.entries.iter().map(|e| e.index).collect()
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let one = cost(&entries(1..2, 100)[0]);
        let mut cache = EntryCache::new(3 * one);
        cache.append(&entries(1..6, 100));
        assert_eq!(held(&cache), [3, 4, 5]);
        assert!(cache.bytes() <= 3 * one);
        cache.set_bytes_max(one);
        assert_eq!(held(&cache), [5]);
    }

    #[test]
    fn an_entry_larger_than_the_budget_leaves_an_empty_cache() {
        let mut cache = EntryCache::new(200);
        cache.append(&entries(1..3, 4096));
        assert_eq!((held(&cache).len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn overwriting_drops_the_old_tail() {
        let mut cache = EntryCache::new(1 << 20);
        cache.append(&entries(1..6, 1));
        cache.append(&entries(3..4, 9));
        assert_eq!(held(&cache), [1, 2, 3]);
        assert_eq!(cache.entries[2].data.len(), 9);
        cache.append(&entries(9..10, 1));
        assert_eq!(held(&cache), [9], "a gap would make the cache lie");
    }

    #[test]
    fn reads_start_inside_or_not_at_all() {
        let mut cache = EntryCache::new(1 << 20);
        assert!(cache.from(1).is_none());
        cache.append(&entries(4..8, 1));
        assert!(cache.from(3).is_none() && cache.from(8).is_none());
        assert_eq!(
            cache.from(6).unwrap().map(|e| e.index).collect::<Vec<_>>(),
            [6, 7]
        );
        cache.compact(6);
        assert_eq!(held(&cache), [6, 7]);
        cache.truncate_from(0);
        assert_eq!((held(&cache).len(), cache.bytes()), (0, 0));
    }
}
