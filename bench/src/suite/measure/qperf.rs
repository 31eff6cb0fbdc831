//! Table II of the paper: what qperf says.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netns_tests::wait_for;

use super::{Arena, Figure};

/// Bandwidth of TCP as in the table, whose standard deviation is over rounds; and latency, which qperf gives for one
/// way.
pub(super) fn table(arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
    let seconds = time.as_secs_f64().ceil().max(1.0).to_string();
    let mut listening = arena.server.spawn(&["qperf"], &File::create("/dev/null")?)?;
    let result = wait_for("qperf to listen", Duration::from_secs(5), || {
        arena.server.exec(&["ss", "-Hltn"]).is_ok_and(|text| text.contains(&format!(":{PORT} ")))
    })
    .and_then(|_| {
        let address = arena.address.to_string();
        let args = ["qperf", &address, "-t", &seconds, "-uu", "-ub", "-e", "6", "tcp_bw", "tcp_lat"];
        arena.client.finish(&args, time * 2 + Duration::from_secs(15))
    });
    let _ = listening.kill();
    let _ = listening.wait();
    let done = result?;
    if !done.status.success() {
        bail!("qperf failed: {}{}", done.stdout, done.stderr);
    }
    parse(&done.stdout).with_context(|| format!("qperf said: {}", done.stdout))
}

fn parse(text: &str) -> Option<Vec<Figure>> {
    let value = |key: &str, unit: &str| {
        let mut fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = fields.find(|fields| fields.first() == Some(&key))?;
        // "bw  =  938,300,000 bits/sec": qperf may group digits by the locale.
        (line.get(3) == Some(&unit)).then_some(())?;
        line.get(2)?.replace(',', "").parse::<f64>().ok()
    };
    Some(vec![
        Figure { name: "qperf-bandwidth", value: value("bw", "bits/sec")? / 1e6, unit: "Mb/s" },
        Figure { name: "qperf-latency", value: value("latency", "ns")? / 1e3, unit: "µs" },
    ])
}

const PORT: u16 = 19765;
