//! A relay that is reached by TCP or TLS: one task with one connection, bytes in and out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nat_traversal::RelayId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// What a connection says.
#[derive(Debug)]
pub(super) enum StreamEvent {
    /// Bytes of the relay.
    Received(Bytes),
    /// It is over, or never was.
    Closed(String),
}

/// How to connect.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) relay: RelayId,
    pub(super) server: SocketAddr,
    pub(super) tls: Option<Tls>,
}

/// The TLS of a relay.
#[derive(Debug)]
pub(super) struct Tls {
    /// The host that the certificate is for.
    pub(super) host: String,
    /// The SHA-256 of the certificate; empty for one that the host's authorities vouch for.
    pub(super) certificate: Vec<u8>,
}

/// A running connection; dropping it ends it.
#[derive(Debug)]
pub(super) struct Stream {
    /// To the relay, framed.
    pub(super) to_relay: mpsc::Sender<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    /// Connects in the background.
    pub(super) fn start(connect: Connect, events: mpsc::Sender<(RelayId, StreamEvent)>) -> Stream {
        let (to_relay, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            let relay = connect.relay;
            let why = match run(connect, queue, &events).await {
                Ok(()) => "the relay closed the connection".to_owned(),
                Err(error) => error.to_string(),
            };
            // Nobody hears when the daemon stops.
            let _ = events.send((relay, StreamEvent::Closed(why))).await;
        });
        Stream { to_relay, task }
    }
}

async fn run(
    connect: Connect,
    queue: mpsc::Receiver<Bytes>,
    events: &mpsc::Sender<(RelayId, StreamEvent)>,
) -> Result<(), StreamError> {
    let Connect { relay, server, tls } = connect;
    let tcp = tokio::time::timeout(CONNECT, TcpStream::connect(server))
        .await
        .map_err(|_| StreamError::Timeout { server })?
        .map_err(|source| StreamError::Connect { server, source })?;
    tcp.set_nodelay(true).map_err(StreamError::Broken)?;
    match tls {
        None => carry(relay, tcp, queue, events).await,
        Some(tls) => {
            let config = tls_config(&tls.certificate)?;
            let name = ServerName::try_from(tls.host).map_err(|_| StreamError::Name)?;
            let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp);
            let stream = tokio::time::timeout(CONNECT, connecting)
                .await
                .map_err(|_| StreamError::Timeout { server })?
                .map_err(StreamError::Tls)?;
            carry(relay, stream, queue, events).await
        }
    }
}

async fn carry(
    relay: RelayId,
    stream: impl AsyncRead + AsyncWrite,
    mut queue: mpsc::Receiver<Bytes>,
    events: &mpsc::Sender<(RelayId, StreamEvent)>,
) -> Result<(), StreamError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        while let Some(bytes) = queue.recv().await {
            writer.write_all(&bytes).await.map_err(StreamError::Broken)?;
            // What waits goes out together: one TLS record, one segment.
            if queue.is_empty() {
                writer.flush().await.map_err(StreamError::Broken)?;
            }
        }
        Ok(())
    };
    let reading = async {
        let mut buf = BytesMut::with_capacity(READ);
        loop {
            buf.reserve(READ);
            if reader.read_buf(&mut buf).await.map_err(StreamError::Broken)? == 0 {
                return Ok(());
            }
            if events.send((relay, StreamEvent::Received(buf.split().freeze()))).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = writing => ended,
        ended = reading => ended,
    }
}

fn tls_config(certificate: &[u8]) -> Result<ClientConfig, StreamError> {
    let builder = ClientConfig::builder();
    if certificate.is_empty() {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let algorithms = builder.crypto_provider().signature_verification_algorithms;
    let pinned = Pinned { sha256: certificate.to_vec(), algorithms };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned)).with_no_client_auth())
}

/// Takes one certificate only, known by its hash.
#[derive(Debug)]
struct Pinned {
    sha256: Vec<u8>,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, end_entity);
        if digest.as_ref() == self.sha256 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("the relay shows another certificate than the controller named".into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Why a relay is not reached by TCP or TLS.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("no connection to {server} within {} s: is TCP to it let through?", CONNECT.as_secs())]
    Timeout { server: SocketAddr },
    #[error("connecting to {server}: {source}")]
    Connect { server: SocketAddr, source: std::io::Error },
    #[error("the relay's host is no name that a certificate can be for")]
    Name,
    #[error("TLS with the relay: {0}")]
    Tls(std::io::Error),
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
}

/// Datagrams that may wait for the connection; more are lost, as on any full queue.
const QUEUE: usize = 512;
const READ: usize = 64 << 10;
const CONNECT: Duration = Duration::from_secs(5);
