pub(crate) mod server;

use serde_json::json;

use self::server::{Reply, Server, json, problem};
use super::*;
use crate::config::{Fingerprint, Trust};

const LIMIT: Duration = Duration::from_secs(20);

fn client(server: &Server) -> Client {
    Client::new(&server.settings(), LIMIT).unwrap()
}

#[tokio::test]
async fn a_call_carries_its_token_and_comes_back() {
    let server = Server::start(|_, _| json(200, r#"{"ok":true}"#)).await;
    let call = Call::get(&["compute-nodes", "a/b ?"]).query("limit", 2).query_opt("x", None::<u8>);
    assert_eq!(client(&server).call(&call).await.unwrap(), json!({"ok": true}));
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "GET /v1/compute-nodes/a%2Fb%20%3F?limit=2");
    assert_eq!(seen.header("authorization"), Some("Bearer t0ken"));
    assert!(seen.header("user-agent").unwrap().starts_with("skippy/"));
}

#[tokio::test]
async fn names_that_would_change_the_path_are_refused_here() {
    let server = Server::start(|_, _| json(200, "{}")).await;
    for name in ["", ".", ".."] {
        let error = client(&server).call(&Call::delete(&["instances", name])).await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_wrong_fingerprint_shows_both_and_sends_nothing() {
    let server = Server::start(|_, _| json(200, "{}")).await;
    let pinned = Fingerprint([7; 32]);
    let settings = Settings { trust: Trust::Pinned(pinned), ..server.settings() };
    let error = Client::new(&settings, LIMIT).unwrap().call(&Call::get(&["cluster"])).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&pinned.to_string()), "{text}");
    assert!(text.contains(&server.fingerprint.to_string()), "{text}");
    assert_eq!(error.exit_code(), 5);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_ca_file_is_enough_for_its_own_and_the_system_trusts_nothing_unknown() {
    let server = Server::start(|_, _| json(200, "{}")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, &server.ca_pem).unwrap();
    let settings = Settings { trust: Trust::Ca(path.clone()), ..server.settings() };
    Client::new(&settings, LIMIT).unwrap().call(&Call::get(&["cluster"])).await.unwrap();

    let settings = Settings { trust: Trust::System, ..server.settings() };
    let error = Client::new(&settings, LIMIT).unwrap().call(&Call::get(&["cluster"])).await.unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("--fingerprint"), "{error}");

    std::fs::write(&path, "nothing").unwrap();
    let settings = Settings { trust: Trust::Ca(path), ..server.settings() };
    assert!(Client::new(&settings, LIMIT).unwrap_err().to_string().contains("no certificate in PEM"));
}

#[tokio::test]
async fn silence_ends_at_the_time_limit() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let client = Client::new(&server.settings(), Duration::from_millis(300)).unwrap();
    let error = client.call(&Call::get(&["cluster"])).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert_eq!(server.seen().len(), 1, "a call that took all its time is not repeated");
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let settings = Settings { url, token: None, trust: Trust::System, context: None };
    let error = Client::new(&settings, LIMIT).unwrap().call(&Call::get(&["cluster"])).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { connected: false, .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(error.exit_code(), 5);
}

#[tokio::test]
async fn problems_are_told_with_field_role_and_mend() {
    for (status, body, exit, parts) in [
        (
            422,
            r#"{"title":"Invalid","detail":"cores must be at least 0.01","field":"cores","mend":"give more"}"#,
            3,
            vec!["cores must be at least 0.01", "field: cores", "mend: give more"],
        ),
        (409, r#"{"title":"Conflict","detail":"node-1 has instances"}"#, 3, vec!["node-1 has instances"]),
        (401, "", 3, vec!["does not accept the token", "--token-file"]),
        (
            403,
            r#"{"title":"Forbidden","detail":"operator is needed","role":"operator"}"#,
            3,
            vec!["may not do this", "operator is needed", "role needed: operator", "whoami"],
        ),
        (404, "<html>", 3, vec!["is it a controller"]),
        (500, r#"{"title":"Internal","detail":"the store is full"}"#, 1, vec!["failed", "the store is full"]),
    ] {
        let server = Server::start(move |_, _| problem(status, body)).await;
        let error = client(&server).call(&Call::get(&["types"])).await.unwrap_err();
        assert_eq!(error.exit_code(), exit, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    }
}

#[tokio::test]
async fn what_is_no_json_is_a_bad_answer() {
    let server = Server::start(|_, _| json(200, "{oops")).await;
    let error = client(&server).call(&Call::get(&["types"])).await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test]
async fn a_call_with_a_key_is_repeated_with_the_same_key() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Close,
        1 => problem(503, r#"{"title":"Starting"}"#),
        _ => json(201, r#"{"id":"type-1"}"#),
    })
    .await;
    let call = Call::post(&["types"]).idempotency_key("k1").body(&json!({"name": "small"})).unwrap();
    assert_eq!(client(&server).call(&call).await.unwrap(), json!({"id": "type-1"}));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for request in seen {
        assert_eq!(request.line, "POST /v1/types");
        assert_eq!(request.header("idempotency-key"), Some("k1"));
        assert_eq!(request.body, r#"{"name":"small"}"#);
    }
}

#[tokio::test]
async fn a_call_without_a_key_is_not_repeated() {
    let server = Server::start(|_, _| Reply::Close).await;
    let error = client(&server).call(&Call::post(&["types"])).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { connected: true, .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn an_event_stream_goes_on_where_it_broke() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Stream(vec!["retry: 1\nid: 1\ndata: a", "b\n\nid: 2\ndata: half"]),
        _ => Reply::Stream(vec![": hello\n\nid: 2\nevent: node\ndata: c\n\n"]),
    })
    .await;
    let mut stream = client(&server).events(Call::get(&["events"]), Some("0".into()));
    let event = stream.next().await.unwrap();
    assert_eq!((event.data.as_str(), event.id.as_str()), ("ab", "1"));
    let event = stream.next().await.unwrap();
    assert_eq!((event.kind.as_str(), event.data.as_str()), ("node", "c"));
    let seen = server.seen();
    assert_eq!(seen[0].header("last-event-id"), Some("0"));
    assert_eq!(seen[1].header("last-event-id"), Some("1"));
    assert_eq!(seen[0].header("accept"), Some("text/event-stream"));
}

#[tokio::test]
async fn an_event_stream_that_is_refused_says_so() {
    let server = Server::start(|_, _| problem(401, "")).await;
    let error = client(&server).events(Call::get(&["events"]), None).next().await.unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn lists_are_fetched_page_by_page() {
    let server = Server::start(|_, seen| match seen.line.split_once("cursor=").map(|(_, cursor)| cursor) {
        None => json(200, r#"{"items":[1,2],"next_cursor":"a"}"#),
        Some("a") => json(200, r#"{"items":[3],"next_cursor":"b"}"#),
        Some(_) => json(200, r#"{"items":[]}"#),
    })
    .await;
    let items = client(&server).list(&Call::get(&["types"]).query("x", "y")).await.unwrap();
    assert_eq!(items, [1, 2, 3]);
    assert_eq!(
        server.lines(),
        [
            "GET /v1/types?x=y&limit=1000",
            "GET /v1/types?x=y&limit=1000&cursor=a",
            "GET /v1/types?x=y&limit=1000&cursor=b"
        ]
    );
}

#[tokio::test]
async fn pages_that_never_end_do() {
    let server = Server::start(|_, _| json(200, r#"{"items":[1],"next_cursor":"a"}"#)).await;
    let error = client(&server).list(&Call::get(&["types"])).await.unwrap_err();
    assert!(error.to_string().contains("never end"), "{error}");
    let server = Server::start(|_, _| json(200, "[]")).await;
    assert!(client(&server).list(&Call::get(&["types"])).await.is_err());
}

#[tokio::test]
async fn an_operation_is_followed_to_its_end_while_the_controller_restarts() {
    use crate::testing::operation;
    let server = Server::start(|n, _| match n {
        0 => json(200, &operation("op-1", "pending", 0).to_string()),
        1 => json(200, &operation("op-1", "running", 10).to_string()),
        2 => Reply::Close,
        3 => problem(503, r#"{"title":"Not ready"}"#),
        4 => json(200, &operation("op-1", "running", 10).to_string()),
        _ => json(200, &operation("op-1", "succeeded", 100).to_string()),
    })
    .await;
    let mut seen = Vec::new();
    let ended = client(&server).wait_operation("op-1", |op| seen.push(op.percent)).await.unwrap();
    assert!(ended.state.is_final());
    assert_eq!(seen, [0, 10, 100], "each change once");
    let lines = server.lines();
    assert_eq!(lines[0], "GET /v1/operations/op-1");
    assert!(lines[1..].iter().all(|line| line.starts_with("GET /v1/operations/op-1?wait=")), "{lines:?}");
}
