//! Proof, before anything is timed, that a contender carries what it is said to carry, the way it is said to.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::packet::Sniffer;
use netns_tests::{Lab, wait_for, wait_ok};

use super::Arena;
use super::contender::Contender;

/// Sends datagrams with a known text from client to server and looks for the text on the wire between the nodes.
///
/// An error unless they arrive, and unless the text is on the wire where nothing is sealed, and is not where
/// something is: the plaintext contenders show that the search would find it. What a contender knows its datagrams by
/// must be seen on them.
pub fn check(lab: &Lab, arena: &Arena<'_>, contender: &dyn Contender) -> Result<()> {
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
    if !contender.crosses() {
        return Ok(());
    }
    fence(lab, &sniffer)?;
    let bare = sniffer.count(|_, frame| contains(&frame.bytes, text.as_bytes())) > 0;
    let carried = sniffer.count(|_, frame| frame.bytes.len() >= PAYLOAD) > 0;
    ensure!(carried, "{} carried a datagram, but not between the nodes", arena.contender);
    let alike = |frame: &[u8]| {
        (PAYLOAD..PAYLOAD + OVERHEAD_MAX).contains(&frame.len())
            && frame.get(UDP_PAYLOAD).is_some_and(|first| contender.sends(*first))
    };
    ensure!(
        sniffer.count(|_, frame| alike(&frame.bytes)) > 0,
        "{} carried a datagram between the nodes, but in none of its own",
        arena.contender
    );
    ensure!(
        !(arena.encrypted && bare),
        "{} is said to encrypt, but its plaintext is on the wire",
        arena.contender
    );
    ensure!(arena.encrypted || bare, "the plaintext of {} was not found on the wire", arena.contender);
    Ok(())
}

/// Waits until the sniffer has collected whatever crossed the wire before this call.
fn fence(lab: &Lab, sniffer: &Sniffer) -> Result<()> {
    let (from, to) = (&lab.nodes()[0], lab.nodes()[1].underlay_v4(0));
    let socket = from
        .ns()
        .enter(|| UdpSocket::bind((from.underlay_v4(0), 0)).context("cannot bind in the underlay"))?;
    socket.send_to(FENCE, (to, DISCARD))?;
    wait_for("the end of what crossed the wire", PATIENCE, || {
        sniffer.count(|_, frame| contains(&frame.bytes, FENCE)) > 0
    })
    .map(drop)
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

const FENCE: &[u8] = b"all that came before has been seen";
/// RFC 863.
const DISCARD: u16 = 9;
const PAYLOAD: usize = 700;
/// Headers of one contender around the datagram.
const OVERHEAD_MAX: usize = 200;
/// In a frame of UDP over IPv4.
const UDP_PAYLOAD: usize = 14 + 20 + 8;
const PATIENCE: Duration = Duration::from_secs(1);
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
