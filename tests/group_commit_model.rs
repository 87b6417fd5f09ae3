//! The queue of the group commit under every schedule that shuttle can think of: the same
//! source as in the crate, on shuttle's locks, over a journal in memory that can fail.
//!
//! `RAFT_ROCKS_SHUTTLE_SCHEDULES` scales it (3,000 per case by default) and
//! `RAFT_ROCKS_SEED` replays it; a failure prints its schedule as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

/// Shuttle's primitives with the interface of parking_lot's.
mod sync {
    use std::ops::{Deref, DerefMut};

    pub(crate) use shuttle::sync::atomic::{AtomicU64, Ordering};

    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);
    pub(crate) struct Condvar(shuttle::sync::Condvar);
    /// Empty only while it waits.
    pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Condvar(shuttle::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            guard.0 = Some(self.0.wait(guard.0.take().unwrap()).unwrap());
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }
}

#[allow(dead_code, reason = "the crate uses more of it")]
#[path = "../src/group_commit/queue.rs"]
mod queue;

use std::sync::Arc;

use queue::{Journal, Limits, Queue, Request};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

/// One thread's n-th write.
type Id = (usize, usize);

#[derive(Clone, Debug, PartialEq)]
enum Failure {
    Cause,
    Refusal,
}

/// A journal whose operations are counted and fail at one of them.
struct Memory {
    scripts: Scripts,
    state: sync::Mutex<Disk>,
    fails_at: usize,
}

#[derive(Default)]
struct Disk {
    written: Vec<Id>,
    durable: usize,
    operations: usize,
    writing: bool,
    syncing: bool,
}

impl Memory {
    fn begin(&self, disk: &mut Disk) -> Result<(), Failure> {
        disk.operations += 1;
        if disk.operations == self.fails_at {
            return Err(Failure::Cause);
        }
        Ok(())
    }
}

impl Journal for Arc<Memory> {
    type Changes = Id;
    type Error = Failure;

    fn write(&self, changes: Vec<Id>) -> Result<(), Failure> {
        let mut disk = self.state.lock();
        assert!(!std::mem::replace(&mut disk.writing, true), "two writers");
        drop(disk);
        thread::yield_now();
        let mut disk = self.state.lock();
        disk.writing = false;
        self.begin(&mut disk)?;
        disk.written.extend(changes);
        Ok(())
    }

    fn sync(&self) -> Result<(), Failure> {
        let mut disk = self.state.lock();
        assert!(!std::mem::replace(&mut disk.syncing, true), "two syncers");
        let covered = disk.written.len();
        drop(disk);
        thread::yield_now();
        let mut disk = self.state.lock();
        disk.syncing = false;
        self.begin(&mut disk)?;
        disk.durable = covered;
        Ok(())
    }

    fn refusal(&self) -> Failure {
        Failure::Refusal
    }

    /// Then what is queued during a sync may be written by either thread: whichever is first.
    fn outlasts_sync(&self, _requests: usize) -> bool {
        true
    }

    fn pause(&self, round: u32) -> bool {
        thread::yield_now();
        round < 1
    }
}

#[derive(Clone, Copy)]
enum Way {
    Commit,
    Submit,
    /// Submits and waits until it is written.
    Attend,
}

/// The writes of each thread.
type Scripts = Arc<Vec<Vec<Write>>>;

#[derive(Clone, Copy)]
struct Write {
    way: Way,
    sync: bool,
    bytes: usize,
}

const fn write(way: Way, sync: bool, bytes: usize) -> Write {
    Write { way, sync, bytes }
}

/// How writes ended, in the order in which that was told.
type Ends = sync::Mutex<Vec<(Id, Result<(), Failure>)>>;

struct Answers {
    callbacks: Ends,
    threads: Vec<Ends>,
    tickets: sync::Mutex<Vec<(u64, Id)>>,
}

fn check_answer(memory: &Memory, id: Id, write: Write, result: &Result<(), Failure>) {
    let disk = memory.state.lock();
    let place = disk.written.iter().position(|written| *written == id);
    if result.is_ok() {
        let place = place.expect("acknowledged, and never written");
        assert!(
            !write.sync || place < disk.durable,
            "{id:?} acknowledged before a sync covered it"
        );
        for (place, before) in disk.written.iter().enumerate().take(place) {
            let needs_sync = memory.scripts[before.0][before.1].sync;
            assert!(
                !needs_sync || place < disk.durable,
                "{id:?} acknowledged before {before:?}, which came first"
            );
        }
    }
}

/// After a write has been waited for: it is there, and so is all that is known to have come before.
fn check_written(memory: &Memory, answers: &Answers, ticket: u64, written: bool) {
    let disk = memory.state.lock();
    let failed = memory.fails_at != 0 && disk.operations >= memory.fails_at;
    assert!(written || failed, "given up though nothing failed");
    for (of, id) in answers.tickets.lock().iter() {
        let is_there = disk.written.contains(id);
        assert!(
            !written || *of > ticket || is_there,
            "{id:?} is not written"
        );
    }
}

/// Runs `scripts`, a thread each, beside the two threads of a store, with the `fails_at`-th operation
/// failing; 0 for none.
fn run(scripts: &Scripts, fails_at: usize) {
    let memory = Arc::new(Memory {
        scripts: Arc::clone(scripts),
        state: sync::Mutex::new(Disk::default()),
        fails_at,
    });
    let limits = Limits {
        bytes_max: 100,
        merge_bytes_max: 60,
    };
    let queue = Arc::new(Queue::new(Arc::clone(&memory), limits));
    let answers = Arc::new(Answers {
        callbacks: sync::Mutex::new(Vec::new()),
        threads: scripts
            .iter()
            .map(|_| sync::Mutex::new(Vec::new()))
            .collect(),
        tickets: sync::Mutex::new(Vec::new()),
    });
    let overlap = thread::spawn({
        let queue = Arc::clone(&queue);
        move || queue.run_overlap()
    });
    let committer = thread::spawn({
        let queue = Arc::clone(&queue);
        move || queue.run_committer()
    });
    let submitters: Vec<_> = (0..scripts.len())
        .map(|at| {
            let (queue, memory) = (Arc::clone(&queue), Arc::clone(&memory));
            let (answers, scripts) = (Arc::clone(&answers), Arc::clone(scripts));
            thread::spawn(move || {
                for (number, write) in scripts[at].iter().enumerate() {
                    play(&queue, &memory, &answers, (at, number), *write);
                }
            })
        })
        .collect();
    submitters.into_iter().for_each(|t| t.join().unwrap());
    queue.close();
    overlap.join().unwrap();
    let closed = committer.join().unwrap();
    check_end(scripts, &memory, &answers, closed);
    assert_eq!(
        queue.backlog(),
        queue::Backlog::default(),
        "room was given back"
    );
}

fn play(
    queue: &Queue<Arc<Memory>>,
    memory: &Arc<Memory>,
    answers: &Arc<Answers>,
    id: Id,
    write: Write,
) {
    let request = Request {
        changes: Some(id),
        bytes: write.bytes,
        sync: write.sync,
        attended: matches!(write.way, Way::Attend),
    };
    let answered = {
        let (memory, answers) = (Arc::clone(memory), Arc::clone(answers));
        move |result: Result<(), Failure>| {
            check_answer(&memory, id, write, &result);
            answers.threads[id.0].lock().push((id, result.clone()));
            result
        }
    };
    match write.way {
        Way::Commit => {
            let result = queue.commit(request).map(|_| ());
            let _ = answered(result);
        }
        Way::Submit | Way::Attend => {
            if let Err(refused) = queue.reserve(write.bytes) {
                let _ = answered(Err(refused));
                return;
            }
            let all = Arc::clone(answers);
            let (told, refused) = (answered.clone(), answered);
            let callback = move |result| {
                let result = told(result);
                all.callbacks.lock().push((id, result));
            };
            match queue.enqueue(request, Box::new(callback)) {
                Ok(ticket) => {
                    answers.tickets.lock().push((ticket, id));
                    if matches!(write.way, Way::Attend) {
                        let written = queue.wait_written(ticket);
                        check_written(memory, answers, ticket, written);
                    }
                }
                Err((refusal, _)) => drop(refused(Err(refusal))),
            }
        }
    }
}

fn check_end(scripts: &Scripts, memory: &Memory, answers: &Answers, closed: Result<(), Failure>) {
    let disk = memory.state.lock();
    for (at, script) in scripts.iter().enumerate() {
        let mut answered: Vec<usize> = answers.threads[at].lock().iter().map(|a| a.0.1).collect();
        answered.sort_unstable();
        let all: Vec<usize> = (0..script.len()).collect();
        assert_eq!(answered, all, "each write is answered once");
        let of_thread = disk.written.iter().filter(|id| id.0 == at).map(|id| id.1);
        assert!(of_thread.is_sorted(), "written in the order of submission");
    }
    let callbacks = answers.callbacks.lock();
    for (before, after) in callbacks.iter().zip(callbacks.iter().skip(1)) {
        let same_thread = before.0.0 == after.0.0;
        assert!(!same_thread || before.0.1 < after.0.1, "callbacks in order");
        assert!(before.1.is_ok() || after.1.is_err(), "Ok after a failure");
    }
    let failed = memory.fails_at != 0 && disk.operations >= memory.fails_at;
    let all = answers.threads.iter().flat_map(|t| t.lock().clone());
    let causes = all.filter(|a| a.1 == Err(Failure::Cause)).count();
    if failed {
        let at_close = usize::from(closed.is_err());
        assert_eq!(causes + at_close, 1, "one gets the cause");
    } else {
        assert_eq!(
            disk.durable,
            disk.written.len(),
            "close leaves nothing unsynced"
        );
        assert_eq!(causes, 0);
    }
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
}

/// Every case with each of the first operations failing, and none.
fn explore(scripts: Vec<Vec<Write>>) {
    let scripts = Arc::new(scripts);
    let schedules = number_of("RAFT_ROCKS_SHUTTLE_SCHEDULES").unwrap_or(3_000) as usize;
    let seed = number_of("RAFT_ROCKS_SEED").unwrap_or(20_261_121);
    println!("RAFT_ROCKS_SEED={seed}, {schedules} schedules");
    for fails_at in 0..=6 {
        let share = schedules / 7;
        let random = RandomScheduler::new_from_seed(seed, share / 2 + 1);
        let theirs = Arc::clone(&scripts);
        Runner::new(random, Config::new()).run(move || run(&theirs, fails_at));
        let chosen = PctScheduler::new_from_seed(seed, 4, share / 2 + 1);
        let theirs = Arc::clone(&scripts);
        Runner::new(chosen, Config::new()).run(move || run(&theirs, fails_at));
    }
}

use Way::{Attend, Commit, Submit};

#[test]
fn blocking_callers_meet() {
    explore(vec![
        vec![write(Commit, true, 10), write(Commit, true, 10)],
        vec![write(Commit, true, 10), write(Commit, false, 10)],
        vec![write(Commit, false, 10), write(Commit, true, 10)],
    ]);
}

#[test]
fn submitters_and_blocking_callers_meet() {
    explore(vec![
        vec![
            write(Submit, true, 10),
            write(Submit, false, 10),
            write(Submit, true, 10),
        ],
        vec![write(Commit, true, 10), write(Commit, false, 10)],
        vec![write(Submit, false, 10), write(Submit, true, 10)],
    ]);
}

#[test]
fn there_is_less_room_than_is_wanted() {
    explore(vec![
        vec![
            write(Submit, true, 60),
            write(Submit, true, 60),
            write(Submit, false, 30),
        ],
        vec![write(Submit, true, 150), write(Commit, true, 60)],
        vec![write(Commit, true, 60), write(Submit, false, 100)],
    ]);
}

#[test]
fn some_wait_until_it_is_written_and_others_for_syncs() {
    explore(vec![
        vec![
            write(Submit, true, 10),
            write(Attend, false, 10),
            write(Submit, true, 10),
        ],
        vec![write(Attend, false, 60), write(Attend, false, 60)],
        vec![write(Commit, true, 10), write(Attend, true, 10)],
    ]);
}
