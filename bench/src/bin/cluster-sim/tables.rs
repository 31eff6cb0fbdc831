//! What a node keeps of bindings: two maps like those of switchd, the session's and the daemon's, and the tables of a
//! real switch.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use controller_api::node as proto;
use nix::time::{ClockId, clock_gettime};
use switch_core::frame::Tags;
use switch_core::ids::{Generation, Mac, PeerId, Vni};
use switch_core::switch::{
    AntiSpoof, Binding, BindingKey, DhcpPolicy, Limits, Mode, Place, Policy, Source, State, Switch,
    SwitchConfig,
};
use switch_core::time::Time;

/// The tables of one node.
pub(crate) struct Tables {
    own: String,
    session: BTreeMap<(Vni, BindingKey), Bound>,
    daemon: BTreeMap<(Vni, BindingKey), Bound>,
    switches: HashMap<Vni, Switch>,
    peers: HashMap<String, PeerId>,
    /// Parts of a revision that is not whole yet.
    pending: Vec<proto::StateUpdate>,
    /// CPU time that updates took, and how many they were.
    pub(crate) spent: Duration,
    pub(crate) updates: u64,
}

/// Where a station lives; the same fields as in switchd.
#[derive(Clone)]
struct Bound {
    ips: Vec<IpAddr>,
    /// `None` is this node.
    node: Option<String>,
    generation: Generation,
    source: Source,
    state: State,
}

impl Tables {
    /// Of the node with this id.
    pub(crate) fn new(own: &str) -> Tables {
        Tables {
            own: own.to_owned(),
            session: BTreeMap::new(),
            daemon: BTreeMap::new(),
            switches: HashMap::new(),
            peers: HashMap::new(),
            pending: Vec::new(),
            spent: Duration::ZERO,
            updates: 0,
        }
    }

    /// Takes a message in. A revision is applied when it is whole.
    pub(crate) fn take(&mut self, message: bytes::Bytes) -> Result<()> {
        let begun = thread_time()?;
        let part = <proto::StateUpdate as prost::Message>::decode(message)?;
        if part.first {
            self.pending.clear();
            self.session.clear();
            self.daemon.clear();
            self.switches.clear();
            self.peers.clear();
        }
        let whole = !part.more;
        self.pending.push(part);
        if whole {
            for part in std::mem::take(&mut self.pending) {
                self.apply(&part)?;
            }
        }
        self.spent += thread_time()?.saturating_sub(begun);
        self.updates += 1;
        Ok(())
    }

    /// Bindings that the switches have.
    pub(crate) fn bindings(&self) -> usize {
        self.switches.values().map(|switch| switch.bindings(NOW).count()).sum()
    }

    fn apply(&mut self, part: &proto::StateUpdate) -> Result<()> {
        ensure!(part.removed_vnis.is_empty(), "no network is removed here");
        for key in &part.removed_bindings {
            let (vni, key) = binding_key(Some(key))?;
            self.session.remove(&(vni, key));
            if let (Some(old), Some(switch)) = (self.daemon.remove(&(vni, key)), self.switches.get_mut(&vni))
            {
                switch.remove_binding(key, old.generation, NOW)?;
            }
        }
        for network in &part.networks {
            let vni = Vni::new(network.vni)?;
            self.switches.entry(vni).or_insert_with(|| Switch::new(switch_config(vni)));
        }
        for id in &part.removed_peers {
            self.peers.remove(id);
        }
        for peer in &part.peers {
            let number = PeerId(u32::try_from(self.peers.len())?);
            self.peers.entry(peer.node_id.clone()).or_insert(number);
        }
        part.bindings.iter().try_for_each(|binding| self.bind(binding))
    }

    fn bind(&mut self, wire: &proto::Binding) -> Result<()> {
        let (vni, key) = binding_key(wire.key.as_ref())?;
        let bound = Bound {
            ips: wire.ips.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?,
            node: (wire.node_id != self.own).then(|| wire.node_id.clone()),
            generation: Generation(wire.generation),
            source: match wire.source() {
                proto::BindingSource::Controller => Source::Controller,
                proto::BindingSource::Learned => Source::Announced,
                proto::BindingSource::Unspecified => bail!("a binding without a source"),
            },
            state: match wire.state() {
                proto::BindingState::Active => State::Active,
                proto::BindingState::Prepared => State::Prepared,
                proto::BindingState::Unspecified => bail!("a binding without a state"),
            },
        };
        let at = match &bound.node {
            None => Place::Local,
            Some(node) => Place::Peer(*self.peers.get(node).context("a binding of an unknown peer")?),
        };
        let binding = Binding {
            tags: key.tags,
            mac: key.mac,
            ips: bound.ips.clone(),
            at,
            generation: bound.generation,
            source: bound.source,
            state: bound.state,
        };
        let switch = self.switches.get_mut(&vni).context("a binding of an unknown network")?;
        switch.set_binding(binding, NOW)?;
        self.session.insert((vni, key), bound.clone());
        self.daemon.insert((vni, key), bound);
        Ok(())
    }
}

fn binding_key(wire: Option<&proto::BindingKey>) -> Result<(Vni, BindingKey)> {
    let wire = wire.context("a binding without a key")?;
    let vids: Vec<u16> = wire.vlans.iter().map(|vid| u16::try_from(*vid)).collect::<Result<_, _>>()?;
    let tags = Tags::from_vids(&vids).context("VLANs that are none")?;
    let mac: [u8; 6] = wire.mac.as_slice().try_into().context("a MAC has 6 bytes")?;
    Ok((Vni::new(wire.vni)?, BindingKey { tags, mac: Mac(mac) }))
}

/// With the bounds that switchd gives a network of the controller's.
fn switch_config(vni: Vni) -> SwitchConfig {
    SwitchConfig {
        vni,
        mode: Mode::Rewrite,
        endpoint_mac: Mac([2, 0x73, 0x77, 0, 0, 1]),
        policy: Policy {
            dhcp: DhcpPolicy::Forward,
            anti_spoof: AntiSpoof::Learn,
            broadcast_rate: 1000,
            broadcast_burst: 1000,
        },
        limits: Limits { max_macs: MAX_ENTRIES, max_ips: MAX_ENTRIES, ..Limits::default() },
        gateways: Vec::new(),
        hash_seed: [1, 2, 3, 4],
    }
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Nothing ages here.
const NOW: Time = Time::ZERO;
/// As in switchd.
const MAX_ENTRIES: usize = 1 << 17;
