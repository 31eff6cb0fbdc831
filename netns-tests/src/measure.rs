//! iperf3, ping and /proc, read as numbers.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::ns::Namespace;
use crate::{cmd, wait_for};

/// What `ping` saw.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Replies received, duplicates aside.
    pub received: u32,
    /// Round-trip times, sorted.
    pub rtts: Vec<Duration>,
}

impl Ping {
    /// The median round trip.
    pub fn median(&self) -> Option<Duration> {
        self.rtts.get(self.rtts.len() / 2).copied()
    }
}

/// Pings `to` from `ns`: `count` requests, one every `interval`. For the last reply it waits two seconds if there was
/// none before, else only as long as two of the slowest round trips so far, or `interval`: on a busy host that may be
/// too short, so where every reply counts use [`ping_each`].
pub fn ping(ns: &Namespace, to: IpAddr, count: u32, interval: Duration) -> Result<Ping> {
    ping_with(ns, to, count, interval, &[])
}

/// [`ping`] with further options.
pub fn ping_with(
    ns: &Namespace,
    to: IpAddr,
    count: u32,
    interval: Duration,
    options: &[&str],
) -> Result<Ping> {
    let (to, count_text, interval_text) =
        (to.to_string(), count.to_string(), interval.as_secs_f64().to_string());
    let base = ["ping", "-n", "-W", "2", "-c", &count_text, "-i", &interval_text];
    let limit = interval * count + Duration::from_secs(10);
    let done = ns.finish(&[&base[..], options, &[to.as_str()]].concat(), limit)?;
    parse_ping(&done.stdout).ok_or_else(|| anyhow!("ping {to} failed: {}{}", done.stdout, done.stderr))
}

/// `count` pings one after the other, each of which waits two seconds for its reply.
pub fn ping_each(ns: &Namespace, to: IpAddr, count: u32, options: &[&str]) -> Result<Ping> {
    let mut all = Ping { sent: 0, received: 0, rtts: Vec::new() };
    for _ in 0..count {
        let Ping { sent, received, rtts } = ping_with(ns, to, 1, Duration::from_millis(20), options)?;
        all.sent += sent;
        all.received += received;
        all.rtts.extend(rtts);
    }
    all.rtts.sort_unstable();
    Ok(all)
}

/// An error unless every one of three pings is answered. The first may wait for a neighbour to be resolved.
pub fn ping_ok(ns: &Namespace, to: IpAddr) -> Result<()> {
    ping_ok_with(ns, to, &[])
}

/// [`ping_ok`] with further options.
pub fn ping_ok_with(ns: &Namespace, to: IpAddr, options: &[&str]) -> Result<()> {
    let ping = ping_each(ns, to, 3, options)?;
    if ping.received == 3 { Ok(()) } else { bail!("{} of 3 pings to {to} were answered", ping.received) }
}

/// A ping every 10 ms that goes on while something else is done; what it missed is told at its end.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    log: PathBuf,
}

impl Watch {
    /// Begins, and waits for the first answer. The answers go to `log`.
    pub fn start(ns: &Namespace, to: IpAddr, log: PathBuf) -> Result<Watch> {
        let to = to.to_string();
        let args = ["ping", "-n", "-D", "-i", "0.01", &to];
        let child = ns.spawn(&args, &File::create(&log)?)?;
        let watch = Watch { child, log };
        wait_for(&format!("the first answer of {to}"), Duration::from_secs(3), || {
            watch.answers().is_ok_and(|answers| !answers.is_empty())
        })?;
        Ok(watch)
    }

    /// Waits until `count` more answers have come.
    pub fn more(&self, count: usize) -> Result<()> {
        let before = self.answers()?.len();
        wait_for("more answers to ping", Duration::from_secs(5), || {
            self.answers().is_ok_and(|answers| answers.len() >= before + count)
        })
        .map(drop)
    }

    /// The longest time between two answers so far.
    pub fn longest_gap(&self) -> Result<Duration> {
        let answers = self.answers()?;
        let gap = answers.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        Ok(Duration::from_secs_f64(gap))
    }

    /// When answers came, in seconds since 1970.
    fn answers(&self) -> Result<Vec<f64>> {
        let text = std::fs::read_to_string(&self.log).context("reading what ping said")?;
        let answers = text.lines().filter(|line| line.contains("time="));
        Ok(answers.filter_map(|line| line.strip_prefix('[')?.split_once(']')?.0.parse().ok()).collect())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One TCP flow of `seconds` from `client` to `ip` in `server`, by iperf3. Returns bits per second as received.
pub fn iperf(client: &Namespace, server: &Namespace, ip: IpAddr, seconds: u32) -> Result<f64> {
    let json = iperf_with(client, server, ip, seconds, &[])?;
    json["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 tells no rate")
}

/// [`iperf`] with further options of the client. Returns its whole report.
pub fn iperf_with(
    client: &Namespace,
    server: &Namespace,
    ip: IpAddr,
    seconds: u32,
    options: &[&str],
) -> Result<serde_json::Value> {
    let (ip, time) = (ip.to_string(), seconds.to_string());
    let null = std::fs::File::create("/dev/null")?;
    let mut listening = server.spawn(&["iperf3", "-s", "-1", "-B", &ip, "-p", IPERF_PORT], &null)?;
    let result = wait_for("iperf3 to listen", Duration::from_secs(5), || {
        server.exec(&["ss", "-Hltn"]).is_ok_and(|text| text.contains(&format!(":{IPERF_PORT} ")))
    })
    .and_then(|_| {
        let args = ["iperf3", "-c", &ip, "-p", IPERF_PORT, "-t", &time, "-J", "--connect-timeout", "3000"];
        let limit = Duration::from_secs(u64::from(seconds) + 15);
        client.finish(&[&args[..], options].concat(), limit)
    });
    let _ = listening.kill();
    let _ = listening.wait();
    parse_iperf(&result?.stdout)
}

/// A GET of `path` at port `port` of the namespace's loopback: status code and body.
pub fn http_get(ns: &Namespace, port: u16, path: &str) -> Result<(u16, String)> {
    let limit = Duration::from_secs(3);
    let mut stream = ns.enter(|| Ok(TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), limit)?))?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP header came")?;
    let code =
        head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no HTTP status came")?;
    Ok((code, body.to_owned()))
}

/// CPU time that process `pid` has used.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // proc(5): the name may hold blanks and parentheses; utime and stime are fields 14 and 15.
    let after = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    let hz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / hz as f64))
}

/// Resident memory of process `pid`, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|k| k * 1024).ok_or_else(|| anyhow!("no VmRSS for process {pid}"))
}

/// The middle of `values`.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// True if `program` can be found.
pub fn have(program: &str) -> bool {
    cmd::run(&["sh", "-c", &format!("command -v {program}")]).is_ok()
}

fn parse_ping(text: &str) -> Option<Ping> {
    let summary = text.lines().find(|line| line.contains("packets transmitted"))?;
    let mut numbers =
        summary.split(", ").filter_map(|part| part.split_whitespace().next()?.parse::<u32>().ok());
    let (sent, received) = (numbers.next()?, numbers.next()?);
    let mut rtts: Vec<Duration> = text
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse::<f64>().ok())
        .map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .collect();
    rtts.sort();
    Some(Ping { sent, received, rtts })
}

fn parse_iperf(text: &str) -> Result<serde_json::Value> {
    let json: serde_json::Value =
        serde_json::from_str(text).with_context(|| format!("iperf3 said: {text}"))?;
    match json["error"].as_str() {
        Some(error) => bail!("iperf3 failed: {error}"),
        None => Ok(json),
    }
}

const IPERF_PORT: &str = "5201";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ping() {
        let text = "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.441 ms\n\
                    64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=0.067 ms\n\n--- 10.0.0.2 ping statistics ---\n\
                    3 packets transmitted, 2 received, 33% packet loss, time 206ms\n";
        let ping = parse_ping(text).unwrap();
        assert_eq!((ping.sent, ping.received, ping.median()), (3, 2, Some(Duration::from_micros(441))));
    }

    #[test]
    fn reads_own_process() {
        assert!(resident(std::process::id()).unwrap() > 100_000);
        cpu_time(std::process::id()).unwrap();
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
