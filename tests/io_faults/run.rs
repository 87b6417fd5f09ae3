//! One process under the shim, and what is found after it.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use raft_rocks::RaftStore;

use crate::child::{GROUPS, Job, Setup, Task, UNDER_WAY_MAX};
use crate::common::copy_store;
use crate::common::groups::Group;
use crate::common::workload::Expected;
use crate::io_shim::{Case, DIED, Durable, Places, Point, Shim, ShimRun};
use crate::scratch::scratch;

pub const CHILD: &str = "RAFT_ROCKS_IO_CHILD";
const TRIES_MAX: u32 = 3;

/// Points at which a failure must end all acknowledging: the log, and the witness, which says
/// how far it was synced. The others may fail without harm:
/// - tables, the MANIFEST, CURRENT, OPTIONS: what they would hold is in the logs until they are
///   durable; RocksDB refuses writes when it cannot go on, and that poisons;
/// - snapshot files: the record that would name one is not written;
/// - the info log, IDENTITY, locks: nothing depends on them once they are open;
/// - allocation ahead of writing, the reserve: only room;
/// - removals: what stays is removed at the next open;
/// - syncs of directories: RocksDB fails the file that the name is for.
fn is_critical(point: &Point) -> bool {
    let writes_or_syncs = point.writes() || point.function.ends_with("sync");
    let writes_or_syncs = writes_or_syncs || point.function == "fdatasync";
    writes_or_syncs && matches!(point.kind.as_str(), "wal" | "witness")
}

/// A process, after it has ended.
pub struct Ran {
    pub places: Places,
    durable: Durable,
    /// Of what the power cut leaves.
    seed: u64,
    status: ExitStatus,
    pub report: Vec<String>,
    stderr: String,
}

/// Runs `task` on a copy of `base`, or on nothing.
pub fn run(
    shim: &Shim,
    setup: &Setup,
    task: Task,
    base: Option<&Path>,
    case: Option<&Case>,
) -> Ran {
    let mut tries = 1;
    loop {
        let ran = run_once(shim, setup, task, base, case);
        // A machine that stands still for a while looks like a process that does.
        let hung = ran.status.signal() == Some(libc::SIGALRM);
        // Threads meet differently each time: a point may come in the next run.
        let missed = case.is_some() && !ran.places.happened();
        if tries == TRIES_MAX || !(hung || missed) {
            return ran;
        }
        tries += 1;
    }
}

fn run_once(
    shim: &Shim,
    setup: &Setup,
    task: Task,
    base: Option<&Path>,
    case: Option<&Case>,
) -> Ran {
    let places = Places::new(scratch().unwrap());
    if let Some(base) = base {
        copy_store(base, &places.root);
    }
    let durable = Durable::of(&places);
    let job = Job {
        setup: setup.clone(),
        task,
        store: places.store(),
        mark: places.mark(),
        report: places.outside.join("report"),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "process_under_the_shim", "--nocapture"])
        .env(CHILD, job.to_text())
        .stdout(Stdio::null());
    shim.preload(
        &mut command,
        &ShimRun {
            places: &places,
            case,
        },
    );
    let output = command.output().unwrap();
    let report = std::fs::read_to_string(&job.report).unwrap_or_default();
    let name = case.map(Case::to_string).unwrap_or_default();
    Ran {
        seed: setup.seed ^ u64::from(crc32c::crc32c(name.as_bytes())),
        durable,
        status: output.status,
        report: report.lines().map(str::to_owned).collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        places,
    }
}

/// What a kill leaves, or a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Kill,
    /// Nothing of what was not synced.
    PowerCut,
    /// Half of the files as they were, whether they were synced or not.
    PowerCutInPart,
}

impl Left {
    /// The kill last: what is opened to look at it is not what it was.
    pub const ALL: [Left; 3] = [Left::PowerCutInPart, Left::PowerCut, Left::Kill];

    pub fn name(self) -> &'static str {
        match self {
            Left::Kill => "kill",
            Left::PowerCut => "cut",
            Left::PowerCutInPart => "cut-in-part",
        }
    }
}

impl Ran {
    /// The directory with the store in it, as it is left.
    pub fn left(&self, left: Left) -> PathBuf {
        let to = self.places.outside.join(left.name());
        // The same files each time that a case is replayed.
        let mut random = fastrand::Rng::with_seed(self.seed);
        match left {
            Left::Kill => return self.places.root.clone(),
            Left::PowerCut => self.durable.restore(&self.places.root, &to, || false),
            Left::PowerCutInPart => {
                self.durable
                    .restore(&self.places.root, &to, || random.bool());
            }
        }
        to
    }

    pub fn lines<'a>(&'a self, word: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
        let words = self.report.iter().map(|line| line.split(' ').collect());
        words.filter(move |words: &Vec<&str>| words[0] == word)
    }

    /// What is wrong with how it ended.
    pub fn check_end(&self, case: Option<&Case>) -> Result<(), String> {
        let dies = case.is_some_and(|case| case.fault.ends()) && self.places.happened();
        let expected = if dies { DIED } else { 0 };
        if self.status.code() != Some(expected) {
            return Err(format!("ended with {}: {}", self.status, self.stderr));
        }
        if let Some(wrong) = self.report.iter().find(|line| line.starts_with("wrong")) {
            return Err(wrong.clone());
        }
        // An error of the disk is no damage: that would send the operator to replace the node.
        for word in ["open-failed", "read-failed"] {
            if let Some(words) = self.lines(word).next()
                && !["Io", "Rocks", "NoSpace"].contains(&words[1])
            {
                return Err(words.join(" "));
            }
        }
        Ok(())
    }

    /// Nothing is acknowledged after a failure that matters.
    pub fn check_silence(&self, case: &Case) -> Result<(), String> {
        if case.fault.ends() || !is_critical(&case.point) {
            return Ok(());
        }
        // The witness is synced beside the calls as well.
        let is_sync = case.point.function.ends_with("sync");
        let is_beside = is_sync && case.point.kind == "witness";
        // A flush of several families syncs closed logs itself. Everything in them has been synced
        // before (docs/durability.md, "Recycled logs"), so that nothing depends on it; RocksDB
        // refuses writes once its thread has come to note the failure.
        let of_closed_log =
            is_sync && case.point.kind == "wal" && self.places.happened_in_background();
        for words in self.lines("ack") {
            let (before, after) = (words[3] == "1", words[4] == "1");
            if !of_closed_log && (before || (after && !is_beside)) {
                return Err(format!(
                    "acknowledged after the failure: {}",
                    words.join(" ")
                ));
            }
        }
        for words in self.lines("err") {
            if words[3] == "0" {
                return Err(format!("not poisoned: {}", words.join(" ")));
            }
        }
        Ok(())
    }

    /// The last acknowledged write of each group.
    fn acknowledged(&self) -> Vec<u64> {
        let mut last = vec![0; GROUPS as usize];
        for words in self.lines("ack") {
            let (group, done): (usize, u64) =
                (words[1].parse().unwrap(), words[2].parse().unwrap());
            last[group] = last[group].max(done);
        }
        last
    }

    /// Everything acknowledged is there, and nothing that never was; the store goes on.
    pub fn check_store(&self, setup: &Setup, left: Left) -> Result<(), String> {
        let store = self.left(left).join("store");
        guarded(|| {
            let store =
                RaftStore::open(store, setup.options()).map_err(|e| format!("refused: {e}"))?;
            for (mut group, acknowledged) in setup.groups().into_iter().zip(self.acknowledged()) {
                check_group(&mut group, &store, acknowledged, left)?;
            }
            store.close().map_err(|e| format!("close: {e}"))
        })
        .map_err(|wrong| format!("after a {}: {wrong}", left.name()))
    }
}

fn check_group(
    group: &mut Group,
    store: &RaftStore,
    acknowledged: u64,
    left: Left,
) -> Result<(), String> {
    let checked = group.check(store, acknowledged, UNDER_WAY_MAX);
    let place = checked.map_err(|e| format!("refused: {e}"))??;
    let needed = match left {
        Left::Kill => acknowledged,
        Left::PowerCut | Left::PowerCutInPart => place.synced,
    };
    if place.done < needed {
        return Err(format!(
            "group {}: {} writes, and {needed} were acknowledged",
            group.id, place.done
        ));
    }
    let storage = store.group(group.id).map_err(|e| e.to_string())?;
    let next = group.workload.next().perform(&storage);
    next.map_err(|e| format!("group {} does not go on: {e}", group.id))
}

/// Everything a store holds, from a clean open.
pub fn contents(setup: &Setup, root: &Path) -> Result<Vec<Expected>, String> {
    guarded(|| {
        let store = RaftStore::open(root.join("store"), setup.options());
        let store = store.map_err(|e| format!("refused: {e}"))?;
        let group = |id| {
            Ok(Expected::found_in(
                &store
                    .group(id)
                    .map_err(|e: raft_rocks::Error| e.to_string())?,
            ))
        };
        (0..GROUPS).map(group).collect()
    })
}

fn guarded<T>(check: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}
