//! coturn as STUN and TURN server on the internet, in place of the controller's or beside it.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::net::{Internet, v4, v6};
use crate::daemon::Daemon;
use crate::ns::Namespace;
use crate::wait::wait_ok;

/// A running coturn. Killed on drop.
#[derive(Debug)]
pub struct Coturn {
    ns: Namespace,
    host: u8,
    users: Users,
    dir: PathBuf,
    daemon: Option<Daemon>,
}

/// Whom coturn serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Users {
    /// One user by name, whom nodes' configurations name.
    Named,
    /// Whoever the controller has given credentials, by the secret that both know.
    OfController,
}

impl Coturn {
    /// Starts it on an address that the internet's namespace has, [`super::SERVER_1`] or [`super::SERVER_2`], with its
    /// files in `dir`, and waits until it answers.
    pub fn start(internet: &Internet, host: u8, users: Users, dir: &Path) -> Result<Coturn> {
        let dir = dir.join(format!("coturn-{host}"));
        let mut coturn = Coturn { ns: internet.ns().clone(), host, users, dir, daemon: None };
        std::fs::create_dir_all(&coturn.dir).context("making coturn's folder")?;
        coturn.ns.nft(&coturn.counter())?;
        coturn.restart()?;
        Ok(coturn)
    }

    /// Starts it again; what still runs is killed first. Allocations of before are gone.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let _ = std::fs::remove_file(self.log());
        let file = |name: &str| self.dir.join(name).display().to_string();
        let addresses = [v4(self.host).to_string(), v6(self.host).to_string()];
        let mut args: Vec<String> = [
            "turnserver",
            "-n",
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "--no-software-attribute",
            "--listening-port=3478",
            "--min-port=49152",
            "--max-port=49999",
            "--realm=natlab",
            "--log-file=stdout",
            "--simple-log",
            "--verbose",
        ]
        .map(str::to_owned)
        .into();
        match self.users {
            Users::Named => args.extend(["--lt-cred-mech".into(), format!("--user={USER}:{PASSWORD}")]),
            Users::OfController => {
                args.extend(["--use-auth-secret".into(), format!("--static-auth-secret={SECRET}")]);
            }
        }
        args.push(format!("--userdb={}", file("users.db")));
        args.push(format!("--pidfile={}", file("pid")));
        for ip in &addresses {
            args.extend([format!("--listening-ip={ip}"), format!("--relay-ip={ip}")]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.daemon = Some(Daemon::start(&self.ns, &args, &self.log())?);
        wait_ok("coturn to answer", READY_WITHIN, || self.answers())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill9();
        }
    }

    /// How many allocations it has made since its last start.
    pub fn allocations(&self) -> usize {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter(|line| line.contains("ALLOCATE processed, success")).count()
    }

    /// Packets to it so far, of all kinds.
    pub fn packets(&self) -> Result<u64> {
        let table = format!("relay{}", self.host);
        let said = self.ns.exec(&["nft", "list", "counter", "inet", &table, "to"])?;
        let count =
            said.split_once("packets ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        count.with_context(|| format!("no count in {said}"))
    }

    /// An entry for `relays` of the `[nat]` table; `transport` is `udp` or `tcp`.
    pub fn entry(&self, transport: &str) -> String {
        format!(
            "{{ address = \"{}:3478\", transport = {transport:?}, username = {USER:?}, password = {PASSWORD:?} }}",
            v4(self.host)
        )
    }

    /// Tables of `controller.toml` that name it in place of the controller's own relay, with the secret in a file.
    pub fn external(&self) -> Result<String> {
        let file = self.dir.join("secret");
        std::fs::write(&file, SECRET).context("writing coturn's secret")?;
        std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        Ok(format!(
            "{NO_RELAY}[[relay.external]]\naddress = \"{}:3478\"\ntransports = [\"udp\", \"tcp\"]\nsecret_file = {:?}\n\n",
            v4(self.host),
            file.display().to_string()
        ))
    }

    /// A `[nat]` table of `switchd.toml` that names it alone, as STUN server and as relay over UDP.
    pub fn table(&self) -> String {
        nat_table(&[self])
    }

    /// An error unless it answers a STUN Binding request.
    pub fn answers(&self) -> Result<()> {
        let server = SocketAddr::new(v4(self.host).into(), 3478);
        let socket = self.ns.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        // RFC 8489, 5: a Binding request without attributes.
        let mut request = [0; 20];
        request[1] = 1;
        request[4..8].copy_from_slice(&0x2112_a442u32.to_be_bytes());
        socket.send_to(&request, server)?;
        let mut answer = [0; 128];
        let len = socket.recv(&mut answer).context("no answer")?;
        ensure!(len >= 20 && answer[..2] == [1, 1], "no Binding response: {:?}", &answer[..len]);
        Ok(())
    }

    fn counter(&self) -> String {
        let host = self.host;
        format!(
            "table inet relay{host} {{\n counter to {{ }}\n chain i {{ type filter hook input priority 0; policy accept;\n  \
             ip daddr {} counter name to\n  ip6 daddr {} counter name to\n }}\n}}\n",
            v4(host),
            v6(host)
        )
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// A `[nat]` table of `switchd.toml` that names these as STUN servers and as relays over UDP.
pub fn nat_table(all: &[&Coturn]) -> String {
    let stun: Vec<String> = all.iter().map(|coturn| format!("\"{}:3478\"", v4(coturn.host))).collect();
    let relays: Vec<String> = all.iter().map(|coturn| coturn.entry("udp")).collect();
    format!("[nat]\nstun = [{}]\nrelays = [{}]\n\n", stun.join(", "), relays.join(", "))
}

/// Tables of `controller.toml` with which it is no relay.
pub const NO_RELAY: &str = "[relay]\nenabled = false\n\n";
const USER: &str = "u1";
const PASSWORD: &str = "p1";
const SECRET: &str = "of-coturn-and-the-controller";
const READY_WITHIN: Duration = Duration::from_secs(10);
