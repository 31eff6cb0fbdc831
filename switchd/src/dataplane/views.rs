//! The worker's tables and counters in the shapes that the admin socket and the metrics show.

use std::sync::Arc;
use std::time::Duration;

use controller_api::BindingSource;
use switch_core::ids::PeerId;
use switch_core::switch::{DropReason, NeighbourCounters, Place, Source, State};

use super::core::Core;
use super::inbound::Inbound;
use super::network::{Network, SideCounters};
use super::networks::Networks;
use super::peers::Peer;
use super::snapshot::{PeerSnapshot, Snapshot};
use crate::view::{
    BindingRow, CaseCount, Direction, DirectionStats, MacRow, NetworkStats, Stats, TableStats,
};

/// Every network's bindings.
pub(super) fn bindings(core: &Core, networks: &Networks, node: &Arc<str>) -> Vec<BindingRow> {
    let now = core.now();
    let mut rows = Vec::new();
    for network in networks.iter() {
        rows.extend(network.switch.bindings(now).map(|view| {
            let mut ips = view.ips;
            ips.sort_unstable();
            let binding = controller_api::Binding {
                vni: network.vni.get(),
                vlans: view.key.tags.vids().to_vec(),
                mac: view.key.mac.to_string(),
                ips,
                node: place_name(core, node, view.at),
                generation: view.generation.0,
                source: match view.source {
                    Source::Controller => BindingSource::Controller,
                    Source::Announced | Source::Learned => BindingSource::Learned,
                },
            };
            let state = match view.state {
                State::Active => "active",
                State::Prepared => "prepared",
            };
            let age = view.age.unwrap_or(Duration::ZERO);
            let announced = view.source == Source::Announced;
            BindingRow { network: network.name.to_string(), binding, announced, state: state.to_owned(), age }
        }));
    }
    rows.sort_by(|a, b| {
        (&a.network, &a.binding.ips, &a.binding.mac).cmp(&(&b.network, &b.binding.ips, &b.binding.mac))
    });
    rows
}

/// Every network's stations.
pub(super) fn macs(core: &Core, networks: &Networks) -> Vec<MacRow> {
    let now = core.now();
    let mut rows = Vec::new();
    for network in networks.iter() {
        rows.extend(network.switch.macs(now).map(|view| {
            let (direction, peer) = match view.at {
                Place::Local => (Direction::Local, None),
                Place::Peer(id) => (Direction::Remote, Some(peer_name(core, id))),
            };
            MacRow {
                network: network.name.to_string(),
                mac: view.key.mac.to_string(),
                vlans: view.key.tags.vids().to_vec(),
                direction,
                peer,
                age: view.age.unwrap_or(Duration::ZERO),
            }
        }));
    }
    rows.sort_by(|a, b| (&a.network, &a.mac, &a.vlans).cmp(&(&b.network, &b.mac, &b.vlans)));
    rows
}

/// All counters.
pub(super) fn snapshot(core: &Core, networks: &Networks, inbound: &Inbound) -> Snapshot {
    let transmitter = &core.transmitter;
    let mut datagram_drops = core.datagram_drops.view();
    for (reason, count) in core.carriage.drops.counts() {
        add(&mut datagram_drops, reason, count);
    }
    add(&mut datagram_drops, DropReason::SendFailed, transmitter.errors.iter().map(|(_, lost)| lost).sum());
    let stats = Stats {
        networks: networks.iter().map(network_stats).collect(),
        datagram_drops,
        batches_to_peer: transmitter.batches.view(),
        batches_from_peer: inbound.batches.view(),
        send_errors: transmitter
            .errors
            .iter()
            .map(|(errno, lost)| (format!("{:?}", nix::Error::from_raw(*errno)), *lost))
            .collect(),
        worker: None, // the node knows
    };
    let peer = |(id, peer): (PeerId, &Peer)| {
        let paths = peer.paths.paths().collect();
        (id, PeerSnapshot { counters: peer.counters, paths, datagram_max: peer.paths.datagram_max() })
    };
    Snapshot { stats, peers: core.peers.iter().map(peer).collect() }
}

fn network_stats(network: &Network) -> NetworkStats {
    let counters = network.switch.counters();
    let mut local = side(&network.local);
    let remote = side(&network.remote);
    // Held frames expire by time, without a verdict.
    add(&mut local.drops, DropReason::HoldExpired, counters.drops(DropReason::HoldExpired));
    let (macs, ips) = network.switch.table_sizes();
    let limits = network.switch.limits();
    let table = |name: &str, entries: usize, limit: usize, full| TableStats {
        table: name.to_owned(),
        entries: entries as u64,
        limit: limit as u64,
        full,
    };
    NetworkStats {
        network: network.name.to_string(),
        local,
        remote,
        arp: cases(&counters.arp),
        nd: cases(&counters.nd),
        tables: vec![
            table("macs", macs, limits.max_macs, counters.mac_table_full),
            table("ips", ips, limits.max_ips, counters.ip_table_full),
        ],
        unused_bindings: network.unused_bindings.view(),
    }
}

fn side(counters: &SideCounters) -> DirectionStats {
    DirectionStats {
        frames: counters.frames,
        bytes: counters.bytes,
        super_frames: counters.super_frames,
        frame_bytes: counters.sizes.view(),
        drops: counters.drops.view(),
    }
}

fn add(drops: &mut Vec<(String, u64)>, reason: DropReason, count: u64) {
    if count == 0 {
        return;
    }
    match drops.iter_mut().find(|(label, _)| label == reason.label()) {
        Some((_, known)) => *known += count,
        None => drops.push((reason.label().to_owned(), count)),
    }
}

/// The paper's four cases by what became of them.
fn cases(c: &NeighbourCounters) -> Vec<CaseCount> {
    [
        ("local_request", "seen", c.local_requests),
        ("local_request", "answered", c.local_answered),
        ("local_request", "asked", c.asked),
        ("local_request", "same_bridge", c.same_bridge),
        ("local_reply", "seen", c.local_replies),
        ("local_reply", "returned", c.returned),
        ("remote_request", "seen", c.remote_requests),
        ("remote_request", "answered", c.remote_answered),
        ("remote_request", "bridged", c.bridged),
        ("remote_reply", "seen", c.remote_replies),
        ("any", "poll", c.polls),
        ("any", "probe", c.probes),
        ("any", "gratuitous", c.gratuitous),
        ("own", "request", c.own_requests),
        ("own", "correction", c.corrections),
    ]
    .into_iter()
    .map(|(case, outcome, count)| CaseCount { case: case.to_owned(), outcome: outcome.to_owned(), count })
    .collect()
}

fn place_name(core: &Core, node: &Arc<str>, at: Place) -> String {
    match at {
        Place::Local => node.to_string(),
        Place::Peer(id) => peer_name(core, id),
    }
}

fn peer_name(core: &Core, id: PeerId) -> String {
    core.peer_name(id).map_or_else(|| format!("peer {}", id.0), |name| name.to_string())
}
