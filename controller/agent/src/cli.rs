//! The command line of `node-agent`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::capacity::capacity;
use crate::config::{self, Config};
use crate::{run, shim, status};

/// Runs a node's instances, as containers or QEMU guests, and reports them to the controller.
#[derive(Parser, Debug)]
#[command(name = "node-agent", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the agent until SIGTERM or SIGINT; the instances run on
    Run(ConfigFile),
    /// Show the instances: state, limits as they are enforced, CPU time and memory
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration and say what this node offers
    CheckConfig(ConfigFile),
    /// The parent process of one instance; started by the agent
    #[command(hide = true)]
    Shim {
        /// The instance's home
        home: PathBuf,
    },
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration; the default file need not exist
    #[arg(long, short, value_name = "FILE", env = "AGENT_CONFIG", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

const EXAMPLES: &str = "\
A node joins with `switchd join TOKEN`; the agent then uses the same key and finds the controller in
/var/lib/switchd/node.json. What shall run is the controller's word: see `skippy allocate`.

Examples:
  node-agent run                     run with /etc/node-agent/agent.toml or, without it, the defaults
  node-agent status                  show the instances of this node
  node-agent check-config            check the configuration, show capacity and drivers

agent.toml, with its defaults:
  state_dir = \"/var/lib/node-agent\"         records, volumes, logs
  image_dir = \"/var/lib/node-agent/images\"  NAME/ or NAME.tar: a root; NAME.qcow2, NAME.raw: a disk;
                                            NAME/ with vmlinuz, initrd [, disk.qcow2]: a guest
  node_state_dir = \"/var/lib/switchd\"       node.json of `switchd join`
  private_key = \"/etc/switchd/private.key\"  the node's key
  drivers = [\"container\", \"qemu\"]
  accelerator = \"auto\"                      auto, kvm or tcg
  qemu = \"qemu-system-x86_64\"
  cgroup_parent = \"node-agent\"
  log_bytes = 1048576                       of each instance's console.log
  hidden = []                               more paths that containers on the host's root do not see
  [capacity]                                cores, memory_bytes, disk_bytes: instead of what is found

Environment:
  AGENT_LOG   log filter: error, warn, info (default), debug, trace, or per module

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(file) => run::run(&Config::load(&file.config)?),
        Command::Status { config, json } => {
            let (agent, rows) = status::read(&Config::load(&config.config)?)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&rows)?);
            } else {
                println!("{}", status::table(&rows));
            }
            if !agent {
                eprintln!("no agent runs here: this is what was found; start one with `node-agent run`");
            }
            Ok(())
        }
        Command::CheckConfig(file) => {
            let config = Config::load(&file.config)?;
            let capacity = capacity(&config);
            let found =
                if file.config.exists() { "is good" } else { "does not exist, and the defaults serve" };
            println!(
                "{} {found}: {} cores, {} MiB of memory, {} GiB of disk; drivers: {}{}",
                file.config.display(),
                capacity.cores,
                capacity.memory_bytes >> 20,
                capacity.disk_bytes >> 30,
                config.drivers.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "),
                if capacity.accelerator.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", capacity.accelerator)
                },
            );
            Ok(())
        }
        Command::Shim { home } => shim::run(&home),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_teaches() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for word in ["run", "status", "check-config", "AGENT_LOG", "switchd join", "image_dir"] {
            assert!(help.contains(word), "{word}");
        }
        assert!(!help.contains("shim"));
    }
}
