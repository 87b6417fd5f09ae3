//! The key-value machine beside a plain model: random operations in batches of random lengths, on
//! both backends, with snapshots, broken-off restorations and reopened stores in between.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use fastrand::Rng;
use raft_rocks::driver::{Command, LogStore, StateMachine, Writes, store_options};
use raft_rocks::{FsyncPolicy, Options, RaftMachineStorage};
use raft_rocks_server::kv::{
    Answer, Entry, Expiry, FAMILY, Machine, MemoryRows, OnlyIf, Operation, RocksRows,
    VALUE_BYTES_MAX, decode_answers, encode,
};

const NO_INTEGER: &str = "ERR value is not an integer or out of range";
const OVERFLOW: &str = "ERR increment or decrement would overflow";

fn seed() -> u64 {
    let seed = std::env::var("RAFT_ROCKS_SEED");
    let seed = seed.map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("RAFT_ROCKS_SEED={seed}");
    seed
}

/// What the machine should be, as simply as it can be said.
#[derive(Clone, Debug, Default)]
struct Model {
    time: u64,
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
}

impl Model {
    fn live(&self, key: &[u8]) -> Option<(Vec<u8>, Option<u64>)> {
        let (value, expiry) = self.keys.get(key)?.clone();
        let is_live = expiry.is_none_or(|at| at > self.time);
        is_live.then_some((value, expiry))
    }

    fn put(&mut self, key: &[u8], value: &[u8], expiry: Option<u64>) {
        self.keys.insert(key.to_vec(), (value.to_vec(), expiry));
        if expiry.is_some_and(|at| at <= self.time) {
            self.keys.remove(key);
        }
    }

    fn at(&self, expiry: Expiry, old: Option<u64>) -> Option<u64> {
        match expiry {
            Expiry::Never => None,
            Expiry::Keep => old,
            Expiry::In(ms) => Some((self.time as i64 + ms).max(1) as u64),
            Expiry::At(at) => Some(at.max(1) as u64),
        }
    }

    fn run(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Set {
                key,
                value,
                expiry,
                only_if,
                return_old,
            } => {
                let old = self.live(key);
                let is_set = match only_if {
                    OnlyIf::Always => true,
                    OnlyIf::Absent => old.is_none(),
                    OnlyIf::Present => old.is_some(),
                };
                if is_set {
                    let at = self.at(*expiry, old.as_ref().and_then(|old| old.1));
                    self.put(key, value, at);
                }
                match (return_old, is_set) {
                    (true, _) => Answer::Value(old.map(|old| old.0.into())),
                    (false, true) => Answer::Done,
                    (false, false) => Answer::Skipped,
                }
            }
            Operation::Delete(keys) => {
                let mut deleted = 0;
                for key in keys {
                    deleted += i64::from(self.live(key).is_some());
                    self.keys.remove(&key[..]);
                }
                Answer::Integer(deleted)
            }
            Operation::SetMany(pairs) => {
                for (key, value) in pairs {
                    self.put(key, value, None);
                }
                Answer::Done
            }
            Operation::Increment { key, by } => {
                let (value, expiry) = self.live(key).unwrap_or((b"0".to_vec(), None));
                // Only what the number would be written as: not 04, not -0.
                let number = String::from_utf8(value).ok().and_then(|text| {
                    let number: i64 = text.parse().ok()?;
                    (number.to_string() == text).then_some(number)
                });
                let Some(number) = number else {
                    return Answer::Failed(NO_INTEGER.to_owned());
                };
                match number.checked_add(*by) {
                    None => Answer::Failed(OVERFLOW.to_owned()),
                    Some(sum) => {
                        self.put(key, sum.to_string().as_bytes(), expiry);
                        Answer::Integer(sum)
                    }
                }
            }
            Operation::Append { key, value } => {
                let (mut whole, expiry) = self.live(key).unwrap_or_default();
                whole.extend_from_slice(value);
                self.put(key, &whole, expiry);
                Answer::Integer(whole.len() as i64)
            }
            Operation::Expire { key, expiry } => match self.live(key) {
                None => Answer::Integer(0),
                Some((value, old)) => {
                    let at = self.at(*expiry, old);
                    self.put(key, &value, at);
                    Answer::Integer(1)
                }
            },
            Operation::Persist(key) => match self.live(key) {
                Some((value, Some(_))) => {
                    self.put(key, &value, None);
                    Answer::Integer(1)
                }
                _ => Answer::Integer(0),
            },
            Operation::Clear => {
                self.keys.clear();
                Answer::Done
            }
            Operation::Purge => {
                let before = self.keys.len();
                let time = self.time;
                self.keys
                    .retain(|_, (_, expiry)| expiry.is_none_or(|at| at > time));
                Answer::Integer((before - self.keys.len()) as i64)
            }
        }
    }
}

fn key(rng: &mut Rng) -> Bytes {
    // The empty one, ones that are prefixes of others, and ones with the highest byte.
    let all: [&[u8]; 9] = [
        b"",
        b"a",
        b"aa",
        b"b",
        b"c",
        b"\xff",
        b"\xff\xff",
        b"\0",
        b"n",
    ];
    Bytes::from_static(all[rng.usize(..all.len())])
}

fn value(rng: &mut Rng) -> Bytes {
    match rng.u8(..4) {
        0 => Bytes::from(rng.i64(-5..5).to_string()),
        1 => Bytes::from(i64::MAX.to_string()),
        2 => Bytes::from_static(b""),
        _ => Bytes::from(vec![rng.u8(..); rng.usize(..40)]),
    }
}

fn expiry(rng: &mut Rng, time: u64) -> Expiry {
    match rng.u8(..4) {
        0 => Expiry::Never,
        1 => Expiry::Keep,
        2 => Expiry::In(rng.i64(-5..60)),
        _ => Expiry::At(time as i64 + rng.i64(-5..60)),
    }
}

fn operation(rng: &mut Rng, time: u64) -> Operation {
    match rng.u8(..30) {
        0..10 => Operation::Set {
            key: key(rng),
            value: value(rng),
            expiry: expiry(rng, time),
            only_if: [OnlyIf::Always, OnlyIf::Absent, OnlyIf::Present][rng.usize(..3)],
            return_old: rng.bool(),
        },
        10..13 => Operation::Delete((0..rng.usize(..4)).map(|_| key(rng)).collect()),
        13..15 => {
            let pairs = (0..rng.usize(..4)).map(|_| (key(rng), value(rng)));
            Operation::SetMany(pairs.collect())
        }
        15..19 => Operation::Increment {
            key: key(rng),
            by: rng.i64(-3..3),
        },
        19..22 => Operation::Append {
            key: key(rng),
            value: value(rng),
        },
        22..26 => Operation::Expire {
            key: key(rng),
            expiry: expiry(rng, time),
        },
        26..28 => Operation::Persist(key(rng)),
        28 => Operation::Purge,
        _ => match rng.u8(..4) {
            0 => Operation::Clear,
            _ => Operation::Purge,
        },
    }
}

fn stamped(mut command: Vec<u8>, stamp: u64) -> Vec<u8> {
    command[1..9].copy_from_slice(&stamp.to_le_bytes());
    command
}

/// A machine and what a driver does for it.
enum Bench {
    Memory(Machine),
    Rocks(Machine, RaftMachineStorage),
}

impl Bench {
    fn memory() -> Self {
        Bench::Memory(Machine::open(MemoryRows::default()).unwrap())
    }

    fn rocks(dir: &Path) -> Self {
        let mut options = Options::default();
        options.fsync = FsyncPolicy::Never;
        options.reserve_bytes = 0;
        options.memtable_bytes = 64 << 10;
        options.column_families = vec![FAMILY.to_owned()];
        let storage = RaftMachineStorage::open(dir, store_options(options)).unwrap();
        let machine = Machine::open(RocksRows::new(storage.clone()).unwrap()).unwrap();
        Bench::Rocks(machine, storage)
    }

    fn machine(&mut self) -> &mut Machine {
        match self {
            Bench::Memory(machine) | Bench::Rocks(machine, _) => machine,
        }
    }

    fn apply(&mut self, commands: &[Vec<u8>]) -> Vec<Vec<Answer>> {
        let mut writes = Writes::default();
        let commands: Vec<_> = commands
            .iter()
            .map(|data| Command { index: 1, data })
            .collect();
        let answers = self.machine().apply_batch(&commands, &mut writes).unwrap();
        if let Bench::Rocks(_, storage) = self {
            LogStore::write(storage, &writes).unwrap();
        }
        let answers = answers.iter().map(|answer| decode_answers(answer).unwrap());
        answers.collect()
    }

    fn snapshot(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        let source = self.machine().snapshot_source().unwrap();
        source(&mut data).unwrap();
        data
    }

    fn check(&mut self, model: &Model) {
        let machine = self.machine();
        assert_eq!(machine.time(), model.time);
        assert_eq!(machine.len(), model.keys.len() as u64);
        let mut keys = Vec::new();
        let push = &mut |key: &[u8]| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        machine.keys().scan(None, push).unwrap();
        let live = model.keys.keys().filter(|key| model.live(key).is_some());
        assert!(keys.iter().eq(live), "{keys:?} in {model:?}");
        for key in model.keys.keys() {
            let expected = model.live(key);
            let expected = expected.map(|(data, expiry)| Entry { data, expiry });
            assert_eq!(machine.get(key).unwrap(), expected);
        }
        let earliest = model.keys.values().filter_map(|(_, expiry)| *expiry).min();
        if let Some(at) = earliest {
            assert!(machine.due().is_due(at), "a purge is due at {at}");
        }
    }
}

/// The machine's answers and state beside the model's.
fn compare(rng: &mut Rng, bench: &mut Bench, model: &mut Model, steps: usize) {
    for _ in 0..steps {
        let mut commands = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..rng.usize(1..6) {
            // A new leader's clock may be behind.
            let stamp = (model.time + rng.u64(..25)).saturating_sub(rng.u64(..15));
            let mut answers = Vec::new();
            let operations: Vec<_> = (0..rng.usize(1..4))
                .map(|_| operation(rng, model.time.max(stamp)))
                .collect();
            model.time = model.time.max(stamp);
            for operation in &operations {
                answers.push(model.run(operation));
            }
            commands.push(stamped(encode(&operations), stamp));
            expected.push(answers);
        }
        assert_eq!(bench.apply(&commands), expected, "{commands:?}");
        bench.check(model);
    }
}

#[test]
fn it_does_what_a_plain_model_does() {
    let seed = seed();
    let dirs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for round in 0..6 {
        let mut rng = Rng::with_seed(seed.wrapping_add(round));
        let dir = dirs.path().join(round.to_string());
        let mut benches = [Bench::memory(), Bench::rocks(&dir)];
        let mut model = Model::default();
        model.time = 1_000;
        for bench in &mut benches {
            bench.apply(&[stamped(encode(&[]), 1_000)]);
        }
        for _ in 0..8 {
            // Each goes its own way, and then takes the state of the other.
            let mut models = [model.clone(), model.clone()];
            for (bench, model) in benches.iter_mut().zip(&mut models) {
                compare(&mut rng, bench, model, 30);
            }
            let giver = rng.usize(..2);
            let snapshot = benches[giver].snapshot();
            let taker = &mut benches[1 - giver];
            let cut = rng.usize(..snapshot.len());
            taker.machine().restore(&snapshot[..cut]).unwrap_err();
            if let Bench::Rocks(..) = taker {
                *taker = {
                    let closed = std::mem::replace(taker, Bench::memory());
                    drop(closed);
                    Bench::rocks(&dir)
                };
            }
            taker.check(&models[1 - giver]);
            taker.machine().restore(&snapshot).unwrap();
            model = models[giver].clone();
            for bench in &mut benches {
                bench.check(&model);
            }
        }
    }
}

#[test]
fn a_snapshot_is_of_its_moment() {
    let dirs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for mut bench in [Bench::memory(), Bench::rocks(dirs.path())] {
        let put = |n: u32| {
            let pairs = (0..2_000).map(|key: u32| {
                let key = key.to_be_bytes().to_vec();
                (Bytes::from(key), Bytes::from(n.to_string()))
            });
            encode(&[Operation::SetMany(pairs.collect())])
        };
        bench.apply(&[put(1)]);
        let source = bench.machine().snapshot_source().unwrap();
        bench.apply(&[put(2), encode(&[Operation::Clear])]);
        bench.apply(&[put(3)]);
        let mut data = Vec::new();
        source(&mut data).unwrap();
        bench.machine().restore(&data).unwrap();
        assert_eq!(bench.machine().len(), 2_000);
        let found = bench.machine().get(&7_u32.to_be_bytes()).unwrap();
        assert_eq!(found.unwrap().data, b"1");
    }
}

/// What is cleared goes a piece at a time, and the purges that take it away are asked for.
#[test]
fn what_was_cleared_is_swept() {
    let dirs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::rocks(dirs.path());
    let pairs = (0..5_000_u32).map(|key| {
        let key = Bytes::from(key.to_be_bytes().to_vec());
        (key, Bytes::new())
    });
    bench.apply(&[encode(&[Operation::SetMany(pairs.collect())])]);
    bench.apply(&[encode(&[Operation::Clear])]);
    assert_eq!(bench.machine().len(), 0);
    let mut purges = 0;
    while bench.machine().due().is_due(0) {
        bench.apply(&[encode(&[Operation::Purge])]);
        purges += 1;
    }
    assert!((5..10).contains(&purges), "{purges}");
    let Bench::Rocks(_, storage) = &bench else {
        unreachable!("it was made so")
    };
    let rows = LogStore::scan(storage, FAMILY, b"").unwrap();
    assert_eq!(rows.len(), 1, "its own row is left");
}

#[test]
fn what_has_expired_is_purged_a_thousand_at_a_time() {
    let mut bench = Bench::memory();
    for key in 0..2_500_u32 {
        let set = Operation::Set {
            key: Bytes::from(key.to_be_bytes().to_vec()),
            value: Bytes::new(),
            expiry: Expiry::In(10),
            only_if: OnlyIf::Always,
            return_old: false,
        };
        bench.apply(&[stamped(encode(&[set]), 100)]);
    }
    let purge = stamped(encode(&[Operation::Purge]), 110);
    let mut purged = Vec::new();
    for left in [1_500, 500, 0, 0] {
        purged.extend(bench.apply(std::slice::from_ref(&purge)).remove(0));
        assert_eq!(bench.machine().len(), left);
    }
    let expected = [1_000, 1_000, 500, 0].map(Answer::Integer);
    assert_eq!(purged, expected);
    assert!(!bench.machine().due().is_due(u64::MAX - 1));
}

#[test]
fn a_value_has_a_greatest_length() {
    let mut bench = Bench::memory();
    let append = |bytes: usize| {
        encode(&[Operation::Append {
            key: Bytes::new(),
            value: Bytes::from(vec![7; bytes]),
        }])
    };
    let answers = bench.apply(&[append(VALUE_BYTES_MAX), append(1), append(0)]);
    assert_eq!(answers[0], [Answer::Integer(VALUE_BYTES_MAX as i64)]);
    assert!(matches!(answers[1][..], [Answer::Failed(_)]));
    assert_eq!(answers[2], answers[0]);
}

/// It would go on with another state than those who know the command.
#[test]
fn a_command_of_a_later_version_stops_the_node() {
    let mut bench = Bench::memory();
    let command = [9; 20];
    let command = Command {
        index: 7,
        data: &command,
    };
    let refused = bench
        .machine()
        .apply_batch(&[command], &mut Writes::default())
        .unwrap_err();
    assert!(refused.to_string().contains("version 9"), "{refused}");
    let preprocessor = bench.machine().preprocessor().unwrap();
    preprocessor(vec![9; 20]).unwrap_err();
    preprocessor(b"nonsense".to_vec()).unwrap_err();
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let mut bench = Bench::memory();
    bench.apply(&[encode(&[Operation::SetMany(vec![
        (Bytes::from_static(b"a"), Bytes::from_static(b"1")),
        (Bytes::from_static(b"b"), Bytes::from_static(b"2")),
    ])])]);
    let whole = bench.snapshot();
    let with = |at: usize, byte: u8| {
        let mut data = whole.clone();
        data[at] = byte;
        data
    };
    let longer = [&whole[..], b"x"].concat();
    for (what, data) in [
        ("another format", with(4, 9)),
        ("more rows than there are", with(20, 3)),
        ("fewer", with(20, 1)),
        ("a length beyond all", with(21, 0xff)),
        ("keys that do not ascend", with(37, b'z')),
        ("more behind it", longer),
        ("nothing", Vec::new()),
    ] {
        bench.machine().restore(&data).expect_err(what);
        assert_eq!(bench.machine().len(), 2, "{what}");
    }
    bench.machine().restore(&whole).unwrap();
}
