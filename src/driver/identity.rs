//! Who a node is, as its store remembers it: written before anything else.

use prost::Message;

use super::book::NodeInfo;
use super::log_store::{DRIVER_FAMILY, LogStore, Writes};

const IDENTITY_KEY: &[u8] = b"identity";

/// What a store remembers of the node that it belongs to.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Identity {
    /// The node's id.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// The cluster it is a member of.
    #[prost(bytes = "vec", tag = "2")]
    pub cluster_id: Vec<u8>,
    /// The id of the store when this was written: a restored copy has another.
    #[prost(bytes = "vec", tag = "3")]
    pub store_id: Vec<u8>,
    /// Of a node that joined: members that it can ask before it has heard of any. Of one of the
    /// first: the first membership.
    #[prost(message, repeated, tag = "4")]
    pub members: Vec<NodeInfo>,
    /// It is one of the first: the log begins with the first membership.
    #[prost(bool, tag = "5")]
    pub is_founder: bool,
    /// The node was removed from its cluster.
    #[prost(bool, tag = "6")]
    pub removed: bool,
    /// A new cluster was being forced from it: it is of neither cluster until that is done.
    #[prost(bool, tag = "7")]
    pub forcing: bool,
}

/// Reads it; `None` from a store without one.
pub(crate) fn load<S: LogStore>(store: &S) -> crate::driver::Result<Option<Identity>> {
    let Some(bytes) = store.get(DRIVER_FAMILY, IDENTITY_KEY)? else {
        return Ok(None);
    };
    let identity = Identity::decode(&bytes[..]);
    Ok(Some(identity.map_err(|e| {
        super::error::Error::format("the node's identity", e)
    })?))
}

/// Writes it, synced.
pub(crate) fn save<S: LogStore>(store: &S, identity: &Identity) -> crate::Result<()> {
    let mut writes = Writes::default();
    writes.put(DRIVER_FAMILY, IDENTITY_KEY, identity.encode_to_vec());
    store.write(&writes)
}

pub(crate) fn note_removed<S: LogStore>(store: &S) -> crate::driver::Result<()> {
    if let Some(identity) = load(store)? {
        let removed = true;
        save(
            store,
            &Identity {
                removed,
                ..identity
            },
        )?;
    }
    Ok(())
}
