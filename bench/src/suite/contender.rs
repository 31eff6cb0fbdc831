//! The contenders: each a way from an instance on one node to an instance on another.

mod bridge;
mod n2n;
mod openvpn;
mod process;
mod segment;
mod switchd;
mod tinc;
mod underlay;
mod vpncloud;
mod vxlan;
mod wireguard;

use std::path::PathBuf;

use anyhow::{Result, bail};
use netns_tests::{Lab, measure};

pub use process::Process;
pub(super) use switchd::QUIC_NETWORK;

use super::Arena;

/// A way to carry frames between two ends, which can be put into a lab beside all others.
pub trait Contender: Sync {
    /// Its name in results.
    fn name(&self) -> &'static str;

    /// How it is set up, in a sentence for `--list`.
    fn about(&self) -> &'static str;

    /// Whether it seals what it carries.
    fn encrypted(&self) -> bool {
        true
    }

    /// Whether the suite is nothing without it. What is not required may be absent, with the reason.
    fn required(&self) -> bool {
        false
    }

    /// Whether its instances have about the MTU of the underlay. Of what wants another the goals take no notice.
    fn like_for_like(&self) -> bool {
        true
    }

    /// Whether its frames leave their node.
    fn crosses(&self) -> bool {
        true
    }

    /// Whether this may be the first byte of what it sends between the nodes, in UDP. Not asked of what does not cross.
    fn sends(&self, _first: u8) -> bool {
        true
    }

    /// Sets it up in `lab` with a network of its own. Dropping the result ends its processes.
    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>>;
}

/// A contender that is set up.
#[derive(Debug)]
pub struct Running<'a> {
    /// Its ends.
    pub arena: Arena<'a>,
    /// What it runs; the lab itself ends the shipped daemons.
    _processes: Vec<Process>,
}

impl<'a> Running<'a> {
    /// Between `arena`'s ends, carried by `processes` and by the daemons that `arena` names already.
    fn new(mut arena: Arena<'a>, processes: Vec<Process>) -> Running<'a> {
        arena.daemons.extend(processes.iter().map(Process::pid));
        Running { arena, _processes: processes }
    }
}

/// All of them, in the order of the tables.
pub fn all() -> [&'static dyn Contender; 11] {
    [
        &underlay::Underlay,
        &bridge::Bridge,
        &vxlan::Vxlan,
        &switchd::Switchd,
        &switchd::SwitchdQuic,
        &wireguard::Wireguard,
        &tinc::Tinc,
        &n2n::N2n,
        &openvpn::OPENVPN,
        &openvpn::OPENVPN_JUMBO,
        &vpncloud::VpnCloud,
    ]
}

/// Those of `names`; all where it is empty.
pub fn named(names: &[String]) -> Result<Vec<&'static dyn Contender>> {
    for name in names {
        if !all().iter().any(|contender| contender.name() == name) {
            let known: Vec<_> = all().iter().map(|contender| contender.name()).collect();
            bail!("no contender is called {name}; there are: {}", known.join(", "));
        }
    }
    Ok(all().into_iter().filter(|c| names.is_empty() || names.iter().any(|name| name == c.name())).collect())
}

/// Where flows begin: the first instance on the first node.
const CLIENT: &str = "a1";
/// Where flows end: the first instance on the second node.
const SERVER: &str = "b1";
/// The other instance on the first node.
const NEIGHBOUR: &str = "a2";

/// An error that says how to get them unless all `programs` are there.
fn need(programs: &[&str]) -> Result<()> {
    match programs.iter().find(|program| !measure::have(program)) {
        None => Ok(()),
        Some(program) => bail!("no {program} here: run .ci/deps-bench as root"),
    }
}

/// The folder for a contender's files on a node, made.
fn folder(lab: &Lab, tag: &str, node: &str) -> Result<PathBuf> {
    let dir = lab.dir().join(tag).join(node);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
