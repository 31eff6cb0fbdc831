//! The real `controller` process, in a directory that goes with it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::measure;

/// A controller on loopback.
pub(crate) struct Server {
    program: PathBuf,
    dir: tempfile::TempDir,
    child: Option<Child>,
    /// Of the nodes' sessions.
    pub(crate) nodes_port: u16,
    /// Of the REST API.
    pub(crate) rest_port: u16,
    /// The API's first token.
    pub(crate) admin: String,
}

impl Server {
    /// Makes a cluster; nothing runs yet.
    pub(crate) fn init(program: &Path) -> Result<Server> {
        ensure!(
            program.exists(),
            "{} is not there: build it by `cargo build --release -p controller`, or name another by --controller",
            program.display()
        );
        let free = || -> Result<u16> { Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        let mut server = Server {
            program: program.to_owned(),
            dir: tempfile::tempdir()?,
            child: None,
            nodes_port: free()?,
            rest_port: free()?,
            admin: String::new(),
        };
        let config = format!(
            "state_dir = {:?}\nadmin.socket = {:?}\nadmin.group = \"root\"\nmetrics.listen = \"off\"\n\
             nodes.listen = \"127.0.0.1:{}\"\nrest.listen = \"127.0.0.1:{}\"\n\
             relay.enabled = false\nlimits.enrolments_per_minute = 1000000\n",
            server.path("state"),
            server.path("admin.sock"),
            server.nodes_port,
            server.rest_port
        );
        std::fs::write(server.path("controller.toml"), config)?;
        let advertise = format!("127.0.0.1:{}", server.nodes_port);
        let output = server.command(&["init", "--name", "sim", "--advertise", &advertise]).output()?;
        ensure!(
            output.status.success(),
            "controller init failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        server.admin = String::from_utf8(output.stdout)?.trim().to_owned();
        Ok(server)
    }

    /// Starts it, and gives the time until it says that it is ready: its API answers then.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let path = self.path("notify");
        // Left from the start before.
        let _ = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path)?;
        notify.set_read_timeout(Some(START_TIMEOUT))?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let begun = Instant::now();
        let mut command = self.command(&["run"]);
        command.env("NOTIFY_SOCKET", &path).stderr(log).stdout(Stdio::null());
        self.child = Some(command.spawn()?);
        let mut buffer = [0; 256];
        notify.recv(&mut buffer).map_err(|_| anyhow!("the controller is not ready: {}", self.log()))?;
        Ok(begun.elapsed())
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// CPU time, resident bytes, and the most that were resident since the last call.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.child.as_ref().context("the controller does not run")?.id();
        let cpu = measure::cpu_time(pid).with_context(|| self.log())?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap_or(0);
        // proc(5): 5 begins the high-water mark anew.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        Ok(Usage { cpu, resident: measure::resident(pid)?, peak: peak << 10 })
    }

    /// Bytes of the store's file.
    pub(crate) fn store_bytes(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.path("state/controller.redb"))?.len())
    }

    /// The certificate of the API.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("state/rest.crt")
    }

    /// The end of what it logged.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("CONTROLLER_CONFIG", self.path("controller.toml"));
        // An event for each of a thousand nodes is not what is measured.
        command.env("RUST_LOG", "warn");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

/// What the process used.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

const START_TIMEOUT: Duration = Duration::from_secs(60);
