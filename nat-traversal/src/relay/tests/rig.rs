//! A client and a real server's state machine in memory.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use turn_client_proto::api::Transmit;
use turn_client_proto::types::stun::attribute::{ErrorCode, MessageIntegrity};
use turn_client_proto::types::stun::message::{Message, MessageClass, MessageWriteVec, Method};
use turn_client_proto::types::stun::prelude::{AttributeStaticType, MessageWrite, MessageWriteExt};
use turn_client_proto::types::{Instant as TurnInstant, TransportType};
use turn_server_proto::api::{TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;

use super::super::{
    LostReason, RelayClient, RelayConfig, RelayEvent, RelayFamily, RelayTransport, TURN_ZERO,
};
use crate::route::RelayId;

pub(super) fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

pub(super) fn server_addr() -> SocketAddr {
    addr("203.0.113.10:3478")
}

pub(super) fn node() -> SocketAddr {
    addr("198.51.100.7:6000")
}

/// A client and a server with invented time between them, and no delay.
pub(super) struct Rig {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) client: RelayClient,
    pub(super) server: Option<TurnServer>,
    pub(super) transport: TransportType,
    /// Where the server's allocations are.
    pub(super) relay_ip: IpAddr,
    pub(super) next_port: u16,
    /// Errors to give in place of what the server would answer to a signed request.
    pub(super) refuse: Option<(Method, u16)>,
    /// How many of 256 datagrams are lost, and by which dice.
    pub(super) lose: u8,
    pub(super) dice: u32,
    /// The methods of the client's requests, and when they went.
    pub(super) requests: Vec<(Duration, Method)>,
    pub(super) events: Vec<RelayEvent>,
    pub(super) to_peers: Vec<(SocketAddr, Vec<u8>)>,
}

impl Rig {
    pub(super) fn new() -> Rig {
        Rig::with(RelayTransport::Udp, "p1")
    }

    pub(super) fn with(transport: RelayTransport, password: &str) -> Rig {
        let start = Instant::now();
        let mut rig = Rig {
            start,
            now: start,
            client: client(transport, password, start),
            server: None,
            transport: match transport {
                RelayTransport::Udp => TransportType::Udp,
                RelayTransport::Stream => TransportType::Tcp,
            },
            relay_ip: server_addr().ip(),
            next_port: 50_000,
            refuse: None,
            lose: 0,
            dice: 1,
            requests: Vec::new(),
            events: Vec::new(),
            to_peers: Vec::new(),
        };
        rig.start_server();
        rig
    }

    pub(super) fn start_server(&mut self) {
        let mut server = TurnServer::new(self.transport, server_addr(), "realm".to_owned());
        server.add_user("u1".to_owned(), "p1".to_owned());
        self.server = Some(server);
    }

    pub(super) fn allocated() -> Rig {
        let mut rig = Rig::new();
        rig.run_for(Duration::from_secs(1));
        assert!(matches!(rig.events.remove(0), RelayEvent::Allocated { .. }));
        rig
    }

    pub(super) fn server_time(&self) -> TurnInstant {
        TURN_ZERO + (self.now - self.start)
    }

    pub(super) fn lost(&mut self) -> bool {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((self.dice >> 16) as u8) < self.lose
    }

    pub(super) fn client_gets(&mut self, datagram: &[u8]) {
        if self.lost() {
            return;
        }
        match self.transport {
            TransportType::Udp => {
                self.client.handle_datagram(datagram, self.now);
            }
            TransportType::Tcp => {
                for chunk in datagram.chunks(7) {
                    self.client.handle_stream_bytes(chunk, self.now);
                }
            }
        }
    }

    pub(super) fn server_gets(&mut self, datagram: &[u8]) {
        if let Ok(message) = Message::from_bytes(datagram)
            && !message.has_class(MessageClass::Indication)
        {
            self.requests.push((self.now - self.start, message.method()));
            let signed = message.has_attribute(MessageIntegrity::TYPE);
            if let Some((method, code)) = self.refuse
                && method == message.method()
                && signed
            {
                let refusal = refusal(&message, code);
                return self.client_gets(&refusal);
            }
        }
        if self.lost() {
            return;
        }
        let (now, transport) = (self.server_time(), self.transport);
        let Some(server) = &mut self.server else { return };
        let transmit = Transmit::new(datagram.to_vec(), transport, node(), server_addr());
        if let Some(reply) = server.recv(transmit, now) {
            let reply = reply.build();
            self.deliver(reply.to, &reply.data);
        }
    }

    pub(super) fn deliver(&mut self, to: SocketAddr, data: &[u8]) {
        if to == node() { self.client_gets(data) } else { self.to_peers.push((to, data.to_vec())) }
    }

    pub(super) fn peer_sends(&mut self, peer: SocketAddr, data: &[u8]) {
        let relayed = self.client.relayed().unwrap();
        let now = self.server_time();
        let transmit = Transmit::new(data.to_vec(), TransportType::Udp, peer, relayed);
        if let Some(out) = self.server.as_mut().unwrap().recv(transmit, now) {
            let out = out.build();
            self.deliver(out.to, &out.data);
        }
        self.drain_events();
    }

    pub(super) fn drain_events(&mut self) {
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
    }

    /// The server's timers; when it wants to be called again.
    pub(super) fn run_server(&mut self) -> Option<Instant> {
        let now = self.server_time();
        loop {
            let ret = self.server.as_mut()?.poll(now);
            match ret {
                TurnServerPollRet::AllocateSocket {
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                } => {
                    self.next_port += 1;
                    let socket = SocketAddr::new(self.relay_ip, self.next_port);
                    self.server.as_mut()?.allocated_socket(
                        transport,
                        listen_addr,
                        client_addr,
                        allocation_transport,
                        family,
                        Ok(socket),
                        now,
                    );
                }
                TurnServerPollRet::WaitUntil(at) => {
                    if let Some(transmit) = self.server.as_mut()?.poll_transmit(now) {
                        self.deliver(transmit.to, &transmit.data);
                        continue;
                    }
                    return Some(self.start + (at - TURN_ZERO));
                }
                _ => {}
            }
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time, |_| false);
    }

    /// Runs until there is an event that `enough` accepts, or until the time.
    pub(super) fn run_until(&mut self, end: Instant, enough: impl Fn(&RelayEvent) -> bool) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 1_000_000, "a loop without end: {:?}", self.client);
            while let Some(message) = self.client.poll_transmit(self.now) {
                self.server_gets(&message);
            }
            let server = self.run_server();
            let seen = self.events.len();
            self.drain_events();
            if self.events[seen..].iter().any(&enough) {
                return;
            }
            let Some(next) = [self.client.poll_timeout(), server].into_iter().flatten().min() else {
                self.now = end;
                return;
            };
            if next > self.now {
                if next >= end {
                    self.now = end;
                    return;
                }
                self.now = next;
                self.client.handle_timeout(self.now);
            }
        }
    }

    pub(super) fn count(&self, method: Method) -> usize {
        self.requests.iter().filter(|(_, sent)| *sent == method).count()
    }

    pub(super) fn lost_reason(&self) -> Option<LostReason> {
        self.events.iter().find_map(|event| match event {
            RelayEvent::Lost { why } => Some(*why),
            _ => None,
        })
    }

    pub(super) fn bind(&mut self, peer: &str) -> u16 {
        self.client.bind(addr(peer), self.now).unwrap();
        self.run_for(Duration::from_secs(1));
        self.client.channel(addr(peer)).expect("bound")
    }
}

pub(super) fn client(transport: RelayTransport, password: &str, now: Instant) -> RelayClient {
    let config = RelayConfig {
        id: RelayId(3),
        server: server_addr(),
        transport,
        family: RelayFamily::V4,
        username: "u1".to_owned(),
        password: password.to_owned(),
    };
    RelayClient::new(config, now)
}

pub(super) fn refusal(request: &Message<'_>, code: u16) -> Vec<u8> {
    let mut message = Message::builder_error(request, MessageWriteVec::new());
    let error = ErrorCode::new(code, "refused").unwrap();
    message.add_attribute(&error).unwrap();
    message.finish()
}
