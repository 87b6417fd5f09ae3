//! What is done to a cluster while its clients ask.

use crate::proxy::Direction;

/// All directions from one of these to one of those, and back.
pub fn between(these: &[usize], those: &[usize]) -> Vec<Direction> {
    let pairs = these
        .iter()
        .flat_map(|from| those.iter().map(|to| (*from, *to)));
    pairs
        .flat_map(|(from, to)| [(from, to), (to, from)])
        .collect()
}
