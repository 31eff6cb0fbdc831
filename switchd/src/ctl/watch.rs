//! `switchctl watch`: rates per second between two snapshots.

use std::io::Write;
use std::time::Duration;

use super::client::{Client, CtlError};
use super::print_line;
use super::show::{finish, optional, scaled, short_duration, table};
use crate::admin::protocol::{Request, Snapshot};
use crate::view::DirectionStats;

pub(super) fn run(
    client: &mut Client,
    out: &mut dyn Write,
    terminal: bool,
    json: bool,
    interval: Duration,
    count: Option<u64>,
) -> Result<(), CtlError> {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let mut before: Snapshot = client.ask(&Request::Watch { interval_ms })?;
    let mut shown = 0;
    while count.is_none_or(|count| shown < count) {
        let Some(now) = client.next::<Snapshot>()? else { return Ok(()) };
        if json {
            print_line(out, &now)?;
        } else {
            let (start, end) = if terminal { (HOME_AND_CLEAR, "") } else { ("", "\n") };
            write!(out, "{start}{}{end}", rates(&before, &now))
                .and_then(|()| out.flush())
                .map_err(CtlError::Output)?;
        }
        before = now;
        shown += 1;
    }
    Ok(())
}

/// The tables of one refresh.
pub(super) fn rates(before: &Snapshot, now: &Snapshot) -> String {
    let elapsed = (now.uptime_seconds - before.uptime_seconds).max(1e-3);
    // A restarted daemon counts from zero again: no negative rates.
    let rate = |was: u64, is: u64| is.saturating_sub(was) as f64 / elapsed;
    let mut networks = table(&["NETWORK", "FROM", "FRAMES/S", "BIT/S", "SUPER-FRAMES/S", "DROPS/S"]);
    for network in &now.stats.networks {
        let nothing = Default::default();
        let was = before.stats.networks.iter().find(|was| was.network == network.network);
        let was = was.unwrap_or(&nothing);
        for (side, was, is) in
            [("local", &was.local, &network.local), ("remote", &was.remote, &network.remote)]
        {
            networks.add_row([
                network.network.clone(),
                side.to_owned(),
                scaled(rate(was.frames, is.frames), &COUNT),
                scaled(rate(was.bytes, is.bytes) * 8.0, &BITS),
                scaled(rate(was.super_frames, is.super_frames), &COUNT),
                scaled(rate(dropped(was), dropped(is)), &COUNT),
            ]);
        }
    }
    let mut links =
        table(&["PEER", "STATE", "RTT", "PATH MTU", "TO PEER BIT/S", "FROM PEER BIT/S", "REPLAYS/S"]);
    for link in &now.links {
        let was = before.links.iter().find(|was| was.peer == link.peer).unwrap_or(link);
        links.add_row([
            link.peer.clone(),
            link.state.as_str().to_owned(),
            optional(link.rtt.map(short_duration)),
            optional(link.path_mtu),
            scaled(rate(was.bytes_to_peer, link.bytes_to_peer) * 8.0, &BITS),
            scaled(rate(was.bytes_from_peer, link.bytes_from_peer) * 8.0, &BITS),
            scaled(rate(was.replays_dropped, link.replays_dropped), &COUNT),
        ]);
    }
    let ready = if now.ready { "" } else { "NOT READY: see switchctl status\n" };
    format!("{ready}{}\n{}", finish(&networks), finish(&links))
}

fn dropped(side: &DirectionStats) -> u64 {
    side.drops.iter().map(|(_, count)| count).sum()
}

const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";
const COUNT: [&str; 4] = ["", "k", "M", "G"];
const BITS: [&str; 5] = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
