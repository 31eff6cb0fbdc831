//! Commands against a server: what is asked of the API, what is printed, how they end.

use clap::Parser;
use serde_json::json;

use super::*;
use crate::client::tests::server::{Reply, Seen, Server, json as answer, problem};
use crate::testing::{Printed, cluster, instance, link, node, operation};

struct Run {
    printed: String,
    ended: Result<(), Error>,
}

async fn run(server: &Server, line: &str) -> Run {
    let cli = Cli::try_parse_from(std::iter::once("skippy").chain(line.split_whitespace())).unwrap();
    let printed = Printed::default();
    let columns: Vec<_> = cli.globals.columns.iter().map(String::as_str).collect();
    let out = printed.output(cli.globals.json, cli.globals.wide, &columns);
    let client = Client::new(&server.settings(), cli.globals.timeout).unwrap();
    let mut session = Session { client, out, key: "key-1".to_owned() };
    let ended = dispatch(&mut session, cli.command).await;
    Run { printed: printed.text(), ended }
}

fn page(items: &[Value]) -> Reply {
    answer(200, &json!({ "items": items }).to_string())
}

/// A controller that has one of each, and whose operations end at the second look.
fn controller(_: usize, seen: &Seen) -> Reply {
    let (method, path) = seen.line.split_once(' ').unwrap();
    let path = path.split('?').next().unwrap();
    match (method, path) {
        ("GET", "/v1/compute-nodes") => page(&[node("node-1", "rack1-a")]),
        ("GET", "/v1/compute-nodes/node-1") => answer(200, &node("node-1", "rack1-a").to_string()),
        ("POST", "/v1/compute-nodes" | "/v1/compute-nodes/node-1/token") => {
            let join = json!({"token": "skj1.A", "command": "switchd join skj1.A", "expires_at": "2026-03-01T13:00:00Z"});
            answer(201, &json!({"compute_node": node("node-1", "rack1-a"), "join": join}).to_string())
        }
        ("GET", "/v1/links") => page(&[link("node-1", "node-2", 1, "2026-03-01T13:59:59Z")]),
        ("GET", "/v1/instances") => page(&[instance("inst-12", "web")]),
        ("GET", "/v1/instances/inst-12") => answer(200, &instance("inst-12", "web").to_string()),
        ("GET", "/v1/operations" | "/v1/types" | "/v1/networks" | "/v1/bindings" | "/v1/tokens") => page(&[]),
        ("GET", "/v1/operations/op-1") => answer(200, &operation("op-1", "succeeded", 100).to_string()),
        ("POST", "/v1/operations/op-1/cancel") => {
            answer(202, &operation("op-1", "cancelled", 100).to_string())
        }
        ("GET", "/v1/cluster") => answer(200, &cluster().to_string()),
        ("POST", "/v1/instances/inst-12/start") => Reply::Json(204, "text/plain", String::new()),
        ("POST", path) if path.starts_with("/v1/instances") => {
            answer(202, &operation("op-1", "running", 40).to_string())
        }
        ("DELETE", path) if path.starts_with("/v1/instances") || path.starts_with("/v1/compute-nodes") => {
            answer(202, &operation("op-1", "running", 40).to_string())
        }
        ("GET", "/v1/events") => Reply::Stream(vec![
            "id: e-1\ndata: {\"id\":\"e-1\",\"at\":\"2026-03-01T12:00:00Z\",\"kind\":\"node-changed\",\"subject\":\"node-1\",\"message\":\"rack1-a is online\"}\n\n",
            "id: e-2\ndata: {\"id\":\"e-2\",\"at\":\"2026-03-01T12:00:01Z\",\"kind\":\"instance-changed\",\"subject\":\"inst-12\",\"message\":\"web runs\"}\n\n",
        ]),
        ("DELETE", _) => Reply::Json(204, "text/plain", String::new()),
        _ => answer(200, "{}"),
    }
}

#[tokio::test]
async fn commands_ask_what_they_should() {
    for (line, first, body) in [
        ("node list --state online", "GET /v1/compute-nodes?state=online&limit=1000", ""),
        (
            "add-compute-node --provider manual --type t --name a --label rack=1 --token-ttl 2h",
            "POST /v1/compute-nodes",
            r#"{"labels":{"rack":"1"},"name":"a","provider":"manual","token_ttl_seconds":7200,"type":"t"}"#,
        ),
        ("remove-compute-node node-1 --now", "DELETE /v1/compute-nodes/node-1?now=true", ""),
        ("remove-compute-node node-1 --force", "DELETE /v1/compute-nodes/node-1?force=true", ""),
        ("node set node-1 --schedulable false", "PATCH /v1/compute-nodes/node-1", r#"{"schedulable":false}"#),
        ("node token node-1 --ttl 1m", "POST /v1/compute-nodes/node-1/token", r#"{"token_ttl_seconds":60}"#),
        (
            "add-type s --cores 0.5 --memory 256MiB --disk 2GiB --driver qemu --image i",
            "POST /v1/types",
            r#"{"cores":0.5,"disk_gib":2,"driver":"qemu","image":"i","memory_mib":256,"name":"s"}"#,
        ),
        ("type remove s", "DELETE /v1/types/s", ""),
        (
            "network set blue --anti-spoof strict --all-nodes --no-gateway",
            "PATCH /v1/networks/blue",
            r#"{"anti_spoof":"strict","compute_nodes":["*"],"gateways":[]}"#,
        ),
        ("network remove blue", "DELETE /v1/networks/blue", ""),
        (
            "allocate small --node a --name web --network blue --ip 10.0.0.9 -e A=b -- sh -c x",
            "POST /v1/instances",
            r#"{"command":["sh","-c","x"],"compute_node":"a","environment":{"A":"b"},"ips":["10.0.0.9"],"name":"web","networks":["blue"],"type":"small"}"#,
        ),
        ("migrate inst-12 node-2", "POST /v1/instances/inst-12/migrate", r#"{"compute_node":"node-2"}"#),
        ("instance stop inst-12", "POST /v1/instances/inst-12/stop", ""),
        ("instance delete inst-12", "DELETE /v1/instances/inst-12", ""),
        ("operation cancel op-1", "POST /v1/operations/op-1/cancel", ""),
        ("token revoke ci", "DELETE /v1/tokens/ci", ""),
        ("openapi", "GET /openapi.json", ""),
        ("node show node-1", "GET /v1/compute-nodes/node-1", ""),
        ("type list --json", "GET /v1/types?limit=1000", ""),
        ("type show s --json", "GET /v1/types/s", ""),
        ("network list --json", "GET /v1/networks?limit=1000", ""),
        ("network show blue --json", "GET /v1/networks/blue", ""),
        (
            "network add blue --vni 7 --subnet-v4 10.0.0.0/24 --gateway 10.0.0.1 --node a --json",
            "POST /v1/networks",
            r#"{"compute_nodes":["a"],"gateways":["10.0.0.1"],"name":"blue","subnet_v4":"10.0.0.0/24","vni":7}"#,
        ),
        (
            "instance list --node a --type s --network blue --state running",
            "GET /v1/instances?compute_node=a&type=s&network=blue&state=running&limit=1000",
            "",
        ),
        ("instance show inst-12", "GET /v1/instances/inst-12", ""),
        ("instance start inst-12", "POST /v1/instances/inst-12/start", ""),
        (
            "binding list --network blue --node a --source learned",
            "GET /v1/bindings?network=blue&compute_node=a&source=learned&limit=1000",
            "",
        ),
        (
            "binding set blue 02:00:00:00:00:07 --vlan 5 --vlan 6 --node a --ip 10.0.0.7 --prepared --expected-generation 0",
            "PUT /v1/bindings/blue/02:00:00:00:00:07?vlans=5%2C6",
            r#"{"compute_node":"a","expected_generation":0,"ips":["10.0.0.7"],"state":"prepared"}"#,
        ),
        ("binding show blue 02:00:00:00:00:07 --json", "GET /v1/bindings/blue/02:00:00:00:00:07", ""),
        (
            "binding remove blue 02:00:00:00:00:07 --expected-generation 4",
            "DELETE /v1/bindings/blue/02:00:00:00:00:07?expected_generation=4",
            "",
        ),
        ("link list --node a --state down", "GET /v1/links?compute_node=a&state=down&limit=1000", ""),
        (
            "operation list --state failed --kind migrate --instance web",
            "GET /v1/operations?state=failed&kind=migrate&instance=web&limit=1000",
            "",
        ),
        ("operation show op-1", "GET /v1/operations/op-1", ""),
        ("operation watch op-1 --json", "GET /v1/operations/op-1", ""),
        ("token list --json", "GET /v1/tokens?limit=1000", ""),
        (
            "token create ci --role operator --ttl 1d --json",
            "POST /v1/tokens",
            r#"{"name":"ci","role":"operator","ttl_seconds":86400}"#,
        ),
        ("whoami --json", "GET /v1/whoami", ""),
        ("cluster", "GET /v1/cluster", ""),
    ] {
        let server = Server::start(controller).await;
        let run = run(&server, line).await;
        assert!(run.ended.is_ok(), "{line}: {:?}", run.ended);
        let seen = &server.seen()[0];
        assert_eq!((seen.line.as_str(), seen.body.as_str()), (first, body), "{line}");
        let key = (!first.starts_with("GET")).then_some("key-1");
        assert_eq!(seen.header("idempotency-key"), key, "{line}");
    }
}

#[tokio::test]
async fn a_long_call_is_followed_and_tells_how_it_ended() {
    let server = Server::start(controller).await;
    let run = run(&server, "allocate small").await;
    run.ended.unwrap();
    assert_eq!(run.printed, "web (inst-12) is running on rack1-a with 10.0.0.2\n");
    assert_eq!(
        server.lines(),
        ["POST /v1/instances", "GET /v1/operations/op-1?wait=1", "GET /v1/instances/inst-12"]
    );
}

#[tokio::test]
async fn without_a_wait_the_operation_is_printed() {
    let server = Server::start(controller).await;
    let plain = run(&server, "migrate inst-12 node-2 --no-wait").await;
    assert_eq!(plain.printed, "op-1 migrate is running\n");
    let machine = run(&server, "migrate inst-12 node-2 --no-wait --json").await;
    assert_eq!(serde_json::from_str::<Value>(&machine.printed).unwrap(), operation("op-1", "running", 40));
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_failed_operation_has_its_own_exit_code_and_its_json() {
    let server = Server::start(|_, seen| match seen.line.starts_with("POST") {
        true => answer(202, &operation("op-1", "running", 40).to_string()),
        false => {
            let mut failed = operation("op-1", "failed", 40);
            failed["error"] = json!("node-2 has no room");
            answer(200, &failed.to_string())
        }
    })
    .await;
    let run = run(&server, "migrate inst-12 node-2 --json").await;
    let error = run.ended.unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (4, "operation op-1 failed: node-2 has no room")
    );
    assert_eq!(serde_json::from_str::<Value>(&run.printed).unwrap()["state"], "failed");
}

#[tokio::test]
async fn what_is_so_already_needs_no_operation() {
    let server = Server::start(controller).await;
    let run = run(&server, "instance start inst-12").await;
    run.ended.unwrap();
    assert_eq!(run.printed, "nothing to do: it is so already\n");
}

#[tokio::test]
async fn the_join_command_stands_alone_on_the_output() {
    let server = Server::start(controller).await;
    let plain = run(&server, "node add --provider manual --wait").await;
    plain.ended.unwrap();
    assert_eq!(plain.printed, "switchd join skj1.A\n");
    assert_eq!(server.lines(), ["POST /v1/compute-nodes", "GET /v1/compute-nodes/node-1"]);
}

#[tokio::test]
async fn events_are_filtered_and_counted() {
    let server = Server::start(controller).await;
    let plain = run(&server, "event watch --kind instance -n 1 --after e-0").await;
    plain.ended.unwrap();
    assert_eq!(plain.printed, "2026-03-01T12:00:01.000Z instance-changed inst-12: web runs\n");
    assert_eq!(server.seen()[0].header("last-event-id"), Some("e-0"));
    let machine = run(&server, "event watch -n 2 --json").await;
    assert_eq!(machine.printed.lines().count(), 2);
}

#[tokio::test]
async fn kept_events_are_a_list_that_ends_when_nothing_more_comes() {
    let server = Server::start(|n, seen| if n == 0 { controller(n, seen) } else { Reply::Hang }).await;
    let run = run(&server, "event list --subject inst-12 --last 1 --columns kind,message").await;
    run.ended.unwrap();
    assert_eq!(run.printed, "KIND              MESSAGE\ninstance-changed  web runs\n");
    let seen = &server.seen()[0];
    assert_eq!(
        (seen.line.as_str(), seen.header("last-event-id")),
        ("GET /v1/events?subject=inst-12", Some("0"))
    );
}

#[tokio::test]
async fn health_and_metrics_are_text() {
    let server = Server::start(|_, seen| match seen.line.as_str() {
        "GET /metrics" => Reply::Json(200, "text/plain", "up 1\n".to_owned()),
        "GET /healthz" | "GET /readyz" => Reply::Json(200, "text/plain", "ok\n".to_owned()),
        _ => problem(404, ""),
    })
    .await;
    assert_eq!(run(&server, "health").await.printed, "alive and ready\n");
    assert_eq!(run(&server, "metrics").await.printed, "up 1\n");
}

#[tokio::test]
async fn status_is_one_document_for_machines() {
    let server = Server::start(controller).await;
    let run = run(&server, "status --json").await;
    let status: Value = serde_json::from_str(&run.printed).unwrap();
    assert_eq!(status["cluster"]["name"], "lab");
    assert_eq!(status["links"][0]["state"], "up");
}

#[tokio::test]
async fn top_is_for_scripts_too() {
    let server = Server::start(controller).await;
    let plain = run(&server, "top --once --interval 100ms").await;
    plain.ended.unwrap();
    assert!(plain.printed.starts_with("nodes 1/1 online, instances 1, links 1/1 up"), "{}", plain.printed);
    let machine = run(&server, "top --once --json --interval 100ms").await;
    let value: Value = serde_json::from_str(&machine.printed).unwrap();
    assert_eq!(value["links"][0]["path"], "host");
}

#[tokio::test]
async fn a_refusal_ends_with_three_and_prints_nothing() {
    let server = Server::start(|_, _| {
        problem(
            409,
            r#"{"title":"Conflict","detail":"inst-12 has no other place","mend":"add a node, or use force"}"#,
        )
    })
    .await;
    let run = run(&server, "remove-compute-node node-1").await;
    let error = run.ended.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("add a node, or use force"), "{error}");
    assert_eq!(run.printed, "");
}
