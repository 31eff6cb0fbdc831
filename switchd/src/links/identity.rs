//! Who a peer is: TLS 1.3 with raw Ed25519 public keys on both sides (RFC 7250), no certificates, no resumption.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use switch_core::ids::PeerId;
use switch_core::seal::Cipher;

use crate::key::{PrivateKey, PublicKey};

/// The peers whose handshakes are accepted; changed by a reload.
pub(super) type Allowed = Arc<ArcSwap<HashMap<PublicKey, PeerId>>>;

/// This node's identity, ready for handshakes.
pub(super) struct Identity {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    alpn: Vec<Vec<u8>>,
}

impl Identity {
    /// `aes`: the CPU has AES instructions, so that AES-256-GCM may be agreed on.
    pub(super) fn new(key: &PrivateKey, aes: bool) -> Result<Identity, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()));
        let signer = provider.key_provider.load_private_key(der)?;
        let spki = CertificateDer::from(spki(&key.public()));
        let certified = Arc::new(CertifiedKey::new(vec![spki], signer));
        let ciphers = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
        let alpn = ciphers
            .into_iter()
            .filter(|cipher| aes || *cipher != Cipher::Aes256Gcm)
            .map(|cipher| alpn(cipher).to_vec())
            .collect();
        Ok(Identity { provider, certified, alpn })
    }

    /// For a dial to `peer`: any other key fails the handshake.
    pub(super) fn client(&self, peer: PublicKey) -> Result<QuicClientConfig, Error> {
        let verifier = Arc::new(PeerKey { expected: spki(&peer), algorithms: self.algorithms() });
        let resolver = AlwaysResolvesClientRawPublicKeys::new(self.certified.clone());
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(resolver));
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols.clone_from(&self.alpn);
        QuicClientConfig::try_from(config).map_err(|_| Error::General(NO_INITIAL_SUITE.into()))
    }

    /// For dials from any of `allowed`.
    pub(super) fn server(&self, allowed: Allowed) -> Result<QuicServerConfig, Error> {
        let verifier = Arc::new(KnownKeys { allowed, algorithms: self.algorithms() });
        let resolver = AlwaysResolvesServerRawPublicKeys::new(self.certified.clone());
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        config.send_tls13_tickets = 0;
        config.alpn_protocols.clone_from(&self.alpn);
        QuicServerConfig::try_from(config).map_err(|_| Error::General(NO_INITIAL_SUITE.into()))
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

/// The key that the other end proved in its handshake.
pub(super) fn proven_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    public_key(chain.first()?)
}

/// The cipher that the handshake agreed on.
pub(super) fn agreed_cipher(connection: &quinn::Connection) -> Option<Cipher> {
    let data = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    let protocol = data.protocol?;
    [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305].into_iter().find(|cipher| alpn(*cipher) == protocol)
}

#[derive(Debug)]
struct PeerKey {
    expected: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PeerKey {
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

#[derive(Debug)]
struct KnownKeys {
    allowed: Allowed,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for KnownKeys {
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
            Some(key) if self.allowed.load().contains_key(&key) => Ok(ClientCertVerified::assertion()),
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

fn alpn(cipher: Cipher) -> &'static [u8] {
    match cipher {
        Cipher::Aes256Gcm => b"switchd/0 aes-256-gcm",
        Cipher::ChaCha20Poly1305 => b"switchd/0 chacha20-poly1305",
    }
}

fn unknown_key() -> Error {
    Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
}

fn tls13_only() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic)
}

/// SubjectPublicKeyInfo of an Ed25519 key up to the key itself (RFC 8410, 4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const NO_INITIAL_SUITE: &str = "the TLS provider lacks AES-128-GCM for QUIC's Initial packets";
