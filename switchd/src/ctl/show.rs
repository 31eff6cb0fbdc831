//! Tables for people.

use std::fmt::{Display, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::view::{
    BindingRow, CaseCount, Controller, Histogram, Link, LinkState, MacRow, NetworkStats, Stats, Status,
};

pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    let ready = if status.ready { "ready" } else { "NOT READY" };
    let _ = writeln!(
        text,
        "node {}: {ready}, switchd {}, up {}",
        status.node,
        status.version,
        duration(status.uptime)
    );
    for reason in &status.not_ready_because {
        let _ = writeln!(text, "  not ready: {reason}");
    }
    let _ = writeln!(text, "public key {}", status.public_key);
    let _ = writeln!(text, "listening on {} (UDP), {}", status.listen, status.cipher);
    if let Some(session) = &status.controller {
        let _ = writeln!(text, "{}", controller(session));
    }
    if status.networks.is_empty() {
        text.push_str("no networks\n");
        return text;
    }
    let mut table = table(&[
        "NETWORK", "VNI", "FROM", "MODE", "BRIDGE", "ENDPOINT", "STATE", "MTU", "OFFLOADS", "CARRIAGE",
        "PEERS",
    ]);
    for network in &status.networks {
        table.add_row([
            network.name.clone(),
            network.vni.to_string(),
            network.from.as_str().to_owned(),
            network.mode.clone(),
            network.bridge.clone(),
            network.endpoint.clone(),
            network.endpoint_state.as_str().to_owned(),
            network.mtu.to_string(),
            or_dash(&network.offloads.join(",")),
            or_dash(&network.carriage),
            or_dash(&network.peers.join(",")),
        ]);
    }
    text.push('\n');
    text + &finish(&table)
}

fn controller(session: &Controller) -> String {
    let Controller { cluster, node_id, revision, .. } = session;
    let error = session.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    match (&session.removed, session.since) {
        (Some(why), _) => {
            format!("controller: REMOVED from cluster {cluster} ({why})")
        }
        (None, Some(since)) => format!(
            "controller: cluster {cluster}, {node_id}, connected for {}, revision {revision}",
            duration(since)
        ),
        (None, None) => {
            format!("controller: cluster {cluster}, {node_id}, NOT CONNECTED, revision {revision}{error}")
        }
    }
}

pub(super) fn links(links: &[Link]) -> String {
    if links.is_empty() {
        return "no peers: join a controller (switchd join), or add a [[peer]] to the configuration\n"
            .to_owned();
    }
    let mut table = table(&[
        "PEER",
        "FROM",
        "STATE",
        "ADDRESS",
        "PATH",
        "RTT",
        "LOSS",
        "PATH MTU",
        "EPOCH",
        "KEY AGE",
        "CARRIAGE",
        "TO PEER",
        "FROM PEER",
        "REPLAYS",
        "RECONNECTS",
        "NETWORKS",
    ]);
    for link in links {
        table.add_row([
            link.peer.clone(),
            link.from.as_str().to_owned(),
            link.state.as_str().to_owned(),
            optional(link.address),
            optional(link.path.as_ref()),
            optional(link.rtt.map(short_duration)),
            optional(link.loss.map(|loss| format!("{:.1}%", loss * 100.0))),
            optional(link.path_mtu),
            link.epoch.to_string(),
            optional(link.session_age.map(duration)),
            or_dash(&link.carriage.join(",")),
            bytes(link.bytes_to_peer),
            bytes(link.bytes_from_peer),
            link.replays_dropped.to_string(),
            link.reconnects.to_string(),
            or_dash(&link.networks.join(",")),
        ]);
    }
    let mut text = finish(&table);
    for link in links.iter().filter(|link| link.state != LinkState::Up) {
        if let Some(error) = &link.last_error {
            let _ = writeln!(text, "{}: {error}", link.peer);
        }
    }
    text
}

pub(super) fn bindings(rows: &[BindingRow]) -> String {
    if rows.is_empty() {
        return "no bindings\n".to_owned();
    }
    let mut table =
        table(&["NETWORK", "MAC", "VLANS", "IPS", "NODE", "GENERATION", "SOURCE", "STATE", "AGE"]);
    for row in rows {
        let ips: Vec<_> = row.binding.ips.iter().map(ToString::to_string).collect();
        table.add_row([
            row.network.clone(),
            row.binding.mac.clone(),
            vlans(&row.binding.vlans),
            or_dash(&ips.join(", ")),
            row.binding.node.clone(),
            row.binding.generation.to_string(),
            if row.announced {
                "announced".to_owned()
            } else {
                format!("{:?}", row.binding.source).to_lowercase()
            },
            row.state.clone(),
            duration(row.age),
        ]);
    }
    finish(&table)
}

pub(super) fn macs(rows: &[MacRow]) -> String {
    if rows.is_empty() {
        return "no MAC addresses seen\n".to_owned();
    }
    let mut table = table(&["NETWORK", "MAC", "VLANS", "SIDE", "PEER", "AGE"]);
    for row in rows {
        table.add_row([
            row.network.clone(),
            row.mac.clone(),
            vlans(&row.vlans),
            row.direction.as_str().to_owned(),
            optional(row.peer.as_ref()),
            duration(row.age),
        ]);
    }
    finish(&table)
}

pub(super) fn stats(stats: &Stats) -> String {
    let mut frames = table(&["NETWORK", "FROM", "FRAMES", "BYTES", "SUPER-FRAMES", "MEAN SIZE", "DROPPED"]);
    let mut drops = table(&["NETWORK", "FROM", "REASON", "FRAMES"]);
    let mut cases = table(&["NETWORK", "PROTOCOL", "CASE", "OUTCOME", "MESSAGES"]);
    let mut tables = table(&["NETWORK", "TABLE", "ENTRIES", "LIMIT", "TIMES FULL"]);
    for network in &stats.networks {
        add_network(network, &mut frames, &mut drops, &mut tables);
        let protocols: [(&str, &[CaseCount]); 2] = [("ARP", &network.arp), ("ND", &network.nd)];
        for (protocol, counts) in protocols {
            for count in counts.iter().filter(|count| count.count > 0) {
                cases.add_row([
                    network.network.clone(),
                    protocol.to_owned(),
                    count.case.clone(),
                    count.outcome.clone(),
                    count.count.to_string(),
                ]);
            }
        }
    }
    for (reason, count) in stats.datagram_drops.iter().filter(|(_, count)| *count > 0) {
        drops.add_row(["-".to_owned(), "remote".to_owned(), reason.clone(), count.to_string()]);
    }
    let mut text = String::new();
    for table in [frames, drops, cases, tables] {
        if !table.is_empty() {
            text += &finish(&table);
            text.push('\n');
        }
    }
    let _ = writeln!(
        text,
        "datagrams in one batch, mean: {} to peers, {} from peers",
        mean(&stats.batches_to_peer),
        mean(&stats.batches_from_peer)
    );
    if let Some(worker) = &stats.worker {
        let _ = writeln!(
            text,
            "worker: {} on a CPU, {} waiting for one",
            duration(worker.ran),
            duration(worker.waited)
        );
    }
    for (error, count) in &stats.send_errors {
        let _ = writeln!(text, "sends that failed with {error}: {count}");
    }
    text
}

fn add_network(network: &NetworkStats, frames: &mut Table, drops: &mut Table, tables: &mut Table) {
    for (side, stats) in [("local", &network.local), ("remote", &network.remote)] {
        let dropped: u64 = stats.drops.iter().map(|(_, count)| count).sum();
        frames.add_row([
            network.network.clone(),
            side.to_owned(),
            stats.frames.to_string(),
            bytes(stats.bytes),
            stats.super_frames.to_string(),
            mean(&stats.frame_bytes),
            dropped.to_string(),
        ]);
        for (reason, count) in stats.drops.iter().filter(|(_, count)| *count > 0) {
            drops.add_row([network.network.clone(), side.to_owned(), reason.clone(), count.to_string()]);
        }
    }
    for table in &network.tables {
        tables.add_row([
            network.network.clone(),
            table.table.clone(),
            table.entries.to_string(),
            table.limit.to_string(),
            table.full.to_string(),
        ]);
    }
}

/// A table without lines, so that `awk` and `grep` can read it too.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// The table's text. Columns of numbers stand to the right.
pub(super) fn finish(table: &Table) -> String {
    let mut table = table.clone();
    for column in 0..table.column_count() {
        let numeric = table.row_iter().all(|row| {
            row.cell_iter().nth(column).is_some_and(|cell| {
                let content = cell.content();
                content == "-"
                    || content.starts_with(|c: char| c.is_ascii_digit()) && !content.contains([':', ','])
            })
        });
        if let Some(column) = table.column_mut(column) {
            column.set_padding((0, 2));
            if numeric {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// `1.5 MB`: decimal units, three digits.
pub(super) fn bytes(count: u64) -> String {
    scaled(count as f64, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A number with a decimal prefix of its unit.
pub(super) fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut at = 0;
    while value >= 999.5 && at + 1 < units.len() {
        value /= 1000.0;
        at += 1;
    }
    let digits = usize::from(at > 0 && value < 99.95);
    format!("{value:.digits$} {}", units[at])
}

/// `2d3h`, `1h20m`, `1m30s`, `5.2s`.
pub(super) fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{:.1}s", d.as_secs_f64()),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `0.250 ms`.
pub(super) fn short_duration(d: Duration) -> String {
    format!("{:.3} ms", d.as_secs_f64() * 1e3)
}

pub(super) fn optional<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn vlans(vids: &[u16]) -> String {
    or_dash(&vids.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
}

fn mean(histogram: &Histogram) -> String {
    match histogram.count() {
        0 => "-".to_owned(),
        count => format!("{:.1}", histogram.sum as f64 / count as f64),
    }
}

#[cfg(test)]
mod tests {
    use controller_api::{Binding, BindingSource};

    use super::*;

    #[test]
    fn who_says_so_is_shown() {
        let row = |source, announced| BindingRow {
            network: "blue".into(),
            binding: Binding {
                vni: 100,
                vlans: vec![],
                mac: "02:00:00:00:00:01".into(),
                ips: vec![],
                node: "node-b".into(),
                generation: 7,
                source,
            },
            announced,
            state: "active".into(),
            age: std::time::Duration::ZERO,
        };
        for (source, announced, shown) in [
            (BindingSource::Controller, false, " controller "),
            (BindingSource::Learned, true, " announced "),
            (BindingSource::Learned, false, " learned "),
        ] {
            let text = bindings(&[row(source, announced)]);
            assert!(text.contains(shown), "{text}");
        }
    }
}
