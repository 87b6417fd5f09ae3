//! gRPC for the nodes of a raft-rocks cluster: a [`Transport`] for the driver, and a service for
//! those who run the cluster and for applications in other languages.
//!
//! - [`GrpcTransport`] sends the driver's packets: one long-lived stream per receiver and lane,
//!   bounded, with reconnection.
//! - [`Server`] receives them, and serves the `Cluster` service of a node.
//! - [`ClusterClient`] asks that service. [`add_member`] has a node join that waits for it with
//!   [`Invitations`].
//! - [`Tls`]: both sides show a certificate that names their cluster and their node.
//!
//! `proto/raft_rocks.proto` describes the services.
//!
//! ```no_run
//! # use std::sync::{Arc, OnceLock};
//! # use raft_rocks::driver::{Builder, NodeOptions, StateMachine, store_options};
//! # use raft_rocks::{Options, RaftMachineStorage};
//! use raft_rocks_grpc::{GrpcTransport, Server, TransportOptions};
//!
//! # async fn start(machine: impl StateMachine) -> Result<(), Box<dyn std::error::Error>> {
//! let transport = Arc::new(GrpcTransport::new(TransportOptions::default(), None)?);
//! let store = RaftMachineStorage::open("data", store_options(Options::default()))?;
//! let options = NodeOptions::new("10.0.0.1:7482");
//! let builder = Builder::new(store, machine, transport.clone(), options)?;
//! transport.report_to(builder.inbox());
//! let listener = tokio::net::TcpListener::bind("10.0.0.1:7482").await?;
//! let node = Arc::new(OnceLock::new());
//! let server = Server::new(builder.inbox(), None).with_cluster(Arc::clone(&node));
//! let served = tokio::spawn(server.serve(listener, std::future::pending()));
//! node.get_or_init(|| builder.bootstrap().expect("a fresh store"));
//! served.await??;
//! # Ok(())
//! # }
//! ```
//!
//! [`Transport`]: raft_rocks::driver::Transport

mod add;
#[cfg(feature = "certs")]
pub mod certs;
mod client;
mod cluster;
mod incoming;
mod invitation;
mod link;
mod peer;
mod seldom;
mod server;
mod tls;
mod transport;

pub use add::{AddError, Newcomer, add_member};
pub use client::{ClientError, ClusterClient};
pub use invitation::{Invitation, Invitations};
pub use seldom::Seldom;
pub use server::Server;
pub use tls::{Party, Tls, TlsError};
pub use transport::{GrpcTransport, TransportOptions};

/// The services and messages of `proto/raft_rocks.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod proto {
    tonic::include_proto!("raft_rocks.v1");
}

/// The version of the protocol, in the metadata [`PROTOCOL_KEY`] of every call.
pub const PROTOCOL: &str = "1";
/// The name of that metadata.
pub const PROTOCOL_KEY: &str = "raft-rocks-protocol";
/// The metadata of an error that names who leads.
pub const LEADER_KEY: &str = "raft-rocks-leader";

/// A packet and what a message around it adds.
const MESSAGE_BYTES_MAX: usize = raft_rocks::driver::FRAME_BYTES_MAX + (1 << 10);
