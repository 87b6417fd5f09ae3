//! `verify`: reads everything and says what does not hold.

use anyhow::Result;
use serde_json::{Value, json};

use super::read::{Reading, print_json};
use crate::args::{Common, Store};
use crate::exit::Exit;
use crate::survey::Survey;

pub fn run(common: &Common, store: &Store) -> Result<Exit> {
    let reading = Reading::open(common, &store.dir)?;
    let (surveys, verdict) = reading.judge()?;
    if common.json {
        let mut document = verdict.json();
        if let Value::Object(fields) = &mut document {
            let groups = surveys.iter().map(group).collect::<Vec<_>>();
            fields.insert("groups".to_owned(), groups.into());
        }
        print_json(&document)?;
        return Ok(verdict.exit);
    }
    for survey in &surveys {
        say!(
            "group {}: {} entries read, {} bytes",
            survey.states.group,
            survey.log.entries,
            survey.log.bytes
        );
    }
    for finding in &verdict.findings {
        say!("{}", finding.line());
    }
    let left_out: u64 = surveys
        .iter()
        .map(|survey| survey.log.problems_left_out)
        .sum();
    if left_out > 0 {
        say!("and {left_out} more places");
    }
    match verdict.exit {
        Exit::Sound => say!("sound"),
        _ => {
            eprintln!("not sound: `raft-rocks-ctl doctor` says what it means and what can be done")
        }
    }
    Ok(verdict.exit)
}

fn group(survey: &Survey) -> Value {
    json!({
        "group": survey.states.group,
        "entries": survey.log.entries,
        "bytes": survey.log.bytes,
        "sound": survey.refusal.is_none(),
        "problems_left_out": survey.log.problems_left_out,
    })
}
