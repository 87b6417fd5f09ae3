//! Votes on a disk whose syncs fail.

use raft_rocks::RaftStore;

use crate::child::{Setup, Task};
use crate::io_shim::{Case, Fault, Point, Shim};
use crate::run::{Left, run};
use crate::{shim, vote};

/// Scenario 3 of the design: nothing leaves a node whose vote could not be synced, and it does
/// not vote twice.
#[test]
fn a_vote_whose_sync_failed_never_leaves_and_is_never_given_twice() {
    let Some(shim) = shim() else { return };
    for task in [Task::Vote, Task::SubmitVote] {
        let setup = Setup {
            seed: 0,
            recycle_wal: false,
            strict: false,
        };
        let clean = run(&shim, &setup, task, None, None);
        assert_eq!(clean.lines("voted").next().unwrap()[1], "1", "{task:?}");
        let syncs = |point: &Point| point.kind == "wal" && point.function.ends_with("sync");
        let mut of_votes = 0;
        for point in clean.places.points().into_iter().filter(syncs) {
            for fault in [Fault::Eio, Fault::Enospc] {
                let point = point.clone();
                of_votes += usize::from(try_vote(&shim, &setup, task, Case { point, fault }));
            }
        }
        assert!(of_votes >= 2, "the sync of the vote was not hit");
    }
}

/// Returns whether it was the vote that failed.
fn try_vote(shim: &Shim, setup: &Setup, task: Task, case: Case) -> bool {
    let ran = run(shim, setup, task, None, Some(&case));
    ran.check_end(Some(&case)).unwrap();
    let failed: Vec<_> = ran
        .lines("vote-failed")
        .map(|words| words[1] == "1")
        .collect();
    assert!(
        failed.iter().all(|poisoned| *poisoned),
        "{case}: {:?}",
        ran.report
    );
    let left: usize = ran
        .lines("voted")
        .map(|words| words[1].parse::<usize>().unwrap())
        .sum();
    assert!(failed.is_empty() || left == 0, "{case}: {:?}", ran.report);
    let syncs = ran.places.points().into_iter();
    // When there is no space RocksDB flushes on its own account, and syncs the log for it. What
    // it saves so was never acknowledged, and may be there or not.
    let by_rocksdb = case.fault == Fault::Enospc;
    let mut syncs =
        syncs.filter(|point| point.kind == "wal" && point.function == case.point.function);
    let last = syncs.next_back().unwrap();
    assert!(by_rocksdb || last == case.point, "{case}: synced again");
    for at in Left::ALL {
        let store = RaftStore::open(ran.left(at).join("store"), setup.options()).unwrap();
        let storage = store.group(0).unwrap();
        if storage.conf_state() == Default::default() {
            continue;
        }
        let second = vote::vote_waiting(&storage, vote::SECOND).unwrap();
        assert!(
            left == 0 || second == 0,
            "{case}, {at:?}: two votes in term {}",
            vote::TERM
        );
    }
    !failed.is_empty()
}
