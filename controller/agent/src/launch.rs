//! The agent's side of a start. A small process of its own, the shim, is each instance's parent, so that the
//! instance outlives the agent:
//!
//! ```text
//!   agent: writes run/launch.json, runs `node-agent shim <home>`
//!   shim:  leaves the agent's session, makes the instance's first process    -> "made <pid>"
//!   agent: plugs in the network                                              -> "go"
//!   shim:  lets the process go on to what it shall run                       -> "started" or "failed <class> <why>"
//!          then keeps the log, waits for the end, writes run/exit.json
//! ```
//!
//! If the agent dies in the middle, the shim ends what it made. Once started, only run/process.json ties them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::failure::{Failure, Step};
use crate::process::ProcessRef;
use crate::reconcile::FailureClass;
use crate::store::Home;

/// What the shim shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// A container, or a program as it is.
    pub(crate) what: Program,
    /// The log that gets its output.
    pub(crate) log: PathBuf,
    /// Of the log.
    pub(crate) log_bytes: u64,
    /// The groups that it joins.
    pub(crate) cgroup_procs: Vec<PathBuf>,
    /// For reports: `namespaces`, `kvm`, `tcg`.
    pub(crate) runtime: String,
    /// For reports: what could not be limited.
    pub(crate) problems: Vec<String>,
}

/// What is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Program {
    /// In namespaces of its own.
    Container(ContainerLaunch),
    /// In the host's namespaces.
    Host(Vec<String>),
}

/// A container's particulars.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerLaunch {
    /// The directory whose content is its root; `/` for the host's.
    pub(crate) base: PathBuf,
    /// Where its root is put together.
    pub(crate) root: PathBuf,
    /// Its /data.
    pub(crate) volume: PathBuf,
    /// What of the host's root it does not see.
    pub(crate) hidden: Vec<PathBuf>,
    /// Its name.
    pub(crate) hostname: String,
    /// What it runs.
    pub(crate) command: Vec<String>,
    /// Its environment.
    pub(crate) environment: BTreeMap<String, String>,
}

/// run/process.json
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Processes {
    /// The shim.
    pub(crate) shim: ProcessRef,
    /// The instance's first process.
    pub(crate) main: ProcessRef,
    /// Seconds since 1970.
    pub(crate) since: u64,
}

/// run/exit.json
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// A sentence.
    pub(crate) detail: String,
}

/// A first process that waits for its network. Dropped without [`Made::go`], it ends.
pub(crate) struct Made {
    /// In the host's pid namespace.
    pub(crate) pid: u32,
    to: ChildStdin,
    from: tokio::io::Lines<BufReader<ChildStdout>>,
}

/// Starts a shim by the launch file; returns when the first process is there and waits.
pub(crate) async fn make(shim: &Path, home: &Home, launch: &Launch) -> Result<Made, Failure> {
    home.remove_run("process.json").step("remove the files of the last run")?;
    home.remove_run("exit.json").step("remove the files of the last run")?;
    home.write_run("launch.json", launch).map_err(Failure::from)?;
    let mut child: Child = Command::new(shim)
        .arg("shim")
        .arg(home.dir())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .step(format!("run the shim {}", shim.display()))?;
    let to = child.stdin.take().expect("stdin is piped");
    let from = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let mut made = Made { pid: 0, to, from };
    let line = made.line().await?;
    // The process that was spawned has forked and ended by now.
    timeout(ANSWER, child.wait()).await.ok();
    made.pid = line.strip_prefix("made ").and_then(|pid| pid.parse().ok()).ok_or_else(|| failed(&line))?;
    Ok(made)
}

impl Made {
    /// Lets it go on; returns when it runs what it shall run.
    pub(crate) async fn go(mut self) -> Result<(), Failure> {
        self.to.write_all(b"go\n").await.step("tell the shim to go on")?;
        let line = self.line().await?;
        if line == "started" { Ok(()) } else { Err(failed(&line)) }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        match timeout(ANSWER, self.from.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => {
                Err(Failure::transient("the shim ended without a word; see the log (AGENT_LOG=debug)"))
            }
            Ok(Err(error)) => Err(Failure::io("hear from the shim", &error)),
            Err(_) => Err(Failure::transient(format!("the shim did not answer within {ANSWER:?}"))),
        }
    }
}

/// Ends the processes of the last run, by force if need be; `kindly` asks them to.
pub(crate) async fn end(home: &Home, kindly: impl AsyncFnOnce(ProcessRef)) -> Result<(), Failure> {
    let Some(processes) = home.read_run::<Processes>("process.json").map_err(Failure::from)? else {
        return Ok(());
    };
    if processes.main.is_alive() {
        kindly(processes.main).await;
        if !processes.main.ended(KIND).await {
            tracing::info!(home = %home.dir().display(), "did not stop within {KIND:?}: killed");
            processes.main.signal(libc::SIGKILL).step("kill the instance")?;
        }
        if !processes.main.ended(FORCED).await {
            return Err(Failure::transient("the instance's first process does not end: the kernel holds it"));
        }
    }
    if !processes.shim.ended(FORCED).await {
        processes.shim.signal(libc::SIGKILL).step("kill the shim")?;
    }
    Ok(())
}

/// The last run as its files tell it: the processes, if they run, or the word on its end.
pub(crate) fn look(home: &Home) -> Result<Processes, Option<String>> {
    match home.read_run::<Processes>("process.json") {
        Ok(Some(processes)) if processes.main.is_alive() => Ok(processes),
        Ok(found) => {
            let exit = home.read_run::<Exit>("exit.json").ok().flatten();
            Err(exit.map(|exit| exit.detail).or(found.map(|_| "it ended without a word".to_owned())))
        }
        Err(error) => Err(Some(error.to_string())),
    }
}

/// The line of the shim, as a failure.
fn failed(line: &str) -> Failure {
    let rest = line.strip_prefix("failed ").unwrap_or(line);
    match rest.strip_prefix("permanent ") {
        Some(detail) => Failure { class: FailureClass::Permanent, detail: detail.to_owned() },
        None => Failure::transient(rest.strip_prefix("transient ").unwrap_or(rest)),
    }
}

/// How long an instance may take to stop when it is asked to.
pub(crate) const KIND: Duration = Duration::from_secs(10);
const FORCED: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);
