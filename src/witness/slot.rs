//! The bytes of the witness. Pure.
//!
//! ```text
//! file    slot: 4096 | slot: 4096
//! slot    "RRWITN" 0x00 0x01 | store id: 16 | counter: 8 | sequence number: 8
//!         | CRC-32C of these 40: 4 | zeros
//! ```
//! Two slots, so that a write that is torn by a power cut leaves the other; a page each, so
//! that no sector holds parts of both.

use byteorder::{BigEndian, ByteOrder};

const MAGIC: [u8; 8] = *b"RRWITN\0\x01";
const CHECKED_LEN: usize = 40;
/// What is written of a slot; zeros follow.
pub(crate) const RECORD_LEN: usize = CHECKED_LEN + 4;
const SLOT_LEN: usize = 4096;
/// The length of the file.
pub(crate) const FILE_LEN: usize = 2 * SLOT_LEN;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    First,
    Second,
}

impl Slot {
    pub(crate) fn other(self) -> Slot {
        match self {
            Slot::First => Slot::Second,
            Slot::Second => Slot::First,
        }
    }

    /// Where it stands in the file.
    pub(crate) fn place(self) -> usize {
        match self {
            Slot::First => 0,
            Slot::Second => SLOT_LEN,
        }
    }
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The store it belongs to.
    pub store_id: [u8; 16],
    /// Grows with every write: the slot with the higher one is the newer.
    pub counter: u64,
    /// RocksDB's sequence number that a completed sync covered.
    pub sequence: u64,
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD_LEN] {
        let mut out = [0; RECORD_LEN];
        let (checked, crc) = out.split_at_mut(CHECKED_LEN);
        let (head, numbers) = checked.split_at_mut(MAGIC.len() + self.store_id.len());
        let (magic, id) = head.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        id.copy_from_slice(&self.store_id);
        BigEndian::write_u64_into(&[self.counter, self.sequence], numbers);
        BigEndian::write_u32(crc, crc32c::crc32c(checked));
        out
    }

    fn decode(slot: &[u8]) -> Option<Record> {
        let (checked, rest) = slot.split_at_checked(CHECKED_LEN)?;
        let crc = BigEndian::read_u32(rest.get(..4)?);
        let (store_id, numbers) = checked.strip_prefix(&MAGIC)?.split_first_chunk::<16>()?;
        let (counter, sequence) = numbers.split_at_checked(8)?;
        (crc32c::crc32c(checked) == crc).then(|| Record {
            store_id: *store_id,
            counter: BigEndian::read_u64(counter),
            sequence: BigEndian::read_u64(sequence),
        })
    }

    /// The newer of the slots of a file that are whole, and where it stands.
    pub(crate) fn newest(file: &[u8]) -> Option<(Record, Slot)> {
        [Slot::First, Slot::Second]
            .into_iter()
            .filter_map(|slot| Some((Record::decode(file.get(slot.place()..)?)?, slot)))
            .max_by_key(|(record, _)| record.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(counter: u64) -> Record {
        Record {
            store_id: *b"0123456789abcdef",
            counter,
            sequence: 1000 + counter,
        }
    }

    fn file(first: Record, second: Record) -> Vec<u8> {
        let mut file = vec![0; FILE_LEN];
        for (slot, record) in [(Slot::First, first), (Slot::Second, second)] {
            file[slot.place()..slot.place() + RECORD_LEN].copy_from_slice(&record.encode());
        }
        file
    }

    #[test]
    fn the_newer_slot_is_taken() {
        let newest = |first, second| Record::newest(&file(record(first), record(second)));
        assert_eq!(newest(7, 8), Some((record(8), Slot::Second)));
        assert_eq!(newest(9, 8), Some((record(9), Slot::First)));
    }

    #[test]
    fn every_flipped_bit_of_a_slot_leaves_the_other() {
        let whole = file(record(7), record(8));
        for slot in [Slot::First, Slot::Second] {
            for bit in 0..RECORD_LEN * 8 {
                let mut damaged = whole.clone();
                damaged[slot.place() + bit / 8] ^= 1 << (bit % 8);
                let (_, found) = Record::newest(&damaged).unwrap();
                assert_eq!(found, slot.other(), "{slot:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_file_that_was_cut_short_or_is_no_witness_has_none() {
        let whole = file(record(7), record(8));
        for len in 0..whole.len() {
            let found = Record::newest(&whole[..len]).map(|(record, _)| record.counter);
            let expected = if len < RECORD_LEN {
                None
            } else if len < Slot::Second.place() + RECORD_LEN {
                Some(7)
            } else {
                Some(8)
            };
            assert_eq!(found, expected, "{len} bytes");
        }
        assert_eq!(Record::newest(&[0; FILE_LEN]), None);
    }

    /// As `docs/format.md` shows it.
    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let record = Record {
            store_id: [0x11; 16],
            counter: 2,
            sequence: 300,
        };
        let mut expected = b"RRWITN\0\x01".to_vec();
        expected.extend([0x11; 16]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0x2c]);
        let crc = crc32c::crc32c(&expected);
        expected.extend(crc.to_be_bytes());
        assert_eq!(record.encode()[..], expected);
    }
}
