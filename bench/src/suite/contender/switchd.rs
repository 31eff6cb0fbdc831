//! The shipped daemon, configured as it ships.

use anyhow::Result;
use netns_tests::{Lab, Node};

use super::{CLIENT, Contender, Running, SERVER};
use crate::suite::Arena;

pub(super) struct Switchd;

impl Contender for Switchd {
    fn name(&self) -> &'static str {
        "switchd"
    }

    fn about(&self) -> &'static str {
        "this project's switch as it ships; instances' MTU that of the underlay"
    }

    fn required(&self) -> bool {
        true
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        // The lab's own keepalives are short ones, for tests of failures.
        lab.start_switchd(|config| config.link.clear())?;
        let (client, server) = (lab.instance(CLIENT)?, lab.instance(SERVER)?);
        let arena = Arena {
            contender: self.name(),
            client: client.ns(),
            server: server.ns(),
            address: server.v4()?,
            client_address: client.v4()?,
            daemons: lab.nodes().iter().map(Node::switchd_pid).collect::<Result<_>>()?,
            encrypted: true,
        };
        Ok(Running::new(arena, Vec::new()))
    }
}
