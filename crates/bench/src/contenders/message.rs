//! Entries as `raft-engine` wants them: as messages of protobuf 2.
//!
//! Under raft-rs's prost codec an entry implements that trait only in part, and what
//! `add_entries` needs of it panics. So the same bytes are written and read here, as the
//! protobuf codec's generated code would. The other contenders store these bytes too.

use std::any::Any;
use std::sync::LazyLock;

use anyhow::Result;
use protobuf::wire_format::WireType;
use protobuf::{
    Clear, CodedInputStream, CodedOutputStream, Message, ProtobufResult, UnknownFields,
    reflect::MessageDescriptor, rt,
};
use raft_engine::MessageExt;
use raft_rocks::raft::eraftpb::{Entry, HardState};

const ENTRY_TYPE: u32 = 1;
const TERM: u32 = 2;
const INDEX: u32 = 3;
const DATA: u32 = 4;
const CONTEXT: u32 = 6;

/// An entry, as a message. No wider than the entry, so that a vector of one is turned into a
/// vector of the other in place.
#[derive(Clone, Debug, Default, PartialEq)]
#[repr(transparent)]
pub struct EntryMessage(pub Entry);

/// Tells `raft-engine` where an entry has its index.
pub struct Entries;

impl MessageExt for Entries {
    type Entry = EntryMessage;

    fn index(entry: &EntryMessage) -> u64 {
        entry.0.index
    }
}

/// The same entries as messages; nothing is copied.
pub fn to_messages(entries: Vec<Entry>) -> Vec<EntryMessage> {
    entries.into_iter().map(EntryMessage).collect()
}

/// The entries that messages hold; nothing is copied.
pub fn to_entries(messages: Vec<EntryMessage>) -> Vec<Entry> {
    messages.into_iter().map(|message| message.0).collect()
}

/// Appends an entry's bytes to `bytes`.
pub fn encode(entry: &Entry, bytes: &mut Vec<u8>) -> Result<()> {
    let mut stream = CodedOutputStream::vec(bytes);
    write(entry, &mut stream)?;
    Ok(stream.flush()?)
}

/// An entry from its bytes.
pub fn decode(bytes: &[u8]) -> Result<Entry> {
    Ok(EntryMessage::parse_from_bytes(bytes)?.0)
}

/// A hard state's bytes, under raft-rs's field numbers.
pub fn encode_hard_state(hard_state: &HardState) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(32);
    let mut stream = CodedOutputStream::vec(&mut bytes);
    stream.write_uint64(1, hard_state.term)?;
    stream.write_uint64(2, hard_state.vote)?;
    stream.write_uint64(3, hard_state.commit)?;
    stream.flush()?;
    drop(stream);
    Ok(bytes)
}

fn write(entry: &Entry, stream: &mut CodedOutputStream) -> ProtobufResult<()> {
    if entry.entry_type != 0 {
        stream.write_enum(ENTRY_TYPE, entry.entry_type)?;
    }
    if entry.term != 0 {
        stream.write_uint64(TERM, entry.term)?;
    }
    if entry.index != 0 {
        stream.write_uint64(INDEX, entry.index)?;
    }
    if !entry.data.is_empty() {
        stream.write_bytes(DATA, &entry.data)?;
    }
    if !entry.context.is_empty() {
        stream.write_bytes(CONTEXT, &entry.context)?;
    }
    Ok(())
}

impl Clear for EntryMessage {
    fn clear(&mut self) {
        self.0 = Entry::default();
    }
}

impl Message for EntryMessage {
    fn descriptor(&self) -> &'static MessageDescriptor {
        Self::descriptor_static()
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn merge_from(&mut self, stream: &mut CodedInputStream) -> ProtobufResult<()> {
        let entry = &mut self.0;
        while !stream.eof()? {
            let (field, kind) = stream.read_tag_unpack()?;
            match field {
                ENTRY_TYPE => entry.entry_type = stream.read_int32()?,
                TERM => entry.term = stream.read_uint64()?,
                INDEX => entry.index = stream.read_uint64()?,
                DATA => rt::read_singular_proto3_bytes_into(kind, stream, &mut entry.data)?,
                CONTEXT => rt::read_singular_proto3_bytes_into(kind, stream, &mut entry.context)?,
                _ => stream.skip_field(kind)?,
            }
        }
        Ok(())
    }

    fn write_to_with_cached_sizes(&self, stream: &mut CodedOutputStream) -> ProtobufResult<()> {
        write(&self.0, stream)
    }

    fn compute_size(&self) -> u32 {
        let entry = &self.0;
        let number = |field, value: u64| match value {
            0 => 0,
            _ => rt::value_size(field, value, WireType::WireTypeVarint),
        };
        let bytes = |field, value: &[u8]| match value {
            [] => 0,
            _ => rt::bytes_size(field, value),
        };
        number(ENTRY_TYPE, entry.entry_type as u64)
            + number(TERM, entry.term)
            + number(INDEX, entry.index)
            + bytes(DATA, &entry.data)
            + bytes(CONTEXT, &entry.context)
    }

    fn get_cached_size(&self) -> u32 {
        self.compute_size()
    }

    /// None are kept: what wrote the entry is what reads it.
    fn get_unknown_fields(&self) -> &UnknownFields {
        static NONE: LazyLock<UnknownFields> = LazyLock::new(UnknownFields::new);
        &NONE
    }

    /// # Panics
    /// Always. Only generated code calls this, on messages of its own; room for the answer
    /// would make the message wider than the entry.
    fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
        panic!("an entry keeps no unknown fields")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn new() -> Self {
        EntryMessage::default()
    }

    fn default_instance() -> &'static Self {
        static DEFAULT: LazyLock<EntryMessage> = LazyLock::new(EntryMessage::default);
        &DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let mut entry = Entry::default();
        entry.set_entry_type(raft_rocks::raft::eraftpb::EntryType::EntryConfChange);
        entry.term = 3;
        entry.index = u64::MAX - 1;
        entry.data = vec![7; 300];
        entry.context = b"context".to_vec();
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes).unwrap();
        assert_eq!(decode(&bytes).unwrap(), entry);
        assert_eq!(EntryMessage(entry).compute_size() as usize, bytes.len());
    }

    #[test]
    fn the_bytes_are_those_of_raft() {
        let mut entry = Entry::default();
        (entry.term, entry.index, entry.data) = (1, 300, b"data".to_vec());
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes).unwrap();
        let mut expected = vec![TERM as u8 * 8, 1, INDEX as u8 * 8, 0xac, 2];
        expected.extend([DATA as u8 * 8 + 2, 4]);
        expected.extend(b"data");
        assert_eq!(bytes, expected);
    }
}
