//! Plaintext kernel VXLAN.

use anyhow::Result;
use netns_tests::{Lab, vxlan};

use super::{CLIENT, Contender, Running, SERVER};
use crate::suite::Arena;

pub(super) struct Vxlan;

impl Contender for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    fn about(&self) -> &'static str {
        "plaintext kernel VXLAN with all offloads that the kernel gives it; instances' MTU 50 below the underlay's"
    }

    fn encrypted(&self) -> bool {
        false
    }

    fn required(&self) -> bool {
        true
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        vxlan::build(lab)?;
        let (client, server) = (lab.instance(CLIENT)?, lab.instance(SERVER)?);
        let arena = Arena {
            contender: self.name(),
            client: client.ns(),
            server: server.ns(),
            address: vxlan::address(server)?,
            client_address: vxlan::address(client)?,
            daemons: Vec::new(),
            encrypted: false,
        };
        Ok(Running::new(arena, Vec::new()))
    }
}
