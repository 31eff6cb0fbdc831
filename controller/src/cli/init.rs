//! `controller init`.

use std::sync::Arc;

use anyhow::Context;
use controller_registry::{Command, Role};

use super::Init;
use crate::api_secret::new_secret;
use crate::config;
use crate::state_dir::{Setup, StateDir, fingerprint};
use crate::store::{FileStore, Store};

pub(super) fn init(init: &Init, print: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let config = init.config.load()?;
    let advertise = match init.advertise.is_empty() {
        true => config.advertise.clone(),
        false => init.advertise.clone(),
    };
    anyhow::ensure!(
        !advertise.is_empty(),
        "say how nodes reach this host: --advertise ADDRESS (an address or a name of it), or advertise in controller.toml"
    );
    anyhow::ensure!(
        !init.name.is_empty() && init.name.len() <= 255,
        "--name: a cluster's name has 1 to 255 bytes"
    );
    for address in &advertise {
        config::check_advertise(address).map_err(anyhow::Error::msg).context("--advertise")?;
    }
    let state_dir = StateDir::new(init.state_dir.as_ref().unwrap_or(&config.state_dir));
    state_dir.create(&Setup { cluster: init.name.clone(), advertise })?;
    let store: Arc<dyn Store> = Arc::new(FileStore::create(&state_dir.store())?);
    let (secret, secret_hash) = new_secret();
    let commands = [
        Command::InitCluster { name: init.name.clone(), epoch: node_session::random() },
        Command::CreateApiToken { name: "admin".to_owned(), role: Role::Admin, secret_hash, ttl_ms: None },
    ];
    crate::engine::apply(
        &*store,
        commands.map(|command| controller_registry::Input::Command(command.into())),
    )?;

    let key = state_dir.load_key()?.public();
    eprintln!("cluster {:?} made in {}", init.name, state_dir.path().display());
    eprintln!("the cluster's public key, which nodes pin:              {key}");
    eprintln!(
        "the REST certificate's fingerprint, which clients pin:  {}",
        fingerprint(&state_dir.certificate())?
    );
    eprintln!("the first token of the REST API, role admin, shown this once only:");
    print(&secret);
    Ok(())
}
