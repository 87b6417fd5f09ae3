//! HTTP: what people, tools and probes ask a node.
//!
//! - [`Server`]: accepts connections, bounded in number and time.
//! - `routes`: which paths there are, and who may ask for them; `openapi` describes them.
//! - `health`, `cluster`, `history`: how the node and its cluster stand.
//! - `members`, `backup`: what is done with them.
//! - `kv`: keys and values; `eosc`: some of all this as another system has it.
//!
//! A node whose store is still opened, or that joins, or waits to be invited, answers already: that
//! it is not ready.

mod backup;
mod cluster;
mod eosc;
mod error;
mod extract;
mod health;
mod history;
mod kv;
mod leader;
mod members;
mod openapi;
mod routes;
mod server;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use raft_rocks::RaftMachineStorage;
use raft_rocks_grpc::{Invitations, Tls};
use tokio::sync::Semaphore;

pub use history::sample;
pub use server::Server;

use crate::frontend::Frontend;
use crate::resp::{self, Secret};
use backup::Backups;
use history::History;
use leader::Leader;

/// Requests for keys and values at a time: each holds a value of 1 MiB, or some copies of it.
const TURNS: usize = 64;

/// A node that has started, as HTTP serves it.
pub struct Serving {
    frontend: Arc<Frontend>,
    clients: Arc<resp::Context>,
    leader: Leader,
    history: History,
    backups: Backups,
}

impl Serving {
    /// Serves this node, whose store is below `dir`.
    pub fn new(
        frontend: Arc<Frontend>,
        clients: Arc<resp::Context>,
        tls: Option<Tls>,
        storage: RaftMachineStorage,
        dir: &Path,
    ) -> Self {
        Serving {
            frontend,
            clients,
            leader: Leader::new(tls),
            history: History::default(),
            backups: Backups::new(storage, dir),
        }
    }

    /// Lets go of the store.
    pub async fn close(&self) {
        self.backups.close().await;
    }
}

/// Where the node is put once it has started, and before that how far it has come.
#[derive(Clone, Default)]
pub struct Place(Arc<Stages>);

#[derive(Default)]
struct Stages {
    /// Set when the store is open; of a node that belongs to no cluster and waits for one.
    invitations: OnceLock<Option<Invitations>>,
    serving: OnceLock<Arc<Serving>>,
}

impl Place {
    /// The store is open. Told once.
    pub fn opened(&self, invitations: Option<Invitations>) {
        // Of what is told again nothing is kept.
        let _ = self.0.invitations.set(invitations);
    }

    /// The node has started. Told once.
    pub fn started(&self, serving: Arc<Serving>) {
        // As above.
        let _ = self.0.serving.set(serving);
    }

    fn get(&self) -> Option<&Arc<Serving>> {
        self.0.serving.get()
    }

    /// Why there is no node yet.
    fn starting(&self) -> &'static str {
        match self.0.invitations.get() {
            None => "starting: the store is opened and verified",
            Some(Some(invitations)) if invitations.waits() => {
                "waiting to be invited into a cluster: a member is to add this node"
            }
            Some(_) => "starting: the node joins a cluster, or takes up where it was",
        }
    }
}

/// What every request finds.
#[derive(Clone)]
struct State {
    place: Place,
    secret: Option<Secret>,
    /// The name under which HTTP is reached, if it has one.
    name: Option<String>,
    turns: Arc<Semaphore>,
}
