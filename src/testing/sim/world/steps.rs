//! What the events on one node do: ticks, arrivals, syncs, steps of its machine.

use std::io::Write;

use raft::SnapshotStatus;
use raft::eraftpb::Message;

use super::{Event, SNAPSHOT_EVERY, Step, World, unexplained};
use crate::driver::Error;
use crate::testing::sim::network::{MILLISECOND, Time};
use crate::testing::sim::node::{LONG_APPLY, LONG_SYNC, TICK, ToApply};
use crate::testing::sim::store::SimStore;

impl<S: SimStore> World<S> {
    pub(super) fn tick(&mut self, id: u64, start: u64) -> Step {
        let (at, now) = (self.now, self.now());
        if self.running(id, start).is_none() {
            return Ok(());
        }
        self.check_ticks(id)?;
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        running.ticked = at;
        running.peer.tick(now);
        let tick = self.nodes.get(&id).map_or(TICK, |node| node.tick);
        self.schedule(self.now + tick, Event::Tick { node: id, start });
        self.after(id)
    }

    pub(super) fn deliver(&mut self, message: Message) -> Step {
        let id = message.to;
        self.note(|| line_of(&message));
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
            running.peer.step(message);
            return self.after(id);
        }
        Ok(())
    }

    pub(super) fn deliver_snapshot(&mut self, message: Message, data: &[u8], broken: bool) -> Step {
        let (from, to) = (message.from, message.to);
        let receiver = self.nodes.get_mut(&to).and_then(|n| n.running.as_mut());
        let status = match receiver {
            Some(running) if !broken => {
                let staged =
                    stage(running.peer.store(), &message, data).map_err(unexplained(to))?;
                running.peer.step_snapshot(message, staged);
                SnapshotStatus::Finish
            }
            _ => SnapshotStatus::Failure,
        };
        self.count(match status {
            SnapshotStatus::Finish => "snapshot streamed",
            SnapshotStatus::Failure => "snapshot broken off",
        });
        let at = self.now + MILLISECOND;
        self.schedule(
            at,
            Event::SnapshotReport {
                node: from,
                to,
                status,
            },
        );
        self.after(to)
    }

    pub(super) fn sync(&mut self, id: u64, start: u64, took: Time) -> Step {
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        running.is_syncing = false;
        if took >= LONG_SYNC {
            self.count("sync of 500 ms");
        }
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        // A sync covers what had been written when it began: sometimes one write, sometimes all.
        let unsynced = running.peer.store().unsynced();
        let covered = self.rng.usize(1..=unsynced.max(1));
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        for _ in 0..covered {
            running.peer.store().sync_one();
        }
        self.note(|| format!("node {id} syncs {covered} of {unsynced} writes"));
        self.after(id)
    }

    pub(super) fn apply(&mut self, id: u64, start: u64, took: Time) -> Step {
        let persists = self.rng.u32(0..10) < 2;
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        running.is_applying = false;
        if took >= LONG_APPLY {
            self.count("apply of 1 s");
        }
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        let Some(next) = running.to_apply.pop_front() else {
            return Ok(());
        };
        let restores = matches!(next, ToApply::Restore);
        let outcome = match next {
            ToApply::Restore => running.applier.restore().map(|()| {
                let index = running.applier.applied();
                running.peer.on_restored(index);
            }),
            ToApply::Committed(committed) => running.applier.apply(&committed).map(|applied| {
                running.peer.on_applied(applied);
            }),
        };
        if let Err(e) = outcome {
            return self.stopped(id, e);
        }
        if persists {
            running.applier.machine().persist();
        }
        let applied = running.applier.applied();
        let trail = running.applier.machine_mut().take_trail();
        let conf_state = running.applier.conf_state().clone();
        let regressed = applied < running.applied_max;
        running.applied_max = applied;
        let due = running.applier.since_snapshot().0 >= SNAPSHOT_EVERY;
        self.note(|| match restores {
            true => format!("node {id} is restored, at {applied}"),
            false => format!("node {id} has applied {applied}"),
        });
        if regressed {
            return Err(("applied never goes back", format!("{id} is at {applied}")));
        }
        for (index, history) in trail {
            self.checks.applies(id, index, history)?;
        }
        self.checks.keeps(id, applied, &conf_state)?;
        if due {
            self.make_snapshot(id)?;
        }
        self.after(id)
    }

    pub(super) fn make_snapshot(&mut self, id: u64) -> Step {
        let at = self.now + self.rng.u64(MILLISECOND..40 * MILLISECOND);
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let start = node.start;
        let Some(running) = node.running.as_mut() else {
            return Ok(());
        };
        if running.snapshot.is_some() || running.applier.applied() == 0 {
            return Ok(());
        }
        running.snapshot = running.applier.snapshot().map_err(unexplained(id))?;
        self.schedule(at, Event::StoreSnapshot { node: id, start });
        Ok(())
    }

    pub(super) fn store_snapshot(&mut self, id: u64, start: u64) -> Step {
        let keep = if self.rng.bool() {
            0
        } else {
            self.rng.u64(0..20)
        };
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        let Some(job) = running.snapshot.take() else {
            return Ok(());
        };
        let store = running.peer.store().clone();
        let index = job.index();
        let stored = job.run(&store).and_then(|()| {
            let to = running.peer.compact_to(index, keep, 60);
            Ok(store.compact(to)?)
        });
        // A crash opens the log again, and finds it in use.
        drop(store);
        match stored {
            Ok(()) => {
                self.count("snapshot stored");
                self.note(|| format!("node {id} stores a snapshot at {index}"));
                self.after(id)
            }
            // A newer one has arrived meanwhile.
            Err(Error::Store(crate::Error::SnapshotOutOfDate { .. })) => Ok(()),
            Err(e) => self.stopped(id, e),
        }
    }
}

/// A message, for the trace.
fn line_of(message: &Message) -> String {
    let entries = message.get_entries();
    let last = entries.last().map_or(0, |entry| entry.index);
    format!(
        "{} -> {}: {:?} term {}, index {} (term {}), entries to {last}, commit {}{}",
        message.from,
        message.to,
        message.get_msg_type(),
        message.term,
        message.index,
        message.log_term,
        message.commit,
        if message.reject { ", rejected" } else { "" },
    )
}

/// Writes received data into the receiver's store.
fn stage<S: SimStore>(store: &S, message: &Message, data: &[u8]) -> Result<S::Staged, Error> {
    let metadata = message.get_snapshot().get_metadata();
    let conf_state = metadata.get_conf_state();
    let mut writer = store.stage_snapshot(metadata.index, metadata.term, conf_state)?;
    writer.write_all(data).map_err(|source| Error::Machine {
        doing: "receiving a snapshot",
        source,
    })?;
    Ok(store.finish_snapshot(writer)?)
}
