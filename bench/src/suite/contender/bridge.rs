//! Two instances of one node, on the bridge that the switch serves.

use anyhow::Result;
use netns_tests::Lab;

use super::{CLIENT, Contender, NEIGHBOUR, Running};
use crate::suite::Arena;

pub(super) struct Bridge;

impl Contender for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn about(&self) -> &'static str {
        "two instances on the bridge of one node, which the switch serves beside"
    }

    fn encrypted(&self) -> bool {
        false
    }

    fn required(&self) -> bool {
        true
    }

    fn crosses(&self) -> bool {
        false
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        let (client, server) = (lab.instance(CLIENT)?, lab.instance(NEIGHBOUR)?);
        let arena = Arena {
            contender: self.name(),
            client: client.ns(),
            server: server.ns(),
            address: server.v4()?,
            client_address: client.v4()?,
            daemons: Vec::new(),
            encrypted: false,
        };
        Ok(Running::new(arena, Vec::new()))
    }
}
