//! Flags, environment and file, and the settings they come to.
//!
//! A flag goes before its variable `RAFT_ROCKS_..`, that before the file, and the file before the
//! default.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use raft_rocks::FsyncPolicy;
use raft_rocks::driver::Compaction;
use raft_rocks_grpc::Tls;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use crate::instance::{Backend, Settings};
use crate::resp::{self, ReadConsistency, Redirect, Secret};

/// When what is acknowledged survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the operating system has written it.
    Low,
    /// A second later.
    Medium,
    /// At once.
    High,
}

/// How new what is read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// What the node has that is asked.
    Low,
    /// What the leader has.
    Medium,
    /// Everything that was acknowledged before: linearizable.
    High,
}

/// Where the state stands; the log is in RocksDB in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackendFlag {
    /// In RocksDB, with the log.
    Rocksdb,
    /// In memory, made again at each start.
    Memory,
}

/// What a node that does not lead does with a request for the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RedirectFlag {
    /// Answers -TRY and the leader's address.
    Try,
    /// Hands it on.
    Forward,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each says it")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
}

/// What can be set, by its flag, its variable or its line in the file.
#[derive(Clone, Debug, Default, PartialEq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Flags {
    /// The file to read, in TOML: the long names of these flags and their values.
    #[arg(long, env = "RAFT_ROCKS_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The node's number in its cluster [default: 1, or what the leader gives, or the certificate's].
    #[arg(long, env = "RAFT_ROCKS_ID")]
    pub id: Option<u64>,
    /// Where everything of the node stands [default: data].
    #[arg(long, env = "RAFT_ROCKS_DIR")]
    pub dir: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:7481].
    #[arg(long, env = "RAFT_ROCKS_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where other nodes connect [default: 127.0.0.1:7482].
    #[arg(long, env = "RAFT_ROCKS_PEER_LISTEN", value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// Where other nodes reach this one [default: --peer-listen].
    #[arg(long, env = "RAFT_ROCKS_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Where clients reach this node, as others tell them [default: --listen].
    #[arg(long, env = "RAFT_ROCKS_CLIENT_ADVERTISE", value_name = "HOST:PORT")]
    pub client_advertise: Option<String>,
    /// Where HTTP is served: the status page, the API and metrics; `off`: nowhere
    /// [default: 127.0.0.1:7483].
    #[arg(long, env = "RAFT_ROCKS_HTTP_LISTEN", value_name = "HOST:PORT")]
    pub http_listen: Option<String>,
    /// Where HTTP is reached, as others tell it [default: --http-listen].
    #[arg(long, env = "RAFT_ROCKS_HTTP_ADVERTISE", value_name = "HOST:PORT")]
    pub http_advertise: Option<String>,
    /// Members of the cluster to join, where nodes reach them; ignored by one that is a member.
    #[arg(
        long,
        env = "RAFT_ROCKS_JOIN",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub join: Option<Vec<String>>,
    /// A node of no cluster waits until a member adds it (RAFTADDPEER, raft-rocks-ctl add);
    /// ignored by one that is a member.
    #[arg(
        long,
        env = "RAFT_ROCKS_AWAIT_INVITATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub await_invitation: Option<bool>,
    /// A node that finds at its start that it was removed goes on alone, as a cluster of its own.
    #[arg(
        long,
        env = "RAFT_ROCKS_ALONE_WHEN_REMOVED",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub alone_when_removed: Option<bool>,
    /// Begins a new cluster of this node alone with what it holds, giving up the cluster with this
    /// id, no node of which may ever run again; ignored by nodes of other clusters.
    #[arg(long, env = "RAFT_ROCKS_FORCE_NEW_CLUSTER", value_name = "CLUSTER")]
    pub force_new_cluster: Option<String>,
    /// What survives a power cut: low, what the system has written; medium, up to the last second;
    /// high, everything acknowledged [default: high].
    #[arg(long, env = "RAFT_ROCKS_DURABILITY", hide_possible_values = true)]
    pub durability: Option<Durability>,
    /// What is read: low, what this node has; medium, what the leader has; high, everything
    /// acknowledged before [default: high].
    #[arg(long, env = "RAFT_ROCKS_CONSISTENCY", hide_possible_values = true)]
    pub consistency: Option<Consistency>,
    /// Where keys and values stand: rocksdb or memory [default: rocksdb].
    #[arg(long, env = "RAFT_ROCKS_BACKEND", hide_possible_values = true)]
    pub backend: Option<BackendFlag>,
    /// What a node that does not lead answers: try, an error with the leader's address; forward,
    /// what the leader answers [default: forward].
    #[arg(long, env = "RAFT_ROCKS_REDIRECT", hide_possible_values = true)]
    pub redirect: Option<RedirectFlag>,
    /// error, warn, info, debug or trace [default: info].
    #[arg(long, env = "RAFT_ROCKS_LOG_LEVEL", hide_possible_values = true)]
    pub log_level: Option<Level>,
    /// text or json [default: text].
    #[arg(long, env = "RAFT_ROCKS_LOG_FORMAT", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    /// The certificate of the cluster's authority.
    #[arg(long, env = "RAFT_ROCKS_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The node's certificate.
    #[arg(long, env = "RAFT_ROCKS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "RAFT_ROCKS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Lets nodes talk without certificates beyond this machine.
    #[arg(
        long,
        env = "RAFT_ROCKS_INSECURE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub insecure: Option<bool>,
    /// A file with the token that clients show by AUTH, or with `sha256:` and its hash.
    #[arg(long, env = "RAFT_ROCKS_AUTH_TOKEN_FILE", value_name = "FILE")]
    pub auth_token_file: Option<PathBuf>,
    /// Milliseconds of a tick; an election takes ten to twenty [default: 100].
    #[arg(long, env = "RAFT_ROCKS_TICK_MS", value_name = "MS")]
    pub tick_ms: Option<u64>,
    /// Entries between two snapshots [default: 10000].
    #[arg(long, env = "RAFT_ROCKS_SNAPSHOT_ENTRIES", value_name = "N")]
    pub snapshot_entries: Option<u64>,
    /// Entries that stay in the log behind a snapshot, for nodes that lag [default: 10000].
    #[arg(long, env = "RAFT_ROCKS_KEEP_ENTRIES", value_name = "N")]
    pub keep_entries: Option<u64>,
}

/// Something that was set cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

fn usage<T>(problem: impl Display) -> Result<T, UsageError> {
    Err(UsageError(problem.to_string()))
}

impl Flags {
    /// These, and those of the file where they say nothing.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that says nothing.
    pub fn with_file(self) -> Result<Self, UsageError> {
        let Some(path) = &self.config else {
            return Ok(self);
        };
        let text = read(path, "--config")?;
        let file: Flags = match toml::from_str(&text) {
            Ok(file) => file,
            Err(e) => return usage(format!("--config {}: {e}", path.display())),
        };
        Ok(self.or(file))
    }

    fn or(self, file: Flags) -> Flags {
        Flags {
            config: self.config,
            id: self.id.or(file.id),
            dir: self.dir.or(file.dir),
            listen: self.listen.or(file.listen),
            peer_listen: self.peer_listen.or(file.peer_listen),
            advertise: self.advertise.or(file.advertise),
            client_advertise: self.client_advertise.or(file.client_advertise),
            http_listen: self.http_listen.or(file.http_listen),
            http_advertise: self.http_advertise.or(file.http_advertise),
            join: self.join.or(file.join),
            await_invitation: self.await_invitation.or(file.await_invitation),
            alone_when_removed: self.alone_when_removed.or(file.alone_when_removed),
            force_new_cluster: self.force_new_cluster.or(file.force_new_cluster),
            durability: self.durability.or(file.durability),
            consistency: self.consistency.or(file.consistency),
            backend: self.backend.or(file.backend),
            redirect: self.redirect.or(file.redirect),
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
            tls_ca: self.tls_ca.or(file.tls_ca),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            insecure: self.insecure.or(file.insecure),
            auth_token_file: self.auth_token_file.or(file.auth_token_file),
            tick_ms: self.tick_ms.or(file.tick_ms),
            snapshot_entries: self.snapshot_entries.or(file.snapshot_entries),
            keep_entries: self.keep_entries.or(file.keep_entries),
        }
    }

    /// How much is logged.
    pub fn level(&self) -> LevelFilter {
        match self.log_level {
            Some(Level::Error) => LevelFilter::ERROR,
            Some(Level::Warn) => LevelFilter::WARN,
            None | Some(Level::Info) => LevelFilter::INFO,
            Some(Level::Debug) => LevelFilter::DEBUG,
            Some(Level::Trace) => LevelFilter::TRACE,
        }
    }

    /// What the node is to be. Files that are named are read.
    ///
    /// # Errors
    /// Something cannot be used.
    pub fn settings(self) -> Result<Settings, UsageError> {
        if self.id == Some(0) {
            return usage("--id 0: a node's number is 1 or higher");
        }
        let tick_ms = self.tick_ms.unwrap_or(100);
        if !(10..=10_000).contains(&tick_ms) {
            return usage(format!("--tick-ms {tick_ms}: give 10 to 10000"));
        }
        let compaction = self.compaction()?;
        let mut clients = resp::Options::default();
        clients.consistency = match self.consistency {
            Some(Consistency::Low) => ReadConsistency::Low,
            Some(Consistency::Medium) => ReadConsistency::Medium,
            None | Some(Consistency::High) => ReadConsistency::High,
        };
        clients.redirect = match self.redirect {
            Some(RedirectFlag::Try) => Redirect::Try,
            None | Some(RedirectFlag::Forward) => Redirect::Forward,
        };
        clients.secret = match &self.auth_token_file {
            None => None,
            Some(path) => Some(read_secret(path)?),
        };
        let await_invitation = self.await_invitation.unwrap_or(false);
        if await_invitation && self.join.as_ref().is_some_and(|join| !join.is_empty()) {
            return usage("--await-invitation, --join: a node waits or asks; give one of them");
        }
        let force_new_cluster = match &self.force_new_cluster {
            None => None,
            Some(digits) => match from_digits(digits) {
                Some(cluster) => Some(cluster),
                None => {
                    return usage(
                        "--force-new-cluster: give the id of the cluster that is given up, 32 \
                         hexadecimal digits; raft-rocks-ctl status shows it",
                    );
                }
            },
        };
        if await_invitation && force_new_cluster.is_some() {
            return usage("--await-invitation, --force-new-cluster: give one of them");
        }
        let tls = self.tls()?;
        let or = |given: Option<String>, default: &str| given.unwrap_or_else(|| default.to_owned());
        Ok(Settings {
            id: self.id,
            dir: self.dir.unwrap_or_else(|| PathBuf::from("data")),
            listen: or(self.listen, "127.0.0.1:7481"),
            peer_listen: or(self.peer_listen, "127.0.0.1:7482"),
            advertise: self.advertise,
            client_advertise: self.client_advertise,
            http_listen: Some(or(self.http_listen, "127.0.0.1:7483")).filter(|at| at != "off"),
            http_advertise: self.http_advertise,
            join: self.join.unwrap_or_default(),
            await_invitation,
            alone_when_removed: self.alone_when_removed.unwrap_or(false),
            force_new_cluster,
            fsync: match self.durability {
                Some(Durability::Low) => FsyncPolicy::Never,
                Some(Durability::Medium) => FsyncPolicy::Interval(Duration::from_secs(1)),
                None | Some(Durability::High) => FsyncPolicy::Always,
            },
            backend: match self.backend {
                None | Some(BackendFlag::Rocksdb) => Backend::RocksDb,
                Some(BackendFlag::Memory) => Backend::Memory,
            },
            tick: Duration::from_millis(tick_ms),
            compaction,
            tls,
            insecure: self.insecure.unwrap_or(false),
            clients,
        })
    }

    fn compaction(&self) -> Result<Compaction, UsageError> {
        let mut compaction = Compaction::default();
        if self.snapshot_entries == Some(0) {
            return usage("--snapshot-entries 0: give 1 or more");
        }
        if let Some(entries) = self.snapshot_entries {
            compaction.every_entries = entries;
        }
        if let Some(entries) = self.keep_entries {
            compaction.keep_entries = entries;
            compaction.keep_entries_max = compaction.keep_entries_max.max(entries);
        }
        Ok(compaction)
    }

    fn tls(&self) -> Result<Option<Tls>, UsageError> {
        match (&self.tls_ca, &self.tls_cert, &self.tls_key) {
            (None, None, None) => Ok(None),
            (Some(ca), Some(cert), Some(key)) => match Tls::read(ca, cert, key) {
                Ok(tls) => Ok(Some(tls)),
                Err(e) => usage(format!("--tls-ca, --tls-cert, --tls-key: {e}")),
            },
            _ => usage("--tls-ca, --tls-cert and --tls-key belong together; give all three"),
        }
    }
}

fn read(path: &Path, flag: &str) -> Result<String, UsageError> {
    let read = std::fs::read_to_string(path);
    read.or_else(|e| usage(format!("{flag} {}: cannot read it: {e}", path.display())))
}

/// What the file holds is never shown, in an error neither.
fn read_secret(path: &Path) -> Result<Secret, UsageError> {
    let flag = "--auth-token-file";
    let text = read(path, flag)?;
    let token = text.trim();
    if token.is_empty() {
        return usage(format!("{flag} {}: it is empty", path.display()));
    }
    match token.strip_prefix("sha256:") {
        None => Ok(Secret::of_token(token.as_bytes())),
        Some(digits) => match from_digits(digits) {
            Some(hash) => Ok(Secret::of_hash(hash)),
            None => usage(format!(
                "{flag} {}: behind `sha256:` there are 64 hexadecimal digits",
                path.display()
            )),
        },
    }
}

/// Bytes in hexadecimal, as ids are shown and given.
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_digits<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let byte = |pair: &[u8; 2]| {
        let pair = std::str::from_utf8(pair).ok()?;
        let is_hex = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(pair, 16).ok().filter(|_| is_hex)
    };
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes?.try_into().ok()
}
