//! What is wrong with a store, in plain words; what can be done about it.

mod group;
mod store;

use raft_rocks::tools::View;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::mend::{Mend, Step};
use crate::survey::Survey;

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// For programs; listed in docs/operations.md.
    pub code: &'static str,
    pub group: Option<u64>,
    /// The key or file.
    pub at: String,
    pub expected: String,
    pub found: String,
    /// What a sound store keeps.
    pub invariant: &'static str,
    /// What it means for the cluster.
    pub meaning: &'static str,
}

impl Finding {
    /// In one line.
    pub fn line(&self) -> String {
        let group = self
            .group
            .map_or(String::new(), |id| format!("group {id}: "));
        format!(
            "{group}{} [{}]: expected {}, found {}",
            self.at, self.code, self.expected, self.found
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "code": self.code,
            "group": self.group,
            "at": self.at,
            "expected": self.expected,
            "found": self.found,
            "invariant": self.invariant,
            "meaning": self.meaning,
        })
    }
}

/// The way back for the store as a whole, before its groups are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreMend {
    Nothing,
    /// Name this MANIFEST in `CURRENT`: nothing is forgotten.
    WriteCurrent(String),
    /// Go on with what is left. What that is, in words.
    AcceptLoss(String),
    /// There is none, and why.
    None(String),
}

/// Everything that is known of a store.
pub struct Verdict {
    pub findings: Vec<Finding>,
    pub store: StoreMend,
    /// Of each group that has something to mend.
    pub groups: Vec<(u64, Mend)>,
    pub exit: Exit,
}

impl Verdict {
    /// Judges a store by what was read of it.
    pub fn of(view: &View, surveys: &[Survey]) -> Verdict {
        let (mut findings, store) = store::judge(view);
        let mut groups = Vec::new();
        for survey in surveys {
            let found = group::judge(survey);
            if !found.is_empty() {
                groups.push((survey.states.group, Mend::of(survey)));
            }
            findings.extend(found);
        }
        let exit = exit(view, &store, &groups);
        Verdict {
            findings,
            store,
            groups,
            exit,
        }
    }

    /// Why the store cannot be mended, if so.
    pub fn hopeless(&self) -> Vec<String> {
        let store = match &self.store {
            StoreMend::None(why) => Some(format!("the store: {why}")),
            _ => None,
        };
        let groups = self.groups.iter().filter_map(|(id, mend)| match mend {
            Mend::None(why) => Some(format!("group {id}: {why}")),
            Mend::Steps(_) => None,
        });
        store.into_iter().chain(groups).collect()
    }

    /// What would be done to the records of its groups.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.groups.iter().flat_map(|(_, mend)| match mend {
            Mend::Steps(steps) => steps.as_slice(),
            Mend::None(_) => &[],
        })
    }

    /// Everything that a repair would do, and whether it forgets something.
    pub fn plan(&self) -> Vec<(String, bool)> {
        let store = match &self.store {
            StoreMend::Nothing | StoreMend::None(_) => None,
            StoreMend::WriteCurrent(manifest) => {
                Some((format!("write CURRENT anew: it named {manifest}"), false))
            }
            StoreMend::AcceptLoss(what) => Some((what.clone(), true)),
        };
        let steps = self.steps();
        let steps =
            steps.map(|step| (format!("group {}: {}", step.group, step.what), step.forgets));
        store.into_iter().chain(steps).collect()
    }

    /// Whether what a repair does forgets something that was acknowledged.
    pub fn forgets(&self) -> bool {
        self.plan().iter().any(|(_, forgets)| *forgets)
    }

    pub fn json(&self) -> Value {
        let plan = self.plan().into_iter();
        let plan = plan.map(|(what, forgets)| json!({"what": what, "forgets": forgets}));
        json!({
            "exit_code": self.exit as u8,
            "findings": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "repair": {
                "steps": plan.collect::<Vec<_>>(),
                "impossible_because": self.hopeless(),
            },
        })
    }
}

fn exit(view: &View, store: &StoreMend, groups: &[(u64, Mend)]) -> Exit {
    let of_store = match store {
        StoreMend::Nothing => Exit::Sound,
        StoreMend::WriteCurrent(_) => Exit::Damaged,
        StoreMend::AcceptLoss(_) => Exit::Lost,
        StoreMend::None(_) => view.refusal().map_or(Exit::Lost, Exit::of),
    };
    let of_groups = groups.iter().map(|(_, mend)| match mend {
        Mend::Steps(steps) if !steps.is_empty() && steps.iter().all(|step| !step.forgets) => {
            Exit::Damaged
        }
        _ => Exit::Lost,
    });
    of_groups.fold(of_store, Exit::max)
}
