//! The command line as it is written.

mod manage;
mod nodes;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::manage::{
    BindingCommand, ConfigCommand, EventCommand, LinkCommand, OperationCommand, SetContext, Shell,
    TokenCommand, TopArgs,
};
pub(crate) use self::nodes::{AddNode, NodeCommand, RemoveNode};
pub(crate) use self::workload::{
    AddTypeArgs, AllocateArgs, InstanceCommand, MigrateArgs, NetworkAdd, NetworkCommand, NetworkSet,
    TypeCommand,
};
use crate::config::{Fingerprint, Flags};
use crate::units::parse_duration;

/// Manage a cluster: its nodes, networks, types and instances
#[derive(Parser, Debug)]
#[command(name = "skippy", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
pub(crate) struct Globals {
    /// The context of the configuration file to use [env: SKIPPY_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    pub(crate) context: Option<String>,
    /// Where the controller's API is: https://HOST:PORT [env: SKIPPY_URL]
    #[arg(long, global = true, value_name = "URL", help_heading = "Connection")]
    pub(crate) url: Option<String>,
    /// The file with the API token, - for the standard input [env: SKIPPY_TOKEN_FILE, or the token: SKIPPY_TOKEN]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub(crate) token_file: Option<PathBuf>,
    /// Trust exactly the certificate with this fingerprint, as `controller fingerprint` prints it [env: SKIPPY_FINGERPRINT]
    #[arg(long, global = true, value_name = "sha256:HEX", help_heading = "Connection", value_parser = fingerprint)]
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Trust the authorities in this PEM file [env: SKIPPY_CA]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub(crate) ca: Option<PathBuf>,
    /// How long one call may take
    #[arg(long, global = true, value_name = "TIME", help_heading = "Connection", default_value = "30s", value_parser = timeout)]
    pub(crate) timeout: Duration,
    /// Names the call, so that repeating it does it once; made for each run if not given
    #[arg(long, global = true, value_name = "KEY", help_heading = "Connection", value_parser = idempotency_key)]
    pub(crate) idempotency_key: Option<String>,
    /// Print the API's JSON instead of tables; streams print one object per line
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
    /// Show all columns of a table
    #[arg(long, short, global = true, help_heading = "Output")]
    pub(crate) wide: bool,
    /// Show these columns of a table, in this order
    #[arg(long, global = true, value_name = "A,B,...", value_delimiter = ',', help_heading = "Output", conflicts_with_all = ["wide", "json"])]
    pub(crate) columns: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Add a compute node; with provider `manual`, print what to run on it
    AddComputeNode(AddNode),
    /// Move a node's instances away and remove it
    RemoveComputeNode(RemoveNode),
    /// Add a type: what instances of it may take
    AddType(AddTypeArgs),
    /// Make an instance and start it
    Allocate(AllocateArgs),
    /// Move an instance to another node, with its disk, MACs and IPs
    Migrate(MigrateArgs),
    /// Compute nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Types of instances
    #[command(subcommand)]
    Type(TypeCommand),
    /// Networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Instances
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Who lives where
    #[command(subcommand)]
    Binding(BindingCommand),
    /// Which node reaches which, and how
    #[command(subcommand)]
    Link(LinkCommand),
    /// Calls that go on after their answer
    #[command(subcommand)]
    Operation(OperationCommand),
    /// What happened
    #[command(subcommand)]
    Event(EventCommand),
    /// API tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Whose token this is, and what it may do
    #[command(after_help = "Examples:\n  skippy whoami --json | jq -r .role")]
    Whoami,
    /// The cluster and its controller
    #[command(after_help = "Examples:\n  skippy cluster")]
    Cluster,
    /// Whether the controller is alive and ready; needs no token
    #[command(after_help = "Examples:\n  skippy health || echo not ready")]
    Health,
    /// The controller's metrics, in the text format of Prometheus
    #[command(after_help = "Examples:\n  skippy metrics | grep api")]
    Metrics,
    /// The API's OpenAPI document, as JSON
    #[command(after_help = "Examples:\n  skippy openapi > openapi.json")]
    Openapi,
    /// Health on one screen: nodes, links, operations
    #[command(after_help = "Examples:\n  skippy status\n  watch -n 5 skippy status")]
    Status,
    /// Nodes, links and throughput, live
    Top(TopArgs),
    /// The contexts of the configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completion script of a shell
    #[command(
        after_help = "Examples:\n  skippy completion bash > /etc/bash_completion.d/skippy\n  skippy completion zsh > ~/.zfunc/_skippy\n  skippy completion fish > ~/.config/fish/completions/skippy.fish"
    )]
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// Whether a long call is waited for.
#[derive(Args, Debug, Clone, Copy, Default)]
pub(crate) struct Waiting {
    /// Print the operation and do not wait for its end
    #[arg(long)]
    pub(crate) no_wait: bool,
}

impl Globals {
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            context: self.context.clone(),
            url: self.url.clone(),
            token_file: self.token_file.clone(),
            fingerprint: self.fingerprint,
            ca: self.ca.clone(),
        }
    }
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    text.parse().map_err(|error: crate::config::ConfigError| error.to_string())
}

fn timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time.is_zero() => Err("give the controller some time".to_owned()),
        time => Ok(time),
    }
}

fn idempotency_key(text: &str) -> Result<String, String> {
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("a key has 1 to 255 visible ASCII characters".to_owned()) }
}

const EXAMPLES: &str = "\
Examples:
  skippy config set-context lab --url https://10.0.0.1:4843 --fingerprint sha256:... --token-from admin.token
  skippy add-compute-node --provider manual --name rack1-a    prints what to run on the machine
  skippy network add blue --subnet-v4 10.0.0.0/24
  skippy add-type small --cores 0.5 --memory 256MiB
  skippy allocate small --name web --network blue -- python3 -m http.server
  skippy migrate web rack1-b
  skippy status

Where a command takes a node, a type, a network or an instance, its id or its name will do.

Settings: flags, before the environment (SKIPPY_URL, SKIPPY_TOKEN or SKIPPY_TOKEN_FILE, SKIPPY_FINGERPRINT or \
SKIPPY_CA, SKIPPY_CONTEXT), before a context of ~/.config/skippy/config.toml (SKIPPY_CONFIG names another file). A \
context's token and fingerprint are used with its own URL alone. Without a fingerprint and a CA, the controller's \
certificate must be one that the system trusts; it is never left unchecked.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the controller, 4 the operation failed or was cancelled, \
5 the controller cannot be reached or is not the right one, 130 interrupted (the operation goes on).";

#[cfg(test)]
mod tests;
