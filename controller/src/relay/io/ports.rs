//! The sockets of allocations.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;

use aws_lc_rs::rand;
use tokio::task::AbortHandle;

use super::super::engine::{AllocationId, Ports};
use super::udp::{UdpPort, bind};

/// Those that are open.
pub(super) struct OpenPorts {
    range: RangeInclusive<u16>,
    open: HashMap<AllocationId, Open, ahash::RandomState>,
    /// Not served yet.
    opened: Vec<(AllocationId, Rc<UdpPort>)>,
}

struct Open {
    port: Rc<UdpPort>,
    task: Option<AbortHandle>,
}

impl OpenPorts {
    pub(super) fn new(range: RangeInclusive<u16>) -> OpenPorts {
        OpenPorts { range, open: HashMap::default(), opened: Vec::new() }
    }

    pub(super) fn get(&self, id: AllocationId) -> Option<Rc<UdpPort>> {
        self.open.get(&id).map(|open| open.port.clone())
    }

    pub(super) fn take_opened(&mut self) -> Vec<(AllocationId, Rc<UdpPort>)> {
        std::mem::take(&mut self.opened)
    }

    /// The task that reads it ends with it.
    pub(super) fn served(&mut self, id: AllocationId, task: AbortHandle) {
        match self.open.get_mut(&id) {
            Some(open) => open.task = Some(task),
            None => task.abort(),
        }
    }
}

impl Ports for OpenPorts {
    fn open(&mut self, id: AllocationId, address: IpAddr) -> io::Result<u16> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            let number = random_in(&self.range);
            match open_at(address, number) {
                Ok(port) => {
                    let port = Rc::new(port);
                    self.opened.push((id, port.clone()));
                    self.open.insert(id, Open { port, task: None });
                    return Ok(number);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn close(&mut self, id: AllocationId) {
        self.opened.retain(|(opened, _)| *opened != id);
        if let Some(Open { task: Some(task), .. }) = self.open.remove(&id) {
            task.abort();
        }
    }
}

/// Peers see datagrams come from the address that they were told. Behind a NAT the host does not have it: then the
/// kernel chooses.
fn open_at(address: IpAddr, port: u16) -> io::Result<UdpPort> {
    let socket = match bind(SocketAddr::new(address, port), BUFFER) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let any: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            bind(SocketAddr::new(any, port), BUFFER)?
        }
        result => result?,
    };
    UdpPort::new(socket)
}

/// Nobody outside can tell the next one.
fn random_in(range: &RangeInclusive<u16>) -> u16 {
    let mut bytes = [0; 4];
    // All zero is a port as well.
    let _ = rand::fill(&mut bytes);
    let count = u32::from(range.end() - range.start()) + 1;
    let offset = u32::from_be_bytes(bytes) % count;
    range.start() + u16::try_from(offset).expect("the range is one of 16-bit numbers")
}

/// With half of the ports in use, one in sixty thousand fails.
const ATTEMPTS: usize = 16;
const BUFFER: usize = 1 << 20;
