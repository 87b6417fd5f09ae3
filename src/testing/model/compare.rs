//! Everything that can be read, on both sides.

use std::fmt::Debug;
use std::io::Read;

use protobuf::Message as _;
use raft::eraftpb::{Entry, Snapshot};
use raft::util::limit_size;
use raft::{GetEntriesContext, Storage, StorageError};

use super::group::{Group, Refusal};
use super::harness::{Checked, FAMILY, Play};
use super::resolve::{show_conf_state, show_entries, show_hard_state, show_snapshot};
use crate::{RaftMachineStorage, SnapshotReference, keys};

/// The keys that a script may put, and one more.
const KEYS: u8 = 5;

impl Play {
    pub(super) fn compare(&self) -> Checked {
        let ids = self.groups.keys().copied();
        let present: Vec<u64> = ids
            .filter(|id| self.groups.get(id).is_some_and(|g| g.exists))
            .collect();
        let found = self.must("groups()", self.store()?.groups())?;
        self.same("groups()", &present, &found)?;
        self.compare_application()?;
        for (id, group) in &self.groups {
            let storage = self.storage(*id)?;
            self.compare_keys(*id, group)?;
            self.compare_bounds(&storage, group)?;
            self.compare_states(&storage, group)?;
            self.compare_terms(&storage, group)?;
            self.compare_entries(&storage, group)?;
            self.compare_limited_entries(&storage, group)?;
            self.compare_entries_beyond(&storage, group)?;
            self.compare_snapshot(&storage, group)?;
        }
        Ok(())
    }

    fn same<T: PartialEq + Debug>(&self, what: &str, expected: &T, found: &T) -> Checked {
        if expected == found {
            return Ok(());
        }
        self.differ(what, format!("{expected:?}"), format!("{found:?}"))
    }

    fn same_entries(&self, what: &str, expected: &[Entry], found: &[Entry]) -> Checked {
        let mut pairs = expected.iter().zip(found);
        let what = match pairs.find(|(expected, found)| expected != found) {
            Some((expected, _)) => format!("{what}, first at entry {}", expected.index),
            None if expected.len() == found.len() => return Ok(()),
            None => format!("{what}, in their number"),
        };
        self.differ(what, show_entries(expected), show_entries(found))
    }

    fn compare_application(&self) -> Checked {
        let database = self.store()?.database();
        let Some(family) = database.cf_handle(FAMILY) else {
            return self.differ("the application's column family", "there", "missing");
        };
        for key in 0..KEYS {
            let expected = self.application.get(&key).map(|value| vec![*value]);
            match database.get_cf(&family, [key]) {
                Ok(found) => self.same("the application's keys", &expected, &found)?,
                Err(error) => return self.differ("the application's keys", "success", error),
            }
        }
        Ok(())
    }

    /// No entry stays on disk that the log does not hold: what was compacted, truncated or
    /// replaced would fill the disk, or come back.
    fn compare_keys(&self, id: u64, group: &Group) -> Checked {
        let mut cursor = self.store()?.database().raw_iterator();
        let mut found = Vec::new();
        cursor.seek(keys::entry(id, 0));
        while let Some(key) = cursor.key().filter(|key| **key < keys::entries_end(id)[..]) {
            match keys::parse(key) {
                Some(keys::Key::Entry(_, index)) => found.push(index),
                _ => return self.differ("the keys of entries", "no other", keys::display(key)),
            }
            cursor.next();
        }
        if let Err(error) = cursor.status() {
            return self.differ("the keys of entries", "success", error);
        }
        let expected: Vec<u64> = group.entries.iter().map(|entry| entry.index).collect();
        self.same("the keys of entries", &expected, &found)
    }

    fn compare_bounds(&self, storage: &RaftMachineStorage, group: &Group) -> Checked {
        let (first, last) = (group.first_index(), group.last_index());
        self.same("first_index", &first, &storage.first_index())?;
        self.same("last_index", &last, &storage.last_index())?;
        self.same(
            "raft's first_index",
            &Some(first),
            &Storage::first_index(storage).ok(),
        )?;
        self.same(
            "raft's last_index",
            &Some(last),
            &Storage::last_index(storage).ok(),
        )?;
        self.same("applied_index", &group.applied, &storage.applied_index())?;
        self.same(
            "uncommitted",
            &(group.commit() + 1..last + 1),
            &storage.uncommitted(),
        )?;
        let persisted = storage.persisted_index();
        if persisted > last || (self.durable && persisted != last) {
            return self.differ("persisted_index", last, persisted);
        }
        Ok(())
    }

    fn compare_states(&self, storage: &RaftMachineStorage, group: &Group) -> Checked {
        let expected = (
            show_hard_state(&group.hard_state),
            show_conf_state(&group.conf_state),
        );
        let found = (
            show_hard_state(&storage.hard_state()),
            show_conf_state(&storage.conf_state()),
        );
        self.same("hard_state, conf_state", &expected, &found)?;
        match storage.initial_state() {
            Ok(state) => {
                let found = (
                    show_hard_state(&state.hard_state),
                    show_conf_state(&state.conf_state),
                );
                self.same("initial_state", &expected, &found)
            }
            Err(error) => self.differ("initial_state", "success", error),
        }
    }

    fn compare_terms(&self, storage: &RaftMachineStorage, group: &Group) -> Checked {
        let from = group.truncated.0.saturating_sub(2);
        for index in (from..=group.last_index() + 2).chain([u64::MAX]) {
            let expected = group.term(index);
            let found = storage.term(index).map_err(|error| Refusal::of(&error));
            self.same(&format!("term({index})"), &expected.map_err(Some), &found)?;
            let found = Storage::term(storage, index).map_err(|error| refusal_of(&error));
            self.same(
                &format!("raft's term({index})"),
                &expected.map_err(Some),
                &found,
            )?;
        }
        Ok(())
    }

    fn compare_entries(&self, storage: &RaftMachineStorage, group: &Group) -> Checked {
        let (first, end) = (group.first_index(), group.last_index() + 1);
        let found = self.must("entries", storage.entries(first, end, None))?;
        self.same_entries("entries", &group.entries, &found)?;
        let found = self.must("an empty range", storage.entries(end, end, 0))?;
        self.same_entries("an empty range", &[], &found)
    }

    /// Ranges that differ from step to step, against raft-rs's own limit.
    fn compare_limited_entries(&self, storage: &RaftMachineStorage, group: &Group) -> Checked {
        let (first, last) = (group.first_index(), group.last_index());
        let length = last + 1 - first;
        if length == 0 {
            return Ok(());
        }
        for round in 0..3 {
            let mix = self.number() as u64 * 7 + round * 5;
            let low = first + mix % length;
            let high = low + 1 + (mix / 3) % (last + 1 - low);
            let mut expected = group.entries(low, high);
            let fits = (mix % 4) as usize;
            let sizes = expected
                .iter()
                .take(fits)
                .map(|entry| u64::from(entry.compute_size()));
            let limit = (sizes.sum::<u64>() + mix % 3).saturating_sub(1);
            limit_size(&mut expected, Some(limit));
            let what = format!("entries({low}, {high}, {limit})");
            let found = self.must(&what, storage.entries(low, high, limit))?;
            self.same_entries(&what, &expected, &found)?;
            let context = GetEntriesContext::empty(round == 0);
            match Storage::entries(storage, low, high, limit, context) {
                Ok(found) => self.same_entries(&format!("raft's {what}"), &expected, &found)?,
                Err(error) => return self.differ(format!("raft's {what}"), "success", error),
            }
        }
        Ok(())
    }

    fn compare_entries_beyond(&self, storage: &RaftMachineStorage, group: &Group) -> Checked {
        let (first, end) = (group.first_index(), group.last_index() + 1);
        for (low, high, expected) in [
            (first - 1, end, Refusal::Compacted),
            (first, end + 1, Refusal::Unavailable),
            (end, u64::MAX, Refusal::Unavailable),
        ] {
            let found = storage.entries(low, high, None);
            let found = found.map_err(|error| Refusal::of(&error));
            let what = format!("entries({low}, {high})");
            self.same(&what, &Some(Some(expected)), &found.err())?;
        }
        Ok(())
    }

    fn compare_snapshot(&self, storage: &RaftMachineStorage, group: &Group) -> Checked {
        let expected = group.snapshot.as_ref();
        let metadata = expected.map(|snapshot| snapshot.get_metadata().clone());
        self.same("snapshot_metadata", &metadata, &storage.snapshot_metadata())?;
        let mut data = None;
        if let Some(mut reader) = self.must("open_snapshot", storage.open_snapshot())? {
            let mut read = Vec::new();
            if let Err(error) = reader.read_to_end(&mut read) {
                return self.differ("the snapshot's data", "success", error);
            }
            data = Some(read);
        }
        let wanted = expected.map(|snapshot| snapshot.data.to_vec());
        self.same("the snapshot's data", &wanted, &data)?;

        let index = group.snapshot_index();
        for request_index in [0, index, index + 1] {
            let serves = index > 0 && index >= request_index && index >= group.truncated.0;
            let expected = expected.filter(|_| serves);
            self.compare_served(storage, request_index, expected)?;
        }
        Ok(())
    }

    fn compare_served(
        &self,
        storage: &RaftMachineStorage,
        request_index: u64,
        expected: Option<&Snapshot>,
    ) -> Checked {
        let what = format!("raft's snapshot({request_index})");
        match (storage.snapshot(request_index, 2), expected) {
            (Ok(found), Some(expected)) => {
                let same = found.get_metadata() == expected.get_metadata()
                    && self.carries(&found, expected);
                if !same {
                    return self.differ(what, show_snapshot(expected), show_snapshot(&found));
                }
                Ok(())
            }
            (Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)), None) => Ok(()),
            (Ok(found), None) => {
                self.differ(what, "temporarily unavailable", show_snapshot(&found))
            }
            (Err(error), Some(expected)) => self.differ(what, show_snapshot(expected), error),
            (Err(error), None) => self.differ(what, "temporarily unavailable", error),
        }
    }

    /// Whether what raft is handed stands for the data of `expected`.
    fn carries(&self, found: &Snapshot, expected: &Snapshot) -> bool {
        if !self.settings.reference {
            return found.data == expected.data;
        }
        let metadata = expected.get_metadata();
        SnapshotReference::from_bytes(&found.data).is_ok_and(|reference| {
            let place = (reference.index, reference.term, reference.data_bytes);
            place == (metadata.index, metadata.term, expected.data.len() as u64)
        })
    }
}

fn refusal_of(error: &raft::Error) -> Option<Refusal> {
    match error {
        raft::Error::Store(StorageError::Compacted) => Some(Refusal::Compacted),
        raft::Error::Store(StorageError::Unavailable) => Some(Refusal::Unavailable),
        _ => None,
    }
}
