//! What the black-box tests share.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which clippy does not see as tests")]

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A controller's directory and configuration, on ports of its own.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pub(crate) nodes_port: u16,
    pub(crate) rest_port: u16,
}

impl Lab {
    pub(crate) fn new(further: &str) -> Lab {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let lab = Lab { dir: tempfile::tempdir().unwrap(), nodes_port: free(), rest_port: free() };
        let config = format!(
            "state_dir = {:?}\nadmin.socket = {:?}\nadmin.group = \"root\"\nmetrics.listen = \"off\"\n\
             nodes.listen = \"127.0.0.1:{}\"\nrest.listen = \"127.0.0.1:{}\"\n{further}",
            lab.path("state"),
            lab.path("admin.sock"),
            lab.nodes_port,
            lab.rest_port,
        );
        std::fs::write(lab.path("controller.toml"), config).unwrap();
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_controller"));
        command.args(args).env("CONTROLLER_CONFIG", self.path("controller.toml"));
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it prints; it must not fail.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Why it fails; it must.
    pub(crate) fn error(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs it and waits until it says that it is ready.
    pub(crate) fn run(&self) -> Running {
        let path = self.path("notify");
        let _ = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(SOON)).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let child = self
            .command(&["run"])
            .env("NOTIFY_SOCKET", &path)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running(child);
        let mut buffer = [0; 256];
        let read = notify.recv(&mut buffer).unwrap_or_else(|_| {
            panic!("it is not ready: {}", std::fs::read_to_string(self.path("log")).unwrap_or_default())
        });
        assert!(String::from_utf8_lossy(&buffer[..read]).contains("READY=1"));
        running
    }
}

/// A running controller; it is killed when it goes out of scope.
pub(crate) struct Running(Child);

impl Running {
    /// Ends it by SIGTERM; it must end well.
    pub(crate) fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let start = Instant::now();
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return assert!(status.success(), "{status}"),
                None => assert!(start.elapsed() < SOON, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
