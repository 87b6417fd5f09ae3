//! What happens to a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fastrand::Rng;

const PAGE: usize = 4096;

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    BitFlip,
    Byte,
    ZeroedRange,
    ZeroedPage,
    ZeroedToTheEnd,
    Cut,
    Emptied,
    Deleted,
    RandomPage,
    SwappedPages,
    BytesLost,
    BytesInserted,
    BytesAppended,
    AnotherFile,
    /// Of a log: whole records up to the end of a block.
    ZeroedRecords,
}

impl Damage {
    pub const ALL: [Damage; 15] = [
        Damage::BitFlip,
        Damage::Byte,
        Damage::ZeroedRange,
        Damage::ZeroedPage,
        Damage::ZeroedToTheEnd,
        Damage::Cut,
        Damage::Emptied,
        Damage::Deleted,
        Damage::RandomPage,
        Damage::SwappedPages,
        Damage::BytesLost,
        Damage::BytesInserted,
        Damage::BytesAppended,
        Damage::AnotherFile,
        Damage::ZeroedRecords,
    ];

    /// Whether there has to be something in the file.
    fn needs_bytes(self) -> bool {
        !matches!(
            self,
            Damage::Deleted | Damage::BytesAppended | Damage::AnotherFile
        )
    }

    /// Does it to a file of the store; returns where, or `None` when it changes nothing.
    pub fn strike(self, file: &Path, others: &[PathBuf], random: &mut Rng) -> Option<String> {
        if self == Damage::ZeroedRecords && file.extension().is_none_or(|ext| ext != "log") {
            return None;
        }
        let old = std::fs::read(file).unwrap();
        if old.is_empty() && self.needs_bytes() {
            return None;
        }
        if self == Damage::Deleted {
            std::fs::remove_file(file).unwrap();
            return Some("whole".to_owned());
        }
        let mut bytes = old.clone();
        let at = self.change(&mut bytes, others, random);
        if bytes == old {
            return None;
        }
        std::fs::write(file, bytes).unwrap();
        Some(format!("byte {at} of {}", old.len()))
    }

    fn change(self, bytes: &mut Vec<u8>, others: &[PathBuf], random: &mut Rng) -> usize {
        let len = bytes.len();
        let at = random.usize(..len.max(1));
        let page = at / PAGE * PAGE;
        let page_end = (page + PAGE).min(len);
        match self {
            Damage::BitFlip => bytes[at] ^= 1 << random.u8(..8),
            Damage::Byte => bytes[at] = random.u8(..),
            Damage::ZeroedRange => {
                let end = (at + random.usize(1..600)).min(len);
                bytes[at..end].fill(0);
            }
            Damage::ZeroedPage => bytes[page..page_end].fill(0),
            Damage::ZeroedToTheEnd => bytes[at..].fill(0),
            Damage::Cut => bytes.truncate(at),
            Damage::Emptied => bytes.clear(),
            Damage::RandomPage => random.fill(&mut bytes[page..page_end]),
            Damage::SwappedPages => swap_pages(bytes, page, random),
            Damage::BytesLost => drop(bytes.drain(at..(at + random.usize(1..64)).min(len))),
            Damage::BytesInserted => {
                let more: Vec<u8> = (0..random.usize(1..64)).map(|_| random.u8(..)).collect();
                drop(bytes.splice(at..at, more));
            }
            Damage::BytesAppended => bytes.extend((0..random.usize(1..64)).map(|_| random.u8(..))),
            Damage::AnotherFile => {
                if let Some(other) = random.choice(others) {
                    *bytes = std::fs::read(other).unwrap();
                }
            }
            Damage::ZeroedRecords => return zero_records(bytes, random),
            Damage::Deleted => {}
        }
        at
    }
}

const BLOCK: usize = 32 << 10;
/// Types of log records that begin a write, plain and recyclable.
const BEGINNINGS: [u8; 4] = [1, 2, 5, 6];
const RECYCLABLE_FROM: u8 = 5;

/// Where the records of a block begin: checksum (4), length (2), type (1), in recyclable logs
/// the log's number (4), payload.
fn records(bytes: &[u8], block: usize) -> Vec<usize> {
    let end = (block + BLOCK).min(bytes.len());
    let (mut found, mut at) = (Vec::new(), block);
    while at + 7 <= end && bytes[at + 6] != 0 {
        found.push(at);
        let number = if bytes[at + 6] >= RECYCLABLE_FROM {
            4
        } else {
            0
        };
        at += 7 + number + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    found
}

/// In a block behind which a write begins with the next one, where there is such a block.
fn zero_records(bytes: &mut [u8], random: &mut Rng) -> usize {
    let blocks: Vec<usize> = (0..bytes.len() / BLOCK).map(|n| n * BLOCK).collect();
    let ends_whole = |block: &&usize| {
        let next = bytes.get(**block + BLOCK + 6);
        next.is_some_and(|kind| BEGINNINGS.contains(kind))
    };
    let whole: Vec<usize> = blocks.iter().filter(ends_whole).copied().collect();
    let candidates = if whole.is_empty() { &blocks } else { &whole };
    let Some(block) = random.choice(candidates).copied() else {
        return 0;
    };
    let Some(from) = random.choice(records(bytes, block)) else {
        return 0;
    };
    bytes[from..block + BLOCK].fill(0);
    from
}

fn swap_pages(bytes: &mut [u8], page: usize, random: &mut Rng) {
    let whole = bytes.len() / PAGE;
    if whole < 2 || page + PAGE > bytes.len() {
        return;
    }
    let other = random.usize(..whole) * PAGE;
    for offset in 0..PAGE {
        bytes.swap(page + offset, other + offset);
    }
}

/// A write that a power cut tore: of the pages that were not synced some are as before, or zeros
/// where the file had none, and the file may end early.
pub fn tear(log: &Path, synced: &[u8], from: usize, random: &mut Rng) -> String {
    let written = std::fs::read(log).unwrap();
    let mut torn = written.clone();
    let first = from / PAGE;
    let mut lost = Vec::new();
    for page in first..written.len().div_ceil(PAGE) {
        if random.u8(..3) == 0 {
            let range = page * PAGE..((page + 1) * PAGE).min(written.len());
            let before = synced.get(range.start..).unwrap_or_default();
            for (byte, old) in torn[range]
                .iter_mut()
                .zip(before.iter().copied().chain(std::iter::repeat(0)))
            {
                *byte = old;
            }
            lost.push(page);
        }
    }
    // The size is metadata: the end may be missing, never what was synced.
    let mut len = torn.len();
    if random.bool() {
        len = random.usize(from.max(synced.len().min(torn.len()))..=torn.len());
        torn.truncate(len);
    }
    let file = File::options().write(true).open(log).unwrap();
    file.set_len(len as u64).unwrap();
    file.write_all_at(&torn, 0).unwrap();
    format!("pages {lost:?} lost, {len} of {} bytes", written.len())
}
