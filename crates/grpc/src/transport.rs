//! The driver's transport over gRPC.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use raft_rocks::driver::{Inbox, Lane, NodeInfo, Packet, SendError, Transport};
use tokio::runtime::Handle;
use tonic::transport::Endpoint;

use crate::link::Link;
use crate::tls::{Party, Tls, TlsError};

/// Streams at a time. Whoever asks something is answered at the address that he names.
const LINKS_MAX: usize = 1024;

/// Bounds and times of a transport.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportOptions {
    /// Packets that wait for one receiver in one lane; more are refused. Default: 4096.
    pub packets_max: usize,
    /// Bytes of messages that wait for one receiver. Default: 32 MiB.
    pub message_bytes_max: usize,
    /// Bytes of pieces of snapshots that wait for one receiver. Default: 8 MiB.
    pub snapshot_bytes_max: usize,
    /// How long a connection may take to come about. Default: 2 s.
    pub connect_patience: Duration,
    /// A connection on which nothing comes back for this long is dead. Default: 4 s.
    pub keep_alive: Duration,
    /// How long nothing is sent after a failure, at first. Default: 50 ms.
    pub reconnect_min: Duration,
    /// And at most. Default: 2 s.
    pub reconnect_max: Duration,
    /// A stream on which nothing is sent for this long ends. Default: 5 min.
    pub idle: Duration,
}

impl Default for TransportOptions {
    fn default() -> Self {
        TransportOptions {
            packets_max: 4096,
            message_bytes_max: 32 << 20,
            snapshot_bytes_max: 8 << 20,
            connect_patience: Duration::from_secs(2),
            keep_alive: Duration::from_secs(4),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(2),
            idle: Duration::from_secs(300),
        }
    }
}

/// Sends packets to other nodes, at the `host:port` of their [`NodeInfo`].
pub struct GrpcTransport {
    shared: Arc<Shared>,
    links: Mutex<HashMap<Receiver, Link>>,
}

/// A node that moved, or an address that another node has now, is another receiver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Receiver {
    address: String,
    id: u64,
    lane: Lane,
}

pub(crate) struct Shared {
    pub options: TransportOptions,
    pub runtime: Handle,
    tls: Option<Tls>,
    inbox: OnceLock<Inbox>,
}

impl Shared {
    pub(crate) fn inbox(&self) -> Option<&Inbox> {
        self.inbox.get()
    }
}

impl GrpcTransport {
    /// A transport whose tasks run on the runtime that this is called on. Without certificates
    /// nobody is who he says: for one machine, or a network that nobody else is on.
    ///
    /// # Errors
    /// [`TlsError::Name`]: the certificate is not that of a node.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(options: TransportOptions, tls: Option<Tls>) -> Result<Self, TlsError> {
        if let Some(tls) = &tls
            && *tls.party() == Party::Client
        {
            return Err(TlsError::Name("it is a client's".to_owned()));
        }
        let shared = Arc::new(Shared {
            options,
            runtime: Handle::current(),
            tls,
            inbox: OnceLock::new(),
        });
        Ok(GrpcTransport {
            shared,
            links: Mutex::default(),
        })
    }

    /// The node that learns whom it cannot reach. Once.
    pub fn report_to(&self, inbox: Inbox) {
        // The first stays.
        let _ = self.shared.inbox.set(inbox);
    }

    fn endpoint(&self, receiver: &Receiver) -> Result<Endpoint, tonic::transport::Error> {
        let options = &self.shared.options;
        let scheme = match self.shared.tls {
            Some(_) => "https",
            None => "http",
        };
        let uri = format!("{scheme}://{}", receiver.address);
        let endpoint = Endpoint::from_shared(uri)?
            .connect_timeout(options.connect_patience)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(options.keep_alive))
            .http2_keep_alive_interval(options.keep_alive / 2)
            .keep_alive_timeout(options.keep_alive / 2)
            .keep_alive_while_idle(true);
        match &self.shared.tls {
            Some(tls) => {
                // Who accepts and then says nothing would be waited for for ever.
                let config = tls.client_config(receiver.id);
                endpoint.tls_config(config.timeout(options.connect_patience))
            }
            None => Ok(endpoint),
        }
    }
}

impl Transport for GrpcTransport {
    fn send(&self, to: &NodeInfo, packet: Packet) -> Result<(), SendError> {
        let receiver = Receiver {
            address: to.address.clone(),
            id: to.id,
            lane: packet.lane(),
        };
        let bytes = packet.encode().map_err(|e| {
            log::warn!("a packet for node {} cannot be sent: {e}", to.id);
            SendError::Full
        })?;
        let options = &self.shared.options;
        let bytes_max = match receiver.lane {
            Lane::Messages => options.message_bytes_max,
            Lane::Snapshots => options.snapshot_bytes_max,
        };
        let mut links = self.links.lock();
        if let Some(link) = links.get(&receiver)
            && !link.has_ended()
        {
            return link.send(bytes, bytes_max);
        }
        links.retain(|_, link| !link.has_ended());
        if links.len() >= LINKS_MAX {
            log::warn!("no stream to {:?}: there are {LINKS_MAX}", to.address);
            return Err(SendError::Unreachable);
        }
        let endpoint = self.endpoint(&receiver).map_err(|e| {
            log::warn!("node {} cannot be at {:?}: {e}", to.id, to.address);
            SendError::Unreachable
        })?;
        let link = Link::start(&self.shared, endpoint, receiver.id, receiver.lane);
        let sent = link.send(bytes, bytes_max);
        links.insert(receiver, link);
        sent
    }
}
