//! Rules 4, 11 and 20: reading and writing entries.

use protobuf::Message;
use raft::eraftpb::{Entry, EntryType};

use super::case::{
    Beyond, Case, bytes, ensure, entry, expect_entries, hard_state, log, noise, run, snapshot,
    voters,
};
use super::{Checked, Failure, ReadyWrite, StoreUnderTest};

fn size(entry: &Entry) -> u64 {
    u64::from(entry.compute_size())
}

pub(super) fn rule_04_every_range_is_half_open_and_contiguous<S: StoreUnderTest>() -> Checked {
    let entries = log(&[(1..=4, 1), (5..=12, 3)]);
    let mut case = Case::<S>::with_log(&entries)?;
    case.now_and_reopened(|case| {
        for low in 1..=13 {
            for high in low..=13 {
                let within = |entry: &&Entry| (low..high).contains(&entry.index);
                let expected: Vec<Entry> = entries.iter().filter(within).cloned().collect();
                expect_entries(&case.entries(low, high, None)?, &expected)?;
            }
        }
        Ok(())
    })
}

pub(super) fn rule_04_one_entry_comes_whatever_the_limit<S: StoreUnderTest>() -> Checked {
    let entries = run(1..=6, 1);
    let mut case = Case::<S>::with_log(&entries)?;
    case.now_and_reopened(|case| {
        for first in &entries {
            for limit in [0, 1, size(first) - 1, size(first), size(first) + 1] {
                let found = case.entries(first.index, 7, limit)?;
                expect_entries(&found, std::slice::from_ref(first))?;
            }
        }
        Ok(())
    })
}

pub(super) fn rule_04_sizes_count_as_raft_counts_them<S: StoreUnderTest>() -> Checked {
    // Lengths around the steps of the variable-length integers that the encoding uses.
    let lengths = [
        0, 1, 2, 113, 125, 126, 127, 128, 129, 300, 16_380, 16_384, 16_390,
    ];
    let mut entries = Vec::new();
    for (index, length) in (1..).zip(lengths) {
        let mut entry = entry(index, index);
        entry.data = bytes(noise(length));
        entry.context = bytes(noise(length / 2));
        entries.push(entry);
    }
    let mut case = Case::<S>::with_log(&entries)?;
    case.now_and_reopened(|case| {
        let mut sum = size(entries.first().unwrap_or(&entry(1, 1)));
        for (count, next) in (1..).zip(entries.iter().skip(1)) {
            let high = entries.len() as u64 + 1;
            let expected: Vec<Entry> = entries.iter().take(count).cloned().collect();
            expect_entries(&case.entries(1, high, sum)?, &expected)?;
            expect_entries(&case.entries(1, high, sum + size(next) - 1)?, &expected)?;
            sum += size(next);
        }
        expect_entries(&case.entries(1, entries.len() as u64 + 1, sum)?, &entries)
    })
}

pub(super) fn rule_04_none_and_u64_max_mean_no_limit<S: StoreUnderTest>() -> Checked {
    let mut entries = run(1..=5, 1);
    for entry in &mut entries {
        entry.data = bytes(noise(200_000));
    }
    let mut case = Case::<S>::with_log(&entries)?;
    case.now_and_reopened(|case| {
        expect_entries(&case.entries(1, 6, None)?, &entries)?;
        expect_entries(&case.entries(1, 6, u64::MAX)?, &entries)?;
        expect_entries(&case.entries(1, 6, Some(u64::MAX))?, &entries)
    })
}

pub(super) fn rule_04_below_first_is_compacted<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 8, 8)?;
    case.expect_no_entries(0, 3, Beyond::Compacted)?;
    case.compact(6)?;
    case.now_and_reopened(|case| {
        for (low, high) in [(5, 6), (5, 11), (1, 2), (0, 11)] {
            case.expect_no_entries(low, high, Beyond::Compacted)?;
        }
        case.expect_log(&run(6..=10, 1))
    })
}

pub(super) fn rule_04_beyond_last_panics<S: StoreUnderTest>() -> Checked {
    for (low, high) in [(3, 7), (6, 7), (1, u64::MAX)] {
        // One store for each: a panic may leave it with a poisoned lock.
        Case::<S>::with_log(&run(1..=5, 1))?.expect_entries_panic(low, high)?;
        let mut reopened = Case::<S>::with_log(&run(1..=5, 1))?;
        reopened.reopen()?;
        reopened.expect_entries_panic(low, high)?;
    }
    Ok(())
}

pub(super) fn rule_04_every_kind_of_entry_round_trips<S: StoreUnderTest>() -> Checked {
    let mut entries = Vec::new();
    for kind in [
        EntryType::EntryNormal,
        EntryType::EntryConfChange,
        EntryType::EntryConfChangeV2,
    ] {
        for (data, context) in [(0, 0), (0, 9), (9, 0), (9, 9), (70_000, 1), (1, 70_000)] {
            for sync_log in [false, true] {
                let mut entry = entry(entries.len() as u64 + 1, 4);
                entry.set_entry_type(kind);
                entry.data = bytes(noise(data));
                entry.context = bytes(noise(context));
                entry.sync_log = sync_log;
                entries.push(entry);
            }
        }
    }
    let mut case = Case::<S>::with_log(&entries)?;
    case.now_and_reopened(|case| case.expect_log(&entries))
}

pub(super) fn rule_04_a_long_log_reads_back_from_anywhere<S: StoreUnderTest>() -> Checked {
    let mut entries = run(1..=2_000, 1);
    for entry in &mut entries {
        entry.data = bytes(noise(500));
    }
    let mut case = Case::<S>::new()?;
    for part in entries.chunks(300) {
        case.append(part)?;
    }
    case.now_and_reopened(|case| {
        for low in (1..2_000_u64).step_by(137) {
            for count in [1, 2, 63, 500, 2_000] {
                let high = (low + count).min(2_001);
                let within = |entry: &&Entry| (low..high).contains(&entry.index);
                let expected: Vec<Entry> = entries.iter().filter(within).cloned().collect();
                expect_entries(&case.entries(low, high, None)?, &expected)?;
            }
        }
        Ok(())
    })
}

pub(super) fn rule_11_append_extends_the_log<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.append(&run(1..=1, 1))?;
    case.append(&run(2..=5, 1))?;
    case.append(&log(&[(6..=6, 1), (7..=8, 2)]))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=6, 1), (7..=8, 2)])))
}

pub(super) fn rule_11_empty_append_changes_nothing<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=3, 1))?;
    case.append(&[])?;
    case.now_and_reopened(|case| case.expect_log(&run(1..=3, 1)))
}

pub(super) fn rule_11_overlap_deletes_the_old_tail<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.append(&run(5..=6, 2))?;
    case.now_and_reopened(|case| {
        case.expect_log(&log(&[(1..=4, 1), (5..=6, 2)]))?;
        for index in 7..=11 {
            case.expect_no_term(index, Beyond::Unavailable)?;
        }
        Ok(())
    })
}

pub(super) fn rule_11_overlap_deletes_a_long_tail<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=700, 1))?;
    case.append(&run(11..=12, 2))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=10, 1), (11..=12, 2)])))?;
    // Wherever a deletion in steps would have stopped, the new log gets there.
    for (first, last) in [(13, 13), (14, 80), (81, 150), (151, 300)] {
        case.append(&run(first..=last, 3))?;
        case.now_and_reopened(|case| {
            case.expect_log(&log(&[(1..=10, 1), (11..=12, 2), (13..=last, 3)]))
        })?;
    }
    Ok(())
}

pub(super) fn rule_11_no_old_entry_returns_after_an_overlap<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    case.append(&run(5..=6, 2))?;
    // A leftover of the old tail would now be read as the successor of entry 6.
    case.reopen()?;
    case.append(&run(7..=8, 3))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=4, 1), (5..=6, 2), (7..=8, 3)])))
}

pub(super) fn rule_11_overlap_from_the_first_entry<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    case.append(&run(1..=2, 4))?;
    case.now_and_reopened(|case| {
        case.expect_log(&run(1..=2, 4))?;
        case.expect_term(0, 0)
    })
}

pub(super) fn rule_11_overlap_from_the_first_entry_after_compaction<S: StoreUnderTest>() -> Checked
{
    let mut case = Case::<S>::settled(&run(1..=10, 1), 5, 5)?;
    case.compact(6)?;
    case.append(&run(6..=7, 2))?;
    case.now_and_reopened(|case| {
        case.expect_log(&run(6..=7, 2))?;
        case.expect_no_term(4, Beyond::Compacted)
    })
}

pub(super) fn rule_11_overlap_may_extend_the_log<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    case.append(&run(5..=9, 2))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=4, 1), (5..=9, 2)])))
}

pub(super) fn rule_11_overlap_may_keep_the_length<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=6, 1))?;
    case.append(&run(4..=6, 2))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=3, 1), (4..=6, 2)])))?;
    case.append(&run(6..=6, 3))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=3, 1), (4..=5, 2), (6..=6, 3)])))
}

pub(super) fn rule_11_overlap_may_bring_older_terms<S: StoreUnderTest>() -> Checked {
    // Node 1 led term 5 and reached nobody; the leader of term 6 has entries of term 3.
    let mut case = Case::<S>::with_log(&log(&[(1..=4, 1), (5..=9, 5)]))?;
    case.append(&run(5..=6, 3))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=4, 1), (5..=6, 3)])))?;
    case.append(&run(7..=7, 6))?;
    case.now_and_reopened(|case| case.expect_log(&log(&[(1..=4, 1), (5..=6, 3), (7..=7, 6)])))
}

pub(super) fn rule_11_a_ready_truncates_as_an_append_does<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=10, 1))?;
    let write = ReadyWrite {
        entries: run(3..=4, 2),
        hard_state: Some(hard_state(2, 0, 2)),
        ..ReadyWrite::default()
    };
    case.write(&write)?;
    case.now_and_reopened(|case| {
        case.expect_log(&log(&[(1..=2, 1), (3..=4, 2)]))?;
        case.expect_hard_state(&hard_state(2, 0, 2))
    })
}

pub(super) fn rule_11_entries_below_first_are_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::settled(&run(1..=10, 1), 8, 8)?;
    case.compact(6)?;
    case.refuses("an append at 5 to a log that starts at 6", |store| {
        store.append(&run(5..=12, 2))
    })?;
    case.refuses("an append at 1 to a log that starts at 6", |store| {
        store.append(&run(1..=5, 2))
    })
}

pub(super) fn rule_11_index_zero_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.refuses("an entry of index 0", |store| store.append(&run(0..=1, 1)))
}

pub(super) fn rule_11_a_gap_before_the_entries_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::new()?;
    case.refuses("an append at 2 to an empty log", |store| {
        store.append(&run(2..=3, 1))
    })?;
    case.append(&run(1..=5, 1))?;
    case.refuses("an append at 7 to a log that ends at 5", |store| {
        store.append(&run(7..=8, 1))
    })
}

pub(super) fn rule_11_a_gap_between_the_entries_is_refused<S: StoreUnderTest>() -> Checked {
    let mut case = Case::<S>::with_log(&run(1..=5, 1))?;
    for (what, second) in [("a gap", 8), ("a repeated index", 6), ("a step back", 5)] {
        case.refuses(&format!("an append with {what} inside"), |store| {
            store.append(&[entry(6, 1), entry(second, 1)])
        })?;
    }
    Ok(())
}

pub(super) fn rule_20_a_compacted_prefix_is_never_visible<S: StoreUnderTest>() -> Checked {
    let entries = run(1..=1_500, 1);
    let mut case = Case::<S>::settled(&entries, 1_400, 1_400)?;
    for to in [2, 3, 500, 501, 1_200, 1_401] {
        case.compact(to)?;
        let kept: Vec<Entry> = entries.iter().skip(to as usize - 1).cloned().collect();
        case.now_and_reopened(|case| {
            case.expect_bounds(to, 1_500)?;
            expect_entries(&case.entries(to, 1_501, None)?, &kept)?;
            expect_entries(&case.entries(to, 1_501, 0)?, &run(to..=to, 1))?;
            case.expect_no_entries(to - 1, 1_501, Beyond::Compacted)
        })?;
    }
    Ok(())
}

pub(super) fn rule_20_many_truncations_leave_one_log<S: StoreUnderTest>() -> Checked {
    let mut entries = run(1..=60, 1);
    let mut case = Case::<S>::with_log(&entries)?;
    for term in 2..=25 {
        let start = 61 - 2 * term;
        let tail = run(start..=start + term % 7, term);
        entries.retain(|entry| entry.index < start);
        entries.extend(tail.iter().cloned());
        case.append(&tail)?;
        expect_entries(&case.entries(1, start + term % 7 + 1, None)?, &entries)?;
    }
    case.now_and_reopened(|case| case.expect_log(&entries))
}

pub(super) fn rule_20_indexes_sort_as_numbers<S: StoreUnderTest>() -> Checked {
    // Nine and ten sort wrongly as decimal text; the others cross a byte of a fixed-width
    // integer, where little-endian keys sort wrongly.
    for border in [10, 100, 1 << 8, 1 << 16, 1 << 32, 1 << 56] {
        let mut case = Case::<S>::new()?;
        case.install(&snapshot(border - 6, 1, &voters(&[1, 2, 3]), b"state"))?;
        let entries = run(border - 5..=border + 5, 2);
        case.append(&entries)?;
        case.now_and_reopened(|case| case.expect_log(&entries))?;
        case.append(&run(border..=border + 1, 3))?;
        let entries = log(&[(border - 5..=border - 1, 2), (border..=border + 1, 3)]);
        case.now_and_reopened(|case| case.expect_log(&entries))?;
    }
    Ok(())
}

pub(super) fn rule_20_stores_share_nothing<S: StoreUnderTest>() -> Checked {
    let mut one = Case::<S>::with_log(&run(1..=3, 1))?;
    let mut other = Case::<S>::with_log(&run(1..=5, 2))?;
    one.append(&run(2..=2, 3))?;
    other.now_and_reopened(|other| other.expect_log(&run(1..=5, 2)))?;
    one.now_and_reopened(|one| {
        let found = one.last_index()?;
        ensure!(found == 2, "the last index is {found}, expected 2");
        one.expect_log(&log(&[(1..=1, 1), (2..=2, 3)]))
    })
}
