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
             nodes.listen = \"127.0.0.1:{}\"\nrest.listen = \"127.0.0.1:{}\"\n\
             relay.listen = \"127.0.0.1:0\"\n{further}",
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

impl Lab {
    /// One call of the REST API over TLS, with the cluster's certificate alone trusted: status and body.
    pub(crate) fn call(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, serde_json::Value) {
        self.call_with(method, path, token, "", body)
    }

    /// The same with further headers, each line with its end.
    pub(crate) fn call_with(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &str,
        body: &str,
    ) -> (u16, serde_json::Value) {
        use rustls::pki_types::pem::PemObject;
        use std::io::{Read, Write};
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(rustls::pki_types::CertificateDer::from_pem_file(self.path("state/rest.crt")).unwrap())
            .unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "127.0.0.1".try_into().unwrap();
        let client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let socket = std::net::TcpStream::connect(("127.0.0.1", self.rest_port)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut stream = rustls::StreamOwned::new(client, socket);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             {headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A close without TLS's own goodbye is an error after the bytes.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(serde_json::Value::String(body.to_owned())))
    }
}
