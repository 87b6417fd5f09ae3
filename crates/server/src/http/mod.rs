//! HTTP: what people, tools and probes ask a node.
//!
//! - [`Server`]: accepts connections, bounded in number and time.
//! - `routes`: which paths there are, and who may ask for them.
//! - `health`, `cluster`: how the node and its cluster stand.
//!
//! A node that still opens its store, or joins, answers already: that it is not ready.

mod cluster;
mod error;
mod health;
mod leader;
mod routes;
mod server;

use std::sync::{Arc, OnceLock};

use raft_rocks::RaftMachineStorage;
use raft_rocks_grpc::{GrpcTransport, Invitations};

pub use server::Server;

use crate::frontend::Frontend;
use crate::resp::{self, Secret};
use leader::Leader;

/// A node that has started, as HTTP serves it.
pub struct Serving {
    frontend: Arc<Frontend>,
    clients: Arc<resp::Context>,
    storage: RaftMachineStorage,
    leader: Leader,
}

impl Serving {
    /// Serves this node.
    pub fn new(
        frontend: Arc<Frontend>,
        clients: Arc<resp::Context>,
        storage: RaftMachineStorage,
        transport: Arc<GrpcTransport>,
    ) -> Self {
        Serving {
            frontend,
            clients,
            storage,
            leader: Leader::new(transport),
        }
    }
}

/// Where the node is put once it has started.
pub type Place = Arc<OnceLock<Arc<Serving>>>;

/// What every request finds.
#[derive(Clone)]
struct State {
    place: Place,
    secret: Option<Secret>,
    /// Of a node that belongs to no cluster yet.
    invitations: Option<Invitations>,
}

impl State {
    /// Why there is no node yet.
    fn starting(&self) -> &'static str {
        let waits = self.invitations.as_ref().is_some_and(Invitations::waits);
        match waits {
            true => "waiting to be invited into a cluster: a member is to add this node",
            false => "starting: the node opens its store, or joins",
        }
    }
}
