//! The key layout. Pure.
//!
//! Group 0 uses the bare keys, every other group the same keys behind a prefix:
//!
//! ```text
//! /format                                  format version and store id
//! /raft/first_index                        group 0
//! /raft/entry/<index: 8 bytes, big-endian>
//! /group/<id: 8 bytes, big-endian>/raft/first_index
//! /group/<id: 8 bytes, big-endian>/raft/entry/<index: 8 bytes, big-endian>
//! ```
//!
//! Invariants:
//! 1. The keys of one group share a prefix that no other group's keys have.
//! 2. Entry keys of a group sort by index, because the index is big-endian and last.
//! 3. No other key of the group sorts between two of its entry keys.

use std::ops::{Deref, DerefMut};

use byteorder::{BigEndian, ByteOrder};

/// The key of the format version, one per store.
pub const FORMAT: &[u8] = b"/format";

/// What every key of group 0 starts with.
pub(crate) const GROUP_ZERO: &[u8] = b"/raft/";

const GROUP: &[u8] = b"/group/";
const ENTRY: &[u8] = b"/raft/entry/";
const INDEX_LEN: usize = 8;

/// The kinds of record that a group has one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// First index, truncated index and its term.
    FirstIndex,
    /// Last index and its term.
    LastIndex,
    /// Term, vote and commit.
    HardState,
    /// The configuration and the applied index it belongs to.
    ConfState,
    /// The first index not known to be committed.
    UncommitIndex,
    /// The newest snapshot.
    Snapshot,
}

impl Meta {
    /// Every kind, in the order of the list in `docs/format.md`.
    pub const ALL: [Meta; 6] = [
        Meta::FirstIndex,
        Meta::LastIndex,
        Meta::HardState,
        Meta::ConfState,
        Meta::UncommitIndex,
        Meta::Snapshot,
    ];

    /// The key of group 0.
    pub const fn key(self) -> &'static [u8] {
        match self {
            Meta::FirstIndex => b"/raft/first_index",
            Meta::LastIndex => b"/raft/last_index",
            Meta::HardState => b"/raft/hard_state",
            Meta::ConfState => b"/raft/conf_state",
            Meta::UncommitIndex => b"/raft/uncommit_index",
            Meta::Snapshot => b"/raft/snapshot",
        }
    }
}

/// The longest key there is: an entry of a numbered group.
pub const KEY_LEN_MAX: usize = GROUP.len() + 8 + ENTRY.len() + INDEX_LEN;
const _: () = assert!(KEY_LEN_MAX == 35);

/// A key that is needed for a moment: every write makes some, and allocates nothing for them.
pub(crate) struct KeyBuf {
    bytes: [u8; KEY_LEN_MAX],
    len: usize,
}

impl KeyBuf {
    const fn new() -> Self {
        KeyBuf {
            bytes: [0; KEY_LEN_MAX],
            len: 0,
        }
    }

    /// Appends a part of a key; all together fit.
    fn extend_from_slice(&mut self, part: &[u8]) {
        let end = self.len + part.len();
        debug_assert!(end <= KEY_LEN_MAX, "the longest key there is");
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(part);
            self.len = end;
        }
    }
}

impl Deref for KeyBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for KeyBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

/// What the keys of a group's entries have in common, and no other key has.
pub(crate) const ENTRIES_PREFIX_LEN: usize = KEY_LEN_MAX - INDEX_LEN;

/// Appends the prefix of a group to `out`: nothing for group 0.
fn put_prefix(out: &mut KeyBuf, group: u64) {
    if group != 0 {
        out.extend_from_slice(GROUP);
        out.extend_from_slice(&group.to_be_bytes());
    }
}

/// The key of a record that a group has one of.
pub fn meta(group: u64, meta: Meta) -> Vec<u8> {
    meta_buf(group, meta).to_vec()
}

/// As [`meta`].
pub(crate) fn meta_buf(group: u64, meta: Meta) -> KeyBuf {
    let mut key = KeyBuf::new();
    put_prefix(&mut key, group);
    key.extend_from_slice(meta.key());
    key
}

/// The key of one entry.
pub fn entry(group: u64, index: u64) -> Vec<u8> {
    entry_buf(group, index).to_vec()
}

/// As [`entry`].
pub(crate) fn entry_buf(group: u64, index: u64) -> KeyBuf {
    let mut key = KeyBuf::new();
    put_prefix(&mut key, group);
    key.extend_from_slice(ENTRY);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Makes the key of another entry of the same group out of one.
pub(crate) fn set_index(entry_key: &mut [u8], index: u64) {
    if let Some(tail) = entry_key.last_chunk_mut::<INDEX_LEN>() {
        *tail = index.to_be_bytes();
    }
}

/// The first key past every entry of a group. Entry keys end in eight bytes, so the longer
/// key of index `u64::MAX` with a zero byte behind it is greater than all of them.
pub fn entries_end(group: u64) -> Vec<u8> {
    let mut key = entry(group, u64::MAX);
    key.push(0);
    key
}

/// A key that sorts before every key of groups with at least this id; `id` is not 0.
pub fn group_floor(id: u64) -> Vec<u8> {
    let mut key = KeyBuf::new();
    put_prefix(&mut key, id);
    key.to_vec()
}

/// What a key of the raft column family stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The format version of the store.
    Format,
    /// A record that the group has one of.
    Meta(u64, Meta),
    /// The entry of a group at an index.
    Entry(u64, u64),
}

/// Reads a key back; `None` when no group has such a key.
pub fn parse(key: &[u8]) -> Option<Key> {
    if key == FORMAT {
        return Some(Key::Format);
    }
    let (group, rest) = match key.strip_prefix(GROUP) {
        None => (0, key),
        Some(tail) => {
            let (id, rest) = tail.split_at_checked(8)?;
            // Group 0 has no prefix: a second spelling of the same key is not a key.
            (Some(BigEndian::read_u64(id)).filter(|id| *id != 0)?, rest)
        }
    };
    if let Some(index) = rest.strip_prefix(ENTRY) {
        return (index.len() == INDEX_LEN).then(|| Key::Entry(group, BigEndian::read_u64(index)));
    }
    Meta::ALL
        .into_iter()
        .find(|m| m.key() == rest)
        .map(|m| Key::Meta(group, m))
}

/// The group that a key lies under, whether or not it is one that a group has.
pub(crate) fn group_of(key: &[u8]) -> Option<u64> {
    if key.starts_with(GROUP_ZERO) {
        return Some(0);
    }
    let id = key.strip_prefix(GROUP)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*id)).filter(|id| *id != 0)
}

/// A key for people: printable bytes as they are, group and index in decimal.
pub fn display(key: &[u8]) -> String {
    match parse(key) {
        Some(Key::Entry(0, index)) => format!("/raft/entry/{index}"),
        Some(Key::Entry(group, index)) => format!("/group/{group}/raft/entry/{index}"),
        Some(Key::Meta(0, m)) => m.key().escape_ascii().to_string(),
        Some(Key::Meta(group, m)) => format!("/group/{group}{}", m.key().escape_ascii()),
        Some(Key::Format) | None => key.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_zero_uses_the_published_keys() {
        assert_eq!(meta(0, Meta::FirstIndex), b"/raft/first_index");
        assert_eq!(meta(0, Meta::LastIndex), b"/raft/last_index");
        assert_eq!(meta(0, Meta::HardState), b"/raft/hard_state");
        assert_eq!(meta(0, Meta::ConfState), b"/raft/conf_state");
        assert_eq!(meta(0, Meta::UncommitIndex), b"/raft/uncommit_index");
        assert_eq!(meta(0, Meta::Snapshot), b"/raft/snapshot");
        assert_eq!(entry(0, 258), b"/raft/entry/\0\0\0\0\0\0\x01\x02");
    }

    #[test]
    fn other_groups_use_the_same_keys_behind_a_prefix() {
        assert_eq!(
            meta(1, Meta::Snapshot),
            b"/group/\0\0\0\0\0\0\0\x01/raft/snapshot"
        );
        assert_eq!(entry(u64::MAX, 7).len(), KEY_LEN_MAX);
    }

    #[test]
    fn entries_sort_by_index_and_end_before_the_end_key() {
        for group in [0, 1, 255, 256, u64::MAX] {
            assert!(entry(group, 9) < entry(group, 10));
            assert!(entry(group, 255) < entry(group, 256));
            assert!(entry(group, u64::MAX) < entries_end(group));
            for m in Meta::ALL {
                let key = meta(group, m);
                assert!(key < entry(group, 0) || key > entries_end(group));
            }
        }
    }

    #[test]
    fn groups_do_not_interleave() {
        assert!(entries_end(1) < group_floor(2));
        assert!(meta(1, Meta::UncommitIndex) < group_floor(2));
        assert!(entries_end(0) > entry(0, u64::MAX));
        assert!(group_floor(1).as_slice() > FORMAT && entry(u64::MAX, 0) < entry(0, 0));
    }

    #[test]
    fn parse_reads_back_every_key_and_nothing_else() {
        for group in [0, 1, u64::MAX] {
            for m in Meta::ALL {
                assert_eq!(parse(&meta(group, m)), Some(Key::Meta(group, m)));
            }
            for index in [0, 1, u64::MAX] {
                assert_eq!(parse(&entry(group, index)), Some(Key::Entry(group, index)));
            }
            assert_eq!(parse(&entries_end(group)), None);
        }
        assert_eq!(parse(FORMAT), Some(Key::Format));
        assert_eq!(parse(b"/group/\0\0\0\0\0\0\0\0/raft/snapshot"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"/group/"), None);
    }

    #[test]
    fn display_is_readable() {
        assert_eq!(display(&entry(0, 10)), "/raft/entry/10");
        assert_eq!(
            display(&meta(3, Meta::HardState)),
            "/group/3/raft/hard_state"
        );
        assert_eq!(display(b"/raft/\xff"), "/raft/\\xff");
    }
}
