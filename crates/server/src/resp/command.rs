//! What the words of a request mean; pure.

use bytes::Bytes;

use super::reply::Reply;
use super::table::{self, Spec};
use crate::kv::Operation;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// To look something up.
    Read(Read),
    /// To change something.
    Write(Operation),
    /// All keys that match.
    Keys(Bytes),
    /// Something of the connection or of this server.
    About(About),
    /// Something of the cluster.
    Member(Member),
}

/// A look at the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Get(Bytes),
    GetMany(Vec<Bytes>),
    Exists(Vec<Bytes>),
    Length(Bytes),
    /// How long a key lives, in units of so many milliseconds.
    Ttl(Bytes, u64),
    Type(Bytes),
    Count,
    Scan {
        cursor: u64,
        pattern: Option<Bytes>,
        count: usize,
        /// Of another type than strings there is nothing.
        is_of_strings: bool,
    },
}

/// Answered without the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Ping(Option<Bytes>),
    Echo(Bytes),
    Quit,
    Hello {
        version: Option<Bytes>,
        password: Option<Bytes>,
        name: Option<Bytes>,
    },
    Auth(Bytes),
    Select(Bytes),
    Commands,
    CommandCount,
    CommandInfo(Vec<Bytes>),
    /// There are none; a client that asks goes on without.
    CommandDocs,
    ConfigGet(Vec<Bytes>),
    ClientId,
    ClientInfo,
    ClientGetName,
    ClientSetName(Bytes),
    /// It is of no use here.
    ClientSetInfo,
    Info(Vec<Bytes>),
}

/// About the cluster and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    Slots,
    Nodes,
    Shards,
    ClusterInfo,
    MyId,
    Add(Bytes),
    Remove(Bytes),
    Peers,
    Leader,
    Snapshot,
    State,
    Stats,
    Transfer(Bytes),
}

/// Whether these words are a command, and its arguments such as it takes: what the server makes of
/// what it is sent, without a node.
pub fn is_command(words: Vec<Bytes>) -> bool {
    parse(words).is_ok()
}

/// The command of a request that has a word at least.
///
/// # Errors
/// The error reply.
pub fn parse(words: Vec<Bytes>) -> Result<Command, Reply> {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let arguments: Vec<Bytes> = words.collect();
    let Some(spec) = table::find(&name) else {
        return Err(unknown(&name, &arguments));
    };
    if !spec.takes(arguments.len() + 1) {
        return Err(wrong_number(spec.name));
    }
    (spec.parse)(&Arguments { spec, arguments })
}

/// Whether somebody may ask before he has said who he is.
pub fn is_for_strangers(command: &Command) -> bool {
    matches!(
        command,
        Command::About(About::Auth(_) | About::Hello { .. } | About::Quit)
    )
}

/// The arguments of a command that are as many as it takes.
pub struct Arguments {
    spec: &'static Spec,
    arguments: Vec<Bytes>,
}

impl Arguments {
    /// One of them, empty where there are fewer.
    pub fn at(&self, at: usize) -> Bytes {
        self.arguments.get(at).cloned().unwrap_or_default()
    }

    pub fn get(&self, at: usize) -> Option<Bytes> {
        self.arguments.get(at).cloned()
    }

    /// As a word that means something, in upper case.
    pub fn word(&self, at: usize) -> String {
        upper(&self.at(at))
    }

    pub fn from(&self, at: usize) -> Vec<Bytes> {
        self.arguments.get(at..).unwrap_or_default().to_vec()
    }

    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    pub fn integer(&self, at: usize) -> Result<i64, Reply> {
        let text = self.at(at);
        let text = std::str::from_utf8(&text).ok();
        let number = text.and_then(|text| text.parse().ok());
        number.ok_or_else(|| Reply::error("value is not an integer or out of range"))
    }

    /// A time that may have passed.
    pub fn time(&self, at: usize, unit_ms: i64) -> Result<i64, Reply> {
        let time = self.integer(at)?.checked_mul(unit_ms);
        time.ok_or_else(|| self.invalid_time())
    }

    /// One that has not.
    pub fn time_to_live(&self, at: usize, unit_ms: i64) -> Result<i64, Reply> {
        let time = self.time(at, unit_ms)?;
        match time > 0 {
            true => Ok(time),
            false => Err(self.invalid_time()),
        }
    }

    fn invalid_time(&self) -> Reply {
        Reply::error(format!(
            "invalid expire time in '{}' command",
            self.spec.name
        ))
    }

    /// For a command whose first argument says what is wanted.
    pub fn unknown_subcommand(&self) -> Reply {
        let given = shown(&self.at(0));
        let name = self.spec.name;
        Reply::error(format!(
            "unknown subcommand or wrong number of arguments for '{given}' of '{name}'"
        ))
    }

    pub fn wrong_number(&self) -> Reply {
        wrong_number(self.spec.name)
    }
}

pub fn syntax() -> Reply {
    Reply::error("syntax error")
}

/// A word in upper case; nothing means anything that is longer than a few letters.
pub fn upper(word: &[u8]) -> String {
    let word = word.get(..32).unwrap_or(word);
    String::from_utf8_lossy(word).to_ascii_uppercase()
}

fn wrong_number(name: &str) -> Reply {
    Reply::error(format!("wrong number of arguments for '{name}' command"))
}

fn unknown(name: &[u8], arguments: &[Bytes]) -> Reply {
    let mut problem = format!(
        "unknown command '{}', with args beginning with: ",
        shown(name)
    );
    for argument in arguments.iter().take(4) {
        problem.push_str(&format!("'{}' ", shown(argument)));
    }
    Reply::error(problem)
}

/// What somebody sent, as far as it may stand in an error.
fn shown(bytes: &[u8]) -> String {
    let bytes = bytes.get(..64).unwrap_or(bytes);
    bytes.escape_ascii().to_string()
}
