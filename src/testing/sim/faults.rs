//! What goes wrong in a simulation, and what else happens that is rare.

/// Something that happens to the cluster from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Crash,
    CrashAtPoint,
    CrashAll,
    Partition,
    OneWayCut,
    Isolate,
    Heal,
    LossyNetwork,
    SlowDisk,
    SlowMachine,
    FailedSync,
    Pause,
    ClockRate,
    TransferLeader,
    Campaign,
    AddNode,
    RemoveNode,
    ReplaceNode,
    Snapshot,
    Burst,
    PausedLeader,
    LongSync,
    LongApply,
    Bounce,
    CutLink,
    DeafLeader,
    Succession,
}

/// How often each is chosen.
const WEIGHTS: [(Fault, u32); 27] = [
    (Fault::Crash, 14),
    (Fault::CrashAtPoint, 10),
    (Fault::CrashAll, 2),
    (Fault::Partition, 8),
    (Fault::OneWayCut, 6),
    (Fault::Isolate, 9),
    (Fault::Heal, 14),
    (Fault::LossyNetwork, 6),
    (Fault::SlowDisk, 8),
    (Fault::SlowMachine, 6),
    (Fault::FailedSync, 5),
    (Fault::Pause, 8),
    (Fault::ClockRate, 5),
    (Fault::TransferLeader, 14),
    (Fault::Campaign, 4),
    (Fault::AddNode, 7),
    (Fault::RemoveNode, 5),
    (Fault::ReplaceNode, 3),
    (Fault::Snapshot, 12),
    (Fault::Burst, 14),
    (Fault::PausedLeader, 8),
    (Fault::LongSync, 4),
    (Fault::LongApply, 4),
    (Fault::Bounce, 8),
    (Fault::CutLink, 5),
    (Fault::DeafLeader, 4),
    (Fault::Succession, 10),
];

impl Fault {
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Fault {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.u32(0..total);
        for (fault, weight) in WEIGHTS {
            if at < weight {
                return fault;
            }
            at -= weight;
        }
        Fault::Heal
    }

    /// The name it is counted under.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Crash => "crash",
            Fault::CrashAtPoint => "crash at a fault point",
            Fault::CrashAll => "crash of all nodes",
            Fault::Partition => "partition",
            Fault::OneWayCut => "one-way cut",
            Fault::Isolate => "isolated leader",
            Fault::Heal => "network healed",
            Fault::LossyNetwork => "lossy network",
            Fault::SlowDisk => "slow disk",
            Fault::SlowMachine => "slow machine",
            Fault::FailedSync => "failed sync",
            Fault::Pause => "paused process",
            Fault::ClockRate => "clock rate changed",
            Fault::TransferLeader => "leader transfer",
            Fault::Campaign => "campaign",
            Fault::AddNode => "node added",
            Fault::RemoveNode => "node removed",
            Fault::ReplaceNode => "node replaced (joint)",
            Fault::Snapshot => "snapshot asked for",
            Fault::Burst => "burst of commands",
            Fault::PausedLeader => "paused and isolated leader",
            Fault::LongSync => "hanging disk",
            Fault::LongApply => "hanging machine",
            Fault::Bounce => "quick restart",
            Fault::CutLink => "cut link",
            Fault::DeafLeader => "deaf leader",
            Fault::Succession => "leader missed by a follower",
        }
    }
}

/// Everything that must have happened at least once over many seeds.
pub const COUNTED: [&str; 43] = [
    "crash",
    "crash at a fault point",
    "crash of all nodes",
    "partition",
    "one-way cut",
    "isolated leader",
    "network healed",
    "lossy network",
    "slow disk",
    "slow machine",
    "failed sync",
    "paused process",
    "clock rate changed",
    "leader transfer",
    "campaign",
    "node added",
    "node removed",
    "node replaced (joint)",
    "snapshot asked for",
    "burst of commands",
    "paused and isolated leader",
    "hanging disk",
    "hanging machine",
    "quick restart",
    "cut link",
    "deaf leader",
    "leader missed by a follower",
    "leader lost in restarts",
    "crash after a vote",
    "sync of 500 ms",
    "apply of 1 s",
    "message lost",
    "vote lost",
    "message duplicated",
    "message reordered",
    "message cut off",
    "unsynced writes lost",
    "snapshot stored",
    "snapshot streamed",
    "snapshot broken off",
    "learner promoted",
    "lease read",
    "command repeated",
];
