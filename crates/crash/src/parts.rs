//! The parts of the harness, and how much of each is run.

/// One test of the harness.
pub struct Part {
    /// As it is shown.
    pub name: &'static str,
    /// The integration test it is in, and its name there.
    pub test: &'static str,
    pub case: &'static str,
    /// What scales it.
    pub environment: Vec<(&'static str, String)>,
}

/// The least a control has to lose for its share to mean anything.
const CONTROL_ROUNDS_MIN: u64 = 20;
/// From so many power cuts on, every I/O point is tried.
const ALL_POINTS_FROM: u64 = 1_000;
/// Cases of damage for each power cut: they take a fiftieth of its time. A quarter changes
/// nothing and does not count.
const CASES_PER_CUT: u64 = 8;
/// A full disk takes as long as some power cuts, and lives are much alike.
const CUTS_PER_FULL_DISK: u64 = 100;
/// So small that logs are switched, and recycled, all the time.
const TINY_MEMTABLE: &str = "65536";

/// All parts, for so many power cuts.
pub fn all(rounds: u64) -> Vec<Part> {
    let cut = |name, case, rounds: u64, tiny: bool| {
        let mut environment = vec![
            ("RAFT_ROCKS_CUT_ROUNDS", rounds.to_string()),
            ("RAFT_ROCKS_CUT_KEEP", "1".to_owned()),
        ];
        if tiny {
            environment.push(("RAFT_ROCKS_CUT_MEMTABLE", TINY_MEMTABLE.to_owned()));
        }
        Part {
            name,
            test: "power_cut",
            case,
            environment,
        }
    };
    let share = rounds.div_ceil(4);
    let points = if rounds < ALL_POINTS_FROM {
        rounds.to_string()
    } else {
        "all".to_owned()
    };
    vec![
        cut("power cuts", "synced_writes_survive", share, false),
        cut(
            "power cuts, recycled logs",
            "synced_writes_survive_in_recycled_logs",
            share,
            true,
        ),
        cut(
            "power cuts, submitted",
            "submitted_writes_survive",
            share,
            false,
        ),
        cut(
            "power cuts, submitted, recycled logs",
            "submitted_writes_survive_in_recycled_logs",
            share,
            true,
        ),
        cut(
            "control: unsynced writes are lost",
            "unsynced_writes_are_lost",
            (rounds / 10).max(CONTROL_ROUNDS_MIN),
            false,
        ),
        Part {
            name: "damaged files and torn writes",
            test: "damage",
            case: "damage_is_refused_or_changes_nothing",
            environment: vec![(
                "RAFT_ROCKS_DAMAGE_CASES",
                (rounds * CASES_PER_CUT).to_string(),
            )],
        },
        Part {
            name: "I/O points",
            test: "io_faults",
            case: "",
            environment: vec![("RAFT_ROCKS_IO_POINTS", points)],
        },
        Part {
            name: "full disk",
            test: "disk_full",
            case: "",
            environment: vec![(
                "RAFT_ROCKS_FULL_ROUNDS",
                (rounds / CUTS_PER_FULL_DISK).clamp(2, 10).to_string(),
            )],
        },
    ]
}
