//! Turns, samples and what is made of them.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;

/// All turns of one contender in one scenario.
#[derive(Debug, Default)]
pub struct Samples {
    nanos: Vec<f64>,
    rates: Vec<f64>,
    rounds: u32,
}

/// What is reported of the samples.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Median, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile, in microseconds.
    pub p99_us: f64,
    /// Entries per second: the median of the turns. `None` where nothing is appended.
    pub per_s: Option<f64>,
    /// Turns.
    pub rounds: u32,
    /// The percentiles from 0 to 99, in microseconds, for the plots.
    pub percentiles: Vec<f64>,
}

impl Samples {
    /// Adds a turn: its latencies, and how many entries it appended per second.
    pub fn add(&mut self, nanos: impl IntoIterator<Item = f64>, per_s: Option<f64>) {
        self.nanos.extend(nanos);
        self.rates.extend(per_s);
        self.rounds += 1;
    }

    /// Orders them.
    pub fn summary(mut self) -> Summary {
        self.nanos.sort_unstable_by(f64::total_cmp);
        self.rates.sort_unstable_by(f64::total_cmp);
        let micros = |percent: usize| percentile(&self.nanos, percent) / 1e3;
        Summary {
            p50_us: micros(50),
            p99_us: micros(99),
            per_s: (!self.rates.is_empty()).then(|| percentile(&self.rates, 50)),
            rounds: self.rounds,
            percentiles: (0..100).map(micros).collect(),
        }
    }
}

/// The nearest rank among ordered values; zero when there are none.
pub fn percentile(ordered: &[f64], percent: usize) -> f64 {
    let rank = (ordered.len() * percent).div_ceil(100).max(1) - 1;
    ordered.get(rank).copied().unwrap_or_default()
}

/// The median of a few values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    percentile(&values, 50)
}

/// Lets a disk rest. A wait on a channel that nobody sends to: what a shared disk gives back
/// comes with time and with no event.
pub fn rest(length: Duration) {
    let (_kept, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(length);
}

/// Gives every contender its turn in every round. The order changes from round to round, so
/// that nobody always follows the one that leaves the disk busy.
pub fn take_turns<T>(
    contenders: &mut [T],
    rounds: u32,
    seed: u64,
    mut turn: impl FnMut(&mut T) -> Result<()>,
) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut order: Vec<&mut T> = contenders.iter_mut().collect();
    for _ in 0..rounds {
        random.shuffle(&mut order);
        for contender in &mut order {
            turn(contender)?;
        }
    }
    Ok(())
}

/// How long something takes.
pub fn timed<T>(run: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let made = run()?;
    Ok((made, start.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0), 1.0);
        assert_eq!(percentile(&values, 50), 100.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }

    #[test]
    fn the_rate_is_that_of_the_median_turn() {
        let mut samples = Samples::default();
        for rate in [30.0, 10.0, 20.0] {
            samples.add([1000.0], Some(rate));
        }
        let summary = samples.summary();
        assert_eq!((summary.per_s, summary.rounds), (Some(20.0), 3));
        assert_eq!(summary.p50_us, 1.0);
    }

    #[test]
    fn everybody_gets_as_many_turns() {
        let mut contenders = [("a", 0), ("b", 0), ("c", 0)];
        let turn = |contender: &mut (&str, u32)| {
            contender.1 += 1;
            Ok(())
        };
        take_turns(&mut contenders, 5, 1, turn).unwrap();
        assert!(contenders.iter().all(|(_, turns)| *turns == 5));
    }
}
