//! AEAD keys. Two libraries make the same bytes; which one is faster is a matter of the CPU.

use crate::wire::TAG_LEN;

use super::Cipher;

/// A nonce's bytes, as both ciphers have it.
pub(super) const NONCE_LEN: usize = 12;
/// A key's bytes, as both ciphers have it.
pub(super) const KEY_LEN: usize = 32;

/// A key that seals or opens. Who uses it sees to it that no nonce is used twice.
pub(super) enum AeadKey {
    /// Fast with AVX-512, and everywhere where there is no difference.
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    /// For AES-GCM, twice as fast as the other one on CPUs whose vector instructions for AES are of 256 bits.
    Ring(RingKey),
}

/// What ring does not wipe itself.
pub(super) struct RingKey(Box<ring::aead::LessSafeKey>);

impl Drop for RingKey {
    fn drop(&mut self) {
        // Plain bytes, which those of a key that is no secret replace where they are.
        *self.0 = ring_aes_256_gcm(&[0; KEY_LEN]);
        std::hint::black_box(&*self.0);
    }
}

/// The tag does not verify.
pub(super) struct BadTag;

impl AeadKey {
    /// # Panics
    /// If the key is not of [`KEY_LEN`] bytes.
    pub(super) fn new(cipher: Cipher, key: &[u8]) -> AeadKey {
        match cipher {
            Cipher::Aes256Gcm if has_vaes_of_256_bits_only() => AeadKey::ring(key),
            _ => AeadKey::aws_lc(cipher, key),
        }
    }

    pub(super) fn aws_lc(cipher: Cipher, key: &[u8]) -> AeadKey {
        use aws_lc_rs::aead::{AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        AeadKey::AwsLc(LessSafeKey::new(UnboundKey::new(algorithm, key).expect(TAKES_KEY)))
    }

    /// AES-256-GCM.
    pub(super) fn ring(key: &[u8]) -> AeadKey {
        AeadKey::Ring(RingKey(Box::new(ring_aes_256_gcm(key))))
    }

    /// Seals the message where it is.
    pub(super) fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], message: &mut [u8], tag: &mut [u8]) {
        match self {
            AeadKey::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, Aad::from(aad), message).expect(SEALS);
                tag.copy_from_slice(made.as_ref());
            }
            AeadKey::Ring(RingKey(key)) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, Aad::from(aad), message).expect(SEALS);
                tag.copy_from_slice(made.as_ref());
            }
        }
    }

    /// Seals the message into `sealed`, which is as long.
    pub(super) fn seal_from(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        message: &[u8],
        sealed: &mut [u8],
        tag: &mut [u8],
    ) {
        match self {
            AeadKey::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_out_of_place_scatter(nonce, Aad::from(aad), message, sealed, &[], tag).expect(SEALS);
            }
            AeadKey::Ring(_) => {
                sealed.copy_from_slice(message);
                self.seal(nonce, aad, sealed, tag);
            }
        }
    }

    /// Opens message and tag where they are; what is returned is the message. What does not verify is not left there
    /// in the clear.
    pub(super) fn open<'a>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], BadTag> {
        if sealed.len() < TAG_LEN {
            return Err(BadTag);
        }
        match self {
            AeadKey::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(aad), sealed).map_err(|_| BadTag)
            }
            AeadKey::Ring(RingKey(key)) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(aad), sealed).map_err(|_| BadTag)
            }
        }
    }
}

fn ring_aes_256_gcm(key: &[u8]) -> ring::aead::LessSafeKey {
    use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect(TAKES_KEY))
}

/// VAES and VPCLMULQDQ without AVX-512: AMD's Zen 3, Intel's client CPUs from Alder Lake on.
#[cfg(target_arch = "x86_64")]
fn has_vaes_of_256_bits_only() -> bool {
    std::arch::is_x86_feature_detected!("vaes")
        && std::arch::is_x86_feature_detected!("vpclmulqdq")
        && std::arch::is_x86_feature_detected!("avx2")
        && !std::arch::is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_vaes_of_256_bits_only() -> bool {
    false
}

const TAKES_KEY: &str = "both ciphers take 32-byte keys";
const SEALS: &str = "AES-GCM and ChaCha20 seal any message of a datagram's size";
