//! Events, limits, slow clients, the audit log and metrics.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::rest::{MAX_BODY, ServeLimits, serve, serve_metrics, tls_config};

/// Reads a stream until it has this text.
async fn read_until(body: Body, text: &str) -> String {
    let mut chunks = body.into_data_stream();
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = tokio::time::timeout(Duration::from_secs(10), chunks.next()).await;
        read +=
            std::str::from_utf8(&chunk.unwrap_or_else(|_| panic!("no {text} in {read}")).unwrap().unwrap())
                .unwrap();
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_goes_on_where_it_ended() {
    let lab = Lab::new().await;
    let watch = |last: Option<&str>, query: &str| {
        let mut request = request(Method::GET, &format!("/v1/events{query}"), &lab.reader, Value::Null);
        if let Some(last) = last {
            request.headers_mut().insert("last-event-id", last.parse().unwrap());
        }
        lab.router.clone().oneshot(request)
    };
    let live = watch(None, "?kind=type-added").await.unwrap();
    assert_eq!(live.headers()[header::CONTENT_TYPE], "text/event-stream");
    for name in ["one", "two"] {
        lab.ok(Method::POST, "/v1/types", json!({"name": name, "cores": 1, "memory_mib": 64})).await;
    }
    let read = read_until(live.into_body(), "type two").await;
    assert!(read.contains("type one") && !read.contains("cluster-created"), "{read}");
    let line = read.lines().find(|line| line.starts_with("id:")).unwrap();
    let first = line.trim_start_matches("id:").trim();
    let resumed = read_until(watch(Some(first), "").await.unwrap().into_body(), "type two").await;
    assert!(!resumed.contains("type one") && !resumed.contains("missed"), "{resumed}");
    let all = read_until(watch(None, "?after=0").await.unwrap().into_body(), "type two").await;
    assert!(all.contains("cluster-created"), "{all}");
    let lost = read_until(watch(Some("5"), "").await.unwrap().into_body(), "type two").await;
    assert!(lost.contains("event: missed"), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_refused() {
    let lab = Lab::new().await;
    let body = json!({"name": "x".repeat(MAX_BODY)});
    let answered = lab.post("/v1/types", body.clone()).await;
    assert_eq!(answered.status, StatusCode::PAYLOAD_TOO_LARGE);
    let chunks = body.to_string().into_bytes();
    let chunks =
        chunks.chunks(10_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
    let mut request = request(Method::POST, "/v1/types", &lab.admin, json!({}));
    *request.body_mut() = Body::from_stream(futures_util::stream::iter(chunks));
    assert_eq!(lab.send(request).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_audited_without_their_bodies() {
    let lab = Lab::new().await;
    let made = lab.ok(Method::POST, "/v1/tokens", json!({"name": "ci", "role": "reader"})).await;
    lab.send(request(Method::POST, "/v1/types", &lab.reader, json!({}))).await;
    lab.send(request(Method::DELETE, "/v1/types/x", "skt_forged", Value::Null)).await;
    lab.get("/v1/types").await;
    let text = std::fs::read_to_string(lab.directory.path().join("audit.log")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> =
        lines.iter().map(|l| (l["operation"].as_str().unwrap(), l["status"].as_u64().unwrap())).collect();
    assert_eq!(seen, [("create_token", 201), ("add_type", 403), ("delete_type", 401)]);
    assert_eq!((&lines[0]["principal"], &lines[0]["subject"]), (&json!("rules"), &made["token"]["id"]));
    assert_eq!((&lines[1]["principal"], lines[2].get("principal")), (&json!("looks"), None));
    assert!(!text.contains(made["secret"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_was_answered() {
    let (lab, ..) = Lab::furnished().await;
    lab.send(request(Method::GET, "/v1/types", "skt_forged", Value::Null)).await;
    let text = lab.metrics.render(&lab.engine).await;
    for line in [
        "controller_api_requests_total{operation=\"add_type\",status=\"201\"} 1",
        "controller_api_refused_total{problem=\"unauthenticated\"} 1",
        "controller_compute_nodes{state=\"online\"} 2",
        "controller_agents_online 2",
        "controller_audit_lines_total 4",
        "# TYPE controller_store_bytes gauge",
        "# TYPE controller_store_commit_duration_seconds histogram",
        "# TYPE controller_push_latency_seconds histogram",
        "# TYPE controller_api_request_duration_seconds histogram",
    ] {
        assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
    }
}

/// A server of a lab on loopback.
async fn served(lab: &Lab, limits: ServeLimits) -> (std::net::SocketAddr, watch::Sender<bool>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (chain, private) = (lab.directory.path().join("c.pem"), lab.directory.path().join("k.pem"));
    std::fs::write(&chain, certificate.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, on_stop) = watch::channel(false);
    let tls = tls_config(&chain, &private).unwrap();
    tokio::spawn(serve(listener, tls, lab.router.clone(), lab.metrics.clone(), limits, on_stop));
    (address, stop)
}

async fn tls(
    address: std::net::SocketAddr,
    chain: &std::path::Path,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    tls_with(address, chain, &[]).await
}

async fn tls_with(
    address: std::net::SocketAddr,
    chain: &std::path::Path,
    protocols: &[&[u8]],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(chain).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_and_others_served() {
    let lab = Lab::new().await;
    let limits =
        ServeLimits { header_time: Duration::from_millis(500), per_address: 3, ..ServeLimits::default() };
    let (address, _stop) = served(&lab, limits).await;
    let chain = lab.directory.path().join("c.pem");

    // No TLS, a byte at a time.
    let mut raw = TcpStream::connect(address).await.unwrap();
    // TLS, and then a header a byte at a time.
    let mut slow = tls(address, &chain).await;
    let begin = Instant::now();
    let drip = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let (mut raw_open, mut slow_open) = (true, true);
        while raw_open || slow_open {
            ticks.tick().await;
            // A first byte of a handshake record, then ones that never complete it.
            raw_open = raw_open && raw.write_all(&[22]).await.is_ok();
            slow_open = slow_open && slow.write_all(b"G").await.is_ok() && slow.flush().await.is_ok();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), drip).await.expect("both are cut");
    assert!(begin.elapsed() >= Duration::from_millis(400));

    let mut good = tls(address, &chain).await;
    let request =
        format!("GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n", lab.reader);
    good.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = good.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 200"));

    // One address has so many connections and no more.
    let (mut second, mut third) =
        (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    second.write_all(&[22]).await.unwrap();
    third.write_all(&[22]).await.unwrap();
    let mut fourth = TcpStream::connect(address).await.unwrap();
    let end =
        tokio::time::timeout(Duration::from_millis(400), fourth.read(&mut answer)).await.expect("at once");
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_without_a_token_on_their_own_listener() {
    let lab = Lab::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, on_stop) = watch::channel(false);
    tokio::spawn(serve_metrics(listener, lab.engine.clone(), lab.metrics.clone(), on_stop));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("200 OK") && text.contains("controller_build_info"), "{text}");
}

/// A client of HTTP/2, whose connection ends with the task.
async fn h2_client(
    address: std::net::SocketAddr,
    chain: &std::path::Path,
) -> (h2::client::SendRequest<axum::body::Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = tls_with(address, chain, &[b"h2"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (client, tokio::spawn(connection))
}

fn h2_request(method: Method, path: &str, token: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_a_connection_of_http_2() {
    let lab = Lab::new().await;
    let (address, _stop) = served(&lab, ServeLimits::default()).await;
    let (client, _connection) = h2_client(address, &lab.directory.path().join("c.pem")).await;
    let calls = (0..200).map(|n| {
        let (client, token) = (client.clone(), lab.admin.clone());
        async move {
            let mut client = client.ready().await.unwrap();
            let (answer, mut body) =
                client.send_request(h2_request(Method::POST, "/v1/types", &token), false).unwrap();
            let text = json!({"name": format!("t{n}"), "cores": 1, "memory_mib": 64}).to_string();
            body.send_data(text.into(), true).unwrap();
            answer.await.unwrap().status()
        }
    });
    // Fewer at a time than the server allows: what it allows, the client knows only once it has heard it.
    let statuses: Vec<_> = futures_util::stream::iter(calls).buffer_unordered(32).collect().await;
    assert!(statuses.iter().all(|status| *status == StatusCode::CREATED), "{statuses:?}");
    let types = lab.engine.read(|registry| registry.types().len()).await;
    assert_eq!(types, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_their_answers_are_cut() {
    let lab = Lab::new().await;
    let limits = ServeLimits {
        idle_time: Duration::from_millis(300),
        write_time: Duration::from_millis(300),
        ..ServeLimits::default()
    };
    let (address, _stop) = served(&lab, limits).await;
    let chain = lab.directory.path().join("c.pem");

    // One request after the other, more answers than all buffers take.
    let mut greedy = tls(address, &chain).await;
    let flood = async {
        loop {
            let ask = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
            if greedy.write_all(ask).await.is_err() || greedy.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), flood).await.expect("it is cut");

    // The connection lives and answers pings; only the answers' windows stay shut.
    let (client, connection) = h2_client(address, &chain).await;
    let mut kept = Vec::new();
    for _ in 0..8 {
        let mut client = client.clone().ready().await.unwrap();
        let (answer, _) =
            client.send_request(h2_request(Method::GET, "/openapi.json", &lab.reader), true).unwrap();
        kept.push(answer.await.unwrap());
    }
    let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
    assert!(ended.is_ok(), "the connection stands");
    drop(kept);
    let text = lab.metrics.render(&lab.engine).await;
    assert!(text.contains("controller_api_connections_cut_total{step=\"http\"} 2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_slowly_and_waits_long_is_not_cut() {
    let lab = Lab::new().await;
    let limits = ServeLimits {
        idle_time: Duration::from_millis(200),
        write_time: Duration::from_millis(500),
        ..ServeLimits::default()
    };
    let (address, _stop) = served(&lab, limits).await;
    let (client, _connection) = h2_client(address, &lab.directory.path().join("c.pem")).await;
    let mut client = client.ready().await.unwrap();
    let (answer, _) =
        client.send_request(h2_request(Method::GET, "/openapi.json", &lab.reader), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let (mut read, begin) = (Vec::new(), Instant::now());
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("it is not cut");
        read.extend_from_slice(&chunk);
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
    serde_json::from_slice::<Value>(&read).expect("the whole document");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let lab = Lab::new().await;
    let silent = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let mut request = request(Method::POST, "/v1/types", &lab.admin, Value::Null);
    *request.body_mut() = silent;
    let begin = tokio::time::Instant::now();
    let answered = lab.send(request).await;
    assert_eq!(answered.status, StatusCode::REQUEST_TIMEOUT, "{}", answered.body);
    assert_eq!(begin.elapsed().as_secs(), 10);
    assert_eq!(answered.body["type"], "/problems/timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_with_a_filter_that_fits_few_is_whole() {
    let (lab, node, _) = Lab::furnished().await;
    many_bindings(&lab, &node, 4000).await;
    for (filter, count) in [
        ("network=blue&mac=02:00:00:00:0f:9f", 1),
        ("ip=10.9.15.159", 1),
        ("ip=10.9.255.255", 0),
        ("source=controller", 0),
        ("network=blue&source=learned&limit=1000", 1000),
        ("compute_node=a&limit=7", 7),
        ("compute_node=b", 0),
    ] {
        let page = lab.get(&format!("/v1/bindings?{filter}")).await.body;
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{filter}: {page}");
        assert_eq!(page.get("next_cursor").is_some_and(|c| !c.is_null()), count > 1, "{filter}");
    }
    let (mut macs, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = lab.get(&format!("/v1/bindings?limit=1000&network=blue{cursor}")).await.body;
        macs.extend(page["items"].as_array().unwrap().iter().map(|item| item["mac"].to_string()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(macs.len(), 4000);
    assert!(macs.is_sorted());
}

/// Learned bindings of one node in network 1: MACs 02:00 and a number, IPs of the same number under 10.9.
async fn many_bindings(lab: &Lab, node: &str, count: u32) {
    let node: NodeId = node.parse().unwrap();
    let vni = lab.engine.read(|registry| registry.find_network("blue").unwrap().vni).await;
    let claim = |n: u32| registry::BindingClaim {
        key: registry::BindingKey {
            vni,
            vlans: Vec::new(),
            mac: registry::Mac([2, 0, 0, n.to_be_bytes()[1], n.to_be_bytes()[2], n.to_be_bytes()[3]]),
        },
        ips: vec![std::net::Ipv4Addr::from_bits(0x0a09_0000 + n).into()],
        seen_generation: registry::Generation(0),
    };
    let claims = (0..count).map(claim).collect();
    let input = SwitchInput::Bindings { session: node.0 * 10, full: false, claims, withdrawals: Vec::new() };
    let outcome = lab.engine.execute(Input::Switch(node, input)).await.unwrap();
    assert_eq!(outcome, registry::Outcome::Claims(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --release -p controller -- --ignored --nocapture writer_waits"]
async fn how_long_the_writer_waits_for_filtered_lists() {
    let settings = registry::Settings { learned_per_node: 200_000, ..registry::Settings::default() };
    let (lab, node, _) = Lab::furnished_with(settings).await;
    many_bindings(&lab, &node, 100_000).await;
    let lab = Arc::new(lab);
    for filter in ["ip=10.9.255.255", "network=blue&source=controller", "network=blue&limit=1000"] {
        let mut longest = Duration::ZERO;
        let begin = Instant::now();
        let reading = {
            let lab = lab.clone();
            let path = format!("/v1/bindings?{filter}");
            tokio::spawn(async move {
                for _ in 0..20 {
                    lab.get(&path).await;
                }
            })
        };
        let mut writes = 0;
        while !reading.is_finished() {
            let write = Instant::now();
            lab.engine.execute(Input::Tick).await.unwrap();
            longest = longest.max(write.elapsed());
            writes += 1;
        }
        let one = begin.elapsed() / 20;
        println!("{filter}: {one:?} a list, {writes} inputs meanwhile, the longest took {longest:?}");
    }
}
