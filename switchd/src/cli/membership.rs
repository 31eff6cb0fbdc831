//! `join`, `leave` and `rotate-key`.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use node_session::joined::Joined;

use crate::admin::protocol::Request;
use crate::config::Config;
use crate::ctl::client::{Client, CtlError};
use crate::key::PublicKey;
use crate::session;

/// Enrols this node.
pub(super) fn join(config: &Config, token: &str, name: Option<&str>, force: bool) -> anyhow::Result<()> {
    let join = session::join::Join {
        token,
        name: name.unwrap_or(&config.node.name),
        state_dir: &config.controller.state_dir,
        key_file: &config.node.private_key,
        force,
    };
    let joined = block_on(session::join::join(join))?;
    eprintln!(
        "joined cluster {} as {} ({}); written to {}",
        joined.cluster,
        joined.node_name,
        joined.node_id,
        Joined::path(&config.controller.state_dir).display()
    );
    Ok(())
}

/// Starts the services of a node that has joined, where systemd runs them; else says what to do.
pub(super) fn start() -> anyhow::Result<()> {
    let units: Vec<&str> =
        ["switchd.service", "node-agent.service"].into_iter().filter(is_installed).collect();
    if !units.contains(&"switchd.service") {
        eprintln!(
            "there is no systemd service switchd to start; start it with: switchd run; and if it shall run instances: \
             node-agent run"
        );
        return Ok(());
    }
    systemctl(&[&["enable"], units.as_slice()].concat())?;
    // A service that ran already has to read what was joined. Without waiting: ready is only who has a state.
    systemctl(&[&["restart", "--no-block"], units.as_slice()].concat())?;
    eprintln!("started {}; how it goes: switchctl status", units.join(" and "));
    Ok(())
}

/// Forgets the controller.
pub(super) fn leave(config: &Config, key: bool) -> anyhow::Result<()> {
    let key_file = key.then_some(config.node.private_key.as_path());
    let had_joined = session::join::leave(&config.controller.state_dir, key_file)?;
    eprintln!(
        "{}",
        if had_joined { "the controller is forgotten" } else { "this node had joined no controller" }
    );
    let units: Vec<&str> =
        ["switchd.service", "node-agent.service"].into_iter().filter(is_installed).collect();
    match units.is_empty() {
        true => eprintln!("restart switchd, if it runs, to drop what came from the controller"),
        false => systemctl(&[&["try-restart", "--no-block"], units.as_slice()].concat())?,
    }
    Ok(())
}

/// By the running daemon, or, if none runs, over a session of its own.
pub(super) fn rotate_key(config: &Config) -> anyhow::Result<PublicKey> {
    match Client::connect(&config.admin.socket).and_then(|mut daemon| daemon.ask(&Request::RotateKey)) {
        Err(CtlError::NotRunning(_) | CtlError::Dead(_)) => {}
        answer => return Ok(answer?),
    }
    let dir = &config.controller.state_dir;
    let joined = Joined::load(dir)?.context(
        "this node has joined no controller: with static peers, switchd keygen --force makes a new key, which goes \
         into every peer's configuration",
    )?;
    block_on(session::rotate::rotate(config, &joined))
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime")?.block_on(future)
}

fn is_installed(unit: &&str) -> bool {
    // What sd_booted(3) looks at.
    Path::new("/run/systemd/system").is_dir()
        && Command::new("systemctl").args(["cat", unit]).output().is_ok_and(|output| output.status.success())
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let line = format!("systemctl {}", arguments.join(" "));
    let status = Command::new("systemctl").args(arguments).status().with_context(|| line.clone())?;
    anyhow::ensure!(
        status.success(),
        "{line} failed: see systemctl status switchd; this node has joined all the same"
    );
    Ok(())
}
