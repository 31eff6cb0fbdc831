//! `switchctl why-dropped`: what each reason means and what to do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, SystemTime};

use switch_core::switch::DropReason;

use super::client::{Client, CtlError};
use super::show::duration;
use super::{WhyDropped, print_line};
use crate::admin::protocol::Request;
use crate::view::DroppedFrame;

/// Recent drops by reason, the most frequent first, each with its `last` latest frames; then those that are `counted`
/// and have no frame in the log.
pub(super) fn explain(rows: &[DroppedFrame], last: usize, counted: &[(String, u64)]) -> String {
    let unlogged = |reason: &str| rows.iter().all(|row| row.reason != reason);
    let counted: Vec<_> = counted.iter().filter(|(reason, count)| *count > 0 && unlogged(reason)).collect();
    if rows.is_empty() && counted.is_empty() {
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
        why(&mut text, reason);
        for row in rows.iter().rev().take(last) {
            let _ = writeln!(text, "  {}", line(row));
        }
        text.push('\n');
    }
    for (reason, count) in counted {
        let _ = writeln!(text, "{reason}: {count} since the start, none of them in the log");
        why(&mut text, reason);
        text.push('\n');
    }
    text
}

fn why(text: &mut String, reason: &str) {
    let (meaning, mend) = meaning_and_mend(reason);
    let _ = writeln!(text, "  why:  {meaning}");
    let _ = writeln!(text, "  mend: {mend}");
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
    match DropReason::ALL.iter().find(|known| known.label() == reason) {
        Some(known) => (known.help(), mend(*known)),
        None => ("A reason that this switchctl does not know.", "use the switchctl of the daemon's version"),
    }
}

/// What to do about it; every reason has its line.
fn mend(reason: DropReason) -> &'static str {
    match reason {
        DropReason::BadFrame => "look at the sender's driver: switchctl capture",
        DropReason::BadSource => "give the instance a unicast MAC",
        DropReason::BadDestination => "look at the sender: its neighbour table holds a zero MAC",
        DropReason::BadArp | DropReason::BadIp => "look at the sender: switchctl capture",
        DropReason::BadNd => "look at the sender: its hop limit must be 255 and its checksum right",
        DropReason::LinkLocalGroup | DropReason::SameBridge => "none needed",
        DropReason::Loop => "find the other port: bridge fdb show, then remove it from the bridge",
        DropReason::Flapping => "look for two instances with one MAC, or a loop",
        DropReason::Spoof => {
            "bind the MAC and its IPs to this node, or stop the sender; anti_spoof = \"learn\" needs no bindings"
        }
        DropReason::BoundElsewhere => "give the moved instance's binding a higher generation and this node",
        DropReason::NotForEndpoint => "none needed, unless the protocol needs real MACs: mode = \"preserve\"",
        DropReason::NoAsker => "none needed if rare",
        DropReason::AskLimited => "none needed; does the address exist?",
        DropReason::AskTableFull => "look for a scanner: switchctl why-dropped --reason ask_limited",
        DropReason::FloodLimited => "look for a storm; else raise broadcast_rate and broadcast_burst",
        DropReason::NoPeers | DropReason::LinkDown => "switchctl links says why",
        DropReason::DhcpPolicy => "change dhcp of the network if it should cross",
        DropReason::HoldFull => "none needed if rare; it is sent again",
        DropReason::HoldExpired => "is the destination running? switchctl bindings",
        DropReason::BadDatagram => "do all nodes run one version? else a stranger sends",
        DropReason::UnknownReceiver => "none needed just after a restart",
        DropReason::BadTag => "none needed if rare; else find the sender",
        DropReason::Replayed => "none needed if rare; the path duplicates or reorders",
        DropReason::BadInnerHeader => "do all nodes run one version?",
        DropReason::UnknownNetwork => "add the network here, or take this node out of its peers there",
        DropReason::NotAMember => "add it to the network's peers, or take the network from it",
        DropReason::Congested => "find what on the underlay marks packets that say they cannot be marked",
        DropReason::TooBig => "set the guests' MTU to the network's mtu",
        DropReason::ReassemblyFull => "the path loses fragments: see path MTU in switchctl links",
        DropReason::ReassemblyTimeout => "look at the underlay's loss",
        DropReason::BadVnetHeader | DropReason::BadGso => {
            "set offloads = false for the network and report it"
        }
        DropReason::TapWrite => "is the endpoint up? switchctl status",
        DropReason::CounterExhausted => "fresh keys are under way; lower link.rekey_datagrams",
        DropReason::SendFailed => "switchctl stats names the error; firewall or route?",
        DropReason::NoCarriage => "switchctl links; carriage = \"sealed\" reaches a peer of any version",
        DropReason::Shrunk => "none needed if rare: what follows is cut shorter",
        DropReason::Stale => "none needed if rare; else the machine is short of CPU",
        DropReason::QueueFull => {
            "none needed beside bulk TCP, which slows down by it; else the machine is short of CPU"
        }
    }
}

const POLL: Duration = Duration::from_millis(500);

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
}
