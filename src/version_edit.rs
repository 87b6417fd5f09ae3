//! Reads the records of a MANIFEST as RocksDB 11.8 writes them (`VersionEdit::EncodeTo` in
//! `db/version_edit.cc`). Pure.
//!
//! ```text
//! edit    field...                      to the end of the record
//! field   tag: varint | value           by the tag: numbers, or a length and bytes
//! ```
//! A new MANIFEST begins with the whole state of the database, of which the last edit says how
//! large that was; then come changes, each synced before RocksDB acts on it.
//!
//! The value of a tag that is not known here has an unknown length, and what follows could be
//! anything: it is an error, also where RocksDB would pass it by.

/// What the edits of a MANIFEST tell together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The last sequence number that stands in a table, or ever did.
    pub last_sequence: u64,
    /// The state it begins with is there to its end.
    pub has_whole_state: bool,
}

impl Told {
    /// Adds an edit; `None` when it is not one that RocksDB 11.8 writes for a store.
    pub(crate) fn add(&mut self, edit: &[u8]) -> Option<()> {
        let mut input = Input(edit);
        while !input.0.is_empty() {
            match input.number()? {
                tag::LAST_SEQUENCE => {
                    self.last_sequence = self.last_sequence.max(input.number()?);
                }
                tag::LAST_COMPACTED_MANIFEST_FILE_SIZE => {
                    input.bytes()?;
                    self.has_whole_state = true;
                }
                other => input.skip(other)?,
            }
        }
        Some(())
    }
}

/// Of `db/version_edit.h`.
mod tag {
    pub(super) const COMPARATOR: u64 = 1;
    pub(super) const LOG_NUMBER: u64 = 2;
    pub(super) const NEXT_FILE_NUMBER: u64 = 3;
    pub(super) const LAST_SEQUENCE: u64 = 4;
    pub(super) const COMPACT_CURSOR: u64 = 5;
    pub(super) const DELETED_FILE: u64 = 6;
    pub(super) const PREV_LOG_NUMBER: u64 = 9;
    pub(super) const MIN_LOG_NUMBER_TO_KEEP: u64 = 10;
    pub(super) const NEW_FILE_4: u64 = 103;
    pub(super) const COLUMN_FAMILY: u64 = 200;
    pub(super) const COLUMN_FAMILY_ADD: u64 = 201;
    pub(super) const COLUMN_FAMILY_DROP: u64 = 202;
    pub(super) const MAX_COLUMN_FAMILY: u64 = 203;
    pub(super) const IN_ATOMIC_GROUP: u64 = 300;
    pub(super) const DB_ID: u64 = (1 << 13) + 1;
    pub(super) const FULL_HISTORY_TS_LOW: u64 = DB_ID + 5;
    pub(super) const WAL_ADDITION_2: u64 = DB_ID + 6;
    pub(super) const WAL_DELETION_2: u64 = DB_ID + 7;
    pub(super) const PERSIST_USER_DEFINED_TIMESTAMPS: u64 = DB_ID + 8;
    pub(super) const SUBCOMPACTION_PROGRESS: u64 = DB_ID + 9;
    pub(super) const LAST_COMPACTED_MANIFEST_FILE_SIZE: u64 = DB_ID + 10;
}

/// What is left of an edit.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// A varint: seven bits in each byte, the lowest first, and one that says whether more follow.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth has room for one bit.
            if bits > u64::MAX >> shift {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn numbers(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.number().map(drop))
    }

    /// Bytes behind their length.
    fn bytes(&mut self) -> Option<()> {
        let len = usize::try_from(self.number()?).ok()?;
        self.0 = self.0.get(len..)?;
        Some(())
    }

    /// The value of a tag that tells nothing that is asked for here.
    fn skip(&mut self, tag: u64) -> Option<()> {
        match tag {
            tag::COLUMN_FAMILY_DROP => Some(()),
            tag::LOG_NUMBER
            | tag::NEXT_FILE_NUMBER
            | tag::PREV_LOG_NUMBER
            | tag::MIN_LOG_NUMBER_TO_KEEP
            | tag::COLUMN_FAMILY
            | tag::MAX_COLUMN_FAMILY
            | tag::IN_ATOMIC_GROUP => self.numbers(1),
            tag::DELETED_FILE => self.numbers(2),
            tag::COMPACT_CURSOR => {
                self.numbers(1)?;
                self.bytes()
            }
            tag::NEW_FILE_4 => self.new_file(),
            tag::COMPARATOR
            | tag::COLUMN_FAMILY_ADD
            | tag::DB_ID
            | tag::FULL_HISTORY_TS_LOW
            | tag::WAL_ADDITION_2
            | tag::WAL_DELETION_2
            | tag::PERSIST_USER_DEFINED_TIMESTAMPS
            | tag::SUBCOMPACTION_PROGRESS => self.bytes(),
            _ => None,
        }
    }

    /// Level, number, length; smallest and largest key; their sequence numbers; and more fields, a
    /// tag and bytes each, up to the tag 1.
    fn new_file(&mut self) -> Option<()> {
        const END: u64 = 1;
        self.numbers(3)?;
        self.bytes()?;
        self.bytes()?;
        self.numbers(2)?;
        while self.number()? != END {
            self.bytes()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal_scan;

    /// One that RocksDB 11.8 wrote: two families, a table, logs that came and went.
    const MANIFEST: &[u8] = include_bytes!("../tests/fixtures/format-1/db/MANIFEST-000010");

    fn told(edits: &[Vec<u8>]) -> Option<Told> {
        let mut told = Told::default();
        edits.iter().try_for_each(|edit| told.add(edit))?;
        Some(told)
    }

    #[test]
    fn a_manifest_of_rocksdb_is_understood() {
        let edits = wal_scan::payloads(MANIFEST).unwrap();
        let all = told(&edits).unwrap();
        assert_eq!(
            all,
            Told {
                last_sequence: 29,
                has_whole_state: true
            }
        );
        let state = told(&edits[..5]).unwrap();
        assert!(!state.has_whole_state, "families are still to come");
    }

    #[test]
    fn every_cut_edit_and_unknown_tag_is_an_error_or_shorter() {
        for edit in wal_scan::payloads(MANIFEST).unwrap() {
            for len in 0..edit.len() {
                let _ = Told::default().add(&edit[..len]);
            }
            let mut unknown = edit.clone();
            unknown.extend([8, 0]);
            assert_eq!(Told::default().add(&unknown), None);
        }
        // A table from before its sequence numbers were told; one that the future may bring.
        for tag in [&[7_u8][..], &[100], &[0x8c, 0x40], &[0xff; 10], &[0x80; 9]] {
            assert_eq!(Told::default().add(&[tag, &[0; 20]].concat()), None);
        }
    }

    #[test]
    fn numbers_have_sixty_four_bits() {
        let number = |bytes: &[u8]| Input(bytes).number();
        assert_eq!(number(&[0xac, 0x02]), Some(300));
        assert_eq!(number(&[&[0xff; 9][..], &[1]].concat()), Some(u64::MAX));
        assert_eq!(number(&[&[0xff; 9][..], &[2]].concat()), None);
        assert_eq!(number(&[0x80]), None);
    }
}
