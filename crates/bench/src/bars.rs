//! The bars this project set itself, and whether a run met them.

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::Outcome;

/// What of a result is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    P50,
    PerSecond,
    Value,
}

/// One bar. raft-rocks' figure is divided by that of another system, unless it has to hold by
/// itself.
struct Bar {
    scenario: &'static str,
    figure: Figure,
    /// The ratio, or the value, may be no higher; for rates no lower.
    limit: f64,
    against: Option<&'static str>,
    /// When it applies, where there is a choice.
    only: &'static str,
}

const fn bar(
    scenario: &'static str,
    figure: Figure,
    limit: f64,
    against: Option<&'static str>,
) -> Bar {
    Bar {
        scenario,
        figure,
        limit,
        against,
        only: "",
    }
}

impl Bar {
    const fn only(mut self, when: &'static str) -> Self {
        self.only = when;
        self
    }
}

const RAFT_ENGINE: Option<&str> = Some("raft-engine");
const WRITER: Option<&str> = Some("raft-engine-writer");
const BATCH: Option<&str> = Some("rocksdb-batch");
const MEMORY: Option<&str> = Some("mem-storage");
const RECYCLED: &str = "with recycled logs";
const UNRECYCLED: &str = "without recycled logs";

const BARS: [Bar; 24] = [
    bar(
        "append_sync_1x256_g1",
        Figure::P50,
        1.2,
        Some("raw-overwrite"),
    )
    .only(RECYCLED),
    bar("append_sync_1x256_g1", Figure::P50, 1.15, RAFT_ENGINE).only(RECYCLED),
    bar("append_sync_1x256_g1", Figure::P50, 1.1, Some("raw-append")).only(UNRECYCLED),
    bar("append_sync_1x256_g1", Figure::P50, 1.4, RAFT_ENGINE).only(UNRECYCLED),
    bar("append_sync_64x256_g1", Figure::P50, 1.25, RAFT_ENGINE),
    bar("append_sync_1x4096_g1", Figure::P50, 1.1, RAFT_ENGINE),
    bar("append_sync_1x256_g8", Figure::P50, 0.9, WRITER),
    bar("append_sync_1x256_g32", Figure::P50, 1.0, WRITER),
    bar("append_sync_1x256_g32", Figure::PerSecond, 1.0, WRITER),
    bar("append_sync_1x256_g32", Figure::PerSecond, 1.5, RAFT_ENGINE),
    bar("append_sync_1x256_g32", Figure::PerSecond, 2.5, BATCH),
    bar("append_sync_1x256_g128", Figure::P50, 1.0, WRITER),
    bar("append_sync_1x256_g128", Figure::PerSecond, 1.0, WRITER),
    bar(
        "append_sync_1x256_g128",
        Figure::PerSecond,
        2.0,
        RAFT_ENGINE,
    ),
    bar("append_sync_1x256_g128", Figure::PerSecond, 2.5, BATCH),
    bar("append_cpu_64x256", Figure::P50, 2.5, RAFT_ENGINE),
    bar("read_hot_64x256", Figure::P50, 1.2, MEMORY),
    bar("term_hot", Figure::P50, 1.5, MEMORY),
    bar("read_cold_1000x256", Figure::P50, 1.0, RAFT_ENGINE),
    bar("open_1m_256", Figure::Value, 1.0, RAFT_ENGINE),
    bar("ram_per_million_entries", Figure::Value, 1.0, None),
    bar("write_amp_keep10k", Figure::Value, 1.2, None),
    bar("write_amp_keep100k", Figure::Value, 1.5, None),
    // No bar of its own, but nobody may be the slower for storing what a Ready holds.
    bar("ready_sync_1x256_g32", Figure::PerSecond, 1.0, WRITER),
];

const SYSTEM: &str = "raft-rocks";
const SYSTEM_PLAIN: &str = "raft-rocks-plain";

/// A bar and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    scenario: &'static str,
    figure: &'static str,
    against: Option<&'static str>,
    limit: String,
    only: &'static str,
    /// `None` when this run has not measured it.
    measured: Option<f64>,
    met: Option<bool>,
}

/// Holds the results against the bars.
pub fn judge(results: &[Outcome]) -> Vec<Verdict> {
    BARS.iter().map(|bar| bar.judge(results)).collect()
}

impl Bar {
    fn judge(&self, results: &[Outcome]) -> Verdict {
        let of = |system: &str| {
            let same = |o: &&Outcome| o.scenario == self.scenario && o.system == system;
            let outcome = results.iter().find(same)?;
            match self.figure {
                Figure::P50 => outcome.p50_us,
                Figure::PerSecond => outcome.per_s,
                Figure::Value => outcome.value,
            }
        };
        let system = if self.only == UNRECYCLED {
            SYSTEM_PLAIN
        } else {
            SYSTEM
        };
        let measured = match self.against {
            None => of(system),
            Some(other) => of(system)
                .zip(of(other))
                .map(|(ours, theirs)| ours / theirs),
        };
        let higher_is_better = self.figure == Figure::PerSecond;
        let met = measured.map(|measured| {
            if higher_is_better {
                measured >= self.limit
            } else {
                measured <= self.limit
            }
        });
        Verdict {
            scenario: self.scenario,
            figure: match self.figure {
                Figure::P50 => "p50",
                Figure::PerSecond => "per_s",
                Figure::Value => "value",
            },
            against: self.against,
            limit: format!(
                "{} {}",
                if higher_is_better { ">=" } else { "<=" },
                self.limit
            ),
            only: self.only,
            measured,
            met,
        }
    }
}

/// As Markdown, which reads well on a terminal too.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut rows =
        vec![["scenario", "figure", "against", "bar", "measured", ""].map(str::to_owned)];
    for verdict in verdicts.iter().filter(|verdict| verdict.measured.is_some()) {
        let condition = match verdict.only {
            "" => String::new(),
            only => format!(" ({only})"),
        };
        let met = match verdict.met {
            Some(true) => "met",
            _ => "MISSED",
        };
        rows.push([
            verdict.scenario.to_owned(),
            verdict.figure.to_owned(),
            verdict.against.unwrap_or("-").to_owned(),
            format!("{}{condition}", verdict.limit),
            verdict
                .measured
                .map(|m| format!("{m:.2}"))
                .unwrap_or_default(),
            met.to_owned(),
        ]);
    }
    if rows.len() == 1 {
        return "None of the bars was measured.\n".to_owned();
    }
    aligned(&rows)
}

fn aligned(rows: &[[String; 6]]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Samples;

    fn timed(system: &'static str, nanos: f64, per_s: f64) -> Outcome {
        let mut samples = Samples::default();
        samples.add([nanos], Some(per_s));
        Outcome::timed("append_sync_1x256_g32", system, samples.summary())
    }

    #[test]
    fn times_are_bounded_above_and_rates_below() {
        let results = [
            timed("raft-rocks", 100.0, 300.0),
            timed("raft-engine-writer", 125.0, 200.0),
            timed("raft-engine", 400.0, 250.0),
        ];
        let verdicts = judge(&results);
        let measured: Vec<_> = verdicts.iter().filter(|v| v.measured.is_some()).collect();
        let found = |figure, against| {
            let same = |v: &&&Verdict| v.figure == figure && v.against == against;
            let verdict = measured.iter().find(same).unwrap();
            (verdict.measured.unwrap(), verdict.met.unwrap())
        };
        assert_eq!(measured.len(), 3);
        assert_eq!(found("p50", WRITER), (0.8, true));
        assert_eq!(found("per_s", WRITER), (1.5, true));
        assert_eq!(found("per_s", RAFT_ENGINE), (1.2, false));
        let table = table(&verdicts);
        assert_eq!(table.matches("MISSED").count(), 1, "{table}");
    }

    #[test]
    fn a_value_that_stands_for_itself_needs_no_other_system() {
        let results = [Outcome::value("write_amp_keep10k", SYSTEM, 1.3, "x", 1)];
        let verdicts = judge(&results);
        let met: Vec<_> = verdicts.iter().filter_map(|v| v.met).collect();
        assert_eq!(met, [false]);
    }
}
