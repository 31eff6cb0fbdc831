//! Assembles the controller: store, engine, nodes' sessions, REST API, providers, admin socket.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tracing_subscriber::EnvFilter;

use crate::admin::{Admin, AdminSocket};
use crate::audit::AuditLog;
use crate::config::{self, Config};
use crate::engine::{self, Engine, Started};
use crate::metrics::Metrics;
use crate::mgmt;
use crate::nodes::Nodes;
use crate::provider::Providers;
use crate::provision::{self, Joining};
use crate::relay::{Announcer, Embedded, Relay, RelaySetup, Secret};
use crate::rest;
use crate::state_dir::{self, StateDir};
use crate::store::{FileStore, Store};

/// Runs until SIGTERM or SIGINT, or until the store fails.
pub fn run(config: Config) -> anyhow::Result<()> {
    let filter = match std::env::var("CONTROLLER_LOG") {
        Ok(text) => EnvFilter::try_new(format!("{QUIET},{text}"))
            .context("CONTROLLER_LOG: use error, warn, info, debug or trace")?,
        Err(_) => EnvFilter::new(format!("{QUIET},info")),
    };
    let stderr = std::io::stderr;
    let ansi = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(ansi).init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(serve(config));
    // What still waits for a slow client is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // From here on a signal ends it in order, also while it starts.
    let terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
    let state_dir = StateDir::new(&config.state_dir);
    let (setup, key) = (state_dir.setup()?, state_dir.load_key()?);
    let advertise = if config.advertise.is_empty() { &setup.advertise } else { &config.advertise };
    let addresses: Vec<String> = advertise
        .iter()
        .map(|address| config::dialled(address))
        .collect::<Result<_, _>>()
        .map_err(anyhow::Error::msg)?;
    let providers = Providers::new(&config.providers);
    let names = providers.names().map(str::to_owned).collect();
    let (path, settings) = (state_dir.store(), config.settings());
    let (store, started) =
        tokio::task::spawn_blocking(move || -> anyhow::Result<(Arc<dyn Store>, Started)> {
            let store: Arc<dyn Store> = Arc::new(FileStore::open(&path)?);
            let started = Engine::start_with(store.clone(), names, settings)?;
            Ok((store, started))
        })
        .await
        .context("opening the store")??;
    let Started { engine, effects } = started;
    if let Some(mgmt) = &config.mgmt {
        mgmt::ensure(&engine, mgmt).await;
    }
    let (ready, on_ready) = watch::channel(false);
    let (stop, on_stop) = watch::channel(false);

    let (certificate, certificate_key) = config
        .rest_certificate
        .clone()
        .unwrap_or_else(|| (state_dir.certificate(), state_dir.certificate_key()));
    let tls = rest::tls_config(&certificate, &certificate_key)?;
    let node_listener = bind(config.nodes_listen, "nodes").await?;
    let rest_listener = bind(config.rest_listen, "the REST API").await?;
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address, "metrics").await?),
        None => None,
    };
    let (relay, announcer) =
        start_relay(&config, &state_dir, advertise, (&tls, &certificate), &engine).await?;
    let announcer = Arc::new(announcer);
    let nodes = Nodes::with_relays(engine.clone(), config.limits, announcer.clone());
    let admin = AdminSocket::bind(&config.admin_socket, &config.admin_group)?;
    let joining =
        Joining { controller: key.public(), addresses: addresses.clone(), cluster: setup.cluster.clone() };

    let metrics = Metrics::new(nodes.clone()).with_provider_calls(providers.calls());
    let metrics = Arc::new(metrics.with_relay(relay.as_ref().map(|relay| relay.counters().clone())));
    let api = Arc::new(rest::Api {
        engine: engine.clone(),
        observed: nodes.observed().clone(),
        metrics: metrics.clone(),
        audit: AuditLog::open(&config.state_dir)?,
        identity: rest::Identity { public_key: key.public(), addresses },
        started: engine::now(),
        ready: on_ready,
        watchers: Arc::new(Semaphore::new(rest::MAX_WATCHERS)),
    });

    let mut tasks = tokio::task::JoinSet::new();
    let admin_state = Admin { engine: engine.clone(), store, state_dir: state_dir.clone() };
    let admin_task = tokio::spawn(Arc::new(admin_state).serve(admin));
    let effects_task =
        tokio::spawn(provision::carry_out(engine.clone(), nodes.clone(), providers, joining, effects));
    let clock = engine.clone();
    let clock_task = tokio::spawn(async move { clock.keep_time().await });
    let secrets_task = tokio::spawn(async move { announcer.watch_secrets().await });
    if let Some(relay) = relay {
        let stopped = stopped(on_stop.clone());
        tasks.spawn(async move { relay.run_until(stopped).await.context("serving the relay") });
    }
    let (serving, stopped) = (nodes.clone(), stopped(on_stop.clone()));
    tasks.spawn(async move { serving.serve(node_listener, &key, stopped).await.context("serving nodes") });

    let serving = rest::serve(
        rest_listener,
        tls,
        rest::router(&api),
        metrics.clone(),
        rest::ServeLimits::default(),
        on_stop.clone(),
    );
    tasks.spawn(async move { serving.await.context("serving the REST API") });
    if let Some(listener) = metrics_listener {
        let serving = rest::serve_metrics(listener, engine.clone(), metrics, on_stop);
        tasks.spawn(async move { serving.await.context("serving metrics") });
    }

    ready.send_replace(true);
    // Without a supervisor there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(cluster = setup.cluster, nodes = %config.nodes_listen, rest = %config.rest_listen, version = env!("CARGO_PKG_VERSION"), "started");

    let result = attend(&engine, &mut tasks, [terminate, interrupt]).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    ready.send_replace(false);
    stop.send_replace(true);
    while let Some(ended) = tasks.join_next().await {
        if let Ok(Err(error)) = ended {
            tracing::warn!("while stopping: {error:#}");
        }
    }
    for task in [admin_task, effects_task, clock_task, secrets_task] {
        task.abort();
        // It was aborted: there is no result.
        let _ = task.await;
    }
    tracing::info!("stopped");
    result
}

/// The embedded relay, if there is one, and what nodes are told of relays.
async fn start_relay(
    config: &Config,
    state_dir: &StateDir,
    advertise: &[String],
    (tls, certificate): (&rustls::ServerConfig, &Path),
    engine: &Engine,
) -> anyhow::Result<(Option<Relay>, Announcer)> {
    let own = &config.relay;
    if !own.enabled {
        return Ok((None, Announcer::new(own.credentials, None, &own.external)?));
    }
    // Whoever is told of no other address reaches the relay where the controller is.
    let hosts: Vec<String> = match own.address.as_slice() {
        [] => advertise.iter().map(|address| Ok(config::check_advertise(address)?.0)).collect(),
        named => Ok(named.to_vec()),
    }
    .map_err(|problem: String| anyhow::Error::msg(problem))?;
    let mut announced = Vec::new();
    for host in &hosts {
        announced.extend(addresses_of(&config::check_advertise(host).map_err(anyhow::Error::msg)?.0).await);
    }
    let secret = Secret::load_or_make(&state_dir.relay_secret())?;
    let mut tls = tls.clone();
    tls.alpn_protocols.clear();
    let members = engine.clone();
    let setup = RelaySetup {
        secret: secret.clone(),
        announced,
        tls: Some(Arc::new(tls)),
        is_node: Box::new(move |node| members.is_member(node)),
        allow_loopback: false,
    };
    let relay = Relay::start(own, setup)?;
    let port = relay.address().port();
    let addresses = hosts.iter().map(|host| config::with_port(host, port)).collect::<Result<_, _>>();
    let certificate_sha256 = config::fingerprint(&state_dir::fingerprint(certificate)?);
    let embedded = Embedded { secret, addresses: addresses.map_err(anyhow::Error::msg)?, certificate_sha256 };
    Ok((Some(relay), Announcer::new(own.credentials, Some(embedded), &own.external)?))
}

/// What a host or an address leads to. This host may know itself by its loopback.
async fn addresses_of(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    let found = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, 0))).await;
    let Ok(Ok(found)) = found else {
        tracing::warn!("{host} leads to no address now: name the relay's addresses in relay.address");
        return Vec::new();
    };
    found.map(|address| address.ip().to_canonical()).filter(|address| !address.is_loopback()).collect()
}

/// Until a signal, or a failure.
async fn attend(
    engine: &Engine,
    tasks: &mut tokio::task::JoinSet<anyhow::Result<()>>,
    [mut terminate, mut interrupt]: [Signal; 2],
) -> anyhow::Result<()> {
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = engine.failed() => Err(anyhow::Error::new(error).context("what was decided could not be stored")),
        Some(ended) = tasks.join_next() => match ended {
            Ok(Ok(())) => anyhow::bail!("a server ended by itself"),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error).context("a server failed"),
        },
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender is an end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn bind(address: std::net::SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listening for {what} on {address}: is another controller running, or is the address another host's?")
    })
}

const LOOK_UP: std::time::Duration = std::time::Duration::from_secs(3);
/// The parser of STUN warns of what strangers send; the relay counts that.
const QUIET: &str = "stun_types=error,stun_proto=error";
