//! `dump`: states and entries as they stand, damaged ones named.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use raft_rocks::Error;
use raft_rocks::keys::{self, Key};
use raft_rocks::record::{self, EntryView};
use serde_json::{Value, json};

use super::inspect::{print, states_json};
use super::read::{Reading, hex};
use crate::args::{Common, Data, DumpArgs};
use crate::exit::Exit;
use crate::survey::States;

pub fn run(common: &Common, args: &DumpArgs) -> Result<Exit> {
    let reading = Reading::open(common, &args.store.dir)?;
    let mut exit = reading.view.refusal().map_or(Exit::Sound, Exit::of);
    if let Some(refusal) = reading.view.refusal() {
        eprintln!("raft-rocks-ctl: an open refuses this store: {refusal}");
    }
    for group in reading.groups() {
        if !args.group.is_empty() && !args.group.contains(&group) {
            continue;
        }
        let states = States::read(&reading.view, group)?;
        let document = states_json(&states);
        if common.json {
            say!("{document}");
        } else {
            print(&document, 0)?;
        }
        if !args.metadata && !entries(common, args, &reading, group)? {
            exit = exit.max(Exit::Lost);
        }
    }
    Ok(exit)
}

/// Prints the entries of a group; whether all of them were sound.
fn entries(common: &Common, args: &DumpArgs, reading: &Reading, group: u64) -> Result<bool> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut is_sound = true;
    let high = match args.to {
        u64::MAX => keys::entries_end(group),
        to => keys::entry(group, to),
    };
    let mut written = Ok(());
    let scanned = reading
        .view
        .scan(&keys::entry(group, args.from), &high, |key, value| {
            let (document, is_whole) = entry(group, key, value, args.data);
            is_sound &= is_whole;
            written = if common.json {
                writeln!(out, "{document}")
            } else {
                writeln!(out, "{}", line(&document))
            };
            Ok(match written {
                Ok(()) => ControlFlow::Continue(()),
                // Whoever reads has seen enough.
                Err(_) => ControlFlow::Break(()),
            })
        });
    match written.and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            return Err(e).context("writing to stdout");
        }
        _ => {}
    }
    match scanned {
        Ok(()) => Ok(is_sound),
        Err(e @ (Error::Rocks { .. } | Error::Corruption { .. })) => {
            eprintln!("raft-rocks-ctl: group {group}: {e}");
            Ok(false)
        }
        Err(e) => Err(e.into()),
    }
}

fn entry(group: u64, key: &[u8], value: &[u8], data: Data) -> (Value, bool) {
    let Some(Key::Entry(_, index)) = keys::parse(key) else {
        let damage = "no key of a group";
        return (
            json!({"group": group, "key": keys::display(key), "damaged": damage}),
            false,
        );
    };
    match record::view_entry(group, index, value) {
        Ok(view) => (sound(group, index, &view, data), true),
        Err(damage) => {
            let why = format!("{} where {} was expected", damage.found, damage.expected);
            (
                json!({"group": group, "index": index, "damaged": why, "bytes": value.len()}),
                false,
            )
        }
    }
}

fn sound(group: u64, index: u64, view: &EntryView<'_>, data: Data) -> Value {
    let shown = |bytes: &[u8]| match data {
        Data::Text => {
            String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| bytes.escape_ascii().to_string())
        }
        Data::Hex => hex(bytes),
        Data::None => String::new(),
    };
    json!({
        "group": group,
        "index": index,
        "term": view.term,
        "type": format!("{:?}", view.entry_type),
        "bytes": view.data.len(),
        "data": shown(view.data),
        "context": shown(view.context),
    })
}

fn line(entry: &Value) -> String {
    let field = |name: &str| match entry.get(name) {
        Some(Value::String(text)) => text.escape_debug().to_string(),
        Some(other) => other.to_string(),
        None => "?".to_owned(),
    };
    if entry.get("damaged").is_some() {
        return format!(
            "{} {} damaged: {}",
            field("group"),
            field("index"),
            field("damaged")
        );
    }
    format!(
        "{} {} term {} {} {} bytes {} {}",
        field("group"),
        field("index"),
        field("term"),
        field("type"),
        field("bytes"),
        field("data"),
        field("context")
    )
}
