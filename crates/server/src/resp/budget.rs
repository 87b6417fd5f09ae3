//! Memory for what is large, shared by all connections.
//!
//! A connection has a little for itself; what a request or a reply takes beyond that comes out
//! of one budget, and who finds it empty waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Up to this many bytes nobody asks.
pub const FREE_BYTES: usize = 64 << 10;

/// A share is counted in these, because a semaphore counts to 2^32 at a time.
const UNIT: usize = 1 << 10;

/// How long somebody waits for his share.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all have together.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    patience: Duration,
}

/// What one has of it.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let units = Arc::new(Semaphore::new(bytes / UNIT));
        let patience = PATIENCE;
        Budget { units, patience }
    }

    /// A share of nothing yet.
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            held: None,
        }
    }
}

impl Share {
    /// Has at least this much from now on, or as before when there is no more.
    pub fn try_hold(&mut self, bytes: usize) -> bool {
        let Some(more) = self.lacking(bytes) else {
            return true;
        };
        let taken = Arc::clone(&self.budget.units).try_acquire_many_owned(more);
        taken.map(|taken| self.add(taken)).is_ok()
    }

    /// As [`try_hold`](Share::try_hold), but waits until others give some back.
    pub async fn hold(&mut self, bytes: usize) -> bool {
        let Some(more) = self.lacking(bytes) else {
            return true;
        };
        let taken = Arc::clone(&self.budget.units).acquire_many_owned(more);
        match timeout(self.budget.patience, taken).await {
            Ok(Ok(taken)) => {
                self.add(taken);
                true
            }
            _ => false,
        }
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// The units that are lacking, if any.
    fn lacking(&self, bytes: usize) -> Option<u32> {
        let wanted = match bytes <= FREE_BYTES {
            true => 0,
            false => bytes.div_ceil(UNIT),
        };
        let held = self.held.as_ref().map_or(0, |held| held.num_permits());
        let more = wanted.checked_sub(held).filter(|more| *more > 0)?;
        Some(u32::try_from(more).unwrap_or(u32::MAX))
    }

    fn add(&mut self, taken: OwnedSemaphorePermit) {
        match &mut self.held {
            Some(held) => held.merge(taken),
            None => self.held = Some(taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_nothing_waits_for_others() {
        let mut budget = Budget::new(1 << 20);
        budget.patience = Duration::from_millis(20);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.try_hold(FREE_BYTES));
        assert!(one.try_hold(900 << 10));
        assert!(one.try_hold(1 << 10), "it holds more already");
        assert!(!other.try_hold(200 << 10));
        assert!(!other.hold(200 << 10).await, "nobody gives any back");
        assert!(other.hold(FREE_BYTES).await);
        budget.patience = PATIENCE;
        let mut other = budget.share();
        let waits = tokio::spawn(async move { other.hold(200 << 10).await });
        tokio::task::yield_now().await;
        one.release();
        assert!(waits.await.unwrap());
    }
}
