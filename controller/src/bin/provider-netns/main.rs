//! A provider whose machines are network namespaces of this host: for demonstrations and tests. It speaks the exec
//! contract (docs/providers.md): one request on stdin, one JSON object a line on stdout.

mod config;
mod machine;
mod namespace;
mod processes;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use controller::provider::{Action, Request};
use serde_json::json;

/// Makes nodes in network namespaces of this host: the request comes on stdin, the answer goes to stdout.
#[derive(Parser, Debug)]
#[command(name = "provider-netns", version, after_help = HELP)]
struct Cli {
    /// Where the namespaces attach, and what runs in them
    #[arg(
        long,
        value_name = "FILE",
        env = "PROVIDER_NETNS_CONFIG",
        default_value = "/etc/controller/provider-netns.toml"
    )]
    config: PathBuf,
}

const HELP: &str = "\
In controller.toml:
  [[provider]]
  name = \"netns\"
  kind = \"exec\"
  command = [\"/usr/bin/provider-netns\", \"--config\", \"/etc/controller/provider-netns.toml\"]

The configuration, with its defaults where there are any:
  underlay_namespace = \"\"             namespace of the bridge; empty for the controller's own
  underlay_bridge = \"br-underlay\"
  addresses = \"10.99.0.0/24\"          the nodes' underlay addresses
  first_address = 10                  the first one that a node gets: 10.99.0.10
  prefix = \"node-\"                    names of the namespaces: the prefix and the node's name
  binaries = \"/usr/bin\"
  state_dir = \"/var/lib/controller/provider-netns\"
  join, run, files                    see docs/providers.md";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match serve(&cli) {
        Ok((id, detail)) => {
            say(&json!({ "ok": true, "id": id, "detail": detail }));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&json!({ "ok": false, "error": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}

fn serve(cli: &Cli) -> anyhow::Result<(String, String)> {
    let config = config::Config::load(&cli.config)?;
    let mut text = String::new();
    std::io::stdin().take(64 << 10).read_to_string(&mut text).context("reading the request from stdin")?;
    let request: Request =
        serde_json::from_str(&text).context("the request on stdin is not one of the contract")?;
    anyhow::ensure!(
        request.version == 1,
        "the request has version {}, this provider knows 1",
        request.version
    );
    match request.action {
        Action::Create => machine::create(&config, &request, progress),
        Action::Destroy => machine::destroy(&config, &request),
    }
}

fn progress(percent: u8, detail: &str) {
    say(&json!({ "progress": percent, "detail": detail }));
}

fn say(line: &serde_json::Value) {
    let mut stdout = std::io::stdout().lock();
    // If nobody reads, nobody can be told.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
