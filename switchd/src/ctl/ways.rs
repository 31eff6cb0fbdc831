//! `netcheck` and `why-relayed` for people.

use std::fmt::Write;

use super::show::{duration, finish, optional, or_dash, short_duration, table};
use crate::view::{CandidateRow, LinkState, Netcheck, WhyRelayed};

pub(super) fn netcheck(check: &Netcheck) -> String {
    let mut text = check.nat.summary();
    text.push('\n');
    if !check.nat.servers.is_empty() {
        let mut servers = table(&["SERVER", "ANSWERS", "RTT", "SEES THIS NODE AT"]);
        for server in &check.nat.servers {
            servers.add_row([
                server.server.to_string(),
                if server.mapped.is_some() { "yes" } else { "NO" }.to_owned(),
                optional(server.rtt.map(short_duration)),
                optional(server.mapped),
            ]);
        }
        text = text + "\n" + &finish(&servers);
    }
    if !check.relays.is_empty() {
        let mut relays = table(&["RELAY", "TRANSPORT", "STATE", "RELAYED ADDRESS"]);
        for relay in &check.relays {
            relays.add_row([
                relay.server.clone(),
                relay.transport.clone(),
                relay.state.as_str().to_owned(),
                optional(relay.relayed),
            ]);
        }
        text = text + "\n" + &finish(&relays);
        for relay in check.relays.iter().filter(|relay| relay.relayed.is_none()) {
            if let Some(error) = &relay.last_error {
                let _ = writeln!(text, "{} ({}): {error}", relay.server, relay.transport);
            }
        }
    }
    if !check.path_mtus.is_empty() {
        let mut paths = table(&["PEER", "PATH", "PATH MTU"]);
        for row in &check.path_mtus {
            paths.add_row([row.peer.clone(), optional(row.path.as_ref()), row.path_mtu.to_string()]);
        }
        text = text + "\n" + &finish(&paths);
    }
    text
}

pub(super) fn why_relayed(why: &WhyRelayed) -> String {
    let mut text = String::new();
    let how = match (&why.path, why.relayed) {
        (Some(_), true) => "frames go by a relay".to_owned(),
        (Some(path), false) => format!("frames go directly ({path})"),
        (None, _) => "there is no path".to_owned(),
    };
    let link =
        if why.state == LinkState::Up { String::new() } else { format!(", link {}", why.state.as_str()) };
    let _ = writeln!(text, "{}: {how}{link}", why.peer);
    for reason in &why.reasons {
        let _ = writeln!(text, "  why: {reason}");
    }
    if let Some(checks) = &why.checks {
        let heard = match why.last_signal {
            Some(since) => format!("the peer's last signal came {} ago", duration(since)),
            None => "no signal of the peer has come".to_owned(),
        };
        let knows = if why.peer_knows { "knows" } else { "has not shown to know" };
        let _ = writeln!(text, "checks: {checks}; {heard}; the peer {knows} this node's candidates");
    }
    if !why.paths.is_empty() {
        let mut paths = table(&["PATH", "ADDRESS", "BY RELAY", "IN USE", "STATE", "RTT", "LOSS", "DATAGRAM"]);
        for path in &why.paths {
            paths.add_row([
                path.kind.clone(),
                path.address.to_string(),
                optional(path.relay),
                if path.selected { "yes" } else { "-" }.to_owned(),
                path.state.clone(),
                optional(path.rtt.map(short_duration)),
                format!("{:.1} %", path.loss * 100.0),
                if path.datagram_max == 0 { "-".to_owned() } else { path.datagram_max.to_string() },
            ]);
        }
        text = text + "\n" + &finish(&paths);
    }
    if !why.local.is_empty() || !why.remote.is_empty() {
        let mut candidates = table(&["CANDIDATE OF", "KIND", "ADDRESS"]);
        let mut add = |of: &str, rows: &[CandidateRow]| {
            for row in rows {
                candidates.add_row([of.to_owned(), row.kind.clone(), row.address.to_string()]);
            }
        };
        add("this node", &why.local);
        add(&why.peer, &why.remote);
        text = text + "\n" + &finish(&candidates);
    }
    if !why.pairs.is_empty() {
        let mut pairs = table(&["CHECKED FROM", "TO", "ADDRESS", "BY RELAY", "RESULT", "CHECKS"]);
        for pair in &why.pairs {
            pairs.add_row([
                pair.local.clone(),
                pair.remote.clone(),
                pair.address.to_string(),
                optional(pair.relay),
                or_dash(&pair.state),
                pair.checks_sent.to_string(),
            ]);
        }
        text = text + "\n" + &finish(&pairs);
    }
    text
}
