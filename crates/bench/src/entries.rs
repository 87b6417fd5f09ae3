//! The entries that are appended: of one term, with payloads that no compression makes smaller.

use std::sync::Arc;

use raft_rocks::raft::eraftpb::{Entry, HardState};

/// More than any contender's compression looks back, so that a payload that comes again is not
/// found.
const NOISE_BYTES: usize = 8 << 20;

/// Random bytes, shared by everything that appends.
#[derive(Clone)]
pub struct Noise {
    bytes: Arc<[u8]>,
}

impl Noise {
    /// The same bytes for the same seed.
    pub fn new(seed: u64) -> Self {
        let mut bytes = vec![0; NOISE_BYTES];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        Noise {
            bytes: bytes.into(),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// One log's entries, batch by batch.
pub struct Source {
    noise: Noise,
    place: usize,
    next: u64,
    term_length: u64,
}

impl Source {
    /// A log of one term, from index 1 on. `lane` keeps logs written side by side from having
    /// the same payloads.
    pub fn new(noise: Noise, lane: u64) -> Self {
        let place = (lane as usize).wrapping_mul(65_537) % NOISE_BYTES;
        Source {
            noise,
            place,
            next: 1,
            term_length: u64::MAX,
        }
    }

    /// The same with a new term every `term_length` entries.
    pub fn with_terms(mut self, term_length: u64) -> Self {
        self.term_length = term_length;
        self
    }

    /// The index of the last entry handed out.
    pub fn last_index(&self) -> u64 {
        self.next - 1
    }

    /// The next entries, in the buffers of the last ones if those are still there: making
    /// entries must not be what is measured.
    pub fn fill(&mut self, entries: &mut Vec<Entry>, count: usize, bytes: usize) {
        entries.resize_with(count, Entry::default);
        for entry in entries {
            entry.index = self.next;
            entry.term = 1 + (self.next - 1) / self.term_length;
            entry.data.resize(bytes, 0);
            let payload = self.noise.bytes.get(self.place..self.place + bytes);
            if let Some(payload) = payload {
                entry.data.copy_from_slice(payload);
            }
            self.next += 1;
            self.place = (self.place + bytes) % (NOISE_BYTES - bytes);
        }
    }

    /// The hard state that a Ready brings along with the next entries: what was appended before
    /// has been committed since.
    pub fn hard_state(&self) -> HardState {
        let mut hard_state = HardState::default();
        hard_state.term = 1;
        hard_state.vote = 1;
        hard_state.commit = self.last_index();
        hard_state
    }
}
