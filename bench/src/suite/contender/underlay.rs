//! Nothing between the nodes: what the lab itself can carry.

use anyhow::Result;
use netns_tests::Lab;

use super::{Contender, Running};
use crate::suite::Arena;

pub(super) struct Underlay;

impl Contender for Underlay {
    fn name(&self) -> &'static str {
        "underlay"
    }

    fn about(&self) -> &'static str {
        "from node to node, without any overlay or instance"
    }

    fn encrypted(&self) -> bool {
        false
    }

    fn required(&self) -> bool {
        true
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        let [client, server] = [&lab.nodes()[0], &lab.nodes()[1]];
        let arena = Arena {
            contender: self.name(),
            client: client.ns(),
            server: server.ns(),
            address: server.underlay_v4(0),
            client_address: client.underlay_v4(0),
            daemons: Vec::new(),
            encrypted: false,
        };
        Ok(Running::new(arena, Vec::new()))
    }
}
