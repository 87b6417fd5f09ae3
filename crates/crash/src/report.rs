//! What all parts found together.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::parts::Part;
use crate::run::Ran;

/// What a run as a whole reports, in this order.
const FIGURES: [&str; 18] = [
    "power_cuts",
    "cut_refused",
    "acknowledged",
    "lost",
    "hard_state_regressed",
    "holes",
    "control_rounds",
    "control_rounds_with_loss",
    "io_points",
    "io_point_runs",
    "io_point_violations",
    "damage_cases",
    "damage_silent",
    "torn_cases",
    "torn_refused",
    "disk_full_runs",
    "disk_full_violations",
    "failed_parts",
];

/// What has to be zero.
const VIOLATIONS: [&str; 10] = [
    "cut_refused",
    "lost",
    "hard_state_regressed",
    "holes",
    "io_point_violations",
    "damage_silent",
    "torn_refused",
    "disk_full_violations",
    "power_cut_wrong",
    "failed_parts",
];

/// The share of control rounds that lose something, in percent: with fewer the power cuts prove
/// little.
const CONTROL_PERCENT_MIN: u64 = 95;

/// The figures of all parts, added up.
#[derive(Default)]
pub struct Report {
    figures: BTreeMap<String, u64>,
    seeds: Map<String, Value>,
}

impl Report {
    /// Adds what a part found.
    pub fn add(&mut self, part: &Part, seed: u64, ran: Ran) {
        for (name, value) in ran.figures {
            *self.figures.entry(name).or_default() += value;
        }
        *self.figures.entry("failed_parts".to_owned()).or_default() += u64::from(!ran.passed);
        self.seeds.insert(part.name.to_owned(), json!(seed));
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        VIOLATIONS
            .iter()
            .all(|name| self.get(name).unwrap_or(0) == 0)
            && self.control_loses()
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.figures.get(name).copied()
    }

    fn control_loses(&self) -> bool {
        let rounds = self.get("control_rounds").unwrap_or(0);
        let with_loss = self.get("control_rounds_with_loss").unwrap_or(0);
        with_loss * 100 >= rounds * CONTROL_PERCENT_MIN
    }

    /// What was not measured is `null`.
    pub fn to_json(&self) -> Result<String> {
        let mut fields = Map::new();
        for name in FIGURES {
            fields.insert(name.to_owned(), json!(self.get(name)));
        }
        for (name, value) in &self.figures {
            fields.entry(name.clone()).or_insert_with(|| json!(value));
        }
        fields.insert("seeds".to_owned(), Value::Object(self.seeds.clone()));
        Ok(serde_json::to_string_pretty(&fields)? + "\n")
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for name in FIGURES {
            let Some(value) = self.get(name) else {
                continue;
            };
            let verdict = match VIOLATIONS.contains(&name) {
                true if value > 0 => "  VIOLATION",
                true => "  as it must be",
                false => "",
            };
            let _ = writeln!(text, "{name:26} {value:>10}{verdict}");
        }
        if !self.control_loses() {
            let _ = writeln!(
                text,
                "the control lost something in less than {CONTROL_PERCENT_MIN} % of its rounds: \
                 the power cuts prove little"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(passed: bool, figures: &[(&str, u64)]) -> Ran {
        Ran {
            passed,
            figures: figures.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
        }
    }

    fn report(parts: Vec<Ran>) -> Report {
        let part = Part {
            name: "a part",
            test: "",
            case: "",
            environment: Vec::new(),
        };
        let mut report = Report::default();
        parts.into_iter().for_each(|ran| report.add(&part, 7, ran));
        report
    }

    #[test]
    fn figures_add_up_and_what_was_not_measured_is_null() {
        let report = report(vec![
            ran(true, &[("power_cuts", 3), ("lost", 0)]),
            ran(true, &[("power_cuts", 4)]),
        ]);
        let json: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(json["power_cuts"], 7);
        assert_eq!(json["io_points"], Value::Null);
        assert_eq!(json["seeds"]["a part"], 7);
        assert!(report.is_clean());
    }

    #[test]
    fn any_violation_a_failed_part_and_a_lame_control_are_found() {
        for name in VIOLATIONS {
            assert!(!report(vec![ran(true, &[(name, 1)])]).is_clean(), "{name}");
        }
        assert!(!report(vec![ran(false, &[])]).is_clean());
        let control = |lost| {
            let figures = [("control_rounds", 100), ("control_rounds_with_loss", lost)];
            report(vec![ran(true, &figures)]).is_clean()
        };
        assert!(control(95) && !control(94));
    }
}
