//! Rule 5: compaction, and who may be told to wait.

use super::case::{Beyond, Case, expect_entries, hard_state, log, run, voters};
use super::{Checked, StoreUnderTest};

pub(super) fn rule_05_a_caller_who_may_wait_gets_entries_or_is_told_so<S: StoreUnderTest>()
-> Checked {
    let entries = run(1..=5, 1);
    let mut case = Case::<S>::with_log(&entries)?;
    case.now_and_reopened(|case| {
        if let Some(found) = case.entries_or_wait(1, 6)? {
            expect_entries(&found, &entries)?;
        }
        // A caller who may not wait is served at once, also while a fetch is under way.
        expect_entries(&case.entries(1, 6, None)?, &entries)
    })
}

pub(super) fn rule_05_compact_makes_to_the_first_index<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&log(&[(1..=6, 1), (7..=10, 2)]), 9, 8)?;
    case.compact(5)?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(5..=6, 1), (7..=10, 2)])))?;
    case.compact(7)?;
    case.now_and_reopened(|case| case.expect_log(&run(7..=10, 2)))?;
    case.append(&run(11..=12, 2))?;
    case.now_and_reopened(|case| case.expect_log(&run(7..=12, 2)))
}

pub(super) fn rule_05_compact_at_or_below_first_changes_nothing<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 9, 9)?;
    case.compact(6)?;
    for to in [6, 5, 1, 0] {
        case.compact(to)?;
        case.now_and_reopened(|case| case.expect_log(&run(6..=10, 1)))?;
    }
    Ok(())
}

pub(super) fn rule_05_compact_keeps_states_and_snapshot<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 3), 9, 8)?;
    let served = case.snapshot()?;
    case.compact(9)?;
    case.now_and_reopened(|case| {
        case.expect_hard_state(&hard_state(3, 1, 9))?;
        case.expect_conf_state(&voters(&[1, 2, 3]))?;
        case.expect_applied(9)?;
        case.expect_snapshot(&served)
    })
}

pub(super) fn rule_05_compact_reaches_the_snapshot_and_no_further<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 9, 6)?;
    case.refuses("compact(8) with a snapshot at 6", |store| store.compact(8))?;
    case.compact(7)?;
    case.now_and_reopened(|case| case.expect_log(&run(7..=10, 1)))
}

pub(super) fn rule_05_compact_without_a_snapshot_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.set_hard_state(&hard_state(1, 1, 10))?;
    case.set_conf_state(&voters(&[1, 2, 3]), 10)?;
    case.refuses("compact(5) without any snapshot", |store| store.compact(5))
}

pub(super) fn rule_05_compact_beyond_applied_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 6, 6)?;
    case.set_commit(10)?;
    case.refuses("compact(8) with 6 applied", |store| store.compact(8))?;
    case.refuses("compact(11) with 6 applied", |store| store.compact(11))?;
    case.compact(7)?;
    case.now_and_reopened(|case| case.expect_log(&run(7..=10, 1)))
}

pub(super) fn rule_05_compact_beyond_last_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=6, 1), 6, 6)?;
    for to in [8, 1_000, u64::MAX] {
        case.refuses(&format!("compact({to}) of a log that ends at 6"), |store| {
            store.compact(to)
        })?;
    }
    Ok(())
}

pub(super) fn rule_05_full_compaction_keeps_first_index<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=6, 2), 6, 6)?;
    case.compact(7)?;
    case.now_and_reopened(|case| {
        case.expect_bounds(7, 6)?;
        case.expect_no_entries(6, 7, Beyond::Compacted)
    })
}

pub(super) fn rule_05_append_continues_after_full_compaction<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=6, 2), 6, 6)?;
    case.compact(7)?;
    case.refuses("an append at 6 to a log that was compacted to 7", |store| {
        store.append(&run(6..=7, 3))
    })?;
    case.refuses("an append at 8 to a log that was compacted to 7", |store| {
        store.append(&run(8..=8, 3))
    })?;
    case.append(&run(7..=9, 3))?;
    case.now_and_reopened(|case| {
        case.expect_log(&run(7..=9, 3))?;
        case.expect_term(6, 2)
    })
}
