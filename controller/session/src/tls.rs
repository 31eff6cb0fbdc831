//! TLS 1.3 with raw Ed25519 public keys on both sides (RFC 7250): no certificates, no resumption, no early data.

use std::sync::Arc;

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use crate::key::{PrivateKey, PublicKey};

/// For a node that dials the controller by HTTP/2: any key but `controller` fails the handshake.
pub fn client_config(key: &PrivateKey, controller: PublicKey) -> Result<ClientConfig, Error> {
    let mut config = Identity::new(key)?.client(controller)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// For the controller, by HTTP/2. Any Ed25519 key is let in once it is proved; [`proven_key`] says which it was, and
/// the service decides what it may do.
pub fn server_config(key: &PrivateKey) -> Result<ServerConfig, Error> {
    let mut config = Identity::new(key)?.server(|_| true)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The key that the other end proved, from the certificates that the connection shows for it.
pub fn proven_key(chain: &[CertificateDer<'_>]) -> Option<PublicKey> {
    public_key(chain.first()?)
}

/// An own key, ready for handshakes.
#[derive(Clone)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Fails only if the library refuses the key.
    pub fn new(key: &PrivateKey) -> Result<Identity, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()));
        let signer = provider.key_provider.load_private_key(der)?;
        let spki = CertificateDer::from(spki(&key.public()));
        let certified = Arc::new(CertifiedKey::new(vec![spki], signer));
        Ok(Identity { provider, certified })
    }

    /// For a dial to the owner of `expected`: any other key fails the handshake. Without ALPN.
    pub fn client(&self, expected: PublicKey) -> Result<ClientConfig, Error> {
        let verifier = Arc::new(ExpectedKey { expected: spki(&expected), algorithms: self.algorithms() });
        let resolver = AlwaysResolvesClientRawPublicKeys::new(self.certified.clone());
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(resolver));
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// For dials from the owners of keys that `accepts`, asked anew in each handshake. Without ALPN.
    pub fn server(
        &self,
        accepts: impl Fn(&PublicKey) -> bool + Send + Sync + 'static,
    ) -> Result<ServerConfig, Error> {
        let verifier = Arc::new(AcceptedKeys { accepts, algorithms: self.algorithms() });
        let resolver = AlwaysResolvesServerRawPublicKeys::new(self.certified.clone());
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

#[derive(Debug)]
struct ExpectedKey {
    expected: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ExpectedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if end_entity.as_ref() == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(unknown_key())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_raw_key(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

struct AcceptedKeys<F> {
    accepts: F,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<F> std::fmt::Debug for AcceptedKeys<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AcceptedKeys")
    }
}

impl<F: Fn(&PublicKey) -> bool + Send + Sync> ClientCertVerifier for AcceptedKeys<F> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match public_key(end_entity) {
            Some(key) if (self.accepts)(&key) => Ok(ClientCertVerified::assertion()),
            _ => Err(unknown_key()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_raw_key(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn verify_raw_key(
    message: &[u8],
    spki: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(spki.as_ref());
    verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
}

fn spki(key: &PublicKey) -> Vec<u8> {
    [&ED25519_SPKI_PREFIX[..], &key.0].concat()
}

fn public_key(spki: &CertificateDer<'_>) -> Option<PublicKey> {
    let key = spki.as_ref().strip_prefix(&ED25519_SPKI_PREFIX[..])?;
    Some(PublicKey(key.try_into().ok()?))
}

fn unknown_key() -> Error {
    Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
}

fn tls13_only() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}

/// HTTP/2 (RFC 9113, 3.2).
const ALPN: &[u8] = b"h2";
/// SubjectPublicKeyInfo of an Ed25519 key up to the key itself (RFC 8410, 4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
