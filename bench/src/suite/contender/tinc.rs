//! tinc 1.0 as a switch.

use anyhow::Result;
use netns_tests::{Lab, Node, cmd};

use super::segment::Segment;
use super::{Contender, Process, Running, folder, need};

pub(super) struct Tinc;

impl Contender for Tinc {
    fn name(&self) -> &'static str {
        "tinc"
    }

    fn about(&self) -> &'static str {
        "tinc 1.0, Mode = switch, AES-128-CBC and SHA-1 (tinc.conf(5) advises CBC ciphers), no compression"
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        need(&["tincd"])?;
        // It is built for frames of at most 1518 bytes, whatever the underlay takes.
        let mtu = (lab.spec().underlays[0].mtu - OVERHEAD).min(1500);
        let segment = Segment { tag: "tinc", subnet: 22, mtu };
        segment.build(lab)?;
        for node in lab.nodes() {
            configure(lab, node)?;
        }
        exchange_host_files(lab)?;
        let mut processes = Vec::new();
        for node in lab.nodes() {
            let dir = folder(lab, "tinc", node.name())?;
            let (config, pid) =
                (format!("--config={}", dir.display()), format!("--pidfile={}", dir.join("pid").display()));
            let mut process =
                Process::start(node.ns(), &["tincd", "-D", "-d2", &config, &pid], &dir.join("log"))?;
            process.wait_device(node.ns(), DEVICE)?;
            segment.attach(node, DEVICE)?;
            processes.push(process);
        }
        for process in &mut processes {
            process.wait_until("a connection", |log| log.contains("activated"))?;
        }
        Ok(Running::new(segment.arena(lab, self.name())?, processes))
    }
}

/// Configuration, keys and the node's own host file.
fn configure(lab: &Lab, node: &Node) -> Result<()> {
    let dir = folder(lab, "tinc", node.name())?;
    std::fs::create_dir_all(dir.join("hosts"))?;
    let connect: String = lab
        .nodes()
        .iter()
        .filter(|far| far.name() != node.name())
        .map(|far| format!("ConnectTo = {}\n", name(far)))
        .collect();
    let own = name(node);
    std::fs::write(
        dir.join("tinc.conf"),
        format!(
            "Name = {own}\nMode = switch\nDeviceType = tap\nInterface = {DEVICE}\nAddressFamily = ipv4\n\
             ProcessPriority = high\nUDPRcvBuf = {BUFFER}\nUDPSndBuf = {BUFFER}\n{connect}"
        ),
    )?;
    std::fs::write(
        dir.join("hosts").join(&own),
        format!("Address = {}\nCipher = aes-128-cbc\nDigest = sha1\nCompression = 0\n", node.underlay_v4(0)),
    )?;
    // It asks where to put the keys; without a terminal it takes its own proposal, the host file.
    cmd::run(&["tincd", &format!("--config={}", dir.display()), "-K2048"]).map(drop)
}

fn exchange_host_files(lab: &Lab) -> Result<()> {
    for from in lab.nodes() {
        for to in lab.nodes().iter().filter(|to| to.name() != from.name()) {
            let file = |node: &Node| {
                Ok::<_, anyhow::Error>(folder(lab, "tinc", node.name())?.join("hosts").join(name(from)))
            };
            std::fs::copy(file(from)?, file(to)?)?;
        }
    }
    Ok(())
}

/// tinc takes letters, digits and underscores only.
fn name(node: &Node) -> String {
    node.name().replace('-', "_")
}

const DEVICE: &str = "tinc";
/// Bytes, as OpenVPN is given.
const BUFFER: usize = 1 << 20;
/// IPv4, UDP, sequence number, Ethernet header, padding to the cipher's block and MAC, in bytes, rounded up.
const OVERHEAD: u32 = 20 + 8 + 4 + 14 + 16 + 4;
