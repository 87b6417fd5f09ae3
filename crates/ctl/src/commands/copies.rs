//! `backup` and `restore`.

use anyhow::{Context as _, Result, bail};
use raft_rocks::{Options, RaftStore, tools};

use super::read::hex;
use crate::args::{Common, CopyArgs};
use crate::exit::Exit;

pub fn backup(common: &Common, args: &CopyArgs) -> Result<Exit> {
    // An open would make a new store.
    if !args.from.join("db").join("CURRENT").exists() {
        bail!(
            "{} is no store, or a damaged one: see `doctor`",
            args.from.display()
        );
    }
    let mut options = Options::default();
    options.snapshot_dir.clone_from(&common.snapshots);
    let store = RaftStore::open(&args.from, options).context("opening the store")?;
    for group in store.groups()? {
        store
            .group(group)
            .context("a backup of a damaged store is none")?;
    }
    store.backup(&args.to)?;
    let of = hex(&store.store_id()?);
    store.close()?;
    say!("{}: a backup of the store {of}", args.to.display());
    Ok(Exit::Sound)
}

pub fn restore(args: &CopyArgs) -> Result<Exit> {
    tools::restore(&args.from, &args.to).context("restoring")?;
    let store =
        RaftStore::open(&args.to, Options::default()).context("opening what was restored")?;
    say!("{}: store {}", args.to.display(), hex(&store.store_id()?));
    store.close()?;
    eprintln!(
        "It has forgotten what the node acknowledged after the backup, votes perhaps. Start a NEW \
         node with a new id on it, as a learner; under the old id it may vote twice."
    );
    Ok(Exit::Sound)
}
