//! The network of the nodes themselves that the configuration asks for.

use controller_registry::{AntiSpoof, Command, Dhcp, Mode, NewNetwork, Registry};

use crate::config::Mgmt;
use crate::engine::Engine;

/// Makes it if it is missing. What stands in its way is logged: the cluster goes on without it.
pub async fn ensure(engine: &Engine, mgmt: &Mgmt) {
    let Mgmt { name, vni, subnet_v4, subnet_v6 } = mgmt.clone();
    let there = engine.read(|registry| found(registry, mgmt)).await;
    match there {
        Found::AsWanted => return,
        Found::Otherwise(why) => {
            tracing::warn!(network = name, %vni, "{why}");
            return;
        }
        Found::Nothing => {}
    }
    let new = NewNetwork {
        name: name.clone(),
        vni: Some(vni),
        // The nodes' stacks are its stations: each may know the others' MACs, and nobody may take another's.
        mode: Mode::Preserve,
        anti_spoof: AntiSpoof::Strict,
        dhcp: Dhcp::LocalOnly,
        subnet_v4,
        subnet_v6,
        host: true,
        ..NewNetwork::default()
    };
    match engine.command(Command::CreateNetwork(new)).await {
        Ok(_) => tracing::info!(network = name, %vni, "made the network of the nodes themselves"),
        Err(refusal) => tracing::warn!(network = name, %vni, "no network of the nodes themselves: {refusal}"),
    }
}

enum Found {
    Nothing,
    AsWanted,
    /// A sentence.
    Otherwise(&'static str),
}

fn found(registry: &Registry, mgmt: &Mgmt) -> Found {
    match registry.networks().get(&mgmt.vni) {
        None => Found::Nothing,
        Some(network) if !network.host => {
            Found::Otherwise("this VNI is a network of instances: choose another mgmt.vni in controller.toml")
        }
        Some(network) if (network.subnet_v4, network.subnet_v6) != (mgmt.subnet_v4, mgmt.subnet_v6) => {
            Found::Otherwise(
                "mgmt.subnets has changed, and the network stays as it was made: to change it, delete it while \
                 mgmt.enabled = false",
            )
        }
        Some(_) => Found::AsWanted,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use controller_registry::{NetworkUpdate, RefusalKind};

    use super::*;
    use crate::config::Config;
    use crate::store::{FileStore, Store};

    fn config(text: &str) -> Config {
        Config::parse(text, std::path::Path::new("controller.toml")).unwrap()
    }

    async fn start(store: Arc<dyn Store>, config: &Config) -> crate::engine::Started {
        crate::engine::Engine::start_with(store, Vec::new(), config.settings()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_made_once_and_kept_while_it_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::create(&dir.path().join("store")).unwrap());
        let wanted = config("[mgmt]\nenabled = true");
        let mgmt = wanted.mgmt.as_ref().unwrap();
        let started = start(store.clone(), &wanted).await;
        let engine = &started.engine;
        engine.command(Command::InitCluster { name: "lab".to_owned(), epoch: 7 }).await.unwrap();
        ensure(engine, mgmt).await;
        let first = engine.read(|registry| registry.networks()[&mgmt.vni].clone()).await;
        assert!(first.host && first.subnet_v4 == mgmt.subnet_v4 && first.subnet_v6 == mgmt.subnet_v6);
        let update = NetworkUpdate { mtu: Some(1400), ..NetworkUpdate::default() };
        let network = "mgmt".to_owned();
        engine.command(Command::UpdateNetwork { network: network.clone(), update }).await.unwrap();
        ensure(engine, mgmt).await;
        assert_eq!(
            engine.read(|registry| registry.networks()[&mgmt.vni].mtu).await,
            1400,
            "as it was changed"
        );
        let refusal = engine.command(Command::DeleteNetwork { network: network.clone() }).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Conflict);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_stands_in_its_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::create(&dir.path().join("store")).unwrap());
        let wanted = config("mgmt = { enabled = true, vni = 300 }");
        let started = start(store, &wanted).await;
        let engine = &started.engine;
        engine.command(Command::InitCluster { name: "lab".to_owned(), epoch: 7 }).await.unwrap();
        let blue = |name: &str, vni| NewNetwork { name: name.to_owned(), vni, ..NewNetwork::default() };
        engine.command(Command::CreateNetwork(blue("mgmt", None))).await.unwrap();
        ensure(engine, wanted.mgmt.as_ref().unwrap()).await;
        assert_eq!(engine.read(|registry| registry.networks().len()).await, 1, "its name is taken");
        engine
            .command(Command::CreateNetwork(blue("blue", wanted.mgmt.as_ref().map(|m| m.vni))))
            .await
            .unwrap();
        ensure(engine, wanted.mgmt.as_ref().unwrap()).await;
        assert!(!engine.read(|registry| registry.networks().values().any(|n| n.host)).await);
        engine.command(Command::DeleteNetwork { network: "blue".to_owned() }).await.unwrap();
    }
}
