//! n2n, edge to edge after a supernode has made them known to each other.

use anyhow::Result;
use netns_tests::Lab;

use super::segment::Segment;
use super::{CLIENT, Contender, Process, Running, SERVER, folder, need};

pub(super) struct N2n;

impl Contender for N2n {
    fn name(&self) -> &'static str {
        "n2n"
    }

    fn about(&self) -> &'static str {
        "n2n as Debian has it (1.3: Twofish is its only cipher), edge to edge, its TAP straight in the instance"
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        need(&["edge", "supernode"])?;
        let segment = Segment { tag: "nton", subnet: 23, mtu: MTU };
        let first = &lab.nodes()[0];
        let supernode = format!("{}:{SUPERNODE_PORT}", first.underlay_v4(0));
        let port = SUPERNODE_PORT.to_string();
        let log = folder(lab, "n2n", first.name())?.join("supernode.log");
        let mut super_process = Process::start(first.ns(), &["supernode", "-l", &port], &log)?;
        // An edge whose registration is lost tries again only half a minute later.
        super_process.wait_until("its socket", |_| {
            first.ns().exec(&["ss", "-Hlun"]).is_ok_and(|text| text.contains(&format!(":{port} ")))
        })?;
        let mut processes = vec![super_process];
        for (i, name) in [CLIENT, SERVER].into_iter().enumerate() {
            let instance = lab.instance(name)?;
            let node = lab.node(instance.node())?;
            let log = folder(lab, "n2n", node.name())?.join("edge.log");
            let (address, mtu) = (segment.address(instance)?.to_string(), MTU.to_string());
            let mac = format!("02:2e:00:00:00:{:02x}", i + 1);
            let args = [
                "edge", "-d", DEVICE, "-a", &address, "-c", "bench", "-k", KEY, "-l", &supernode, "-m",
                &mac, //
                "-M", &mtu, "-u", "0", "-g", "0",
            ];
            let mut process = Process::start(node.ns(), &args, &log)?;
            process.wait_device(node.ns(), DEVICE)?;
            process.wait_until("its address", |_| {
                node.ns().ip(&format!("addr show {DEVICE}")).is_ok_and(|text| text.contains(&address))
            })?;
            // An edge is known by its own MAC only: behind a bridge every frame would go by the supernode.
            segment.hand_over(lab, instance, DEVICE)?;
            processes.push(process);
        }
        Ok(Running::new(segment.arena(lab, self.name())?, processes))
    }
}

const DEVICE: &str = "nton";
const KEY: &str = "bench-key";
const SUPERNODE_PORT: u16 = 7654;
/// Forty below its default: it compresses whatever it carries, and what does not compress grows by 95 bytes with its
/// headers, beyond an underlay of 1500. A datagram holds at most 2048 bytes, so that a larger underlay does not help.
const MTU: u32 = 1360;
