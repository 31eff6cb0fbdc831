//! wireguard-go under kernel VXLAN: WireGuard carries IP only, so VXLAN brings the frames.

use std::path::{Path, PathBuf};

use anyhow::Result;
use netns_tests::{Lab, Node, cmd, vxlan};

use super::segment::Segment;
use super::{Contender, Process, Running, folder, need};

pub(super) struct Wireguard;

impl Contender for Wireguard {
    fn name(&self) -> &'static str {
        "wireguard-go"
    }

    fn about(&self) -> &'static str {
        "WireGuard in user space (ChaCha20-Poly1305) under kernel VXLAN; MTUs so that nothing is fragmented"
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        need(&["wireguard-go", "wg"])?;
        let tunnel_mtu = lab.spec().underlays[0].mtu - WIREGUARD_OVERHEAD;
        let segment = Segment { tag: "wgvx", subnet: 20, mtu: tunnel_mtu - vxlan::OVERHEAD };
        segment.build(lab)?;
        let ends: Vec<End<'_>> =
            lab.nodes().iter().enumerate().map(|(i, n)| End::new(lab, i, n)).collect::<Result<_>>()?;
        let mut processes = Vec::new();
        for (end, far) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            processes.push(end.start(far, tunnel_mtu)?);
            end.vxlan(far, &segment)?;
        }
        Ok(Running::new(segment.arena(lab, self.name())?, processes))
    }
}

/// One node's side.
struct End<'a> {
    node: &'a Node,
    dir: PathBuf,
    /// Unique on the host: wireguard-go's control socket is named after it, in a folder that all namespaces share.
    device: String,
    /// Address in the tunnel.
    inner: String,
    public_key: String,
}

impl<'a> End<'a> {
    fn new(lab: &Lab, i: usize, node: &'a Node) -> Result<End<'a>> {
        let dir = folder(lab, "wireguard", node.name())?;
        let private_key = cmd::run(&["wg", "genkey"])?;
        std::fs::write(dir.join(KEY_FILE), &private_key)?;
        let public_key = cmd::run_with_input(&["wg", "pubkey"], Some(&private_key))?.trim().to_owned();
        let device = format!("wg{i}-{}", std::process::id());
        Ok(End { node, dir, device, inner: format!("10.21.0.{}", i + 1), public_key })
    }

    fn start(&self, far: &End<'_>, mtu: u32) -> Result<Process> {
        let (ns, device) = (self.node.ns(), self.device.as_str());
        let mut process = Process::start(ns, &["wireguard-go", "-f", device], &self.dir.join("log"))?;
        process.wait_device(ns, device)?;
        let socket = format!("/var/run/wireguard/{device}.sock");
        process.wait_until("its control socket", |_| Path::new(&socket).exists())?;
        let key = self.dir.join(KEY_FILE).display().to_string();
        let endpoint = format!("{}:{PORT}", far.node.underlay_v4(0));
        let (port, allowed) = (PORT.to_string(), format!("{}/32", far.inner));
        cmd::run(&[
            "wg",
            "set",
            device,
            "listen-port",
            &port,
            "private-key",
            &key, //
            "peer",
            &far.public_key,
            "endpoint",
            &endpoint,
            "allowed-ips",
            &allowed,
        ])?;
        let inner = &self.inner;
        ns.ip_batch(&format!("addr add {inner}/24 dev {device}\nlink set {device} mtu {mtu} up\n"))?;
        Ok(process)
    }

    fn vxlan(&self, far: &End<'_>, segment: &Segment) -> Result<()> {
        let (ns, device, inner) = (self.node.ns(), &self.device, &self.inner);
        ns.ip(&format!("link add wgvx type vxlan id 4343 dev {device} local {inner} dstport 4790"))?;
        ns.bridge(&format!("fdb append 00:00:00:00:00:00 dev wgvx dst {}", far.inner))?;
        segment.attach(self.node, "wgvx")
    }
}

const KEY_FILE: &str = "key";
const PORT: u16 = 51820;
/// IPv4, UDP and WireGuard's data header and tag, in bytes; padding to 16 comes out of the inner packet.
const WIREGUARD_OVERHEAD: u32 = 20 + 8 + 16 + 16;
