//! Nonces that need no memory: each says when it was made and proves for whom, so that a flood of requests from
//! invented sources leaves nothing behind.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{hmac, rand};

/// Makes and checks nonces.
#[derive(Debug)]
pub(super) struct Nonces {
    key: hmac::Key,
}

impl Nonces {
    /// With a key of its own: those of another process are stale.
    pub(super) fn new() -> Nonces {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("the system has random numbers once it has made the keys of TLS");
        Nonces { key: hmac::Key::new(hmac::HMAC_SHA256, &key) }
    }

    /// For a source, at a time in seconds.
    pub(super) fn make(&self, source: SocketAddr, now: u64) -> String {
        let slot = now / SLOT;
        format!("{slot:x}.{}", self.mark(source, slot))
    }

    /// Whether it was made for this source and is not old.
    pub(super) fn is_fresh(&self, nonce: &str, source: SocketAddr, now: u64) -> bool {
        let Some((slot, mark)) = nonce.split_once('.') else { return false };
        let Ok(slot) = u64::from_str_radix(slot, 16) else { return false };
        let current = now / SLOT;
        let age = current.checked_sub(slot);
        let expected = self.mark(source, slot);
        age.is_some_and(|age| age <= SLOTS)
            && verify_slices_are_equal(expected.as_bytes(), mark.as_bytes()).is_ok()
    }

    fn mark(&self, source: SocketAddr, slot: u64) -> String {
        let address = match source.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&slot.to_be_bytes());
        context.update(&address.octets());
        context.update(&source.port().to_be_bytes());
        context.sign().as_ref()[..MARK].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Seconds.
const SLOT: u64 = 600;
/// An hour, as RFC 8656 advises.
const SLOTS: u64 = 6;
const MARK: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_serves_its_source_for_an_hour() {
        let nonces = Nonces::new();
        let source: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let nonce = nonces.make(source, 1_000_000);
        assert!(nonces.is_fresh(&nonce, source, 1_000_000) && nonces.is_fresh(&nonce, source, 1_003_600));
        assert!(!nonces.is_fresh(&nonce, source, 1_005_000));
        assert!(!nonces.is_fresh(&nonce, "192.0.2.1:4001".parse().unwrap(), 1_000_000));
        assert!(!nonces.is_fresh(&nonce, "192.0.2.2:4000".parse().unwrap(), 1_000_000));
        assert!(!Nonces::new().is_fresh(&nonce, source, 1_000_000));
        assert!(!nonces.is_fresh(&nonces.make(source, 2_000_000), source, 1_000_000));
        for wrong in ["", ".", "zz.00", "1", "ffffffffffffffffff.00"] {
            assert!(!nonces.is_fresh(wrong, source, 1_000_000), "{wrong}");
        }
    }
}
