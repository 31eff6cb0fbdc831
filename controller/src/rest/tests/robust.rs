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
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(chain).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
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
