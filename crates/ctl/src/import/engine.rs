//! A raft-engine directory, as TiKV and others write it.
//!
//! raft-engine stores entries and keys of the user's own choice: where the hard state and the
//! configuration stand, if at all, only the user knows. Neither is guessed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use prost::Message as _;
use protobuf::Message as _;
use protobuf::well_known_types::Empty;
use raft_engine::{Config, Engine, MessageExt};
use raft_rocks::raft::eraftpb::Entry;
use raft_rocks::record::{ConfState, HardState};
use tempfile::TempDir;

use super::{Group, Layout, Paths, base_behind};
use crate::args::Common;

/// The field number of an entry's index.
const INDEX: u32 = 3;

#[derive(Args)]
pub struct EngineArgs {
    #[command(flatten)]
    pub(super) paths: Paths,

    /// Only this region; it becomes the group of the same id unless --group is given
    #[arg(long, value_name = "ID")]
    region: Option<u64>,

    /// The group that the region becomes
    #[arg(long, value_name = "ID", requires = "region")]
    group: Option<u64>,

    /// The key, in hexadecimal, of a region's hard state: an eraftpb.HardState
    #[arg(long, value_name = "HEX", conflicts_with_all = ["term", "vote", "commit"])]
    hard_state_key: Option<String>,

    /// The node's current term, where no key holds it
    #[arg(long, requires_all = ["vote", "commit", "region"])]
    term: Option<u64>,

    /// The node that it voted for in this term, 0 for none
    #[arg(long, requires = "term")]
    vote: Option<u64>,

    /// The last index known to be committed
    #[arg(long, requires = "term")]
    commit: Option<u64>,

    /// The key, in hexadecimal, of a region's configuration: an eraftpb.ConfState
    #[arg(long, value_name = "HEX", conflicts_with_all = ["voters", "learners"])]
    conf_state_key: Option<String>,

    /// The voters at the applied index, where no key holds them
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    voters: Vec<u64>,

    /// The learners at the applied index
    #[arg(long, value_name = "ID", value_delimiter = ',', requires = "voters")]
    learners: Vec<u64>,

    /// How far the state machine's state is durable: an index, or "commit"
    #[arg(long, value_name = "INDEX|commit")]
    applied: Option<String>,
}

/// A copy of the directory, opened: raft-engine writes to what it opens.
pub struct RaftEngine {
    engine: Engine,
    states: States,
    regions: Vec<(u64, u64)>,
    _scratch: TempDir,
}

/// What the user has said about the states.
struct States {
    hard_state: Given<HardState>,
    conf_state: Given<ConfState>,
    /// `None`: the commit.
    applied: Option<u64>,
}

enum Given<T> {
    Key(Vec<u8>),
    Value(T),
}

/// Any message: the fields stay as they were read. raft's entries implement what raft-engine asks
/// for in one of its two codecs only.
struct AnyEntry;

impl MessageExt for AnyEntry {
    type Entry = Empty;

    fn index(entry: &Empty) -> u64 {
        let field = entry.get_unknown_fields().get(INDEX);
        field
            .and_then(|values| values.varint.last().copied())
            .unwrap_or(0)
    }
}

impl RaftEngine {
    pub fn open(args: &EngineArgs, common: &Common) -> Result<RaftEngine> {
        let states = States::given(args)?;
        let scratch = TempDir::new_in(&common.scratch)?;
        copy_files(&args.paths.source, scratch.path())?;
        let config = Config {
            dir: scratch.path().to_string_lossy().into_owned(),
            ..Config::default()
        };
        let engine = Engine::open(config).context("opening a copy of the source")?;
        let mut regions = engine.raft_groups();
        regions.sort_unstable();
        let regions = match args.region {
            None => regions.into_iter().map(|region| (region, region)).collect(),
            Some(region) => {
                ensure!(
                    regions.contains(&region),
                    "there is no region {region}; there are {regions:?}"
                );
                vec![(region, args.group.unwrap_or(region))]
            }
        };
        Ok(RaftEngine {
            engine,
            states,
            regions,
            _scratch: scratch,
        })
    }

    fn group(&self, region: u64, id: u64) -> Result<Group> {
        let at = |key: &[u8]| {
            let value = self.engine.get(region, key);
            value.with_context(|| format!("region {region} has no such key as given"))
        };
        let hard_state = match &self.states.hard_state {
            Given::Value(state) => state.clone(),
            Given::Key(key) => HardState::decode(at(key)?.as_slice()).context("the hard state")?,
        };
        let conf_state = match &self.states.conf_state {
            Given::Value(state) => state.clone(),
            Given::Key(key) => {
                ConfState::decode(at(key)?.as_slice()).context("the configuration")?
            }
        };
        let applied = self.states.applied.unwrap_or(hard_state.commit);
        let (base, last) = match (
            self.engine.first_index(region),
            self.engine.last_index(region),
        ) {
            (Some(1), Some(last)) => ((0, 0), last),
            (Some(first), Some(last)) => (base_behind(&self.read(region, first)?, applied)?, last),
            _ => ((0, 0), 0),
        };
        let mut group = Group {
            id,
            base,
            last,
            hard_state,
            conf_state,
            applied,
            snapshot: None,
        };
        group.check().with_context(|| format!("region {region}"))?;
        Ok(group)
    }

    fn read(&self, region: u64, index: u64) -> Result<Entry> {
        let read = self.engine.get_entry::<AnyEntry>(region, index);
        let message = read
            .with_context(|| format!("region {region}: reading entry {index}"))?
            .with_context(|| format!("region {region}: entry {index} is missing"))?;
        let entry = Entry::decode(message.write_to_bytes()?.as_slice());
        entry.with_context(|| format!("region {region}: entry {index} is no entry of raft"))
    }
}

impl Layout for RaftEngine {
    fn groups(&self) -> Result<Vec<Group>> {
        self.regions
            .iter()
            .map(|(region, id)| self.group(*region, *id))
            .collect()
    }

    fn entry(&self, group: &Group, index: u64) -> Result<Entry> {
        let region = self.regions.iter().find(|(_, id)| *id == group.id);
        let (region, _) = region.context("no such region")?;
        self.read(*region, index)
    }
}

impl States {
    fn given(args: &EngineArgs) -> Result<States> {
        let hard_state = match (&args.hard_state_key, args.term, args.vote, args.commit) {
            (Some(key), ..) => Given::Key(unhex(key)?),
            (None, Some(term), Some(vote), Some(commit)) => {
                Given::Value(HardState { term, vote, commit })
            }
            _ => bail!(
                "raft-engine does not know where the hard state is: give --hard-state-key, or \
                 --region, --term, --vote and --commit. A node that forgets its vote may vote twice"
            ),
        };
        let conf_state = match &args.conf_state_key {
            Some(key) => Given::Key(unhex(key)?),
            None if !args.voters.is_empty() => Given::Value(ConfState {
                voters: args.voters.clone(),
                learners: args.learners.clone(),
                ..ConfState::default()
            }),
            None => bail!(
                "raft-engine does not know who the members are: give --conf-state-key, or --voters"
            ),
        };
        let applied = match args.applied.as_deref() {
            Some("commit") => None,
            Some(index) => Some(
                index
                    .parse()
                    .context("--applied is an index or \"commit\"")?,
            ),
            None => bail!(
                "raft-engine does not know what the state machine has applied: give --applied, an \
                 index or \"commit\""
            ),
        };
        Ok(States {
            hard_state,
            conf_state,
            applied,
        })
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits
        .filter(|digits| digits.len() % 2 == 0)
        .context("a key is pairs of hexadecimal digits")?;
    let pairs = digits.chunks_exact(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low),
        _ => Ok(0),
    });
    Ok(pairs.collect::<Result<_, _>>()?)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let listing = fs::read_dir(from).with_context(|| format!("listing {}", from.display()))?;
    for file in listing {
        let file = file?;
        if file.file_type()?.is_file() && file.file_name() != "LOCK" {
            let copied = fs::copy(file.path(), to.join(file.file_name()));
            copied.with_context(|| format!("copying {}", file.path().display()))?;
        }
    }
    Ok(())
}
