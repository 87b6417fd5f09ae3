//! The connection and this server.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use raft::StateRole;
use raft_rocks::driver::Consistency;

use super::command::{About, upper};
use super::glob;
use super::reply::{Protocol, Reply};
use super::server::Context;
use super::session::{NAME_BYTES_MAX, Session};
use super::table::{Spec, TABLE, WRONG_PASSWORD, find};

/// Clients choose by it what they may ask for.
const REDIS_VERSION: &str = "7.4.0";

const CONFIG: [(&str, &str); 5] = [
    ("appendonly", "yes"),
    ("databases", "1"),
    ("maxmemory", "0"),
    ("proto-max-bulk-len", "1048576"),
    ("save", ""),
];

pub async fn answer(context: &Context, session: &mut Session, about: About) -> Reply {
    match about {
        About::Ping(None) => Reply::Status("PONG"),
        About::Ping(Some(text)) | About::Echo(text) => Reply::Bulk(text),
        About::Quit => {
            session.is_closing = true;
            Reply::OK
        }
        About::Hello {
            version,
            password,
            name,
        } => hello(context, session, version, password, name),
        About::Auth(password) => match &context.options.secret {
            None => Reply::error(
                "AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            ),
            Some(_) => {
                authenticate(context, session, &password).map_or_else(|error| error, |()| Reply::OK)
            }
        },
        About::Select(database) => match &database[..] {
            b"0" => Reply::OK,
            _ => Reply::error("DB index is out of range"),
        },
        About::Commands => Reply::Array(TABLE.iter().map(info_of).collect()),
        About::CommandCount => Reply::count(TABLE.len()),
        About::CommandInfo(names) => {
            let names = names.iter();
            let infos = names.map(|name| find(name).map_or(Reply::Null, info_of));
            Reply::Array(infos.collect())
        }
        About::CommandDocs => Reply::Map(Vec::new()),
        About::ConfigGet(patterns) => config_get(&patterns),
        About::ClientId => Reply::count(session.id),
        About::ClientInfo => Reply::text(client_info(session)),
        About::ClientGetName if session.name.is_empty() => Reply::Null,
        About::ClientGetName => Reply::text(session.name.clone()),
        About::ClientSetName(name) => {
            set_name(session, &name).map_or_else(|error| error, |()| Reply::OK)
        }
        About::ClientSetInfo => Reply::OK,
        About::Info(sections) => info(context, &sections).await,
    }
}

fn authenticate(context: &Context, session: &mut Session, password: &[u8]) -> Result<(), Reply> {
    let secret = context.options.secret.as_ref();
    if secret.is_some_and(|secret| !secret.is(password)) {
        tracing::warn!(peer = session.peer, "a wrong token was shown");
        return Err(Reply::Error(WRONG_PASSWORD.to_owned()));
    }
    session.is_known = true;
    Ok(())
}

fn set_name(session: &mut Session, name: &[u8]) -> Result<(), Reply> {
    let is_name = name.len() <= NAME_BYTES_MAX && name.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(name) {
        Ok(name) if is_name => {
            session.name = name.to_owned();
            Ok(())
        }
        _ => Err(Reply::error(
            "Client names cannot contain spaces, newlines or special characters, and have at most \
             256 bytes.",
        )),
    }
}

fn hello(
    context: &Context,
    session: &mut Session,
    version: Option<Bytes>,
    password: Option<Bytes>,
    name: Option<Bytes>,
) -> Reply {
    let protocol = match version.as_deref() {
        None => session.protocol,
        Some(b"2") => Protocol::Resp2,
        Some(b"3") => Protocol::Resp3,
        Some(_) => return Reply::Error("NOPROTO unsupported protocol version".to_owned()),
    };
    if let Some(password) = password
        && let Err(error) = authenticate(context, session, &password)
    {
        return error;
    }
    if !session.is_known {
        let error = "NOAUTH HELLO must be called with the client already authenticated, otherwise \
                     the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the \
                     client and select the RESP protocol version at the same time";
        return Reply::Error(error.to_owned());
    }
    if let Some(name) = name
        && let Err(error) = set_name(session, &name)
    {
        return error;
    }
    session.protocol = protocol;
    let number = match protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    let text = Reply::text;
    Reply::Map(vec![
        (text("server"), text("redis")),
        (text("version"), text(REDIS_VERSION)),
        (text("proto"), Reply::Integer(number)),
        (text("id"), Reply::count(session.id)),
        (text("mode"), text("standalone")),
        // Every node takes everything, or says who does.
        (text("role"), text("master")),
        (text("modules"), Reply::Array(Vec::new())),
    ])
}

fn info_of(spec: &Spec) -> Reply {
    let flags = spec.flags.iter().map(|flag| Reply::Status(flag));
    let (first, last, step) = spec.keys;
    Reply::Array(vec![
        Reply::text(spec.name),
        Reply::Integer(spec.arity),
        Reply::Array(flags.collect()),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

fn config_get(patterns: &[Bytes]) -> Reply {
    let is_asked_for = |name: &str| {
        let mut patterns = patterns.iter();
        patterns.any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    };
    let found = CONFIG.iter().filter(|(name, _)| is_asked_for(name));
    let pairs = found.map(|(name, value)| (Reply::text(*name), Reply::text(*value)));
    Reply::Map(pairs.collect())
}

fn client_info(session: &Session) -> String {
    let Session { id, peer, name, .. } = session;
    let version = match session.protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    format!("id={id} addr={peer} name={name} db=0 user=default resp={version}\n")
}

/// Sections that hold what clients look for; those that are not asked for are left out.
async fn info(context: &Context, sections: &[Bytes]) -> Reply {
    let node = context.frontend.node();
    let status = match node.status().await {
        Ok(status) => status.raft,
        Err(e) => return super::data::refusal(e),
    };
    let keys = node
        .query(Consistency::Stale, |machine| machine.len())
        .await;
    let is_leader = status.role == StateRole::Leader;
    let role = if is_leader { "master" } else { "slave" };
    let all = [
        (
            "Server",
            format!(
                "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n\
                 raft_rocks_version:{}\r\nprocess_id:{}\r\nuptime_in_seconds:{}\r\n",
                env!("CARGO_PKG_VERSION"),
                std::process::id(),
                context.frontend.uptime().as_secs()
            ),
        ),
        (
            "Clients",
            format!(
                "connected_clients:{}\r\nmaxclients:{}\r\n",
                context.connections.load(Ordering::Relaxed),
                context.options.connections_max
            ),
        ),
        ("Persistence", "loading:0\r\naof_enabled:1\r\n".to_owned()),
        (
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
                context.accepted.load(Ordering::Relaxed),
                context.commands.load(Ordering::Relaxed)
            ),
        ),
        (
            "Replication",
            format!(
                "role:{role}\r\nconnected_slaves:{}\r\nmaster_repl_offset:{}\r\n",
                status.progress.len().saturating_sub(1),
                status.applied
            ),
        ),
        (
            "Raft",
            format!(
                "raft_id:{}\r\nraft_leader:{}\r\nraft_term:{}\r\nraft_commit:{}\r\n\
                 raft_applied:{}\r\n",
                status.id, status.leader, status.term, status.commit, status.applied
            ),
        ),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        (
            "Keyspace",
            match keys {
                Ok(keys @ 1..) => format!("db0:keys={keys}\r\n"),
                _ => String::new(),
            },
        ),
    ];
    Reply::text(chosen(&all, sections))
}

fn chosen(all: &[(&str, String)], sections: &[Bytes]) -> String {
    let wanted: Vec<String> = sections.iter().map(|section| upper(section)).collect();
    let takes_all = |name: &String| matches!(&name[..], "ALL" | "EVERYTHING" | "DEFAULT");
    let takes_all = wanted.is_empty() || wanted.iter().any(takes_all);
    let mut text = String::new();
    for (name, lines) in all {
        if takes_all || wanted.contains(&name.to_ascii_uppercase()) {
            text.push_str(&format!("# {name}\r\n{lines}\r\n"));
        }
    }
    text
}
