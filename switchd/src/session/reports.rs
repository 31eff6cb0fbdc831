//! What the controller is told of links and networks, and when: changes soon, all of it now and then. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use controller_api::node as wire;

use crate::view::{Link, NetworkStatus, Origin, Stats};

/// Decides the reports of one session.
#[derive(Debug, Default)]
pub(super) struct Reports {
    links: HashMap<String, LinkKey>,
    networks: Vec<(u32, bool, String)>,
    links_told: Option<Instant>,
    all_links_told: Option<Instant>,
    networks_told: Option<Instant>,
}

/// What makes a link's row worth a report of its own; counters and round-trip times wait for the next full one.
type LinkKey = (String, String, String, String, u32);

impl Reports {
    /// When something may be due, for a caller that asks after each wait of this length.
    pub(super) const PERIOD: Duration = Duration::from_secs(1);

    /// The report of links that is due at `now`.
    pub(super) fn links(&mut self, links: &[Link], now: Instant) -> Option<wire::LinkReport> {
        if self.links_told.is_some_and(|told| now < told + Reports::PERIOD) {
            return None;
        }
        let full = self.all_links_told.is_none_or(|told| now >= told + EVERYTHING);
        let rows: Vec<wire::LinkStatus> = links.iter().filter_map(link_status).collect();
        let keys: HashMap<String, LinkKey> =
            rows.iter().map(|row| (row.peer_id.clone(), link_key(row))).collect();
        let gone = self.links.keys().any(|id| !keys.contains_key(id));
        // A link that is no more can only be told by its absence from everything.
        let full = full || gone;
        let differs = |row: &wire::LinkStatus| self.links.get(&row.peer_id) != keys.get(&row.peer_id);
        let rows: Vec<_> = rows.into_iter().filter(|row| full || differs(row)).collect();
        if !full && rows.is_empty() {
            return None;
        }
        self.links = keys;
        self.links_told = Some(now);
        if full {
            self.all_links_told = Some(now);
        }
        Some(wire::LinkReport { full, links: rows })
    }

    /// The report of networks that is due at `now`.
    pub(super) fn networks(
        &mut self,
        networks: &[NetworkStatus],
        stats: &Stats,
        now: Instant,
    ) -> Option<wire::NetworkReport> {
        let rows: Vec<wire::NetworkStatus> = networks
            .iter()
            .filter(|network| network.from == Origin::Controller)
            .map(|network| network_status(network, stats))
            .collect();
        let keys: Vec<_> = rows.iter().map(|row| (row.vni, row.up, row.detail.clone())).collect();
        let due = self.networks_told.is_none_or(|told| now >= told + EVERYTHING);
        if !due && keys == self.networks {
            return None;
        }
        self.networks = keys;
        self.networks_told = Some(now);
        Some(wire::NetworkReport { networks: rows })
    }
}

fn link_status(link: &Link) -> Option<wire::LinkStatus> {
    Some(wire::LinkStatus {
        peer_id: link.node_id.clone()?,
        state: link.state.as_str().to_owned(),
        address: link.address.map(|address| address.to_string()).unwrap_or_default(),
        path: path(link.path.as_deref()).to_owned(),
        rtt_us: link.rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
        path_mtu: link.path_mtu.unwrap_or(0).into(),
        datagrams_to_peer: link.datagrams_to_peer,
        datagrams_from_peer: link.datagrams_from_peer,
        bytes_to_peer: link.bytes_to_peer,
        bytes_from_peer: link.bytes_from_peer,
        last_error: link.last_error.clone().unwrap_or_default(),
        local_candidate: link.local_candidate.clone().unwrap_or_default(),
        remote_candidate: link.remote_candidate.clone().unwrap_or_default(),
        loss_ppm: link.loss.map_or(0, |loss| (loss.clamp(0.0, 1.0) * 1e6) as u32),
        why_relayed: link.why_relayed.clone().unwrap_or_default(),
    })
}

/// An address that the configuration or the controller named is a host's own.
fn path(kind: Option<&str>) -> &str {
    match kind {
        Some("static") => "host",
        Some(kind) => kind,
        None => "",
    }
}

fn link_key(row: &wire::LinkStatus) -> LinkKey {
    (row.state.clone(), row.address.clone(), row.path.clone(), row.last_error.clone(), row.path_mtu)
}

fn network_status(network: &NetworkStatus, stats: &Stats) -> wire::NetworkStatus {
    let counters = stats.networks.iter().find(|row| row.network == network.name);
    let (local, remote) = counters.map(|row| (&row.local, &row.remote)).unzip();
    let drops = |side: Option<&crate::view::DirectionStats>| -> u64 {
        side.map_or(0, |side| side.drops.iter().map(|(_, count)| count).sum())
    };
    wire::NetworkStatus {
        vni: network.vni,
        up: network.endpoint_state == crate::endpoint::EndpointStatus::Up,
        bridge: network.bridge.clone(),
        detail: network.endpoint_detail.clone(),
        frames_local: local.map_or(0, |side| side.frames),
        frames_remote: remote.map_or(0, |side| side.frames),
        bytes_local: local.map_or(0, |side| side.bytes),
        bytes_remote: remote.map_or(0, |side| side.bytes),
        drops: drops(local) + drops(remote),
    }
}

/// Between two reports of everything.
const EVERYTHING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
