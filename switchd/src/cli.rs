//! The command line of `switchd`.

mod membership;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use node_session::joined::Joined;

use crate::config::{self, Config};
use crate::key::{PrivateKey, PublicKey};

/// Joins the Linux bridges of many nodes into layer-2 networks over encrypted links.
#[derive(Parser, Debug)]
#[command(name = "switchd", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the switch until SIGTERM or SIGINT; SIGHUP reloads peers and policies
    Run(Place),
    /// Check the configuration and the private key, and say everything that is wrong
    CheckConfig(ConfigFile),
    /// Make this node's private key and print its public key
    Keygen {
        /// Where the private key goes (mode 0600)
        #[arg(long, value_name = "FILE", default_value = DEFAULT_KEY)]
        out: PathBuf,
        /// Replace an existing key: peers must then learn the new public key
        #[arg(long)]
        force: bool,
    },
    /// Print the public key that peers put into their [[peer]]
    Pubkey {
        /// The private key's file; default: node.private_key of the configuration
        #[arg(long, value_name = "FILE", conflicts_with = "config")]
        key: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Make this machine a node of a cluster, with the token that add_compute_node gave, and start
    Join {
        /// The join token, skj1...; - reads it from stdin, where no other process sees it
        token: String,
        /// The name that the node would like; default: node.name of the configuration, or the host name
        #[arg(long)]
        name: Option<String>,
        /// Join although this node has joined already: what it had from that controller is forgotten
        #[arg(long)]
        force: bool,
        /// Enrol only; start nothing
        #[arg(long, conflicts_with = "run")]
        no_start: bool,
        /// Go on as `switchd run`, in the foreground
        #[arg(long)]
        run: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Forget the controller, with all that came from it
    Leave {
        /// Forget this node's private key too
        #[arg(long)]
        key: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Give this node a new key, known to the controller and through it to all peers
    RotateKey {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args, Debug)]
struct Place {
    #[command(flatten)]
    config: ConfigFile,
    /// Where this node keeps what it has from the controller; default: controller.state_dir of the configuration
    #[arg(long, value_name = "DIR", env = "SWITCHD_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

impl Place {
    /// The configuration; the defaults if there is none at the default place.
    fn load(&self) -> anyhow::Result<Config> {
        let path = &self.config.config;
        let mut config = match path == Path::new(config::DEFAULT_PATH) && !path.exists() {
            true => Config::parse("", config::DEFAULT_PATH)?,
            false => Config::load(path)?,
        };
        if let Some(dir) = &self.state_dir {
            config.controller.state_dir.clone_from(dir);
        }
        Ok(config)
    }
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration
    #[arg(long, short, value_name = "FILE", env = "SWITCHD_CONFIG", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

const DEFAULT_KEY: &str = "/etc/switchd/private.key";

const EXAMPLES: &str = "\
Examples:
  switchd keygen                     make /etc/switchd/private.key, print the public key
  switchd check-config               check /etc/switchd/switchd.toml
  switchd run --config ./node.toml   run in the foreground, log on stderr
  switchd join skj1.AAAA...          join a cluster and start

Environment:
  SWITCHD_LOG   log filter: error, warn, info (default), debug, trace, or per module
                such as info,switchd::links=debug

Exit codes: 0 done, 1 failed, 2 wrong usage. `switchctl` looks into a running switchd.";

/// Parses the command line and carries it out; `run` is the daemon.
pub fn main(run: impl FnOnce(Config, &Path) -> anyhow::Result<()>) -> ExitCode {
    match execute(Cli::parse().command, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command, run: impl FnOnce(Config, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    match command {
        Command::Run(place) => run(runnable(&place)?, &place.config.config),
        Command::CheckConfig(ConfigFile { config: path }) => {
            println!("{}", check_config(&path)?);
            Ok(())
        }
        Command::Keygen { out, force } => {
            let key = PrivateKey::generate()?;
            key.save(&out, force)?;
            eprintln!("private key written to {}; its public key, for the peers:", out.display());
            println!("{}", key.public());
            Ok(())
        }
        Command::Pubkey { key, config } => {
            let path = match key {
                Some(path) => path,
                // Before there is a configuration, the key is where keygen put it.
                None if config.config == Path::new(config::DEFAULT_PATH) && !config.config.exists() => {
                    PathBuf::from(DEFAULT_KEY)
                }
                None => Config::load(&config.config)?.node.private_key,
            };
            println!("{}", PrivateKey::load(&path)?.public());
            Ok(())
        }
        Command::Join { token, name, force, no_start, run: go_on, place } => {
            let config = place.load()?;
            let token = if token == "-" { io::read_to_string(io::stdin().take(4096))? } else { token };
            membership::join(&config, &token, name.as_deref(), force)?;
            match (no_start, go_on) {
                (true, _) => Ok(()),
                (false, true) => run(config, &place.config.config),
                (false, false) => membership::start(),
            }
        }
        Command::Leave { key, place } => membership::leave(&place.load()?, key),
        Command::RotateKey { place } => {
            println!("{}", membership::rotate_key(&place.load()?)?);
            Ok(())
        }
    }
}

/// What `run` runs with: without a file at the default place, the defaults, if the node has joined.
fn runnable(place: &Place) -> anyhow::Result<Config> {
    let config = place.load()?;
    if !place.config.config.exists() && !Joined::path(&config.controller.state_dir).exists() {
        // Says what is missing.
        return Ok(Config::load(&place.config.config)?);
    }
    Ok(config)
}

fn check_config(path: &Path) -> anyhow::Result<String> {
    let config = Config::load(path)?;
    let key = PrivateKey::load(&config.node.private_key)?;
    check_own_key(&config, key.public())?;
    let dialled = config.peers.iter().filter(|peer| !peer.addresses.is_empty()).count();
    Ok(format!(
        "{} is good: node {} ({}), {} network(s), {} peer(s), {dialled} with an address",
        path.display(),
        config.node.name,
        key.public(),
        config.networks.len(),
        config.peers.len(),
    ))
}

/// Refuses a peer that has this node's own key: the mark of a copied disk or configuration.
pub fn check_own_key(config: &Config, own: PublicKey) -> anyhow::Result<()> {
    match config.peers.iter().find(|peer| peer.public_key == own) {
        None => Ok(()),
        Some(peer) => Err(anyhow::anyhow!("each node needs a key of its own: switchd keygen --force"))
            .with_context(|| format!("peer {:?} has this node's own public key", peer.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(args: &[&str]) -> anyhow::Result<()> {
        let cli = Cli::try_parse_from([&["switchd"], args].concat())?;
        execute(cli.command, |_, _| Ok(()))
    }

    #[test]
    fn the_command_line_is_consistent_and_has_help() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for word in [
            "run",
            "check-config",
            "keygen",
            "pubkey",
            "join",
            "leave",
            "rotate-key",
            "SWITCHD_LOG",
            "Examples",
        ] {
            assert!(help.contains(word), "{word}");
        }
    }

    #[test]
    fn keygen_pubkey_and_check_config() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("private.key");
        let conf = dir.path().join("switchd.toml");
        run(&["keygen", "--out", key.to_str().unwrap()]).unwrap();
        assert!(run(&["keygen", "--out", key.to_str().unwrap()]).is_err());
        run(&["pubkey", "--key", key.to_str().unwrap()]).unwrap();
        std::fs::write(&conf, format!("[node]\nname = \"a\"\nprivate_key = {key:?}\n")).unwrap();
        run(&["check-config", "--config", conf.to_str().unwrap()]).unwrap();
        run(&["pubkey", "--config", conf.to_str().unwrap()]).unwrap();
        run(&["run", "--config", conf.to_str().unwrap()]).unwrap();
        let own = PrivateKey::load(&key).unwrap().public();
        let text = format!(
            "[node]\nname = \"a\"\nprivate_key = {key:?}\n[[peer]]\nname = \"b\"\npublic_key = \"{own}\"\n"
        );
        std::fs::write(&conf, text).unwrap();
        let error = run(&["check-config", "--config", conf.to_str().unwrap()]).unwrap_err();
        assert!(format!("{error:#}").contains("own public key"), "{error:#}");
    }
}
