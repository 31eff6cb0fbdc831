//! The REST API over one kept connection.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::path::Path;
use std::sync::Arc;

/// A connection to the API.
pub(crate) struct Rest {
    send: SendRequest<Full<Bytes>>,
    token: String,
}

impl Rest {
    /// Dials the port on loopback; `certificate` is the one that it must show.
    pub(crate) async fn connect(port: u16, certificate: &Path, token: &str) -> Result<Rest> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("127.0.0.1".try_into()?, tcp).await?;
        let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; a call then says why.
        tokio::spawn(connection);
        Ok(Rest { send, token: token.to_owned() })
    }

    /// One call; its answer must be a success.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::from(if body.is_null() { String::new() } else { body.to_string() }))?;
        self.send.ready().await?;
        let answer = self.send.send_request(request).await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        match body.is_empty() {
            true => Ok(serde_json::Value::Null),
            false => Ok(serde_json::from_slice(&body)?),
        }
    }
}
