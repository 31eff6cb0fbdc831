//! Messages and services of `proto/node.proto`, as generated.
#![allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "generated code"
)]

use std::fmt;

tonic::include_proto!("switchd.node.v1");

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RelayServer");
        shown.field("address", &self.address).field("transport", &self.transport);
        shown.field("username", &self.username).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The payload has keys in it.
impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.payload.len();
        f.debug_struct("Signal")
            .field("node_id", &self.node_id)
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let relay = RelayServer { password: "north".to_owned(), ..Default::default() };
        let servers = RelayServers { relays: vec![relay], ..Default::default() };
        let enrol = EnrolRequest { secret: b"north".to_vec(), ..Default::default() };
        let signal = Signal { payload: b"north".to_vec(), ..Default::default() };
        let shown = format!("{servers:?} {enrol:?} {signal:?}");
        assert!(!shown.contains("north") && !shown.contains("110, 111"), "{shown}");
    }
}
