//! The conformance suite on three subjects: the storage of this crate, the same reopened
//! after every step, and raft-rs's `MemStorage`, whose known deviations must stay true.
//!
//! One test per check and subject, named after its rule: `rule_02_...`.
#![cfg(feature = "testing")]
#![allow(clippy::expect_used, reason = "a test stops at what it did not expect")]

mod faulty;
mod memory;
mod rocks;
#[path = "../common/scratch.rs"]
mod scratch;

use raft_rocks::testing::conformance::{RULES, ReopenAfterEveryStep, checks};

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

#[test]
fn every_rule_has_a_check_and_every_check_is_named_after_its_rule() {
    let checks = checks::<crate::memory::Memory>();
    for rule in RULES {
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
    let numbers: Vec<u32> = RULES.iter().map(|rule| rule.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 18, 20]);
}

#[test]
fn every_check_can_fail() {
    use faulty::{Fault, Faulty, NOTICED_BY, break_rule};

    break_rule(Fault::None);
    let checks = checks::<Faulty>();
    for check in &checks {
        check.run().expect("the sound store keeps every rule");
        assert!(
            NOTICED_BY
                .iter()
                .any(|(_, names)| names.contains(&check.name())),
            "no fault shows that {} can fail",
            check.name()
        );
    }
    for (fault, names) in NOTICED_BY {
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
