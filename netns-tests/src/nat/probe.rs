//! What plain UDP sockets find out about a router: how it maps, whom it lets in, whether it hairpins.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::net::{SERVER_1, SERVER_2, v4, v6};
use super::preset::{Filter, Mapping};
use crate::ns::Namespace;

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behaviour {
    /// `None` if nothing got out.
    pub mapping: Option<Mapping>,
    /// `None` if nothing got out.
    pub filter: Option<Filter>,
    /// Where four servers saw the socket: two ports of one host, two of another.
    pub seen: Vec<SocketAddr>,
}

/// Four sockets on two hosts of the internet.
#[derive(Debug)]
pub struct Servers {
    sockets: Vec<UdpSocket>,
}

impl Servers {
    /// Binds them in the internet's namespace.
    pub fn bind(internet: &Namespace, ipv6: bool) -> Result<Servers> {
        let host = |n: u8| -> IpAddr { if ipv6 { v6(n).into() } else { v4(n).into() } };
        let sockets = [SERVER_1, SERVER_1, SERVER_2, SERVER_2].map(|n| bind(internet, host(n)));
        Ok(Servers { sockets: sockets.into_iter().collect::<Result<_>>()? })
    }

    /// Finds out how sockets of `client` fare. `local` is an address of the client's.
    pub fn probe(&self, client: &Namespace, local: IpAddr) -> Result<Behaviour> {
        let socket = bind(client, local)?;
        let mut seen = Vec::new();
        for server in &self.sockets {
            match self.mapped(&socket, server)? {
                Some(at) => seen.push(at),
                None => return Ok(Behaviour { mapping: None, filter: None, seen }),
            }
        }
        let inside = socket.local_addr()?;
        let distinct: BTreeSet<&SocketAddr> = seen.iter().collect();
        let mapping = match distinct.len() {
            1 if seen[0] == inside => Mapping::None,
            1 if seen[0].port() == inside.port() => Mapping::PortKept,
            1 => Mapping::Independent,
            _ => Mapping::PerDestination,
        };
        Ok(Behaviour { mapping: Some(mapping), filter: Some(self.filter(client, local)?), seen })
    }

    /// The address under which the first server sees `socket` after a packet to it.
    pub fn mapped_by_first(&self, socket: &UdpSocket) -> Result<Option<SocketAddr>> {
        self.mapped(socket, &self.sockets[0])
    }

    /// Whether a packet of the first server to `mapped` reaches `socket`.
    pub fn answers(&self, socket: &UdpSocket, mapped: SocketAddr) -> Result<bool> {
        self.sockets[0].send_to(b"answer", mapped).context("the server cannot answer")?;
        Ok(receive(socket, PATIENCE)?.is_some())
    }

    /// From where packets have come to `socket`, whose mapping lets the first server in: a packet of that server, sent
    /// after all others, says when to stop waiting on a busy machine.
    fn reached(&self, socket: &UdpSocket, mapped: SocketAddr) -> Result<Vec<SocketAddr>> {
        let first = self.sockets[0].local_addr()?;
        self.sockets[0].send_to(b"the last one", mapped)?;
        let mut all = Vec::new();
        let mut wait = PATIENCE;
        while let Some(from) = receive(socket, wait)? {
            if from == first {
                wait = SILENCE;
            } else {
                all.push(from);
            }
        }
        ensure!(wait == SILENCE, "the server's answer did not come");
        Ok(all)
    }

    fn mapped(&self, socket: &UdpSocket, server: &UdpSocket) -> Result<Option<SocketAddr>> {
        socket.send_to(b"who am I?", server.local_addr()?).context("the client cannot send")?;
        receive(server, PATIENCE)
    }

    /// A socket that has sent to the first server only: who of the others reaches it?
    fn filter(&self, client: &Namespace, local: IpAddr) -> Result<Filter> {
        let socket = bind(client, local)?;
        let mapped = self.mapped_by_first(&socket)?.context("a packet got out before, and now none does")?;
        for server in [&self.sockets[1], &self.sockets[2]] {
            server.send_to(b"let me in", mapped)?;
        }
        let reached = self.reached(&socket, mapped)?;
        let (other_port, other_host) = (
            reached.contains(&self.sockets[1].local_addr()?),
            reached.contains(&self.sockets[2].local_addr()?),
        );
        Ok(match (other_port, other_host) {
            (true, true) => Filter::Independent,
            (true, false) => Filter::Address,
            _ => Filter::AddressAndPort,
        })
    }
}

/// What became of a packet from one client to another's mapping on their common router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hairpin {
    /// It came, from the sender's own mapping.
    FromMapping,
    /// It came, from another address.
    FromElsewhere,
    /// It did not come.
    No,
}

/// Sends from one client to the mapping of another behind the same router.
pub fn hairpin(servers: &Servers, one: (&Namespace, IpAddr), two: (&Namespace, IpAddr)) -> Result<Hairpin> {
    let (from, to) = (bind(one.0, one.1)?, bind(two.0, two.1)?);
    let mapped = |socket: &UdpSocket| -> Result<SocketAddr> {
        servers.mapped_by_first(socket)?.context("no packet gets out")
    };
    let (mine, theirs) = (mapped(&from)?, mapped(&to)?);
    // What a router with a filter wants to have seen first, from the mapping that it will be sent to.
    to.send_to(b"open", mine)?;
    from.send_to(b"hello", theirs)?;
    Ok(match servers.reached(&to, theirs)?.first() {
        Some(source) if source.ip() == mine.ip() => Hairpin::FromMapping,
        Some(_) => Hairpin::FromElsewhere,
        None => Hairpin::No,
    })
}

/// A socket of `ns` on any port, with a read timeout.
pub fn bind(ns: &Namespace, ip: IpAddr) -> Result<UdpSocket> {
    bind_port(ns, SocketAddr::new(ip, 0))
}

/// The same on a certain port.
pub fn bind_port(ns: &Namespace, at: SocketAddr) -> Result<UdpSocket> {
    let socket = ns.enter(|| UdpSocket::bind(at).with_context(|| format!("cannot bind {at}")))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, within: Duration) -> Result<Option<SocketAddr>> {
    socket.set_read_timeout(Some(within))?;
    match socket.recv_from(&mut [0; 64]) {
        Ok((_, from)) => Ok(Some(from)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error).context("receiving"),
    }
}

/// So long without a packet means that none comes: in namespaces of one host they take microseconds.
const SILENCE: Duration = Duration::from_millis(200);
/// For a packet that is to come, on a host with more to do than it can.
const PATIENCE: Duration = Duration::from_secs(1);
