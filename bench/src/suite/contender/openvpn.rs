//! OpenVPN with a TAP, one end as TLS server and one as client.

use std::path::Path;

use anyhow::{Context, Result};
use netns_tests::{Lab, cmd};

use super::segment::Segment;
use super::{Contender, Process, Running, folder, need};

pub(super) struct OpenVpn;

impl Contender for OpenVpn {
    fn name(&self) -> &'static str {
        "openvpn"
    }

    fn about(&self) -> &'static str {
        "OpenVPN, dev tap, AES-256-GCM, fast-io, mssfix 0, large socket buffers; without its kernel module"
    }

    fn up<'a>(&self, lab: &'a Lab) -> Result<Running<'a>> {
        need(&["openvpn", "openssl"])?;
        let segment = Segment { tag: "ovpn", subnet: 24, mtu: lab.spec().underlays[0].mtu - OVERHEAD };
        segment.build(lab)?;
        let [server, client] = [&lab.nodes()[0], &lab.nodes()[1]];
        let fingerprints = [server, client]
            .map(|node| certificate(&folder(lab, "openvpn", node.name())?))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut processes = Vec::new();
        for (node, far, role, trusted) in [
            (server, client, ["--tls-server", "--dh", "none"].as_slice(), &fingerprints[1]),
            (client, server, ["--tls-client"].as_slice(), &fingerprints[0]),
        ] {
            let dir = folder(lab, "openvpn", node.name())?;
            let (local, remote) = (node.underlay_v4(0).to_string(), far.underlay_v4(0).to_string());
            let (key, cert) =
                (dir.join(KEY_FILE).display().to_string(), dir.join(CERT_FILE).display().to_string());
            let mtu = segment.mtu.to_string();
            let args = [
                "openvpn",
                "--dev",
                DEVICE,
                "--dev-type",
                "tap",
                "--proto",
                "udp4", //
                "--local",
                &local,
                "--lport",
                PORT,
                "--remote",
                &remote,
                PORT, //
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
            segment.attach(node, DEVICE)?;
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

const DEVICE: &str = "ovpn";
const KEY_FILE: &str = "key.pem";
const CERT_FILE: &str = "cert.pem";
const PORT: &str = "1194";
const BUFFER: &str = "1048576";
/// IPv4, UDP, opcode and peer id, packet id, tag and the inner Ethernet header, in bytes.
const OVERHEAD: u32 = 20 + 8 + 4 + 4 + 16 + 14;
