//! Which commands there are, and how their arguments are read; pure.

use bytes::Bytes;

use super::command::{About, Arguments, Command, Member, Read, syntax, upper};
use super::reply::Reply;
use crate::kv::{Expiry, OnlyIf, Operation};

type Parsed = Result<Command, Reply>;

/// One command.
pub struct Spec {
    pub name: &'static str,
    /// How many words there are; negative: at least that many.
    pub arity: i64,
    pub flags: &'static [&'static str],
    /// The first key, the last and the step between them, as Redis numbers words.
    pub keys: (i64, i64, i64),
    pub parse: fn(&Arguments) -> Parsed,
}

impl Spec {
    pub fn takes(&self, words: usize) -> bool {
        let words = i64::try_from(words).unwrap_or(i64::MAX);
        words == self.arity || (self.arity < 0 && words >= -self.arity)
    }
}

const READ: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write"];
const ADMIN: &[&str] = &["admin"];
const FAST: &[&str] = &["fast"];
const NONE: (i64, i64, i64) = (0, 0, 0);
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);

const fn spec(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: (i64, i64, i64),
    parse: fn(&Arguments) -> Parsed,
) -> Spec {
    Spec {
        name,
        arity,
        flags,
        keys,
        parse,
    }
}

/// By name.
pub static TABLE: &[Spec] = &[
    spec("append", 3, WRITE, ONE, |of| {
        let (key, value) = (of.at(0), of.at(1));
        Ok(Command::Write(Operation::Append { key, value }))
    }),
    spec("auth", -2, FAST, NONE, auth),
    spec("client", -2, ADMIN, NONE, client),
    spec("cluster", -2, READ, NONE, cluster),
    spec("command", -1, READ, NONE, command),
    spec("config", -2, ADMIN, NONE, config),
    spec("dbsize", 1, READ, NONE, |_| Ok(Command::Read(Read::Count))),
    spec("decr", 2, WRITE, ONE, |of| increment(of.at(0), -1)),
    spec("decrby", 3, WRITE, ONE, |of| {
        let by = of.integer(1)?.checked_neg();
        increment(
            of.at(0),
            by.ok_or_else(|| Reply::error("decrement would overflow"))?,
        )
    }),
    spec("del", -2, WRITE, ALL, |of| {
        Ok(Command::Write(Operation::Delete(of.from(0))))
    }),
    spec("echo", 2, FAST, NONE, |of| {
        Ok(Command::About(About::Echo(of.at(0))))
    }),
    spec("exists", -2, READ, ALL, |of| {
        Ok(Command::Read(Read::Exists(of.from(0))))
    }),
    spec("expire", -3, WRITE, ONE, |of| expire(of, 1_000)),
    spec("flushall", -1, WRITE, NONE, flush_all),
    spec("get", 2, READ, ONE, |of| {
        Ok(Command::Read(Read::Get(of.at(0))))
    }),
    spec("hello", -1, FAST, NONE, hello),
    spec("incr", 2, WRITE, ONE, |of| increment(of.at(0), 1)),
    spec("incrby", 3, WRITE, ONE, |of| {
        increment(of.at(0), of.integer(1)?)
    }),
    spec("info", -1, READ, NONE, |of| {
        Ok(Command::About(About::Info(of.from(0))))
    }),
    spec("keys", 2, READ, NONE, |of| Ok(Command::Keys(of.at(0)))),
    spec("mget", -2, READ, ALL, |of| {
        Ok(Command::Read(Read::GetMany(of.from(0))))
    }),
    spec("mset", -3, WRITE, PAIRS, set_many),
    spec("persist", 2, WRITE, ONE, |of| {
        Ok(Command::Write(Operation::Persist(of.at(0))))
    }),
    spec("pexpire", -3, WRITE, ONE, |of| expire(of, 1)),
    spec("ping", -1, FAST, NONE, |of| match of.len() {
        0 | 1 => Ok(Command::About(About::Ping(of.get(0)))),
        _ => Err(of.wrong_number()),
    }),
    spec("pttl", 2, READ, ONE, |of| {
        Ok(Command::Read(Read::Ttl(of.at(0), 1)))
    }),
    spec("quit", -1, FAST, NONE, |_| Ok(Command::About(About::Quit))),
    spec("raftaddpeer", 2, ADMIN, NONE, |of| {
        Ok(Command::Member(Member::Add(of.at(0))))
    }),
    spec("raftleader", 1, ADMIN, NONE, |_| {
        Ok(Command::Member(Member::Leader))
    }),
    spec("raftpeers", 1, ADMIN, NONE, |_| {
        Ok(Command::Member(Member::Peers))
    }),
    spec("raftremovepeer", 2, ADMIN, NONE, |of| {
        Ok(Command::Member(Member::Remove(of.at(0))))
    }),
    spec("raftsnapshot", 1, ADMIN, NONE, |_| {
        Ok(Command::Member(Member::Snapshot))
    }),
    spec("raftstate", 1, ADMIN, NONE, |_| {
        Ok(Command::Member(Member::State))
    }),
    spec("raftstats", 1, ADMIN, NONE, |_| {
        Ok(Command::Member(Member::Stats))
    }),
    spec("rafttransfer", 2, ADMIN, NONE, |of| {
        Ok(Command::Member(Member::Transfer(of.at(0))))
    }),
    spec("scan", -2, READ, NONE, scan),
    spec("select", 2, FAST, NONE, |of| {
        Ok(Command::About(About::Select(of.at(0))))
    }),
    spec("set", -3, WRITE, ONE, set),
    spec("strlen", 2, READ, ONE, |of| {
        Ok(Command::Read(Read::Length(of.at(0))))
    }),
    spec("ttl", 2, READ, ONE, |of| {
        Ok(Command::Read(Read::Ttl(of.at(0), 1_000)))
    }),
    spec("type", 2, READ, ONE, |of| {
        Ok(Command::Read(Read::Type(of.at(0))))
    }),
];

/// The command of this name, in whatever case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    TABLE
        .iter()
        .find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

fn increment(key: Bytes, by: i64) -> Parsed {
    Ok(Command::Write(Operation::Increment { key, by }))
}

fn expire(of: &Arguments, unit_ms: i64) -> Parsed {
    if of.len() > 2 {
        let option = of.word(2);
        return Err(Reply::error(format!("Unsupported option {option:?}")));
    }
    let expiry = Expiry::In(of.time(1, unit_ms)?);
    let key = of.at(0);
    Ok(Command::Write(Operation::Expire { key, expiry }))
}

fn flush_all(of: &Arguments) -> Parsed {
    let is_known = matches!(&of.word(0)[..], "" | "SYNC" | "ASYNC");
    match of.len() <= 1 && is_known {
        true => Ok(Command::Write(Operation::Clear)),
        false => Err(syntax()),
    }
}

fn set_many(of: &Arguments) -> Parsed {
    let words = of.from(0);
    let (pairs, []) = words.as_chunks::<2>() else {
        return Err(of.wrong_number());
    };
    let pairs = pairs.iter().cloned().map(|[key, value]| (key, value));
    Ok(Command::Write(Operation::SetMany(pairs.collect())))
}

fn set(of: &Arguments) -> Parsed {
    let mut expiry = None;
    let mut only_if = None;
    let mut return_old = false;
    let mut at = 2;
    while at < of.len() {
        let word = of.word(at);
        let (is_new, words) = match &word[..] {
            "EX" => (
                put(&mut expiry, Expiry::In(of.time_to_live(at + 1, 1_000)?)),
                2,
            ),
            "PX" => (put(&mut expiry, Expiry::In(of.time_to_live(at + 1, 1)?)), 2),
            "EXAT" => (
                put(&mut expiry, Expiry::At(of.time_to_live(at + 1, 1_000)?)),
                2,
            ),
            "PXAT" => (put(&mut expiry, Expiry::At(of.time_to_live(at + 1, 1)?)), 2),
            "KEEPTTL" => (put(&mut expiry, Expiry::Keep), 1),
            "NX" => (put(&mut only_if, OnlyIf::Absent), 1),
            "XX" => (put(&mut only_if, OnlyIf::Present), 1),
            "GET" => (!std::mem::replace(&mut return_old, true), 1),
            _ => return Err(syntax()),
        };
        at += words;
        if !is_new || at > of.len() {
            return Err(syntax());
        }
    }
    Ok(Command::Write(Operation::Set {
        key: of.at(0),
        value: of.at(1),
        expiry: expiry.unwrap_or(Expiry::Never),
        only_if: only_if.unwrap_or(OnlyIf::Always),
        return_old,
    }))
}

/// Whether there was none.
fn put<T>(place: &mut Option<T>, value: T) -> bool {
    place.replace(value).is_none()
}

fn scan(of: &Arguments) -> Parsed {
    let cursor = std::str::from_utf8(&of.at(0))
        .ok()
        .and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or_else(|| Reply::error("invalid cursor"))?;
    let (mut pattern, mut count, mut is_of_strings) = (None, 10, true);
    let mut at = 1;
    while at < of.len() {
        let value = of.get(at + 1).ok_or_else(syntax)?;
        match &of.word(at)[..] {
            "MATCH" => pattern = Some(value),
            "COUNT" => {
                let asked = of.integer(at + 1)?;
                count = usize::try_from(asked)
                    .ok()
                    .filter(|asked| *asked > 0)
                    .ok_or_else(syntax)?;
            }
            "TYPE" => is_of_strings = upper(&value) == "STRING",
            _ => return Err(syntax()),
        }
        at += 2;
    }
    Ok(Command::Read(Read::Scan {
        cursor,
        pattern,
        count,
        is_of_strings,
    }))
}

fn auth(of: &Arguments) -> Parsed {
    match of.len() {
        1 => Ok(Command::About(About::Auth(of.at(0)))),
        2 if of.at(0) == "default" => Ok(Command::About(About::Auth(of.at(1)))),
        2 => Err(Reply::Error(WRONG_PASSWORD.to_owned())),
        _ => Err(syntax()),
    }
}

pub const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn hello(of: &Arguments) -> Parsed {
    let (mut password, mut name) = (None, None);
    let mut at = 1;
    while at < of.len() {
        match &of.word(at)[..] {
            "AUTH" if at + 2 < of.len() => {
                if of.at(at + 1) != "default" {
                    return Err(Reply::Error(WRONG_PASSWORD.to_owned()));
                }
                password = of.get(at + 2);
                at += 3;
            }
            "SETNAME" if at + 1 < of.len() => {
                name = of.get(at + 1);
                at += 2;
            }
            _ => return Err(syntax()),
        }
    }
    let version = of.get(0);
    Ok(Command::About(About::Hello {
        version,
        password,
        name,
    }))
}

fn command(of: &Arguments) -> Parsed {
    let about = match (&of.word(0)[..], of.len()) {
        (_, 0) => About::Commands,
        ("COUNT", 1) => About::CommandCount,
        ("DOCS", _) => About::CommandDocs,
        ("INFO", 1) => About::Commands,
        ("INFO", _) => About::CommandInfo(of.from(1)),
        _ => return Err(of.unknown_subcommand()),
    };
    Ok(Command::About(about))
}

fn config(of: &Arguments) -> Parsed {
    match (&of.word(0)[..], of.len()) {
        ("GET", 2..) => Ok(Command::About(About::ConfigGet(of.from(1)))),
        _ => Err(of.unknown_subcommand()),
    }
}

fn client(of: &Arguments) -> Parsed {
    let about = match (&of.word(0)[..], of.len()) {
        ("ID", 1) => About::ClientId,
        ("INFO", 1) => About::ClientInfo,
        ("GETNAME", 1) => About::ClientGetName,
        ("SETNAME", 2) => About::ClientSetName(of.at(1)),
        ("SETINFO", 3) => About::ClientSetInfo,
        _ => return Err(of.unknown_subcommand()),
    };
    Ok(Command::About(about))
}

fn cluster(of: &Arguments) -> Parsed {
    let member = match (&of.word(0)[..], of.len()) {
        ("SLOTS", 1) => Member::Slots,
        ("NODES", 1) => Member::Nodes,
        ("SHARDS", 1) => Member::Shards,
        ("INFO", 1) => Member::ClusterInfo,
        ("MYID", 1) => Member::MyId,
        _ => return Err(of.unknown_subcommand()),
    };
    Ok(Command::Member(member))
}

#[cfg(test)]
mod tests {
    use super::super::command::parse;
    use super::*;

    fn parsed(line: &str) -> Parsed {
        let words = line.split(' ').map(|word| Bytes::from(word.to_owned()));
        parse(words.collect())
    }

    #[test]
    fn names_are_in_order_and_in_lower_case() {
        assert!(TABLE.is_sorted_by(|one, next| one.name < next.name));
        assert!(
            TABLE
                .iter()
                .all(|spec| spec.name.to_lowercase() == spec.name)
        );
    }

    #[test]
    fn options_of_set_are_told_apart() {
        let set = |expiry, only_if, return_old| {
            Ok(Command::Write(Operation::Set {
                key: Bytes::from_static(b"k"),
                value: Bytes::from_static(b"v"),
                expiry,
                only_if,
                return_old,
            }))
        };
        let plain = set(Expiry::Never, OnlyIf::Always, false);
        assert_eq!(parsed("SeT k v"), plain);
        let seconds = set(Expiry::In(9_000), OnlyIf::Absent, false);
        assert_eq!(parsed("set k v nx Ex 9"), seconds);
        let kept = set(Expiry::Keep, OnlyIf::Present, true);
        assert_eq!(parsed("set k v GET XX keepttl"), kept);
        let at = set(Expiry::At(5), OnlyIf::Always, false);
        assert_eq!(parsed("set k v PXAT 5"), at);
    }

    #[test]
    fn what_makes_no_sense_is_an_error_in_words_of_redis() {
        for (line, error) in [
            ("set k", "ERR wrong number of arguments for 'set' command"),
            ("set k v NX XX", "ERR syntax error"),
            ("set k v EX", "ERR value is not an integer or out of range"),
            ("set k v EX 5 PX 5", "ERR syntax error"),
            ("set k v EX 0", "ERR invalid expire time in 'set' command"),
            (
                "set k v EX 9223372036854775807",
                "ERR invalid expire time in 'set' command",
            ),
            (
                "mset k v k",
                "ERR wrong number of arguments for 'mset' command",
            ),
            (
                "decrby k -9223372036854775808",
                "ERR decrement would overflow",
            ),
            (
                "incrby k 1.5",
                "ERR value is not an integer or out of range",
            ),
            ("scan x", "ERR invalid cursor"),
            ("scan 0 COUNT 0", "ERR syntax error"),
            ("scan 0 COUNT", "ERR syntax error"),
            ("get", "ERR wrong number of arguments for 'get' command"),
            (
                "frob a",
                "ERR unknown command 'frob', with args beginning with: 'a' ",
            ),
            ("auth somebody x", WRONG_PASSWORD),
        ] {
            assert_eq!(parsed(line), Err(Reply::Error(error.to_owned())), "{line}");
        }
    }
}
