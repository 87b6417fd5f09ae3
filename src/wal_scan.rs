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
//! record      CRC-32C, masked: 4 | length: 2 | type: 1 | payload    little-endian
//! recyclable  CRC-32C, masked: 4 | length: 2 | type: 1 | log number, its low bits: 4 | payload
//! batch       sequence number: 8 | count: 4 | ...    a payload, or several put together
//! ```
//! The checksum covers the type, the log number and the payload. Records do not cross blocks
//! of 32 KiB; a batch that does is cut into a first, middle and last fragment
//! (`db/log_format.h`). A block's last bytes are zeros when no header fits.
//!
//! A recycled log is an old one, renamed and overwritten from its start: behind its end stands
//! what is left of older logs, whole records of lower log numbers among it, from anywhere in
//! the middle of one on. All its records are recyclable ones.
//!
//! What cannot be told here, and is told by the witness: a write of several pages that was under
//! way at a power cut may have lost one in its middle, and looks damaged; and in a recycled log a
//! torn write looks like one whose payload was damaged later, and so the last write is dropped
//! in either case. A damaged header is told from a torn one: one flipped bit, or another length,
//! makes it whole.

use std::ops::Range;

/// The length of a block.
const BLOCK_LEN: usize = 32 << 10;
const HEADER_LEN: usize = 7;
const RECYCLABLE_HEADER_LEN: usize = HEADER_LEN + 4;

/// What a record is to the batch that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Middle,
    Last,
    /// Sizes of timestamps, or what the log before was: no batch.
    Other,
}

/// Whether a log's records bear its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Recyclable,
}

impl Format {
    fn header_len(self) -> usize {
        match self {
            Format::Plain => HEADER_LEN,
            Format::Recyclable => RECYCLABLE_HEADER_LEN,
        }
    }
}

/// The types of `db/log_format.h`, but for that of compressed logs, which no store writes.
fn type_of(kind: u8) -> Option<(Format, Part)> {
    use Format::{Plain, Recyclable};
    Some(match kind {
        1 => (Plain, Part::Whole),
        2 => (Plain, Part::First),
        3 => (Plain, Part::Middle),
        4 => (Plain, Part::Last),
        5 => (Recyclable, Part::Whole),
        6 => (Recyclable, Part::First),
        7 => (Recyclable, Part::Middle),
        8 => (Recyclable, Part::Last),
        10 | 130 => (Plain, Part::Other),
        11 | 131 => (Recyclable, Part::Other),
        _ => return None,
    })
}

struct Record<'a> {
    format: Format,
    part: Part,
    payload: &'a [u8],
}

impl Record<'_> {
    fn len(&self) -> usize {
        self.format.header_len() + self.payload.len()
    }
}

/// What stands at a place where no whole record of this log does.
enum Other {
    /// The end of a block that has no room for a header.
    BlockEnd,
    /// Zeros, a record that reaches past the end of the file, or what an older log left here:
    /// perhaps a torn write.
    End,
    /// Something that no write leaves.
    Damage(&'static str),
}

/// Why a log is damaged, unless a write of several pages that was under way at a power cut has
/// lost one in its middle: only who knows what was synced can tell the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub place: usize,
    pub what: &'static str,
    /// What stands before the place.
    pub before: Whole,
}

/// What a log holds up to where the first thing stands that is not whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    /// The sequence numbers of its batches; `None` when there is no batch.
    pub held: Option<Range<u64>>,
    /// Where the last of them ends. Cut off here, a log is whole.
    pub end: usize,
}

impl Finding {
    fn new(place: usize, what: &'static str) -> Self {
        Finding {
            place,
            what,
            before: Whole::default(),
        }
    }
}

const RECYCLED_RECORD: &str = "a record of a recycled log in one that is not";
const CHECKSUM: &str = "a record whose checksum does not fit";

/// What is expected, and what found, where RocksDB would read one place for ever.
pub(crate) const HANGS: (&str, &str) = (
    "a record as those before it",
    "the header of a recycled log's record",
);

/// The place that RocksDB (11.8, `ReadPhysicalRecord`) would read for ever: where it comes to a
/// header of a recycled log in one that began without. It comes to whole records, and goes on with
/// the next block behind anything else, in a log as in a MANIFEST, which has the same format.
/// `from` is where whole records end; 0 reads all.
pub(crate) fn hangs_rocksdb_at(bytes: &[u8], from: usize) -> Option<usize> {
    let log = Log { bytes, number: 0 };
    let is_recycled = |header: &[u8; HEADER_LEN]| {
        let [.., kind] = *header;
        matches!(type_of(kind), Some((Format::Recyclable, _)))
    };
    if bytes.first_chunk::<HEADER_LEN>().is_some_and(is_recycled) {
        return None;
    }
    let (mut place, mut begun) = (from, from > 0);
    while place < bytes.len() {
        let rest = log.rest_of_block(place);
        if rest.first_chunk::<HEADER_LEN>().is_some_and(is_recycled) {
            // The first that it reads says what the rest is.
            return begun.then_some(place);
        }
        match log.whole(rest) {
            Some(record) => {
                begun = true;
                place += record.len();
            }
            None => place = next_block(place),
        }
    }
    None
}

/// Where a torn write begins, in a file of plain records that nobody read a torn one of: behind the
/// last whole record stands something, and nothing whole in it. `None` when all is whole, and when
/// nothing is.
pub(crate) fn torn_from(bytes: &[u8]) -> Option<usize> {
    let log = Log { bytes, number: 0 };
    let mut place = 0;
    while place < bytes.len() {
        match log.at(place, Some(Format::Plain)) {
            Ok(record) => place += record.len(),
            Err(Other::BlockEnd) => place = next_block(place),
            Err(Other::Damage(what)) if what != CHECKSUM => return None,
            Err(_) => {
                let is_whole = |at| log.whole(log.rest_of_block(at)).is_some();
                let torn = place > 0 && !(place + 1..bytes.len()).any(is_whole);
                return torn.then_some(place);
            }
        }
    }
    None
}

/// What a file of plain records holds, put together from its records.
///
/// # Errors
/// Where something stands that is not whole.
pub(crate) fn payloads(bytes: &[u8]) -> Result<Vec<Vec<u8>>, usize> {
    let log = Log { bytes, number: 0 };
    let (mut payloads, mut begun, mut place) = (Vec::new(), None::<Vec<u8>>, 0);
    while place < bytes.len() {
        match log.at(place, Some(Format::Plain)) {
            Ok(record) => {
                let mut payload = match (record.part, begun.take()) {
                    (Part::Whole | Part::First, None) => Vec::new(),
                    (Part::Middle | Part::Last, Some(begun)) => begun,
                    _ => return Err(place),
                };
                payload.extend_from_slice(record.payload);
                match record.part {
                    Part::Whole | Part::Last => payloads.push(payload),
                    _ => begun = Some(payload),
                }
                place += record.len();
            }
            Err(Other::BlockEnd) => place = next_block(place),
            Err(_) => return Err(place),
        }
    }
    match begun {
        None => Ok(payloads),
        Some(_) => Err(place),
    }
}

/// Checks log `number` to its end, or to where a torn write begins.
pub(crate) fn check(log: &[u8], number: u64) -> Result<Whole, Finding> {
    let mut batches = Batches::default();
    match read(&Log { bytes: log, number }, &mut batches) {
        Ok(()) => Ok(batches.whole),
        Err(finding) => Err(Finding {
            before: batches.whole,
            ..finding
        }),
    }
}

fn read(log: &Log<'_>, batches: &mut Batches) -> Result<(), Finding> {
    let mut format = None;
    let mut place = 0;
    while place < log.bytes.len() {
        match log.at(place, format) {
            Ok(record) => {
                format = Some(record.format);
                batches
                    .add(&record)
                    .map_err(|what| Finding::new(place, what))?;
                place += record.len();
                batches.stand_up_to(place);
            }
            Err(Other::BlockEnd) => place = next_block(place),
            Err(Other::Damage(what)) => return Err(Finding::new(place, what)),
            Err(Other::End) => return log.check_end(place, format),
        }
    }
    Ok(())
}

fn next_block(place: usize) -> usize {
    (place / BLOCK_LEN + 1) * BLOCK_LEN
}

/// The batches of a log, put together from its records.
#[derive(Default)]
struct Batches {
    whole: Whole,
    /// The start of a batch whose last fragment has not come yet.
    begun: Option<Vec<u8>>,
}

impl Batches {
    /// A batch's sequence number and count.
    const HEAD_LEN: usize = 12;

    fn add(&mut self, record: &Record<'_>) -> Result<(), &'static str> {
        match (record.part, self.begun.take()) {
            (Part::Other, begun) => {
                self.begun = begun;
                Ok(())
            }
            (Part::Whole, None) => self.end(record.payload),
            (Part::First, None) => {
                self.begun = Some(record.payload.to_vec());
                Ok(())
            }
            (Part::Middle | Part::Last, Some(mut head)) => {
                // Only the head is looked at.
                if head.len() < Self::HEAD_LEN {
                    head.extend_from_slice(record.payload);
                }
                if record.part == Part::Last {
                    return self.end(&head);
                }
                self.begun = Some(head);
                Ok(())
            }
            (Part::Whole | Part::First, Some(_)) => Err("a batch without its end"),
            (Part::Middle | Part::Last, None) => Err("a batch without its beginning"),
        }
    }

    fn end(&mut self, batch: &[u8]) -> Result<(), &'static str> {
        let Some((&[s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3], _)) =
            batch.split_first_chunk::<{ Self::HEAD_LEN }>()
        else {
            return Err("a batch too short to be one");
        };
        let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let end = sequence.saturating_add(u64::from(u32::from_le_bytes([c0, c1, c2, c3])));
        match &mut self.whole.held {
            Some(held) if held.end == sequence => held.end = end,
            Some(_) => return Err("a sequence number that does not follow the one before"),
            None => self.whole.held = Some(sequence..end),
        }
        Ok(())
    }

    /// The records up to here are whole; so is what they hold, unless a batch goes on.
    fn stand_up_to(&mut self, place: usize) {
        if self.begun.is_none() {
            self.whole.end = place;
        }
    }
}

struct Log<'a> {
    bytes: &'a [u8],
    number: u64,
}

impl<'a> Log<'a> {
    /// The bytes from `place` to the end of its block, or of the log.
    fn rest_of_block(&self, place: usize) -> &'a [u8] {
        self.bytes
            .get(place..next_block(place).min(self.bytes.len()))
            .unwrap_or_default()
    }

    /// The record at `place` of a log whose first record has `format`, `None` for the first.
    fn at(&self, place: usize, format: Option<Format>) -> Result<Record<'a>, Other> {
        let rest = self.rest_of_block(place);
        let header_len = format.unwrap_or(Format::Plain).header_len();
        if next_block(place) - place < header_len {
            return Err(Other::BlockEnd);
        }
        if let Some(record) = self.whole(rest)
            && format.is_none_or(|format| format == record.format)
        {
            return Ok(record);
        }
        let Some(&[_, _, _, _, l0, l1, kind]) = rest.first_chunk::<HEADER_LEN>() else {
            return Err(Other::End);
        };
        let len = usize::from(u16::from_le_bytes([l0, l1]));
        let recyclable = matches!(type_of(kind), Some((Format::Recyclable, _)));
        if format == Some(Format::Recyclable) || (format.is_none() && recyclable) {
            return Err(Other::End);
        }
        if kind == 0 && len == 0 {
            return Err(Other::End);
        }
        Err(match type_of(kind) {
            Some((Format::Recyclable, _)) => Other::Damage(RECYCLED_RECORD),
            // Zeros, behind a header's first bytes: what a lost page leaves.
            None if kind == 0 => Other::Damage(CHECKSUM),
            None => Other::Damage("a record of an unknown type"),
            Some(_) if rest.len() >= HEADER_LEN + len => Other::Damage(CHECKSUM),
            Some(_) if next_block(place) <= self.bytes.len() => {
                Other::Damage("a record that leaves its block")
            }
            Some(_) => Other::End,
        })
    }

    /// The whole record of this log that `rest`, the rest of a block, starts with.
    fn whole<'b>(&self, rest: &'b [u8]) -> Option<Record<'b>> {
        let ([c0, c1, c2, c3, l0, l1, kind], body) = rest.split_first_chunk::<HEADER_LEN>()?;
        let (format, part) = type_of(*kind)?;
        let body_len =
            format.header_len() - HEADER_LEN + usize::from(u16::from_le_bytes([*l0, *l1]));
        let body = body.get(..body_len)?;
        let payload = self.payload_of(format, body)?;
        let stored = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
        (masked(crc32c::crc32c_append(crc32c::crc32c(&[*kind]), body)) == stored).then_some(
            Record {
                format,
                part,
                payload,
            },
        )
    }

    /// What follows the log number, when there is one and it is this log's.
    fn payload_of<'b>(&self, format: Format, body: &'b [u8]) -> Option<&'b [u8]> {
        match format {
            Format::Plain => Some(body),
            Format::Recyclable => {
                let (number, payload) = body.split_first_chunk::<4>()?;
                // RocksDB writes the low bits.
                (u64::from(u32::from_le_bytes(*number)) == self.number & u64::from(u32::MAX))
                    .then_some(payload)
            }
        }
    }

    /// Where the records end although the log goes on: nothing whole may stand from there on.
    fn check_end(&self, end: usize, format: Option<Format>) -> Result<(), Finding> {
        if self.is_whole_but_for_its_header(end, format) {
            return Err(Finding::new(end, "a whole record with a header of another"));
        }
        for place in end + 1..self.bytes.len() {
            // Most places have no such type: they are told without a checksum.
            let kind = self.bytes.get(place + HEADER_LEN - 1);
            if kind.is_some_and(|kind| type_of(*kind).is_some())
                && let Some(record) = self.whole(self.rest_of_block(place))
                && format.is_none_or(|format| format == record.format)
            {
                return Err(Finding::new(end, "an end, and whole records behind it"));
            }
        }
        Ok(())
    }

    /// Whether another length, or one flipped bit of the header, makes a whole record of what
    /// stands at `place`: then it was not torn.
    fn is_whole_but_for_its_header(&self, place: usize, format: Option<Format>) -> bool {
        let rest = self.rest_of_block(place);
        if self.is_whole_but_for_its_length(rest) {
            return true;
        }
        let mut mended = rest.to_vec();
        (0..RECYCLABLE_HEADER_LEN.min(rest.len()) * 8).any(|bit| {
            flip(&mut mended, bit);
            let whole = self.whole(&mended);
            let is_ours = whole.is_some_and(|record| format.is_none_or(|f| f == record.format));
            flip(&mut mended, bit);
            is_ours
        })
    }

    /// Whether the checksum fits some payload that is there.
    fn is_whole_but_for_its_length(&self, rest: &[u8]) -> bool {
        let Some((&[c0, c1, c2, c3, _, _, kind], body)) = rest.split_first_chunk::<HEADER_LEN>()
        else {
            return false;
        };
        let Some((format, _)) = type_of(kind) else {
            return false;
        };
        if self.payload_of(format, body).is_none() {
            return false;
        }
        let stored = unmasked(u32::from_le_bytes([c0, c1, c2, c3]));
        let mut crc = crc32c::crc32c(&[kind]);
        body.iter().any(|byte| {
            crc = crc32c::crc32c_append(crc, &[*byte]);
            crc == stored
        })
    }
}

fn flip(bytes: &mut [u8], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// RocksDB masks checksums that stand in files (`util/crc32c.h`).
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn unmasked(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: u64 = 12;
    const OLDER: u64 = 9;

    /// Writes a log as RocksDB's `log::Writer` does.
    struct Writer {
        bytes: Vec<u8>,
        format: Format,
        number: u64,
        sequence: u64,
        /// Where the headers stand.
        headers: Vec<usize>,
    }

    impl Writer {
        fn new(format: Format, number: u64) -> Self {
            Writer {
                bytes: Vec::new(),
                format,
                number,
                sequence: number * 1000,
                headers: Vec::new(),
            }
        }

        fn batch(&mut self, len: usize) {
            let mut batch = self.sequence.to_le_bytes().to_vec();
            batch.extend(3u32.to_le_bytes());
            batch.extend((0..len).map(|n| (n * 31 + len) as u8));
            self.sequence += 3;
            let mut rest = &batch[..];
            let mut begin = true;
            while begin || !rest.is_empty() {
                let header_len = self.format.header_len();
                let left = BLOCK_LEN - self.bytes.len() % BLOCK_LEN;
                if left < header_len {
                    self.bytes.extend(vec![0; left]);
                    continue;
                }
                let (payload, behind) = rest.split_at(rest.len().min(left - header_len));
                let kind = match (begin, behind.is_empty()) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                self.record(kind, payload);
                (rest, begin) = (behind, false);
            }
        }

        fn record(&mut self, plain_kind: u8, payload: &[u8]) {
            let mut body = Vec::new();
            let mut kind = plain_kind;
            if self.format == Format::Recyclable {
                kind += 4;
                body.extend((self.number as u32).to_le_bytes());
            }
            body.extend(payload);
            self.headers.push(self.bytes.len());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), &body);
            self.bytes.extend(masked(crc).to_le_bytes());
            self.bytes.extend((payload.len() as u16).to_le_bytes());
            self.bytes.push(kind);
            self.bytes.extend(body);
        }
    }

    /// Whole records, one that is cut into fragments by the end of a block, and two more.
    fn written(format: Format, number: u64) -> Writer {
        let mut log = Writer::new(format, number);
        while log.bytes.len() < BLOCK_LEN - 3000 {
            log.batch(997);
        }
        log.batch(3300);
        log.batch(6);
        log.batch(13);
        log
    }

    /// `live` over what an older log left, whose records are `shift` bytes away from another's.
    fn over_stale(live: &[u8], shift: usize) -> Vec<u8> {
        let mut stale = Writer::new(Format::Recyclable, OLDER);
        stale.batch(shift);
        while stale.bytes.len() < live.len() + 9000 {
            stale.batch(100);
            stale.batch(3000);
        }
        stale.bytes[..live.len()].copy_from_slice(live);
        stale.bytes
    }

    fn held(log: &[u8]) -> Option<Range<u64>> {
        check(log, NUMBER).unwrap().held
    }

    #[test]
    fn what_a_log_holds_is_counted() {
        for format in [Format::Plain, Format::Recyclable] {
            let log = written(format, NUMBER);
            let whole = Whole {
                held: Some(12_000..log.sequence),
                end: log.bytes.len(),
            };
            assert_eq!(check(&log.bytes, NUMBER), Ok(whole));
            assert_eq!(
                check(&over_stale(&log.bytes, 0), NUMBER).is_ok(),
                format == Format::Recyclable
            );
        }
        let log = written(Format::Recyclable, NUMBER);
        let whole = check(&over_stale(&log.bytes, 0), NUMBER).unwrap();
        assert_eq!(whole.held, Some(12_000..log.sequence));
        assert_eq!(whole.end, log.bytes.len(), "without the stale bytes");
        assert_eq!(held(&over_stale(&[], 0)), None);
        assert_eq!(held(&[]), None);
        assert_eq!(held(&[0; 70_000]), None);
    }

    #[test]
    fn a_whole_log_passes_and_so_does_one_torn_anywhere() {
        let log = written(Format::Plain, NUMBER).bytes;
        for cut in (0..200).chain(BLOCK_LEN - 2000..log.len()) {
            assert!(check(&log[..cut], NUMBER).is_ok(), "cut at {cut}");
            let mut zeroed = log[..cut].to_vec();
            zeroed.resize(log.len() + 5000, 0);
            // With zeros in its end a record may be refused, as RocksDB refuses its checksum;
            // but nothing whole is found behind it.
            let behind = "an end, and whole records behind it";
            let found = check(&zeroed, NUMBER).err();
            assert!(
                found.is_none_or(|found| found.what != behind),
                "cut at {cut}"
            );
        }
    }

    /// Over stale bytes every torn tail passes, the torn record in the middle of its header
    /// among them, and holds the batches before the tear.
    #[test]
    fn a_recycled_log_torn_anywhere_passes() {
        let log = written(Format::Recyclable, NUMBER);
        let last = log.bytes.len() - 40;
        let sampled = (60..last).step_by(211);
        for cut in (0..60).chain(sampled).chain(last..log.bytes.len()) {
            for stale in [0, 113] {
                let torn = over_stale(&log.bytes[..cut], stale);
                let found = check(&torn, NUMBER);
                let whole = found.unwrap_or_else(|e| panic!("cut {cut}, stale {stale}: {e:?}"));
                let all = whole.held.is_some_and(|held| held.end == log.sequence);
                assert!(!all, "cut {cut}, stale {stale}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        for format in [Format::Plain, Format::Recyclable] {
            let log = written(format, NUMBER);
            let mut images = vec![log.bytes.clone()];
            if format == Format::Recyclable {
                images.extend([0, 113].map(|stale| over_stale(&log.bytes, stale)));
            }
            for image in &mut images {
                let second_block = log.headers.len() - 5;
                for header in log
                    .headers
                    .iter()
                    .take(1)
                    .chain(&log.headers[second_block..])
                {
                    for bit in header * 8..(header + format.header_len()) * 8 {
                        flip(image, bit);
                        let found = check(image, NUMBER);
                        assert!(found.is_err(), "{format:?}, header {header}, bit {bit}");
                        flip(image, bit);
                    }
                }
            }
        }
    }

    /// The limit: nothing tells a torn last write over stale bytes from a damaged one.
    #[test]
    fn a_damaged_payload_is_found_unless_it_is_the_last_of_a_recycled_log() {
        let log = written(Format::Recyclable, NUMBER);
        let image = over_stale(&log.bytes, 113);
        let payload = |header: usize| (header + RECYCLABLE_HEADER_LEN + 2) * 8;
        for header in &log.headers {
            let mut damaged = image.clone();
            flip(&mut damaged, payload(*header));
            let is_last = Some(header) == log.headers.last();
            assert_eq!(check(&damaged, NUMBER).is_ok(), is_last, "header {header}");
        }
    }

    #[test]
    fn zeros_with_a_record_behind_them_are_found() {
        for format in [Format::Plain, Format::Recyclable] {
            let log = written(format, NUMBER);
            let at = log.headers[log.headers.len() - 2];
            let mut damaged = log.bytes.clone();
            damaged[at..at + format.header_len()].fill(0);
            let what = "an end, and whole records behind it";
            let before = Whole {
                held: Some(12_000..log.sequence - 6),
                end: at,
            };
            let finding = Finding {
                place: at,
                what,
                before,
            };
            assert_eq!(check(&damaged, NUMBER), Err(finding));
        }
    }

    /// Whatever stands behind the last whole batch, the log is whole when it is cut there: also
    /// when the batch behind it has lost its second fragment and the first one still stands.
    #[test]
    fn a_log_that_is_cut_where_its_whole_batches_end_is_whole() {
        for format in [Format::Plain, Format::Recyclable] {
            let log = written(format, NUMBER);
            for header in &log.headers[log.headers.len() - 6..] {
                for image in [log.bytes.clone(), over_stale(&log.bytes, 113)] {
                    let mut damaged = image;
                    damaged[header + format.header_len() + 2] ^= 1;
                    let before = match check(&damaged, NUMBER) {
                        Ok(whole) => whole,
                        Err(finding) => finding.before,
                    };
                    assert!(before.end <= *header);
                    damaged.truncate(before.end);
                    assert_eq!(check(&damaged, NUMBER), Ok(before));
                }
            }
        }
    }

    /// Whole records, but one is not there: the fragments of a batch, or a batch.
    #[test]
    fn a_missing_batch_or_fragment_is_found() {
        let follow = "a sequence number that does not follow the one before";
        let mut log = Writer::new(Format::Recyclable, NUMBER);
        log.batch(10);
        log.sequence += 1;
        log.batch(10);
        assert_eq!(check(&log.bytes, NUMBER).unwrap_err().what, follow);
        let fragments = [
            (&[4][..], "a batch without its beginning"),
            (&[2, 1], "a batch without its end"),
        ];
        for (kinds, what) in fragments {
            let mut log = Writer::new(Format::Plain, NUMBER);
            kinds.iter().for_each(|kind| log.record(*kind, &[7; 30]));
            assert_eq!(check(&log.bytes, NUMBER).unwrap_err().what, what);
        }
    }

    #[test]
    fn a_torn_write_is_told_from_damage_before_whole_records() {
        let mut log = Writer::new(Format::Plain, 0);
        log.batch(100);
        let first = log.bytes.len();
        log.batch(200);
        let whole = log.bytes.clone();
        assert_eq!(torn_from(&whole), None);
        let mut torn = whole.clone();
        torn[first + 20..].fill(0);
        assert_eq!(torn_from(&torn), Some(first));
        assert_eq!(torn_from(&whole[..whole.len() - 1]), Some(first));
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        assert_eq!(torn_from(&damaged), None, "nothing whole before it");
        log.batch(50);
        let mut damaged = log.bytes.clone();
        damaged[first + 20] ^= 1;
        assert_eq!(torn_from(&damaged), None, "a whole record behind it");
    }

    #[test]
    fn what_rocksdb_would_read_for_ever_is_found_behind_whole_records_and_behind_damage() {
        let mut log = Writer::new(Format::Plain, NUMBER);
        log.batch(100);
        let end = log.bytes.len();
        let recycled = [7, 7, 7, 7, 0, 0, 5];
        let mut bytes = log.bytes.clone();
        assert_eq!(hangs_rocksdb_at(&bytes, 0), None);
        bytes.extend(recycled);
        assert_eq!(hangs_rocksdb_at(&bytes, 0), Some(end));
        assert_eq!(hangs_rocksdb_at(&bytes, end), Some(end));
        // RocksDB leaves out the rest of a block that is damaged, and goes on with the next.
        let mut bytes = log.bytes.clone();
        bytes.resize(BLOCK_LEN, 9);
        bytes.extend(recycled);
        assert_eq!(hangs_rocksdb_at(&bytes, 0), Some(BLOCK_LEN));
        // A file that begins with such a record is a recycled log.
        assert_eq!(hangs_rocksdb_at(&recycled, 0), None);
        let mut log = Writer::new(Format::Recyclable, NUMBER);
        log.batch(100);
        log.bytes.extend(recycled);
        assert_eq!(hangs_rocksdb_at(&log.bytes, end), None);
    }
}
