//! `node-agent run`: puts engine, session and signals together.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing_subscriber::EnvFilter;

use crate::capacity::capacity;
use crate::config::Config;
use crate::engine::Engine;
use crate::session::Session;
use crate::status;
use crate::store::Store;
use crate::transfer::ThroughController;

/// Runs until SIGTERM or SIGINT. The instances run on.
pub fn run(config: &Config) -> anyhow::Result<()> {
    start_log()?;
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the agent makes namespaces, control groups and devices: run it as root"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(config))?;
    // A volume that is under way ends with the process; nothing else waits.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let store = Store::open(&config.state_dir)?;
    let _lock = lock(store.root())?;
    std::fs::create_dir_all(&config.image_dir)
        .with_context(|| format!("cannot make the image directory {}", config.image_dir.display()))?;
    // The program as it was started, also when a package has replaced its file since.
    let drivers = config.make_drivers(Path::new("/proc/self/exe")).context("cannot read the mounts")?;
    let (channel, channels) = watch::channel(None);
    let (statuses, seen) = watch::channel(Vec::new());
    let (wanted, wants) = mpsc::channel(4);
    let (ready, is_ready) = oneshot::channel();
    let names = drivers.keys().map(|kind| kind.as_str().to_owned()).collect();
    let engine = Engine::open(store.clone(), drivers, std::sync::Arc::new(ThroughController::new(channels)))?;
    let session = Session {
        node_state_dir: &config.node_state_dir,
        private_key: &config.private_key,
        capacity: capacity(config),
        drivers: names,
        wanted,
        statuses: seen.clone(),
        channel,
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let writer = status::keep(store.root().to_owned(), seen);
    let announce = async {
        if is_ready.await.is_ok() {
            tracing::info!("ready");
            sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = engine.run(wants, &statuses, ready) => {}
        () = session.run() => {}
        () = writer => {}
        () = announce => {}
        _ = terminate.recv() => tracing::info!("SIGTERM: the agent ends, the instances run on"),
        _ = interrupt.recv() => tracing::info!("SIGINT: the agent ends, the instances run on"),
    }
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    Ok(())
}

/// One agent to a state directory: two would undo each other's work.
fn lock(root: &Path) -> anyhow::Result<nix::fcntl::Flock<std::fs::File>> {
    let path = root.join("lock");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!(
            "another agent runs on {}: stop it, or give this one another state_dir",
            root.display()
        )
    })
}

fn start_log() -> anyhow::Result<()> {
    let filter = match std::env::var("AGENT_LOG") {
        Ok(text) => EnvFilter::try_new(text).context("AGENT_LOG: use error, warn, info, debug or trace")?,
        Err(_) => EnvFilter::new("info"),
    };
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    Ok(())
}
