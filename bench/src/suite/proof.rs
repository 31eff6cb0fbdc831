//! Proof, before anything is timed, that a contender carries what it is said to carry, the way it is said to.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::packet::Sniffer;
use netns_tests::{Lab, wait_for, wait_ok};

use super::Arena;

/// Sends datagrams with a known text from client to server and looks for the text on the wire between the nodes.
///
/// An error unless they arrive, and unless the text is on the wire where nothing is sealed, and is not where
/// something is: the plaintext contenders show that the search would find it. `crosses` is false for a contender
/// whose frames do not leave their node.
pub fn check(lab: &Lab, arena: &Arena<'_>, crosses: bool) -> Result<()> {
    let sniffer = Sniffer::start(lab.underlay(0), "p1")?;
    let text = format!("plaintext that {} carries. ", arena.contender);
    let payload: Vec<u8> = text.bytes().cycle().take(PAYLOAD).collect();
    let server =
        arena.server.enter(|| UdpSocket::bind((arena.address, 0)).context("cannot bind the server's end"))?;
    let client = arena
        .client
        .enter(|| UdpSocket::bind((arena.client_address, 0)).context("cannot bind the client's end"))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let to = server.local_addr()?;
    let mut buf = vec![0; PAYLOAD + 1];
    // The first ones may be lost while neighbours and peers are found.
    wait_ok("a datagram to arrive", ARRIVES_WITHIN, || {
        client.send_to(&payload, to)?;
        let len = server.recv(&mut buf)?;
        ensure!(buf[..len] == payload[..], "a datagram arrived changed");
        Ok(())
    })?;
    // What crossed the wire has been copied to the sniffer's socket by now, but its thread may not have got to it.
    let marker = text.as_bytes();
    let bare = || sniffer.count(|_, frame| frame.bytes.windows(marker.len()).any(|window| window == marker));
    if !crosses {
        return Ok(());
    }
    wait_for("the datagram on the wire", PATIENCE, || {
        sniffer.count(|_, frame| frame.bytes.len() >= PAYLOAD) > 0
    })?;
    if arena.encrypted {
        ensure!(bare() == 0, "{} is said to encrypt, but its plaintext is on the wire", arena.contender);
    } else {
        wait_for("the plaintext on the wire", PATIENCE, || bare() > 0)?;
    }
    Ok(())
}

const PAYLOAD: usize = 700;
const PATIENCE: Duration = Duration::from_millis(500);
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
