use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::protocol::{Answer, MAX_REQUEST, Request, Snapshot};
use super::*;
use crate::view::fake::FakeView;
use crate::view::{
    BindingRow, CaptureFilter, CapturedFrame, Direction, DroppedFrame, Link, MacRow, Netcheck, Stats, Status,
    WhyRelayed,
};

struct Client {
    to: OwnedWriteHalf,
    from: Lines<BufReader<OwnedReadHalf>>,
}

impl Client {
    async fn connect(path: &PathBuf) -> Client {
        let (from, to) = UnixStream::connect(path).await.unwrap().into_split();
        Client { to, from: BufReader::new(from).lines() }
    }

    async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> T {
        self.send(&serde_json::to_string(request).unwrap()).await;
        match self.answer().await {
            Answer::Ok(value) => value,
            Answer::Error(error) => panic!("{error}"),
        }
    }

    async fn send(&mut self, line: &str) {
        self.to.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn answer<T: DeserializeOwned>(&mut self) -> Answer<T> {
        serde_json::from_str(&self.from.next_line().await.unwrap().unwrap()).unwrap()
    }

    async fn error(&mut self) -> String {
        match self.answer::<serde_json::Value>().await {
            Answer::Ok(value) => panic!("{value}"),
            Answer::Error(error) => error,
        }
    }
}

/// A served socket in a directory of its own.
fn serve_fake(view: FakeView) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/switchd.sock");
    let socket = AdminSocket::bind(&path, "no-such-group").unwrap();
    tokio::spawn(serve(socket, Arc::new(view)));
    (dir, path)
}

#[tokio::test]
async fn every_request_is_answered_with_the_views_rows() {
    let (_dir, path) = serve_fake(FakeView::default());
    let view = FakeView::default();
    let mut client = Client::connect(&path).await;
    assert_eq!(client.ask::<Status>(&Request::Status).await, view.status());
    assert_eq!(client.ask::<Vec<Link>>(&Request::Links).await, view.links());
    assert_eq!(client.ask::<Stats>(&Request::Stats).await, view.stats());
    assert_eq!(client.ask::<Vec<BindingRow>>(&Request::Bindings).await, view.bindings().await);
    assert_eq!(client.ask::<Vec<MacRow>>(&Request::Macs).await, view.macs().await);
    assert_eq!(client.ask::<Vec<DroppedFrame>>(&Request::Drops).await, view.drops().await);
    assert_eq!(client.ask::<Netcheck>(&Request::Netcheck).await, view.netcheck().await.unwrap());
    let peer = "node-b".to_owned();
    let why = client.ask::<WhyRelayed>(&Request::WhyRelayed { peer }).await;
    assert_eq!(why, view.why_relayed("node-b").await.unwrap());
    client.send(r#"{"command":"why-relayed","peer":"node-z"}"#).await;
    assert!(client.error().await.contains("no peer named \"node-z\""));
}

#[tokio::test]
async fn watch_streams_snapshots() {
    let (_dir, path) = serve_fake(FakeView::default());
    let mut client = Client::connect(&path).await;
    let first: Snapshot = client.ask(&Request::Watch { interval_ms: 100 }).await;
    let Answer::Ok(second) = client.answer::<Snapshot>().await else { panic!() };
    assert_eq!((first.stats, first.ready), (second.stats, true));
    let mut client = Client::connect(&path).await;
    client.send(r#"{"command":"watch","interval_ms":1}"#).await;
    assert!(client.error().await.contains("100 to 3600000"));
}

#[tokio::test]
async fn capture_streams_frames_and_refuses_unknown_networks() {
    let (_dir, path) = serve_fake(FakeView::default());
    let mut client = Client::connect(&path).await;
    let filter = CaptureFilter { direction: Some(Direction::Local), ..CaptureFilter::default() };
    client.ask::<()>(&Request::Capture(filter)).await;
    for ns in [123_456_789, 123_456_791] {
        let Answer::Ok(frame) = client.answer::<CapturedFrame>().await else { panic!() };
        assert_eq!(frame.time.duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos(), ns);
        assert_eq!((frame.direction, frame.bytes.len()), (Direction::Local, 60));
    }
    assert_eq!(client.from.next_line().await.unwrap(), None, "the capture ended");
    let mut client = Client::connect(&path).await;
    client.send(r#"{"command":"capture","network":"red"}"#).await;
    assert!(client.error().await.contains("no network named \"red\""));
}

#[tokio::test]
async fn bad_requests_get_an_error_and_the_next_one_an_answer() {
    let (_dir, path) = serve_fake(FakeView::default());
    let mut client = Client::connect(&path).await;
    for (bad, says) in [
        (r#"{"command":"lnks"}"#, "unknown variant `lnks`, expected one of `status`, `links`"),
        (r#"{"command":"watch"}"#, "missing field `interval_ms`"),
        (r#"{"command":"capture","port":1}"#, "unknown field `port`"),
        ("{}", "missing field `command`"),
        ("hello", "expected value"),
        ("", "EOF"),
        ("\u{0}\u{1}", "bad request"),
    ] {
        client.send(bad).await;
        let error = client.error().await;
        assert!(error.contains(says), "{bad}: {error}");
    }
    assert_eq!(client.ask::<Status>(&Request::Status).await.node, "node-a");
}

#[tokio::test]
async fn an_endless_request_is_cut() {
    let (_dir, path) = serve_fake(FakeView::default());
    let mut client = Client::connect(&path).await;
    client.send(&" ".repeat(MAX_REQUEST - 1)).await; // the longest that is read
    assert!(client.error().await.contains("bad request"));
    client.to.write_all(&[b'x'; MAX_REQUEST]).await.unwrap();
    assert!(client.error().await.contains("longer than 65536 bytes"));
    assert_eq!(client.from.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn too_many_clients_are_told() {
    let (_dir, path) = serve_fake(FakeView::default());
    let mut clients = Vec::new();
    for _ in 0..MAX_CLIENTS {
        let mut client = Client::connect(&path).await;
        client.ask::<Status>(&Request::Status).await;
        clients.push(client);
    }
    let mut one_more = Client::connect(&path).await;
    assert!(one_more.error().await.contains("32 clients"));
    clients.pop();
    loop {
        // The server sees the close a moment later.
        let mut client = Client::connect(&path).await;
        client.send(r#"{"command":"status"}"#).await;
        if let Answer::Ok(_) = client.answer::<serde_json::Value>().await {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_worker_is_reported() {
    let (_dir, path) = serve_fake(FakeView { hung: true, ..FakeView::default() });
    let mut client = Client::connect(&path).await;
    for request in ["bindings", "macs", "drops", "capture"] {
        client.send(&format!(r#"{{"command":"{request}"}}"#)).await;
        assert!(client.error().await.contains("did not answer"), "{request}");
    }
}

#[tokio::test]
async fn the_socket_file_is_guarded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("switchd.sock");
    let first = AdminSocket::bind(&path, "root").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(AdminSocket::bind(&path, "root"), Err(AdminError::InUse(_))));
    drop(first);
    assert!(!path.exists(), "removed at the end");
    // What a killed daemon leaves: a socket that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(AdminSocket::bind(&path, "root").unwrap());
    std::fs::write(&path, "not ours").unwrap();
    assert!(matches!(AdminSocket::bind(&path, "root"), Err(AdminError::NotASocket(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
}
