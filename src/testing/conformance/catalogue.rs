//! The rules, and every check with the reason why it is there.

use super::compaction::*;
use super::entries::*;
use super::snapshots::*;
use super::states::*;
use super::terms::*;
use super::{Check, StoreUnderTest};

/// A rule that raft-rs 0.7 imposes on its storage; `docs/testing.md` has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub number: u32,
    /// The rule in one sentence.
    pub title: &'static str,
}

/// The rules that bind every store, in order.
pub const RULES: &[Rule] = &[
    Rule {
        number: 1,
        title: "first_index and last_index always answer",
    },
    Rule {
        number: 2,
        title: "term answers for [first_index - 1, last_index], and says Compacted below and \
                Unavailable above",
    },
    Rule {
        number: 3,
        title: "a store does not do what MemStorage does wrong",
    },
    Rule {
        number: 4,
        title: "entries(low, high, max_size) is [low, high), contiguous, and never empty when the \
                range is not",
    },
    Rule {
        number: 5,
        title: "compaction moves the first index and stays below what was applied and what a \
                snapshot covers",
    },
    Rule {
        number: 9,
        title: "installing a snapshot removes the whole log and sets bounds and states with it",
    },
    Rule {
        number: 10,
        title: "a Ready's snapshot is stored before its entries, in one write",
    },
    Rule {
        number: 11,
        title: "an append replaces the tail from its first entry on, and leaves no gap",
    },
    Rule {
        number: 12,
        title: "the commit index lies in [first_index - 1, last_index] at every start",
    },
    Rule {
        number: 13,
        title: "the applied index is stored, offered at a start, and never above commit",
    },
    Rule {
        number: 14,
        title: "a conf state belongs to an index: the current one to applied, a snapshot's to its \
                own",
    },
    Rule {
        number: 15,
        title: "a snapshot is never empty, never older than requested, and joins the log",
    },
    Rule {
        number: 18,
        title: "every term is found one index at a time",
    },
    Rule {
        number: 20,
        title: "what was compacted, truncated or written elsewhere is never read",
    },
];

fn rule(number: u32) -> Rule {
    match RULES.iter().find(|rule| rule.number == number) {
        Some(rule) => *rule,
        None => panic!("the catalogue names rule {number}, which is not in RULES"),
    }
}

/// Every check of the suite, for a store of your own loop; most stores want
/// [`conformance_tests!`](crate::conformance_tests).
pub fn checks<S: StoreUnderTest>() -> Vec<Check> {
    crate::__conformance_catalogue!(@list S)
}

/// One row per check: its name, the rule's number, and what goes wrong without it.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_catalogue {
    ($($for_whom:tt)+) => {
        $crate::__conformance_rows! { $($for_whom)+;
            rule_01_fresh_store_is_an_empty_log, 1,
                "raft-rs starts its log at first_index and unwraps the answer; a new store is \
                 truncated at 0.";
            rule_01_bounds_answer_after_every_operation, 1,
                "raft-rs unwraps both bounds on every step; a wrong one moves the log.";
            rule_02_fresh_store_answers_term_zero, 2,
                "the first append of a group is anchored at index 0 with term 0.";
            rule_02_every_index_of_the_log_has_its_term, 2,
                "a wrong term accepts or rejects the wrong entries, and elects a node with an \
                 older log.";
            rule_02_above_the_log_is_unavailable, 2,
                "raft-rs stops the node on any error of term() but Compacted and Unavailable.";
            rule_02_below_the_log_is_compacted, 2,
                "a leader that does not see Compacted never falls back to a snapshot, and a term \
                 made up for a compacted index confirms entries that nobody has.";
            rule_02_term_of_first_minus_one_survives_compaction, 2,
                "the first append after a compaction is anchored there; without its term every \
                 follower needs a snapshot.";
            rule_02_term_of_first_minus_one_survives_full_compaction, 2,
                "last_term() reads it from an empty log, and raft-rs stops the node if it fails.";
            rule_02_term_of_first_minus_one_survives_install, 2,
                "the leader's next append is anchored at the snapshot.";
            rule_02_terms_follow_an_overwritten_tail, 2,
                "a term of the replaced tail makes two different logs look the same.";
            rule_03_commit_keeps_term_and_vote, 3,
                "MemStorage::commit_to sets the hard state's term to the entry's; a lower term \
                 lets the node vote again in one where it has voted.";
            rule_03_a_snapshot_is_labelled_with_what_was_applied, 3,
                "MemStorage labels its snapshot with the commit index; a follower then skips the \
                 entries which the data do not hold yet.";
            rule_04_every_range_is_half_open_and_contiguous, 4,
                "raft-rs applies and sends what it gets without looking for holes; an empty \
                 answer makes has_ready() spin.";
            rule_04_one_entry_comes_whatever_the_limit, 4,
                "an entry above the size limit would otherwise never be sent or applied.";
            rule_04_sizes_count_as_raft_counts_them, 4,
                "raft-rs limits its own part of the log by the encoded size of entries; another \
                 measure breaks the limit that the configuration promises.";
            rule_04_none_and_u64_max_mean_no_limit, 4,
                "raft-rs passes both for no limit; a sum compared with them must not cut.";
            rule_04_below_first_is_compacted, 4,
                "Compacted is what makes a leader send a snapshot; any other answer stops it.";
            rule_04_beyond_last_panics, 4,
                "the trait documents a panic: only a store that lost its tail is asked, and a \
                 short answer would hide that.";
            rule_04_every_kind_of_entry_round_trips, 4,
                "a lost entry type applies a membership change as data, a lost context or payload \
                 loses what a client was promised.";
            rule_04_a_long_log_reads_back_from_anywhere, 4,
                "a range may lie in a cache, on disk, or across both.";
            rule_05_a_caller_who_may_wait_gets_entries_or_is_told_so, 5,
                "only a caller whose context says can_async() tolerates \
                 LogTemporarilyUnavailable; a Ready stops the node on it.";
            rule_05_compact_makes_to_the_first_index, 5,
                "an index compacted too much is missing, one too few is never deleted.";
            rule_05_compact_at_or_below_first_changes_nothing, 5,
                "compaction is repeated after restarts, and must not bring entries back.";
            rule_05_compact_keeps_states_and_snapshot, 5,
                "votes, commit and configuration do not depend on how much of the log is kept.";
            rule_05_compact_reaches_the_snapshot_and_no_further, 5,
                "a follower who lags behind the first index needs a snapshot that joins it.";
            rule_05_compact_without_a_snapshot_is_refused, 5,
                "a follower who lags behind the first index could never be served.";
            rule_05_compact_beyond_applied_is_refused, 5,
                "raft-rs asks for [applied + 1, commit] and stops the node on Compacted.";
            rule_05_compact_beyond_last_is_refused, 5,
                "the log would continue after indexes that never existed.";
            rule_05_full_compaction_keeps_first_index, 5,
                "first_index would fall back, and raft-rs would ask for entries that are gone.";
            rule_05_append_continues_after_full_compaction, 5,
                "the log goes on at last + 1, whatever is left of it.";
            rule_09_install_removes_the_entries_above_its_index, 9,
                "with a leftover tail last_index jumps past the snapshot, and a later election \
                 trips an assertion.";
            rule_09_no_old_entry_returns_after_an_install, 9,
                "an old entry right behind a new tail is read as its successor.";
            rule_09_install_beyond_the_log, 9,
                "this is the common case: a follower who lags further than the leader's log.";
            rule_09_install_on_an_empty_store, 9,
                "this is how a new node joins.";
            rule_09_install_raises_commit_term_and_applied, 9,
                "at the next start raft-rs requires commit and applied to lie within the new log.";
            rule_09_install_keeps_a_newer_term_and_its_vote, 9,
                "a lower term or a forgotten vote lets the node vote twice in one term.";
            rule_09_a_snapshot_at_the_commit_index_is_installed, 9,
                "a follower who asked for a snapshot (request_snapshot) gets one at its own last \
                 index when it has committed everything.";
            rule_09_a_snapshot_below_the_log_is_refused, 9,
                "it would undo what the node has acknowledged.";
            rule_09_a_snapshot_below_commit_is_refused, 9,
                "commit would go back, and committed entries would be lost.";
            rule_10_a_ready_stores_its_snapshot_before_its_entries, 10,
                "in the other order the snapshot removes the entries that came with it.";
            rule_10_a_ready_with_only_a_snapshot, 10,
                "its hard state counts against the log as the snapshot leaves it.";
            rule_10_entries_must_follow_their_snapshot, 10,
                "anything else is a log with a hole, or entries that the snapshot replaced.";
            rule_11_append_extends_the_log, 11,
                "this is what every Ready does.";
            rule_11_empty_append_changes_nothing, 11,
                "a Ready without entries is common.";
            rule_11_overlap_deletes_the_old_tail, 11,
                "the old tail belongs to a leader who lost; counted as present, it gets \
                 acknowledged.";
            rule_11_overlap_deletes_a_long_tail, 11,
                "a long tail is deleted in another way than a short one, or in several steps.";
            rule_11_no_old_entry_returns_after_an_overlap, 11,
                "an old entry right behind the new tail is read as its successor.";
            rule_11_overlap_from_the_first_entry, 11,
                "a new leader may replace all of an uncommitted log.";
            rule_11_overlap_from_the_first_entry_after_compaction, 11,
                "a new leader may replace all that compaction has left.";
            rule_11_overlap_may_extend_the_log, 11,
                "a new leader's entries are often more than those they replace.";
            rule_11_overlap_may_keep_the_length, 11,
                "what is stored about the last entry changes even where its index does not.";
            rule_11_overlap_may_bring_older_terms, 11,
                "a leader's own tail may have a newer term than the entries that replace it.";
            rule_11_a_ready_truncates_as_an_append_does, 11,
                "raft-rs hands conflicting entries over in a Ready.";
            rule_11_entries_below_first_are_refused, 11,
                "they would overwrite what a snapshot holds.";
            rule_11_index_zero_is_refused, 11,
                "index 0 is the place before the log.";
            rule_11_a_gap_before_the_entries_is_refused, 11,
                "a hole in the log can never be applied.";
            rule_11_a_gap_between_the_entries_is_refused, 11,
                "a hole in the log can never be applied, and a repeated index hides an entry.";
            rule_12_hard_state_survives_a_restart, 12,
                "a forgotten vote is a second vote in the same term.";
            rule_12_entries_and_hard_state_share_one_write, 12,
                "raft-rs panics at the start when commit is above the last index.";
            rule_12_commit_beyond_last_is_refused, 12,
                "raft-rs panics at the start when commit is above the last index.";
            rule_12_a_refused_ready_leaves_nothing_behind, 12,
                "half of a Ready is a state that raft-rs was never in.";
            rule_12_commit_stays_within_the_log, 12,
                "raft-rs panics at the start when commit is below first_index - 1.";
            rule_13_applied_is_offered_after_a_restart, 13,
                "Config.applied = 0 on a compacted log silently skips entries.";
            rule_13_applied_raises_commit, 13,
                "the stored commit may lag, and raft-rs stops a node whose applied index is above \
                 it.";
            rule_13_a_lagging_hard_state_does_not_undo_applied, 13,
                "raft-rs stops a node whose applied index is above its commit.";
            rule_13_applied_beyond_last_is_refused, 13,
                "the state machine would have applied entries that the log does not hold.";
            rule_13_applied_stays_within_the_log, 13,
                "raft-rs stops a node whose applied index is below first_index - 1.";
            rule_14_conf_state_and_applied_are_stored_together, 14,
                "a conf state that is ahead or behind of applied changes membership twice or \
                 never.";
            rule_14_later_applies_keep_the_conf_state, 14,
                "most entries change no membership.";
            rule_14_a_joint_conf_state_round_trips, 14,
                "a node that forgets the outgoing voters decides with half of the quorum.";
            rule_14_a_snapshot_carries_the_conf_state_at_its_index, 14,
                "a follower would apply the membership changes after the snapshot twice.";
            rule_14_an_installed_conf_state_becomes_current, 14,
                "after a restart the node takes its membership from the store.";
            rule_15_a_fresh_store_has_no_snapshot, 15,
                "raft-rs stops a leader that is given a snapshot of index 0; it waits for \
                 SnapshotTemporarilyUnavailable.";
            rule_15_no_snapshot_is_made_up_from_the_log, 15,
                "only a state machine can say what its data are at an index.";
            rule_15_a_snapshot_reaches_the_requested_index, 15,
                "an older one is ignored by the follower who asked, a relabelled one skips \
                 entries.";
            rule_15_the_snapshot_is_served_after_compaction, 15,
                "below first_index - 1 a snapshot and the log after it leave a hole.";
            rule_15_data_come_back_as_they_were_given, 15,
                "the follower's state machine is restored from these bytes.";
            rule_15_an_installed_snapshot_is_served, 15,
                "a node that was restored from a snapshot may be the next leader, and must feed \
                 others.";
            rule_15_an_older_snapshot_replaces_no_newer_one, 15,
                "a background job that finishes late would open a hole below the log.";
            rule_15_a_snapshot_below_the_log_is_not_taken, 15,
                "its term is no longer known, and it would not join the log.";
            rule_15_a_snapshot_beyond_the_log_is_refused, 15,
                "no state machine has reached an index that the log does not hold.";
            rule_15_a_snapshot_is_never_ahead_of_applied, 15,
                "after a restart the log would be applied again on top of data that hold it \
                 already, or commit would be below the snapshot.";
            rule_18_the_walk_finds_every_term, 18,
                "a leader looks for the place where logs part by asking for one term after the \
                 other.";
            rule_18_the_walk_crosses_a_cut_inside_a_run, 18,
                "an index of runs of equal terms must be cut where the log is.";
            rule_18_the_walk_ends_at_a_compaction_inside_a_run, 18,
                "an index of runs of equal terms must start where the log does.";
            rule_20_a_compacted_prefix_is_never_visible, 20,
                "a scan that starts below the log meets deleted entries, or worse, finds them.";
            rule_20_many_truncations_leave_one_log, 20,
                "every replaced tail leaves deletions behind which a scan must pass.";
            rule_20_indexes_sort_as_numbers, 20,
                "keys that sort otherwise end a scan early, or answer in the wrong order.";
            rule_20_stores_share_nothing, 20,
                "a leader's log must not show up in another group.";
        }
    };
}
