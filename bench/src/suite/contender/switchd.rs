//! The shipped daemon, configured as it ships: sealed datagrams, and frames in QUIC datagrams.

use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::{Lab, Node, SwitchdConfig, cmd, switchd_bin};

use super::{CLIENT, Contender, Running, SERVER};
use crate::suite::Arena;

/// Frames in sealed datagrams.
pub(super) struct Switchd;

impl Contender for Switchd {
    fn name(&self) -> &'static str {
        "switchd"
    }

    fn about(&self) -> &'static str {
        "this project's switch as it ships; instances' MTU that of the underlay"
    }

    fn required(&self) -> bool {
        true
    }

    /// The form of a sealed datagram (docs/wire-format.md).
    fn sends(&self, first: u8) -> bool {
        first >> 6 == 0b10
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        start(lab)?;
        between(lab, self.name(), CLIENT, SERVER)
    }
}

/// Frames in QUIC datagrams, on a network of their own of the same daemons.
pub(super) struct SwitchdQuic;

impl Contender for SwitchdQuic {
    fn name(&self) -> &'static str {
        "switchd-quic"
    }

    fn about(&self) -> &'static str {
        "the same daemons, on a network with carriage = \"quic\""
    }

    /// A short header (RFC 9000, 17.3.1).
    fn sends(&self, first: u8) -> bool {
        first >> 6 == 0b01
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        ensure!(knows_quic(lab)?, "this switchd carries no frames in QUIC");
        start(lab)?;
        between(lab, self.name(), &format!("{QUIC_NETWORK}-{CLIENT}"), &format!("{QUIC_NETWORK}-{SERVER}"))
    }
}

/// Starts the daemons, which both share, unless they run already.
fn start(lab: &Lab) -> Result<()> {
    if lab.nodes().iter().all(Node::switchd_runs) {
        return Ok(());
    }
    let quic = knows_quic(lab)?;
    lab.start_switchd(|config| configure(config, quic))
}

fn configure(config: &mut SwitchdConfig, quic: bool) {
    // The lab's own keepalives are short ones, for tests of failures.
    config.link.clear();
    for network in config.networks.iter_mut().filter(|network| quic && network.name == QUIC_NETWORK) {
        network.extra.push(("carriage".to_owned(), "\"quic\"".to_owned()));
    }
}

/// Whether the daemon under test can be told to carry a network's frames in QUIC.
fn knows_quic(lab: &Lab) -> Result<bool> {
    for mut config in lab.configs()? {
        configure(&mut config, true);
        let path = lab.node(&config.node)?.dir().join("quic.toml");
        std::fs::write(&path, config.to_toml())?;
        let (bin, path) = (switchd_bin()?.display().to_string(), path.display().to_string());
        let done = cmd::finish(&[&bin, "check-config", "--config", &path], None, CHECKED_WITHIN)?;
        if !done.status.success() {
            ensure!(
                done.stderr.contains("carriage"),
                "the daemon refuses its configuration: {}",
                done.stderr
            );
            return Ok(false);
        }
    }
    Ok(true)
}

fn between<'a>(lab: &'a Lab, contender: &'static str, client: &str, server: &str) -> Result<Running<'a>> {
    let (client, server) = (lab.instance(client)?, lab.instance(server)?);
    let arena = Arena {
        contender,
        client: client.ns(),
        server: server.ns(),
        address: server.v4()?,
        client_address: client.v4()?,
        daemons: lab.nodes().iter().map(Node::switchd_pid).collect::<Result<_>>()?,
        encrypted: true,
    };
    Ok(Running::new(arena, Vec::new()))
}

/// Name of the lab's second network.
pub(in crate::suite) const QUIC_NETWORK: &str = "quic";
const CHECKED_WITHIN: Duration = Duration::from_secs(5);
