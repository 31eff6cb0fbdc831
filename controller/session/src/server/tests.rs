//! Both ends against each other over loopback, with real TLS.

use controller_api::node::node_service_client::NodeServiceClient;
use controller_api::node::node_service_server::{NodeService, NodeServiceServer};
use controller_api::node::{
    AgentMessage, ControllerToAgent, ControllerToSwitch, DownloadVolumeRequest, EnrolRequest, EnrolResponse,
    SwitchMessage, VolumeChunk, VolumeReceipt,
};
use tokio::io::AsyncReadExt;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::client::{ConnectError, connect};
use crate::key::PrivateKey;

/// Answers Enrol with the caller's proven key as the node's id.
struct Echo;

#[tonic::async_trait]
impl NodeService for Echo {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let info = *request.extensions().get::<ConnectInfo>().unwrap();
        assert!(info.remote.ip().is_loopback());
        Ok(Response::new(EnrolResponse { node_id: info.key.to_string(), ..EnrolResponse::default() }))
    }

    type SwitchSessionStream = tokio_stream::Pending<Result<ControllerToSwitch, Status>>;
    async fn switch_session(
        &self,
        _: Request<Streaming<SwitchMessage>>,
    ) -> Result<Response<Self::SwitchSessionStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }

    type AgentSessionStream = tokio_stream::Pending<Result<ControllerToAgent, Status>>;
    async fn agent_session(
        &self,
        _: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::AgentSessionStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn upload_volume(
        &self,
        _: Request<Streaming<VolumeChunk>>,
    ) -> Result<Response<VolumeReceipt>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    type DownloadVolumeStream = tokio_stream::Pending<Result<VolumeChunk, Status>>;
    async fn download_volume(
        &self,
        _: Request<DownloadVolumeRequest>,
    ) -> Result<Response<Self::DownloadVolumeStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
}

struct Running {
    key: PrivateKey,
    addresses: Vec<String>,
    server: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn start(limits: Limits, known: impl Fn(&PublicKey) -> bool + Send + Sync + 'static) -> Running {
    let key = PrivateKey::generate().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![listener.local_addr().unwrap().to_string()];
    let incoming = incoming(listener, tls::server_config(&key).unwrap(), limits, known);
    let router = builder().add_service(NodeServiceServer::new(Echo));
    let server = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
    Running { key, addresses, server }
}

async fn enrol(running: &Running, key: &PrivateKey) -> Result<String, Box<dyn std::error::Error>> {
    let channel = connect(&running.addresses, key, running.key.public()).await?;
    let answer = NodeServiceClient::new(channel).enrol(EnrolRequest::default()).await?;
    Ok(answer.into_inner().node_id)
}

#[tokio::test]
async fn handlers_find_the_key_that_was_proved() {
    let running = start(Limits::default(), |_| false).await;
    for _ in 0..2 {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(enrol(&running, &key).await.unwrap(), key.public().to_string());
    }
}

#[tokio::test]
async fn a_controller_with_another_key_is_refused_and_named() {
    let running = start(Limits::default(), |_| true).await;
    let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let error = connect(&running.addresses, &key, other.public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::OtherKey { .. }), "{error:?}");
}

#[tokio::test]
async fn addresses_are_tried_in_turn() {
    let mut running = start(Limits::default(), |_| true).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    running.addresses.insert(0, closed.to_string());
    let key = PrivateKey::generate().unwrap();
    assert_eq!(enrol(&running, &key).await.unwrap(), key.public().to_string());
    let only = [closed.to_string()];
    let error = connect(&only, &key, running.key.public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = connect(&[], &key, running.key.public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoAddress), "{error:?}");
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail.example ESMTP\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let key = PrivateKey::generate().unwrap();
    let error = connect(&[address], &key, key.public()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
    server.await.unwrap();
}

#[tokio::test]
async fn unknown_keys_are_few_and_known_ones_are_not_in_their_way() {
    let known = PrivateKey::generate().unwrap();
    let public = known.public();
    let limits = Limits { unknown: 1, ..Limits::default() };
    let running = start(limits, move |key| *key == public).await;
    let held =
        connect(&running.addresses, &PrivateKey::generate().unwrap(), running.key.public()).await.unwrap();
    let mut held = NodeServiceClient::new(held);
    held.enrol(EnrolRequest::default()).await.unwrap();
    assert!(enrol(&running, &PrivateKey::generate().unwrap()).await.is_err());
    enrol(&running, &known).await.unwrap();
    drop(held);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while enrol(&running, &PrivateKey::generate().unwrap()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the permit never came back");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_unknown_key_is_cut_off_in_time() {
    let limits = Limits { unknown_lifetime: Duration::from_millis(200), ..Limits::default() };
    let running = start(limits, |_| false).await;
    let key = PrivateKey::generate().unwrap();
    let channel = connect(&running.addresses, &key, running.key.public()).await.unwrap();
    let stream = NodeServiceClient::new(channel).switch_session(tokio_stream::pending()).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.into_inner().message()).await;
    assert!(end.expect("the connection outlived its time").is_err());
}

#[tokio::test]
async fn a_silent_dial_holds_its_place_for_the_handshake_timeout_only() {
    let limits = Limits { handshakes: 1, handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let running = start(limits, |_| true).await;
    let mut silent = TcpStream::connect(&running.addresses[0]).await.unwrap();
    let key = PrivateKey::generate().unwrap();
    enrol(&running, &key).await.unwrap();
    // It was closed, not kept.
    assert!(!matches!(silent.read(&mut [0; 16]).await, Ok(1..)));
}

#[tokio::test]
async fn more_than_the_allowed_connections_are_closed() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let running = start(limits, |_| true).await;
    let key = PrivateKey::generate().unwrap();
    let held = connect(&running.addresses, &key, running.key.public()).await.unwrap();
    NodeServiceClient::new(held.clone()).enrol(EnrolRequest::default()).await.unwrap();
    assert!(enrol(&running, &key).await.is_err());
    drop(held);
}
