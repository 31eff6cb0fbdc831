//! A controller on a port of its own, and nodes that talk to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use controller_api::node::node_service_client::NodeServiceClient;
use controller_api::node::{self as proto, controller_to_agent, controller_to_switch, switch_message};
use controller_registry::{Command, NewNetwork, NewNode, NewType, NodeId, Outcome, SecretHash};
use node_session::key::PrivateKey;
use node_session::token::Secret;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::config::Limits;
use crate::engine::{Engine, Started};
use crate::nodes::Nodes;
use crate::relay::Announcer;
use crate::store::FileStore;

pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) struct Lab {
    pub(super) engine: Engine,
    pub(super) nodes: Nodes,
    pub(super) address: SocketAddr,
    /// Dropped or true, the server stops.
    pub(super) stop: tokio::sync::watch::Sender<bool>,
    controller: node_session::key::PublicKey,
    _dir: tempfile::TempDir,
}

impl Lab {
    pub(super) async fn start(limits: Limits) -> Lab {
        Lab::announcing(limits, Announcer::none()).await
    }

    pub(super) async fn announcing(limits: Limits, relays: Announcer) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(FileStore::create(&dir.path().join("store")).unwrap());
        let Started { engine, mut effects } = Engine::start(store, vec!["manual".to_owned()]).unwrap();
        engine.command(Command::InitCluster { name: "lab".to_owned(), epoch: 77 }).await.unwrap();
        let network = NewNetwork {
            name: "blue".to_owned(),
            subnet_v4: Some("10.1.0.0/24".parse().unwrap()),
            ..NewNetwork::default()
        };
        engine.command(Command::CreateNetwork(network)).await.unwrap();
        let small = NewType {
            name: "small".to_owned(),
            cores_milli: 100,
            memory_bytes: 64 << 20,
            disk_bytes: 1 << 20,
            driver: "container".to_owned(),
            ..NewType::default()
        };
        engine.command(Command::AddType(small)).await.unwrap();
        let nodes = Nodes::with_relays(engine.clone(), limits, Arc::new(relays));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let key = PrivateKey::generate().unwrap();
        let controller = key.public();
        let serving = nodes.clone();
        let (stop, mut on_stop) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            let stopped = async { drop(on_stop.wait_for(|stop| *stop).await) };
            serving.serve(listener, &key, stopped).await
        });
        let doing = nodes.clone();
        tokio::spawn(async move {
            while let Some(effect) = effects.recv().await {
                doing.carry_out(&effect);
            }
        });
        let time = engine.clone();
        tokio::spawn(async move { time.keep_time().await });
        Lab { engine, nodes, address, stop, controller, _dir: dir }
    }

    pub(super) async fn dial(&self, key: &PrivateKey) -> NodeServiceClient<Channel> {
        let addresses = [self.address.to_string()];
        let channel = node_session::client::connect(&addresses, key, self.controller).await.unwrap();
        NodeServiceClient::new(channel)
    }

    pub(super) async fn token(&self) -> Secret {
        let secret = Secret::generate();
        let node = NewNode {
            provider: "manual".to_owned(),
            secret_hash: SecretHash(secret.hash()),
            ttl_ms: 60_000,
            ..NewNode::default()
        };
        self.engine.command(Command::AddComputeNode(node)).await.unwrap();
        secret
    }

    /// A node that has enrolled.
    pub(super) async fn node(&self) -> Node {
        let secret = self.token().await;
        let key = PrivateKey::generate().unwrap();
        let request = proto::EnrolRequest { secret: secret.bytes().to_vec(), ..Default::default() };
        let answer = self.dial(&key).await.enrol(request).await.unwrap().into_inner();
        assert_eq!(answer.cluster, "lab");
        Node { id: answer.node_id.parse().unwrap(), key }
    }

    pub(super) async fn remove(&self, node: NodeId) {
        let command = Command::RemoveComputeNode { node: node.to_string(), force: true, now: false };
        let outcome = self.engine.command(command).await.unwrap();
        assert!(matches!(outcome, Outcome::Operation(_)));
    }
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) key: PrivateKey,
}

impl Node {
    /// A session that has said nothing yet.
    pub(super) async fn open(&self, lab: &Lab) -> Switch {
        let (send, messages) = mpsc::channel(64);
        let mut client = lab.dial(&self.key).await.max_decoding_message_size(4 << 20);
        let stream = client.switch_session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Switch { send, stream, relays: Vec::new(), _client: client }
    }

    pub(super) async fn register(&self, lab: &Lab, boot: u64, revision: u64) -> Switch {
        let switch = self.open(lab).await;
        switch
            .say(switch_message::Message::Register(proto::RegisterSwitch {
                boot,
                epoch: if revision > 0 { 77 } else { 0 },
                revision,
                addresses: vec!["192.0.2.9:4789".to_owned()],
                listen_port: 4789,
                ..Default::default()
            }))
            .await;
        switch
    }

    /// A session that has its first state.
    pub(super) async fn switch(&self, lab: &Lab, boot: u64) -> (Switch, proto::StateUpdate) {
        let mut switch = self.register(lab, boot, 0).await;
        match switch.hear().await {
            controller_to_switch::Message::Registered(registered) => {
                assert_eq!(registered.node_id, self.id.to_string());
            }
            other => panic!("{other:?} instead of registered"),
        }
        let update = switch.update().await;
        (switch, update)
    }

    pub(super) async fn agent(&self, lab: &Lab) -> Agent {
        let (send, messages) = mpsc::channel(64);
        let mut client = lab.dial(&self.key).await;
        let register = proto::RegisterAgent {
            boot: 5,
            capacity: Some(proto::Capacity {
                cores: 8,
                memory_bytes: 1 << 33,
                disk_bytes: 1 << 40,
                accelerator: String::new(),
            }),
            drivers: vec!["container".to_owned()],
            ..Default::default()
        };
        let register = proto::agent_message::Message::Register(register);
        send.send(proto::AgentMessage { message: Some(register) }).await.unwrap();
        let stream = client.agent_session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let mut agent = Agent { send, stream, client };
        assert!(matches!(agent.hear().await, controller_to_agent::Message::Registered(_)));
        agent
    }
}

pub(super) struct Switch {
    pub(super) send: mpsc::Sender<proto::SwitchMessage>,
    pub(super) stream: Streaming<proto::ControllerToSwitch>,
    /// Everything that it was told of relays.
    pub(super) relays: Vec<proto::RelayServers>,
    _client: NodeServiceClient<Channel>,
}

impl Switch {
    pub(super) async fn say(&self, message: switch_message::Message) {
        self.send.send(proto::SwitchMessage { message: Some(message) }).await.unwrap();
    }

    /// The next message; probes are answered, and relays noted.
    pub(super) async fn hear(&mut self) -> controller_to_switch::Message {
        loop {
            let message = tokio::time::timeout(SOON, self.stream.message()).await.expect("a message");
            match message.unwrap().expect("the session goes on").message.unwrap() {
                controller_to_switch::Message::Heartbeat(beat) if !beat.answer => {
                    let answer = proto::Heartbeat { sequence: beat.sequence, answer: true };
                    self.say(switch_message::Message::Heartbeat(answer)).await;
                }
                controller_to_switch::Message::Relays(relays) => self.relays.push(relays),
                other => return other,
            }
        }
    }

    pub(super) async fn update(&mut self) -> proto::StateUpdate {
        match self.hear().await {
            controller_to_switch::Message::Update(update) => update,
            other => panic!("{other:?} instead of an update"),
        }
    }

    /// The first update for which the condition holds.
    pub(super) async fn update_with(
        &mut self,
        holds: impl Fn(&proto::StateUpdate) -> bool,
    ) -> proto::StateUpdate {
        loop {
            if let controller_to_switch::Message::Update(update) = self.hear().await
                && holds(&update)
            {
                return update;
            }
        }
    }

    pub(super) async fn goodbye(&mut self) -> (proto::goodbye::Reason, String) {
        loop {
            if let controller_to_switch::Message::Goodbye(goodbye) = self.hear().await {
                return (goodbye.reason(), goodbye.detail);
            }
        }
    }
}

pub(super) struct Agent {
    pub(super) send: mpsc::Sender<proto::AgentMessage>,
    stream: Streaming<proto::ControllerToAgent>,
    pub(super) client: NodeServiceClient<Channel>,
}

impl Agent {
    pub(super) async fn hear(&mut self) -> controller_to_agent::Message {
        let message = tokio::time::timeout(SOON, self.stream.message()).await.expect("a message");
        message.unwrap().expect("the session goes on").message.unwrap()
    }

    /// The first desired state for which the condition holds.
    pub(super) async fn desired(
        &mut self,
        holds: impl Fn(&[proto::InstanceSpec]) -> bool,
    ) -> Vec<proto::InstanceSpec> {
        loop {
            if let controller_to_agent::Message::Desired(desired) = self.hear().await
                && holds(&desired.instances)
            {
                return desired.instances;
            }
        }
    }

    pub(super) async fn report(&self, id: &str, generation: u64, state: proto::instance_status::State) {
        let status = proto::InstanceStatus {
            id: id.to_owned(),
            generation,
            state: state.into(),
            ..Default::default()
        };
        let report = proto::InstanceReport { full: true, instances: vec![status] };
        let message = proto::agent_message::Message::Instances(report);
        self.send.send(proto::AgentMessage { message: Some(message) }).await.unwrap();
    }
}
