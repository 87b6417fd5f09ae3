//! Rules 3, 9, 10, 14 and 15: making, serving and installing snapshots.

use super::case::{
    Beyond, Case, ensure, entry, hard_state, joint, log, noise, run, snapshot, voters,
};
use super::{Checked, Failure, ReadyWrite, StoreUnderTest};

pub(super) fn rule_03_a_snapshot_is_labelled_with_what_was_applied<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 6, 6)?;
    case.set_commit(10)?;
    case.now_and_reopened(|case| {
        let found = case.snapshot()?.get_metadata().index;
        ensure!(
            found == 6,
            "the snapshot is labelled {found}, but the state machine had applied 6"
        );
        Ok(())
    })
}

pub(super) fn rule_09_install_removes_the_entries_above_its_index<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=20, 1))?;
    case.set_hard_state(&hard_state(1, 2, 5))?;
    case.install(&snapshot(10, 3, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(|case| {
        case.expect_empty_log(10, 3)?;
        for index in 11..=21 {
            case.expect_no_term(index, Beyond::Unavailable)?;
        }
        for index in 0..=9 {
            case.expect_no_term(index, Beyond::Compacted)?;
        }
        Ok(())
    })
}

pub(super) fn rule_09_no_old_entry_returns_after_an_install<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=20, 1))?;
    case.install(&snapshot(10, 3, &voters(&[1, 2, 3]), b"state"))?;
    // A leftover of the old log would now be read as the successor of entry 12.
    case.append(&run(11..=12, 3))?;
    case.now_and_reopened(|case| case.expect_log(&run(11..=12, 3)))?;
    case.append(&run(13..=13, 4))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(11..=12, 3), (13..=13, 4)])))
}

pub(super) fn rule_09_install_beyond_the_log<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    case.install(&snapshot(100, 2, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(|case| case.expect_empty_log(100, 2))?;
    case.append(&run(101..=103, 2))?;
    case.now_and_reopened(|case| case.expect_log(&run(101..=103, 2)))
}

pub(super) fn rule_09_install_on_an_empty_store<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.install(&snapshot(7, 2, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(|case| {
        case.expect_empty_log(7, 2)?;
        case.expect_conf_state(&voters(&[1, 2, 3]))
    })
}

pub(super) fn rule_09_install_raises_commit_term_and_applied<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=20, 1))?;
    case.set_hard_state(&hard_state(1, 2, 5))?;
    case.set_conf_state(&voters(&[1, 2]), 4)?;
    case.install(&snapshot(10, 3, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(|case| {
        let found = case.hard_state()?;
        ensure!(
            found.commit == 10,
            "commit is {}, expected 10",
            found.commit
        );
        ensure!(
            found.term >= 3,
            "the term is {}, below the snapshot's 3",
            found.term
        );
        case.expect_applied(10)
    })
}

pub(super) fn rule_09_install_keeps_a_newer_term_and_its_vote<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=3, 1))?;
    case.set_hard_state(&hard_state(8, 2, 3))?;
    case.install(&snapshot(10, 3, &voters(&[1, 2, 3]), b"state"))?;
    case.now_and_reopened(|case| case.expect_hard_state(&hard_state(8, 2, 10)))
}

pub(super) fn rule_09_a_snapshot_at_the_commit_index_is_installed<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=8, 1))?;
    case.set_hard_state(&hard_state(1, 2, 8))?;
    case.set_conf_state(&voters(&[1, 2, 3]), 8)?;
    let repaired = snapshot(8, 1, &voters(&[1, 2, 3]), b"repaired");
    case.install(&repaired)?;
    case.now_and_reopened(|case| {
        case.expect_empty_log(8, 1)?;
        case.expect_hard_state(&hard_state(1, 2, 8))?;
        case.expect_applied(8)
    })
}

pub(super) fn rule_09_a_snapshot_below_the_log_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.install(&snapshot(10, 3, &voters(&[1, 2, 3]), b"state"))?;
    case.append(&run(11..=14, 3))?;
    for index in [9, 4, 0] {
        case.refuses(
            &format!("a snapshot at {index} for a log that starts at 11"),
            |store| store.install(&snapshot(index, 2, &voters(&[9]), b"older")),
        )?;
    }
    Ok(())
}

pub(super) fn rule_09_a_snapshot_below_commit_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 8, 4)?;
    case.refuses(
        "a snapshot at 7 for a store that has committed 8",
        |store| store.install(&snapshot(7, 1, &voters(&[9]), b"older")),
    )
}

pub(super) fn rule_10_a_ready_stores_its_snapshot_before_its_entries<S: StoreUnderTest>() -> Checked
{
    let mut case = Case::<S>::with_log(&run(1..=20, 1))?;
    let write = ReadyWrite {
        snapshot: Some(snapshot(10, 3, &joint(), b"state")),
        entries: log(&[(11..=11, 3), (12..=13, 4)]),
        hard_state: Some(hard_state(4, 2, 12)),
    };
    case.write(&write)?;
    case.now_and_reopened(|case| {
        case.expect_log(&write.entries)?;
        case.expect_term(10, 3)?;
        case.expect_no_term(9, Beyond::Compacted)?;
        case.expect_hard_state(&hard_state(4, 2, 12))?;
        case.expect_conf_state(&joint())?;
        case.expect_applied(10)
    })
}

pub(super) fn rule_10_a_ready_with_only_a_snapshot<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=20, 1))?;
    let write = ReadyWrite {
        snapshot: Some(snapshot(10, 3, &voters(&[1, 2, 3]), b"state")),
        hard_state: Some(hard_state(5, 2, 10)),
        ..ReadyWrite::default()
    };
    case.write(&write)?;
    case.now_and_reopened(|case| {
        case.expect_empty_log(10, 3)?;
        case.expect_hard_state(&hard_state(5, 2, 10))
    })
}

pub(super) fn rule_10_entries_must_follow_their_snapshot<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=20, 1))?;
    case.set_hard_state(&hard_state(1, 2, 5))?;
    for start in [9, 10, 12, 21] {
        let write = ReadyWrite {
            snapshot: Some(snapshot(10, 3, &voters(&[1, 2, 3]), b"state")),
            entries: run(start..=start + 1, 3),
            hard_state: Some(hard_state(3, 0, 10)),
        };
        case.refuses(
            &format!("a Ready with a snapshot at 10 and entries from {start}"),
            |store| store.write(&write),
        )?;
    }
    Ok(())
}

pub(super) fn rule_14_a_snapshot_carries_the_conf_state_at_its_index<S: StoreUnderTest>() -> Checked
{
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.set_hard_state(&hard_state(1, 1, 10))?;
    case.set_conf_state(&voters(&[1, 2, 3]), 6)?;
    case.create_snapshot(6, &voters(&[1, 2, 3]), b"state")?;
    case.set_conf_state(&voters(&[1, 2, 3, 4]), 9)?;
    case.now_and_reopened(|case| {
        case.expect_snapshot(&snapshot(6, 1, &voters(&[1, 2, 3]), b"state"))?;
        case.expect_conf_state(&voters(&[1, 2, 3, 4]))
    })?;
    // Made after the change, of a state from before it.
    case.create_snapshot(8, &joint(), b"later")?;
    case.now_and_reopened(|case| {
        case.expect_snapshot(&snapshot(8, 1, &joint(), b"later"))?;
        case.expect_conf_state(&voters(&[1, 2, 3, 4]))
    })
}

pub(super) fn rule_14_an_installed_conf_state_becomes_current<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    case.set_hard_state(&hard_state(1, 1, 5))?;
    case.set_conf_state(&voters(&[1, 5, 6]), 5)?;
    case.install(&snapshot(9, 1, &joint(), b"state"))?;
    case.now_and_reopened(|case| case.expect_conf_state(&joint()))
}

pub(super) fn rule_15_a_fresh_store_has_no_snapshot<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.now_and_reopened(|case| case.expect_no_snapshot(0))
}

pub(super) fn rule_15_no_snapshot_is_made_up_from_the_log<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.set_hard_state(&hard_state(1, 1, 10))?;
    case.set_conf_state(&voters(&[1, 2, 3]), 10)?;
    case.now_and_reopened(|case| case.expect_no_snapshot(0))
}

pub(super) fn rule_15_a_snapshot_reaches_the_requested_index<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 8, 8)?;
    case.now_and_reopened(|case| {
        for request_index in [0, 1, 7, 8] {
            let found = case.snapshot_from(request_index)?.get_metadata().index;
            ensure!(
                found == 8,
                "snapshot({request_index}, 2) has index {found}, expected 8"
            );
        }
        for request_index in [9, 10, u64::MAX] {
            case.expect_no_snapshot(request_index)?;
        }
        Ok(())
    })
}

pub(super) fn rule_15_the_snapshot_is_served_after_compaction<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&log(&[(1..=6, 1), (7..=10, 2)]), 10, 7)?;
    let expected = snapshot(7, 2, &voters(&[1, 2, 3]), b"state");
    case.compact(8)?;
    case.now_and_reopened(|case| case.expect_snapshot(&expected))?;
    case.append(&run(11..=12, 2))?;
    case.now_and_reopened(|case| case.expect_snapshot(&expected))
}

pub(super) fn rule_15_data_come_back_as_they_were_given<S: StoreUnderTest>() -> Checked {
    let entries = log(&[(1..=3, 1), (4..=6, 2), (7..=9, 3)]);
    let mut case = Case::<S>::settled(&entries, 9, 1)?;
    // From nothing to more than any store would keep inside a single record.
    for (index, length) in [
        (2, 0),
        (3, 1),
        (4, 4_096),
        (6, 70_000),
        (7, 3_000_000),
        (9, 5),
    ] {
        let term = 1 + (index - 1) / 3;
        case.create_snapshot(index, &voters(&[1, 2, 3]), &noise(length))?;
        let expected = snapshot(index, term, &voters(&[1, 2, 3]), &noise(length));
        case.now_and_reopened(|case| case.expect_snapshot(&expected))?;
    }
    Ok(())
}

pub(super) fn rule_15_an_installed_snapshot_is_served<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    for (index, length) in [(10, 100), (20, 2_000_000), (30, 0)] {
        let received = snapshot(index, 4, &joint(), &noise(length));
        case.install(&received)?;
        case.now_and_reopened(|case| case.expect_snapshot(&received))?;
        case.append(&[entry(index + 1, 4)])?;
    }
    Ok(())
}

pub(super) fn rule_15_an_older_snapshot_replaces_no_newer_one<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 9, 8)?;
    case.unchanged_by("create_snapshot(5) with one at 8", |store| {
        store.create_snapshot(5, &voters(&[1]), b"older")
    })
}

pub(super) fn rule_15_a_snapshot_below_the_log_is_not_taken<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 9, 8)?;
    case.compact(7)?;
    case.unchanged_by("create_snapshot(3) of a log that starts at 7", |store| {
        store.create_snapshot(3, &voters(&[1]), b"older")
    })?;
    case.unchanged_by("create_snapshot(0)", |store| {
        store.create_snapshot(0, &voters(&[1]), b"nothing")
    })
}

pub(super) fn rule_15_a_snapshot_beyond_the_log_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 10, 5)?;
    for index in [11, 12, u64::MAX] {
        case.refuses(
            &format!("create_snapshot({index}) of a log that ends at 10"),
            |store| store.create_snapshot(index, &voters(&[1]), b"unknown"),
        )?;
    }
    Ok(())
}

pub(super) fn rule_15_a_snapshot_is_never_ahead_of_applied<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 6, 5)?;
    // A store may refuse, or take the caller's word that 9 is applied; then it must record so.
    case.may_refuse(|store| store.create_snapshot(9, &voters(&[1]), b"state"));
    case.now_and_reopened(|case| {
        let (index, applied) = (case.snapshot()?.get_metadata().index, case.applied()?);
        let commit = case.hard_state()?.commit;
        ensure!(
            index <= applied && applied <= commit,
            "the snapshot is at {index}, applied at {applied}, commit at {commit}"
        );
        if applied == 9 {
            // What is applied there has this configuration.
            case.expect_conf_state(&voters(&[1]))?;
        }
        Ok(())
    })
}
