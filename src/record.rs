//! Versioned, checksummed values; the entry codec. Pure.
//!
//! Every value starts with the same eight bytes. Integers are big-endian.
//!
//! ```text
//!  0        1      2       4          8
//! +--------+------+-------+----------+-----------------------------+
//! | format | kind | flags | CRC-32C  | payload                     |
//! +--------+------+-------+----------+-----------------------------+
//!
//! an entry (kind 0x10 + entry type; flag 1: the deprecated `sync_log`)
//!  0        1      2       4          8      16               20
//! +--------+------+-------+----------+------+----------------+---------+------+
//! | 1      | 0x1t | flags | CRC-32C  | term | context length | context | data |
//! +--------+------+-------+----------+------+----------------+---------+------+
//! ```
//!
//! Invariants:
//! 1. The checksum covers format, kind and flags, the group id and the index the record
//!    belongs to (0 for kinds that a group has one of), and the payload: every byte of the
//!    record but itself. A record found under another key is refused.
//! 2. Any change of a single bit is detected: CRC-32C finds all of them at any length.
//! 3. Decoding never panics, whatever the bytes.
//! 4. `decode(encode(x)) == x`, and an entry's index is in its key alone.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};
use bytes::Bytes;
use prost::Message;
use raft::eraftpb;

use crate::error::Error;
use crate::keys::Meta;

/// The format that this version writes.
pub const FORMAT_VERSION: u8 = 1;

/// Bytes in front of every payload.
pub const ENVELOPE_LEN: usize = 8;

/// Bytes in front of an entry's context.
pub const ENTRY_HEADER_LEN: usize = 20;
const _: () = assert!(ENTRY_HEADER_LEN == ENVELOPE_LEN + 8 + 4);

const CRC_OFFSET: usize = 4;
const FLAG_SYNC_LOG: u16 = 1;
const KIND_FORMAT: u8 = 0x07;
const KIND_ENTRY: u8 = 0x10;

/// Why bytes are not the record they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Damage {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Damage {
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The error that says where the damage is.
    pub fn at(self, what: &'static str, key: impl Into<String>) -> Error {
        Error::corruption(what, key, self.expected, self.found)
    }
}

/// The payload of `/raft/first_index`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FirstIndex {
    /// The first index that can be read.
    #[prost(uint64, tag = "1")]
    pub first_index: u64,
    /// The last index compacted away, `first_index - 1`.
    #[prost(uint64, tag = "2")]
    pub truncated_index: u64,
    /// The term at the truncated index.
    #[prost(uint64, tag = "3")]
    pub truncated_term: u64,
}

/// The payload of `/raft/last_index`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LastIndex {
    /// The last index of the log, `first_index - 1` when it is empty.
    #[prost(uint64, tag = "1")]
    pub last_index: u64,
    /// The term at the last index.
    #[prost(uint64, tag = "2")]
    pub last_term: u64,
}

/// The payload of `/raft/hard_state`; the same wire format as raft-rs's message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HardState {
    /// The current term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The node voted for in this term, 0 for none.
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    /// The last index known to be committed.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// A configuration; the same wire format as raft-rs's message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfState {
    /// The voters (incoming, in a joint configuration).
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
    /// The learners.
    #[prost(uint64, repeated, tag = "2")]
    pub learners: Vec<u64>,
    /// The outgoing voters of a joint configuration.
    #[prost(uint64, repeated, tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the joint configuration is left.
    #[prost(uint64, repeated, tag = "4")]
    pub learners_next: Vec<u64>,
    /// Whether the joint configuration is left without being asked.
    #[prost(bool, tag = "5")]
    pub auto_leave: bool,
}

/// The payload of `/raft/conf_state`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppliedConfState {
    /// The configuration at the applied index.
    #[prost(message, required, tag = "1")]
    pub conf_state: ConfState,
    /// The applied index.
    #[prost(uint64, tag = "2")]
    pub applied: u64,
}

/// The payload of `/raft/uncommit_index`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UncommitIndex {
    /// The first index not known to be committed, `commit + 1`.
    #[prost(uint64, tag = "1")]
    pub uncommit_index: u64,
}

/// The payload of `/raft/snapshot`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SnapshotRecord {
    /// The index the data was taken at.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// The term at that index.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// The configuration at that index.
    #[prost(message, required, tag = "3")]
    pub conf_state: ConfState,
    /// The data, when it stands here.
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
    /// The file, when the data stands there.
    #[prost(message, optional, tag = "5")]
    pub file: Option<SnapshotFile>,
}

/// The file that holds a snapshot's data.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SnapshotFile {
    /// The file's name in the snapshot directory.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The bytes of data, without the file's own framing.
    #[prost(uint64, tag = "2")]
    pub data_bytes: u64,
    /// The CRC-32C of the data.
    #[prost(uint32, tag = "3")]
    pub data_crc: u32,
}

/// The payload of `/format`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StoreFormat {
    /// The format of every record in the store.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// 16 random bytes, made with the store: its identity.
    #[prost(bytes = "vec", tag = "2")]
    pub store_id: Vec<u8>,
    /// Whether a witness stands beside the database: one that is missing is then noticed.
    /// Stores of before there were witnesses, and column families of other databases, have none.
    #[prost(bool, tag = "3")]
    pub witness: bool,
}

impl From<&eraftpb::HardState> for HardState {
    fn from(hs: &eraftpb::HardState) -> Self {
        HardState {
            term: hs.term,
            vote: hs.vote,
            commit: hs.commit,
        }
    }
}

impl From<&HardState> for eraftpb::HardState {
    fn from(record: &HardState) -> Self {
        let mut hs = eraftpb::HardState::default();
        hs.term = record.term;
        hs.vote = record.vote;
        hs.commit = record.commit;
        hs
    }
}

impl From<&eraftpb::ConfState> for ConfState {
    fn from(cs: &eraftpb::ConfState) -> Self {
        ConfState {
            voters: cs.voters.clone(),
            learners: cs.learners.clone(),
            voters_outgoing: cs.voters_outgoing.clone(),
            learners_next: cs.learners_next.clone(),
            auto_leave: cs.auto_leave,
        }
    }
}

impl From<&ConfState> for eraftpb::ConfState {
    fn from(record: &ConfState) -> Self {
        let mut cs = eraftpb::ConfState::default();
        cs.voters.clone_from(&record.voters);
        cs.learners.clone_from(&record.learners);
        cs.voters_outgoing.clone_from(&record.voters_outgoing);
        cs.learners_next.clone_from(&record.learners_next);
        cs.auto_leave = record.auto_leave;
        cs
    }
}

const fn kind_of(meta: Meta) -> u8 {
    match meta {
        Meta::FirstIndex => 0x01,
        Meta::LastIndex => 0x02,
        Meta::HardState => 0x03,
        Meta::ConfState => 0x04,
        Meta::UncommitIndex => 0x05,
        Meta::Snapshot => 0x06,
    }
}

/// The checksum of a record: see invariant 1 of the module.
fn checksum(prefix: [u8; CRC_OFFSET], group: u64, index: u64, payload: &[u8]) -> u32 {
    let mut place = [0; CRC_OFFSET + 16];
    let (head, ids) = place.split_at_mut(CRC_OFFSET);
    head.copy_from_slice(&prefix);
    BigEndian::write_u64_into(&[group, index], ids);
    crc32c::crc32c_append(crc32c::crc32c(&place), payload)
}

fn encode_envelope(kind: u8, group: u64, payload: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENVELOPE_LEN + payload.encoded_len());
    append_envelope(kind, group, payload, &mut out);
    out
}

fn append_envelope(kind: u8, group: u64, payload: &impl Message, out: &mut Vec<u8>) {
    let start = out.len();
    let prefix = [FORMAT_VERSION, kind, 0, 0];
    out.extend_from_slice(&prefix);
    out.extend_from_slice(&[0; 4]);
    let encoded = payload.encode(out);
    debug_assert!(encoded.is_ok(), "a vector has room");
    let record = out.get_mut(start..).unwrap_or_default();
    if let Some((head, payload)) = record.split_first_chunk_mut::<ENVELOPE_LEN>() {
        let crc = checksum(prefix, group, 0, payload).to_be_bytes();
        head[CRC_OFFSET..].copy_from_slice(&crc);
    }
}

/// A record whose checksum has been verified.
struct Opened<'a> {
    kind: u8,
    flags: u16,
    payload: &'a [u8],
}

fn open_envelope(bytes: &[u8], group: u64, index: u64) -> Result<Opened<'_>, Damage> {
    let Some((&[format, kind, f0, f1, c0, c1, c2, c3], payload)) =
        bytes.split_first_chunk::<ENVELOPE_LEN>()
    else {
        let found = format!("{} bytes", bytes.len());
        return Err(Damage::new(format!("at least {ENVELOPE_LEN} bytes"), found));
    };
    let stored = u32::from_be_bytes([c0, c1, c2, c3]);
    let computed = checksum([format, kind, f0, f1], group, index, payload);
    if stored != computed {
        let found = format!("{computed:#010x}");
        return Err(Damage::new(format!("checksum {stored:#010x}"), found));
    }
    if format != FORMAT_VERSION {
        let found = format!("format {format}");
        return Err(Damage::new(
            format!("record format {FORMAT_VERSION}"),
            found,
        ));
    }
    Ok(Opened {
        kind,
        flags: u16::from_be_bytes([f0, f1]),
        payload,
    })
}

fn decode_envelope<M: Message + Default>(bytes: &[u8], kind: u8, group: u64) -> Result<M, Damage> {
    let opened = open_envelope(bytes, group, 0)?;
    if (opened.kind, opened.flags) != (kind, 0) {
        let found = format!("kind {:#04x}, flags {:#06x}", opened.kind, opened.flags);
        return Err(Damage::new(
            format!("kind {kind:#04x}, flags 0x0000"),
            found,
        ));
    }
    M::decode(opened.payload).map_err(|e| Damage::new("a protobuf message", e.to_string()))
}

/// A record that a group has one of, tied to the key it stands under.
pub trait MetaRecord: Message + Default {
    /// The key and kind.
    const META: Meta;
}

macro_rules! meta_records {
    ($($record:ty => $meta:ident),+ $(,)?) => {
        $(impl MetaRecord for $record {
            const META: Meta = Meta::$meta;
        })+
    };
}
meta_records! {
    FirstIndex => FirstIndex,
    LastIndex => LastIndex,
    HardState => HardState,
    AppliedConfState => ConfState,
    UncommitIndex => UncommitIndex,
    SnapshotRecord => Snapshot,
}

/// Encodes a record of a group.
pub fn encode_meta<R: MetaRecord>(group: u64, record: &R) -> Vec<u8> {
    encode_envelope(kind_of(R::META), group, record)
}

/// The length of a record of a group.
pub(crate) fn meta_len<R: MetaRecord>(record: &R) -> usize {
    ENVELOPE_LEN + record.encoded_len()
}

/// As [`encode_meta`], behind what is in `out` already.
pub(crate) fn append_meta<R: MetaRecord>(group: u64, record: &R, out: &mut Vec<u8>) {
    append_envelope(kind_of(R::META), group, record, out);
}

/// Decodes a record of a group.
///
/// # Errors
/// [`Damage`] says what is wrong with the bytes.
pub fn decode_meta<R: MetaRecord>(group: u64, bytes: &[u8]) -> Result<R, Damage> {
    decode_envelope(bytes, kind_of(R::META), group)
}

/// Encodes the format record of a store.
pub fn encode_format(format: &StoreFormat) -> Vec<u8> {
    encode_envelope(KIND_FORMAT, 0, format)
}

/// Decodes the format record of a store. Its own envelope stays format 1 for ever, so that
/// every version can read which version wrote the rest.
///
/// # Errors
/// [`Damage`] says what is wrong with the bytes.
pub fn decode_format(bytes: &[u8]) -> Result<StoreFormat, Damage> {
    decode_envelope(bytes, KIND_FORMAT, 0)
}

/// Encodes `entry` into `out`, which is cleared first.
///
/// # Errors
/// [`Error::InvalidBatch`] when the context is 4 GiB or longer; `out` is then empty.
pub fn encode_entry(group: u64, entry: &eraftpb::Entry, out: &mut Vec<u8>) -> Result<(), Error> {
    out.clear();
    append_entry(group, entry, out)
}

/// The length of an entry's record.
pub(crate) fn entry_len(entry: &eraftpb::Entry) -> usize {
    ENTRY_HEADER_LEN + entry.context.len() + entry.data.len()
}

/// As [`encode_entry`], behind what is in `out` already.
pub(crate) fn append_entry(
    group: u64,
    entry: &eraftpb::Entry,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let context: &[u8] = &entry.context;
    let data: &[u8] = &entry.data;
    let context_len = u32::try_from(context.len()).map_err(|_| {
        Error::invalid_batch(format!(
            "the context of entry {} is 4 GiB or longer",
            entry.index
        ))
    })?;
    let kind = KIND_ENTRY + entry_type_code(entry.get_entry_type());
    let flags = if sync_log(entry) { FLAG_SYNC_LOG } else { 0 };
    let [f0, f1] = flags.to_be_bytes();
    let prefix = [FORMAT_VERSION, kind, f0, f1];

    let start = out.len();
    out.reserve(entry_len(entry));
    out.extend_from_slice(&prefix);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&entry.term.to_be_bytes());
    out.extend_from_slice(&context_len.to_be_bytes());
    out.extend_from_slice(context);
    out.extend_from_slice(data);
    let record = out.get_mut(start..).unwrap_or_default();
    if let Some((head, payload)) = record.split_first_chunk_mut::<ENVELOPE_LEN>() {
        let crc = checksum(prefix, group, entry.index, payload).to_be_bytes();
        head[CRC_OFFSET..].copy_from_slice(&crc);
    }
    Ok(())
}

/// An entry's bytes, checked but not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryView<'a> {
    /// The type of the entry.
    pub entry_type: eraftpb::EntryType,
    /// The term of the entry.
    pub term: u64,
    /// The application's context.
    pub context: &'a [u8],
    /// The application's data.
    pub data: &'a [u8],
    /// The deprecated flag of the same name.
    pub sync_log: bool,
}

impl EntryView<'_> {
    #[inline]
    fn to_entry(self, index: u64) -> eraftpb::Entry {
        let mut entry = eraftpb::Entry::default();
        entry.set_entry_type(self.entry_type);
        entry.term = self.term;
        entry.index = index;
        entry.context = self.context.to_vec().into();
        entry.data = self.data.to_vec().into();
        set_sync_log(&mut entry, self.sync_log);
        entry
    }
}

/// Verifies the bytes of one entry and gives access to its parts.
///
/// # Errors
/// [`Damage`] says what is wrong with the bytes.
pub fn view_entry(group: u64, index: u64, bytes: &[u8]) -> Result<EntryView<'_>, Damage> {
    let opened = open_envelope(bytes, group, index)?;
    let Some(entry_type) = opened.kind.checked_sub(KIND_ENTRY).and_then(entry_type_of) else {
        return Err(Damage::new(
            "an entry (kind 0x10 to 0x12)",
            format!("kind {:#04x}", opened.kind),
        ));
    };
    if opened.flags & !FLAG_SYNC_LOG != 0 {
        return Err(Damage::new(
            "no unknown flags",
            format!("flags {:#06x}", opened.flags),
        ));
    }
    let parts = opened
        .payload
        .split_first_chunk::<8>()
        .and_then(|(term, rest)| {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
            let (context, data) = rest.split_at_checked(len)?;
            Some((u64::from_be_bytes(*term), context, data))
        });
    let Some((term, context, data)) = parts else {
        let found = format!("{} bytes", bytes.len());
        return Err(Damage::new(
            "room for the header and the context it declares",
            found,
        ));
    };
    Ok(EntryView {
        entry_type,
        term,
        context,
        data,
        sync_log: opened.flags & FLAG_SYNC_LOG != 0,
    })
}

/// The entry whose record stands at `place` in bytes that were encoded here and have never left
/// memory: nothing is verified, and `None` means that they were not. With the codec that keeps
/// bytes as [`Bytes`] context and data share `bytes`, as a clone of the entry would share its own.
#[inline]
pub(crate) fn recall_entry(
    index: u64,
    bytes: &Bytes,
    place: &Range<usize>,
) -> Option<eraftpb::Entry> {
    let record = bytes.get(place.clone())?;
    let (head, rest) = record.split_first_chunk::<ENTRY_HEADER_LEN>()?;
    let &[
        _,
        kind,
        _,
        flags,
        _,
        _,
        _,
        _,
        t0,
        t1,
        t2,
        t3,
        t4,
        t5,
        t6,
        t7,
        c0,
        c1,
        c2,
        c3,
    ] = head;
    let context_len = usize::try_from(u32::from_be_bytes([c0, c1, c2, c3])).ok()?;
    if context_len > rest.len() {
        return None;
    }
    let context = place.start + ENTRY_HEADER_LEN..place.start + ENTRY_HEADER_LEN + context_len;
    let mut entry = eraftpb::Entry::default();
    entry.set_entry_type(entry_type_of(kind.checked_sub(KIND_ENTRY)?)?);
    entry.term = u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    entry.index = index;
    entry.data = Part::part_of(bytes, context.end..place.end);
    entry.context = Part::part_of(bytes, context);
    set_sync_log(&mut entry, u16::from(flags) & FLAG_SYNC_LOG != 0);
    Some(entry)
}

/// A part of shared bytes, as a codec of raft-rs keeps bytes: copied by one, shared by the other.
/// The range lies within.
trait Part {
    fn part_of(bytes: &Bytes, range: Range<usize>) -> Self;
}

impl Part for Vec<u8> {
    fn part_of(bytes: &Bytes, range: Range<usize>) -> Self {
        bytes.get(range).unwrap_or_default().to_vec()
    }
}

impl Part for Bytes {
    fn part_of(bytes: &Bytes, range: Range<usize>) -> Self {
        match range.is_empty() {
            true => Bytes::new(),
            false => bytes.slice(range),
        }
    }
}

/// Decodes one entry.
///
/// # Errors
/// [`Damage`] says what is wrong with the bytes.
pub fn decode_entry(group: u64, index: u64, bytes: &[u8]) -> Result<eraftpb::Entry, Damage> {
    view_entry(group, index, bytes).map(|view| view.to_entry(index))
}

fn entry_type_code(entry_type: eraftpb::EntryType) -> u8 {
    match entry_type {
        eraftpb::EntryType::EntryNormal => 0,
        eraftpb::EntryType::EntryConfChange => 1,
        eraftpb::EntryType::EntryConfChangeV2 => 2,
    }
}

fn entry_type_of(code: u8) -> Option<eraftpb::EntryType> {
    match code {
        0 => Some(eraftpb::EntryType::EntryNormal),
        1 => Some(eraftpb::EntryType::EntryConfChange),
        2 => Some(eraftpb::EntryType::EntryConfChangeV2),
        _ => None,
    }
}

/// The field is deprecated, but an entry must come back as it was given.
fn sync_log(entry: &eraftpb::Entry) -> bool {
    entry.sync_log
}

fn set_sync_log(entry: &mut eraftpb::Entry, value: bool) {
    entry.sync_log = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, context: &[u8], data: &[u8]) -> eraftpb::Entry {
        let mut entry = eraftpb::Entry::default();
        entry.index = index;
        entry.term = term;
        entry.context = context.to_vec().into();
        entry.data = data.to_vec().into();
        entry
    }

    fn encoded(group: u64, entry: &eraftpb::Entry) -> Vec<u8> {
        let mut out = Vec::new();
        encode_entry(group, entry, &mut out).unwrap();
        out
    }

    #[test]
    fn entry_bytes_are_as_drawn() {
        let bytes = encoded(0, &entry(7, 5, b"cx", b"data"));
        assert_eq!(&bytes[..4], [1, 0x10, 0, 0]);
        assert_eq!(&bytes[8..16], 5u64.to_be_bytes());
        assert_eq!(&bytes[16..20], 2u32.to_be_bytes());
        assert_eq!(&bytes[20..], b"cxdata");
        // Pinned, and computed by hand from the drawing: a change of what the checksum covers
        // would orphan every store on disk.
        assert_eq!(BigEndian::read_u32(&bytes[4..8]), 0x67a4_b00f);
    }

    #[test]
    fn entries_come_back_as_they_were() {
        for entry_type in [0u8, 1, 2].map(|code| entry_type_of(code).unwrap()) {
            for flag in [false, true] {
                for (context, data) in [
                    (&b""[..], &b""[..]),
                    (b"c", b""),
                    (b"", b"d"),
                    (b"cc", b"dd"),
                ] {
                    let mut original = entry(9, u64::MAX, context, data);
                    original.set_entry_type(entry_type);
                    set_sync_log(&mut original, flag);
                    let bytes = encoded(3, &original);
                    assert_eq!(decode_entry(3, 9, &bytes), Ok(original));
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_an_entry_is_refused() {
        let bytes = encoded(1, &entry(7, 5, b"context", b"some data"));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(1, 7, &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_meta_record_is_refused() {
        let bytes = encode_meta(
            4,
            &HardState {
                term: 7,
                vote: 2,
                commit: 99,
            },
        );
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_meta::<HardState>(4, &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_under_another_key_is_refused() {
        let bytes = encoded(1, &entry(7, 5, b"", b"x"));
        assert!(decode_entry(1, 8, &bytes).is_err());
        assert!(decode_entry(2, 7, &bytes).is_err());
        let first = encode_meta(1, &UncommitIndex { uncommit_index: 4 });
        assert!(decode_meta::<UncommitIndex>(0, &first).is_err());
        assert!(decode_meta::<FirstIndex>(1, &first).is_err());
    }

    #[test]
    fn truncated_bytes_are_refused() {
        let bytes = encoded(0, &entry(7, 5, b"context", b""));
        for len in 0..bytes.len() {
            assert!(decode_entry(0, 7, &bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_context_longer_than_the_record_is_refused() {
        // The checksum is right, the declared length is not: a bug of a writer, not of a disk.
        let mut bytes = encoded(0, &entry(7, 5, b"context", b""));
        bytes[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        let crc = checksum([1, 0x10, 0, 0], 0, 7, &bytes[8..]).to_be_bytes();
        bytes[4..8].copy_from_slice(&crc);
        let damage = decode_entry(0, 7, &bytes).unwrap_err();
        assert!(damage.expected.contains("context"), "{damage:?}");
    }

    /// The bytes may differ (one codec packs repeated fields, the other does not), but each
    /// side reads the other's.
    fn assert_same_wire_format<Ours, Theirs>(ours: &Ours, theirs: &Theirs)
    where
        Ours: Message + Default + PartialEq,
        Theirs: protobuf::Message + PartialEq,
    {
        let bytes = protobuf::Message::write_to_bytes(theirs).unwrap();
        assert_eq!(Ours::decode(&bytes[..]).as_ref(), Ok(ours));
        let mut read = Theirs::new();
        protobuf::Message::merge_from_bytes(&mut read, &ours.encode_to_vec()).unwrap();
        assert_eq!(&read, theirs);
    }

    #[test]
    fn the_states_share_the_wire_format_of_raft_rs() {
        let mut theirs = eraftpb::HardState::default();
        theirs.term = 3;
        theirs.vote = 2;
        theirs.commit = 300;
        let ours = HardState::from(&theirs);
        assert_same_wire_format(&ours, &theirs);
        assert_eq!(eraftpb::HardState::from(&ours), theirs);

        let mut theirs = eraftpb::ConfState::from((vec![1, 2, 300], vec![4]));
        theirs.voters_outgoing = vec![1, 5];
        theirs.learners_next = vec![5];
        theirs.auto_leave = true;
        let ours = ConfState::from(&theirs);
        assert_same_wire_format(&ours, &theirs);
        assert_eq!(eraftpb::ConfState::from(&ours), theirs);
    }
}
