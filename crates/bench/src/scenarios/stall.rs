//! The longest that a single append takes while the log is cut behind it.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::{Run, Scenario};
use crate::clients::Shape;
use crate::contenders::{self, Contender, Setup};
use crate::disk;
use crate::entries::{Noise, Source};
use crate::harness::Samples;
use crate::image::Image;
use crate::logs::new_dir;
use crate::report::Outcome;

const IMAGE_BYTES: u64 = 4 << 30;
const SHAPE: Shape = super::append(16, 256, 1);
const KEPT: u64 = 100_000;
/// How far the log grows between two cuts.
const STEP: u64 = 10_000;

/// Each contender on a fresh file system in RAM, one after the other: a stall would hit whoever
/// runs beside.
pub fn stall(run: &mut Run, scenario: &Scenario) -> Result<()> {
    run.start(scenario);
    for system in scenario.participants(&run.systems) {
        let store = system.store().context("it cannot be appended to")?;
        disk::touch_memory(&run.settings.ram_dir, 16 * run.settings.touched_bytes)?;
        let image = Image::mount(&run.settings.ram_dir, IMAGE_BYTES)?;
        let dir = new_dir(image.path())?;
        let setup = Setup {
            groups: 1,
            synced: true,
            prefill: true,
            file_bytes: run.settings.file_bytes,
        };
        let contender = contenders::open(store, dir.path(), setup)?;
        let samples = steady(&*contender, &run.noise, run.settings.stall)?;
        let longest = samples.iter().copied().fold(0.0, f64::max) / 1e6;
        let per_s = (samples.len() * SHAPE.batch) as f64 / run.settings.stall.as_secs_f64();
        let mut all = Samples::default();
        all.add(samples, Some(per_s));
        let outcome = Outcome::timed(scenario.name, system.name(), all.summary());
        run.add(outcome.with_value(longest, "ms"));
        run.progress.inc(1);
        drop(contender);
    }
    Ok(())
}

/// Appends without a break, while another thread cuts the log, as drivers do.
fn steady(contender: &dyn Contender, noise: &Noise, length: Duration) -> Result<Vec<f64>> {
    let (lengths, grown) = mpsc::channel::<u64>();
    let cut = move || -> Result<()> {
        for last in grown {
            contender.set_applied(0, last)?;
            contender.compact(0, last + 1 - KEPT)?;
            contender.purge()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let cutter = scope.spawn(cut);
        let appended = append_for(contender, noise, length, &lengths);
        drop(lengths);
        let cut = cutter
            .join()
            .unwrap_or_else(|_| Err(anyhow!("it panicked")));
        cut.context("the thread that cuts the log")?;
        appended
    })
}

fn append_for(
    contender: &dyn Contender,
    noise: &Noise,
    length: Duration,
    lengths: &mpsc::Sender<u64>,
) -> Result<Vec<f64>> {
    let mut source = Source::new(noise.clone(), 0);
    let (mut entries, mut nanos, mut cut) = (Vec::new(), Vec::new(), KEPT);
    let start = Instant::now();
    while start.elapsed() < length {
        source.fill(&mut entries, SHAPE.batch, SHAPE.bytes);
        let called = Instant::now();
        contender.append(0, &mut entries, None)?;
        nanos.push(called.elapsed().as_nanos() as f64);
        if source.last_index() >= cut + STEP {
            cut = source.last_index();
            lengths.send(cut).context("the log is no longer cut")?;
        }
    }
    Ok(nanos)
}
