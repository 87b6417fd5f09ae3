//! Reads a write-ahead log as RocksDB wrote it, before RocksDB does. Pure.
//!
//! RocksDB's checksum of a log record does not cover its length, and recovery takes a record
//! that reaches past the end of the file, or a header of zeros, for a torn write: what stands
//! behind is dropped without a word. And a record of a type that only recycled logs have, in
//! the middle of another, makes RocksDB 11.8 read the same place for ever
//! (`db/log_reader.cc`). One flipped bit does either.
//!
//! A torn write has nothing whole behind it. So where the records end before the file does,
//! this looks for one: if there is any, the log is damaged.
//!
//! ```text
//! record   CRC-32C, masked: 4 | length: 2 | type: 1 | payload    little-endian
//! ```
//! Records do not cross blocks of 32 KiB; a batch that does is cut into a first, middle and
//! last fragment (`db/log_format.h`). A block's last bytes are zeros when no header fits.

/// The length of a block.
pub(crate) const BLOCK_LEN: usize = 32 << 10;
const HEADER_LEN: usize = 7;
/// Whole, first, middle and last: what a log that is not recycled has.
const TYPES: std::ops::RangeInclusive<u8> = 1..=4;

/// What stands at a place of a log.
enum At {
    /// A whole record of this many bytes, header included.
    Record(usize),
    /// The end of a block that has no room for a header.
    BlockEnd,
    /// Zeros, or a record that reaches past the end of the file: perhaps a torn write.
    End,
    /// Something that no write leaves.
    Damage(&'static str),
}

/// Why a log is damaged: the place, and what is wrong there.
pub(crate) type Finding = (usize, &'static str);

/// Checks one log, to its end or to where a torn write begins.
pub(crate) fn check(log: &[u8]) -> Result<(), Finding> {
    let mut place = 0;
    while place < log.len() {
        match at(log, place) {
            At::Record(len) => place += len,
            At::BlockEnd => place = next_block(place),
            At::Damage(what) => return Err((place, what)),
            At::End => return check_end(log, place),
        }
    }
    Ok(())
}

fn next_block(place: usize) -> usize {
    (place / BLOCK_LEN + 1) * BLOCK_LEN
}

/// The bytes from `place` to the end of its block, or of the log.
fn rest_of_block(log: &[u8], place: usize) -> &[u8] {
    log.get(place..next_block(place).min(log.len()))
        .unwrap_or_default()
}

fn at(log: &[u8], place: usize) -> At {
    let rest = rest_of_block(log, place);
    if next_block(place) - place < HEADER_LEN {
        return At::BlockEnd;
    }
    let Some((&[c0, c1, c2, c3, l0, l1, kind], payload)) = rest.split_first_chunk::<HEADER_LEN>()
    else {
        return At::End;
    };
    let len = usize::from(u16::from_le_bytes([l0, l1]));
    if kind == 0 && len == 0 {
        return At::End;
    }
    if !TYPES.contains(&kind) {
        return At::Damage("a record of a type that this log cannot have");
    }
    match payload.get(..len) {
        Some(payload) if checksum(kind, payload) == u32::from_le_bytes([c0, c1, c2, c3]) => {
            At::Record(HEADER_LEN + len)
        }
        Some(_) => At::Damage("a record whose checksum does not fit"),
        None if next_block(place) <= log.len() => At::Damage("a record that leaves its block"),
        None => At::End,
    }
}

/// RocksDB masks checksums that stand in files (`util/crc32c.h`).
fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Where the records end although the log goes on: nothing whole may stand from there on.
fn check_end(log: &[u8], end: usize) -> Result<(), Finding> {
    if is_whole_but_for_its_length(rest_of_block(log, end)) {
        return Err((end, "a whole record with the length of another"));
    }
    for place in end + 1..log.len() {
        let kind = log.get(place + HEADER_LEN - 1);
        if kind.is_some_and(|kind| TYPES.contains(kind)) && matches!(at(log, place), At::Record(_))
        {
            return Err((end, "an end, and whole records behind it"));
        }
    }
    Ok(())
}

/// Whether the checksum fits some payload that is there: then it was not torn.
fn is_whole_but_for_its_length(rest: &[u8]) -> bool {
    let Some((&[c0, c1, c2, c3, _, _, kind], payload)) = rest.split_first_chunk::<HEADER_LEN>()
    else {
        return false;
    };
    let stored = u32::from_le_bytes([c0, c1, c2, c3])
        .wrapping_sub(0xa282_ead8)
        .rotate_left(15);
    let mut crc = crc32c::crc32c(&[kind]);
    payload.iter().any(|byte| {
        crc = crc32c::crc32c_append(crc, &[*byte]);
        crc == stored
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = checksum(kind, payload).to_le_bytes().to_vec();
        out.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(payload);
        out
    }

    /// Whole records, one that is cut into fragments by the end of a block, and two more.
    fn log() -> Vec<u8> {
        let mut log = Vec::new();
        while log.len() < BLOCK_LEN - 3000 {
            log.extend(record(1, &vec![7; 997]));
        }
        let first = BLOCK_LEN - log.len() - HEADER_LEN;
        log.extend(record(2, &vec![8; first]));
        log.extend(record(4, &[8; 500]));
        log.extend(record(1, b"a vote"));
        log.extend(record(1, b"the last vote"));
        log
    }

    #[test]
    fn a_whole_log_passes_and_so_does_one_torn_anywhere() {
        let log = log();
        assert_eq!(check(&log), Ok(()));
        for cut in (0..200).chain(BLOCK_LEN - 2000..log.len()) {
            assert_eq!(check(&log[..cut]), Ok(()), "cut at {cut}");
            let mut zeroed = log[..cut].to_vec();
            zeroed.resize(log.len() + 5000, 0);
            // With zeros in its end a record may be refused, as RocksDB refuses its checksum;
            // but nothing whole is found behind it.
            let behind = "an end, and whole records behind it";
            assert!(
                check(&zeroed).err().is_none_or(|found| found.1 != behind),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let log = log();
        let headers = [0, 1004, BLOCK_LEN, log.len() - 33, log.len() - 20];
        for header in headers {
            for bit in header * 8..(header + HEADER_LEN) * 8 {
                let mut damaged = log.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&damaged).is_err(), "header {header}, bit {bit}");
            }
        }
    }

    #[test]
    fn zeros_with_a_record_behind_them_are_found() {
        let mut damaged = log();
        let at = damaged.len() - 33;
        damaged[at..at + HEADER_LEN].fill(0);
        assert_eq!(
            check(&damaged),
            Err((at, "an end, and whole records behind it"))
        );
    }
}
