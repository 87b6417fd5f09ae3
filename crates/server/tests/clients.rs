//! Programs that others wrote, on the leader and on a follower.
//!
//! They are on the machine (`scripts/setup clients` installs them), or this says which is not, and
//! fails under `CI=true`. A client in Rust is what the other tests use.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;
#[path = "hostile/process.rs"]
mod process;

use std::process::Command;
use std::time::{Duration, Instant};

use common::Cluster;

/// What a program printed; `None`: it is not here, and this is not CI.
async fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let (told, ended) = tokio::sync::oneshot::channel();
    // No task of the runtime, which would wait for it when a test fails.
    std::thread::spawn(move || told.send(command.output()));
    let output = match ended.await.unwrap() {
        Ok(output) => output,
        Err(e) => {
            assert!(std::env::var_os("CI").is_none(), "{program}: {e}");
            eprintln!("not tested: {program}: {e}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    Some(text)
}

/// Three nodes, and where a client reaches the leader and a follower.
async fn cluster() -> (Cluster, [String; 2]) {
    let cluster = Cluster::of(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let addresses = [leader, follower].map(|id| cluster.address(id));
    (cluster, addresses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_cli_is_understood() {
    let (cluster, addresses) = cluster().await;
    for address in &addresses {
        let port = address.rsplit(':').next().unwrap();
        for (words, expected) in [
            ("PING", "PONG"),
            ("SET colour blue EX 100", "OK"),
            ("GET colour", "blue"),
            ("-3 HGETALL colour", "ERR unknown command"),
            ("COMMAND DOCS get", ""),
            ("CONFIG GET save", "save"),
            ("INFO server", "redis_version"),
            ("RAFTPEERS", "Leader"),
            ("CLUSTER INFO", "cluster_state:ok"),
            ("DEL colour", "1"),
        ] {
            let arguments: Vec<&str> = ["-p", port].into_iter().chain(words.split(' ')).collect();
            let Some(text) = run("redis-cli", &arguments).await else {
                return;
            };
            assert!(text.contains(expected), "{words}: {text}");
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_benchmark_meets_no_error() {
    let (cluster, addresses) = cluster().await;
    for address in &addresses {
        let port = address.rsplit(':').next().unwrap();
        let tests = ["-t", "ping,set,get,incr,mset", "-n", "2000", "-c", "32"];
        // It ends at the first error reply, and says so.
        let arguments = [&["-p", port, "-q"][..], &tests].concat();
        let Some(text) = run("redis-benchmark", &arguments).await else {
            return;
        };
        assert!(!text.contains("rror"), "{text}");
        for test in ["PING_INLINE", "SET", "GET", "INCR", "MSET (10 keys)"] {
            let done = format!("{test}: ");
            assert!(text.contains(&done), "{test} in {text}");
        }
    }
    cluster.shutdown().await;
}

/// `RAFT_ROCKS_BENCHMARK_REQUESTS` is how many of each kind, 2,000 without; of many the figures are
/// those of the build, so give `--release`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_benchmark_meets_no_error_while_a_third_node_is_killed_again_and_again() {
    let requests = std::env::var("RAFT_ROCKS_BENCHMARK_REQUESTS");
    let requests = requests.unwrap_or_else(|_| "2000".to_owned());
    let durable = ["--durability", "high"];
    let mut cluster = process::Cluster::with(&durable, |_| Vec::new());
    let leader = process::until("a leader", || {
        let told = cluster.first().ask("RAFTLEADER")?;
        let leads = |node: &process::Process| told.contains(&node.clients);
        cluster.nodes.iter().position(leads)
    });
    let (follower, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut kills = 0;
    for (name, at) in [("leader", leader), ("follower", follower)] {
        let port = cluster.nodes[at].clients.rsplit(':').next().unwrap();
        let tests = ["-t", "set,get,incr,mset", "-c", "64", "-P", "1"];
        let arguments = [&["-p", port, "-q", "-n", &requests][..], &tests].concat();
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let done = tokio::spawn(async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run("redis-benchmark", &arguments).await
        });
        let deadline = Instant::now() + Duration::from_secs(600);
        while !done.is_finished() {
            assert!(Instant::now() < deadline, "{name}: it does not end");
            cluster.nodes[third].kill();
            cluster.restart(third);
            process::until("it serves again", || {
                let read = cluster.nodes[third].ask("GET nothing")?;
                (read == "$-1\r\n").then_some(())
            });
            kills += 1;
        }
        let Some(text) = done.await.unwrap() else {
            return;
        };
        assert!(!text.contains("rror"), "{text}");
        let last = |line: &str| line.rsplit('\r').next().unwrap_or_default().to_owned();
        for test in ["SET", "GET", "INCR", "MSET (10 keys)"] {
            let done = format!("{test}: ");
            let of_test = |line: &String| line.trim().starts_with(&done);
            let told = text.lines().map(last).find(of_test);
            println!("{name}: {}", told.expect(test).trim());
        }
    }
    assert!(kills > 1, "nothing was killed while it ran");
    println!("{requests} of each kind on both, while the third node was killed {kills} times");
}

/// What a program of somebody else's does with redis-py.
const PYTHON: &str = r#"
import sys, redis
r = redis.Redis.from_url("redis://" + sys.argv[1], decode_responses=True, **OPTIONS)
assert r.ping()
assert r.set("a", "1", ex=100) and r.get("a") == "1" and 0 < r.ttl("a") <= 100
assert r.incr("a", 4) == 5 and r.decr("a") == 4
assert r.mset({"b": "x", "c": "y"}) and r.mget("b", "c", "none") == ["x", "y", None]
assert r.set("b", "z", nx=True) is None and r.append("b", "!") == 2 and r.strlen("b") == 2
with r.pipeline(transaction=False) as pipe:
    for n in range(100):
        pipe.set("p%d" % n, n)
    assert all(pipe.execute())
assert sorted(r.scan_iter("p*", count=7)) == sorted("p%d" % n for n in range(100))
assert r.exists("a", "b", "none") == 2 and r.dbsize() == 103 and r.type("a") == "string"
assert r.info("server")["redis_version"] and r.config_get("save") is not None
try:
    r.execute_command("LPUSH", "l", "1")
    raise SystemExit("LPUSH was understood")
except redis.ResponseError as e:
    assert "unknown command" in str(e), e
assert r.flushall() and r.dbsize() == 0
print("done, redis-py", redis.__version__)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_py_is_understood_in_both_versions_of_the_protocol() {
    let (cluster, addresses) = cluster().await;
    // `scripts/setup clients` puts a new one there; the system's may not speak version 3.
    let venv = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/clients/bin/python3"
    );
    let python = match std::path::Path::new(venv).exists() {
        true => venv,
        false => "python3",
    };
    for address in &addresses {
        for options in ["{}", "{\"protocol\": 3}"] {
            let script = format!("OPTIONS = {options}\n{PYTHON}");
            let Some(text) = run(python, &["-c", &script, address]).await else {
                return;
            };
            assert!(text.contains("done, redis-py"), "{text}");
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_is_understood() {
    let (cluster, _) = cluster().await;
    for (id, node) in &cluster.nodes {
        let url = format!("http://{}", node.http_address().unwrap());
        let key = format!("{url}/kv/of-{id}");
        for (arguments, expected) in [
            (
                &["-fsS", "-X", "PUT", "--data-binary", "some value", &key][..],
                "",
            ),
            (&["-fsS", &key], "some value"),
            (&["-fsS", &format!("{url}/readyz")], "ok"),
            (&["-fsS", &format!("{url}/cluster")], "\"from_leader\":true"),
            (
                &["-fsS", &format!("{url}/metrics")],
                "raft_rocks_server_has_leader 1",
            ),
            (
                &[
                    "-fsS",
                    &format!("{url}/raft/api/set"),
                    "-H",
                    "Content-Type: application/json",
                    "-d",
                    "{\"key\":\"k\",\"value\":\"v\"}",
                ],
                "\"code\":\"000000\"",
            ),
        ] {
            let Some(text) = run("curl", arguments).await else {
                return;
            };
            assert!(text.contains(expected), "{arguments:?}: {text}");
        }
    }
    cluster.shutdown().await;
}
