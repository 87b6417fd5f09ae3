//! The conformance suite on three subjects: the storage of this crate, the same reopened
//! after every step, and raft-rs's `MemStorage`, whose known deviations must stay true.
//!
//! One test per check and subject, named after its rule: `rule_02_...`.
#![cfg(feature = "testing")]
#![allow(clippy::expect_used, reason = "a test stops at what it did not expect")]

mod faulty;
mod faulty_async;
mod memory;
mod rocks;
#[path = "../common/scratch.rs"]
mod scratch;

use std::fmt::Debug;

use raft_rocks::testing::conformance::{
    ASYNC_RULES, Check, RULES, ReopenAfterEveryStep, Rule, async_checks, checks,
};

raft_rocks::conformance_tests!(rocks_storage, crate::rocks::Rocks);
raft_rocks::conformance_tests!(
    rocks_storage_reopened_after_every_step,
    ReopenAfterEveryStep<crate::rocks::Rocks>
);
raft_rocks::conformance_tests!(
    mem_storage,
    crate::memory::Memory,
    deviations = crate::memory::DEVIATIONS
);
raft_rocks::async_conformance_tests!(rocks_storage_asynchronously, crate::rocks::Rocks);

#[test]
fn every_rule_has_a_check_and_every_check_is_named_after_its_rule() {
    check_names(RULES, &checks::<crate::memory::Memory>());
    check_names(ASYNC_RULES, &async_checks::<crate::rocks::Rocks>());
    let numbers = |rules: &[Rule]| rules.iter().map(|rule| rule.number).collect::<Vec<_>>();
    assert_eq!(
        numbers(RULES),
        [1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 18, 20]
    );
    assert_eq!(numbers(ASYNC_RULES), [6, 7, 8, 16, 19]);
}

fn check_names(rules: &[Rule], checks: &[Check]) {
    for rule in rules {
        let prefix = format!("rule_{:02}_", rule.number);
        let named = checks
            .iter()
            .filter(|check| check.name().starts_with(&prefix));
        let ruled = checks.iter().filter(|check| check.rule() == *rule);
        assert!(
            named.clone().count() > 0,
            "rule {} has no check",
            rule.number
        );
        assert!(
            named
                .map(|check| check.name())
                .eq(ruled.map(|check| check.name())),
            "a check of rule {} is named after another",
            rule.number
        );
    }
}

#[test]
fn every_check_can_fail() {
    use faulty::{Fault, Faulty, NOTICED_BY, break_rule};

    check_faults(&checks::<Faulty>(), Fault::None, NOTICED_BY, break_rule);
}

#[test]
fn every_asynchronous_check_can_fail() {
    use faulty_async::{Fault, FaultyAsync, NOTICED_BY, break_rule};

    let checks = async_checks::<FaultyAsync>();
    check_faults(&checks, Fault::None, NOTICED_BY, break_rule);
}

fn check_faults<F: Copy + Debug>(
    checks: &[Check],
    none: F,
    noticed_by: &[(F, &[&str])],
    break_rule: fn(F),
) {
    break_rule(none);
    for check in checks {
        check.run().expect("the sound store keeps every rule");
        assert!(
            noticed_by
                .iter()
                .any(|(_, names)| names.contains(&check.name())),
            "no fault shows that {} can fail",
            check.name()
        );
    }
    for (fault, names) in noticed_by {
        break_rule(*fault);
        for name in *names {
            let check = checks.iter().find(|check| check.name() == *name);
            let outcome = check.expect("the table names checks of the suite").run();
            assert!(outcome.is_err(), "{name} does not notice {fault:?}");
        }
    }
}

#[test]
fn a_failure_names_rule_check_finding_and_reason() {
    let failing = "rule_15_a_fresh_store_has_no_snapshot";
    let checks = checks::<crate::memory::Memory>();
    let check = checks
        .iter()
        .find(|check| check.name() == failing)
        .expect("it is there");
    let text = check.run().expect_err("MemStorage fails it").to_string();
    for part in [
        "rule 15",
        check.rule().title,
        failing,
        "answered 0@0",
        check.reason(),
    ] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}
