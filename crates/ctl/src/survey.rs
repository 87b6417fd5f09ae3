//! What stands on disk of a group, all of it, sound or not: facts, no judgement.

pub mod log;

use anyhow::Result;
use raft_rocks::Error;
use raft_rocks::keys::{self, Meta};
use raft_rocks::record::{
    self, AppliedConfState, FirstIndex, HardState, LastIndex, MetaRecord, SnapshotRecord,
    UncommitIndex,
};
use raft_rocks::tools::View;

use self::log::LogSurvey;
use crate::exit::Exit;

/// A record that a group has one of.
pub enum Found<R> {
    Missing,
    /// Why it cannot be believed.
    Damaged(String),
    Sound(R),
}

impl<R> Found<R> {
    pub fn sound(&self) -> Option<&R> {
        match self {
            Found::Sound(record) => Some(record),
            _ => None,
        }
    }

    fn problem(&self) -> Option<String> {
        match self {
            Found::Missing => Some("none".to_owned()),
            Found::Damaged(why) => Some(why.clone()),
            Found::Sound(_) => None,
        }
    }
}

/// A group's states.
pub struct States {
    pub group: u64,
    pub first: Found<FirstIndex>,
    pub last: Found<LastIndex>,
    pub hard_state: Found<HardState>,
    pub conf_state: Found<AppliedConfState>,
    pub uncommit: Found<UncommitIndex>,
    pub snapshot: Found<SnapshotRecord>,
}

impl States {
    pub fn read(view: &View, group: u64) -> Result<States> {
        Ok(States {
            group,
            first: read(view, group)?,
            last: read(view, group)?,
            hard_state: read(view, group)?,
            conf_state: read(view, group)?,
            uncommit: read(view, group)?,
            snapshot: read(view, group)?,
        })
    }

    /// The records that are missing or damaged, and what is there instead. A snapshot may be
    /// missing.
    pub fn problems(&self) -> Vec<(Meta, String)> {
        let snapshot = match &self.snapshot {
            Found::Missing => None,
            other => other.problem(),
        };
        let all = [
            (Meta::FirstIndex, self.first.problem()),
            (Meta::LastIndex, self.last.problem()),
            (Meta::HardState, self.hard_state.problem()),
            (Meta::ConfState, self.conf_state.problem()),
            (Meta::UncommitIndex, self.uncommit.problem()),
            (Meta::Snapshot, snapshot),
        ];
        let found = all.into_iter();
        found
            .filter_map(|(meta, problem)| Some((meta, problem?)))
            .collect()
    }

    /// The entries there should be, as far as the bounds tell.
    pub fn stated_len(&self) -> u64 {
        match (self.first.sound(), self.last.sound()) {
            (Some(first), Some(last)) => last
                .last_index
                .saturating_add(1)
                .saturating_sub(first.first_index),
            _ => 0,
        }
    }
}

/// Everything of a group.
pub struct Survey {
    pub states: States,
    pub log: LogSurvey,
    /// Why the snapshot's file is not the one that was written.
    pub snapshot_file: Option<String>,
    /// What an open refuses the group with.
    pub refusal: Option<Error>,
}

impl Survey {
    /// Reads all of a group; `progress` is told the number of entries read.
    pub fn read(view: &View, group: u64, progress: impl FnMut(u64)) -> Result<Survey> {
        let states = States::read(view, group)?;
        let snapshot_file = match states.snapshot.sound() {
            Some(record) => damage(view.check_snapshot(group, record))?,
            None => None,
        };
        let stated_last = states.last.sound().map_or(0, |last| last.last_index);
        Ok(Survey {
            log: LogSurvey::read(view, group, stated_last, progress),
            states,
            snapshot_file: snapshot_file.map(|e| e.to_string()),
            refusal: damage(view.check_group(group))?,
        })
    }
}

/// What a check has found; a file that cannot be read is no damage.
fn damage(checked: raft_rocks::Result<()>) -> Result<Option<Error>> {
    match checked {
        Ok(()) => Ok(None),
        Err(e) if Exit::of(&e) == Exit::Failed => Err(e.into()),
        Err(e) => Ok(Some(e)),
    }
}

fn read<R: MetaRecord>(view: &View, group: u64) -> Result<Found<R>> {
    let key = keys::meta(group, R::META);
    Ok(match view.get(&key) {
        Ok(None) => Found::Missing,
        Ok(Some(bytes)) => match record::decode_meta(group, &bytes) {
            Ok(record) => Found::Sound(record),
            Err(damage) => Found::Damaged(format!(
                "{} where {} was expected",
                damage.found, damage.expected
            )),
        },
        // A table that RocksDB cannot read.
        Err(e) if Exit::of(&e) == Exit::Lost => Found::Damaged(e.to_string()),
        Err(e) => return Err(e.into()),
    })
}
