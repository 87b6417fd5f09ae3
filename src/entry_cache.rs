//! The tail of the log, bounded in bytes. Pure.
//!
//! raft-rs reads what it just wrote: to send it to followers that keep up and to apply it.
//! That tail is answered from here; anything older comes from RocksDB.

use std::borrow::Cow;
use std::collections::VecDeque;

use protobuf::Message as _;
use raft::eraftpb::Entry;

/// What an entry costs beyond its encoded size: the struct and its two buffers.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// The newest entries of a log.
///
/// Invariants:
/// 1. The entries are contiguous and end at the last index of the log, or there are none.
/// 2. Their bytes do not exceed the budget, but for pinned entries: nothing else holds those.
#[derive(Debug)]
pub struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    /// Entries from here on stay, whatever they cost.
    pinned_from: u64,
}

impl EntryCache {
    /// An empty cache that holds up to `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        EntryCache {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
            pinned_from: u64::MAX,
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

    /// Keeps entries from `index` on until it is called again; `u64::MAX` keeps none. What no
    /// longer fits goes with the next [`evict`](Self::evict).
    pub fn pin(&mut self, index: u64) {
        self.pinned_from = index;
    }

    /// Appends entries that follow the log's last one, after anything at or past the first of
    /// them has been dropped. Borrowed ones are copied if they will stay.
    pub fn append(&mut self, entries: Cow<'_, [Entry]>) {
        let Some(first) = entries.first() else { return };
        let first = first.index;
        self.truncate_from(first);
        if self.last_index().is_some_and(|last| last + 1 != first) {
            self.clear();
        }
        match entries {
            Cow::Owned(entries) => entries.into_iter().for_each(|entry| self.push(entry)),
            Cow::Borrowed(entries) => {
                let skip = self.count_without_room(entries);
                if skip > 0 {
                    self.clear();
                }
                let kept = entries.iter().skip(skip);
                kept.for_each(|entry| self.push(entry.clone()));
            }
        }
        self.evict();
    }

    /// How many of `entries`, from the first on, would be dropped again at once.
    fn count_without_room(&self, entries: &[Entry]) -> usize {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += cost(entry);
            bytes <= self.bytes_max || entry.index >= self.pinned_from
        };
        entries.len() - entries.iter().rev().take_while(fits).count()
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    fn last_index(&self) -> Option<u64> {
        self.entries.back().map(|entry| entry.index)
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

    /// Drops the oldest entries until the rest fits.
    pub fn evict(&mut self) {
        let pinned_from = self.pinned_from;
        let pinned = |entry: &Entry| entry.index >= pinned_from;
        while self.bytes > self.bytes_max && !self.entries.front().is_some_and(pinned) {
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
        cache.append(entries(1..6, 100).into());
        assert_eq!(held(&cache), [3, 4, 5]);
        assert!(cache.bytes() <= 3 * one);
        cache.set_bytes_max(one);
        assert_eq!(held(&cache), [5]);
    }

    #[test]
    fn an_entry_larger_than_the_budget_leaves_an_empty_cache() {
        let mut cache = EntryCache::new(200);
        cache.append(entries(1..3, 4096).into());
        assert_eq!((held(&cache).len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn what_would_not_stay_is_not_copied_and_leaves_the_newest() {
        let all = entries(1..9, 100);
        let one = cost(&all[0]);
        let mut owned = EntryCache::new(3 * one);
        owned.append(all.clone().into());
        let mut borrowed = EntryCache::new(3 * one);
        borrowed.append(entries(1..2, 1).into());
        borrowed.append(all[1..].into());
        assert_eq!(held(&owned), [6, 7, 8]);
        assert_eq!(held(&borrowed), held(&owned));
        assert_eq!(borrowed.bytes(), owned.bytes());
    }

    #[test]
    fn pinned_entries_stay_until_they_are_released() {
        let mut cache = EntryCache::new(0);
        cache.pin(3);
        cache.append(entries(1..6, 100).into());
        assert_eq!(held(&cache), [3, 4, 5]);
        cache.append(entries(6..8, 100)[..].into());
        assert_eq!(held(&cache), [3, 4, 5, 6, 7]);
        cache.pin(6);
        cache.evict();
        assert_eq!(held(&cache), [6, 7]);
        cache.pin(u64::MAX);
        cache.evict();
        assert_eq!((held(&cache).len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn overwriting_drops_the_old_tail() {
        let mut cache = EntryCache::new(1 << 20);
        cache.append(entries(1..6, 1).into());
        cache.append(entries(3..4, 9).into());
        assert_eq!(held(&cache), [1, 2, 3]);
        assert_eq!(cache.entries[2].data.len(), 9);
        cache.append(entries(9..10, 1).into());
        assert_eq!(held(&cache), [9], "a gap would make the cache lie");
    }

    #[test]
    fn reads_start_inside_or_not_at_all() {
        let mut cache = EntryCache::new(1 << 20);
        assert!(cache.from(1).is_none());
        cache.append(entries(4..8, 1).into());
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
