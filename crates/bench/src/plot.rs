//! The report's plots, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cluster::Row;
use crate::contenders::System;
use crate::report::Outcome;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 520;
/// Distributions share one picture, in so many columns.
const COLUMNS: usize = 2;

/// A line of a chart.
struct Line {
    system: &'static str,
    points: Vec<(f64, f64)>,
}

/// What a chart shows.
struct Chart {
    title: String,
    x: &'static str,
    y: &'static str,
    lines: Vec<Line>,
    /// Logarithmic, or from zero.
    log_y: bool,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws what there are results for, and names the files.
pub fn all(results: &[Outcome], out: &Path) -> Result<Vec<String>> {
    let mut drawn = Vec::new();
    let mut draw = |name: &str, charts: Vec<Chart>| -> Result<()> {
        if !charts.is_empty() {
            picture(&out.join(name), &charts).map_err(|e| anyhow!("draw {name}: {e:#}"))?;
            drawn.push(name.to_owned());
        }
        Ok(())
    };
    draw("latency.svg", latencies(results))?;
    draw("throughput.svg", throughput(results).into_iter().collect())?;
    draw("log_length.svg", log_length(results).into_iter().collect())?;
    Ok(drawn)
}

/// Draws what clusters did with how many clients.
pub fn cluster(rows: &[Row], out: &Path) -> Result<()> {
    let mut systems: Vec<&'static str> = rows.iter().map(|row| row.system).collect();
    systems.sort_unstable();
    systems.dedup();
    let chart = |title: &str, y, log_y, figure: fn(&Row) -> f64| {
        let line = |system: &&'static str| {
            let rows = rows.iter().filter(|row| row.system == *system);
            let points = rows.map(|row| (row.clients as f64, figure(row)));
            let points: Vec<_> = points.collect();
            (points.len() >= 2).then_some(Line { system, points })
        };
        Chart {
            title: title.to_owned(),
            x: "clients",
            y,
            lines: systems.iter().filter_map(line).collect(),
            log_y,
        }
    };
    let charts = [
        chart(
            "Puts of 256 B, three nodes",
            "puts per second",
            false,
            |row| row.per_s,
        ),
        chart("Their median", "microseconds", true, |row| row.p50_us),
    ];
    let charts: Vec<_> = charts
        .into_iter()
        .filter(|chart| !chart.lines.is_empty())
        .collect();
    if charts.is_empty() {
        return Ok(());
    }
    picture(&out.join("cluster.svg"), &charts).map_err(|e| anyhow!("draw cluster.svg: {e:#}"))
}

/// How the latencies of each append scenario are distributed.
fn latencies(results: &[Outcome]) -> Vec<Chart> {
    let mut charts: Vec<Chart> = Vec::new();
    let appends = |outcome: &&Outcome| outcome.per_s.is_some() && outcome.value.is_none();
    for outcome in results.iter().filter(appends) {
        let percentiles = outcome.percentiles.iter().enumerate();
        let line = Line {
            system: outcome.system,
            points: percentiles.map(|(p, us)| (p as f64, *us)).collect(),
        };
        match charts.last_mut() {
            Some(chart) if chart.title == outcome.scenario => chart.lines.push(line),
            _ => charts.push(Chart {
                title: outcome.scenario.to_owned(),
                x: "percentile",
                y: "microseconds",
                lines: vec![line],
                log_y: true,
            }),
        }
    }
    charts
}

fn throughput(results: &[Outcome]) -> Option<Chart> {
    const SCENARIOS: [(&str, f64); 4] = [
        ("append_sync_1x256_g1", 1.0),
        ("append_sync_1x256_g8", 8.0),
        ("append_sync_1x256_g32", 32.0),
        ("append_sync_1x256_g128", 128.0),
    ];
    let lines = lines(results, &SCENARIOS, |outcome| outcome.per_s);
    (!lines.is_empty()).then(|| Chart {
        title: "Synced appends of 1 x 256 B, one in flight per group".to_owned(),
        x: "groups",
        y: "entries per second",
        lines,
        log_y: false,
    })
}

fn log_length(results: &[Outcome]) -> Option<Chart> {
    const SCENARIOS: [(&str, f64); 3] = [
        ("open_10k_256", 10_000.0),
        ("open_100k_256", 100_000.0),
        ("open_1m_256", 1_000_000.0),
    ];
    let lines = lines(results, &SCENARIOS, |outcome| outcome.value);
    (!lines.is_empty()).then(|| Chart {
        title: "Opening a log of 256 B entries".to_owned(),
        x: "entries",
        y: "milliseconds",
        lines,
        log_y: true,
    })
}

/// A line for each system that has results in at least two of the scenarios.
fn lines(
    results: &[Outcome],
    scenarios: &[(&str, f64)],
    figure: impl Fn(&Outcome) -> Option<f64>,
) -> Vec<Line> {
    let line = |system: &System| {
        let system = system.name();
        let point = |(scenario, x): &(&str, f64)| {
            let same = |o: &&Outcome| o.scenario == *scenario && o.system == system;
            Some((*x, figure(results.iter().find(same)?)?))
        };
        let points: Vec<_> = scenarios.iter().filter_map(point).collect();
        (points.len() >= 2).then_some(Line { system, points })
    };
    System::all().iter().filter_map(line).collect()
}

fn picture(path: &Path, charts: &[Chart]) -> Result<()> {
    let columns = charts.len().min(COLUMNS);
    let rows = charts.len().div_ceil(columns);
    let size = (WIDTH * columns as u32, HEIGHT * rows as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, chart) in root.split_evenly((rows, columns)).iter().zip(charts) {
        chart.draw(area)?;
    }
    Ok(root.present()?)
}

impl Chart {
    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let all = || {
            self.lines
                .iter()
                .flat_map(|line| line.points.iter().copied())
        };
        let over = |values: &dyn Fn() -> Vec<f64>| {
            let values = values();
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            (low, values.iter().copied().fold(0.0, f64::max))
        };
        let (left, right) = over(&|| all().map(|point| point.0).collect());
        let (low, high) = over(&|| all().map(|point| point.1).collect());
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(&self.title, ("sans-serif", 22))
            .margin(12)
            .margin_right(40)
            .x_label_area_size(40)
            .y_label_area_size(80);
        // The ranges have different types, so each pair of axes is a call of its own.
        let percentiles = left < 1.0;
        match (percentiles, self.log_y) {
            (true, _) => {
                let axes = (left..right, (low.max(0.01)..high * 1.1).log_scale());
                let mut chart = builder.build_cartesian_2d(axes.0, axes.1)?;
                self.fill(&mut chart)
            }
            (false, true) => {
                let axes = (
                    (left..right).log_scale(),
                    (low.max(0.01)..high * 1.1).log_scale(),
                );
                let mut chart = builder.build_cartesian_2d(axes.0, axes.1)?;
                self.fill(&mut chart)
            }
            (false, false) => {
                let axes = ((left..right).log_scale(), 0.0..high * 1.1);
                let mut chart = builder.build_cartesian_2d(axes.0, axes.1)?;
                self.fill(&mut chart)
            }
        }
    }

    fn fill<'a, X, Y>(
        &self,
        chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    ) -> Result<()>
    where
        X: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
    {
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| label(*x))
            .y_label_formatter(&|y| label(*y))
            .draw()?;
        for line in &self.lines {
            let colour = colour(line.system);
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(line.system)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        Ok(())
    }
}

fn label(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e4 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

/// The same for a system in every chart.
fn colour(system: &str) -> RGBColor {
    match system {
        "raft-rocks-server" => RGBColor(214, 39, 40),
        "etcd" => RGBColor(31, 119, 180),
        "raft-rocks" => RGBColor(214, 39, 40),
        "raft-rocks-threads" => RGBColor(255, 152, 150),
        "raft-engine" => RGBColor(31, 119, 180),
        "raft-engine-writer" => RGBColor(23, 60, 120),
        "raft-engine-writer-threads" => RGBColor(140, 170, 220),
        "rocksdb-batch" => RGBColor(255, 127, 14),
        "rocksdb-naive" => RGBColor(188, 189, 34),
        "raw-append" => RGBColor(127, 127, 127),
        "raw-overwrite" => RGBColor(44, 160, 44),
        _ => RGBColor(148, 103, 189),
    }
}
