//! What the relative places of a script stand for in a given state, and how that is shown.

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};

use super::group::{Group, Outcome};
use super::script::{Ballot, Image, Tail};

/// See [`Op`](super::Op).
pub(super) fn place(floor: u64, ceiling: u64, at: u8) -> u64 {
    let places = ceiling.saturating_sub(floor) + 3;
    let offset = u64::from(at) % places;
    if offset == places - 1 {
        floor.saturating_sub(1)
    } else {
        floor + offset
    }
}

/// Configurations with and without learners, joint ones, and the empty one.
pub(super) fn conf_state(which: u8) -> ConfState {
    let mut conf_state = ConfState::default();
    if which % 16 == 15 {
        return conf_state;
    }
    let chosen = |bits: u8| {
        (1..=3_u64)
            .filter(|id| bits & (1 << (id - 1)) == 0)
            .collect()
    };
    conf_state.set_voters(chosen(which));
    if which & 8 != 0 {
        conf_state.set_learners(vec![9, u64::from(which)]);
    }
    if which & 128 != 0 {
        conf_state.set_voters_outgoing(chosen(which >> 4));
        conf_state.set_learners_next(vec![u64::from(which)]);
        conf_state.auto_leave = which & 64 != 0;
    }
    conf_state
}

/// Bytes that differ from step to step and from index to index.
fn payload<T: From<Vec<u8>>>(number: usize, index: u64, bytes: u16) -> T {
    let seed = index.wrapping_mul(7).wrapping_add(number as u64 * 31);
    let payload: Vec<u8> = (0..u64::from(bytes))
        .map(|place| seed.wrapping_add(place) as u8)
        .collect();
    payload.into()
}

fn entry(number: usize, index: u64, term: u64, bytes: u16) -> Entry {
    let mix = number as u64 + index;
    let mut entry = Entry::default();
    entry.set_entry_type(match mix % 7 {
        5 => EntryType::EntryConfChange,
        6 => EntryType::EntryConfChangeV2,
        _ => EntryType::EntryNormal,
    });
    entry.index = index;
    entry.term = term;
    entry.data = payload(number, index, bytes);
    entry.context = payload(number, index, (mix % 5 * (mix % 3)) as u16);
    entry.sync_log = mix.is_multiple_of(11);
    entry
}

impl Tail {
    /// The entries, on top of what `group` holds.
    pub(super) fn resolve(&self, group: &Group, number: usize) -> Vec<Entry> {
        let end = group.last_index() + 1;
        let start = end.saturating_add_signed(self.start.into());
        let before = start.saturating_sub(1).min(group.last_index());
        let term = group.term(before).unwrap_or(0).max(1);
        let term = term.saturating_add_signed(self.term.into());
        (0..u64::from(self.count))
            .map(|offset| {
                let slip = if offset == 0 { 0 } else { i64::from(self.slip) };
                let index = (start + offset).saturating_add_signed(slip);
                entry(number, index, term, self.bytes)
            })
            .collect()
    }
}

impl Ballot {
    pub(super) fn resolve(&self, group: &Group) -> HardState {
        let mut state = group.hard_state.clone();
        state.term = state.term.saturating_add_signed(self.term.into());
        state.vote = self.vote.map_or(state.vote, u64::from);
        state.commit = place(group.commit(), group.last_index(), self.commit);
        state
    }
}

impl Image {
    /// A snapshot as another node would send it.
    pub(super) fn received(&self, group: &Group, number: usize) -> Snapshot {
        let index = match self.at {
            // No entry could follow it.
            u8::MAX => u64::MAX,
            at => place(group.commit(), group.last_index() + 8, at),
        };
        let last_term = group.term(group.last_index()).unwrap_or(0);
        let term = group.hard_state.term.max(last_term).max(1);
        self.snapshot(index, term.saturating_add_signed(self.term.into()), number)
    }

    /// A snapshot of the own state machine. Its term is the log's, unless it is staged, when
    /// the caller names it and may be wrong.
    pub(super) fn created(&self, group: &Group, number: usize) -> Snapshot {
        let floor = group.snapshot_index().max(1);
        let index = place(floor, group.last_index().max(floor), self.at);
        let term = group.term(index).unwrap_or(1);
        let wrong = if self.staged { self.term.into() } else { 0 };
        self.snapshot(index, term.saturating_add_signed(wrong), number)
    }

    fn snapshot(&self, index: u64, term: u64, number: usize) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.data = payload(number, index, self.bytes);
        let metadata = snapshot.mut_metadata();
        metadata.index = index;
        metadata.term = term;
        metadata.set_conf_state(conf_state(self.conf));
        snapshot
    }
}

/// The entries as `index@term`, those of one term as a range.
pub(super) fn show_entries(entries: &[Entry]) -> String {
    let runs = entries.chunk_by(|a, b| a.term == b.term && a.index + 1 == b.index);
    let shown: Vec<String> = runs
        .filter_map(|run| run.first().zip(run.last()))
        .map(|(first, last)| match (first.index, last.index) {
            (low, high) if low == high => format!("{low}@{}", first.term),
            (low, high) => format!("{low}..={high}@{}", first.term),
        })
        .collect();
    let bytes: usize = entries.iter().map(|entry| entry.data.len()).sum();
    format!("[{}] of {bytes} bytes", shown.join(" "))
}

pub(super) fn show_hard_state(state: &HardState) -> String {
    format!(
        "term {} vote {} commit {}",
        state.term, state.vote, state.commit
    )
}

pub(super) fn show_conf_state(state: &ConfState) -> String {
    format!(
        "voters {:?} learners {:?} outgoing {:?} next {:?}{}",
        state.get_voters(),
        state.get_learners(),
        state.get_voters_outgoing(),
        state.get_learners_next(),
        if state.auto_leave { " leaving" } else { "" }
    )
}

pub(super) fn show_snapshot(snapshot: &Snapshot) -> String {
    let metadata = snapshot.get_metadata();
    format!(
        "{}@{} of {} bytes, {}",
        metadata.index,
        metadata.term,
        snapshot.data.len(),
        show_conf_state(metadata.get_conf_state())
    )
}

pub(super) fn show_outcome(outcome: Outcome) -> String {
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(refusal) => format!("{refusal:?}"),
    }
}
