//! Nodes by an external command, from the call to the destruction.

use std::path::Path;
use std::sync::Arc;

use controller_registry::{NewNode, OperationState, Outcome, SwitchInput};
use node_session::key::PrivateKey;

use super::*;
use crate::config::Limits;
use crate::engine::Started;
use crate::provider::{ProviderCalls, ProviderConfig};
use crate::store::FileStore;

struct Lab {
    engine: Engine,
    calls: ProviderCalls,
    dir: tempfile::TempDir,
}

impl Lab {
    /// Each request is kept in a file named by its action; then the script decides.
    async fn start(script: &str) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let (engine, calls) = Lab::engine(dir.path(), script);
        let lab = Lab { engine, calls, dir };
        lab.engine.command(Command::InitCluster { name: "lab".to_owned(), epoch: 1 }).await.unwrap();
        lab
    }

    fn engine(dir: &Path, script: &str) -> (Engine, ProviderCalls) {
        let path = dir.join("store");
        let store = if path.exists() { FileStore::open(&path) } else { FileStore::create(&path) };
        let names = vec!["manual".to_owned(), "test".to_owned()];
        let Started { engine, effects } = Engine::start(Arc::new(store.unwrap()), names).unwrap();
        let keep = format!(
            "read r; case $r in *create*) a=create;; *) a=destroy;; esac; echo $r >{0}/new; mv {0}/new {0}/$a; {script}",
            dir.display()
        );
        let config = ProviderConfig {
            name: "test".to_owned(),
            command: ["sh", "-c", &keep].map(str::to_owned).to_vec(),
            timeout: Duration::from_secs(20),
        };
        let joining = Joining {
            controller: PrivateKey::generate().unwrap().public(),
            addresses: vec!["192.0.2.1:4842".to_owned()],
            cluster: "lab".to_owned(),
        };
        let nodes = Nodes::new(engine.clone(), Limits::default());
        let providers = Providers::new(&[config]);
        let calls = providers.calls().clone();
        tokio::spawn(carry_out(engine.clone(), nodes, providers, joining, effects));
        (engine, calls)
    }

    async fn add(&self) -> (NodeId, OperationId) {
        let new = NewNode { provider: "test".to_owned(), ttl_ms: 1000, ..NewNode::default() };
        match self.engine.command(Command::AddComputeNode(new)).await.unwrap() {
            Outcome::NodeAdded { node, operation, .. } => (node, operation),
            other => panic!("{other:?}"),
        }
    }

    async fn request(&self, action: &str) -> Request {
        let path = self.dir.path().join(action);
        until(action, async || path.exists()).await;
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    async fn ended(&self, operation: OperationId) -> (OperationState, String) {
        until("the operation ends", async || {
            self.engine.read(|registry| registry.operations()[&operation].is_finished()).await
        })
        .await;
        self.engine
            .read(|registry| {
                let operation = &registry.operations()[&operation];
                (operation.state, operation.error.clone().unwrap_or_default())
            })
            .await
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let start = std::time::Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_node_joins_by_its_token_and_is_destroyed_when_it_is_removed() {
    let lab = Lab::start(r#"echo '{"ok":true,"id":"vm-1"}'"#).await;
    let (node, operation) = lab.add().await;
    let request = lab.request("create").await;
    assert_eq!(
        (request.node.as_str(), request.operation.as_str()),
        (&*node.to_string(), &*operation.to_string())
    );
    let token: Token = request.join_token.unwrap().parse().unwrap();
    assert_eq!((token.addresses[0].as_str(), token.cluster.as_str()), ("192.0.2.1:4842", "lab"));
    let enrol = Input::Enrol {
        secret_hash: SecretHash(token.secret.hash()),
        public_key: controller_registry::PublicKey([7; 32]),
        name_hint: "host".to_owned(),
    };
    let outcome = lab.engine.execute(enrol).await.unwrap();
    assert!(matches!(outcome, Outcome::Enrolled { node: of, .. } if of == node));
    let registered = SwitchInput::Registered {
        session: 1,
        boot: 1,
        version: String::new(),
        machine: String::new(),
        addresses: vec![],
        old_alive: false,
    };
    lab.engine.execute(Input::Switch(node, registered)).await.unwrap();
    assert_eq!(lab.ended(operation).await.0, OperationState::Succeeded);

    let remove = Command::RemoveComputeNode { node: node.to_string(), force: false, now: false };
    let Outcome::Operation(operation) = lab.engine.command(remove).await.unwrap() else {
        panic!("no operation")
    };
    let request = lab.request("destroy").await;
    assert_eq!((request.id.as_deref(), request.join_token), (Some("vm-1"), None));
    assert_eq!(lab.ended(operation).await.0, OperationState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_fails_the_operation_with_its_words_and_cleans_up() {
    let lab =
        Lab::start(r#"[ $a = create ] && echo '{"ok":false,"error":"no quota"}' || echo '{"ok":true}'"#)
            .await;
    let (_, operation) = lab.add().await;
    let (state, error) = lab.ended(operation).await;
    assert!(state == OperationState::Failed && error.contains("no quota"), "{state:?} {error}");
    lab.request("destroy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_creation_is_ended_before_the_machine_is_destroyed() {
    let lab = Lab::start(r#"[ $a = create ] && sleep 1000; echo '{"ok":true}'"#).await;
    let (_, operation) = lab.add().await;
    lab.request("create").await;
    lab.engine.command(Command::CancelOperation { operation }).await.unwrap();
    lab.request("destroy").await;
    assert_eq!(lab.ended(operation).await.0, OperationState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_provider_is_reaches_the_operation_and_its_calls_are_counted() {
    let lab = Lab::start(r#"echo '{"progress":40,"detail":"copies the image"}'; exec sleep 30"#).await;
    let (_, operation) = lab.add().await;
    until("the progress is shown", async || {
        let shown = |registry: &controller_registry::Registry| {
            let operation = &registry.operations()[&operation];
            (operation.percent, operation.detail.clone())
        };
        lab.engine.read(shown).await == (20, "copies the image".to_owned())
    })
    .await;
    lab.engine.command(Command::CancelOperation { operation }).await.unwrap();
    until("the call is counted", async || {
        lab.calls.results.with_label_values(&["test", "create", "cancelled"]).get() == 1
    })
    .await;
    let taken = lab.calls.durations.with_label_values(&["test", "create"]).get_sample_count();
    assert_eq!(taken, 1);
}
