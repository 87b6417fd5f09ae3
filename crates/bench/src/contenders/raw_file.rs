//! The same bytes and fdatasync, with nothing around them: what the disk allows.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use raft_rocks::raft::eraftpb::{Entry, HardState};

use super::{Contender, Setup, message};
use crate::entries::Noise;

/// One file for all groups.
pub struct RawFile {
    state: Mutex<State>,
}

struct State {
    file: File,
    buffer: Vec<u8>,
    place: Place,
}

enum Place {
    /// Every write makes the file longer, which the file system must journal.
    End,
    /// Every write goes over bytes that are there, from the start again when it is full.
    Over { next: u64, len: u64 },
}

impl RawFile {
    /// A file that grows.
    pub fn growing(dir: &Path) -> Result<Self> {
        let file = File::create(dir.join("growing"))?;
        Ok(RawFile::new(file, Place::End))
    }

    /// A file that has been written in full already.
    pub fn allocated(dir: &Path, setup: Setup) -> Result<Self> {
        let mut file = File::create(dir.join("allocated"))?;
        let noise = Noise::new(0);
        let mut len = 0;
        while len < setup.file_bytes {
            file.write_all(noise.bytes())?;
            len += noise.bytes().len() as u64;
        }
        file.sync_all()?;
        Ok(RawFile::new(file, Place::Over { next: 0, len }))
    }

    fn new(file: File, place: Place) -> Self {
        let buffer = Vec::new();
        RawFile {
            state: Mutex::new(State {
                file,
                buffer,
                place,
            }),
        }
    }
}

impl State {
    fn write(&mut self) -> std::io::Result<()> {
        match &mut self.place {
            Place::End => self.file.write_all(&self.buffer)?,
            Place::Over { next, len } => {
                let count = self.buffer.len() as u64;
                if *next + count > *len {
                    *next = 0;
                }
                self.file.write_all_at(&self.buffer, *next)?;
                *next += count;
            }
        }
        self.file.sync_data()
    }
}

impl Contender for RawFile {
    fn append(
        &self,
        _group: u64,
        entries: &mut Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        state.buffer.clear();
        for entry in entries.iter() {
            message::encode(entry, &mut state.buffer)?;
        }
        if let Some(hard_state) = hard_state {
            state.buffer.extend(message::encode_hard_state(hard_state)?);
        }
        state.write().context("write to a plain file")
    }
}
