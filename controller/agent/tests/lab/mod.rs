//! A network namespace with a bridge, and agents in it whose state directories are the test's own.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Runs `body` on a thread of its own in a fresh network namespace with the bridge `br-t` at 10.9.0.1/24; skips, saying
/// so, where that is not permitted.
pub(crate) fn in_lab(body: impl FnOnce(&Lab) + Send + 'static) {
    let test = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: a network namespace takes root ({error})");
            return;
        }
        let lab = Lab { dir: tempfile::tempdir().unwrap() };
        sh("ip link set lo up");
        body(&lab);
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn bridge(&self) {
        sh("ip link add br-t type bridge forward_delay 0");
        sh("ip addr add 10.9.0.1/24 dev br-t");
        sh("ip link set br-t up");
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the agent `name` finds its key and its controller.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}-node"))
    }

    /// An agent that wants `instances` and knows no controller.
    pub(crate) fn agent(&self, name: &str, instances: &[Value]) -> Agent {
        let state = self.dir.path().join(name);
        fs::create_dir_all(&state).unwrap();
        let config = self.dir.path().join(format!("{name}.toml"));
        let node = self.node(name);
        let text = format!(
            "state_dir = {state:?}\nimage_dir = {:?}\nnode_state_dir = {node:?}\nprivate_key = {:?}\n\
             accelerator = \"tcg\"\nlog_bytes = 65536\n",
            self.dir.path().join("images"),
            node.join("private.key"),
        );
        fs::write(&config, text).unwrap();
        let mut agent = Agent { state, config, process: None };
        agent.want(instances);
        agent.start();
        agent
    }
}

pub(crate) struct Agent {
    pub(crate) state: PathBuf,
    config: PathBuf,
    process: Option<Child>,
}

impl Agent {
    pub(crate) fn want(&self, instances: &[Value]) {
        let desired = json!({ "epoch": 1, "revision": 1, "instances": instances });
        fs::write(self.state.join("desired.json"), desired.to_string()).unwrap();
    }

    pub(crate) fn start(&mut self) {
        let child = Command::new(BINARY).args(["run", "--config"]).arg(&self.config).spawn().unwrap();
        self.process = Some(child);
    }

    /// kill -9
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Restarts with other wishes.
    pub(crate) fn restart(&mut self, instances: &[Value]) {
        self.kill();
        self.want(instances);
        self.start();
    }

    pub(crate) fn status(&self, id: &str) -> Option<Value> {
        let output = Command::new(BINARY)
            .args(["status", "--json", "--config"])
            .arg(&self.config)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
        rows.into_iter().find(|row| row["id"] == id)
    }

    /// Waits for a status that `condition` likes.
    pub(crate) fn until(&self, id: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait(&format!("{id}: {what}"), || {
            let status = self.status(id).unwrap_or(Value::Null);
            if condition(&status) { Ok(status) } else { Err(format!("{status}\n{}", self.log(id))) }
        })
    }

    pub(crate) fn running(&self, id: &str) -> Value {
        self.until(id, "runs", |status| status["state"] == "running")
    }

    pub(crate) fn home(&self, id: &str) -> PathBuf {
        self.state.join("instances").join(id)
    }

    pub(crate) fn log(&self, id: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.home(id).join("console.log")).unwrap_or_default()).into_owned()
    }

    /// The first process of the instance, in the host's pid namespace.
    pub(crate) fn pid(&self, id: &str) -> i64 {
        let bytes = fs::read(self.home(id).join("run/process.json")).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["main"]["pid"].as_i64().unwrap()
    }

    /// The output of a command in the namespaces of the instance.
    pub(crate) fn inside(&self, id: &str, command: &str) -> String {
        let pid = self.pid(id);
        sh(&format!("nsenter -t {pid} -m -u -i -n -p sh -c '{command}'"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        // Whatever the test left running.
        for entry in fs::read_dir(self.state.join("instances")).into_iter().flatten().flatten() {
            let file = fs::read(entry.path().join("run/process.json")).unwrap_or_default();
            if let Ok(processes) = serde_json::from_slice::<node_agent_processes::Processes>(&file) {
                processes.main.signal(9).ok();
            }
            let id = entry.file_name().into_string().unwrap();
            let ended = Instant::now() + Duration::from_secs(5);
            while Instant::now() < ended && !remove_groups(&self.state, &id) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let parent = config(&self.state).cgroup_parent();
        sh(&format!("find /sys/fs/cgroup -maxdepth 2 -type d -name {parent} -exec rmdir {{}} + || true"));
    }
}

fn config(state: &Path) -> node_agent::config::Config {
    node_agent::config::Config { state_dir: state.to_owned(), ..Default::default() }
}

mod node_agent_processes {
    #[derive(serde::Deserialize)]
    pub(super) struct Processes {
        pub(super) main: node_agent::process::ProcessRef,
    }
}

fn remove_groups(state: &Path, id: &str) -> bool {
    let parent = config(state).cgroup_parent();
    node_agent::cgroup::Hierarchies::detect(&parent).unwrap().group(id).remove().is_ok()
}

pub(crate) fn spec(id: &str, command: &[&str]) -> Value {
    json!({
        "id": id, "name": id, "generation": 1, "desired": "running", "driver": "container",
        "cores_milli": 0, "memory_bytes": 0, "disk_bytes": 0, "command": command,
    })
}

pub(crate) fn nic(mac_end: u8, address: &str) -> Value {
    json!([{
        "vni": 1, "bridge": "br-t", "mac": [2, 0x73, 0x69, 0, 0, mac_end], "addresses": [address],
        "mtu": 1400, "gateways": ["10.9.0.1"],
    }])
}

pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let word = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {word}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn wait<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) => assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}; last: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The directory of the small guest, made on the first call; `None`, saying so, where it cannot be made.
pub(crate) fn guest() -> Option<PathBuf> {
    static MADE: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    let make = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let made = Command::new(root.join("netns-tests/guest/make-guest")).output().unwrap();
        if !made.status.success() {
            eprintln!("skipped: no guest ({})", String::from_utf8_lossy(&made.stderr));
            return None;
        }
        let path = String::from_utf8(made.stdout).unwrap();
        Some(root.join(path.trim()).canonicalize().unwrap())
    };
    MADE.get_or_init(make).clone()
}

const BINARY: &str = env!("CARGO_BIN_EXE_node-agent");
const LIMIT: Duration = Duration::from_secs(40);
