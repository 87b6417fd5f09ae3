//! How long things took: all of them, so that whoever looks from time to time sees what came since.

use std::time::Duration;

use ::metrics::HistogramFn;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Microseconds; what takes longer counts as this.
const LONGEST_US: u64 = 60_000_000;

/// Times, counted by their length.
pub struct Latencies {
    all: Mutex<Histogram<u64>>,
    /// The same for `/metrics`.
    exported: ::metrics::Histogram,
}

impl Latencies {
    /// None yet.
    pub fn new(exported: ::metrics::Histogram) -> Self {
        let all = Mutex::new(empty());
        Latencies { all, exported }
    }

    /// Something took so long.
    pub fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.all.lock().saturating_record(us);
        self.exported.record(took.as_secs_f64());
    }
}

impl HistogramFn for Latencies {
    fn record(&self, seconds: f64) {
        self.add(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    }
}

/// What came between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// How many.
    pub count: u64,
    /// Half of them took at most this many milliseconds.
    pub p50_ms: Option<f64>,
    /// All but one in a hundred did.
    pub p99_ms: Option<f64>,
}

/// Who looks from time to time.
pub struct Onlooker {
    seen: Histogram<u64>,
}

impl Onlooker {
    /// Has seen everything up to now.
    pub fn new(of: &Latencies) -> Self {
        let seen = of.all.lock().clone();
        Onlooker { seen }
    }

    /// What came since the last look.
    pub fn look(&mut self, of: &Latencies) -> Window {
        let now = of.all.lock().clone();
        let mut new = now.clone();
        // They only grow.
        let is_part = new.subtract(&self.seen).is_ok();
        self.seen = now;
        if !is_part || new.is_empty() {
            return Window::default();
        }
        let ms = |quantile| Some(new.value_at_quantile(quantile) as f64 / 1_000.0);
        Window {
            count: new.len(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }
}

#[expect(clippy::expect_used, reason = "the bounds are constants that fit")]
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 2).expect("bounds")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop")]

    use super::*;

    #[test]
    fn each_look_sees_what_came_since_the_last() {
        let latencies = Latencies::new(::metrics::Histogram::noop());
        latencies.add(Duration::from_secs(5));
        let mut onlooker = Onlooker::new(&latencies);
        assert_eq!(onlooker.look(&latencies), Window::default());
        for ms in 1..=100 {
            latencies.add(Duration::from_millis(ms));
        }
        let window = onlooker.look(&latencies);
        assert_eq!(window.count, 100);
        assert!(
            (49.0..=51.0).contains(&window.p50_ms.unwrap()),
            "{window:?}"
        );
        assert!(
            (98.0..=100.0).contains(&window.p99_ms.unwrap()),
            "{window:?}"
        );
        latencies.add(Duration::from_secs(600));
        let window = onlooker.look(&latencies);
        assert_eq!(window.count, 1);
        assert!(
            (59_000.0..=61_000.0).contains(&window.p50_ms.unwrap()),
            "{window:?}"
        );
        assert_eq!(onlooker.look(&latencies).count, 0);
    }
}
