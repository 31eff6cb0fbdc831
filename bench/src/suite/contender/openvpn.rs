//! OpenVPN with a TAP, one end as TLS server and one as client.

use std::path::Path;

use anyhow::{Context, Result};
use netns_tests::{Lab, cmd};

use super::segment::Segment;
use super::{Contender, Process, Running, folder, need};

/// Instances' MTU such that nothing is fragmented.
pub(super) const OPENVPN: OpenVpn = OpenVpn { jumbo: false };
/// The large MTU that the project's advice on gigabit networks has: fewer, larger packets pass the daemon, and the
/// kernel cuts and joins the outer datagrams. Instances must then have that MTU too.
pub(super) const OPENVPN_JUMBO: OpenVpn = OpenVpn { jumbo: true };

/// One of the two.
pub(super) struct OpenVpn {
    jumbo: bool,
}

impl Contender for OpenVpn {
    fn name(&self) -> &'static str {
        if self.jumbo { "openvpn-48000" } else { "openvpn" }
    }

    fn about(&self) -> &'static str {
        if self.jumbo {
            "the same with MTU 48000, in the instances too: the kernel fragments what it sends"
        } else {
            "OpenVPN, dev tap, AES-256-GCM, fast-io, mssfix 0, large socket buffers; without its kernel module"
        }
    }

    fn like_for_like(&self) -> bool {
        !self.jumbo
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        need(&["openvpn", "openssl"])?;
        let (tag, subnet, port) = if self.jumbo { ("ovpj", 26, "1195") } else { ("ovpn", 24, "1194") };
        let mtu = if self.jumbo { JUMBO } else { lab.spec().underlays[0].mtu - OVERHEAD };
        let segment = Segment { tag, subnet, mtu };
        segment.build(lab)?;
        let [server, client] = [&lab.nodes()[0], &lab.nodes()[1]];
        let fingerprints = [server, client]
            .map(|node| certificate(&folder(lab, tag, node.name())?))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut processes = Vec::new();
        for (node, far, role, trusted) in [
            (server, client, ["--tls-server", "--dh", "none"].as_slice(), &fingerprints[1]),
            (client, server, ["--tls-client"].as_slice(), &fingerprints[0]),
        ] {
            let dir = folder(lab, tag, node.name())?;
            let (local, remote) = (node.underlay_v4(0).to_string(), far.underlay_v4(0).to_string());
            let (key, cert) =
                (dir.join(KEY_FILE).display().to_string(), dir.join(CERT_FILE).display().to_string());
            let mtu = segment.mtu.to_string();
            let args = [
                "openvpn",
                "--dev",
                tag,
                "--dev-type",
                "tap",
                "--proto",
                "udp4", //
                "--local",
                &local,
                "--lport",
                port,
                "--remote",
                &remote,
                port, //
                "--key",
                &key,
                "--cert",
                &cert,
                "--peer-fingerprint",
                trusted, //
                "--cipher",
                "AES-256-GCM",
                "--data-ciphers",
                "AES-256-GCM", //
                "--tun-mtu",
                &mtu,
                "--mssfix",
                "0",
                "--fast-io", //
                "--sndbuf",
                BUFFER,
                "--rcvbuf",
                BUFFER,
                "--txqueuelen",
                "1000",
                "--keepalive",
                "10",
                "60", //
            ];
            processes.push(Process::start(node.ns(), &[&args, role].concat(), &dir.join("log"))?);
        }
        for (process, node) in processes.iter_mut().zip([server, client]) {
            // It sets its TAP up late, and would undo what was done before.
            process.wait_until("its connection", |log| log.contains("Initialization Sequence Completed"))?;
            segment.attach(node, tag)?;
        }
        Ok(Running::new(segment.arena(lab, self.name())?, processes))
    }
}

/// A key and a self-signed certificate in `dir`; returns its fingerprint.
fn certificate(dir: &Path) -> Result<String> {
    let (key, cert) = (dir.join(KEY_FILE).display().to_string(), dir.join(CERT_FILE).display().to_string());
    cmd::run(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes", //
        "-subj",
        "/CN=bench",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &cert,
    ])?;
    let line = cmd::run(&["openssl", "x509", "-in", &cert, "-noout", "-fingerprint", "-sha256"])?;
    Ok(line.trim().split_once('=').context("openssl printed no fingerprint")?.1.to_owned())
}

const KEY_FILE: &str = "key.pem";
const CERT_FILE: &str = "cert.pem";
const BUFFER: &str = "1048576";
const JUMBO: u32 = 48_000;
/// IPv4, UDP, opcode and peer id, packet id, tag and the inner Ethernet header, in bytes.
const OVERHEAD: u32 = 20 + 8 + 4 + 4 + 16 + 14;
