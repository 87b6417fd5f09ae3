//! Where iterations over the keys stand.
//!
//! A cursor of Redis is a number, and keys are not: the key behind which an iteration goes on is
//! kept here. The oldest are forgotten, which an iteration that goes on hears as an error.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;

const BYTES_MAX: usize = 16 << 20;

/// What a cursor costs beside its key.
const COST: usize = 128;

#[derive(Debug, Default)]
pub struct Cursors {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: BTreeMap<u64, Vec<u8>>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl Cursors {
    /// A cursor that goes on behind this key.
    pub fn put(&self, key: Vec<u8>) -> u64 {
        let mut known = self.known.lock();
        // Clients take it for a signed number, and 0 for the end.
        let cursor = loop {
            let cursor = fastrand::u64(1..=i64::MAX as u64);
            if !known.keys.contains_key(&cursor) {
                break cursor;
            }
        };
        known.bytes += key.len() + COST;
        known.keys.insert(cursor, key);
        known.order.push_back(cursor);
        while known.bytes > BYTES_MAX {
            let Some(oldest) = known.order.pop_front() else {
                break;
            };
            if let Some(key) = known.keys.remove(&oldest) {
                known.bytes -= key.len() + COST;
            }
        }
        cursor
    }

    /// The key, as often as it is asked for: a client may repeat a call.
    pub fn get(&self, cursor: u64) -> Option<Vec<u8>> {
        self.known.lock().keys.get(&cursor).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let cursors = Cursors::default();
        let first = cursors.put(b"first".to_vec());
        assert_eq!(cursors.get(first).unwrap(), b"first");
        let mut last = first;
        for _ in 0..20 {
            last = cursors.put(vec![7; 1 << 20]);
        }
        assert_eq!(cursors.get(first), None);
        assert!(cursors.get(last).is_some());
        assert!(cursors.known.lock().bytes <= BYTES_MAX);
    }
}
