//! `doctor`: what is wrong, what it means for the cluster, and what can be done.

use anyhow::Result;
use serde_json::{Value, json};

use super::read::{Reading, print_json};
use crate::args::{Common, Store};
use crate::exit::Exit;
use crate::verdict::{Finding, Verdict};

const REPLACE: &str = "replace the node: remove it from the cluster, and add a new one with a new \
                       id and an empty directory, as a learner. A cluster with a majority of \
                       healthy nodes loses nothing by that";
const BACKUP: &str = "restore a backup into a new directory (`raft-rocks-ctl restore`), and start a \
                      new node with a new id on it, as a learner: it has less to catch up with";
const ACCEPT: &str = "accept the loss (`raft-rocks-ctl repair --yes --accept-loss`), if this is the \
                      only node of its cluster, or if a majority of its nodes is gone for good. The \
                      node may then vote twice, and lack what the cluster counts on";
const MEND: &str = "mend it (`raft-rocks-ctl repair --yes`): nothing is forgotten";

pub fn run(common: &Common, store: &Store) -> Result<Exit> {
    let reading = Reading::open(common, &store.dir)?;
    let (_, verdict) = reading.judge()?;
    if common.json {
        let mut document = verdict.json();
        if let Value::Object(fields) = &mut document {
            fields.insert("choices".to_owned(), json!(choices(&verdict)));
        }
        print_json(&document)?;
    } else {
        print(&verdict)?;
    }
    Ok(verdict.exit)
}

fn print(verdict: &Verdict) -> Result<()> {
    if verdict.findings.is_empty() {
        say!("The store is sound: a node on it can be started.");
        return Ok(());
    }
    say!("Do not start a node on this store.");
    for finding in &verdict.findings {
        print_finding(finding)?;
    }
    for why in verdict.hopeless() {
        say!("\nIt cannot be mended. {why}.");
    }
    let plan = verdict.plan();
    if verdict.hopeless().is_empty() {
        say!("\nA repair would:");
        for (what, forgets) in plan {
            let mark = if forgets {
                " (forgets what was acknowledged)"
            } else {
                ""
            };
            say!("  - {what}{mark}");
        }
    }
    say!("\nChoices, the best one first:");
    for (number, choice) in choices(verdict).iter().enumerate() {
        say!("  {}. {choice}.", number + 1);
    }
    Ok(())
}

fn print_finding(finding: &Finding) -> Result<()> {
    say!("\n{}", finding.line());
    say!("  The rule: {}.", finding.invariant);
    say!("  What it means: {}.", finding.meaning);
    Ok(())
}

fn choices(verdict: &Verdict) -> Vec<&'static str> {
    let is_hopeless = !verdict.hopeless().is_empty();
    match verdict.exit {
        Exit::Sound => vec!["start the node"],
        Exit::Newer => vec!["run the version of raft-rocks that wrote it, or a newer one"],
        Exit::Damaged => vec![MEND, REPLACE],
        _ => {
            let mut choices = Vec::new();
            if let Some(special) = verdict
                .findings
                .iter()
                .find_map(|finding| special(finding.code))
            {
                choices.push(special);
            }
            choices.extend([REPLACE, BACKUP]);
            if !is_hopeless {
                choices.push(ACCEPT);
            }
            choices
        }
    }
}

/// What heals one kind of damage without any loss.
fn special(code: &str) -> Option<&'static str> {
    match code {
        "witness-missing" => Some(
            "if this is a copy of a closed store in which the file `witness` was forgotten, copy \
             it too",
        ),
        "witness-foreign" => Some("put the witness of this store back, if it was mixed up"),
        "snapshot-file" => Some(
            "put the snapshot file back from a backup of this store that has one of the same name",
        ),
        _ => None,
    }
}
