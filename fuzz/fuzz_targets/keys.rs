//! The key layout, against the invariants of `raft_rocks::keys`.
//!
//! The input is used twice: as a key, which may be any bytes, and as two groups and two indexes
//! whose keys are compared.
#![no_main]

use std::cmp::Ordering;

use libfuzzer_sys::fuzz_target;
use raft_rocks::keys::{self, Key, Meta};

fuzz_target!(|bytes: &[u8]| {
    check_any_key(bytes);
    if let Some([a, b, x, y]) = numbers(bytes) {
        check_group(a, x, y);
        check_group(0, x, y);
        check_order(a, b, x, y);
    }
});

fn numbers(bytes: &[u8]) -> Option<[u64; 4]> {
    let (chunks, _) = bytes.as_chunks::<8>();
    let chunks: &[[u8; 8]; 4] = chunks.first_chunk()?;
    Some(chunks.map(u64::from_be_bytes))
}

/// A key has one spelling, and can be shown whatever it is.
fn check_any_key(bytes: &[u8]) {
    if let Some(key) = keys::parse(bytes) {
        assert_eq!(spell(key), bytes, "{key:?}");
    }
    let shown = keys::display(bytes);
    assert!(
        shown
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
        "{shown:?}"
    );
}

fn spell(key: Key) -> Vec<u8> {
    match key {
        Key::Format => keys::FORMAT.to_vec(),
        Key::Meta(group, meta) => keys::meta(group, meta),
        Key::Entry(group, index) => keys::entry(group, index),
    }
}

/// Every key of a group reads back; its entries sort by index, with nothing between them.
fn check_group(group: u64, low: u64, high: u64) {
    let entries = [keys::entry(group, low), keys::entry(group, high)];
    assert_eq!(entries[0].cmp(&entries[1]), low.cmp(&high));
    for (entry, index) in entries.iter().zip([low, high]) {
        assert_eq!(keys::parse(entry), Some(Key::Entry(group, index)));
        assert!(entry.len() <= keys::KEY_LEN_MAX);
        assert!(*entry < keys::entries_end(group));
        check_display(entry, group, &format!("/raft/entry/{index}"));
    }
    for meta in Meta::ALL {
        let key = keys::meta(group, meta);
        assert_eq!(keys::parse(&key), Some(Key::Meta(group, meta)));
        assert!(key < keys::entry(group, 0) || key > keys::entries_end(group));
        check_display(
            &key,
            group,
            std::str::from_utf8(meta.key()).expect("an ASCII key"),
        );
    }
    assert_eq!(keys::parse(&keys::entries_end(group)), None);
    assert_eq!(keys::parse(&keys::group_floor(group)), None);
}

fn check_display(key: &[u8], group: u64, of_group_zero: &str) {
    let prefix = if group == 0 {
        String::new()
    } else {
        format!("/group/{group}")
    };
    assert_eq!(keys::display(key), format!("{prefix}{of_group_zero}"));
}

/// The keys of one group are on one side of all the keys of another: the numbered groups in the
/// order of their ids, then group 0, whose keys have no prefix.
fn check_order(a: u64, b: u64, x: u64, y: u64) {
    let place = |group: u64| (group == 0, group);
    let expected = place(a).cmp(&place(b));
    if expected == Ordering::Equal {
        return;
    }
    for mine in all_keys(a, x) {
        assert_ne!(mine, keys::FORMAT);
        for theirs in all_keys(b, y) {
            assert_eq!(mine.cmp(&theirs), expected, "{}", keys::display(&mine));
        }
        if b != 0 {
            assert_eq!(mine.cmp(&keys::group_floor(b)), expected);
        }
        if a != 0 {
            assert!(mine > keys::group_floor(a));
        }
    }
}

fn all_keys(group: u64, index: u64) -> Vec<Vec<u8>> {
    let metas = Meta::ALL.map(|meta| keys::meta(group, meta));
    let entries = [keys::entry(group, index), keys::entries_end(group)];
    metas.into_iter().chain(entries).collect()
}
