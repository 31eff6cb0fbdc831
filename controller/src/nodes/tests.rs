//! The server for nodes over loopback TLS, with the generated client and a real engine and store.

mod fixture;
mod relays;
mod sessions;
mod volumes;
