//! The whole controller from outside: the REST API, a node that joins, the metrics; and all of it after a crash.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not see as tests")]

mod common;

use common::{Lab, until};
use controller_api::node::node_service_client::NodeServiceClient;
use controller_api::node::{self as proto, controller_to_switch, switch_message};
use node_session::key::PrivateKey;
use node_session::token::Token;
use tokio_stream::wrappers::ReceiverStream;

#[test]
fn a_node_joins_by_the_api_and_is_known_after_a_crash() {
    let lab = Lab::new("");
    let admin = lab.ok(&["init", "--name", "lab", "--advertise", &format!("127.0.0.1:{}", lab.nodes_port)]);
    let running = lab.run();
    assert_eq!(lab.call("GET", "/v1/networks", "", "").0, 401);
    assert_eq!(lab.call("GET", "/readyz", "", "").0, 200);
    let (status, network) = lab.call("POST", "/v1/networks", &admin, r#"{"name":"blue"}"#);
    assert_eq!(status, 201, "{network}");
    let (status, refused) = lab.call("POST", "/v1/compute-nodes", &admin, r#"{"provider":"cloud"}"#);
    assert!((400..500).contains(&status) && refused.to_string().contains("manual"), "{status} {refused}");
    let (status, added) =
        lab.call("POST", "/v1/compute-nodes", &admin, r#"{"provider":"manual","name":"edge"}"#);
    assert_eq!(status, 201, "{added}");
    let token: Token = added["join"]["token"].as_str().unwrap().parse().unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let key = PrivateKey::generate().unwrap();
    runtime.block_on(async {
        let channel = node_session::client::connect(&token.addresses, &key, token.controller).await.unwrap();
        let request = proto::EnrolRequest { secret: token.secret.bytes().to_vec(), ..Default::default() };
        let answer = NodeServiceClient::new(channel).enrol(request).await.unwrap().into_inner();
        assert_eq!((answer.node_name.as_str(), answer.cluster.as_str()), ("edge", "lab"));
    });
    let first = runtime.block_on(session(&token, &key, 0, 0));
    assert!(first.snapshot && first.networks[0].name == "blue");
    running.kill();

    let _running = lab.run();
    let (status, node) = lab.call("GET", "/v1/compute-nodes/edge", &admin, "");
    assert!(status == 200 && node["state"] != "invited", "{status} {node}");
    lab.call("POST", "/v1/networks", &admin, r#"{"name":"red"}"#);
    let again = runtime.block_on(session(&token, &key, first.epoch, first.revision));
    assert!(again.epoch == first.epoch && again.revision > first.revision, "{again:?}");
    assert!(again.networks.iter().any(|network| network.name == "red"));
    until("metrics are served", || {
        let (_, metrics) = lab.call("GET", "/metrics", &admin, "");
        metrics.as_str().is_some_and(|text| text.contains("# TYPE"))
    });
}

/// Registers a switch and takes its first state.
async fn session(token: &Token, key: &PrivateKey, epoch: u64, revision: u64) -> proto::StateUpdate {
    let channel = node_session::client::connect(&token.addresses, key, token.controller).await.unwrap();
    let (send, messages) = tokio::sync::mpsc::channel(4);
    let register = proto::RegisterSwitch { boot: 1, epoch, revision, ..Default::default() };
    let message = Some(switch_message::Message::Register(register));
    send.send(proto::SwitchMessage { message }).await.unwrap();
    let mut stream = NodeServiceClient::new(channel)
        .switch_session(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    loop {
        let message = tokio::time::timeout(common::SOON, stream.message()).await.unwrap().unwrap().unwrap();
        if let Some(controller_to_switch::Message::Update(update)) = message.message {
            return update;
        }
    }
}

#[test]
fn a_call_with_a_key_is_the_same_call_after_a_crash() {
    let lab = Lab::new("");
    let admin = lab.ok(&["init", "--name", "lab", "--advertise", &format!("127.0.0.1:{}", lab.nodes_port)]);
    let keyed = |key: &str, method: &str, path: &str, body: &str| {
        lab.call_with(method, path, &admin, &format!("Idempotency-Key: {key}\r\n"), body)
    };
    let body = r#"{"name":"blue"}"#;
    let running = lab.run();
    let made = keyed("make", "POST", "/v1/networks", body);
    assert_eq!(made.0, 201, "{made:?}");
    running.kill();

    let running = lab.run();
    assert_eq!(keyed("make", "POST", "/v1/networks", body), made);
    assert_eq!(keyed("make", "POST", "/v1/networks", r#"{"name":"red"}"#).0, 422);
    assert_eq!(keyed("drop", "DELETE", "/v1/networks/blue", "").0, 204);
    running.kill();

    let _running = lab.run();
    assert_eq!(keyed("drop", "DELETE", "/v1/networks/blue", "").0, 204);
    assert_eq!(keyed("again", "DELETE", "/v1/networks/blue", "").0, 404);
    let (_, networks) = lab.call("GET", "/v1/networks", &admin, "");
    assert_eq!(networks["items"], serde_json::json!([]));
}
