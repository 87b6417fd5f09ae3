//! Rules 3, 12, 13 and 14: hard state, applied index and conf state.

use super::case::{Case, ensure, hard_state, joint, log, run, snapshot, voters};
use super::{Checked, Failure, ReadyWrite, StoreUnderTest};

pub(super) fn rule_03_commit_keeps_term_and_vote<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&log(&[(1..=4, 1), (5..=8, 2)]))?;
    case.set_hard_state(&hard_state(6, 3, 2))?;
    for commit in [4, 5, 8] {
        case.set_commit(commit)?;
        case.now_and_reopened(|case| case.expect_hard_state(&hard_state(6, 3, commit)))?;
    }
    Ok(())
}

pub(super) fn rule_12_hard_state_survives_a_restart<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    for state in [
        hard_state(1, 0, 0),
        hard_state(1, 3, 0),
        hard_state(2, 0, 1),
        hard_state(2, u64::MAX, 5),
        hard_state(u64::MAX, 1, 5),
    ] {
        case.set_hard_state(&state)?;
        case.now_and_reopened(|case| case.expect_hard_state(&state))?;
    }
    case.expect_log(&run(1..=5, 1))
}

pub(super) fn rule_12_entries_and_hard_state_share_one_write<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    // The commit index of each write lies among the entries that come with it.
    for (entries, state) in [
        (run(1..=4, 1), hard_state(1, 2, 3)),
        (run(4..=6, 2), hard_state(2, 0, 6)),
        (run(7..=7, 2), hard_state(2, 1, 6)),
    ] {
        let write = ReadyWrite {
            entries,
            hard_state: Some(state.clone()),
            ..ReadyWrite::default()
        };
        case.write(&write)?;
        case.now_and_reopened(|case| case.expect_hard_state(&state))?;
    }
    case.expect_log(&log(&[(1..=3, 1), (4..=7, 2)]))
}

pub(super) fn rule_12_commit_beyond_last_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.refuses("a hard state with commit 1 on an empty log", |store| {
        store.set_hard_state(&hard_state(1, 1, 1))
    })?;
    case.append(&run(1..=5, 1))?;
    for commit in [6, 100, u64::MAX] {
        case.refuses(
            &format!("a hard state with commit {commit} and last index 5"),
            |store| store.set_hard_state(&hard_state(2, 1, commit)),
        )?;
    }
    case.set_hard_state(&hard_state(1, 1, 5))?;
    case.now_and_reopened(|case| case.expect_hard_state(&hard_state(1, 1, 5)))
}

pub(super) fn rule_12_a_refused_ready_leaves_nothing_behind<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    let refused = ReadyWrite {
        entries: run(4..=7, 2),
        hard_state: Some(hard_state(2, 1, 8)),
        ..ReadyWrite::default()
    };
    case.refuses("a Ready with last index 7 and commit 8", |store| {
        store.write(&refused)
    })?;
    let refused = ReadyWrite {
        entries: run(7..=8, 2),
        hard_state: Some(hard_state(2, 1, 5)),
        ..ReadyWrite::default()
    };
    case.refuses("a Ready with a gap and a good hard state", |store| {
        store.write(&refused)
    })
}

pub(super) fn rule_12_commit_stays_within_the_log<S: StoreUnderTest>() -> Checked {
    let within = |case: &Case<S>| {
        let (first, last) = (case.first_index()?, case.last_index()?);
        let commit = case.hard_state()?.commit;
        ensure!(
            first - 1 <= commit && commit <= last,
            "commit is {commit}, outside [{}, {last}]",
            first - 1
        );
        Ok(())
    };
    let mut case = Case::<S>::settled(&run(1..=10, 1), 6, 6)?;
    case.now_and_reopened(within)?;
    case.compact(7)?;
    case.now_and_reopened(within)?;
    case.append(&run(7..=7, 2))?;
    case.now_and_reopened(within)?;
    case.install(&snapshot(30, 2, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(within)
}

pub(super) fn rule_13_applied_is_offered_after_a_restart<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.set_hard_state(&hard_state(1, 1, 9))?;
    for applied in [1, 5, 9] {
        case.set_applied(applied)?;
        case.now_and_reopened(|case| {
            case.expect_applied(applied)?;
            case.expect_hard_state(&hard_state(1, 1, 9))
        })?;
    }
    Ok(())
}

pub(super) fn rule_13_applied_raises_commit<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 2))?;
    case.set_hard_state(&hard_state(3, 1, 4))?;
    case.set_applied(7)?;
    case.now_and_reopened(|case| case.expect_hard_state(&hard_state(3, 1, 7)))?;
    case.set_conf_state(&voters(&[1, 2, 3]), 9)?;
    case.now_and_reopened(|case| case.expect_hard_state(&hard_state(3, 1, 9)))
}

pub(super) fn rule_13_a_lagging_hard_state_does_not_undo_applied<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 2))?;
    case.set_hard_state(&hard_state(2, 1, 4))?;
    case.set_applied(7)?;
    // The hard state of a Ready that was made before the commit index moved on.
    case.set_hard_state(&hard_state(3, 0, 4))?;
    case.now_and_reopened(|case| {
        let found = case.hard_state()?;
        ensure!(
            found.commit >= 7,
            "commit is {}, below the applied index 7",
            found.commit
        );
        ensure!(found.term == 3, "the term is {}, expected 3", found.term);
        case.expect_applied(7)
    })
}

pub(super) fn rule_13_applied_beyond_last_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    case.set_hard_state(&hard_state(1, 1, 3))?;
    case.refuses("applied 6 with last index 5", |store| store.set_applied(6))?;
    case.refuses("a conf state at applied 6 with last index 5", |store| {
        store.set_conf_state(&voters(&[1]), 6)
    })
}

pub(super) fn rule_13_applied_stays_within_the_log<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 8, 8)?;
    case.compact(9)?;
    case.now_and_reopened(|case| case.expect_applied(8))?;
    case.install(&snapshot(50, 1, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(|case| case.expect_applied(50))
}

pub(super) fn rule_14_conf_state_and_applied_are_stored_together<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.set_hard_state(&hard_state(1, 1, 10))?;
    for (ids, applied) in [(&[1_u64][..], 3), (&[1, 2], 4), (&[1, 2, 3], 10)] {
        case.set_conf_state(&voters(ids), applied)?;
        case.now_and_reopened(|case| {
            case.expect_conf_state(&voters(ids))?;
            case.expect_applied(applied)
        })?;
    }
    Ok(())
}

pub(super) fn rule_14_later_applies_keep_the_conf_state<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.set_hard_state(&hard_state(1, 1, 10))?;
    case.set_conf_state(&joint(), 3)?;
    case.set_applied(8)?;
    case.append(&run(11..=12, 1))?;
    case.now_and_reopened(|case| {
        case.expect_conf_state(&joint())?;
        case.expect_applied(8)
    })
}

pub(super) fn rule_14_a_joint_conf_state_round_trips<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    case.set_hard_state(&hard_state(1, 1, 5))?;
    case.set_conf_state(&joint(), 4)?;
    case.now_and_reopened(|case| case.expect_conf_state(&joint()))?;
    // Leaving the joint state must leave none of its lists behind.
    case.set_conf_state(&voters(&[1, 2, 4]), 5)?;
    case.now_and_reopened(|case| case.expect_conf_state(&voters(&[1, 2, 4])))
}
