//! The daemon: the only place where the core, the planes and the host's networking meet. Assembles, reloads on
//! SIGHUP, and on SIGTERM or SIGINT leaves the host as it was found.

mod apply;
mod convert;
mod endpoints;
mod node;
mod ready;
mod registry;
mod steering;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use node_session::joined::Joined;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::EnvFilter;

use crate::config::{self, Config};
use crate::dataplane::{self, Bite, Command, DataPlane, Handle, Refused};
use crate::desired::Revision;
use crate::key::PrivateKey;
use crate::links::{self, Links};
use crate::netlink::{LinkEvent, Netlink};
use crate::session::{self, Session};
use crate::traversal::{self, Traversals};
use crate::underlay::{StunDatagram, Underlay};
use crate::view::{Origin, View};
use crate::{admin, cli, metrics};
use endpoints::Endpoints;
use node::Node;
use registry::Registry;
pub use steering::Steering;

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config, path: &Path) -> anyhow::Result<()> {
    let filter = match std::env::var("SWITCHD_LOG") {
        Ok(text) => EnvFilter::try_new(text).context("SWITCHD_LOG: use error, warn, info, debug or trace")?,
        Err(_) => EnvFilter::new("info"),
    };
    let filter = QUIET
        .iter()
        .fold(filter, |filter, quiet| filter.add_directive(quiet.parse().expect("each is a directive")));
    let stderr = std::io::stderr;
    let ansi = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(ansi).init();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(serve(config, path))
}

async fn serve(mut config: Config, path: &Path) -> anyhow::Result<()> {
    let key = PrivateKey::load(&config.node.private_key)?;
    cli::check_own_key(&config, key.public())?;
    let controller = config.controller.clone();
    let joined = if controller.enabled { Joined::load(&controller.state_dir)? } else { None };
    if let Some(joined) = &joined {
        config.set_given_name(&joined.node_name);
    }
    let key_file = config.node.private_key.clone();
    let (mut daemon, steering) = Daemon::start(config, key.clone()).await?;
    // Without a controller nobody steers this node: its own file says all.
    let mut session = joined.map(|joined| {
        let Steering { updates, applied, stations, keys, view, .. } = steering;
        let session = Session::start(session::Start {
            joined,
            state_dir: controller.state_dir,
            addresses: controller.addresses,
            key,
            key_file,
            listen: daemon.node.listen(),
            netlink: Some(daemon.netlink.clone()),
            daemon: session::Daemon { updates, applied, stations, keys, view },
        });
        daemon.node.set_controller(session.remote());
        session
    });
    daemon.look_for_ways(session.as_mut());
    tracing::info!(node = %daemon.node.config().node.name, version = env!("CARGO_PKG_VERSION"), "started");
    let ready = tokio::spawn(ready::tell(daemon.node.clone()));
    let result = daemon.attend(path).await;
    ready.abort();
    if let Some(session) = session {
        session.stop().await;
    }
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
    endpoints: Endpoints,
    netlink: Netlink,
    underlay: Arc<Underlay>,
    /// STUN that the worker read, until something takes it.
    stun: Option<mpsc::Receiver<StunDatagram>>,
    /// Bindings that the worker has not taken yet.
    bites: VecDeque<Bite>,
    session: steering::Ends,
    /// The update that is being carried out.
    updating: Option<Revision>,
    /// The update that the worker is about to have.
    applying: Option<(Revision, oneshot::Receiver<Refused>)>,
}

impl Daemon {
    /// The daemon, and what a session with the controller holds of it.
    async fn start(config: Config, key: PrivateKey) -> anyhow::Result<(Daemon, Steering)> {
        let config = Arc::new(config);
        let underlay = Arc::new(Underlay::bind(config.node.listen)?);
        let listen = underlay.socket().local_addr().context("reading the UDP socket's address")?;
        let admin = admin::AdminSocket::bind(&config.admin.socket, &config.admin.group)?;
        let metrics = match config.metrics.listen {
            Some(listen) => Some(metrics::bind(listen).await?),
            None => None,
        };
        let name: Arc<str> = config.node.name.as_str().into();
        let DataPlane { handle: worker, reports, stations, quic, stun, snapshot, thread, worker_thread } =
            dataplane::start(underlay.clone(), name, seed())?;
        let links = Links::start(links::Start {
            key: &key,
            node: config.node.name.clone(),
            aes: convert::cpu_has_aes(),
            underlay: underlay.clone(),
            received: quic,
            worker: worker.clone(),
            config: convert::link_config(&config),
        })?;
        if let Some(idle_after) = config.link.idle_after.filter(|_| config.link.on_demand) {
            tokio::spawn(links.clone().mind_idle(idle_after, snapshot.clone()));
        }
        worker.send(Command::SetRekeyDatagrams(config.link.rekey_datagrams));
        let node = Arc::new(Node::new(node::Parts {
            config: config.clone(),
            public_key: key.public(),
            listen,
            links: links.clone(),
            worker: worker.clone(),
            worker_thread,
            snapshot,
        }));
        let netlink = Netlink::open()?;
        let (registry, effects) = Registry::new(key.public(), config.clone());
        let (session, steering) = steering::new(node.clone(), worker.clone(), stations);
        let endpoints = Endpoints::new(netlink.clone(), worker.clone());
        let mut daemon = Daemon {
            node: node.clone(),
            registry,
            links,
            worker,
            thread,
            reports,
            endpoints,
            netlink,
            underlay,
            stun: Some(stun),
            bites: VecDeque::new(),
            session,
            updating: None,
            applying: None,
        };
        for network in &config.networks {
            daemon.start_network(network.clone(), Origin::File);
        }
        daemon.links.set_networks(&daemon.registry.vnis());
        daemon.carry_out(effects);
        daemon.node.set_networks(daemon.endpoints.rows());
        tokio::spawn(admin::serve(admin, node.clone()));
        if let Some(listener) = metrics {
            tokio::spawn(async move {
                if let Err(e) = metrics::serve(listener, node).await {
                    tracing::error!(error = %e, "the metrics server has stopped");
                }
            });
        }
        Ok((daemon, steering))
    }

    /// Ways to the nodes of the controller, and what a check of the network needs without one.
    fn look_for_ways(&mut self, session: Option<&mut Session>) {
        let config = self.node.config();
        let Some(received) = self.stun.take().filter(|_| config.nat.traversal) else { return };
        let node = Arc::downgrade(&self.node);
        let overlay = move || {
            let networks = node.upgrade().map(|node| node.status().networks).unwrap_or_default();
            networks.into_iter().flat_map(|network| [network.bridge, network.endpoint]).collect()
        };
        let (servers, signals) = match session {
            Some(session) => (Some(session.servers()), session.signals()),
            None => (None, None),
        };
        self.links.start_traversal(|news| {
            Traversals::start(traversal::Start {
                underlay: self.underlay.clone(),
                listen: self.node.listen(),
                received,
                worker: self.worker.clone(),
                netlink: self.netlink.clone(),
                overlay: Box::new(overlay),
                config: config.nat.clone(),
                servers,
                signals,
                news,
            })
        });
    }

    /// Carries reports, signals, updates and changes of the host's addresses until told to stop.
    async fn attend(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("watching SIGHUP")?;
        let mut host = self.netlink.watch();
        let worker = self.worker.clone();
        loop {
            let idle = self.updating.is_none() && self.applying.is_none();
            let applied = async {
                match &mut self.applying {
                    Some((_, done)) => done.await.unwrap_or_default(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => self.links.handle_report(report),
                    None => bail!("the worker has stopped: see the log above"),
                },
                Some(room) = worker.bite_room(), if !self.bites.is_empty() => {
                    if let Some(bite) = self.bites.pop_front() {
                        worker.bite(room, bite);
                    }
                }
                refused = applied => self.applied(&refused),
                // In parts, so that everything else goes on, and no faster than the worker takes them.
                () = tokio::task::yield_now(), if self.updating.is_some() && self.bites.len() < BITES => self.step(),
                Some(update) = self.session.updates.recv(), if idle => self.update(update),
                Some(key) = self.session.keys.recv() => self.set_key(&key),
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
        let mut new = match Config::load(path) {
            Ok(new) => new,
            Err(e) => return tracing::error!("reload refused, nothing changed: {e}"),
        };
        if let Err(e) = cli::check_own_key(&new, self.node.public_key()) {
            return tracing::error!("reload refused, nothing changed: {e:#}");
        }
        let old = self.node.config();
        new.set_given_name(&old.node.name);
        let reload = config::diff(&old, &new);
        if !reload.needs_restart.is_empty() {
            tracing::warn!(keys = reload.needs_restart.join(", "), "changed, but only a restart applies it");
        }
        let config = Arc::new(reload.config);
        self.node.set_config(config.clone());
        let effects = self.registry.set_config(config.clone());
        for network in &config.networks {
            self.endpoints.set_network(network);
        }
        self.carry_out(effects);
        self.node.set_networks(self.endpoints.rows());
        if reload.link_changed {
            self.worker.send(Command::SetRekeyDatagrams(config.link.rekey_datagrams));
            if let Err(e) = self.links.set_config(convert::link_config(&config)) {
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
    }

    async fn stop(self) {
        tracing::info!("stopping");
        self.links.shutdown().await;
        if let Some(traversals) = self.links.traversals() {
            traversals.close().await;
        }
        self.endpoints.shutdown().await;
        self.worker.send(Command::Stop);
        let thread = self.thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        tracing::info!("stopped");
    }
}

/// Libraries that speak of every packet, and, below this level, of the keys of credentials: whatever is asked for.
const QUIET: [&str; 5] =
    ["turn_client_proto=warn", "stun_proto=warn", "stun_types=warn", "turn_types=warn", "is=warn"];
/// Bites for the worker that may wait here.
const BITES: usize = 16;

fn seed() -> [u64; 4] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    std::array::from_fn(|i| u64::from_ne_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("8 of 32 bytes")))
}
