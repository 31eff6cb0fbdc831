//! What a node says of its links, asked so often that changes can be timed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

/// A connection to a node's admin socket: what `switchctl` does, without a process for each question.
#[derive(Debug)]
pub struct Admin {
    stream: BufReader<UnixStream>,
}

impl Admin {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Admin> {
        let stream = UnixStream::connect(socket).context("connecting to the admin socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Admin { stream: BufReader::new(stream) })
    }

    /// The links.
    pub fn links(&mut self) -> Result<Value> {
        self.stream.get_mut().write_all(b"{\"command\":\"links\"}\n")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let mut answer: Value = serde_json::from_str(&line).context("the admin socket gave no JSON")?;
        Ok(answer["ok"].take())
    }
}

/// What a link looked like, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// When it was first seen so.
    pub since: Instant,
    /// The link is up.
    pub up: bool,
    /// The kind of its path by name, empty if there is none.
    pub path: String,
}

/// A thread that keeps asking one node for its links.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    stages: Mutex<BTreeMap<String, Vec<Stage>>>,
}

impl Watcher {
    /// Begins.
    pub fn start(socket: &Path) -> Result<Watcher> {
        let admin = Admin::connect(socket)?;
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        let thread = std::thread::spawn(move || watch(admin, &own));
        Ok(Watcher { shared, thread: Some(thread) })
    }

    /// All stages so far of the link with `peer`, in their order.
    pub fn stages(&self, peer: &str) -> Vec<Stage> {
        self.shared.stages().get(peer).cloned().unwrap_or_default()
    }

    /// The present one.
    pub fn stage(&self, peer: &str) -> Option<Stage> {
        self.shared.stages().get(peer)?.last().cloned()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn stages(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Stage>>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when told to, or with the daemon.
fn watch(mut admin: Admin, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(links) = admin.links() else { break };
        let since = Instant::now();
        for link in crate::ctl::rows(&links, "links") {
            let Some(peer) = link["peer"].as_str() else { continue };
            let (up, path) = (link["state"] == "up", link["path"].as_str().unwrap_or_default().to_owned());
            let mut all = shared.stages();
            let stages = all.entry(peer.to_owned()).or_default();
            if stages.last().is_none_or(|last| (last.up, &last.path) != (up, &path)) {
                stages.push(Stage { since, up, path });
            }
        }
        std::thread::sleep(EVERY);
    }
}

const EVERY: Duration = Duration::from_millis(4);
