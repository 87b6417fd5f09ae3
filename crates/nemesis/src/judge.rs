//! Whether what clients saw can be.
//!
//! Three things are looked at when everything runs again: every acknowledged write is there;
//! every node that answers reads says the same; and the operations on each key, these last reads
//! included, can have happened one after the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use raft_rocks::testing::linearizability::{Operation, Verdict, check_within};
use redis::aio::MultiplexedConnection;

use crate::history::{Action, Outcome, Recorder, State};
use crate::load::{is_kept, name, said};
use crate::{admin, until};

/// Configurations that are remembered for a key; beyond, its history counts as not judged.
const CONFIGURATIONS_MAX: usize = 2_000_000;
/// Keys that are asked for at once.
const KEYS_OF_LOOK: usize = 100;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Acknowledged writes that are not there.
    pub lost: Vec<String>,
    /// Keys whose history cannot be.
    pub nonlinearizable: Vec<String>,
    /// Keys of which it was not found out.
    pub undecided: Vec<String>,
}

impl Findings {
    /// Whether there is nothing to be said.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.nonlinearizable.is_empty() && self.undecided.is_empty()
    }

    /// All of it.
    pub fn lines(&self) -> Vec<String> {
        let all = [&self.lost, &self.nonlinearizable, &self.undecided];
        all.into_iter().flatten().cloned().collect()
    }
}

/// Reads everything back, of each node, and judges the history.
///
/// # Errors
/// Nobody answers.
pub async fn judge(recorder: &Recorder, prefix: &str, nodes: &[SocketAddr]) -> Result<Findings> {
    let mut findings = Findings::default();
    let mut answered = 0;
    for (at, node) in nodes.iter().enumerate() {
        if read_keys(recorder, prefix, *node).await? {
            answered += 1;
            let context = || format!("reading back from node {}", at + 1);
            let lost = lost_puts(recorder, *node).await.with_context(context)?;
            findings.lost.extend(lost);
        }
    }
    // What is lost is missing on every node, or on one.
    findings.lost.sort_unstable();
    findings.lost.dedup();
    anyhow::ensure!(answered > 0, "no node answers reads");
    let operations = recorder.operations();
    findings.lost.extend(lost_additions(&operations, prefix));
    // Checked beside the runtime: it may take long.
    let verdict = tokio::task::spawn_blocking(move || {
        let verdict = check_within(&operations, CONFIGURATIONS_MAX);
        (verdict, operations)
    });
    match verdict.await?.0 {
        Verdict::Linearizable => {}
        Verdict::Undecided(key) => {
            let found = format!("{}: not judged, too many ways", name(prefix, key));
            findings.undecided.push(found);
        }
        Verdict::Violated(key, own) => {
            let mut found = format!("{}: no order explains", name(prefix, key));
            for operation in &own {
                found.push_str(&format!("\n    {}", shown(operation)));
            }
            findings.nonlinearizable.push(found);
        }
    }
    Ok(findings)
}

/// An operation, on a line.
pub fn shown(operation: &Operation<Action>) -> String {
    let returned = match operation.returned {
        Some(returned) => format!("{:.3}", returned as f64 / 1e6),
        None => "never".to_owned(),
    };
    let invoked = operation.invoked as f64 / 1e6;
    format!("{invoked:.3} to {returned} ms: {:?}", operation.action)
}

async fn connected(node: SocketAddr) -> Result<MultiplexedConnection> {
    let connect = || async { admin::connect(node, PATIENCE).await.ok() };
    until("a connection to read back", connect).await
}

/// Reads every key of the history through this node, as part of it; whether the node answers
/// reads: one that does not lead may be told not to.
async fn read_keys(recorder: &Recorder, prefix: &str, node: SocketAddr) -> Result<bool> {
    let mut keys: Vec<u64> = recorder.operations().iter().map(|of| of.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut connection = connected(node).await?;
    for key in keys {
        let name = name(prefix, key);
        let invoked = recorder.now();
        match admin::ask::<Option<String>>(&mut connection, &["GET", &name]).await {
            Ok(value) => {
                let seen = Action::Get(value.map(Into::into));
                recorder.ended(key, invoked, Outcome::Done(seen));
            }
            Err(e) if said(&e).starts_with("TRY ") => return Ok(false),
            Err(e) => return Err(e).with_context(|| format!("reading {name} back")),
        }
    }
    Ok(true)
}

/// Keys that are written once and are not there, or hold something else.
async fn lost_puts(recorder: &Recorder, node: SocketAddr) -> Result<Vec<String>> {
    let mut connection = connected(node).await?;
    let mut lost = Vec::new();
    for puts in recorder.puts().chunks(KEYS_OF_LOOK) {
        let mut words = vec!["MGET"];
        words.extend(puts.iter().map(|(key, _)| key.as_str()));
        let found: Vec<Option<String>> = admin::ask(&mut connection, &words).await?;
        for ((key, value), found) in puts.iter().zip(&found) {
            if found.as_ref() != Some(value) {
                lost.push(format!(
                    "{key}: {value} was acknowledged, {found:?} is there"
                ));
            }
        }
    }
    Ok(lost)
}

/// Acknowledged increments and appended tokens that the last read does not show.
fn lost_additions(operations: &[Operation<Action>], prefix: &str) -> Vec<String> {
    let mut last: BTreeMap<u64, &State> = BTreeMap::new();
    for operation in operations.iter().filter(|of| is_kept(of.key)) {
        if let Action::Get(state) = &operation.action {
            last.insert(operation.key, state);
        }
    }
    let mut lost = Vec::new();
    for (key, state) in last {
        let name = name(prefix, key);
        let held = state.as_deref().unwrap_or_default();
        let own = operations
            .iter()
            .filter(|of| of.key == key && of.returned.is_some());
        let mut increments = 0_i64;
        for operation in own {
            match &operation.action {
                Action::Increment(_) => increments += 1,
                Action::Append(token, _) if !held.contains(token.as_ref()) => {
                    lost.push(format!("{name}: {token} was appended and is not there"));
                }
                _ => {}
            }
        }
        let sum = held.parse().unwrap_or(0);
        if increments > sum {
            lost.push(format!("{name}: {increments} increments, and it is {sum}"));
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(key: u64, action: Action, at: u64) -> Operation<Action> {
        Operation {
            key,
            action,
            invoked: at,
            returned: Some(at + 1),
        }
    }

    #[test]
    fn an_acknowledged_addition_that_is_not_there_is_lost() {
        let history = |sum: &str, list: &str| {
            [
                done(2, Action::Increment(Some(1)), 1),
                done(2, Action::Increment(Some(2)), 3),
                done(4, Action::Append("a,".into(), Some(2)), 5),
                done(2, Action::Get(Some(sum.into())), 7),
                done(4, Action::Get(Some(list.into())), 9),
            ]
        };
        assert_eq!(lost_additions(&history("2", "a,"), "t"), [""; 0]);
        assert_eq!(lost_additions(&history("1", "a,"), "t").len(), 1);
        assert_eq!(lost_additions(&history("2", "b,"), "t").len(), 1);
    }

    #[test]
    fn what_commands_do_is_known() {
        let history = [
            done(0, Action::Set("x".into()), 1),
            done(0, Action::Append("y".into(), Some(2)), 3),
            done(0, Action::Get(Some("xy".into())), 5),
            done(0, Action::Delete(Some(1)), 7),
            done(0, Action::Delete(Some(0)), 9),
            done(0, Action::Increment(Some(1)), 11),
            done(0, Action::Get(Some("1".into())), 13),
        ];
        assert_eq!(check_within(&history, 100), Verdict::Linearizable);
        for at in [1, 2, 3, 4, 5, 6] {
            let mut wrong = history.clone();
            if let Some(operation) = wrong.get_mut(at) {
                operation.action = match &operation.action {
                    Action::Append(token, _) => Action::Append(token.clone(), Some(7)),
                    Action::Get(_) => Action::Get(None),
                    Action::Delete(_) => Action::Delete(Some(7)),
                    _ => Action::Increment(Some(7)),
                };
            }
            let verdict = check_within(&wrong, 100);
            assert!(matches!(verdict, Verdict::Violated(0, _)), "{at}");
        }
    }
}
