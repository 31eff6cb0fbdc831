//! Where one contender is measured.

use std::net::IpAddr;

use netns_tests::Namespace;

/// Where one contender is measured: two ends that reach each other through it.
#[derive(Clone, Debug)]
pub struct Arena<'a> {
    /// Whose turn it is.
    pub contender: &'static str,
    /// Where flows begin.
    pub client: &'a Namespace,
    /// Where flows end.
    pub server: &'a Namespace,
    /// Of the server end.
    pub address: IpAddr,
    /// Of the client end.
    pub client_address: IpAddr,
    /// Processes whose CPU time and memory are the contender's. Empty: it works in the kernel.
    pub daemons: Vec<u32>,
    /// Plaintext or sealed.
    pub encrypted: bool,
}
