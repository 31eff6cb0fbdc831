mod data;
mod hostile;
mod requests;

use std::collections::HashSet;
use std::io;
use std::sync::Mutex;

use stun_types::attribute::{ErrorCode, MessageIntegrity, Nonce, Realm, Username, XorMappedAddress};
use stun_types::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, MessageType, MessageWriteVec, Method, TransactionId,
};
use turn_types::attribute::{
    ChannelNumber, Data, Lifetime, RequestedAddressFamily, RequestedTransport, XorPeerAddress,
    XorRelayedAddress,
};

use super::super::REALM;
use super::super::secret::Credentials;
use super::*;

/// A relay at 203.0.113.10 and 2001:db8::10 with invented sockets and an invented time.
struct Lab {
    engine: Engine,
    ports: FakePorts,
    secret: Secret,
    nodes: Arc<Mutex<HashSet<NodeId>>>,
    now: Now,
    counters: Arc<RelayCounters>,
}

#[derive(Default)]
struct FakePorts {
    open: HashSet<AllocationId>,
    exhausted: bool,
}

impl Ports for FakePorts {
    fn open(&mut self, id: AllocationId, _: IpAddr) -> io::Result<u16> {
        if self.exhausted {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.open.insert(id);
        Ok(49151 + u16::try_from(id.0).unwrap())
    }

    fn close(&mut self, id: AllocationId) {
        assert!(self.open.remove(&id), "closed twice");
    }
}

/// A node's end of it.
struct Node {
    client: Client,
    credentials: Credentials,
    nonce: String,
}

const PEER: &str = "198.51.100.7:4000";
const PEER_V6: &str = "[2001:db8:7::7]:4000";

impl Lab {
    fn new() -> Lab {
        Lab::with(Limits { allocations: 100, allocations_per_node: 4, packets_per_second: 1000 })
    }

    fn with(limits: Limits) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::load_or_make(&dir.path().join("secret")).unwrap();
        let nodes = Arc::new(Mutex::new((1..=20).map(NodeId).collect::<HashSet<_>>()));
        let members = nodes.clone();
        let setup = Setup {
            secret: secret.clone(),
            is_node: Box::new(move |node| members.lock().unwrap().contains(&node)),
            announced: vec!["203.0.113.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
            alternate_port: Some(3479),
            allow_private: false,
            allow_loopback: false,
            limits,
        };
        let now = Now { at: Instant::now(), unix: 1_700_000_000 };
        let counters = Arc::new(RelayCounters::default());
        let engine = Engine::new(setup, counters.clone(), now.at);
        Lab { engine, ports: FakePorts::default(), secret, nodes, now, counters }
    }

    /// A node behind 198.51.100.<number> that knows a nonce already.
    fn node(&self, number: u64) -> Node {
        let source = SocketAddr::from(([198, 51, 100, u8::try_from(number).unwrap()], 7000));
        let local = "203.0.113.10:3478".parse().unwrap();
        Node {
            client: Client { source, local, stream: None },
            credentials: self.secret.issue(NodeId(number), self.now.unix + 3600),
            nonce: self.engine.nonces.make(source, self.now.unix),
        }
    }

    fn handle(&mut self, client: Client, datagram: &[u8]) -> Action {
        self.engine.handle_client(client, datagram, self.now, &mut self.ports)
    }

    fn ask(&mut self, node: &Node, method: Method, attributes: &[&dyn AttributeWrite]) -> Answer {
        let request = node.request(method, attributes);
        Answer::of(self.handle(node.client, &request))
    }

    fn allocate(&mut self, node: &Node) -> SocketAddr {
        let answer = self.ask(node, ALLOCATE, &[&RequestedTransport::new(RequestedTransport::UDP)]);
        assert_eq!(answer.code, None);
        answer.relayed().unwrap()
    }

    fn permit(&mut self, node: &Node, peer: &str) -> Option<u16> {
        let request = node.with_peer(CREATE_PERMISSION, peer, &[]);
        Answer::of(self.handle(node.client, &request)).code
    }

    fn bind(&mut self, node: &Node, number: u16, peer: &str) -> Option<u16> {
        let request = node.with_peer(CHANNEL_BIND, peer, &[&ChannelNumber::new(number)]);
        Answer::of(self.handle(node.client, &request)).code
    }

    fn pass(&mut self, seconds: u64) {
        self.now.at += Duration::from_secs(seconds);
        self.now.unix += seconds;
    }
}

impl Node {
    fn request(&self, method: Method, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
        self.sign(Message::builder_request(method, MessageWriteVec::new()), attributes)
    }

    fn sign(&self, mut message: MessageWriteVec, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
        attributes.iter().for_each(|attribute| message.add_attribute(*attribute).unwrap());
        let Credentials { username, password, .. } = self.credentials.clone();
        message.add_attribute(&Username::new(&username).unwrap()).unwrap();
        message.add_attribute(&Realm::new(REALM).unwrap()).unwrap();
        message.add_attribute(&Nonce::new(&self.nonce).unwrap()).unwrap();
        let key = LongTermKeyCredentials::new(username, password, REALM.to_owned());
        message.add_message_integrity(&key.into(), IntegrityAlgorithm::Sha1).unwrap();
        message.finish()
    }

    /// The peer's address is mixed with the transaction.
    fn with_peer(&self, method: Method, peer: &str, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
        let mut message = Message::builder_request(method, MessageWriteVec::new());
        let peer = XorPeerAddress::new(peer.parse().unwrap(), message.transaction_id());
        message.add_attribute(&peer).unwrap();
        self.sign(message, attributes)
    }
}

/// An answer, taken apart.
struct Answer {
    bytes: Vec<u8>,
    code: Option<u16>,
}

impl Answer {
    fn of(action: Action) -> Answer {
        let Action::Answer { bytes, .. } = action else { panic!("{action:?} is no answer") };
        let code =
            Message::from_bytes(&bytes).unwrap().attribute::<ErrorCode>().ok().map(|error| error.code());
        Answer { bytes, code }
    }

    fn message(&self) -> Message<'_> {
        Message::from_bytes(&self.bytes).unwrap()
    }

    fn relayed(&self) -> Option<SocketAddr> {
        let message = self.message();
        Some(message.attribute::<XorRelayedAddress>().ok()?.addr(message.transaction_id()))
    }

    fn lifetime(&self) -> Option<u32> {
        Some(self.message().attribute::<Lifetime>().ok()?.seconds())
    }
}

fn send_indication(peer: &str, payload: &[u8]) -> Vec<u8> {
    let transaction = TransactionId::generate();
    let kind = MessageType::from_class_method(MessageClass::Indication, SEND);
    let mut message = Message::builder(kind, transaction, MessageWriteVec::new());
    message.add_attribute(&XorPeerAddress::new(peer.parse().unwrap(), transaction)).unwrap();
    message.add_attribute(&Data::new(payload)).unwrap();
    message.finish()
}

fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    [&number.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
}
