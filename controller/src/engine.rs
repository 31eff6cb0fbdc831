//! Owns the registry. One thread takes inputs, lets the registry decide, persists what changed in one transaction,
//! and only then answers, publishes events and has effects done. All inputs that wait share one transaction, so a
//! thousand claims cost one fsync.

mod events;
mod keys;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use controller_registry::{
    Command, Effect, Input, NodeId, Outcome, PublicKey, Record, Refusal, RefusalKind, Registry, Request,
    Revision, Settings, Timestamp,
};
use tokio::sync::{RwLock, mpsc, oneshot, watch};

use crate::metrics;
use crate::store::{Store, StoreError};
pub use events::{EventLog, LoggedEvent, Missed, Subscription};
use keys::Keys;
use writer::{Job, Writer};

/// The registry, behind its one writer. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

/// What the writer and everyone else see.
struct Shared {
    registry: RwLock<Registry>,
    events: EventLog,
    keys: Keys,
    /// Counts publications of what nodes see.
    published: watch::Sender<u64>,
    /// The revision of each of the last publications, and when it was on the disk.
    publications: Mutex<VecDeque<(Revision, Instant)>>,
    store: Arc<dyn Store>,
    /// One for each node whose agent has asked.
    agents: Mutex<HashMap<NodeId, watch::Sender<u64>>>,
    /// Why the writer stopped.
    failure: watch::Sender<Option<Arc<StoreError>>>,
    providers: Vec<String>,
    counters: Counters,
}

/// What the engine counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Inputs that the registry took.
    pub inputs: AtomicU64,
    /// Inputs that it refused.
    pub refusals: AtomicU64,
    /// Transactions of the store.
    pub commits: AtomicU64,
    /// Records written or removed in them.
    pub writes: AtomicU64,
    /// How long each took.
    pub commit_duration: CommitDuration,
}

/// How long transactions of the store take.
#[derive(Clone, Debug)]
pub struct CommitDuration(pub prometheus::Histogram);

impl Default for CommitDuration {
    fn default() -> CommitDuration {
        CommitDuration(metrics::histogram(
            "controller_store_commit_duration_seconds",
            "How long a transaction of the store took, to the disk.",
        ))
    }
}

/// A started engine, and the effects that its owner has done.
pub struct Started {
    /// The engine.
    pub engine: Engine,
    /// In the order in which they are to be done; those of unfinished work first.
    pub effects: mpsc::UnboundedReceiver<Effect>,
}

impl Engine {
    /// Reads the registry from the store and starts the writer. `providers` are the names that
    /// `add_compute_node` may name. Blocks on the store.
    pub fn start(store: Arc<dyn Store>, providers: Vec<String>) -> Result<Started, StartError> {
        Engine::start_with(store, providers, Settings::default())
    }

    /// As [`Engine::start`], with an operator's settings.
    pub fn start_with(
        store: Arc<dyn Store>,
        providers: Vec<String>,
        settings: Settings,
    ) -> Result<Started, StartError> {
        let registry = load(&*store)?.with_settings(settings);
        let unfinished = registry.resume();
        let (jobs, inbox) = mpsc::channel(JOBS);
        let (effects, on_effects) = mpsc::unbounded_channel();
        for effect in unfinished {
            // The receiver is right here.
            let _ = effects.send(effect);
        }
        let shared = Arc::new(Shared {
            keys: Keys::of(registry.nodes().values()),
            registry: RwLock::new(registry),
            events: EventLog::new(now().0),
            published: watch::channel(0).0,
            publications: Mutex::default(),
            store: store.clone(),
            agents: Mutex::default(),
            failure: watch::channel(None).0,
            providers,
            counters: Counters::default(),
        });
        let writer = Writer { shared: shared.clone(), store, inbox, effects };
        let thread = std::thread::Builder::new().name("registry".to_owned()).spawn(move || writer.run());
        thread.map_err(StartError::Thread)?;
        Ok(Started { engine: Engine { shared, jobs }, effects: on_effects })
    }

    /// Has the registry decide on an input. What it decided is on the disk when this returns. Once it has been
    /// called, the input is carried out even if the future is dropped.
    pub async fn execute(&self, input: Input) -> Result<Outcome, Refusal> {
        self.check(&input)?;
        let (answer, on_answer) = oneshot::channel();
        if self.jobs.send(Job { input, answer }).await.is_err() {
            return Err(stopping());
        }
        on_answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// As [`Engine::execute`], for a command of the controller itself.
    pub async fn command(&self, command: Command) -> Result<Outcome, Refusal> {
        self.execute(Input::Command(Request::from(command))).await
    }

    /// Lets `look` see the registry as it is on the disk. The writer waits meanwhile: copy what is needed and render
    /// it afterwards.
    pub async fn read<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        look(&*self.shared.registry.read().await)
    }

    /// Events from now on, after those since `after` as far as the log still has them.
    pub fn subscribe(&self, after: Option<u64>) -> Subscription {
        self.shared.events.subscribe(after)
    }

    /// The log of events.
    pub fn events(&self) -> &EventLog {
        &self.shared.events
    }

    /// Changes whenever what nodes see has changed.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.shared.published.subscribe()
    }

    /// When the first change after a revision was on the disk; none if there is none, or if it is long ago.
    pub fn committed_after(&self, revision: Revision) -> Option<Instant> {
        let publications = self.shared.publications.lock().unwrap_or_else(PoisonError::into_inner);
        if publications.front().is_some_and(|(oldest, _)| revision < *oldest)
            && publications.len() == PUBLICATIONS
        {
            return None;
        }
        let first = publications.partition_point(|(published, _)| *published <= revision);
        publications.get(first).map(|(_, at)| *at)
    }

    /// Bytes that the store takes on the disk, if it is here.
    pub fn store_bytes(&self) -> Option<u64> {
        self.shared.store.bytes()
    }

    /// Changes whenever what the node's agent shall run may have changed.
    pub fn agent_changed(&self, node: NodeId) -> watch::Receiver<u64> {
        let mut agents = self.shared.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.entry(node).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Whether a key is a node's at the moment. Never waits, so the TLS acceptor may ask.
    pub fn is_member_key(&self, key: &PublicKey) -> bool {
        self.shared.keys.contains(key)
    }

    /// Whether a node has a key and is not removed. Never waits.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.shared.keys.contains_node(node)
    }

    /// Completes with the reason when the store has failed. The controller has to stop then: what is in memory is
    /// ahead of the disk, so nobody is shown it any more.
    pub async fn failed(&self) -> Arc<StoreError> {
        let mut failure = self.shared.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.map(|error| error.clone());
        match failed {
            Ok(Some(error)) => error,
            _ => std::future::pending().await,
        }
    }

    /// What it counts.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The names of the providers that there are.
    pub fn providers(&self) -> &[String] {
        &self.shared.providers
    }

    /// Tells the registry when time has passed, as it asks to be told. Runs for ever.
    pub async fn keep_time(&self) {
        let mut published = self.published();
        loop {
            let due = self.read(Registry::poll_timeout).await;
            let wait = due.map_or(LONGEST_SLEEP, |due| Duration::from_millis(due.since(now())));
            // A change may bring a nearer time; not every change is published, so never sleep long. Nor spin, whatever
            // the registry says.
            let sleep = tokio::time::sleep(wait.clamp(SHORTEST_SLEEP, LONGEST_SLEEP));
            tokio::select! {
                () = sleep => {}
                _ = published.changed() => {}
            }
            if due.is_some_and(|due| due <= now()) {
                let _ = self.execute(Input::Tick).await;
            }
        }
    }

    fn check(&self, input: &Input) -> Result<(), Refusal> {
        let Input::Command(Request { command: Command::AddComputeNode(node), .. }) = input else {
            return Ok(());
        };
        if self.shared.providers.contains(&node.provider) {
            return Ok(());
        }
        Err(Refusal {
            kind: RefusalKind::Invalid { field: "provider" },
            code: "invalid",
            message: format!(
                "provider: there is no {:?}; choose one of {}, or add it to controller.toml",
                node.provider,
                self.shared.providers.join(", ")
            ),
        })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

/// Reads the registry that a store holds.
pub fn load(store: &dyn Store) -> Result<Registry, StartError> {
    let mut records = Vec::new();
    for (key, record) in store.list("")?.records {
        let record: Record = serde_json::from_slice(&record.value)
            .map_err(|error| StartError::Record { key: key.clone(), detail: error.to_string() })?;
        records.push(record);
    }
    Registry::restore(records.into_iter()).map_err(|error| StartError::Registry(error.to_string()))
}

/// Carries out inputs on the store of a stopped controller; the outcome is the last one's. All or none.
pub fn apply(store: &dyn Store, inputs: impl IntoIterator<Item = Input>) -> Result<Outcome, ApplyError> {
    let mut registry = load(store)?;
    let mut outcome = Outcome::Done;
    for input in inputs {
        outcome = registry.handle(input, now())?;
    }
    let changes = registry.take_changes();
    store.commit(writer::transaction(&changes.writes)).map_err(StartError::from)?;
    Ok(outcome)
}

/// Why inputs were not carried out on a store.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store is no registry's.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The registry refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not one.
    #[error("the record {key} of the store is malformed ({detail}): restore the last backup")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The records contradict each other.
    #[error("the store's records do not fit together ({0}): restore the last backup")]
    Registry(String),
    /// No thread.
    #[error("could not start the registry's thread")]
    Thread(#[source] std::io::Error),
}

/// The time.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn stopping() -> Refusal {
    Refusal {
        kind: RefusalKind::NotReady,
        code: "stopping",
        message: "the controller is stopping: try again in a moment".to_owned(),
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Inputs that may wait; further callers wait to hand theirs in.
const JOBS: usize = 4096;
/// Publications whose time is remembered: more than a session that reads can be behind.
const PUBLICATIONS: usize = 4096;
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
