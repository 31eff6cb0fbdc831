//! The command line of `controller`.

mod backup;
mod init;
#[cfg(test)]
mod tests;
mod tokens;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use controller_registry::Role;

use crate::config::{self, Config};
use crate::provider::Providers;
use crate::state_dir::{self, StateDir};

/// Knows the nodes, networks, types and instances of a cluster, and tells each node what it shall be.
#[derive(Parser, Debug)]
#[command(name = "controller", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a cluster: its key, its store, the REST API's certificate and first token
    Init(Init),
    /// Run the controller until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Tokens of the REST API: make, list, revoke; also while the controller runs
    #[command(subcommand)]
    Token(Token),
    /// Print the SHA-256 fingerprint of the REST API's certificate, which clients such as skippy pin
    Fingerprint(ConfigFile),
    /// Write everything of this controller into one file, secrets among it; also while the controller runs
    Backup {
        /// Where it goes (mode 0600)
        file: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Make a stopped controller what a backup says; nodes then take a fresh snapshot
    Restore {
        /// A file that `controller backup` wrote
        file: PathBuf,
        /// Replace a cluster that is there
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Check the configuration, and say what is wrong first
    CheckConfig(ConfigFile),
}

#[derive(Args, Debug)]
struct Init {
    /// Where the cluster's files go; default: the configuration's state_dir
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What the cluster is called
    #[arg(long, value_name = "CLUSTER", default_value = "cluster")]
    name: String,
    /// A name or address of this host that nodes and clients reach, with the nodes' port if that is not 4842; may be
    /// given several times, best first
    #[arg(long, value_name = "ADDRESS")]
    advertise: Vec<String>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Subcommand, Debug)]
enum Token {
    /// Make a token and print it, once
    Create {
        /// Whose it is, or for what: the audit log shows it
        name: String,
        /// What it may do: reader, operator or admin
        #[arg(long, default_value = "operator", value_parser = role)]
        role: Role,
        /// How long it is good, in hours; default: until it is revoked
        #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u64).range(1..=87_600))]
        hours: Option<u64>,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// List all tokens
    List(ConfigFile),
    /// End a token at once
    Revoke {
        /// Its id or name
        token: String,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration; the default one may be missing
    #[arg(long, short, value_name = "FILE", env = "CONTROLLER_CONFIG", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config)?)
    }
}

const EXAMPLES: &str = "\
Examples:
  controller init --name lab --advertise 192.0.2.1    make a cluster in /var/lib/controller
  controller run                                      run it, log on stderr
  controller token create ci --role operator          a further token for the REST API
  controller backup /var/backups/controller           while it runs, or stopped
  controller restore /var/backups/controller          on this or another host, stopped

A node then joins: `skippy node add` prints a token, `switchd join TOKEN` on the node uses it.

Environment:
  CONTROLLER_LOG   log filter: error, warn, info (default), debug, trace, or per module
                   such as info,controller::nodes=debug

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Parses the command line and carries it out; `run` is the daemon.
pub fn main(run: impl FnOnce(Config) -> anyhow::Result<()>) -> ExitCode {
    match execute(Cli::parse().command, run, &mut |line| println!("{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(
    command: Command,
    run: impl FnOnce(Config) -> anyhow::Result<()>,
    print: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    match command {
        Command::Init(init) => init::init(&init, print),
        Command::Run(file) => run(file.load()?),
        Command::Token(Token::Create { name, role, hours, config }) => {
            tokens::create(&config.load()?, name, role, hours, print)
        }
        Command::Token(Token::List(file)) => tokens::list(&file.load()?, print),
        Command::Token(Token::Revoke { token, config }) => tokens::revoke(&config.load()?, token),
        Command::Fingerprint(file) => {
            print(&state_dir::fingerprint(&certificate(&file.load()?))?);
            Ok(())
        }
        Command::Backup { file, config } => backup::backup(&config.load()?, &file),
        Command::Restore { file, force, config } => backup::restore(&config.load()?, &file, force),
        Command::CheckConfig(file) => {
            print(&check_config(&file.config)?);
            Ok(())
        }
    }
}

fn check_config(path: &Path) -> anyhow::Result<String> {
    let config = Config::load(path)?;
    let providers = Providers::new(&config.providers);
    let found = if path.exists() { "is good" } else { "does not exist, and the defaults serve" };
    Ok(format!(
        "{} {found}: nodes at {}, REST at {}, state in {}, provider(s) {}",
        path.display(),
        config.nodes_listen,
        config.rest_listen,
        config.state_dir.display(),
        providers.names().collect::<Vec<_>>().join(", "),
    ))
}

/// The certificate that the REST API shows.
pub(crate) fn certificate(config: &Config) -> PathBuf {
    match &config.rest_certificate {
        Some((certificate, _)) => certificate.clone(),
        None => StateDir::new(&config.state_dir).certificate(),
    }
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "reader" => Ok(Role::Reader),
        "operator" => Ok(Role::Operator),
        "admin" => Ok(Role::Admin),
        _ => Err("use reader, operator or admin".to_owned()),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}
