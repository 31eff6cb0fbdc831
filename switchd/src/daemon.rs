//! The daemon: the only place where the core, the planes and the host's networking meet. Assembles, reloads on
//! SIGHUP, and on SIGTERM or SIGINT leaves the host as it was found.

mod node;
mod registry;
mod steering;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use switch_core::ids::Vni;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::EnvFilter;

use crate::config::{self, Config};
use crate::dataplane::{self, Command, DataPlane, Handle};
use crate::endpoint::{Endpoint, EndpointConfig, EndpointEvent, EndpointState};
use crate::key::PrivateKey;
use crate::links::{self, Links};
use crate::netlink::{LinkEvent, Netlink};
use crate::underlay::Underlay;
use crate::{admin, cli, metrics};
use node::Node;
use registry::Registry;
pub use steering::Steering;

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config, path: &Path) -> anyhow::Result<()> {
    let filter = match std::env::var("SWITCHD_LOG") {
        Ok(text) => EnvFilter::try_new(text).context("SWITCHD_LOG: use error, warn, info, debug or trace")?,
        Err(_) => EnvFilter::new("info"),
    };
    let stderr = std::io::stderr;
    let ansi = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(ansi).init();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(serve(config, path))
}

async fn serve(config: Config, path: &Path) -> anyhow::Result<()> {
    let key = PrivateKey::load(&config.node.private_key)?;
    cli::check_own_key(&config, key.public())?;
    let mut daemon = Daemon::start(config, key).await?;
    tracing::info!(node = %daemon.node.config().node.name, version = env!("CARGO_PKG_VERSION"), "started");
    let result = daemon.attend(path).await;
    daemon.stop().await;
    result
}

/// Everything that runs.
struct Daemon {
    node: Arc<Node>,
    registry: Registry,
    links: Arc<Links>,
    worker: Handle,
    thread: std::thread::JoinHandle<()>,
    reports: mpsc::UnboundedReceiver<dataplane::Report>,
    endpoints: Vec<Endpoint>,
    netlink: Netlink,
}

impl Daemon {
    async fn start(config: Config, key: PrivateKey) -> anyhow::Result<Daemon> {
        let underlay = Arc::new(Underlay::bind(config.node.listen)?);
        let listen = underlay.socket().local_addr().context("reading the UDP socket's address")?;
        let admin = admin::AdminSocket::bind(&config.admin.socket, &config.admin.group)?;
        let metrics = match config.metrics.listen {
            Some(listen) => Some(metrics::bind(listen).await?),
            None => None,
        };
        let networks = config.networks.iter().map(|n| registry::network_config(n, seed())).collect();
        let name: Arc<str> = config.node.name.as_str().into();
        let DataPlane { handle: worker, reports, quic, snapshot, thread } =
            dataplane::start(underlay.clone(), name, networks, seed())?;
        let links = Links::start(links::Start {
            key: &key,
            node: config.node.name.clone(),
            aes: registry::cpu_has_aes(),
            underlay,
            received: quic,
            worker: worker.clone(),
            config: registry::link_config(&config.link),
        })?;
        let mut registry = Registry::default();
        registry.apply(&config, &worker);
        worker.send(Command::SetRekeyDatagrams(config.link.rekey_datagrams));
        links.set_networks(&config.networks.iter().map(|network| network.vni).collect::<Vec<Vni>>());
        links.set_peers(&registry.peers(&config));

        let netlink = Netlink::open()?;
        let (endpoints, states) = start_endpoints(&config, &netlink, &worker);
        let node = Arc::new(Node::new(node::Parts {
            config,
            public_key: key.public(),
            listen,
            links: links.clone(),
            worker: worker.clone(),
            snapshot,
            endpoints: states,
            peers: registry.ids(),
        }));
        tokio::spawn(admin::serve(admin, node.clone()));
        if let Some(listener) = metrics {
            let view = node.clone();
            tokio::spawn(async move {
                if let Err(e) = metrics::serve(listener, view).await {
                    tracing::error!(error = %e, "the metrics server has stopped");
                }
            });
        }
        Ok(Daemon { node, registry, links, worker, thread, reports, endpoints, netlink })
    }

    /// Carries reports, signals and changes of the host's addresses until told to stop.
    async fn attend(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("watching SIGHUP")?;
        let mut host = self.netlink.watch();
        loop {
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => self.links.handle_report(report),
                    None => bail!("the worker has stopped: see the log above"),
                },
                event = host.next() => match event {
                    Some(LinkEvent::AddressChanged { .. } | LinkEvent::Resync) => {
                        // Peers learn our new address from the next authentic datagram.
                        self.worker.send(Command::ProbeAll);
                    }
                    Some(_) => {}
                    None => tokio::time::sleep(Duration::from_secs(1)).await,
                },
                _ = hangup.recv() => self.reload(path),
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    fn reload(&mut self, path: &Path) {
        let new = match Config::load(path) {
            Ok(new) => new,
            Err(e) => return tracing::error!("reload refused, nothing changed: {e}"),
        };
        if let Err(e) = cli::check_own_key(&new, self.node.public_key()) {
            return tracing::error!("reload refused, nothing changed: {e:#}");
        }
        let reload = config::diff(&self.node.config(), &new);
        if !reload.needs_restart.is_empty() {
            tracing::warn!(keys = reload.needs_restart.join(", "), "changed, but only a restart applies it");
        }
        self.registry.apply(&reload.config, &self.worker);
        self.links.set_peers(&self.registry.peers(&reload.config));
        if reload.link_changed {
            self.worker.send(Command::SetRekeyDatagrams(reload.config.link.rekey_datagrams));
            if let Err(e) = self.links.set_config(registry::link_config(&reload.config.link)) {
                tracing::error!(error = %e, "link timers not changed");
            }
        }
        tracing::info!(
            added = reload.peers_added.len(),
            removed = reload.peers_removed.len(),
            changed = reload.peers_changed.len(),
            networks = reload.networks_changed.len(),
            "reloaded"
        );
        self.node.set_config(reload.config, self.registry.ids());
    }

    async fn stop(self) {
        tracing::info!("stopping");
        self.links.shutdown().await;
        for endpoint in self.endpoints {
            endpoint.shutdown().await;
        }
        self.worker.send(Command::Stop);
        let thread = self.thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        tracing::info!("stopped");
    }
}

type States = Vec<watch::Receiver<EndpointState>>;

fn start_endpoints(config: &Config, netlink: &Netlink, worker: &Handle) -> (Vec<Endpoint>, States) {
    let start = |network: &config::Network| {
        let (events, received) = mpsc::channel(4);
        tokio::spawn(forward(received, network.vni, worker.clone()));
        let endpoint = EndpointConfig {
            name: network.endpoint.clone(),
            bridge: network.bridge.clone(),
            create_bridge: network.create_bridge,
            endpoint_mac: network.endpoint_mac,
            mtu: u32::from(network.mtu),
            offloads: network.offloads,
        };
        let endpoint = Endpoint::start(endpoint, netlink.clone(), events);
        let state = endpoint.state();
        (endpoint, state)
    };
    config.networks.iter().map(start).unzip()
}

/// Hands each TAP of an endpoint to the worker.
async fn forward(mut events: mpsc::Receiver<EndpointEvent>, vni: Vni, worker: Handle) {
    while let Some(event) = events.recv().await {
        let tap = match event {
            EndpointEvent::Up(tap) => Some(tap),
            EndpointEvent::Down(_) => None,
        };
        worker.send(Command::SetEndpoint(vni, tap));
    }
}

fn seed() -> [u64; 4] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    std::array::from_fn(|i| u64::from_ne_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("8 of 32 bytes")))
}
