//! One cell of the matrix: two nodes that have never met are told of each other while their instances already try to
//! talk.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use super::lab::{CONNECTS_WITHIN, NatLab, NatSpec, RELAYED, SiteSpec, is_direct};
use super::preset::{self, Filter, Preset, Quirks};
use super::view::{Stage, Watcher};
use crate::ns::Namespace;
use crate::wait::wait_for;
use crate::{measure, wait_ok};

/// Two nodes to be connected.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What it is called in tables.
    pub name: String,
    /// One site with two nodes, or two with one each.
    pub sites: Vec<SiteSpec>,
    /// What the path is to be.
    pub wanted: Wanted,
}

/// What a path is to be in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// Holes can be punched, or none are needed.
    Direct,
    /// Nobody can know which port to punch at.
    Relayed,
    /// It depends on whose packet comes first.
    Either,
}

/// What became of a cell.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The cell's name.
    pub name: String,
    /// What the path was to be.
    pub wanted: Wanted,
    /// Kind of path that each node has in the end; empty if the link is down.
    pub paths: [String; 2],
    /// From the moment when both nodes knew of each other to the first answer between their instances.
    #[serde(rename = "first_frame_ms", with = "millis")]
    pub first_frame: Option<Duration>,
    /// From the same moment until both nodes had a direct path.
    #[serde(rename = "direct_ms", with = "millis")]
    pub direct: Option<Duration>,
    /// Relays that a frame passes, as the relay counts datagrams; `None` for a direct path.
    pub relay_hops: Option<u32>,
    /// What went wrong, if anything.
    pub failure: Option<String>,
}

impl Cell {
    /// A node at a site of each kind.
    pub fn of(one: Preset, two: Preset) -> Cell {
        let site = |preset| SiteSpec { preset, quirks: Quirks::default(), nodes: 1 };
        Cell {
            name: format!("{} / {}", one.name, two.name),
            sites: vec![site(one), site(two)],
            wanted: if one.reaches_directly(&two) { Wanted::Direct } else { Wanted::Relayed },
        }
    }

    /// Two nodes behind one router: they see each other on its inside.
    pub fn behind_one(preset: Preset, hairpin: bool) -> Cell {
        let quirks = Quirks { hairpin, ..Quirks::default() };
        let with = if hairpin { "with" } else { "without" };
        Cell {
            name: format!("two behind one {}, {with} hairpin", preset.name),
            sites: vec![SiteSpec { preset, quirks, nodes: 2 }],
            wanted: Wanted::Direct,
        }
    }

    /// Routers that answer strangers' packets, and so lose the port that the peer was told of: if both filter by port,
    /// only packets that cross on the way get through.
    pub fn answering(one: Preset, two: Preset) -> Cell {
        let mut cell = Cell::of(one, two);
        cell.sites[0].quirks.drops_unsolicited = false;
        cell.sites[1].quirks.drops_unsolicited = false;
        cell.name += ", unsolicited UDP is answered";
        let by_port = |preset: Preset| preset.behaviour().is_some_and(|(_, f)| f == Filter::AddressAndPort);
        if by_port(one) && by_port(two) {
            cell.wanted = Wanted::Either;
        }
        cell
    }

    /// The first router forwards the node's port, so that it is as good as a public address.
    pub fn forwarded(one: Preset, two: Preset) -> Cell {
        let mut cell = Cell::of(one, two);
        cell.sites[0].quirks.forwards_port = true;
        cell.name += ", the first one's port is forwarded";
        cell.wanted = Wanted::Direct;
        cell
    }

    /// Every cell: each kind with each, and the special ones.
    pub fn all() -> Vec<Cell> {
        let all = preset::ALL;
        let mut cells: Vec<Cell> =
            all.iter().flat_map(|one| all.iter().map(|two| Cell::of(*one, *two))).collect();
        for preset in [preset::PORT_RESTRICTED, preset::MASQUERADE, preset::SYMMETRIC] {
            cells.extend([true, false].map(|hairpin| Cell::behind_one(preset, hairpin)));
        }
        cells.push(Cell::answering(preset::MASQUERADE, preset::MASQUERADE));
        cells.push(Cell::answering(preset::PORT_RESTRICTED, preset::FULL_CONE));
        cells.push(Cell::forwarded(preset::PORT_RESTRICTED, preset::SYMMETRIC));
        cells.push(Cell::of(preset::CGNAT_SYMMETRIC, preset::FULL_CONE));
        cells.push(Cell::of(preset::CGNAT_SYMMETRIC, preset::PORT_RESTRICTED));
        cells
    }

    /// The lab that it is measured in.
    pub fn spec(&self) -> NatSpec {
        let letters = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        NatSpec {
            name: format!("nat_{}", self.name.chars().map(letters).collect::<String>()),
            sites: self.sites.clone(),
            switchd_toml: String::new(),
            controller_toml: String::new(),
        }
    }

    /// Builds the lab and measures. An error is one of the lab; what the nodes fail to do is in the outcome.
    pub fn run(&self) -> Result<Outcome> {
        let lab = NatLab::build(&self.spec()).with_context(|| format!("the lab for {}", self.name))?;
        let outcome = self.measure(&lab)?;
        // Evidence is kept as of a failed test.
        let _ = lab.run(|_| outcome.failure.clone().map_or(Ok(()), |failure| Err(anyhow!(failure))));
        Ok(outcome)
    }

    fn measure(&self, lab: &NatLab) -> Result<Outcome> {
        lab.settle()?;
        let watchers = [("node-a", "node-b"), ("node-b", "node-a")].map(|(node, peer)| {
            Ok::<_, anyhow::Error>((Watcher::start(&lab.node(node)?.socket_path())?, peer))
        });
        let watchers = watchers.into_iter().collect::<Result<Vec<_>>>()?;
        let talk = Talk::start(lab)?;
        let first_answer = std::thread::scope(|scope| {
            let answer = scope.spawn(|| talk.first_answer(CONNECTS_WITHIN + Duration::from_secs(2)));
            lab.introduce()?;
            answer.join().map_err(|_| anyhow!("waiting for an answer panicked"))
        })?;
        let told = watchers.iter().filter_map(|(w, peer)| Some(w.stages(peer).first()?.since)).max();
        let told = told.context("the nodes were not told of each other")?;
        let present = || watchers.iter().map(|(watcher, peer)| watcher.stage(peer)).collect::<Vec<_>>();
        let all_direct =
            || present().iter().all(|stage| matches!(stage, Some(s) if s.up && is_direct(&s.path)));
        // A direct path where there should be one, else whether one comes nevertheless.
        let patience = if self.wanted == Wanted::Direct { DIRECT_WITHIN } else { WATCHED_FOR };
        let _ = wait_for("a direct path", patience, all_direct);
        let stages = present();
        let since = stages.iter().flatten().map(|stage| stage.since).max();
        let still = self.still_talks(lab, &stages);
        let path = |i: usize| {
            let stage: Option<&Stage> = stages.get(i).and_then(Option::as_ref);
            stage.filter(|stage| stage.up).map(|stage| stage.path.clone()).unwrap_or_default()
        };
        let mut outcome = Outcome {
            name: self.name.clone(),
            wanted: self.wanted,
            paths: [path(0), path(1)],
            first_frame: first_answer.map(|at| at.saturating_duration_since(told)),
            direct: since.filter(|_| all_direct()).map(|at| at.saturating_duration_since(told)),
            relay_hops: None,
            failure: None,
        };
        outcome.failure = outcome.judge().or(still.err().map(|error| format!("later: {error:#}")));
        if outcome.failure.is_none() && outcome.direct.is_none() {
            let (hops, wanted) = (relay_hops(lab)?, self.relay_hops());
            outcome.relay_hops = Some(hops);
            if hops > wanted {
                outcome.failure = Some(format!("{hops} relays are passed, where {wanted} will do"));
            }
        }
        Ok(outcome)
    }
}

/// How many relays a frame passes between the two instances: what the controller's relay forwards of a row of pings.
fn relay_hops(lab: &NatLab) -> Result<u32> {
    let relayed = || -> Result<f64> {
        let each = ["to-peers", "to-nodes"].map(|direction| {
            lab.cluster().metric(&format!("controller_relay_datagrams_total{{direction=\"{direction}\"}}"))
        });
        each.into_iter().sum()
    };
    let (from, to) = (lab.instance("a1")?, lab.instance("b1")?.v4()?);
    let before = relayed()?;
    let ping = measure::ping(from.ns(), to, PINGS, Duration::from_millis(5))?;
    ensure!(ping.received * 10 >= PINGS * 9, "{} of {PINGS} pings were answered", ping.received);
    let each = (relayed()? - before) / f64::from(ping.sent + ping.received);
    ensure!(each > 0.9, "the relay forwarded {each:.2} datagrams for each packet");
    // Probes are in it too.
    Ok(if each < 1.6 { 1 } else { 2 })
}

impl Cell {
    fn relay_hops(&self) -> u32 {
        let [first, .., last] = &self.sites[..] else { return 1 };
        first.preset.relay_hops(&last.preset)
    }

    /// That pings are answered later too, and go where the nodes say: straight, or by a server.
    fn still_talks(&self, lab: &NatLab, stages: &[Option<Stage>]) -> Result<()> {
        let (from, to) = (lab.instance("a1")?, lab.instance("b1")?.v4()?);
        wait_ok("the instances to talk", STILL_WITHIN, || measure::ping_ok(from.ns(), to))?;
        let [first, second] = stages else { return Ok(()) };
        let (Some(first), Some(second), true) = (first, second, self.sites.len() == 2) else { return Ok(()) };
        let router = &lab.ground().sites()[0];
        let before = router.forwarded()?;
        let pings = measure::ping_each(from.ns(), to, 10, &[])?.received;
        let after = router.forwarded()?;
        let direct = is_direct(&first.path) && is_direct(&second.path);
        let (straight, by_servers) = (after.straight - before.straight, after.by_servers - before.by_servers);
        // Each node chooses for what it sends, so half of it may go another way where a relay serves.
        let enough = if direct { straight >= u64::from(2 * pings) } else { by_servers >= u64::from(pings) };
        ensure!(
            enough,
            "paths {:?} and {:?}, but of {pings} pings {straight} packets went straight, {by_servers} by servers",
            first.path,
            second.path
        );
        Ok(())
    }
}

impl Outcome {
    fn judge(&self) -> Option<String> {
        if self.first_frame.is_none() {
            return Some("no frame came through".into());
        }
        let direct = self.direct.is_some();
        let relayed = self.paths.iter().any(|path| path == RELAYED);
        match (self.wanted, direct) {
            (Wanted::Direct, false) => Some(format!("paths {:?}, where both can be direct", self.paths)),
            (Wanted::Relayed, true) => Some(format!("paths {:?}, where none can be direct", self.paths)),
            (Wanted::Relayed | Wanted::Either, false) if !relayed => {
                Some(format!("paths {:?}, where one is to be relayed", self.paths))
            }
            _ => None,
        }
    }
}

/// Datagrams from a1 to b1 every few milliseconds, and their answers.
struct Talk {
    socket: UdpSocket,
    to: SocketAddr,
    echo: UdpSocket,
}

impl Talk {
    fn start(lab: &NatLab) -> Result<Talk> {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        for instance in [a, b] {
            eager(instance.ns())?;
        }
        let bind = |ns: &Namespace, ip| {
            let socket = ns.enter(|| UdpSocket::bind((ip, 0)).context("cannot bind"))?;
            socket.set_read_timeout(Some(Duration::from_millis(5)))?;
            anyhow::Ok(socket)
        };
        let (socket, echo) = (bind(a.ns(), a.v4()?)?, bind(b.ns(), b.v4()?)?);
        let to = echo.local_addr()?;
        Ok(Talk { socket, to, echo })
    }

    /// When the first answer came.
    fn first_answer(&self, within: Duration) -> Option<Instant> {
        let deadline = Instant::now() + within;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buf = [0; 64];
                while !done.load(Ordering::Relaxed) {
                    if let Ok((n, from)) = self.echo.recv_from(&mut buf) {
                        let _ = self.echo.send_to(&buf[..n], from);
                    }
                }
            });
            let mut answer = None;
            while answer.is_none() && Instant::now() < deadline {
                // A neighbour that is not found yet is an error of the socket; the next attempt looks again.
                let _ = self.socket.send_to(b"are you there?", self.to);
                match self.socket.recv_from(&mut [0; 64]) {
                    Ok(_) => answer = Some(Instant::now()),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            done.store(true, Ordering::Relaxed);
            answer
        })
    }
}

/// A stack that looks for neighbours every 20 ms, not every second: its patience is not what is measured.
fn eager(ns: &Namespace) -> Result<()> {
    ns.sysctl("net/ipv4/neigh/eth0/retrans_time_ms", "20")?;
    ns.sysctl("net/ipv4/neigh/eth0/mcast_solicit", "500")
}

mod millis {
    use std::time::Duration;

    use serde::Serializer;

    #[expect(clippy::ref_option, reason = "serde passes the field so")]
    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => out.serialize_some(&(time.as_secs_f64() * 1e3)),
            None => out.serialize_none(),
        }
    }
}

/// Where holes can be punched, so long at most.
const DIRECT_WITHIN: Duration = Duration::from_secs(8);
/// Where they cannot, a path that is direct nevertheless would be seen within this time.
const WATCHED_FOR: Duration = Duration::from_secs(2);
/// To find out how many relays each passes.
const PINGS: u32 = 200;
const STILL_WITHIN: Duration = Duration::from_secs(5);
