//! `repair`: does what `doctor` proposes, after an undo copy.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use raft_rocks::tools::{Change, Locked};
use serde_json::{Value, json};

use super::read::{Reading, print_json};
use crate::args::{Common, RepairArgs};
use crate::exit::Exit;
use crate::verdict::{StoreMend, Verdict};

/// What became of it.
enum Outcome {
    /// There was nothing to do.
    Sound,
    /// There is nothing that could be done.
    Impossible,
    /// Only said what would be done.
    DryRun,
    /// Not done: it forgets something, and that was not accepted.
    NotAccepted,
    /// Done; where the undo copy stands.
    Done(PathBuf),
}

pub fn run(common: &Common, args: &RepairArgs) -> Result<Exit> {
    let dir = &args.store.dir;
    let locked = Locked::take(dir).with_context(|| format!("locking {}", dir.display()))?;
    let reading = Reading::of(common, &locked)?;
    let (_, verdict) = reading.judge()?;
    let outcome = if verdict.findings.is_empty() {
        Outcome::Sound
    } else if !verdict.hopeless().is_empty() {
        Outcome::Impossible
    } else if !args.yes {
        Outcome::DryRun
    } else if verdict.forgets() && !args.accept_loss {
        Outcome::NotAccepted
    } else {
        Outcome::Done(mend(args, locked, reading, &verdict)?)
    };
    let exit = match outcome {
        // What it says of itself afterwards counts.
        Outcome::Done(_) => Reading::open(common, dir)?.judge()?.1.exit,
        _ => verdict.exit,
    };
    report(common, &verdict, &outcome, exit)?;
    Ok(exit)
}

/// Does it all; returns where the undo copy stands.
fn mend(args: &RepairArgs, locked: Locked, reading: Reading, verdict: &Verdict) -> Result<PathBuf> {
    let undo = args
        .undo
        .clone()
        .map_or_else(|| undo_dir(&args.store.dir), Ok)?;
    locked
        .copy_to(&undo)
        .context("making the undo copy; nothing was changed")?;
    let changed = || {
        let undo = undo.display();
        format!("the store was changed, perhaps in part; the undo copy is {undo}")
    };
    match &verdict.store {
        StoreMend::WriteCurrent(manifest) => {
            locked.write_current(manifest).with_context(changed)?
        }
        StoreMend::AcceptLoss(_) => locked.accept_loss(&reading.view).with_context(changed)?,
        StoreMend::Nothing | StoreMend::None(_) => {}
    }
    drop(reading);
    let changes: Vec<Change> = verdict
        .steps()
        .flat_map(|step| step.changes.clone())
        .collect();
    let editor = locked.edit().with_context(changed)?;
    if !changes.is_empty() {
        editor.write(&changes).with_context(changed)?;
    }
    Ok(undo)
}

/// Beside the store, with the time in its name.
fn undo_dir(dir: &Path) -> Result<PathBuf> {
    let dir = dir.canonicalize()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut name = dir.into_os_string();
    name.push(format!(".undo-{now}"));
    Ok(name.into())
}

fn report(common: &Common, verdict: &Verdict, outcome: &Outcome, exit: Exit) -> Result<()> {
    let (name, undo) = match outcome {
        Outcome::Sound => ("sound", None),
        Outcome::Impossible => ("impossible", None),
        Outcome::DryRun => ("dry run", None),
        Outcome::NotAccepted => ("not accepted", None),
        Outcome::Done(undo) => ("done", Some(undo.display().to_string())),
    };
    if common.json {
        let mut document = verdict.json();
        if let Value::Object(fields) = &mut document {
            fields.insert("outcome".to_owned(), name.into());
            fields.insert("undo".to_owned(), json!(undo));
            fields.insert("exit_code".to_owned(), (exit as u8).into());
        }
        return print_json(&document);
    }
    let done = matches!(outcome, Outcome::Done(_));
    for (what, forgets) in verdict.plan() {
        let mark = if forgets {
            " (forgets what was acknowledged)"
        } else {
            ""
        };
        say!("{}: {what}{mark}", if done { "done" } else { "to do" });
    }
    for why in verdict.hopeless() {
        say!("impossible: {why}");
    }
    match outcome {
        Outcome::Sound => say!("sound: nothing to do"),
        Outcome::Impossible => {
            eprintln!("Nothing was changed. `doctor` says what can be done instead.")
        }
        Outcome::DryRun => eprintln!("Nothing was changed. With --yes it is done."),
        Outcome::NotAccepted => eprintln!(
            "Nothing was changed: it would forget what this node acknowledged. Read what `doctor` \
             says; --accept-loss does it all the same."
        ),
        Outcome::Done(undo) => {
            eprintln!(
                "The store as it was: {}. To undo, move it into the store's place.",
                undo.display()
            );
        }
    }
    Ok(())
}
