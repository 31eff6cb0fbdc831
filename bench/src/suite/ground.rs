//! The lab of a scenario: two nodes with two instances each, and what is between the nodes.

mod forward;
mod sys;

use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::{Instance, Lab, LabSpec, Node, cmd};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use self::forward::Forwarder;
use super::Scenario;
use super::contender::QUIC_NETWORK;

/// A built lab. Dropping it removes it.
#[derive(Debug)]
pub struct Ground {
    // Before the lab, whose namespaces it works in.
    forwarder: Option<Forwarder>,
    lab: Lab,
    _cores: Option<Cores>,
}

impl Ground {
    /// Builds what `scenario` says. Where it limits cores, the calling thread and whatever it starts from here on
    /// share them until the result is dropped.
    pub fn build(scenario: &Scenario) -> Result<Ground> {
        let cores = scenario.cores.map(Cores::take).transpose()?;
        let underlay = scenario.underlay;
        let spec = LabSpec::star(&format!("bench-{}", scenario.name), 2, &["blue", QUIC_NETWORK], 2)
            .underlay_mtu(underlay.mtu)
            .loss(underlay.loss_percent)
            .each_instance(|instance| instance.mtu = underlay.mtu);
        let lab = Lab::build(spec)?;
        if underlay.round_trip > Duration::ZERO {
            widen_windows(&lab)?;
        }
        if underlay.loss_percent > 0.0 {
            lose_one_by_one(&lab)?;
        }
        if let Some(rate) = underlay.shaped_mbit {
            shape(&lab, rate)?;
        }
        let forwarder = if underlay.round_trip > Duration::ZERO {
            Some(Forwarder::between_nodes(lab.underlay(0), underlay.mtu, underlay.round_trip / 2)?)
        } else {
            None
        };
        Ok(Ground { forwarder, lab, _cores: cores })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Frames that the lab's own forwarder had no room for.
    pub fn dropped(&self) -> u64 {
        self.forwarder.as_ref().map_or(0, Forwarder::dropped)
    }
}

/// Every contender's packets leave the node as single ones: else a super-packet would be lost as a whole, and whoever
/// builds larger ones would lose less often.
fn lose_one_by_one(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let off = [
            "ethtool",
            "-K",
            "eth0",
            "tso",
            "off",
            "gso",
            "off",
            "tx-udp-segmentation",
            "off", //
            "tx-udp_tnl-segmentation",
            "off",
            "tx-udp_tnl-csum-segmentation",
            "off",
        ];
        node.ns().exec(&off)?;
    }
    Ok(())
}

/// The kernel's default of 6 MB would be a bound of its own on a long path.
fn widen_windows(lab: &Lab) -> Result<()> {
    let ends = lab.nodes().iter().map(Node::ns).chain(lab.instances().iter().map(Instance::ns));
    for ns in ends {
        ns.sysctl("net/ipv4/tcp_rmem", "4096 131072 67108864")?;
        ns.sysctl("net/ipv4/tcp_wmem", "4096 65536 67108864")?;
    }
    Ok(())
}

/// Limits the link to each node to `rate` Mb/s, headers included, with a switch's modest buffer.
fn shape(lab: &Lab, rate: u32) -> Result<()> {
    let (underlay, rate) = (lab.underlay(0).name(), format!("{rate}mbit"));
    for port in ["p1", "p2"] {
        cmd::run(&[
            "tc", "-n", underlay, "qdisc", "add", "dev", port, "root", "tbf", "rate", &rate, //
            "burst", "256kb", "limit", "1mb",
        ])?;
    }
    Ok(())
}

/// The calling thread's cores, given back on drop.
#[derive(Debug)]
struct Cores {
    before: CpuSet,
}

impl Cores {
    fn take(count: usize) -> Result<Cores> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).context("cannot read the CPU affinity")?;
        let mut set = CpuSet::new();
        let own = (0..CpuSet::count()).filter(|&core| before.is_set(core).unwrap_or(false));
        own.take(count).try_for_each(|core| set.set(core))?;
        sched_setaffinity(this, &set).context("cannot set the CPU affinity")?;
        Ok(Cores { before })
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        // The lab that was to share them is gone; a failure leaves the next one with fewer.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
