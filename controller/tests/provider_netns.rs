//! The provider whose machines are network namespaces, by its contract. Needs root; skipped without.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not see as tests")]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::until;
use serde_json::{Value, json};

fn ip(words: &str) -> bool {
    Command::new("ip")
        .args(words.split(' '))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn ask(config: &Path, request: &Value) -> Value {
    let mut child = Command::new(env!("CARGO_BIN_EXE_provider-netns"))
        .arg("--config")
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Removes the underlay also after a failure.
struct Underlay(String);

impl Drop for Underlay {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

#[test]
fn a_machine_is_made_joined_kept_and_ended() {
    let name = format!("pnu{}", std::process::id());
    if !nix::unistd::geteuid().is_root() || !ip(&format!("netns add {name}")) {
        eprintln!("skipped: needs root and network namespaces");
        return;
    }
    let underlay = Underlay(name);
    assert!(ip(&format!("-n {} link add br0 type bridge", underlay.0)));
    assert!(ip(&format!("-n {} link set br0 up", underlay.0)));
    assert!(ip(&format!("-n {} addr add 10.98.0.1/24 dev br0", underlay.0)));
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let config = dir.path().join("provider.toml");
    let text = format!(
        r#"
        underlay_namespace = "{0}"
        underlay_bridge = "br0"
        addresses = "10.98.0.0/24"
        prefix = "{0}-"
        state_dir = {state:?}
        join = ["/bin/sh", "-c", "read token && echo $token > joined && test $token = secret-token"]
        run = [["/bin/sh", "-c", "sleep 1000 & setsid sleep 1001 & echo $$ > started; wait"]]
        [files]
        "node.toml" = "name = \"{{name}}\"\naddress = \"{{address}}\"\n"
        "#,
        underlay.0
    );
    std::fs::write(&config, text).unwrap();
    let create = |operation: &str, token: &str| {
        ask(
            &config,
            &json!({
                "version": 1, "action": "create", "operation": operation, "node": "node-4", "name": "edge",
                "type": { "name": "small", "cores_milli": 100, "memory_bytes": 0, "disk_bytes": 0 },
                "join_token": token,
            }),
        )
    };
    let destroy = || {
        ask(
            &config,
            &json!({ "version": 1, "action": "destroy", "operation": "x", "node": "node-4", "name": "edge" }),
        )
    };
    let namespace = format!("{}-edge", underlay.0);

    let refused = create("op-1", "another-token");
    assert!(
        refused["ok"] == false && refused["error"].as_str().unwrap().contains("/bin/sh failed"),
        "{refused}"
    );
    assert!(!Path::new("/run/netns").join(&namespace).exists() && !state.join("node-4").exists());

    let made = create("op-3", "secret-token");
    assert!(made["ok"] == true && made["id"] == namespace.as_str(), "{made}");
    let home = state.join("node-4");
    assert_eq!(
        std::fs::read_to_string(home.join("node.toml")).unwrap(),
        "name = \"edge\"\naddress = \"10.98.0.10\"\n"
    );
    until("the daemon starts", || home.join("started").exists());
    assert!(ip(&format!("-n {} link show eth0", namespace)));
    assert!(
        Command::new("ip")
            .args(["netns", "exec", &underlay.0, "ping", "-c1", "-W5", "10.98.0.10"])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    let started = std::fs::read_to_string(home.join("started")).unwrap();
    assert_eq!(create("op-3", "secret-token")["ok"], true);
    assert_eq!(
        std::fs::read_to_string(home.join("started")).unwrap(),
        started,
        "the same operation made it anew"
    );

    let pids = || {
        let output = Command::new("ip").args(["netns", "pids", &namespace]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = pids();
    assert!(before.len() >= 3, "{before:?}");
    assert_eq!(destroy()["ok"], true);
    assert_eq!(destroy()["ok"], true);
    assert!(!Path::new("/run/netns").join(&namespace).exists() && !home.exists());
    for pid in before {
        until("the machine's processes end", || {
            !Path::new("/proc").join(&pid).exists()
                || std::fs::read_to_string(format!("/proc/{pid}/status"))
                    .unwrap_or_default()
                    .contains("State:\tZ")
        });
    }
    let bad = ask(&config, &json!({ "version": 1, "action": "create" }));
    assert!(bad["ok"] == false && bad["error"].as_str().unwrap().contains("contract"), "{bad}");
}
