//! What other nodes send.
//!
//! Invariants:
//! 1. Protocol and certificate are checked before anything is read, and with every packet that
//!    its sender is whom the certificate names; cluster, node and store by the node itself,
//!    before anything of it reaches raft.
//! 2. No message is longer than a packet may be: tonic refuses it by its declared length, and
//!    reserves memory for others as they are declared.

use raft_rocks::driver::{Ask, Body, Inbox, Lane, Packet, Refused};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::proto::peer_server::Peer;
use crate::proto::{Frame, Nothing};
use crate::server::Caller;
use crate::tls::Party;

pub(crate) struct PeerService {
    pub inbox: Inbox,
    pub caller: Caller,
    /// Becomes true when the server ends: the streams of others never do by themselves.
    pub ends: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn messages(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Nothing>, Status> {
        self.receive(request, Lane::Messages).await
    }

    async fn snapshots(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Nothing>, Status> {
        self.receive(request, Lane::Snapshots).await
    }
}

impl PeerService {
    async fn receive(
        &self,
        request: Request<Streaming<Frame>>,
        lane: Lane,
    ) -> Result<Response<Nothing>, Status> {
        let named = match self.caller.check(&request)? {
            None => None,
            Some(Party::Node(id)) => Some(id),
            Some(Party::Client) => {
                return Err(Status::permission_denied("the certificate is no node's"));
            }
        };
        let mut frames = request.into_inner();
        let mut ends = self.ends.clone();
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame.inspect_err(tell)?,
                _ = ends.wait_for(|ends| *ends) => {
                    return Err(Status::unavailable("the node stops"));
                }
            };
            let Some(frame) = frame else {
                return Ok(Response::new(Nothing {}));
            };
            let taken = self.take(&frame.packet, named, lane);
            taken.inspect_err(|status| log::warn!("a stream is ended: {}", status.message()))?;
        }
    }

    fn take(&self, packet: &[u8], named: Option<u64>, lane: Lane) -> Result<(), Status> {
        let bad = |e: &dyn ToString| Status::invalid_argument(e.to_string());
        let packet = Packet::decode(packet).map_err(|e| bad(&e))?;
        if packet.lane() != lane {
            return Err(bad(&"a packet of the other stream"));
        }
        if let Some(named) = named
            && !is_of(&packet, named)
        {
            return Err(Status::permission_denied(format!(
                "a packet of node {} with the certificate of node {named}",
                packet.from
            )));
        }
        match self.inbox.receive(packet) {
            Err(e @ (Refused::OtherCluster | Refused::Left | Refused::Wiped)) => {
                Err(Status::failed_precondition(e.to_string()))
            }
            Err(e @ Refused::Gone) => Err(Status::unavailable(e.to_string())),
            // Stale, or for who was here before: the next packet may be right. The node has
            // logged it.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// That a stream broke is nothing: nodes come and go.
fn tell(status: &Status) {
    match status.code() {
        Code::OutOfRange => log::warn!("a stream is ended: {}", status.message()),
        _ => log::debug!("a stream ended: {}", status.message()),
    }
}

/// Whether it may come from the node that the certificate names.
fn is_of(packet: &Packet, named: u64) -> bool {
    match &packet.body {
        // Who joins has no id yet; the certificate says which it is to be.
        Body::Request(request) if packet.from == 0 || packet.cluster_id.is_empty() => {
            let is_own = matches!(&request.ask, Ask::Join(node) if node.id == named);
            is_own && (packet.from == 0 || packet.from == named)
        }
        _ => packet.from == named,
    }
}
