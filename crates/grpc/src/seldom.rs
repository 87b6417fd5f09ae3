//! Log lines that others cause, who may do it a thousand times a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long one line of a kind stands for all others.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets a line of one kind through once a second, and counts those between.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Mutex<Option<Instant>>,
    silent: AtomicU64,
}

impl Seldom {
    /// How many were silent since the last line, if this one may be written.
    pub fn let_through(&self) -> Option<u64> {
        let now = Instant::now();
        let mut last = self.last.lock();
        if last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            self.silent.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(now);
        Some(self.silent.swap(0, Ordering::Relaxed))
    }

    /// Writes what happened, if it may, and how often it happened silently before.
    pub fn warn(&self, what: impl FnOnce() -> String) {
        match self.let_through() {
            None => {}
            Some(0) => log::warn!("{}", what()),
            Some(silent) => log::warn!("{}; {silent} more such lines were left out", what()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_and_a_count() {
        let seldom = Seldom::default();
        assert_eq!(seldom.let_through(), Some(0));
        for _ in 0..1_000 {
            assert_eq!(seldom.let_through(), None);
        }
        *seldom.last.lock() = Instant::now().checked_sub(PAUSE);
        assert_eq!(seldom.let_through(), Some(1_000));
        assert_eq!(seldom.let_through(), None);
    }
}
