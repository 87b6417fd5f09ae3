//! `raft-rocks-server certs`: a private authority and certificates under it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use raft_rocks_grpc::Party;
use raft_rocks_grpc::certs::{Authority, Pem};

/// Makes a certificate for a node or a client, and before that the authority that signs it, where
/// there is none: to try a cluster out.
#[derive(Clone, Debug, Args)]
pub struct CertsArgs {
    /// The cluster's name: lower-case letters, digits and hyphens.
    #[arg(long)]
    cluster: String,
    /// Where the authority and the certificates stand. Keep `ca.key` where no node is.
    #[arg(long)]
    dir: PathBuf,
    #[command(flatten)]
    party: PartyArgs,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct PartyArgs {
    /// For the node with this number.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// For who runs the cluster, and applications.
    #[arg(long)]
    client: bool,
}

/// Makes what was asked for; the lines that say what there is.
///
/// # Errors
/// There is one already, or files cannot be read or written.
pub fn run(args: &CertsArgs) -> anyhow::Result<Vec<String>> {
    let dir = &args.dir;
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.with_context(|| format!("--dir {}: cannot make it", dir.display()))?;
    let mut told = Vec::new();
    let authority = authority(args, &mut told)?;
    let (name, party) = match args.party.node {
        Some(id) => (format!("node-{id}"), Party::Node(id)),
        None => ("client".to_owned(), Party::Client),
    };
    put(dir, &name, &authority.issue(&party)?, &mut told)?;
    Ok(told)
}

fn authority(args: &CertsArgs, told: &mut Vec<String>) -> anyhow::Result<Authority> {
    let (certificate, key) = (args.dir.join("ca.pem"), args.dir.join("ca.key"));
    if !certificate.exists() && !key.exists() {
        let authority = Authority::new(&args.cluster)?;
        put(&args.dir, "ca", authority.pem(), told)?;
        return Ok(authority);
    }
    let pem = Pem {
        certificate: read(&certificate)?,
        key: read(&key)?,
    };
    let authority = Authority::from_pem(&args.cluster, pem);
    authority.with_context(|| format!("the authority in {}", args.dir.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The key first: a certificate without one would be of no use.
fn put(dir: &Path, name: &str, pem: &Pem, told: &mut Vec<String>) -> anyhow::Result<()> {
    for (ending, text) in [("key", &pem.key), ("pem", &pem.certificate)] {
        let path = dir.join(format!("{name}.{ending}"));
        let mut file = create(&path)?;
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all());
        written.with_context(|| format!("cannot write {}", path.display()))?;
        told.push(format!("made {}", path.display()));
    }
    Ok(())
}

/// Nothing is overwritten: somebody may use it.
fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!(
                "{} is there already; remove it to have a new one",
                path.display()
            )
        }
        Err(e) => Err(e).with_context(|| format!("cannot make {}", path.display())),
    }
}
