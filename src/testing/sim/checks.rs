//! What must hold after every step of a simulation.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use raft::eraftpb::{ConfState, Entry};

/// A broken rule, by its name, and what was seen.
pub(crate) type Broken = (&'static str, String);

#[derive(Default)]
pub(crate) struct Checks {
    /// Who led in each term.
    leaders: HashMap<u64, u64>,
    /// Whom each node has voted for in each term, as far as it has said so.
    votes: HashMap<(u64, u64), u64>,
    /// The content of every entry ever written, and the term of the one before it.
    entries: HashMap<(u64, u64), (Option<u64>, u64)>,
    /// Term and content of every committed entry, and a term in which it was known to be.
    committed: BTreeMap<u64, (u64, u64, u64)>,
    /// The configuration from each change on.
    configurations: BTreeMap<u64, ConfState>,
    /// The machine's hash after each command.
    histories: HashMap<u64, u64>,
}

fn content(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", entry.get_entry_type()).hash(&mut hasher);
    entry.data[..].hash(&mut hasher);
    entry.context[..].hash(&mut hasher);
    hasher.finish()
}

/// The parts of a configuration, in an order of their own.
pub(crate) fn sorted(conf_state: &ConfState) -> ConfState {
    let parts = [
        conf_state.get_voters(),
        conf_state.get_learners(),
        conf_state.get_voters_outgoing(),
        conf_state.get_learners_next(),
    ];
    let [voters, learners, outgoing, next] = parts.map(|part| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    });
    let mut sorted = ConfState::default();
    sorted.set_voters(voters);
    sorted.set_learners(learners);
    sorted.set_voters_outgoing(outgoing);
    sorted.set_learners_next(next);
    sorted.auto_leave = conf_state.auto_leave;
    sorted
}

impl Checks {
    /// Election safety: one leader per term.
    pub(crate) fn leads(&mut self, id: u64, term: u64) -> Result<(), Broken> {
        let first = *self.leaders.entry(term).or_insert(id);
        match first == id {
            true => Ok(()),
            false => Err((
                "election safety",
                format!("both {first} and {id} lead in term {term}"),
            )),
        }
    }

    /// One vote per term: over crashes too.
    pub(crate) fn votes(&mut self, id: u64, term: u64, candidate: u64) -> Result<(), Broken> {
        let first = *self.votes.entry((id, term)).or_insert(candidate);
        match first == candidate {
            true => Ok(()),
            false => Err((
                "one vote per term",
                format!("{id} votes for {first} and for {candidate} in term {term}"),
            )),
        }
    }

    /// Leader completeness: who leads has everything that was committed in an earlier term.
    pub(crate) fn is_complete(
        &self,
        id: u64,
        own_term: u64,
        first: u64,
        term_of: impl Fn(u64) -> Option<u64>,
    ) -> Result<(), Broken> {
        for (&index, &(term, _, known_in)) in self.committed.range(first..).rev().take(200) {
            let found = term_of(index);
            if found != Some(term) && known_in < own_term {
                let seen = format!("{id} leads and has {found:?} at {index}, committed in {term}");
                return Err(("leader completeness", seen));
            }
        }
        Ok(())
    }

    /// Log matching: what has one index and term is one entry, behind one entry.
    pub(crate) fn written(
        &mut self,
        id: u64,
        entry: &Entry,
        before: Option<u64>,
    ) -> Result<(), Broken> {
        let content = content(entry);
        let key = (entry.index, entry.term);
        let seen = self.entries.entry(key).or_insert((before, content));
        let fits = seen.1 == content && (before.is_none() || seen.0.is_none() || seen.0 == before);
        seen.0 = seen.0.or(before);
        match fits {
            true => Ok(()),
            false => Err((
                "log matching",
                format!("{id} has another entry at index and term {key:?}, or another before it"),
            )),
        }
    }

    /// Entries that need not be the same when they come again.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(u64, u64) -> bool) {
        self.entries
            .retain(|&(index, term), _| !is_gone(index, term));
    }

    /// State-machine safety: one entry is committed at each index. Whether it is the first time.
    pub(crate) fn commits(&mut self, id: u64, entry: &Entry, in_term: u64) -> Result<bool, Broken> {
        let own = (entry.term, content(entry));
        match self.committed.get(&entry.index) {
            None => {
                let committed = (own.0, own.1, in_term);
                self.committed.insert(entry.index, committed);
                Ok(true)
            }
            Some(known) if (known.0, known.1) == own => Ok(false),
            Some(known) => Err((
                "state-machine safety",
                format!(
                    "{id} hands out term {} at {}, committed in {}",
                    entry.term, entry.index, known.0
                ),
            )),
        }
    }

    /// The configuration follows from the log.
    pub(crate) fn changes(
        &mut self,
        id: u64,
        index: u64,
        conf_state: &ConfState,
    ) -> Result<(), Broken> {
        let own = sorted(conf_state);
        let known = self.configurations.entry(index).or_insert(own.clone());
        match *known == own {
            true => Ok(()),
            false => Err((
                "one configuration per index",
                format!("{id} comes to {own:?} at {index}, others to {known:?}"),
            )),
        }
    }

    /// The configurations that the last two changes up to `index` led to.
    pub(crate) fn last_two(&self, index: u64) -> impl Iterator<Item = &ConfState> {
        let known = self.configurations.range(..=index).rev();
        known.map(|(_, conf_state)| conf_state).take(2)
    }

    /// The configuration kept with an applied index is the one of that index.
    pub(crate) fn keeps(
        &self,
        id: u64,
        applied: u64,
        conf_state: &ConfState,
    ) -> Result<(), Broken> {
        let Some((_, expected)) = self.configurations.range(..=applied).next_back() else {
            return Ok(());
        };
        let own = sorted(conf_state);
        match *expected == own {
            true => Ok(()),
            false => Err((
                "the configuration at the applied index",
                format!("{id} has {own:?} at {applied}, not {expected:?}"),
            )),
        }
    }

    /// One history: every machine has come the same way.
    pub(crate) fn applies(&mut self, id: u64, index: u64, history: u64) -> Result<(), Broken> {
        let known = *self.histories.entry(index).or_insert(history);
        match known == history {
            true => Ok(()),
            false => Err((
                "one history",
                format!("the machine of {id} has another history at {index}"),
            )),
        }
    }

    pub(crate) fn last_committed(&self) -> u64 {
        self.committed.keys().next_back().copied().unwrap_or(0)
    }
}

/// Whether those for whom `has` holds are a quorum of a configuration, of both of its halves if
/// it is joint.
pub(crate) fn is_quorum(conf_state: &ConfState, has: impl Fn(u64) -> bool) -> bool {
    let halves = [conf_state.get_voters(), conf_state.get_voters_outgoing()];
    halves.iter().all(|voters| {
        let having = voters.iter().filter(|id| has(**id)).count();
        voters.is_empty() || having > voters.len() / 2
    })
}
