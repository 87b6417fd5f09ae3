//! What a node tells all others of itself, beside where they reach it.

use raft_rocks::driver::NodeInfo;
use serde::{Deserialize, Serialize};

/// The context of a [`NodeInfo`], in JSON, so that a later version may add to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Where its clients reach it, `host:port`.
    #[serde(default)]
    pub client: String,
    /// Where its HTTP is reached, `host:port`; `None`: it has none, or did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop")]

    use super::*;

    #[test]
    fn what_an_older_version_told_is_still_read() {
        let node = |context: &[u8]| NodeInfo {
            address: "10.0.0.1:7482".to_owned(),
            context: context.to_vec(),
            ..NodeInfo::default()
        };
        let old = node(br#"{"client":"10.0.0.1:7481"}"#);
        assert_eq!(client_address(&old), "10.0.0.1:7481");
        assert_eq!(Published::of(&old).http, None);
        let newer = node(br#"{"client":"c","http":"h","later":1}"#);
        assert_eq!(Published::of(&newer).http.unwrap(), "h");
        assert_eq!(client_address(&node(b"not JSON")), "10.0.0.1:7482");
    }
}
