//! What is wrong with a store as a whole.

use raft_rocks::Error;
use raft_rocks::tools::{Current, View};

use super::{Finding, StoreMend};
use crate::exit::Exit;

/// Judges what an open says before it looks at any group.
pub fn judge(view: &View) -> (Vec<Finding>, StoreMend) {
    let Some(refusal) = view.refusal() else {
        return (Vec::new(), StoreMend::Nothing);
    };
    match view.current() {
        Current::Present => (vec![finding(refusal)], mend(view, refusal)),
        Current::Known {
            manifest,
            refusal: None,
        } => (
            vec![finding(refusal)],
            StoreMend::WriteCurrent(manifest.clone()),
        ),
        Current::Known {
            refusal: Some(behind),
            ..
        } => (vec![finding(refusal), finding(behind)], mend(view, behind)),
        Current::Unknown { manifests } => {
            let why =
                format!("CURRENT is missing, and {manifests} files could have been named by it");
            (vec![finding(refusal)], StoreMend::None(why))
        }
        _ => {
            let why = "this version does not know what is wrong with CURRENT".to_owned();
            (vec![finding(refusal)], StoreMend::None(why))
        }
    }
}

/// What is expected of a store, what breaks it and what follows from that.
struct Words {
    code: &'static str,
    invariant: &'static str,
    meaning: &'static str,
}

fn words(error: &Error) -> Words {
    let (code, invariant, meaning) = match error {
        Error::AcknowledgedWritesLost { .. } => (
            "acknowledged-writes-lost",
            "the log reaches as far as the witness says it was synced",
            "votes and entries that this node acknowledged are gone. Under its old id it may vote \
             a second time in a term, and a leader may count on entries that it no longer has: \
             committed entries could be lost with it",
        ),
        Error::Corruption {
            what: "write-ahead log",
            ..
        } => (
            "log-damaged",
            "the write-ahead log is whole and without a hole up to what was synced",
            "everything from the damaged place on is gone: votes and entries that this node \
             acknowledged are among it",
        ),
        Error::Corruption {
            what: "witness",
            found,
            ..
        } if found == "none" => (
            "witness-missing",
            "beside the database stands the file `witness`",
            "the log may be whole, or have lost its end, votes and entries with it: nothing tells \
             any more",
        ),
        Error::Corruption {
            what: "witness",
            found,
            ..
        } if found.contains("another") => (
            "witness-foreign",
            "the witness and the database are of the same store",
            "one of the two was put here from somewhere else, or a repair or restore was cut \
             short. Whether the log lost its end cannot be told with a witness that is not its own",
        ),
        Error::Corruption {
            what: "witness", ..
        } => (
            "witness-damaged",
            "at least one slot of the witness is whole",
            "the log may be whole, or have lost its end, votes and entries with it: nothing tells \
             any more",
        ),
        Error::Corruption {
            what: "format record",
            ..
        } => (
            "format-damaged",
            "the record /format says which store this is and how to read it",
            "without it nothing else in the store can be believed",
        ),
        Error::Corruption {
            what: "database",
            expected,
            ..
        } if expected == "a file CURRENT" => (
            "current-missing",
            "the file CURRENT names the database's MANIFEST",
            "RocksDB would take the directory for a new database; nothing else need be wrong",
        ),
        _ if Exit::of(error) == Exit::Lost => (
            "database-damaged",
            "RocksDB's files are as it wrote them",
            "tables or logs are missing or damaged: entries, votes and what they were made from \
             may be gone",
        ),
        Error::UnsupportedFormat { .. } => (
            "format-newer",
            "the format is one that this version knows",
            "nothing is wrong: the store needs a newer raft-rocks",
        ),
        _ => (
            "unreadable",
            "the files can be read",
            "nothing can be said about the store until they can",
        ),
    };
    Words {
        code,
        invariant,
        meaning,
    }
}

fn finding(error: &Error) -> Finding {
    let Words {
        code,
        invariant,
        meaning,
    } = words(error);
    let (at, expected, found) = match error {
        Error::Corruption {
            what,
            key,
            expected,
            found,
        } => (format!("{what}, {key}"), expected.clone(), found.clone()),
        Error::AcknowledgedWritesLost {
            witnessed,
            recovered,
        } => (
            "write-ahead log".to_owned(),
            format!("sequence numbers up to {witnessed}"),
            format!("up to {recovered}"),
        ),
        other => (
            "the store".to_owned(),
            "one that opens".to_owned(),
            other.to_string(),
        ),
    };
    Finding {
        code,
        group: None,
        at,
        expected,
        found,
        invariant,
        meaning,
    }
}

fn mend(view: &View, error: &Error) -> StoreMend {
    if !view.is_readable() {
        return StoreMend::None("RocksDB cannot read the database".to_owned());
    }
    if view.is_torn_apart() {
        return StoreMend::None(
            "column families were flushed further than what is left of the log reaches: together \
             they are no state that ever was"
                .to_owned(),
        );
    }
    let new_identity = "make a new witness and a new store id for what is left";
    match words(error).code {
        "acknowledged-writes-lost" | "witness-missing" | "witness-damaged" | "witness-foreign" => {
            StoreMend::AcceptLoss(format!("{new_identity}{}", cuts(view)))
        }
        "log-damaged" => StoreMend::AcceptLoss(format!("{new_identity}{}", cuts(view))),
        "database-damaged" if !view.log_cuts().is_empty() => {
            StoreMend::AcceptLoss(format!("{new_identity}{}", cuts(view)))
        }
        "format-newer" => StoreMend::None("it needs a newer raft-rocks".to_owned()),
        _ => StoreMend::None("what is missing or damaged stands nowhere else".to_owned()),
    }
}

/// What goes of the logs.
fn cuts(view: &View) -> String {
    let cuts = view.log_cuts();
    let cuts = cuts.iter().map(|cut| {
        format!(
            "; remove the last {} of {} bytes of {}",
            cut.len - cut.kept,
            cut.len,
            cut.name
        )
    });
    cuts.collect()
}
