//! What interrupts a running TCP flow, and for how long.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::coturn::{Coturn, NO_RELAY, Users, nat_table};
use super::lab::{NatLab, NatSpec};
use super::net::{Cut, SERVER_1, SERVER_2, v4};
use super::preset::{self, Preset};
use crate::ctl;
use crate::traffic::{Beat, TcpFlow};
use crate::wait::{wait_for, wait_ok};

/// Something that happens while a flow runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// A direct path becomes possible, and takes over from the relay.
    Upgrade,
    /// The direct path ends, both ways; the relay can be reached.
    Cut,
    /// The same, but only towards the first node.
    CutOneWay,
    /// The first node gets another address.
    Move,
    /// The first node's router forgets its mappings.
    Rebind,
    /// The first node's router gets another address outside.
    MoveRouter,
    /// The relay in use is killed; there is another.
    RelayKilled,
    /// The only STUN server is killed; the path is direct.
    StunKilled,
    /// The controller is killed; the path is direct.
    ControllerKilled,
    /// The controller is killed; the path leads through coturn.
    ControllerKilledRelayed,
}

impl Harm {
    /// All of them.
    pub const ALL: [Harm; 10] = [
        Harm::Upgrade,
        Harm::Cut,
        Harm::CutOneWay,
        Harm::Move,
        Harm::Rebind,
        Harm::MoveRouter,
        Harm::RelayKilled,
        Harm::StunKilled,
        Harm::ControllerKilled,
        Harm::ControllerKilledRelayed,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Harm::Upgrade => "relay to direct upgrade",
            Harm::Cut => "direct path cut",
            Harm::CutOneWay => "direct path cut one way",
            Harm::Move => "node's address changed",
            Harm::Rebind => "NAT rebinding",
            Harm::MoveRouter => "router's address changed",
            Harm::RelayKilled => "relay killed, another is there",
            Harm::StunKilled => "STUN server killed",
            Harm::ControllerKilled => "controller killed, direct path",
            Harm::ControllerKilledRelayed => "controller killed, relayed by coturn",
        }
    }

    /// Behind which routers the two nodes are.
    fn presets(self) -> [Preset; 2] {
        match self {
            Harm::RelayKilled | Harm::ControllerKilledRelayed => [preset::SYMMETRIC; 2],
            _ => [preset::PORT_RESTRICTED; 2],
        }
    }

    /// On which hosts coturn runs, instead of the controller's relay.
    fn relays(self) -> &'static [u8] {
        match self {
            Harm::RelayKilled => &[SERVER_1, SERVER_2],
            Harm::StunKilled | Harm::ControllerKilledRelayed => &[SERVER_1],
            _ => &[],
        }
    }
}

/// What instances noticed of a harm, each figure that of the worse direction.
#[derive(Clone, Copy, Debug)]
pub struct Noticed {
    /// The longest silence in a TCP flow, at the receiver: the sender's timer, which doubles, is in it.
    pub tcp: Duration,
    /// The longest silence where a datagram is sent every 5 ms.
    pub udp: Duration,
    /// Datagrams of these that were lost.
    pub lost: u64,
    /// Datagrams of these that came after a later one.
    pub reordered: u64,
}

/// Two nodes with a flow each way between their instances.
#[derive(Debug)]
pub struct Trial {
    harm: Harm,
    // Before the lab: its threads end first.
    flows: [TcpFlow; 2],
    beats: [Beat; 2],
    relays: Vec<Coturn>,
    lab: NatLab,
}

impl Trial {
    /// Builds the lab and brings it to where the harm can be done.
    pub fn start(harm: Harm) -> Result<Trial> {
        Trial::start_between(harm, harm.presets())
    }

    /// The same between routers of other kinds.
    pub fn start_between(harm: Harm, presets: [Preset; 2]) -> Result<Trial> {
        let mut spec = NatSpec::new(&format!("gap_{harm:?}"), &presets);
        if !harm.relays().is_empty() {
            spec.controller_toml = NO_RELAY.to_owned();
        }
        let mut relays = Vec::new();
        let lab = NatLab::build_with(spec, |ground, dir, spec| {
            for host in harm.relays() {
                relays.push(Coturn::start(ground.internet(), *host, Users::Named, dir)?);
            }
            if !relays.is_empty() {
                spec.switchd_toml = nat_table(&relays.iter().collect::<Vec<_>>());
            }
            Ok(())
        })?;
        let (flows, beats) = lab.run(|lab| {
            if harm == Harm::Upgrade {
                lab.site("node-a")?.cut(Cut::BothWays)?;
            }
            lab.connect()?;
            let relayed = matches!(harm, Harm::Upgrade | Harm::RelayKilled | Harm::ControllerKilledRelayed);
            if relayed {
                lab.wait_relayed(SETTLED_WITHIN)?;
            } else {
                lab.wait_direct(SETTLED_WITHIN)?;
            }
            let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
            let (to_a, to_b) = (a.v4()?, b.v4()?);
            let flows = [TcpFlow::start(a.ns(), b.ns(), to_b)?, TcpFlow::start(b.ns(), a.ns(), to_a)?];
            Ok((flows, [Beat::start(a.ns(), b.ns(), to_b)?, Beat::start(b.ns(), a.ns(), to_a)?]))
        })?;
        Ok(Trial { harm, flows, beats, relays, lab })
    }

    /// Does the harm, and returns what the worse of the two directions noticed; then mends what is to be mended, so
    /// that it can be done again. An error if a flow does not go on.
    pub fn once(&mut self) -> Result<Noticed> {
        let noticed = self.attempt();
        self.lab.lab().set_failed(noticed.is_err());
        noticed.with_context(|| self.harm.name())
    }

    fn attempt(&mut self) -> Result<Noticed> {
        self.advance(BEFORE).context("before")?;
        if self.harm == Harm::RelayKilled {
            wait_ok("paths by each relay", UPGRADED_WITHIN, || self.served_by_each())?;
        }
        self.flows.iter().for_each(TcpFlow::reset_gap);
        self.beats.iter().for_each(Beat::reset);
        match self.harm {
            Harm::Upgrade => self.site()?.heal()?,
            Harm::Cut => self.site()?.cut(Cut::BothWays)?,
            Harm::CutOneWay => self.site()?.cut(Cut::Inbound)?,
            Harm::Move => self.lab.move_node("node-a").map(drop)?,
            Harm::Rebind => self.site()?.rebind()?,
            Harm::MoveRouter => self.site()?.change_wan().map(drop)?,
            Harm::RelayKilled => {
                let busy = self.busy_relay()?;
                self.relays[busy].kill();
            }
            Harm::StunKilled => self.relays[0].kill(),
            Harm::ControllerKilled | Harm::ControllerKilledRelayed => self.lab.cluster().kill_controller(),
        }
        match self.harm {
            Harm::Upgrade => self.lab.wait_direct(UPGRADED_WITHIN)?,
            Harm::Cut | Harm::CutOneWay => self.lab.wait_relayed(SETTLED_WITHIN)?,
            _ => {}
        }
        let lasting =
            matches!(self.harm, Harm::StunKilled | Harm::ControllerKilled | Harm::ControllerKilledRelayed);
        self.advance(if lasting { LASTING } else { AFTER }).context("after")?;
        let heard = self.beats.each_ref().map(Beat::heard);
        let [one, two] = self.flows.each_ref().map(TcpFlow::worst_gap);
        let noticed = Noticed {
            tcp: one.max(two),
            udp: heard[0].worst_gap.max(heard[1].worst_gap),
            lost: heard[0].lost.max(heard[1].lost),
            reordered: heard[0].reordered.max(heard[1].reordered),
        };
        self.mend().context("mending")?;
        Ok(noticed)
    }

    fn mend(&mut self) -> Result<()> {
        match self.harm {
            Harm::Upgrade => {
                self.site()?.cut(Cut::BothWays)?;
                self.lab.wait_relayed(SETTLED_WITHIN)
            }
            Harm::Cut | Harm::CutOneWay => {
                self.site()?.heal()?;
                self.lab.wait_direct(UPGRADED_WITHIN)
            }
            Harm::Move | Harm::Rebind | Harm::MoveRouter => self.lab.wait_direct(UPGRADED_WITHIN),
            Harm::RelayKilled | Harm::StunKilled => {
                let used = |relay: &Coturn| relay.allocations() >= 2;
                for relay in &mut self.relays {
                    if relay.answers().is_err() {
                        relay.restart()?;
                        wait_for("both nodes to use the relay again", UPGRADED_WITHIN, || used(relay))?;
                    }
                }
                Ok(())
            }
            Harm::ControllerKilled | Harm::ControllerKilledRelayed => {
                self.lab.cluster().start_controller()?;
                self.lab.wait_online()
            }
        }
    }

    /// An error unless there is a path by each relay: one that is to take over must be there. Of the two ends of a path
    /// by one relay, one has the address on the relay as the peer's.
    fn served_by_each(&self) -> Result<()> {
        let mut alive = Vec::new();
        for (node, peer) in [("node-a", "node-b"), ("node-b", "node-a")] {
            let why = self.lab.node(node)?.ctl(&["why-relayed", peer])?;
            let paths = ctl::rows(&why, "paths").iter().filter(|path| path["state"] == "alive");
            let before = alive.len();
            alive.extend(paths.filter_map(|path| Some(path["address"].as_str()?.to_owned())));
            ensure!(alive.len() >= before + 2, "{node} has one path only: {}", why["paths"]);
        }
        for host in self.harm.relays() {
            let on = format!("{}:", v4(*host));
            ensure!(alive.iter().any(|at| at.starts_with(&on)), "no path by {on} {alive:?}");
        }
        Ok(())
    }

    fn site(&self) -> Result<&super::Site> {
        self.lab.site("node-a")
    }

    /// Which relay the flows go through.
    fn busy_relay(&self) -> Result<usize> {
        let before = self.relays.iter().map(Coturn::packets).collect::<Result<Vec<_>>>()?;
        self.advance(BEFORE)?;
        let after = self.relays.iter().map(Coturn::packets).collect::<Result<Vec<_>>>()?;
        let more: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        let busiest = (0..more.len()).max_by_key(|i| more[*i]).ok_or_else(|| anyhow!("there is no relay"))?;
        ensure!(more[busiest] > 50, "no relay carries the flows: {more:?} packets");
        Ok(busiest)
    }

    fn advance(&self, bytes: u64) -> Result<()> {
        self.flows.iter().try_for_each(|flow| flow.advance(bytes, FLOWS_WITHIN))
    }
}

const BEFORE: u64 = 100_000;
/// Half a second at least, at 1000 bytes every 2 ms.
const AFTER: u64 = 300_000;
/// Where nothing shall happen: five seconds.
const LASTING: u64 = 2_000_000;
const FLOWS_WITHIN: Duration = Duration::from_secs(20);
const SETTLED_WITHIN: Duration = Duration::from_secs(15);
/// Attempts at something better back off to one a minute.
const UPGRADED_WITHIN: Duration = Duration::from_secs(70);
