//! The record format, against what `raft_rocks::record` promises: decoding never panics, what
//! was encoded comes back, and no bit can change unnoticed.
//!
//! The input is used twice: as the bytes of a record, which may be any, and as the fields of an
//! entry to encode.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raft_rocks::raft::eraftpb::{Entry, EntryType};
use raft_rocks::record::{
    self, AppliedConfState, ENVELOPE_LEN, FirstIndex, HardState, LastIndex, MetaRecord,
    SnapshotRecord, UncommitIndex,
};

fuzz_target!(|bytes: &[u8]| {
    for place in [(0, 0), (0, 7), (u64::MAX, u64::MAX)] {
        decode(place, bytes);
        if let Some(sealed) = seal(place, bytes) {
            decode(place, &sealed);
        }
    }
    if let Some(case) = Case::from_bytes(bytes) {
        case.check();
    }
});

/// Where every bit is flipped: the header, and some of what follows it.
const FLIPPED_BYTES: usize = 64;

/// Where the checksum stands, behind format, kind and flags.
const CHECKSUM_OFFSET: usize = 4;

/// The group and index that a record belongs to.
type Place = (u64, u64);

/// The checksum as `docs/format.md` has it, put where it belongs: otherwise hardly any input
/// would get past it.
fn seal((group, index): Place, bytes: &[u8]) -> Option<Vec<u8>> {
    let (envelope, payload) = bytes.split_first_chunk::<ENVELOPE_LEN>()?;
    let mut covered = envelope[..CHECKSUM_OFFSET].to_vec();
    covered.extend_from_slice(&group.to_be_bytes());
    covered.extend_from_slice(&index.to_be_bytes());
    covered.extend_from_slice(payload);
    let mut sealed = bytes.to_vec();
    sealed[CHECKSUM_OFFSET..ENVELOPE_LEN].copy_from_slice(&crc32c::crc32c(&covered).to_be_bytes());
    Some(sealed)
}

/// Decodes the bytes as every kind of record. What is accepted is held to its encoding.
fn decode(place: Place, bytes: &[u8]) {
    decode_entry(place, bytes);
    decode_meta::<FirstIndex>(place, bytes);
    decode_meta::<LastIndex>(place, bytes);
    decode_meta::<HardState>(place, bytes);
    decode_meta::<AppliedConfState>(place, bytes);
    decode_meta::<UncommitIndex>(place, bytes);
    decode_meta::<SnapshotRecord>(place, bytes);
    if let Ok(format) = record::decode_format(bytes) {
        assert_eq!(
            record::decode_format(&record::encode_format(&format)),
            Ok(format)
        );
    }
}

/// An entry has one encoding.
fn decode_entry((group, index): Place, bytes: &[u8]) {
    let viewed = record::view_entry(group, index, bytes);
    let decoded = record::decode_entry(group, index, bytes);
    assert_eq!(viewed.is_ok(), decoded.is_ok());
    let (Ok(view), Ok(entry)) = (viewed, decoded) else {
        return;
    };
    assert_eq!(entry.index, index);
    assert_eq!((entry.term, &entry.data[..]), (view.term, view.data));
    assert_eq!(encode_entry(group, &entry), bytes);
}

/// A protobuf message has many encodings, so only what it says is compared.
fn decode_meta<R: MetaRecord + PartialEq>((group, _): Place, bytes: &[u8]) {
    let Ok(decoded) = record::decode_meta::<R>(group, bytes) else {
        return;
    };
    let again = record::encode_meta(group, &decoded);
    assert_eq!(record::decode_meta::<R>(group, &again), Ok(decoded));
    assert!(record::decode_meta::<R>(group ^ 1, &again).is_err());
    check_flips(&again, bytes.len() * 31, |damaged| {
        record::decode_meta::<R>(group, damaged).is_err()
    });
}

fn encode_entry(group: u64, entry: &Entry) -> Vec<u8> {
    let mut out = b"is cleared".to_vec();
    record::encode_entry(group, entry, &mut out).expect("a short context is accepted");
    out
}

/// An entry, and the bit of its encoding that is to flip.
struct Case {
    group: u64,
    entry: Entry,
    bit: usize,
}

impl Case {
    /// Group, index, term, type and flag, bit, context length; then context and data.
    fn from_bytes(bytes: &[u8]) -> Option<Case> {
        let (group, bytes) = bytes.split_first_chunk()?;
        let (index, bytes) = bytes.split_first_chunk()?;
        let (term, bytes) = bytes.split_first_chunk()?;
        let ([kind, bit_high, bit_low, context_len], bytes) = bytes.split_first_chunk()?;
        let (context, data) = bytes.split_at_checked(usize::from(*context_len))?;
        let mut entry = Entry::default();
        entry.index = u64::from_be_bytes(*index);
        entry.term = u64::from_be_bytes(*term);
        entry.set_entry_type(match kind % 3 {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            _ => EntryType::EntryConfChangeV2,
        });
        entry.sync_log = kind & 0x80 != 0;
        entry.context = context.to_vec().into();
        entry.data = data.to_vec().into();
        let bit = usize::from(u16::from_be_bytes([*bit_high, *bit_low]));
        Some(Case {
            group: u64::from_be_bytes(*group),
            entry,
            bit,
        })
    }

    fn check(&self) {
        let place = (self.group, self.entry.index);
        let (group, index) = place;
        let encoded = encode_entry(group, &self.entry);
        assert_eq!(
            record::decode_entry(group, index, &encoded).as_ref(),
            Ok(&self.entry)
        );
        assert_eq!(seal(place, &encoded).as_ref(), Some(&encoded));

        check_flips(&encoded, self.bit, |damaged| {
            record::view_entry(group, index, damaged).is_err()
        });

        // Another format, kind or flag under a checksum that fits is refused, or says so.
        for bit in 0..8 * CHECKSUM_OFFSET {
            let mut other = encoded.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            decode_entry(place, &seal(place, &other).expect("a header"));
        }

        let elsewhere = 1u64 << (self.bit % 64);
        assert!(record::view_entry(group ^ elsewhere, index, &encoded).is_err());
        assert!(record::view_entry(group, index ^ elsewhere, &encoded).is_err());
    }
}

/// Flips each bit of the start of a record, then one anywhere in it.
fn check_flips(record: &[u8], anywhere: usize, is_refused: impl Fn(&[u8]) -> bool) {
    let bits = record.len() * 8;
    let mut damaged = record.to_vec();
    for bit in (0..bits.min(8 * FLIPPED_BYTES)).chain([anywhere % bits]) {
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(&damaged), "bit {bit}");
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
}
