//! Keys, join tokens and the TLS of node sessions, for both of their ends.
//!
//! A node and the controller know each other by Ed25519 keys that TLS proves ([`tls`]). The node dials ([`client`]),
//! the controller accepts ([`server`]); a [`token`] makes a key a node's, and [`joined`] is what the node then keeps.

pub mod backoff;
pub mod client;
pub mod file;
pub mod joined;
pub mod key;
pub mod rotation;
pub mod server;
pub mod tls;
pub mod token;

/// A number from the operating system's random source, for [`backoff::Backoff`] and for the number of a process's
/// boot.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the operating system's random source does not fail once it is seeded");
    u64::from_le_bytes(bytes)
}

/// Seconds since 1970, as tokens and files count them.
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
