//! The program: what it refuses and how, how it starts and ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use tempfile::TempDir;

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft-rocks-server"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RAFT_ROCKS_")) {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = program().args(arguments).output().unwrap();
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8(text).unwrap())
}

/// A server that listens where there is room.
struct Server {
    child: Child,
    log: BufReader<ChildStderr>,
    /// What it has logged until it served.
    started: String,
    address: String,
}

impl Server {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = program()
            .args([
                "--listen",
                "127.0.0.1:0",
                "--peer-listen",
                "127.0.0.1:0",
                "--http-listen",
                "127.0.0.1:0",
                "--tick-ms",
                "20",
            ])
            .arg("--dir")
            .arg(dir)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let mut started = String::new();
        while !line.contains("serving clients at") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended: {started}");
            started.push_str(&line);
        }
        assert!(!started.contains('\x1b'), "colours are for terminals");
        let address = line.split("serving clients at ").nth(1).unwrap();
        let address = address.split(',').next().unwrap().to_owned();
        Server {
            child,
            log,
            started,
            address,
        }
    }

    fn ask(&self, line: &str, expected: &str) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let mut found = vec![0; expected.len()];
        stream.read_exact(&mut found).unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), expected);
    }

    /// Its exit code, and what it has logged since.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

#[test]
fn it_ends_in_good_order_when_it_is_told() {
    let dir = scratch();
    let dir = dir.path().join("node");
    for (n, signal) in ["-TERM", "-INT", "-TERM"].into_iter().enumerate() {
        let server = Server::start(&dir, &["--join", "127.0.0.1:1"][..2 * n.min(1)]);
        let is_ignored = server.started.contains("--join is ignored");
        assert_eq!(is_ignored, n > 0, "{}", server.started);
        server.ask("INCR n", &format!(":{}\r\n", n + 1));
        // It ends although somebody is connected.
        let idle = TcpStream::connect(&server.address).unwrap();
        let (code, log) = server.end(signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("ending"), "{log}");
        drop(idle);
    }
    let mode = fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn who_waits_to_be_invited_says_so_and_ends_when_it_is_told() {
    let dir = scratch();
    let mut child = program()
        .args(["--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"])
        .args(["--http-listen", "off", "--await-invitation", "--dir"])
        .arg(dir.path().join("node"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waiting to be invited") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(sent.success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    let (code, said) = run(&["--await-invitation", "--join", "127.0.0.1:1"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("waits or asks"), "{said}");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = scratch();
    let dir = dir.path().join("node");
    let more = ["--log-format", "json", "--durability", "high"];
    let server = Server::start(&dir, &more);
    server.ask("SET k v", "+OK\r\n");
    let (code, _) = server.end("-KILL");
    assert_eq!(code, None);
    let server = Server::start(&dir, &[]);
    server.ask("GET k", "$1\r\nv\r\n");
    server.end("-TERM");
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let dir = scratch();
    let file = dir.path().join("node.toml");
    let node = dir.path().join("node");
    fs::write(
        &file,
        format!("dir = {node:?}\nid = 5\nconsistency = \"low\"\ntick-ms = 1\njoin = []\n"),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(program().args(["--config", file]));
    assert!(text.contains("--tick-ms 1: give 10 to 10000"), "{text}");
    let text = refused(
        program()
            .args(["--config", file])
            .env("RAFT_ROCKS_TICK_MS", "2"),
    );
    assert!(text.contains("--tick-ms 2:"), "{text}");
    let text = refused(
        program()
            .args(["--config", file, "--tick-ms", "3"])
            .env("RAFT_ROCKS_TICK_MS", "2"),
    );
    assert!(text.contains("--tick-ms 3:"), "{text}");
    // Server::start gives the flags that matter.
    let server = Server::start(&node, &["--config", file]);
    server.ask("SET a 1", "+OK\r\n");
    server.ask("CLUSTER MYID", &format!("$40\r\n{:040x}\r\n", 5));
    server.end("-TERM");
}

#[test]
fn what_cannot_be_used_is_said_and_how_to_mend_it() {
    let dir = scratch();
    let path = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown = path("unknown.toml", "dirr = 1\n");
    let broken = path("broken.toml", "dir = \n");
    let empty = path("empty", "\n");
    let hash = path("hash", "sha256:abc\n");
    let nothing = dir.path().join("nothing");
    let nothing = nothing.to_str().unwrap();
    for (arguments, part) in [
        (&["--frob"][..], "--frob"),
        (&["--durability", "extreme"], "low, medium, high"),
        (&["--id", "x"], "invalid digit"),
        (&["--id", "0"], "1 or higher"),
        (&["--config", nothing], "cannot read it"),
        (&["--config", &unknown], "unknown field `dirr`"),
        (&["--config", &broken], "TOML parse error"),
        (&["--auth-token-file", nothing], "cannot read it"),
        (&["--auth-token-file", &empty], "it is empty"),
        (&["--auth-token-file", &hash], "64 hexadecimal digits"),
        (&["--tls-ca", nothing], "give all three"),
        (
            &[
                "--tls-ca",
                nothing,
                "--tls-cert",
                nothing,
                "--tls-key",
                nothing,
            ],
            "cannot read",
        ),
        (&["certs", "--cluster", "x", "--dir", nothing], "--node"),
    ] {
        let (code, text) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    let (code, text) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("RAFT_ROCKS_PEER_LISTEN"), "{text}");
}

#[test]
fn what_cannot_start_says_why() {
    let dir = scratch();
    let node = dir.path().join("node");
    let node = node.to_str().unwrap();
    let any = "127.0.0.1:0";
    for (arguments, part) in [
        (&["--listen", "nowhere"][..], "give HOST:PORT"),
        (&["--peer-listen", "0.0.0.0:0"], "--insecure"),
        (
            &["--peer-listen", "0.0.0.0:0", "--insecure"],
            "give --advertise HOST:PORT",
        ),
        (&["--advertise", "[::]:7482"], "give --advertise HOST:PORT"),
        (&["--advertise", "somewhere"], "give HOST:PORT"),
        (
            &["--listen", "0.0.0.0:0"],
            "give --client-advertise HOST:PORT",
        ),
        (&["--dir", "/dev/null/x"], "cannot make it"),
    ] {
        let mut command = program();
        let usual = [
            ("--listen", any),
            ("--peer-listen", any),
            ("--http-listen", any),
            ("--dir", node),
        ];
        for (flag, value) in usual {
            if !arguments.contains(&flag) {
                command.args([flag, value]);
            }
        }
        let output = command.args(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    let server = Server::start(Path::new(node), &["--id", "3"]);
    let listen = ["--listen", any, "--peer-listen", any];
    let flags = [&listen[..], &["--http-listen", any, "--dir", node]].concat();
    let (code, text) = run(&flags);
    assert_eq!(code, Some(1), "one process for a directory: {text}");
    server.end("-TERM");
    let other = [&flags[..], &["--id", "4"]].concat();
    let (code, text) = run(&other);
    assert_eq!(code, Some(1));
    assert!(text.contains("belongs to node 3, not to 4"), "{text}");
}

#[test]
fn certificates_are_made_and_used() {
    let scratch = scratch();
    let certs = scratch.path().join("certs");
    let dir = certs.to_str().unwrap();
    let make =
        |more: &[&str]| run(&[&["certs", "--cluster", "blue", "--dir", dir][..], more].concat());
    for party in [&["--node", "1"][..], &["--node", "2"], &["--client"]] {
        let (code, text) = make(party);
        assert_eq!(code, Some(0), "{text}");
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&certs).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
        found.push(entry.file_name().into_string().unwrap());
    }
    assert_eq!(
        fs::metadata(&certs).unwrap().permissions().mode() & 0o777,
        0o700
    );
    found.sort();
    let names = ["ca", "client", "node-1", "node-2"];
    let expected: Vec<_> = names
        .iter()
        .flat_map(|name| [format!("{name}.key"), format!("{name}.pem")])
        .collect();
    assert_eq!(found, expected);
    let (code, text) = make(&["--node", "1"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("is there already"), "{text}");

    let file = |name: &str| certs.join(name).to_str().unwrap().to_owned();
    let flags = |of: &str| {
        let [ca, cert, key] = [
            file("ca.pem"),
            file(&format!("{of}.pem")),
            file(&format!("{of}.key")),
        ];
        ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key].map(str::to_owned)
    };
    let node_1 = flags("node-1");
    let mut node_1: Vec<&str> = node_1.iter().map(String::as_str).collect();
    let first = Server::start(&scratch.path().join("1"), &node_1);
    first.ask("SET a 1", "+OK\r\n");
    first.end("-TERM");
    // The certificate is another node's.
    let node = scratch.path().join("1");
    node_1.extend([
        "--id",
        "2",
        "--listen",
        "127.0.0.1:0",
        "--peer-listen",
        "127.0.0.1:0",
        "--http-listen",
        "off",
    ]);
    node_1.extend(["--dir", node.to_str().unwrap()]);
    let (code, text) = run(&node_1);
    assert_eq!(code, Some(1));
    assert!(text.contains("that of node 1, not of --id 2"), "{text}");
    let client = flags("client");
    let mut client: Vec<&str> = client.iter().map(String::as_str).collect();
    client.extend(["--dir", node.to_str().unwrap()]);
    let (code, text) = run(&client);
    assert_eq!(code, Some(1));
    assert!(text.contains("that of a client"), "{text}");
}

/// What an operator does when all nodes are lost and a backup is there.
#[test]
fn a_backup_becomes_a_new_cluster() {
    let scratch = scratch();
    let (old, new) = (scratch.path().join("old"), scratch.path().join("new"));
    let server = Server::start(&old, &["--id", "3"]);
    server.ask("SET k v", "+OK\r\n");
    server.end("-TERM");
    fs::create_dir(&new).unwrap();
    raft_rocks::tools::restore(&old.join("store"), &new.join("store")).unwrap();
    let any = "127.0.0.1:0";
    let refused = |more: &[&str]| {
        let flags = [
            "--listen",
            any,
            "--peer-listen",
            any,
            "--http-listen",
            "off",
        ];
        let (code, text) = run(&[&flags[..], more].concat());
        assert_eq!(code, Some(1), "{text}");
        text
    };
    let dir = new.to_str().unwrap();
    let text = refused(&["--dir", dir]);
    let cluster = text.split("--force-new-cluster ").nth(1).unwrap();
    let cluster = cluster.split(',').next().unwrap().to_owned();
    assert_eq!(cluster.len(), 32, "{text}");
    let force = ["--force-new-cluster", &cluster];
    let nowhere = scratch.path().join("nowhere");
    let text = refused(&[&force[..], &["--dir", nowhere.to_str().unwrap()]].concat());
    assert!(text.contains("the directory holds no node"), "{text}");
    let text = refused(&[&force[..], &["--dir", dir, "--id", "4"]].concat());
    assert!(text.contains("belongs to node 3, not to 4"), "{text}");

    let server = Server::start(&new, &force);
    server.ask("GET k", "$1\r\nv\r\n");
    server.ask("SET k w", "+OK\r\n");
    server.end("-TERM");
    // The flag may have been left where it was.
    let server = Server::start(&new, &force);
    assert!(
        server.started.contains("--force-new-cluster is ignored"),
        "{}",
        server.started
    );
    server.ask("GET k", "$1\r\nw\r\n");
    server.end("-TERM");
}
