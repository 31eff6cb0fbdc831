//! Sealing and opening datagrams: AEAD keys of one link session, counters and the replay window.

mod aead;
mod replay;

pub use replay::ReplayWindow;

use zeroize::{Zeroize, ZeroizeOnDrop};

use self::aead::{AeadKey, KEY_LEN, NONCE_LEN};
use crate::ids::ReceiverIndex;
use crate::wire::{HEADER_LEN, Header, Lane, SEAL_OVERHEAD, TAG_LEN};

/// Bytes that a session takes from the TLS exporter: a key and an IV for each direction.
pub const KEY_MATERIAL_LEN: usize = 2 * (KEY_LEN + NONCE_LEN);

/// No session seals more datagrams than this, whatever the configuration. An attacker's advantage against AES-GCM's
/// confidentiality grows with the square of the datagrams: 2^-57 at 2^28 of 2 KiB (RFC 9001, appendix B.1.1), and so
/// 2^-49 here. Renewal comes long before.
pub const COUNTER_LIMIT: u64 = 1 << 32;

/// The AEAD of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    /// Where both CPUs have AES instructions.
    Aes256Gcm,
    /// Everywhere else.
    ChaCha20Poly1305,
}

impl Cipher {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes256Gcm => "aes-256-gcm",
            Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

/// Which end of the link's handshake this node was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It dialled.
    Initiator,
    /// It was dialled.
    Responder,
}

/// The secret of a session as the TLS exporter gave it. Wiped when dropped, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial([u8; KEY_MATERIAL_LEN]);

impl KeyMaterial {
    /// Takes the exporter's output: initiator's key, initiator's IV, responder's key, responder's IV.
    pub fn new(bytes: [u8; KEY_MATERIAL_LEN]) -> KeyMaterial {
        KeyMaterial(bytes)
    }

    /// The key with which `role` seals, and its peer opens.
    fn direction(&self, sealed_by: Role) -> (&[u8], [u8; NONCE_LEN]) {
        let half = match sealed_by {
            Role::Initiator => &self.0[..KEY_MATERIAL_LEN / 2],
            Role::Responder => &self.0[KEY_MATERIAL_LEN / 2..],
        };
        let (key, iv) = half.split_at(KEY_LEN);
        (key, iv.try_into().expect("half of the material is a key and an IV"))
    }
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyMaterial(..)")
    }
}

/// Seals datagrams for one peer.
#[derive(Debug)]
pub struct Sealer {
    key: DirectionKey,
    epoch: u8,
    receiver: ReceiverIndex,
    /// The next counter of each lane.
    counters: [u64; 2],
    limit: u64,
}

impl Sealer {
    /// `role` is this node's; `receiver` is the index that the peer chose; `limit` datagrams at most, and never
    /// more than [`COUNTER_LIMIT`].
    pub fn new(
        cipher: Cipher,
        material: &KeyMaterial,
        role: Role,
        receiver: ReceiverIndex,
        epoch: u8,
        limit: u64,
    ) -> Sealer {
        let key = DirectionKey::new(cipher, material, role);
        Sealer { key, epoch, receiver, counters: [0; 2], limit: limit.min(COUNTER_LIMIT) }
    }

    /// Datagrams sealed so far.
    pub fn counter(&self) -> u64 {
        self.counters.iter().sum()
    }

    /// Seals in place: `buf` is [`HEADER_LEN`] bytes to be filled, the message, [`TAG_LEN`] bytes to be filled.
    ///
    /// # Panics
    /// If `buf` is shorter than [`SEAL_OVERHEAD`].
    pub fn seal(&mut self, lane: Lane, buf: &mut [u8]) -> Result<(), CounterExhausted> {
        assert!(buf.len() >= SEAL_OVERHEAD, "the caller leaves room for header and tag");
        let (header, nonce) = self.next(lane)?;
        let (head, rest) = buf.split_at_mut(HEADER_LEN);
        head.copy_from_slice(&header);
        let (message, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        self.key.aead.seal(nonce, &header, message, tag);
        Ok(())
    }

    /// Seals a message that stands elsewhere; `out` is all of the datagram.
    ///
    /// # Panics
    /// If `out` is not [`SEAL_OVERHEAD`] longer than `message`.
    pub fn seal_from(&mut self, lane: Lane, message: &[u8], out: &mut [u8]) -> Result<(), CounterExhausted> {
        assert!(out.len() == message.len() + SEAL_OVERHEAD, "the caller leaves room for header and tag");
        let (header, nonce) = self.next(lane)?;
        let (head, rest) = out.split_at_mut(HEADER_LEN);
        head.copy_from_slice(&header);
        let (sealed, tag) = rest.split_at_mut(message.len());
        self.key.aead.seal_from(nonce, &header, message, sealed, tag);
        Ok(())
    }

    /// The next datagram's header and nonce.
    fn next(&mut self, lane: Lane) -> Result<([u8; HEADER_LEN], [u8; NONCE_LEN]), CounterExhausted> {
        if self.counter() >= self.limit {
            return Err(CounterExhausted);
        }
        let counter = &mut self.counters[lane as usize];
        let header = Header { epoch: self.epoch, receiver: self.receiver, lane, counter: *counter };
        *counter += 1;
        Ok((header.encode(), self.key.nonce(header.sequence())))
    }
}

/// Opens datagrams of one session.
#[derive(Debug)]
pub struct Opener {
    key: DirectionKey,
    /// One for each lane: however far one overtakes the other, neither loses anything by it.
    windows: [ReplayWindow; 2],
}

impl Opener {
    /// `role` is this node's.
    pub fn new(cipher: Cipher, material: &KeyMaterial, role: Role) -> Opener {
        let sealed_by = match role {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        };
        Opener { key: DirectionKey::new(cipher, material, sealed_by), windows: Default::default() }
    }

    /// Opens in place; `header` is what [`Header::parse`] read from `datagram`. Returns the message, and whether
    /// it is the newest of the session's lane so far: only those say where the peer is now.
    pub fn open<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<(&'a mut [u8], Newest), OpenError> {
        let window = &mut self.windows[header.lane as usize];
        if !window.may_accept(header.counter) {
            return Err(OpenError::Replayed);
        }
        let Some((head, sealed)) = datagram.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(OpenError::BadTag);
        };
        let nonce = self.key.nonce(header.sequence());
        let message = self.key.aead.open(nonce, head, sealed).map_err(|_| OpenError::BadTag)?;
        let newest = Newest(window.accept(header.counter));
        Ok((message, newest))
    }
}

/// Whether a datagram's counter is the highest so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Newest(pub bool);

/// The session has sealed all it may; a fresh handshake is overdue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the session's counter is used up")]
pub struct CounterExhausted;

/// Why a datagram was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Seen before, or too old to tell.
    #[error("replayed, or older than the replay window")]
    Replayed,
    /// Forged, damaged or sealed with another key.
    #[error("the tag does not verify")]
    BadTag,
}

struct DirectionKey {
    aead: AeadKey,
    iv: [u8; NONCE_LEN],
}

impl DirectionKey {
    fn new(cipher: Cipher, material: &KeyMaterial, sealed_by: Role) -> DirectionKey {
        let (key, iv) = material.direction(sealed_by);
        DirectionKey { aead: AeadKey::new(cipher, key), iv }
    }

    /// The IV with lane and counter XORed into its last eight bytes, as in RFC 8446, 5.3.
    fn nonce(&self, sequence: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (n, c) in nonce[NONCE_LEN - 8..].iter_mut().zip(sequence.to_be_bytes()) {
            *n ^= c;
        }
        nonce
    }
}

impl std::fmt::Debug for DirectionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectionKey(..)")
    }
}

#[cfg(test)]
mod tests;
