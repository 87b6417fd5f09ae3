//! A private authority and certificates under it, to try a cluster out; for one that lasts use
//! an authority of your own, with the same names.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::tls::{Party, client_name, member_name, node_name};

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pem {
    /// To be shown.
    pub certificate: String,
    /// To be kept secret.
    pub key: String,
}

/// The authority of one cluster.
pub struct Authority {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    pem: Pem,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertsError {
    /// The name of a cluster is part of host names.
    #[error("a cluster's name has lower-case letters, digits and hyphens, not {0:?}")]
    Cluster(String),
    /// The library that makes them refuses.
    #[error(transparent)]
    Made(#[from] rcgen::Error),
}

impl Authority {
    /// A new authority for the cluster of this name.
    ///
    /// # Errors
    /// The name cannot be part of a host name; or no key could be made.
    pub fn new(cluster: &str) -> Result<Self, CertsError> {
        check(cluster)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, format!("raft-rocks cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let pem = Pem {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        Authority::from_pem(cluster, pem)
    }

    /// The authority that was made before.
    ///
    /// # Errors
    /// As [`new`](Authority::new); or these are no certificate and key.
    pub fn from_pem(cluster: &str, pem: Pem) -> Result<Self, CertsError> {
        check(cluster)?;
        let issuer = Issuer::from_ca_cert_pem(&pem.certificate, KeyPair::from_pem(&pem.key)?)?;
        Ok(Authority {
            cluster: cluster.to_owned(),
            issuer,
            pem,
        })
    }

    /// Its own certificate, which every node needs, and its key, which none does.
    pub fn pem(&self) -> &Pem {
        &self.pem
    }

    /// A certificate for a node or a client.
    ///
    /// # Errors
    /// No key could be made.
    pub fn issue(&self, party: &Party) -> Result<Pem, CertsError> {
        let names = match party {
            Party::Node(id) => vec![node_name(&self.cluster, *id), member_name(&self.cluster)],
            Party::Client => vec![client_name(&self.cluster)],
        };
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.clone())?;
        if let Some(name) = names.into_iter().next() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(party, Party::Node(_)) {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pem {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn check(cluster: &str) -> Result<(), CertsError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=32).contains(&cluster.len())
        && cluster.bytes().all(fits)
        && !cluster.starts_with('-')
        && !cluster.ends_with('-');
    match is_name {
        true => Ok(()),
        false => Err(CertsError::Cluster(cluster.to_owned())),
    }
}
