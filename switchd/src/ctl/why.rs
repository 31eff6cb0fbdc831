//! `switchctl why-dropped`: what each reason means and what to do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::client::{Client, CtlError};
use super::show::duration;
use super::{WhyDropped, print_line};
use crate::admin::protocol::Request;
use crate::view::DroppedFrame;

/// Recent drops by reason, the most frequent first, each with its `last` latest frames.
pub(super) fn explain(rows: &[DroppedFrame], last: usize) -> String {
    if rows.is_empty() {
        return "no dropped frames in the daemon's log (counters since the start: switchctl stats)\n"
            .to_owned();
    }
    let mut by_reason: BTreeMap<&str, Vec<&DroppedFrame>> = BTreeMap::new();
    for row in rows {
        by_reason.entry(&row.reason).or_default().push(row);
    }
    let mut groups: Vec<_> = by_reason.into_iter().collect();
    groups.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
    let mut text = String::new();
    for (reason, rows) in groups {
        let frames = if rows.len() == 1 { "frame" } else { "frames" };
        let _ = writeln!(text, "{reason}: {} {frames}", rows.len());
        let (meaning, mend) = meaning_and_mend(reason);
        let _ = writeln!(text, "  why:  {meaning}");
        let _ = writeln!(text, "  mend: {mend}");
        for row in rows.iter().rev().take(last) {
            let _ = writeln!(text, "  {}", line(row));
        }
        text.push('\n');
    }
    text
}

/// Prints new drops until the daemon ends.
pub(super) fn follow(
    client: &mut Client,
    out: &mut dyn Write,
    json: bool,
    options: &WhyDropped,
) -> Result<(), CtlError> {
    let mut seen: Vec<DroppedFrame> = client.ask(&Request::Drops)?;
    loop {
        std::thread::sleep(POLL);
        let now: Vec<DroppedFrame> = client.ask(&Request::Drops)?;
        for row in unseen(&seen, &now).iter().filter(|row| options.matches(row)) {
            if json {
                print_line(out, row)?;
            } else {
                let (_, mend) = meaning_and_mend(&row.reason);
                writeln!(out, "{}: {} ({mend})", row.reason, line(row))
                    .and_then(|()| out.flush())
                    .map_err(CtlError::Output)?;
            }
        }
        seen = now;
    }
}

/// The rows of the bounded log that came after those in `seen`.
fn unseen<'a>(seen: &[DroppedFrame], now: &'a [DroppedFrame]) -> &'a [DroppedFrame] {
    (0..=now.len()).rev().find(|end| seen.ends_with(&now[..*end])).map_or(now, |end| &now[end..])
}

fn line(row: &DroppedFrame) -> String {
    let age = SystemTime::now().duration_since(row.when).unwrap_or_default();
    let mut text = format!("{} ago, {}", duration(age), row.direction.as_str());
    if let Some(network) = &row.network {
        let _ = write!(text, ", {network}");
    }
    if let Some(peer) = &row.peer {
        let _ = write!(text, ", peer {peer}");
    }
    if let (Some(src), Some(dst)) = (&row.src, &row.dst) {
        let _ = write!(text, ": {src} > {dst}");
    }
    if let Some(ethertype) = row.ethertype {
        let _ = write!(text, " {ethertype:#06x}");
    }
    let _ = write!(text, ", {} bytes: {}", row.length, row.summary);
    text
}

fn meaning_and_mend(reason: &str) -> (&'static str, &'static str) {
    REASONS.iter().find(|(label, ..)| *label == reason).map_or(
        ("a reason that this switchctl does not know", "use the switchctl of the daemon's version"),
        |(_, meaning, mend)| (meaning, mend),
    )
}

const POLL: Duration = Duration::from_millis(500);

/// (label, meaning, mend).
const REASONS: &[(&str, &str, &str)] = &[
    (
        "bad_frame",
        "the frame ends inside its Ethernet header or tags",
        "look at the sender's driver: switchctl capture",
    ),
    ("bad_source", "the source MAC is a group address or zero", "give the instance a unicast MAC"),
    (
        "bad_destination",
        "the destination MAC is zero",
        "look at the sender: its neighbour table holds a zero MAC",
    ),
    ("bad_arp", "the ARP message is malformed", "look at the sender: switchctl capture"),
    (
        "bad_nd",
        "the neighbour discovery message fails the checks of RFC 4861",
        "look at the sender: its hop limit must be 255 and its checksum right",
    ),
    ("bad_ip", "the IP header is cut short", "look at the sender: switchctl capture"),
    ("link_local_group", "STP, LLDP and PAUSE are not forwarded by bridges", "none needed"),
    (
        "loop",
        "the endpoint's own frame came back: the bridge has a second way to this network",
        "find the other port: bridge fdb show, then remove it from the bridge",
    ),
    (
        "flapping",
        "the source MAC changes its place too often and is held where it was",
        "look for two instances with one MAC, or a loop",
    ),
    (
        "spoof",
        "the source contradicts a controller's binding",
        "correct the binding, or stop the sender; anti_spoof = \"learn\" takes it as a move",
    ),
    (
        "bound_elsewhere",
        "the controller binds the source MAC to another node",
        "give the moved instance's binding a higher generation and this node",
    ),
    ("same_bridge", "the destination is on this bridge, which carries the frame itself", "none needed"),
    (
        "not_for_endpoint",
        "the frame is for the endpoint but nothing that it forwards",
        "none needed, unless the protocol needs real MACs: mode = \"preserve\"",
    ),
    ("no_asker", "a reply for an asker that nobody knows any more", "none needed if rare"),
    (
        "ask_limited",
        "the same unknown address was asked for a moment ago",
        "none needed; does the address exist?",
    ),
    (
        "ask_table_full",
        "too many unknown addresses are asked for at once",
        "look for a scanner: switchctl why-dropped --reason ask_limited",
    ),
    (
        "flood_limited",
        "over the network's limit of broadcast, multicast and unknown unicast",
        "look for a storm; else raise broadcast_rate and broadcast_burst",
    ),
    ("no_peers", "no peer of the network is up", "switchctl links says why"),
    (
        "dhcp_policy",
        "the network's dhcp policy keeps the message from crossing",
        "change dhcp of the network if it should cross",
    ),
    (
        "hold_full",
        "no room to keep the frame until its destination is known",
        "none needed if rare; it is sent again",
    ),
    ("hold_expired", "nobody answered for the destination", "is the destination running? switchctl bindings"),
    ("link_down", "the link to the destination's node is down", "switchctl links says why"),
    (
        "bad_datagram",
        "the datagram is too short, or of an unknown type or version",
        "do all nodes run one version? else a stranger sends",
    ),
    ("unknown_receiver", "the datagram is for a session that is gone", "none needed just after a restart"),
    (
        "bad_tag",
        "the datagram was altered, or sealed by a stranger",
        "none needed if rare; else find the sender",
    ),
    (
        "replayed",
        "the datagram was seen before, or is older than the replay window",
        "none needed if rare; the path duplicates or reorders",
    ),
    ("bad_inner_header", "the opened datagram is malformed", "do all nodes run one version?"),
    (
        "unknown_network",
        "the VNI is no network of this node",
        "add the network here, or take this node out of its peers there",
    ),
    (
        "not_a_member",
        "the sender is no peer of the network",
        "add it to the network's peers, or take the network from it",
    ),
    (
        "too_big",
        "the frame exceeds what the path or the network's MTU carries",
        "set the guests' MTU to the network's mtu",
    ),
    (
        "reassembly_full",
        "no room to reassemble another frame",
        "the path loses fragments: see path MTU in switchctl links",
    ),
    ("reassembly_timeout", "fragments of a frame were lost", "look at the underlay's loss"),
    (
        "bad_vnet_header",
        "the kernel's offload header contradicts the frame",
        "set offloads = false for the network and report it",
    ),
    (
        "bad_gso",
        "the super-frame cannot be segmented as its header says",
        "set offloads = false for the network and report it",
    ),
    ("tap_write", "the kernel refused the frame on the TAP", "is the endpoint up? switchctl status"),
    (
        "counter_exhausted",
        "the session's keys sealed as many datagrams as they may",
        "fresh keys are under way; lower link.rekey_datagrams",
    ),
    (
        "send_failed",
        "the kernel refused the datagram on the socket",
        "switchctl stats names the error; firewall or route?",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Direction;

    fn drop(n: u32) -> DroppedFrame {
        DroppedFrame {
            when: SystemTime::UNIX_EPOCH,
            network: None,
            direction: Direction::Local,
            reason: "loop".into(),
            src: None,
            dst: None,
            ethertype: None,
            summary: String::new(),
            peer: None,
            length: n,
        }
    }

    #[test]
    fn follow_shows_each_row_of_a_bounded_log_once() {
        let log = |range: std::ops::Range<u32>| range.map(drop).collect::<Vec<_>>();
        assert_eq!(unseen(&log(0..3), &log(0..5)), log(3..5));
        assert_eq!(unseen(&log(0..3), &log(2..6)), log(3..6), "the oldest fell out");
        assert_eq!(unseen(&log(0..3), &log(7..9)), log(7..9), "all of them did");
        assert_eq!(unseen(&log(0..3), &log(0..3)), []);
        assert_eq!(unseen(&[], &log(0..2)), log(0..2));
    }

    #[test]
    fn reasons_are_known_once() {
        let mut labels: Vec<_> = REASONS.iter().map(|(label, ..)| label).collect();
        labels.sort();
        labels.dedup();
        assert_eq!(labels.len(), REASONS.len());
    }
}
