use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use controller_api::rest::Role;

pub(crate) use clap_complete::Shell;

use super::workload::one_of;
use crate::units::parse_duration;

#[derive(Subcommand, Debug)]
pub(crate) enum BindingCommand {
    /// All bindings
    #[command(
        after_help = "Examples:\n  skippy binding list --network blue\n  skippy binding list --node rack1-a"
    )]
    List {
        /// Only those of this network
        #[arg(long, value_name = "NETWORK")]
        network: Option<String>,
        /// Only those on this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only those with this IP
        #[arg(long, value_name = "IP")]
        ip: Option<IpAddr>,
        /// Only those with this MAC
        #[arg(long, value_name = "MAC")]
        mac: Option<String>,
        /// Only those that are said by this source
        #[arg(long, value_parser = ["controller", "learned"])]
        source: Option<String>,
        /// Only those in this state
        #[arg(long, value_parser = ["prepared", "active"])]
        state: Option<String>,
    },
    /// All of one binding
    Show {
        #[command(flatten)]
        key: BindingKey,
    },
    /// Say where something lives that is no instance
    #[command(after_help = "\
Examples:
  skippy binding set blue 02:00:00:00:00:07 --node rack1-a --ip 10.0.0.7
  skippy binding set blue 02:00:00:00:00:07 --node rack1-b --ip 10.0.0.7 --expected-generation 41")]
    Set {
        #[command(flatten)]
        key: BindingKey,
        /// Where it lives
        #[arg(long, value_name = "NODE")]
        node: String,
        /// An address that it has; repeat for more
        #[arg(long = "ip", value_name = "IP")]
        ips: Vec<IpAddr>,
        /// Only note where it will live: it attracts no traffic yet
        #[arg(long)]
        prepared: bool,
        /// Refuse unless the binding in force has this generation, 0 for none
        #[arg(long, value_name = "N")]
        expected_generation: Option<u64>,
    },
    /// Take such a binding away
    Remove {
        #[command(flatten)]
        key: BindingKey,
        /// Refuse unless the binding in force has this generation
        #[arg(long, value_name = "N")]
        expected_generation: Option<u64>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct BindingKey {
    /// The network's id or name
    pub(crate) network: String,
    /// The MAC address
    pub(crate) mac: String,
    /// Its VLAN tag; repeat for inner ones, outermost first
    #[arg(long = "vlan", value_name = "VLAN", value_parser = clap::value_parser!(u16).range(1..4095))]
    pub(crate) vlans: Vec<u16>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum LinkCommand {
    /// Which node reaches which, and how
    #[command(
        after_help = "Examples:\n  skippy link list --node rack1-a\n  skippy link list --state down --wide"
    )]
    List {
        /// Only those with this node at either end
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only those in this state
        #[arg(long, value_parser = ["up", "connecting", "down"])]
        state: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum OperationCommand {
    /// Operations, with how far they are
    #[command(
        after_help = "Examples:\n  skippy operation list --state running\n  skippy operation list --state failed"
    )]
    List {
        /// Only those in this state
        #[arg(long, value_parser = ["pending", "running", "succeeded", "failed", "cancelled"])]
        state: Option<String>,
        /// Only those of this kind: allocate, migrate, remove_compute_node, ...
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Only those about this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only those about this instance
        #[arg(long, value_name = "INSTANCE")]
        instance: Option<String>,
    },
    /// All of one operation
    Show {
        /// Its id
        operation: String,
    },
    /// Cancel an operation, and wait until what it did is undone
    Cancel {
        /// Its id
        operation: String,
        #[command(flatten)]
        waiting: super::Waiting,
    },
    /// Follow an operation to its end; with --json each change is a line
    Watch {
        /// Its id
        operation: String,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum EventCommand {
    /// The latest events that the controller still has
    #[command(after_help = "Examples:\n  skippy event list --kind instance --last 20")]
    List {
        /// Only kinds that begin with this, such as instance
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Only events about this, by its id
        #[arg(long, value_name = "ID")]
        subject: Option<String>,
        /// Only the latest N
        #[arg(long, short = 'n', value_name = "N")]
        last: Option<usize>,
    },
    /// Events as they happen, until Ctrl-C; the stream is taken up again where it broke
    #[command(after_help = "Examples:\n  skippy event watch\n  skippy event watch --kind node --json")]
    Watch {
        /// Only kinds that begin with this, such as instance
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Only events about this, by its id
        #[arg(long, value_name = "ID")]
        subject: Option<String>,
        /// Begin after this event's id [default: with what happens from now on]
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// End after N events
        #[arg(long, short = 'n', value_name = "N")]
        count: Option<u64>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// All API tokens, without their secrets
    List,
    /// Make an API token; its secret is shown this once
    #[command(after_help = "\
Examples:
  skippy token create ci --role operator --ttl 90d
  (umask 077; skippy token create ci --role reader --json | jq -r .secret > ci.token)")]
    Create {
        /// Its name
        name: String,
        /// What it may do
        #[arg(long, value_parser = one_of([("reader", Role::Reader), ("operator", Role::Operator), ("admin", Role::Admin)]))]
        role: Role,
        /// When it ends [default: never]
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// End a token at once
    Revoke {
        /// Its id or name
        token: String,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Keys: q quits, Tab changes between nodes and links, < and > choose the column to sort by, r reverses.
Examples:
  skippy top
  skippy top --once             one picture as text
  skippy top --json             one JSON object per refresh
  skippy top --once --json")]
pub(crate) struct TopArgs {
    /// One picture after one interval, without a terminal's full screen
    #[arg(long)]
    pub(crate) once: bool,
    /// Time between two refreshes
    #[arg(long, short, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub(crate) interval: Duration,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Make or change a context, and use it if it is the first; what is not named stays
    SetContext(SetContext),
    /// Use this context from now on
    UseContext {
        /// Its name
        name: String,
    },
    /// The contexts, the one in use marked
    List,
    /// What is in force now, and where it comes from; tokens are not shown
    Show,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skippy config set-context lab --url https://10.0.0.1:4843 --fingerprint sha256:... --token-from admin.token
  skippy config set-context lab --token-file /run/secrets/skippy-token")]
pub(crate) struct SetContext {
    /// Its name
    pub(crate) name: String,
    /// Keep the token itself, read now from this file, or from the standard input for -; with --token-file, the file
    /// is noted and read at each call
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    pub(crate) token_from: Option<PathBuf>,
    /// Forget the token
    #[arg(long, conflicts_with_all = ["token_from", "token_file"])]
    pub(crate) no_token: bool,
    /// Forget fingerprint and CA: trust what the system trusts
    #[arg(long, conflicts_with_all = ["fingerprint", "ca"])]
    pub(crate) system_trust: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < Duration::from_millis(100) => Err("at least 100ms".to_owned()),
        time => Ok(time),
    }
}
