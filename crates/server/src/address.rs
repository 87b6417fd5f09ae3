//! What a node tells all others of itself, beside where they reach it.

use raft_rocks::driver::NodeInfo;
use serde::{Deserialize, Serialize};

/// The context of a [`NodeInfo`], in JSON, so that a later version may add to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Where its clients reach it, `host:port`.
    #[serde(default)]
    pub client: String,
}

impl Published {
    /// What is told, as bytes.
    pub fn to_context(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What this node has told, as far as it can be read.
    pub fn of(node: &NodeInfo) -> Self {
        serde_json::from_slice(&node.context).unwrap_or_default()
    }
}

/// Where clients reach a node; of one that has not said so, where nodes do.
pub fn client_address(node: &NodeInfo) -> String {
    match Published::of(node).client {
        none if none.is_empty() => node.address.clone(),
        address => address,
    }
}
