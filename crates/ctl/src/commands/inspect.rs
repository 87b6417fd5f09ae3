//! `inspect`: what a store is and what its states say, without reading its log.

use std::fs;
use std::path::Path;

use anyhow::Result;
use raft_rocks::keys;
use raft_rocks::record;
use raft_rocks::tools::View;
use serde_json::{Value, json};

use super::read::{Reading, hex, print_json};
use crate::args::{Common, Store};
use crate::exit::Exit;
use crate::survey::States;

pub fn run(common: &Common, store: &Store) -> Result<Exit> {
    let reading = Reading::open(common, &store.dir)?;
    let mut groups = Vec::new();
    let mut is_damaged = false;
    for group in reading.groups() {
        let states = States::read(&reading.view, group)?;
        is_damaged |= !states.problems().is_empty();
        groups.push(states_json(&states));
    }
    let mut document = of_store(&reading.view, &store.dir);
    if let Value::Object(fields) = &mut document {
        let default = store.dir.join("snapshots");
        let snapshots = common.snapshots.as_deref().unwrap_or(&default);
        fields.insert("snapshot_bytes".to_owned(), bytes_in(snapshots, "").into());
        fields.insert("groups".to_owned(), groups.into());
    }
    if common.json {
        print_json(&document)?;
    } else {
        print(&document, 0)?;
    }
    Ok(match reading.view.refusal() {
        Some(refusal) => Exit::of(refusal),
        None if is_damaged => Exit::Lost,
        None => Exit::Sound,
    })
}

fn of_store(view: &View, dir: &Path) -> Value {
    let format = view.get(keys::FORMAT).ok().flatten();
    let format = format.and_then(|bytes| record::decode_format(&bytes).ok());
    let witness = match view.witness() {
        Ok(None) => Value::Null,
        Ok(Some(witness)) => json!({
            "store_id": hex(&witness.store_id),
            "sequence": witness.sequence,
        }),
        Err(e) => e.to_string().into(),
    };
    let db = dir.join("db");
    json!({
        "store_id": format.as_ref().map(|format| hex(&format.store_id)),
        "format": format.as_ref().map(|format| format.version),
        "opens": view.refusal().is_none(),
        "refused_because": view.refusal().map(ToString::to_string),
        "sequence": view.sequence(),
        "witness": witness,
        "column_families": view.families(),
        "table_bytes": bytes_in(&db, ".sst"),
        "log_bytes": bytes_in(&db, ".log"),
    })
}

/// What a group's records say; what is wrong with one stands in its place.
pub fn states_json(states: &States) -> Value {
    let first = states.first.sound();
    let last = states.last.sound();
    let hard_state = states.hard_state.sound();
    let applied = states.conf_state.sound();
    let conf_state = applied.map(|applied| &applied.conf_state);
    let snapshot = states.snapshot.sound();
    let problems = states.problems().into_iter();
    let problems = problems.map(|(meta, found)| {
        let key = keys::display(&keys::meta(states.group, meta));
        format!("{key}: {found}")
    });
    json!({
        "group": states.group,
        "first_index": first.map(|first| first.first_index),
        "truncated_term": first.map(|first| first.truncated_term),
        "last_index": last.map(|last| last.last_index),
        "last_term": last.map(|last| last.last_term),
        "term": hard_state.map(|state| state.term),
        "vote": hard_state.map(|state| state.vote),
        "commit": hard_state.map(|state| state.commit),
        "uncommit_index": states.uncommit.sound().map(|uncommit| uncommit.uncommit_index),
        "applied": applied.map(|applied| applied.applied),
        "voters": conf_state.map(|conf| &conf.voters),
        "learners": conf_state.map(|conf| &conf.learners),
        "voters_outgoing": conf_state.map(|conf| &conf.voters_outgoing),
        "learners_next": conf_state.map(|conf| &conf.learners_next),
        "snapshot": snapshot.map(|snapshot| json!({
            "index": snapshot.index,
            "term": snapshot.term,
            "file": snapshot.file.as_ref().map(|file| &file.name),
            "bytes": snapshot.file.as_ref().map_or(snapshot.data.len() as u64, |file| file.data_bytes),
        })),
        "problems": problems.collect::<Vec<_>>(),
    })
}

/// The bytes of the files whose name ends so; 0 where there is no directory.
fn bytes_in(dir: &Path, suffix: &str) -> u64 {
    let Ok(listing) = fs::read_dir(dir) else {
        return 0;
    };
    let files = listing
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().ends_with(suffix));
    files
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// A document as lines of names and values.
pub fn print(value: &Value, depth: usize) -> Result<()> {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(_) => {
                        say!("{indent}{name}:");
                        print(value, depth + 1)?;
                    }
                    Value::Array(all) if all.iter().any(Value::is_object) => {
                        say!("{indent}{name}:");
                        for value in all {
                            say!("{indent}  -");
                            print(value, depth + 2)?;
                        }
                    }
                    _ => say!("{indent}{name}: {}", plain(value)),
                }
            }
        }
        other => say!("{indent}{}", plain(other)),
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) => {
            let all: Vec<String> = all.iter().map(plain).collect();
            format!("[{}]", all.join(", "))
        }
        other => other.to_string(),
    }
}
