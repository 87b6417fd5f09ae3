//! The process that runs under the shim: it writes to a few groups, or only opens the store,
//! and reports what happens to a file that the shim does not look at.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use raft_rocks::{Error, Options, RaftMachineStorage, RaftStore, Result, WitnessPolicy};

use crate::common::groups::Group;
use crate::common::hard_state;
use crate::common::workload::{Op, Workload};

pub const GROUPS: u64 = 3;
/// Writes that a group may have under way.
pub const UNDER_WAY_MAX: u64 = 2;
const ROUNDS: u64 = 27;
/// Every third round is submitted, the others are waited for.
const SUBMITTED_EVERY: u64 = 3;
/// Beyond all terms of the workload: only asked for when it has to be refused.
const FAR_TERM: u64 = 1 << 40;

/// What the process has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Write,
    Open,
    /// One vote, waited for.
    Vote,
    /// One vote, submitted.
    SubmitVote,
}

const TASKS: [Task; 4] = [Task::Write, Task::Open, Task::Vote, Task::SubmitVote];

/// How the store is used. Handed to the process as text.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub recycle_wal: bool,
    pub strict: bool,
}

impl Setup {
    pub fn options(&self) -> Options {
        let mut options = Options::default();
        // So small that logs are switched and memtables flushed all the time.
        options.memtable_bytes = 64 << 10;
        options.reserve_bytes = 256 << 10;
        options.recycle_wal = self.recycle_wal;
        options.column_families = vec!["kv".to_owned()];
        if self.strict {
            options.witness = WitnessPolicy::Strict;
        }
        options
    }

    pub fn groups(&self) -> Vec<Group> {
        let workload = |id: u64| Workload::new(self.seed ^ (id << 32), true);
        (0..GROUPS).map(|id| Group::new(id, workload(id))).collect()
    }
}

/// What a process is told.
pub struct Job {
    pub setup: Setup,
    pub task: Task,
    pub store: PathBuf,
    pub mark: PathBuf,
    pub report: PathBuf,
}

impl Job {
    pub fn to_text(&self) -> String {
        let Setup {
            seed,
            recycle_wal,
            strict,
        } = self.setup;
        let flag = |on: bool| u8::from(on).to_string();
        let path = |path: &Path| path.display().to_string();
        [
            path(&self.store),
            path(&self.mark),
            path(&self.report),
            seed.to_string(),
            flag(recycle_wal),
            flag(strict),
            (self.task as u8).to_string(),
        ]
        .join("\n")
    }

    pub fn from_text(text: &str) -> Job {
        let mut parts = text.split('\n');
        let mut part = || parts.next().unwrap();
        let (store, mark, report) = (part().into(), part().into(), part().into());
        let mut number = || part().parse::<u64>().unwrap();
        Job {
            setup: Setup {
                seed: number(),
                recycle_wal: number() == 1,
                strict: number() == 1,
            },
            task: TASKS[number() as usize],
            store,
            mark,
            report,
        }
    }

    pub fn run(&self) {
        let mut report = Report {
            file: File::options()
                .append(true)
                .create(true)
                .open(&self.report)
                .unwrap(),
        };
        match RaftStore::open(&self.store, self.setup.options()) {
            Err(e) => report.line(&format!("open-failed {} {e}", variant(&e))),
            Ok(store) => {
                self.use_store(&store, &mut report);
                // What it would refuse was asked for before.
                let _ = store.close();
            }
        }
        report.line("ended");
    }

    fn use_store(&self, store: &RaftStore, report: &mut Report) {
        let ended = match self.task {
            Task::Write => Writer::new(self, store, report).and_then(Writer::run),
            Task::Open => (0..GROUPS).try_for_each(|id| store.group(id).map(drop)),
            Task::Vote => crate::vote::wait(store, report),
            Task::SubmitVote => crate::vote::submit(store, report),
        };
        if let Err(e) = ended {
            report.line(&format!("read-failed {} {e}", variant(&e)));
        }
    }
}

/// The name of an error's variant.
fn variant(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '{', '(']).next().unwrap().to_owned()
}

/// Where the process tells what happened, a line in one write each.
pub struct Report {
    file: File,
}

impl Report {
    pub fn line(&mut self, line: &str) {
        let line = line.replace('\n', " ");
        self.file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

struct Writer<'a> {
    job: &'a Job,
    store: &'a RaftStore,
    report: &'a mut Report,
    groups: Vec<(Group, RaftMachineStorage)>,
}

/// Nothing more is written: the store is poisoned, or stays full.
struct Stop;

impl<'a> Writer<'a> {
    fn new(job: &'a Job, store: &'a RaftStore, report: &'a mut Report) -> Result<Self> {
        let groups = job.setup.groups().into_iter();
        let groups = groups.map(|group| Ok((group.clone(), store.group(group.id)?)));
        Ok(Writer {
            job,
            store,
            report,
            groups: groups.collect::<Result<_>>()?,
        })
    }

    fn run(mut self) -> Result<()> {
        for round in 1..=ROUNDS {
            let stopped = if round.is_multiple_of(SUBMITTED_EVERY) {
                self.submit_round()
            } else {
                (0..self.groups.len()).try_for_each(|n| self.write_one(n, round))
            };
            if stopped.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn happened(&self) -> bool {
        self.job.mark.exists()
    }

    fn acknowledged(&mut self, n: usize, done: u64, before: bool, after: bool) {
        let (before, after) = (u8::from(before), u8::from(after));
        self.report
            .line(&format!("ack {n} {done} {before} {after}"));
    }

    fn write_one(&mut self, n: usize, round: u64) -> std::result::Result<(), Stop> {
        let (group, storage) = &mut self.groups[n];
        group.done += 1;
        let done = group.done;
        let op = group.workload.next();
        let storage = storage.clone();
        // The application's own, which nobody acknowledges.
        if n == 0 && round % 4 == 1 {
            let put = storage.batch().put("kv", "key", vec![7; 500]).write();
            self.take(n, done, put)?;
        }
        loop {
            let before = self.happened();
            let result = op.perform(&storage);
            if result.is_ok() {
                let after = self.happened();
                self.acknowledged(n, done, before, after);
                return Ok(());
            }
            if needs_file(&op) && !self.is_poisoned() && !before {
                // Its file could not be written: nothing has changed, and it can be done again.
                self.report.line(&format!("refused {n} {done}"));
                continue;
            }
            self.take(n, done, result)?;
        }
    }

    /// Two writes for each group, on their way at the same time.
    fn submit_round(&mut self) -> std::result::Result<(), Stop> {
        let (send, results) = mpsc::channel();
        let mut failed = None;
        let groups = self.groups.len();
        for n in (0..UNDER_WAY_MAX).flat_map(|_| 0..groups) {
            let before = self.happened();
            let (group, storage) = &mut self.groups[n];
            group.done += 1;
            let (done, op, send) = (group.done, group.workload.next(), send.clone());
            let on_durable = move |result| send.send((n, done, before, result)).unwrap();
            // It may be refused for its file alone: then what came before it goes on.
            if let Err(e) = op.submit(storage, on_durable) {
                failed = Some((n, done, Err(e)));
                break;
            }
        }
        drop(send);
        let mut silent = false;
        for (n, done, before, result) in results {
            match result {
                Ok(()) if silent => self.report.line("wrong acknowledged after a failure"),
                Ok(()) => self.acknowledged(n, done, before, false),
                Err(e) => {
                    silent = true;
                    failed.get_or_insert((n, done, Err(e)));
                }
            }
        }
        match failed {
            None => Ok(()),
            Some((n, done, result)) => self.take(n, done, result),
        }
    }

    fn is_poisoned(&self) -> bool {
        matches!(self.store.sync(), Err(Error::Poisoned { .. }))
    }

    /// After a failure nothing is written any more, to any group, on any way.
    fn take(&mut self, n: usize, done: u64, result: Result<()>) -> std::result::Result<(), Stop> {
        let Err(e) = result else { return Ok(()) };
        let poisoned = self.is_poisoned();
        self.report.line(&format!(
            "err {n} {done} {} {} {e}",
            u8::from(poisoned),
            variant(&e)
        ));
        if !poisoned && !matches!(e, Error::Io { .. }) {
            self.report.line(&format!("wrong not poisoned after {e}"));
        }
        if poisoned {
            for (_, storage) in &self.groups {
                let vote = hard_state(FAR_TERM, 1, 0);
                let (told, results) = mpsc::channel();
                let on_durable = move |result: Result<()>| told.send(result).unwrap();
                let waited = storage.set_hard_state(&vote);
                let submitted = storage.batch().hard_state(&vote).submit(on_durable);
                let all = [waited, submitted.and_then(|()| results.recv().unwrap())];
                if !all.iter().all(|r| matches!(r, Err(Error::Poisoned { .. }))) {
                    self.report
                        .line(&format!("wrong a poisoned store wrote {all:?}"));
                }
            }
        }
        Err(Stop)
    }
}

/// Whether it writes a file first, which may fail without harm.
fn needs_file(op: &Op) -> bool {
    matches!(op, Op::Snapshot(_, len) | Op::Install(_, _, len) if *len > 64 << 10)
}
