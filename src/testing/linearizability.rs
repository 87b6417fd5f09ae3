//! Whether what clients saw can have happened one after the other.
//!
//! The search of Wing and Gong in the form of Lowe ("Testing for linearizability", 2016): try
//! every operation that may come next, remember which sets of finished operations with which
//! state led nowhere. A history of several keys is linearizable when that of each key is
//! (Herlihy and Wing, 1990), so each is searched apart.
//!
//! The crates that do this were looked at: `stateright`'s tester clones the whole history at each
//! step of the search, others are unmaintained.

use std::collections::HashSet;

/// What was done to one key, and what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The value was replaced, and the old one returned; `None` when the answer never came.
    Swap {
        /// What was written.
        new: u64,
        /// What was returned.
        old: Option<u64>,
    },
    /// The value was read.
    Get {
        /// What was returned.
        value: u64,
    },
}

/// One operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// On which key.
    pub key: u64,
    /// What.
    pub action: Action,
    /// When the client asked.
    pub invoked: u64,
    /// When it had the answer; `None`: never, and it may take effect at any later time, or not
    /// at all.
    pub returned: Option<u64>,
}

/// The value of a key that has not been written.
pub const UNWRITTEN: u64 = 0;

/// The keys whose histories cannot have happened one after the other.
///
/// # Errors
/// The first such key, with its history in order of invocation.
pub fn check(history: &[Operation]) -> Result<(), (u64, Vec<Operation>)> {
    let mut keys: Vec<u64> = history.iter().map(|operation| operation.key).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let own = history.iter().filter(|operation| operation.key == key);
        let mut own: Vec<Operation> = own.copied().collect();
        own.sort_by_key(|operation| operation.invoked);
        if !is_linearizable(&own) {
            return Err((key, own));
        }
    }
    Ok(())
}

/// Those that are done, as bits, and the value they led to.
type Configuration = (Vec<u64>, u64);

fn is_linearizable(operations: &[Operation]) -> bool {
    let must = operations
        .iter()
        .filter(|operation| operation.returned.is_some())
        .count();
    let words = operations.len().div_ceil(64);
    let mut seen: HashSet<Configuration> = HashSet::new();
    let mut pending = vec![((vec![0; words], UNWRITTEN), 0)];
    while let Some(((done, value), finished)) = pending.pop() {
        if finished == must {
            return true;
        }
        for (at, next_value) in candidates(operations, &done, value) {
            let mut done = done.clone();
            set(&mut done, at);
            let returned = operations
                .get(at)
                .is_some_and(|next| next.returned.is_some());
            let next = (done, next_value);
            if seen.insert(next.clone()) {
                pending.push((next, finished + usize::from(returned)));
            }
        }
    }
    false
}

/// The operations that may come next: asked for before any unfinished one had returned, and with
/// an answer that fits.
fn candidates(operations: &[Operation], done: &[u64], value: u64) -> Vec<(usize, u64)> {
    let left = || {
        let numbered = operations.iter().enumerate();
        numbered.filter(|(at, _)| !is_set(done, *at))
    };
    let first_return = left().filter_map(|(_, operation)| operation.returned).min();
    let may = left().filter(|(_, operation)| {
        first_return.is_none_or(|first_return| operation.invoked <= first_return)
    });
    let fits = may.filter_map(|(at, operation)| match operation.action {
        Action::Swap { new, old } if old.is_none_or(|old| old == value) => Some((at, new)),
        Action::Get { value: read } if read == value => Some((at, value)),
        _ => None,
    });
    fits.collect()
}

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64)
        .is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swap(new: u64, old: Option<u64>, invoked: u64, returned: Option<u64>) -> Operation {
        Operation {
            key: 1,
            action: Action::Swap { new, old },
            invoked,
            returned,
        }
    }

    fn get(value: u64, invoked: u64, returned: u64) -> Operation {
        Operation {
            key: 1,
            action: Action::Get { value },
            invoked,
            returned: Some(returned),
        }
    }

    #[test]
    fn operations_at_the_same_time_may_have_any_order() {
        let history = [
            swap(5, Some(6), 1, Some(10)),
            swap(6, Some(0), 2, Some(9)),
            get(5, 11, 12),
        ];
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn a_read_of_an_overwritten_value_is_found() {
        let history = [
            swap(5, Some(0), 1, Some(2)),
            swap(6, Some(5), 3, Some(4)),
            get(5, 5, 6),
        ];
        assert!(check(&history).is_err());
    }

    #[test]
    fn an_operation_without_an_answer_may_have_happened_late_or_never() {
        let open = swap(7, None, 1, None);
        let late = [open, get(0, 2, 3), get(7, 4, 5)];
        let never = [open, get(0, 2, 3), get(0, 4, 5)];
        let both = [open, get(7, 2, 3), get(0, 4, 5)];
        assert_eq!(check(&late), Ok(()));
        assert_eq!(check(&never), Ok(()));
        assert!(check(&both).is_err());
    }

    #[test]
    fn an_answer_of_somebody_else_is_found() {
        let history = [swap(5, Some(6), 1, Some(2)), swap(6, Some(5), 1, Some(2))];
        assert!(check(&history).is_err());
    }

    #[test]
    fn keys_are_searched_apart() {
        let mut other = get(9, 1, 2);
        other.key = 2;
        let Err((key, _)) = check(&[get(0, 1, 2), other]) else {
            panic!("a value that nobody wrote was read");
        };
        assert_eq!(key, 2);
    }
}
