//! What stands in for `metrics.rs` without the feature `metrics`: nothing is recorded.

use std::time::Duration;

#[inline]
pub(crate) fn appended(_sizes: impl Iterator<Item = usize>) {}

#[inline]
pub(crate) fn wrote(_sizes: impl Iterator<Item = usize>) {}

#[inline]
pub(crate) fn synced(_took: Duration) {}

#[inline]
pub(crate) fn queue(_writes: usize, _bytes: usize) {}

#[inline]
pub(crate) fn stalled() {}

#[inline]
pub(crate) fn read(_from_memory: bool) {}

#[inline]
pub(crate) fn fetched_later() {}

#[inline]
pub(crate) fn poisoned() {}
