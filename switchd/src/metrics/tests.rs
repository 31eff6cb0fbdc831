use std::io::Write;
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::view::fake::FakeView;

async fn serve_fake(view: FakeView) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(view)));
    address
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn values_have_their_labels() {
    let address = serve_fake(FakeView::default()).await;
    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "switchd_build_info{version=\"0.1.0\"} 1",
        "switchd_ready 1",
        "switchd_endpoint_up{network=\"blue\"} 1",
        "switchd_frames_total{direction=\"local\",network=\"blue\"} 10",
        "switchd_frame_bytes_bucket{direction=\"local\",network=\"blue\",le=\"1518\"} 8",
        "switchd_frame_bytes_bucket{direction=\"local\",network=\"blue\",le=\"+Inf\"} 10",
        "switchd_frame_bytes_sum{direction=\"remote\",network=\"blue\"} 140000",
        "switchd_drops_total{direction=\"remote\",network=\"blue\",reason=\"loop\"} 4",
        "switchd_arp_total{case=\"local_to_remote\",network=\"blue\",outcome=\"answered\"} 5",
        "switchd_table_limit{network=\"blue\",table=\"macs\"} 65536",
        "switchd_worker_cpu_seconds_total 12.5",
        "switchd_worker_waited_seconds_total 0.25",
        "switchd_unused_bindings_total{network=\"blue\",reason=\"stale\"} 7",
        "switchd_link_up{peer=\"node-b\"} 1",
        "switchd_link_up{peer=\"node-c\"} 0",
        "switchd_link_rtt_seconds{peer=\"node-b\"} 0.00025",
        "switchd_link_path_info{path=\"host\",peer=\"node-b\"} 1",
        "switchd_link_loss_ratio{peer=\"node-b\"} 0.0125",
        "switchd_link_bytes_total{carriage=\"sealed\",direction=\"to_peer\",peer=\"node-b\"} 1399000",
        "switchd_link_bytes_total{carriage=\"quic\",direction=\"to_peer\",peer=\"node-b\"} 1000",
    ] {
        assert!(text.lines().any(|found| sorted_labels(found) == sorted_labels(line)), "{line} in\n{text}");
    }
    assert!(!text.contains("switchd_link_rtt_seconds{peer=\"node-c\"}"), "unknown is absent, not 0");
}

/// The order of labels has no meaning.
fn sorted_labels(line: &str) -> Vec<&str> {
    let mut parts: Vec<_> = line.split(['{', ',', '}']).collect();
    parts.sort_unstable();
    parts
}

/// Set SWITCHD_SKIP_PROMTOOL where Debian's `prometheus` cannot be installed.
#[tokio::test]
async fn promtool_accepts_the_metrics() {
    if std::env::var_os("SWITCHD_SKIP_PROMTOOL").is_some() {
        return;
    }
    let address = serve_fake(FakeView::default()).await;
    let (_, text) = get(address, "/metrics").await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus, is installed");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[tokio::test]
async fn health_is_the_workers_and_readiness_the_endpoints() {
    let good = serve_fake(FakeView::default()).await;
    assert_eq!(get(good, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get(good, "/readyz").await, (200, "ready\n".into()));
    let bad = serve_fake(FakeView { ready: false, hung: true }).await;
    assert_eq!(get(bad, "/readyz").await, (503, "bridge br-blue is missing\n".into()));
    tokio::time::pause();
    assert_eq!(get(bad, "/healthz").await.0, 503);
}
