//! Clients that ask while things go wrong.
//!
//! Each asks one thing at a time, of the node it is at, and moves to another when that does not
//! answer or names another. What it asks is drawn; each kind of command has keys of its own, so
//! that no answer is an error of the client's. Keys are left for new ones after a while: the search
//! for an order of operations takes time that grows with more than the number of operations.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fastrand::Rng;
use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, Value};
use tokio::task::JoinSet;

use crate::admin;
use crate::history::{Action, Outcome, Recorder};
use crate::until;

/// Keys that are in use at a time.
const KEYS: u64 = 5;
/// Operations after which others are.
const OPERATIONS_OF_KEYS: u64 = 1_000;
/// A client that has no answer by then asks somebody else; nodes wait longer for a leader.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Of an error; behind it there may be names that are another each time.
const SAID_MAX: usize = 100;

/// What the clients are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In front of every key.
    pub prefix: String,
    /// How many clients.
    pub clients: usize,
    /// Between two of a client's requests, on the average.
    pub think: Duration,
    /// What is drawn is drawn from this.
    pub seed: u64,
}

/// Clients that ask until they are told to end.
pub struct Load {
    /// What they are.
    pub plan: Plan,
    /// What they saw.
    pub recorder: Arc<Recorder>,
    addresses: Arc<RwLock<Vec<SocketAddr>>>,
    ends: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts clients of the nodes at these addresses.
    pub fn start(plan: &Plan, addresses: Vec<SocketAddr>) -> Self {
        let addresses = Arc::new(RwLock::new(addresses));
        let (recorder, ends) = (Arc::<Recorder>::default(), Arc::<AtomicBool>::default());
        let mut clients = JoinSet::new();
        for number in 0..plan.clients {
            let client = Client {
                plan: plan.clone(),
                number,
                rng: Rng::with_seed(plan.seed ^ (number as u64) << 32),
                addresses: Arc::clone(&addresses),
                recorder: Arc::clone(&recorder),
                connection: None,
                at: number,
                puts: 0,
            };
            clients.spawn(client.run(Arc::clone(&ends)));
        }
        Load {
            plan: plan.clone(),
            recorder,
            addresses,
            ends,
            clients,
        }
    }

    /// There are other nodes now.
    pub fn move_to(&self, addresses: Vec<SocketAddr>) {
        *self.addresses.write() = addresses;
    }

    /// Waits until this many more operations are acknowledged.
    ///
    /// # Errors
    /// They are not, for a long time.
    pub async fn acknowledges(&self, more: u64) -> Result<()> {
        let goal = self.recorder.acknowledged() + more;
        let done = || async { (self.recorder.acknowledged() >= goal).then_some(()) };
        let waited = until("clients are answered", done).await;
        waited.with_context(|| format!("counted: {:?}", self.recorder.counts()))
    }

    /// The keys that are in use now.
    pub fn keys(&self) -> Vec<u64> {
        let first = self.recorder.asked() / OPERATIONS_OF_KEYS * KEYS;
        (first..first + KEYS).collect()
    }

    /// Tells the clients to end, and waits until each knows how its last operation ended.
    pub async fn end(mut self) -> Arc<Recorder> {
        self.ends.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        self.recorder
    }
}

/// The name of a key.
pub fn name(prefix: &str, key: u64) -> String {
    format!("{prefix}:{key}")
}

/// Whether what is added to this key stays: it is a number or a list.
pub fn is_kept(key: u64) -> bool {
    key % KEYS >= 2
}

struct Client {
    plan: Plan,
    number: usize,
    rng: Rng,
    addresses: Arc<RwLock<Vec<SocketAddr>>>,
    recorder: Arc<Recorder>,
    connection: Option<MultiplexedConnection>,
    /// The node it is at.
    at: usize,
    puts: u64,
}

impl Client {
    async fn run(mut self, ends: Arc<AtomicBool>) {
        while !ends.load(Ordering::Relaxed) {
            if self.connection.is_none() && !self.connect().await {
                self.leave();
            } else if self.rng.u8(..) < 25 {
                self.put().await;
            } else {
                self.operate().await;
            }
            let think = self.plan.think.mul_f64(2.0 * self.rng.f64());
            tokio::time::sleep(think).await;
        }
    }

    async fn connect(&mut self) -> bool {
        let address = {
            let addresses = self.addresses.read();
            addresses.get(self.at % addresses.len().max(1)).copied()
        };
        self.connection = match address {
            Some(address) => admin::connect(address, PATIENCE).await.ok(),
            None => None,
        };
        self.connection.is_some()
    }

    fn leave(&mut self) {
        self.connection = None;
        self.at = self.rng.usize(..1_000);
    }

    /// Writes a key that nobody else writes, and never again.
    async fn put(&mut self) {
        self.puts += 1;
        let key = format!("{}:once:{}:{}", self.plan.prefix, self.number, self.puts);
        let value = format!("{}", self.rng.u64(..));
        match self.ask(&["SET", &key, &value]).await {
            Ok(_) => self.recorder.put(key, value),
            Err(e) => drop(self.failed(&e)),
        }
    }

    async fn operate(&mut self) {
        let asked = self.recorder.ask();
        let key = asked / OPERATIONS_OF_KEYS * KEYS + self.rng.u64(..KEYS);
        let token: Arc<str> = format!("{}.{asked},", self.number).into();
        let action = self.draw(key, token);
        let name = name(&self.plan.prefix, key);
        let invoked = self.recorder.now();
        let answer = match &action {
            Action::Get(_) => self.ask(&["GET", &name]).await,
            Action::Set(value) => self.ask(&["SET", &name, value]).await,
            Action::Increment(_) => self.ask(&["INCR", &name]).await,
            Action::Append(token, _) => self.ask(&["APPEND", &name, token]).await,
            Action::Delete(_) => self.ask(&["DEL", &name]).await,
        };
        let outcome = match answer {
            Ok(answer) => match seen(&action, &answer) {
                Some(action) => Outcome::Done(action),
                None => {
                    self.recorder
                        .error(format!("{action:?} was answered {answer:?}"));
                    Outcome::Unknown(action)
                }
            },
            Err(e) => match self.failed(&e) {
                true => Outcome::Nothing,
                false => Outcome::Unknown(action),
            },
        };
        self.recorder.ended(key, invoked, outcome);
    }

    fn draw(&mut self, key: u64, token: Arc<str>) -> Action {
        let reads = self.rng.u8(..) < 100;
        match key % KEYS {
            _ if reads => Action::Get(None),
            0 | 1 if self.rng.u8(..) < 50 => Action::Delete(None),
            0 | 1 => Action::Set(token),
            2 | 3 => Action::Increment(None),
            _ => Action::Append(token, None),
        }
    }

    async fn ask(&mut self, words: &[&str]) -> Result<Value, RedisError> {
        match &mut self.connection {
            Some(connection) => admin::ask(connection, words).await,
            None => Err((ErrorKind::Io, "not connected").into()),
        }
    }

    /// Whether nothing has happened; goes to another node.
    fn failed(&mut self, error: &RedisError) -> bool {
        let text = said(error);
        self.leave();
        let named = text.strip_prefix("TRY ");
        let counted = named.map_or(text.as_str(), |_| "TRY another node");
        self.recorder.error(counted.to_owned());
        if let Some(address) = named {
            let addresses = self.addresses.read();
            let known = addresses.iter().position(|at| at.to_string() == address);
            self.at = known.unwrap_or(self.at);
        }
        is_nothing(&text)
    }
}

/// What the node said; of a connection that failed only how, since every one would count alone.
pub fn said(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => {
            let detail = error.detail().unwrap_or_default();
            let shown: String = detail.chars().take(SAID_MAX).collect();
            format!("{code} {shown}")
        }
        _ if error.is_timeout() => "no answer in time".to_owned(),
        _ => "the connection was lost".to_owned(),
    }
}

/// What a server says when nothing has happened (`resp/data.rs`, and the errors of the driver that
/// it shows); what is not among it may have happened.
const NOTHING: [&str; 7] = [
    "TRY ",
    "ERR leader not known",
    "ERR too much waits already",
    "ERR this node was removed",
    "ERR the node has stopped",
    "ERR no memory for the reply",
    "ERR max number of clients",
];

fn is_nothing(text: &str) -> bool {
    NOTHING.iter().any(|start| text.starts_with(start))
}

/// The action with what was seen; none when no such answer is due.
fn seen(action: &Action, answer: &Value) -> Option<Action> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).as_ref().into();
    Some(match (action, answer) {
        (Action::Set(value), Value::Okay) => Action::Set(Arc::clone(value)),
        (Action::Get(_), Value::Nil) => Action::Get(None),
        (Action::Get(_), Value::BulkString(bytes)) => Action::Get(Some(text(bytes))),
        (Action::Increment(_), Value::Int(sum)) => Action::Increment(Some(*sum)),
        (Action::Append(token, _), Value::Int(len)) => {
            Action::Append(Arc::clone(token), Some(*len))
        }
        (Action::Delete(_), Value::Int(count)) => Action::Delete(Some(*count)),
        _ => return None,
    })
}
