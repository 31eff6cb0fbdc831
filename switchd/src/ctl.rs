//! `switchctl`: the command line that looks into a running `switchd` through its admin socket.

mod capture;
pub(crate) mod client;
mod show;
mod watch;
mod ways;
mod why;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use switch_core::switch::DropReason;

use self::client::{Client, CtlError};
use crate::admin::protocol::Request;
use crate::config::DEFAULT_SOCKET;
use crate::view::{BindingRow, Direction, DroppedFrame, Link, MacRow, Netcheck, Stats, Status, WhyRelayed};

/// Look into a running switchd.
#[derive(Parser, Debug)]
#[command(name = "switchctl", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// The daemon's admin socket (admin.socket of its configuration)
    #[arg(long, short, global = true, value_name = "PATH", env = "SWITCHCTL_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON for machines instead of tables; streams print one object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The node, its readiness and its networks
    Status {
        /// Fail, with exit code 1, if the node is not ready
        #[arg(long)]
        ready: bool,
    },
    /// The links with the peers
    Links,
    /// Who lives where: MACs and IPs by node
    Bindings(OfNetwork),
    /// MAC addresses seen, and on which side
    Macs(OfNetwork),
    /// All counters since the start
    Stats(OfNetwork),
    /// Rates per second, refreshed until Ctrl-C
    Watch {
        /// Seconds between two refreshes, at least 0.1
        #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        interval: Duration,
        /// End after so many refreshes
        #[arg(long, short, value_name = "N")]
        count: Option<u64>,
    },
    /// Why frames were dropped lately: by reason, with what it means and the mend
    WhyDropped(WhyDropped),
    /// What the network does with this node's UDP: NAT, filtering, servers, relays, path MTU
    Netcheck,
    /// Why frames to a peer go by a relay: the ways that were tried, and how they went
    WhyRelayed {
        /// The peer's name, as `switchctl links` shows it
        #[arg(value_name = "PEER")]
        peer: String,
    },
    /// Copy frames to the screen or to a pcapng file
    Capture(Capture),
}

#[derive(Args, Debug)]
struct OfNetwork {
    /// Only this network
    #[arg(long, short, value_name = "NAME")]
    network: Option<String>,
}

#[derive(Args, Debug)]
struct WhyDropped {
    #[command(flatten)]
    of: OfNetwork,
    /// Only this reason, as the table or the metrics call it
    #[arg(long, short, value_name = "REASON", hide_possible_values = true,
          value_parser = PossibleValuesParser::new(DropReason::ALL.iter().map(|reason| reason.label())))]
    reason: Option<String>,
    /// Show the latest N frames of each reason
    #[arg(long, short, value_name = "N", default_value = "3")]
    last: usize,
    /// Print each dropped frame as it happens, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
}

#[derive(Args, Debug)]
struct Capture {
    #[command(flatten)]
    of: OfNetwork,
    /// local: from this node's bridge; remote: from peers
    #[arg(long, short, value_enum, default_value = "both")]
    direction: Sides,
    /// End after N frames
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// Bytes kept of each frame
    #[arg(long, value_name = "BYTES", default_value_t = crate::view::MAX_SNAPLEN, value_parser = clap::value_parser!(u32).range(14..=i64::from(crate::view::MAX_SNAPLEN)))]
    snaplen: u32,
    /// Write pcapng, which tcpdump and Wireshark read, to a file or (-) to standard output
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Sides {
    Local,
    Remote,
    Both,
}

impl Sides {
    fn direction(self) -> Option<Direction> {
        match self {
            Sides::Local => Some(Direction::Local),
            Sides::Remote => Some(Direction::Remote),
            Sides::Both => None,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  switchctl status                                  is the node ready, and why not
  switchctl links --json | jq '.[].rtt_seconds'     round-trip times, for machines
  switchctl why-dropped --network blue              recent drops with the mend
  switchctl netcheck                                what kind of NAT this node is behind
  switchctl why-relayed node-b                      why frames to node-b go by a relay
  switchctl capture --network blue --count 10       ten frames as text
  switchctl capture -n blue -w - | tcpdump -n -r -  the same through tcpdump
  switchctl watch --interval 5                      rates, every five seconds

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the daemon cannot be reached.
The socket belongs to root and the group of admin.group (switchd): be in it, or use sudo.";

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let terminal = io::stdout().is_terminal();
    match run(&cli, &mut out, terminal).and_then(|()| out.flush().map_err(CtlError::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        // `switchctl ... | head` has seen enough.
        Err(CtlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchctl: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli, out: &mut dyn Write, terminal: bool) -> Result<(), CtlError> {
    let mut client = Client::connect(&cli.socket)?;
    match &cli.command {
        Command::Status { ready } => {
            let status: Status = client.ask(&Request::Status)?;
            print(out, cli.json, &status, show::status)?;
            if *ready && !status.ready {
                let why = status.not_ready_because.join("; ");
                return Err(CtlError::Refused(format!("the node is not ready: {why}")));
            }
            Ok(())
        }
        Command::Links => {
            let links: Vec<Link> = client.ask(&Request::Links)?;
            print(out, cli.json, &links, |links| show::links(links))
        }
        Command::Bindings(of) => {
            let mut rows: Vec<BindingRow> = client.ask(&Request::Bindings)?;
            known_network(&mut client, of)?;
            rows.retain(|row| of.matches(&row.network));
            print(out, cli.json, &rows, |rows| show::bindings(rows))
        }
        Command::Macs(of) => {
            let mut rows: Vec<MacRow> = client.ask(&Request::Macs)?;
            known_network(&mut client, of)?;
            rows.retain(|row| of.matches(&row.network));
            print(out, cli.json, &rows, |rows| show::macs(rows))
        }
        Command::Stats(of) => {
            let mut stats: Stats = client.ask(&Request::Stats)?;
            known_network(&mut client, of)?;
            stats.networks.retain(|network| of.matches(&network.network));
            print(out, cli.json, &stats, show::stats)
        }
        Command::Watch { interval, count } => {
            watch::run(&mut client, out, terminal, cli.json, *interval, *count)
        }
        Command::WhyDropped(options) => {
            known_network(&mut client, &options.of)?;
            if options.follow {
                return why::follow(&mut client, out, cli.json, options);
            }
            let mut rows: Vec<DroppedFrame> = client.ask(&Request::Drops)?;
            rows.retain(|row| options.matches(row));
            let stats: Stats = client.ask(&Request::Stats)?;
            let mut counted = stats.datagram_drops;
            // Of datagrams the network is not known.
            counted.retain(|(reason, _)| {
                options.of.network.is_none() && options.reason.as_ref().is_none_or(|wanted| wanted == reason)
            });
            print(out, cli.json, &rows, |rows| why::explain(rows, options.last, &counted))
        }
        Command::Netcheck => {
            let check: Netcheck = client.ask(&Request::Netcheck)?;
            print(out, cli.json, &check, ways::netcheck)
        }
        Command::WhyRelayed { peer } => {
            let why: WhyRelayed = client.ask(&Request::WhyRelayed { peer: peer.clone() })?;
            print(out, cli.json, &why, ways::why_relayed)
        }
        Command::Capture(options) => capture::run(&mut client, out, terminal, cli.json, options),
    }
}

impl OfNetwork {
    fn matches(&self, network: &str) -> bool {
        self.network.as_deref().is_none_or(|wanted| wanted == network)
    }
}

impl WhyDropped {
    fn matches(&self, row: &DroppedFrame) -> bool {
        let network = self.of.network.is_none() || self.of.network == row.network;
        network && self.reason.as_ref().is_none_or(|reason| *reason == row.reason)
    }
}

/// A misspelt network must not look like an empty one.
fn known_network(client: &mut Client, of: &OfNetwork) -> Result<(), CtlError> {
    let Some(wanted) = &of.network else { return Ok(()) };
    let status: Status = client.ask(&Request::Status)?;
    if status.networks.iter().any(|network| network.name == *wanted) {
        return Ok(());
    }
    let names: Vec<_> = status.networks.iter().map(|network| network.name.as_str()).collect();
    let names = if names.is_empty() { "it has none".to_owned() } else { names.join(", ") };
    Err(CtlError::Refused(format!("there is no network named {wanted:?} on this node: {names}")))
}

fn print<T: Serialize>(
    out: &mut dyn Write,
    json: bool,
    value: &T,
    show: impl FnOnce(&T) -> String,
) -> Result<(), CtlError> {
    if json {
        serde_json::to_writer_pretty(&mut *out, value).map_err(|error| CtlError::Output(error.into()))?;
        writeln!(out).map_err(CtlError::Output)
    } else {
        write!(out, "{}", show(value)).map_err(CtlError::Output)
    }
}

/// One JSON object on one line, at once.
fn print_line<T: Serialize>(out: &mut dyn Write, value: &T) -> Result<(), CtlError> {
    serde_json::to_writer(&mut *out, value).map_err(|error| CtlError::Output(error.into()))?;
    writeln!(out).and_then(|()| out.flush()).map_err(CtlError::Output)
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.trim_end_matches('s').parse().map_err(|_| "use a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if crate::admin::protocol::WATCH_INTERVAL.contains(&interval) => Ok(interval),
        _ => Err("use 0.1 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests;
