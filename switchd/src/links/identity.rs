//! Who a peer is: TLS 1.3 with raw Ed25519 public keys on both sides (RFC 7250), no certificates, no resumption.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use node_session::tls;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::Error;
use rustls::pki_types::CertificateDer;
use switch_core::ids::PeerId;
use switch_core::seal::Cipher;

use crate::key::{PrivateKey, PublicKey};

/// The peers whose handshakes are accepted; changed by a reload.
pub(super) type Allowed = Arc<ArcSwap<HashMap<PublicKey, PeerId>>>;

/// This node's identity, ready for handshakes.
pub(super) struct Identity {
    tls: tls::Identity,
    alpn: Vec<Vec<u8>>,
}

impl Identity {
    /// `aes`: the CPU has AES instructions, so that AES-256-GCM may be agreed on.
    pub(super) fn new(key: &PrivateKey, aes: bool) -> Result<Identity, Error> {
        let ciphers = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
        let alpn = ciphers
            .into_iter()
            .filter(|cipher| aes || *cipher != Cipher::Aes256Gcm)
            .map(|cipher| alpn(cipher).to_vec())
            .collect();
        Ok(Identity { tls: tls::Identity::new(key)?, alpn })
    }

    /// For a dial to `peer`: any other key fails the handshake.
    pub(super) fn client(&self, peer: PublicKey) -> Result<QuicClientConfig, Error> {
        let mut config = self.tls.client(peer)?;
        config.alpn_protocols.clone_from(&self.alpn);
        QuicClientConfig::try_from(config).map_err(|_| Error::General(NO_INITIAL_SUITE.into()))
    }

    /// For dials from any of `allowed`.
    pub(super) fn server(&self, allowed: Allowed) -> Result<QuicServerConfig, Error> {
        let mut config = self.tls.server(move |key| allowed.load().contains_key(key))?;
        config.alpn_protocols.clone_from(&self.alpn);
        QuicServerConfig::try_from(config).map_err(|_| Error::General(NO_INITIAL_SUITE.into()))
    }
}

/// The key that the other end proved in its handshake.
pub(super) fn proven_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::proven_key(&chain)
}

/// The cipher that the handshake agreed on.
pub(super) fn agreed_cipher(connection: &quinn::Connection) -> Option<Cipher> {
    let data = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    let protocol = data.protocol?;
    [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305].into_iter().find(|cipher| alpn(*cipher) == protocol)
}

fn alpn(cipher: Cipher) -> &'static [u8] {
    match cipher {
        Cipher::Aes256Gcm => b"switchd/0 aes-256-gcm",
        Cipher::ChaCha20Poly1305 => b"switchd/0 chacha20-poly1305",
    }
}

const NO_INITIAL_SUITE: &str = "the TLS provider lacks AES-128-GCM for QUIC's Initial packets";
