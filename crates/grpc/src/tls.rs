//! Who is who: certificates of a private authority that name the cluster and the node.
//!
//! Invariants:
//! 1. Both sides show a certificate of the authority of their cluster; nothing is said to one
//!    without.
//! 2. A receiver is addressed under the name of the node that it should be, so that rustls
//!    itself refuses another node's certificate.
//! 3. What a sender may say is decided by its certificate, never by what it says.

use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, version};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What all names end with. No name server knows them: addresses are not what is verified.
const DOMAIN: &str = "raft-rocks.internal";

/// What both sides speak above TLS.
const HTTP_2: &[u8] = b"h2";

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The own certificate does not name a member of a cluster.
    #[error(
        "the certificate names no node of a raft-rocks cluster ({0}); `raft-rocks-server certs` \
         makes such ones"
    )]
    Name(String),
    /// Certificates and key do not belong together, or are none.
    #[error("the certificates cannot be used: {0}; give PEM files that were made together")]
    Use(String),
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// The node with this id.
    Node(u64),
    /// Who runs the cluster, and applications: served by the `Cluster` service alone.
    Client,
}

/// The certificates of one node, and of its cluster's authority.
#[derive(Clone)]
pub struct Tls {
    authority: Certificate,
    identity: Identity,
    server: Arc<ServerConfig>,
    cluster: String,
    party: Party,
}

impl Tls {
    /// Reads PEM files: the authority's certificate, the own one and its key.
    ///
    /// # Errors
    /// [`TlsError`]: a file cannot be read, or the own certificate names nobody.
    pub fn read(authority: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| TlsError::File {
                path: path.display().to_string(),
                source,
            })
        };
        Tls::from_pem(&read(authority)?, &read(certificate)?, &read(key)?)
    }

    /// As [`read`](Tls::read), of their contents.
    ///
    /// # Errors
    /// [`TlsError::Name`], [`TlsError::Use`].
    pub fn from_pem(authority: &str, certificate: &str, key: &str) -> Result<Self, TlsError> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .map_err(|e| TlsError::Name(e.to_string()))?;
        let (cluster, party) = named_by(&pem.contents).map_err(TlsError::Name)?;
        Ok(Tls {
            authority: Certificate::from_pem(authority),
            identity: Identity::from_pem(certificate, key),
            server: Arc::new(server_config(authority, certificate, key).map_err(TlsError::Use)?),
            cluster,
            party,
        })
    }

    /// The name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whom the own certificate names.
    pub fn party(&self) -> &Party {
        &self.party
    }

    /// For a server: who has no certificate of the authority is not served.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.server).into()
    }

    /// For a client of node `to`; 0: of any node of the cluster.
    pub fn client_config(&self, to: u64) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity.clone())
            .ca_certificate(self.authority.clone())
            .domain_name(match to {
                0 => member_name(&self.cluster),
                to => node_name(&self.cluster, to),
            })
    }

    /// Whom the certificate of the other side names.
    pub(crate) fn check(&self, shown: Option<&[CertificateDer<'static>]>) -> Result<Party, String> {
        let first = shown.and_then(<[_]>::first).ok_or("no certificate")?;
        let (cluster, party) = named_by(first)?;
        match cluster == self.cluster {
            true => Ok(party),
            false => Err(format!("a certificate of cluster {cluster}")),
        }
    }
}

fn server_config(authority: &str, certificate: &str, key: &str) -> Result<ServerConfig, String> {
    let told = |e: &dyn ToString| e.to_string();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots
            .add(root.map_err(|e| told(&e))?)
            .map_err(|e| told(&e))?;
    }
    let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| told(&e))?;
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|e| told(&e))?
        .with_client_cert_verifier(clients.build().map_err(|e| told(&e))?)
        .with_single_cert(own.map_err(|e| told(&e))?, key)
        .map_err(|e| told(&e))?;
    config.alpn_protocols.push(HTTP_2.to_vec());
    Ok(config)
}

/// The name of a node.
pub(crate) fn node_name(cluster: &str, id: u64) -> String {
    format!("node-{id}.{cluster}.{DOMAIN}")
}

/// The name of any node of a cluster.
pub(crate) fn member_name(cluster: &str) -> String {
    format!("member.{cluster}.{DOMAIN}")
}

/// The name of who is no node.
#[cfg(feature = "certs")]
pub(crate) fn client_name(cluster: &str) -> String {
    format!("client.{cluster}.{DOMAIN}")
}

fn named_by(certificate: &[u8]) -> Result<(String, Party), String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|e| e.to_string())?.ok_or("without names")?;
    let names = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
    let mut named = names.filter_map(party_of);
    let first = named.next().ok_or("no name of ours")?;
    match named.next() {
        None => Ok(first),
        Some(_) => Err("it names several".to_owned()),
    }
}

/// The cluster and whom a name means; `None` for others, and for that of any member.
fn party_of(name: &str) -> Option<(String, Party)> {
    let rest = name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    let (party, cluster) = rest.split_once('.')?;
    let party = match party.strip_prefix("node-") {
        Some(id) => Party::Node(id.parse().ok().filter(|id| *id != 0)?),
        None if party == "client" => Party::Client,
        None => return None,
    };
    Some((cluster.to_owned(), party))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_one_party_of_one_cluster() {
        let named = |name: &str| party_of(name);
        assert_eq!(
            named(&node_name("blue", 7)),
            Some(("blue".to_owned(), Party::Node(7)))
        );
        let client = named("client.blue.raft-rocks.internal");
        assert_eq!(client, Some(("blue".to_owned(), Party::Client)));
        for other in [
            &member_name("blue")[..],
            "node-0.blue.raft-rocks.internal",
            "node-x.blue.raft-rocks.internal",
            "node-1.raft-rocks.internal",
            "node-1.blue.raft-rocks.internal.example.com",
            "node-1.blue.evilraft-rocks.internal",
            "",
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
