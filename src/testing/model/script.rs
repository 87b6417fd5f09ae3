//! Scripts, and how they are made of bytes.

use std::fmt;

use super::GROUPS;

/// The bytes that one step of a script is made of.
pub const STEP_BYTES: usize = 12;

/// Steps beyond these are cut off: a longer script finds nothing that two short ones do not,
/// but is slower than both.
const STEPS_MAX: usize = 100;

/// What the store of a script is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`FsyncPolicy::Always`](crate::FsyncPolicy::Always) instead of `Never`.
    pub sync_always: bool,
    /// [`VerifyOnOpen::Full`](crate::VerifyOnOpen::Full) instead of `Bounds`.
    pub verify_full: bool,
    /// [`Options::entry_cache_bytes`](crate::Options::entry_cache_bytes).
    pub cache_bytes: usize,
    /// [`SnapshotPayload::Reference`](crate::SnapshotPayload::Reference) instead of `Inline`.
    pub reference: bool,
    /// [`Options::snapshot_inline_bytes_max`](crate::Options::snapshot_inline_bytes_max).
    pub inline_bytes_max: usize,
}

/// A sequence of operations on a new store.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    /// How the store is opened.
    pub settings: Settings,
    /// What is done to it.
    pub steps: Vec<Step>,
}

/// One operation on one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The group, below [`GROUPS`].
    pub group: u64,
    /// The operation.
    pub op: Op,
}

/// An operation, with places relative to what the store holds when it is reached.
///
/// A place between a floor and a ceiling counts upwards from the floor; behind the ceiling
/// come the place above it and the one below the floor, then it starts again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Appends entries, some of which may be refused.
    Append(Tail),
    /// Stores a hard state.
    SetHardState(Ballot),
    /// Raises the commit index.
    SetCommit {
        /// The place between the commit index and the last one.
        to: u8,
    },
    /// Stores a conf state and its applied index.
    SetConfState {
        /// Which conf state.
        conf: u8,
        /// The place between the applied index and the last one.
        applied: u8,
    },
    /// Records the applied index.
    SetApplied {
        /// The place between the applied index and the last one.
        to: u8,
    },
    /// Removes the front of the log.
    Compact {
        /// The place between the first index and the one behind the applied index.
        to: u8,
    },
    /// Stores a snapshot of the own state machine, at a place between the stored one and the
    /// last index.
    CreateSnapshot(Image),
    /// Installs a snapshot of another node, at a place between the commit index and eight
    /// past the last.
    ApplySnapshot(Image),
    /// Writes several parts at once.
    Batch(Parts),
    /// Sets the first configuration.
    Initialize {
        /// Which conf state.
        conf: u8,
    },
    /// Registers a snapshot producer, or takes it away. It never delivers.
    SetProducer {
        /// Whether there is one afterwards.
        present: bool,
    },
    /// Syncs.
    Sync,
    /// Closes the store and opens it again.
    Reopen {
        /// By `close`; otherwise by dropping every handle.
        close: bool,
    },
    /// Removes the group. The next operation on it finds a new one.
    Destroy,
}

/// Entries to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Where they start, counted from the place behind the last entry.
    pub start: i8,
    /// How many there are.
    pub count: u8,
    /// The term, counted from that of the entry before them.
    pub term: i8,
    /// How far the second entry is from where it should be.
    pub slip: i8,
    /// The bytes of each payload.
    pub bytes: u16,
}

/// A hard state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The term, counted from the stored one.
    pub term: i8,
    /// The vote; `None` repeats the stored one.
    pub vote: Option<u8>,
    /// The place of the commit index, between the stored one and the last index.
    pub commit: u8,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The place of its index; 255 is the index `u64::MAX` of a received one.
    pub at: u8,
    /// The term of a received one, counted from the newest known; of a staged one, counted
    /// from the log's.
    pub term: i8,
    /// Which conf state.
    pub conf: u8,
    /// The bytes of its data.
    pub bytes: u16,
    /// Whether the data are staged in a file first.
    pub staged: bool,
}

/// The parts of one write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// A received snapshot.
    pub snapshot: Option<Image>,
    /// Entries.
    pub entries: Option<Tail>,
    /// A hard state.
    pub hard_state: Option<Ballot>,
    /// The place of the commit index.
    pub commit: Option<u8>,
    /// Which conf state, and the place of its applied index.
    pub conf_state: Option<(u8, u8)>,
    /// The place of the applied index.
    pub applied: Option<u8>,
    /// A key of the application and its new value; an even value removes the key.
    pub put: Option<(u8, u8)>,
    /// Whether a sync is asked for.
    pub must_sync: bool,
}

impl Script {
    /// Makes a script of any bytes: one for the settings, then [`STEP_BYTES`] for each step.
    /// An incomplete step at the end is dropped.
    ///
    /// Zeros are the simplest of everything, so that a tool which shrinks bytes shrinks the
    /// script.
    pub fn from_bytes(bytes: &[u8]) -> Script {
        let (settings, steps) = match bytes.split_first() {
            Some((settings, steps)) => (*settings, steps),
            None => (0, bytes),
        };
        Script {
            settings: Settings::from_byte(settings),
            steps: steps
                .as_chunks()
                .0
                .iter()
                .take(STEPS_MAX)
                .map(Step::from_bytes)
                .collect(),
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.settings)?;
        for (number, step) in self.steps.iter().enumerate() {
            write!(f, "\n  {number:>2}: group {} {:?}", step.group, step.op)?;
        }
        Ok(())
    }
}

impl Settings {
    fn from_byte(byte: u8) -> Settings {
        Settings {
            sync_always: byte >> 5 == 7,
            verify_full: byte & 16 == 0,
            cache_bytes: match byte & 3 {
                0 => 1 << 20,
                1 => 0,
                2 => 400,
                _ => 4_000,
            },
            reference: byte >> 5 == 6,
            inline_bytes_max: if byte & 12 == 12 { 0 } else { 100 },
        }
    }
}

impl Step {
    fn from_bytes(bytes: &[u8; STEP_BYTES]) -> Step {
        let [
            kind,
            group,
            flags,
            start,
            count,
            term,
            size,
            ballot,
            commit,
            at,
            conf,
            extra,
        ] = *bytes;
        let tail = Tail {
            start: start_of(start),
            count: count_of(count),
            term: rise_of(term),
            slip: slip_of(flags),
            bytes: size_of(size),
        };
        let ballot = Ballot {
            term: match ballot % 8 {
                0..=4 => 0,
                5 | 6 => 1,
                _ => -1,
            },
            vote: (ballot / 8 % 4).checked_sub(1),
            commit,
        };
        let image = Image {
            at,
            term: rise_of(term),
            conf,
            bytes: size_of(extra),
            staged: flags % 4 == 3,
        };
        let op = match kind {
            0..=87 => Op::Append(tail),
            88..=109 => Op::SetHardState(ballot),
            110..=123 => Op::SetCommit { to: commit },
            124..=135 => Op::SetConfState { conf, applied: at },
            136..=157 => Op::SetApplied { to: at },
            158..=179 => Op::Compact { to: at },
            180..=197 => Op::CreateSnapshot(image),
            198..=207 => Op::ApplySnapshot(image),
            208..=231 => Op::Batch(Parts {
                snapshot: (flags % 4 == 3).then_some(Image {
                    staged: flags & 4 != 0,
                    ..image
                }),
                entries: (flags & 8 == 0).then_some(tail),
                hard_state: ballot.commit.is_multiple_of(2).then_some(ballot),
                commit: (commit % 8 == 7).then_some(commit / 8),
                conf_state: (conf % 4 == 3).then_some((conf / 4, at)),
                applied: (at % 4 == 3).then_some(at / 4),
                put: (extra % 2 == 1).then_some((extra / 2 % 4, size)),
                must_sync: flags & 16 != 0,
            }),
            232..=235 => Op::Initialize { conf },
            236..=239 => Op::SetProducer {
                present: flags % 2 == 1,
            },
            240..=243 => Op::Sync,
            244..=253 => Op::Reopen {
                close: flags % 2 == 1,
            },
            254..=255 => Op::Destroy,
        };
        Step {
            group: u64::from(group) % GROUPS,
            op,
        }
    }
}

/// Mostly at the end of the log, often before it, rarely so far before it that the tail is
/// longer than what a store deletes one by one, rarely past it.
fn start_of(byte: u8) -> i8 {
    match byte {
        0..=149 => 0,
        150..=227 => -((byte % 8) as i8) - 1,
        228..=239 => -((byte - 218) as i8),
        240..=247 => -((byte - 172) as i8),
        248..=255 => (byte - 247) as i8,
    }
}

/// Mostly a few, rarely none, rarely more than a store deletes one by one.
fn count_of(byte: u8) -> u8 {
    match byte {
        0..=199 => byte % 6 + 1,
        200..=239 => byte - 200,
        240..=255 => byte - 170,
    }
}

/// Mostly none, rarely backwards.
fn rise_of(byte: u8) -> i8 {
    match byte {
        0..=149 => 0,
        150..=209 => 1,
        210..=245 => (byte % 5) as i8,
        246..=255 => -((byte % 3) as i8),
    }
}

/// Rarely a gap or a repeated index inside.
fn slip_of(flags: u8) -> i8 {
    match flags {
        0..=239 => 0,
        240..=247 => 1,
        248..=255 => -1,
    }
}

/// Mostly small, at times larger than an inline snapshot or a small cache.
fn size_of(byte: u8) -> u16 {
    match byte {
        0..=119 => u16::from(byte % 16),
        120..=239 => u16::from(byte),
        240..=252 => 700,
        253..=255 => 9_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_the_simplest_script() {
        let script = Script::from_bytes(&[0; 1 + 2 * STEP_BYTES]);
        let simplest = Tail {
            start: 0,
            count: 1,
            term: 0,
            slip: 0,
            bytes: 0,
        };
        let append = Step {
            group: 0,
            op: Op::Append(simplest),
        };
        assert_eq!(script.steps, [append.clone(), append]);
    }

    #[test]
    fn any_length_makes_a_script() {
        for length in 0..200 {
            let script = Script::from_bytes(&vec![0xa5; length]);
            assert_eq!(script.steps.len(), length.saturating_sub(1) / STEP_BYTES);
        }
        let long = vec![7; 1 + 500 * STEP_BYTES];
        assert_eq!(Script::from_bytes(&long).steps.len(), STEPS_MAX);
    }

    #[test]
    fn every_operation_can_be_drawn() {
        let mut drawn = std::collections::HashSet::new();
        for kind in 0..=255 {
            let mut bytes = [0; STEP_BYTES];
            bytes[0] = kind;
            drawn.insert(std::mem::discriminant(&Step::from_bytes(&bytes).op));
        }
        assert_eq!(drawn.len(), 14);
    }
}
