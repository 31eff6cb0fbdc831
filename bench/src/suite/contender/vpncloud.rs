//! vpncloud as a switch.

use anyhow::{Result, bail};
use netns_tests::{Lab, measure, target_dir};

use super::segment::Segment;
use super::{Contender, Process, Running, folder};

pub(super) struct VpnCloud;

impl Contender for VpnCloud {
    fn name(&self) -> &'static str {
        "vpncloud"
    }

    fn about(&self) -> &'static str {
        "vpncloud 2.3, type tap, mode switch, AES-256-GCM"
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        let program = program()?;
        let segment = Segment { tag: "vpnc", subnet: 25, mtu: lab.spec().underlays[0].mtu - OVERHEAD };
        segment.build(lab)?;
        let mut processes = Vec::new();
        for (i, node) in lab.nodes().iter().enumerate() {
            let dir = folder(lab, "vpncloud", node.name())?;
            // It panics where there is no default route. Nothing else looks at this one.
            node.ns().ip("route add default dev eth0")?;
            let far = &lab.nodes()[1 - i];
            let (listen, peer) =
                (format!("{}:{PORT}", node.underlay_v4(0)), format!("{}:{PORT}", far.underlay_v4(0)));
            let args = [
                &program,
                "--type",
                "tap",
                "--mode",
                "switch",
                "--device",
                DEVICE,
                "--algorithm",
                "aes256", //
                "--password",
                PASSWORD,
                "--listen",
                &listen,
                "--peer",
                &peer,
                "--no-port-forwarding", //
            ];
            let mut process = Process::start(node.ns(), &args, &dir.join("log"))?;
            process.wait_device(node.ns(), DEVICE)?;
            segment.attach(node, DEVICE)?;
            processes.push(process);
        }
        for process in &mut processes {
            process.wait_until("a connection", |log| log.contains("Added peer"))?;
        }
        Ok(Running::new(segment.arena(lab, self.name())?, processes))
    }
}

/// Where `make bench` installs it, else wherever the shell finds it.
fn program() -> Result<String> {
    let own = target_dir().join("peers/bin/vpncloud");
    match () {
        () if own.exists() => Ok(own.display().to_string()),
        () if measure::have("vpncloud") => Ok("vpncloud".to_owned()),
        () => bail!("no vpncloud here: .ci/deps-bench installs it with cargo into target/peers"),
    }
}

const DEVICE: &str = "vpnc";
const PORT: u16 = 3210;
const PASSWORD: &str = "bench";
/// What it takes off the underlay's MTU itself, in bytes.
const OVERHEAD: u32 = 87;
