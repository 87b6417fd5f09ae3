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
use std::hash::Hash;

/// Something that is done to one key, with what was seen.
pub trait Step: Clone + PartialEq {
    /// What a key holds; the default before anything was done to it.
    type State: Clone + Default + Eq + Hash;

    /// What the key holds afterwards; `None` when what was seen does not fit.
    fn step(&self, state: &Self::State) -> Option<Self::State>;
}

/// What was done to one register, and what was seen.
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

impl Step for Action {
    type State = u64;

    fn step(&self, state: &u64) -> Option<u64> {
        match *self {
            Action::Swap { new, old } => old.is_none_or(|old| old == *state).then_some(new),
            Action::Get { value } => (value == *state).then_some(value),
        }
    }
}

/// One operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<A = Action> {
    /// On which key.
    pub key: u64,
    /// What.
    pub action: A,
    /// When the client asked.
    pub invoked: u64,
    /// When it had the answer; `None`: never, and it may take effect at any later time, or not
    /// at all.
    pub returned: Option<u64>,
}

/// The value of a key that has not been written.
pub const UNWRITTEN: u64 = 0;

/// Whether a history can have happened one operation after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<A = Action> {
    /// It can.
    Linearizable,
    /// It cannot: the first such key, with its history in order of invocation.
    Violated(u64, Vec<Operation<A>>),
    /// The search of this key met more configurations than it was allowed to.
    Undecided(u64),
}

/// The keys whose histories cannot have happened one after the other.
///
/// # Errors
/// The first such key, with its history in order of invocation.
pub fn check<A: Step>(history: &[Operation<A>]) -> Result<(), (u64, Vec<Operation<A>>)> {
    match check_within(history, usize::MAX) {
        Verdict::Violated(key, own) => Err((key, own)),
        Verdict::Linearizable | Verdict::Undecided(_) => Ok(()),
    }
}

/// As [`check`], with at most this many configurations remembered for a key: a history with many
/// operations that were never answered may have more than fit memory.
pub fn check_within<A: Step>(history: &[Operation<A>], configurations_max: usize) -> Verdict<A> {
    let mut keys: Vec<u64> = history.iter().map(|operation| operation.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut undecided = None;
    for key in keys {
        let own = history.iter().filter(|operation| operation.key == key);
        let mut own: Vec<Operation<A>> = own.cloned().collect();
        own.sort_by_key(|operation| operation.invoked);
        match is_linearizable(&own, configurations_max) {
            Some(true) => {}
            Some(false) => return Verdict::Violated(key, own),
            None => undecided = undecided.or(Some(key)),
        }
    }
    undecided.map_or(Verdict::Linearizable, Verdict::Undecided)
}

/// Those that are done, as bits, and the state they led to.
type Configuration<S> = (Vec<u64>, S);

/// `None`: not found out.
fn is_linearizable<A: Step>(
    operations: &[Operation<A>],
    configurations_max: usize,
) -> Option<bool> {
    let must = operations
        .iter()
        .filter(|operation| operation.returned.is_some())
        .count();
    let words = operations.len().div_ceil(64);
    let mut seen: HashSet<Configuration<A::State>> = HashSet::new();
    let mut pending = vec![((vec![0; words], A::State::default()), 0)];
    while let Some(((done, state), finished)) = pending.pop() {
        if finished == must {
            return Some(true);
        }
        if seen.len() > configurations_max {
            return None;
        }
        for (at, returned, next_state) in candidates(operations, &done, &state) {
            let mut done = done.clone();
            set(&mut done, at);
            let next = (done, next_state);
            if seen.insert(next.clone()) {
                pending.push((next, finished + usize::from(returned)));
            }
        }
    }
    Some(false)
}

/// The operations that may come next, and whether they were answered: asked for before any
/// unfinished one had returned, and with an answer that fits. The last is tried first.
///
/// Of those that were never answered and are the same, only the one that was asked for first
/// counts: it may stand wherever a later one may. They are tried last, since most of them did not
/// happen where nobody saw it.
fn candidates<A: Step>(
    operations: &[Operation<A>],
    done: &[u64],
    state: &A::State,
) -> Vec<(usize, bool, A::State)> {
    let left = || {
        let numbered = operations.iter().enumerate();
        numbered.filter(|(at, _)| !is_set(done, *at))
    };
    let first_return = left().filter_map(|(_, operation)| operation.returned).min();
    // They are in order of invocation.
    let may = left().take_while(|(_, operation)| {
        first_return.is_none_or(|first_return| operation.invoked <= first_return)
    });
    let mut open: Vec<&A> = Vec::new();
    let (mut answered, mut unanswered) = (Vec::new(), Vec::new());
    for (at, operation) in may {
        let returned = operation.returned.is_some();
        if !returned {
            if open.contains(&&operation.action) {
                continue;
            }
            open.push(&operation.action);
        }
        let Some(next) = operation.action.step(state) else {
            continue;
        };
        match returned {
            true => answered.push((at, true, next)),
            // It changes nothing, or nothing yet.
            false if next == *state => {}
            false => unanswered.push((at, false, next)),
        }
    }
    answered.reverse();
    unanswered.append(&mut answered);
    unanswered
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
    fn the_same_without_answers_may_have_happened_as_often_as_they_were_asked_for() {
        let open = |invoked| swap(7, None, invoked, None);
        let back = |invoked, old| swap(0, Some(old), invoked, Some(invoked + 1));
        let mut history: Vec<Operation> = (1..=20).map(open).collect();
        history.extend((0..20).map(|n| back(100 + 2 * n, 7)));
        assert_eq!(check(&history), Ok(()));
        history.push(back(200, 7));
        assert!(check(&history).is_err());
    }

    #[test]
    fn different_operations_without_answers_may_have_any_order() {
        let open = [swap(7, None, 1, None), swap(8, None, 2, None)];
        for (first, then) in [(7, 8), (8, 7)] {
            let seen = [get(first, 3, 4), get(then, 5, 6)];
            assert_eq!(check(&[&open[..], &seen].concat()), Ok(()));
        }
    }

    #[test]
    fn a_search_that_grows_too_far_says_so() {
        let mut history: Vec<Operation> = (1..=20).map(|new| swap(new, None, new, None)).collect();
        history.push(get(99, 100, 101));
        assert_eq!(check_within(&history, 100), Verdict::Undecided(1));
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
