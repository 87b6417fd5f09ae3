//! Plays a script on a store and on the model.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::Snapshot;

use super::GROUPS;
use super::group::{Group, Outcome, Refusal, Write};
use super::resolve::{
    conf_state, place, show_conf_state, show_entries, show_hard_state, show_outcome, show_snapshot,
};
use super::script::{Image, Op, Parts, Script, Settings, Step};
use crate::{
    FsyncPolicy, Options, RaftMachineStorage, RaftStore, SnapshotPayload, SnapshotProducer,
    SnapshotRequest, StagedSnapshot, VerifyOnOpen,
};

/// The column family of the keys that stand for an application's.
pub(super) const FAMILY: &str = "application";

/// Where the store and the model part, with the steps that led there.
pub struct Divergence {
    played: Vec<String>,
    what: String,
    expected: String,
    found: String,
}

impl Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "store and model part at the last of these steps:")?;
        for step in &self.played {
            writeln!(f, "  {step}")?;
        }
        writeln!(f, "in {}", self.what)?;
        writeln!(f, "  expected: {}", self.expected)?;
        write!(f, "  found:    {}", self.found)
    }
}

impl Debug for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl std::error::Error for Divergence {}

pub(super) type Checked<T = ()> = Result<T, Divergence>;

/// Plays `script` on a new store below `dir`, which holds no other, and on the model.
///
/// # Errors
/// [`Divergence`]: the first thing in which they differ.
pub fn check(script: &Script, dir: &Path) -> Result<(), Divergence> {
    let mut play = Play {
        dir: dir.join("store"),
        settings: script.settings,
        store: None,
        groups: (0..GROUPS).map(|id| (id, Group::default())).collect(),
        application: BTreeMap::new(),
        played: Vec::new(),
        durable: true,
    };
    play.open()?;
    for step in &script.steps {
        play.step(step)?;
        play.compare()?;
    }
    play.log("the end: close and open");
    play.reopen(true)?;
    play.compare()
}

pub(super) struct Play {
    dir: PathBuf,
    pub settings: Settings,
    store: Option<RaftStore>,
    /// The model of each group.
    pub groups: BTreeMap<u64, Group>,
    /// The model of the application's keys.
    pub application: BTreeMap<u8, u8>,
    played: Vec<String>,
    /// Whether the last step left everything durable.
    pub durable: bool,
}

impl Play {
    /// The number of steps so far.
    pub(super) fn number(&self) -> usize {
        self.played.len()
    }

    fn log(&mut self, what: impl Display) {
        self.played
            .push(format!("{:>2}: {what}", self.played.len()));
    }

    pub(super) fn differ<T>(
        &self,
        what: impl Display,
        expected: impl Display,
        found: impl Display,
    ) -> Checked<T> {
        Err(Divergence {
            played: self.played.clone(),
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        })
    }

    pub(super) fn must<T>(&self, what: impl Display, outcome: crate::Result<T>) -> Checked<T> {
        outcome.or_else(|error| self.differ(what, "success", error))
    }

    pub(super) fn store(&self) -> Checked<&RaftStore> {
        match &self.store {
            Some(store) => Ok(store),
            None => self.differ("the store", "open", "closed"),
        }
    }

    pub(super) fn storage(&self, id: u64) -> Checked<RaftMachineStorage> {
        self.must(format!("group({id})"), self.store()?.group(id))
    }

    fn open(&mut self) -> Checked {
        let mut options = Options::default();
        options.fsync = if self.settings.sync_always {
            FsyncPolicy::Always
        } else {
            FsyncPolicy::Never
        };
        // In memory its room costs time.
        options.reserve_bytes = 0;
        options.verify = if self.settings.verify_full {
            VerifyOnOpen::Full
        } else {
            VerifyOnOpen::Bounds
        };
        if self.settings.reference {
            options.snapshot_payload = SnapshotPayload::Reference;
        }
        options.entry_cache_bytes = self.settings.cache_bytes;
        options.snapshot_inline_bytes_max = self.settings.inline_bytes_max;
        options.memtable_bytes = 64 << 10;
        options.column_families = vec![FAMILY.to_owned()];
        self.store = Some(self.must("open", RaftStore::open(&self.dir, options))?);
        Ok(())
    }

    fn reopen(&mut self, close: bool) -> Checked {
        if let Some(store) = self.store.take()
            && close
        {
            self.must("close", store.close())?;
        }
        for group in self.groups.values_mut() {
            group.has_producer = false;
        }
        self.durable = true;
        self.open()
    }

    fn step(&mut self, step: &Step) -> Checked {
        let id = step.group;
        let group = self.groups.get(&id).cloned().unwrap_or_default();
        self.durable = self.settings.sync_always;
        match &step.op {
            Op::Append(tail) => {
                let entries = tail.resolve(&group, self.number());
                let what = format!("append {}", show_entries(&entries));
                self.change(id, &what, |s| s.append(&entries), |g| g.append(&entries))?;
            }
            Op::SetHardState(ballot) => {
                let state = ballot.resolve(&group);
                let what = format!("set_hard_state {}", show_hard_state(&state));
                self.change(
                    id,
                    &what,
                    |s| s.set_hard_state(&state),
                    |g| g.set_hard_state(&state),
                )?;
            }
            Op::SetCommit { to } => {
                let to = place(group.commit(), group.last_index(), *to);
                let what = format!("set_commit {to}");
                self.change(id, &what, |s| s.set_commit(to), |g| g.set_commit(to))?;
            }
            Op::SetConfState { conf, applied } => {
                let conf = conf_state(*conf);
                let applied = place(group.applied, group.last_index(), *applied);
                let what = format!("set_conf_state {} at {applied}", show_conf_state(&conf));
                self.change(
                    id,
                    &what,
                    |s| s.set_conf_state(&conf, applied),
                    |g| g.set_conf_state(&conf, applied),
                )?;
            }
            Op::SetApplied { to } => {
                let to = place(group.applied, group.last_index(), *to);
                let what = format!("set_applied {to}");
                self.change(id, &what, |s| s.set_applied(to), |g| g.set_applied(to))?;
            }
            Op::Compact { to } => {
                let to = place(group.first_index(), group.applied + 1, *to);
                let what = format!("compact {to}");
                self.change(id, &what, |s| s.compact(to), |g| g.compact(to))?;
            }
            Op::CreateSnapshot(image) => self.create_snapshot(id, &group, image)?,
            Op::ApplySnapshot(image) => self.batch(
                id,
                &group,
                &Parts {
                    snapshot: Some(image.clone()),
                    ..Parts::default()
                },
            )?,
            Op::Batch(parts) => self.batch(id, &group, parts)?,
            Op::Initialize { conf } => {
                let conf = conf_state(*conf);
                let what = format!("initialize {}", show_conf_state(&conf));
                self.change(
                    id,
                    &what,
                    |s| s.initialize_with_conf_state(conf.clone()),
                    |g| g.initialize(&conf),
                )?;
            }
            Op::SetProducer { present } => {
                self.log(format!("group {id}: set_snapshot_producer {present}"));
                let producer = present.then(|| Arc::new(Silent) as Arc<dyn SnapshotProducer>);
                self.storage(id)?.set_snapshot_producer(producer);
                self.groups.entry(id).or_default().has_producer = *present;
            }
            Op::Sync => {
                self.log("sync");
                self.must("sync", self.store()?.sync())?;
                self.durable = true;
            }
            Op::Reopen { close } => {
                self.log(if *close {
                    "close and open"
                } else {
                    "drop and open"
                });
                self.reopen(*close)?;
            }
            Op::Destroy => self.destroy(id)?,
        }
        Ok(())
    }

    /// Runs one operation on both sides; whether both have accepted it.
    fn change(
        &mut self,
        id: u64,
        what: &str,
        on_store: impl FnOnce(&RaftMachineStorage) -> crate::Result<()>,
        on_model: impl FnOnce(&mut Group) -> Outcome,
    ) -> Checked<bool> {
        let expected = self.groups.entry(id).or_default().change(on_model);
        self.log(format!("group {id}: {what} -> {}", show_outcome(expected)));
        let found = on_store(&self.storage(id)?);
        match (expected, found) {
            (Ok(()), Ok(())) => Ok(true),
            (Err(refusal), Err(error)) if Refusal::of(&error) == Some(refusal) => Ok(false),
            (_, Ok(())) => self.differ("its answer", show_outcome(expected), "ok"),
            (_, Err(error)) => self.differ("its answer", show_outcome(expected), error),
        }
    }

    fn create_snapshot(&mut self, id: u64, group: &Group, image: &Image) -> Checked {
        let snapshot = image.created(group, self.number());
        let staged = image
            .staged
            .then(|| self.stage(id, &snapshot))
            .transpose()?;
        let how = if staged.is_some() { " (staged)" } else { "" };
        let what = format!("create_snapshot{how} {}", show_snapshot(&snapshot));
        let metadata = snapshot.get_metadata();
        let on_store = |storage: &RaftMachineStorage| match staged {
            Some(staged) => storage.create_snapshot_from(staged),
            None => {
                let conf_state = metadata.get_conf_state();
                storage.create_snapshot(metadata.index, conf_state, &snapshot.data)
            }
        };
        self.change(id, &what, on_store, |g| g.create_snapshot(&snapshot))?;
        Ok(())
    }

    /// Writes the data of a snapshot to a file.
    fn stage(&self, id: u64, snapshot: &Snapshot) -> Checked<StagedSnapshot> {
        let metadata = snapshot.get_metadata();
        let storage = self.storage(id)?;
        let staged =
            storage.stage_snapshot(metadata.index, metadata.term, metadata.get_conf_state());
        let mut writer = self.must("stage_snapshot", staged)?;
        if let Err(error) = writer.write_all(&snapshot.data) {
            return self.differ("writing staged data", "success", error);
        }
        self.must("finish", writer.finish())
    }

    /// One write of several parts, each of which is placed behind those before it.
    fn batch(&mut self, id: u64, group: &Group, parts: &Parts) -> Checked {
        let (write, shown) = resolve(parts, group, self.number());
        let mut refused = None;
        // What raft would carry: the data, or a reference to the staged file.
        let mut carried = write.snapshot.clone();
        let mut staged = None;
        if let (Some(image), Some(snapshot)) = (&parts.snapshot, &mut carried) {
            if image.staged {
                let file = self.stage(id, snapshot)?;
                if self.settings.reference {
                    snapshot.data = file.reference().to_bytes().into();
                }
                staged = Some(file);
            }
            // Only a snapshot without any data needs no file where references are carried.
            let fits = if self.settings.reference {
                image.staged || snapshot.data.is_empty()
            } else {
                !image.staged
            };
            refused = (!fits).then_some(Refusal::InvalidBatch);
        }
        let staged_too = if staged.is_some() { " (staged)" } else { "" };
        let what = format!("batch{shown}{staged_too}");
        let on_store = |storage: &RaftMachineStorage| {
            let mut batch = storage.batch().must_sync(parts.must_sync);
            // In another order than the one in which the parts take effect.
            if let Some(applied) = write.applied {
                batch = batch.applied(applied);
            }
            if let Some(hard_state) = &write.hard_state {
                batch = batch.hard_state(hard_state);
            }
            batch = batch.entries(&write.entries);
            if let Some(snapshot) = &carried {
                batch = batch.snapshot(snapshot);
            }
            if let Some(staged) = staged {
                batch = batch.staged_snapshot(staged);
            }
            if let Some((conf_state, applied)) = &write.conf_state {
                batch = batch.conf_state(conf_state, *applied);
            }
            if let Some(commit) = write.commit {
                batch = batch.commit(commit);
            }
            match parts.put {
                Some((key, value)) if removes(value) => batch.delete(FAMILY, [key]),
                Some((key, value)) => batch.put(FAMILY, [key], [value]),
                None => batch,
            }
            .write()
        };
        let on_model = |group: &mut Group| match refused {
            Some(refusal) => Err(refusal),
            None => group.write(&write),
        };
        let accepted = self.change(id, &what, on_store, on_model)?;
        if let (true, Some((key, value))) = (accepted, parts.put) {
            if removes(value) {
                self.application.remove(&key);
            } else {
                self.application.insert(key, value);
            }
        }
        Ok(())
    }

    fn destroy(&mut self, id: u64) -> Checked {
        self.log(format!("group {id}: destroy_group"));
        let held = self.storage(id)?;
        self.must("destroy_group", self.store()?.destroy_group(id))?;
        self.groups.insert(id, Group::default());
        match held.set_commit(0) {
            Err(error) if Refusal::of(&error) == Some(Refusal::GroupDestroyed) => Ok(()),
            Err(error) => self.differ("a write to the destroyed group", "GroupDestroyed", error),
            Ok(()) => self.differ("a write to the destroyed group", "GroupDestroyed", "ok"),
        }
    }
}

/// Gives every part its place, in the state that the parts before it leave.
fn resolve(parts: &Parts, group: &Group, number: usize) -> (Write, String) {
    let mut draft = group.clone();
    let mut write = Write::default();
    let mut shown = String::new();
    // A part that is refused leaves the draft as it was: the whole write is refused then.
    if let Some(image) = &parts.snapshot {
        let snapshot = image.received(&draft, number);
        shown += &format!(", snapshot {}", show_snapshot(&snapshot));
        let _refused = draft.change(|draft| draft.install(&snapshot));
        write.snapshot = Some(snapshot);
    }
    if let Some(tail) = &parts.entries {
        write.entries = tail.resolve(&draft, number);
        shown += &format!(", entries {}", show_entries(&write.entries));
        let _refused = draft.change(|draft| draft.append(&write.entries));
    }
    if let Some(ballot) = &parts.hard_state {
        let state = ballot.resolve(&draft);
        shown += &format!(", hard state {}", show_hard_state(&state));
        let _refused = draft.change(|draft| draft.set_hard_state(&state));
        write.hard_state = Some(state);
    }
    if let Some(at) = parts.commit {
        let commit = place(draft.commit(), draft.last_index(), at);
        shown += &format!(", commit {commit}");
        let _refused = draft.change(|draft| draft.set_commit(commit));
        write.commit = Some(commit);
    }
    if let Some((conf, at)) = parts.conf_state {
        let conf = conf_state(conf);
        let applied = place(draft.applied, draft.last_index(), at);
        shown += &format!(", {} at {applied}", show_conf_state(&conf));
        let _refused = draft.change(|draft| draft.set_conf_state(&conf, applied));
        write.conf_state = Some((conf, applied));
    }
    if let Some(at) = parts.applied {
        let applied = place(draft.applied, draft.last_index(), at);
        shown += &format!(", applied {applied}");
        write.applied = Some(applied);
    }
    if let Some((key, value)) = parts.put {
        let change = if removes(value) { "delete" } else { "put" };
        shown += &format!(", {change} {key}={value}");
    }
    (write, shown)
}

fn removes(value: u8) -> bool {
    value.is_multiple_of(2)
}

/// Never delivers: what it allows is a compaction past the stored snapshot.
struct Silent;

impl SnapshotProducer for Silent {
    fn request(&self, _request: SnapshotRequest) {}
}
