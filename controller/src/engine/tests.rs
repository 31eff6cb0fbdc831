//! The engine on a real store.

use std::path::Path;

use controller_registry::{NewNetwork, NewNode, SecretHash};

use super::*;
use crate::store::{FileStore, Listing, Record as Stored, Revision as StoreRevision, Transaction, Watch};

fn start(path: &Path) -> Started {
    let store: Arc<dyn Store> = Arc::new(match path.exists() {
        true => FileStore::open(path).unwrap(),
        false => FileStore::create(path).unwrap(),
    });
    Engine::start(store, vec!["manual".to_owned(), "netns".to_owned()]).unwrap()
}

async fn init(engine: &Engine) {
    engine.command(Command::InitCluster { name: "lab".to_owned(), epoch: 7 }).await.unwrap();
}

fn network(name: &str) -> Command {
    Command::CreateNetwork(NewNetwork { name: name.to_owned(), ..NewNetwork::default() })
}

/// Drops the engine and waits until its store is free.
async fn stop(started: Started, path: &Path) {
    drop(started);
    let start = std::time::Instant::now();
    while matches!(FileStore::open(path), Err(StoreError::InUse(_))) {
        assert!(start.elapsed() < Duration::from_secs(10), "the writer does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_inputs_share_few_transactions_and_all_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let started = start(&path);
    init(&started.engine).await;
    let before = started.engine.counters().commits.load(Ordering::Relaxed);
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..1000 {
        let engine = started.engine.clone();
        calls.spawn(async move { engine.command(network(&format!("net-{i}"))).await });
    }
    while let Some(answer) = calls.join_next().await {
        answer.unwrap().unwrap();
    }
    let commits = started.engine.counters().commits.load(Ordering::Relaxed) - before;
    assert!(commits < 200, "1000 inputs took {commits} transactions");
    assert_eq!(started.engine.read(|registry| registry.networks().len()).await, 1000);
    stop(started, &path).await;
    let again = start(&path);
    assert_eq!(again.engine.read(|registry| registry.networks().len()).await, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_events_and_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let started = start(&dir.path().join("store"));
    let engine = &started.engine;
    let refusal = engine.command(network("early")).await.unwrap_err();
    assert!(refusal.message.contains("controller init"), "{refusal}");
    init(engine).await;
    let mut live = engine.subscribe(None);
    let mut published = engine.published();
    published.borrow_and_update();
    engine.command(network("a")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), published.changed()).await.unwrap().unwrap();
    let first = live.next().await.unwrap().unwrap();
    assert_eq!(first.event.kind.as_str(), "network-created");
    engine.command(network("b")).await.unwrap();
    let mut resumed = engine.subscribe(Some(first.sequence));
    assert!(!resumed.missed);
    assert_eq!(resumed.next().await.unwrap().unwrap().sequence, first.sequence + 1);
    assert!(engine.subscribe(Some(3)).missed);
    assert!(engine.subscribe(Some(u64::MAX)).missed);

    let node = NewNode { provider: "cloud".to_owned(), ttl_ms: 1000, ..NewNode::default() };
    let refusal = engine.command(Command::AddComputeNode(node)).await.unwrap_err();
    assert!(refusal.message.contains("manual, netns"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_work_is_asked_for_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut started = start(&path);
    init(&started.engine).await;
    let secret_hash = SecretHash([1; 32]);
    let new = NewNode { provider: "netns".to_owned(), ttl_ms: 60_000, secret_hash, ..NewNode::default() };
    let Outcome::NodeAdded { node, .. } = started.engine.command(Command::AddComputeNode(new)).await.unwrap()
    else {
        panic!("another outcome");
    };
    let first = started.effects.recv().await.unwrap();
    assert!(
        matches!(&first, Effect::CreateNode { node: of, provider, .. } if *of == node && provider == "netns")
    );
    stop(started, &path).await;
    let mut again = start(&path);
    let second = tokio::time::timeout(Duration::from_secs(5), again.effects.recv()).await.unwrap().unwrap();
    assert_eq!(first, second);
}

/// A store whose disk is full.
struct Full(FileStore);

impl Store for Full {
    fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.0.get(key)
    }

    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.0.list(prefix)
    }

    fn commit(&self, _: Transaction) -> Result<StoreRevision, StoreError> {
        Err(StoreError::Full(self.0.path().to_owned()))
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.0.watch(prefix)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_stops_the_engine_and_confirms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let started = start(&path);
    init(&started.engine).await;
    stop(started, &path).await;
    let store: Arc<dyn Store> = Arc::new(Full(FileStore::open(&path).unwrap()));
    let Started { engine, .. } = Engine::start(store, vec![]).unwrap();
    let refusal = engine.command(network("a")).await.unwrap_err();
    assert_eq!(refusal.code, "stopping");
    let error = tokio::time::timeout(Duration::from_secs(5), engine.failed()).await.unwrap();
    assert!(error.to_string().contains("disk is full"), "{error}");
    assert_eq!(engine.command(network("b")).await.unwrap_err().code, "stopping");
    let looked =
        tokio::time::timeout(Duration::from_millis(100), engine.read(|registry| registry.networks().len()))
            .await;
    assert!(looked.is_err(), "what was not stored was shown");
}
