//! The session against a controller that does what a test says, over loopback with real TLS.

use std::sync::Mutex;
use std::time::Duration;

use controller_api::node::controller_to_switch::Message as FromController;
use controller_api::node::node_service_server::{NodeService, NodeServiceServer};
use controller_api::node::switch_message::Message as ToController;
use controller_api::node::{self as wire, *};
use node_session::joined::Controller;
use node_session::token::{Secret, Token};
use node_session::{rotation, server, tls};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Signal;
use super::*;
use crate::desired::{Applied, Change};
use crate::view::fake::FakeView;

/// A session, as the controller holds it.
struct Held {
    key: PublicKey,
    to_node: mpsc::Sender<Result<ControllerToSwitch, Status>>,
    from_node: Streaming<SwitchMessage>,
}

impl Held {
    async fn send(&self, message: FromController) {
        self.to_node.send(Ok(ControllerToSwitch { message: Some(message) })).await.unwrap();
    }

    /// The next message that `wanted` takes; others are passed over.
    async fn next<T>(&mut self, mut wanted: impl FnMut(ToController) -> Option<T>) -> T {
        let search = async {
            loop {
                let message = self.from_node.message().await.unwrap().expect("the session is open");
                if let Some(found) = message.message.and_then(&mut wanted) {
                    return found;
                }
            }
        };
        timeout(LIMIT, search).await.expect("the message never came")
    }

    /// Takes the registration, and answers it.
    async fn register(&mut self) -> RegisterSwitch {
        let register = self.next(|m| if let ToController::Register(m) = m { Some(m) } else { None }).await;
        let registered = Registered {
            node_id: "node-1".into(),
            node_name: "a".into(),
            cluster: "lab".into(),
            heartbeat_ms: 1000,
        };
        self.send(FromController::Registered(registered)).await;
        register
    }

    async fn applied(&mut self) -> wire::Applied {
        self.next(|m| if let ToController::Applied(m) = m { Some(m) } else { None }).await
    }

    async fn bindings(&mut self) -> BindingReport {
        self.next(|m| if let ToController::Bindings(m) = m { Some(m) } else { None }).await
    }
}

struct Service {
    sessions: mpsc::Sender<Held>,
    known: Arc<Mutex<Vec<PublicKey>>>,
    secret: Secret,
}

type Out<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl NodeService for Service {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let key = request.extensions().get::<server::ConnectInfo>().unwrap().key;
        let request = request.into_inner();
        if request.secret != self.secret.bytes() {
            return Err(Status::permission_denied("no such token"));
        }
        self.known.lock().unwrap().push(key);
        let (node_id, cluster) = ("node-1".into(), "lab".into());
        Ok(Response::new(EnrolResponse { node_id, node_name: request.name, cluster }))
    }

    type SwitchSessionStream = Out<ControllerToSwitch>;
    async fn switch_session(
        &self,
        request: Request<Streaming<SwitchMessage>>,
    ) -> Result<Response<Self::SwitchSessionStream>, Status> {
        let key = request.extensions().get::<server::ConnectInfo>().unwrap().key;
        if !self.known.lock().unwrap().contains(&key) {
            return Err(Status::unauthenticated("no node has this key"));
        }
        let (to_node, out) = mpsc::channel(16);
        let held = Held { key, to_node, from_node: request.into_inner() };
        self.sessions.send(held).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(out)))
    }

    type AgentSessionStream = Out<ControllerToAgent>;
    async fn agent_session(
        &self,
        _: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::AgentSessionStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn upload_volume(
        &self,
        _: Request<Streaming<VolumeChunk>>,
    ) -> Result<Response<VolumeReceipt>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    type DownloadVolumeStream = Out<VolumeChunk>;
    async fn download_volume(
        &self,
        _: Request<DownloadVolumeRequest>,
    ) -> Result<Response<Self::DownloadVolumeStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
}

struct TestController {
    key: PrivateKey,
    address: SocketAddr,
    known: Arc<Mutex<Vec<PublicKey>>>,
    secret: Secret,
    sessions: mpsc::Receiver<Held>,
    server: JoinHandle<()>,
}

impl TestController {
    async fn start() -> TestController {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (key, known) = (PrivateKey::generate().unwrap(), Arc::default());
        let secret = Secret::generate();
        let (server, sessions) = TestController::serve(listener, &key, &known, &secret);
        TestController { key, address, known, secret, sessions, server }
    }

    fn serve(
        listener: TcpListener,
        key: &PrivateKey,
        known: &Arc<Mutex<Vec<PublicKey>>>,
        secret: &Secret,
    ) -> (JoinHandle<()>, mpsc::Receiver<Held>) {
        let (to, sessions) = mpsc::channel(4);
        let service = Service { sessions: to, known: known.clone(), secret: secret.clone() };
        let incoming =
            server::incoming(listener, tls::server_config(key).unwrap(), server::Limits::default(), |_| true);
        let router = server::builder().add_service(NodeServiceServer::new(service));
        (tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() }), sessions)
    }

    /// Another process at the same address.
    async fn restart(&mut self) {
        self.server.abort();
        let rebind = async {
            loop {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let listener = timeout(LIMIT, rebind).await.expect("the port never came free");
        (self.server, self.sessions) = TestController::serve(listener, &self.key, &self.known, &self.secret);
    }

    async fn session(&mut self) -> Held {
        timeout(LIMIT, self.sessions.recv()).await.expect("no session came").unwrap()
    }

    fn token(&self) -> Token {
        Token {
            addresses: vec![self.address.to_string()],
            controller: self.key.public(),
            secret: self.secret.clone(),
            expires: node_session::unix_now() + 60,
            cluster: "lab".into(),
        }
    }
}

impl Drop for TestController {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A node: the session under test, and the daemon's other ends.
struct TestNode {
    dir: tempfile::TempDir,
    session: Session,
    updates: mpsc::Receiver<Update>,
    applied: watch::Sender<Applied>,
    stations: mpsc::Sender<StationReport>,
    keys: mpsc::Receiver<PrivateKey>,
}

impl TestNode {
    fn start(dir: tempfile::TempDir, controller: &TestController, proves: PublicKey) -> TestNode {
        let key_file = dir.path().join("private.key");
        let key = PrivateKey::load(&key_file).unwrap_or_else(|_| {
            let key = PrivateKey::generate().unwrap();
            key.save(&key_file, false).unwrap();
            controller.known.lock().unwrap().push(key.public());
            key
        });
        let joined = Joined::load(dir.path()).unwrap().unwrap_or_else(|| Joined {
            node_id: "node-1".into(),
            node_name: "a".into(),
            cluster: "lab".into(),
            controller: Controller { addresses: vec![controller.address.to_string()], public_key: proves },
            joined_at: 1,
            removed: None,
        });
        let (updates_to, updates) = mpsc::channel(4);
        let (applied, applied_from) = watch::channel(Applied::default());
        let (stations, stations_from) = mpsc::channel(4);
        let (keys_to, keys) = mpsc::channel(1);
        let session = Session::start(Start {
            joined,
            state_dir: dir.path().into(),
            addresses: Vec::new(),
            key,
            key_file,
            listen: "[::]:4840".parse().unwrap(),
            netlink: None,
            daemon: Daemon {
                updates: updates_to,
                applied: applied_from,
                stations: stations_from,
                keys: keys_to,
                view: Arc::new(FakeView::default()),
            },
        });
        TestNode { dir, session, updates, applied, stations, keys }
    }

    fn of(controller: &TestController) -> TestNode {
        TestNode::start(tempfile::tempdir().unwrap(), controller, controller.key.public())
    }

    async fn update(&mut self) -> Update {
        timeout(LIMIT, self.updates.recv()).await.expect("no update came").unwrap()
    }

    async fn state(&self, wanted: impl FnMut(&State) -> bool) {
        let mut state = self.session.remote.state.clone();
        timeout(LIMIT, state.wait_for(wanted)).await.expect("the state never came").unwrap();
    }
}

fn network(vni: u32) -> wire::Network {
    wire::Network { vni, name: format!("net{vni}"), mss_clamp: true, ..wire::Network::default() }
}

fn snapshot(revision: u64, first: bool, more: bool, vni: u32) -> FromController {
    FromController::Update(StateUpdate {
        epoch: 7,
        revision,
        snapshot: true,
        first,
        more,
        networks: vec![network(vni)],
        ..StateUpdate::default()
    })
}

fn delta(revision: u64, vni: u32) -> FromController {
    let networks = vec![network(vni)];
    FromController::Update(StateUpdate { epoch: 7, revision, networks, ..StateUpdate::default() })
}

fn vnis(update: &Update) -> Vec<u32> {
    let vni = |change: &Change| if let Change::Network(n) = change { Some(n.vni.get()) } else { None };
    update.changes.iter().filter_map(vni).collect()
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn state_comes_in_parts_and_deltas_and_its_application_is_reported() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    let register = held.register().await;
    assert_eq!((register.epoch, register.revision, register.listen_port), (0, 0, 4840));
    assert!(held.bindings().await.full);
    held.send(snapshot(3, true, true, 100)).await;
    held.send(snapshot(3, false, false, 200)).await;
    let update = node.update().await;
    assert!(update.reset);
    assert_eq!((vnis(&update), update.revision.revision), (vec![100, 200], 3));
    node.applied.send_replace(Applied { revision: update.revision, problems: vec!["p".into()] });
    let applied = held.applied().await;
    assert_eq!((applied.epoch, applied.revision, applied.problems), (7, 3, vec!["p".to_owned()]));
    held.send(delta(4, 300)).await;
    let update = node.update().await;
    assert_eq!((update.reset, vnis(&update)), (false, vec![300]));
    node.session.stop().await;
}

#[tokio::test]
async fn a_snapshot_cut_in_the_middle_changes_nothing_and_the_session_comes_back() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    held.send(snapshot(3, true, false, 100)).await;
    assert_eq!(vnis(&node.update().await), [100]);
    held.send(snapshot(5, true, true, 200)).await;
    drop(held);
    controller.restart().await;
    let mut held = controller.session().await;
    let register = held.register().await;
    assert_eq!((register.epoch, register.revision), (7, 3));
    held.send(delta(6, 300)).await;
    assert_eq!(vnis(&node.update().await), [300]);
    node.state(|state| state.reconnects >= 1 && state.connected.is_some()).await;
    node.session.stop().await;
}

#[tokio::test]
async fn what_is_out_of_order_makes_the_next_session_begin_anew() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    held.send(snapshot(3, true, false, 100)).await;
    node.update().await;
    held.send(delta(2, 200)).await;
    let mut held = controller.session().await;
    assert_eq!(held.register().await.revision, 0);
    node.session.stop().await;
}

#[tokio::test]
async fn a_node_starts_from_its_stored_state_with_the_controller_down() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    held.send(snapshot(3, true, false, 100)).await;
    node.update().await;
    node.session.stop().await;
    controller.server.abort();
    drop(held);
    let mut node = TestNode::start(node.dir, &controller, controller.key.public());
    let update = node.update().await;
    assert_eq!((update.reset, update.revision.revision, vnis(&update)), (true, 3, vec![100]));
    node.state(|state| state.last_error.is_some()).await;
    controller.restart().await;
    let register = controller.session().await.register().await;
    assert_eq!((register.epoch, register.revision), (7, 3));
    node.session.stop().await;
}

#[tokio::test]
async fn a_controller_with_another_key_and_an_unknown_node_key_are_told() {
    let controller = TestController::start().await;
    let other = PrivateKey::generate().unwrap().public();
    let node = TestNode::start(tempfile::tempdir().unwrap(), &controller, other);
    node.state(|state| state.last_error.as_ref().is_some_and(|e| e.contains("key is another"))).await;
    node.session.stop().await;
    let node = TestNode::of(&controller);
    controller.known.lock().unwrap().clear();
    let told = |state: &State| state.last_error.as_ref().is_some_and(|e| e.contains("switchd leave --key"));
    node.state(told).await;
    node.session.stop().await;
}

#[tokio::test]
async fn a_removed_node_forgets_everything_for_good() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    held.send(snapshot(3, true, false, 100)).await;
    node.update().await;
    let goodbye = Goodbye { reason: goodbye::Reason::Removed.into(), detail: "by bob".into() };
    held.send(FromController::Goodbye(goodbye)).await;
    assert_eq!(node.update().await, Update { reset: true, ..Update::default() });
    node.state(|state| state.removed.as_deref() == Some("by bob")).await;
    node.session.stop().await;
    assert_eq!(Joined::load(node.dir.path()).unwrap().unwrap().removed.as_deref(), Some("by bob"));
    assert_eq!(store::load(node.dir.path()), None);
}

#[tokio::test]
async fn silence_ends_a_session_and_heartbeats_are_answered() {
    let mut controller = TestController::start().await;
    let node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    held.send(FromController::Heartbeat(Heartbeat { sequence: 77, answer: false })).await;
    let answer = |m| match m {
        ToController::Heartbeat(beat) if beat.answer => Some(beat.sequence),
        _ => None,
    };
    assert_eq!(held.next(answer).await, 77);
    // Nothing is sent any more; the connection stays.
    let mut again = controller.session().await;
    again.register().await;
    node.state(|state| state.reconnects >= 1).await;
    node.session.stop().await;
}

#[tokio::test]
async fn stations_are_claimed_and_refusals_counted() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    held.send(snapshot(3, true, false, 100)).await;
    node.update().await;
    let key = switch_core::switch::BindingKey {
        tags: switch_core::frame::Tags::NONE,
        mac: "02:00:00:00:00:01".parse().unwrap(),
    };
    let station = crate::desired::LocalStation {
        key,
        ips: vec!["10.0.0.1".parse().unwrap()],
        seen_generation: Default::default(),
        source: switch_core::switch::Source::Learned,
    };
    let vni = switch_core::ids::Vni::new(100).unwrap();
    let report = StationReport { vni, full: false, present: vec![station], gone: vec![] };
    node.stations.send(report).await.unwrap();
    let claim = held
        .next(|m| match m {
            ToController::Bindings(report) if !report.claims.is_empty() => Some(report.claims[0].clone()),
            _ => None,
        })
        .await;
    assert_eq!(claim.ips, ["10.0.0.1"]);
    let refusal = BindingRefusal { key: claim.key, ..BindingRefusal::default() };
    held.send(FromController::Bindings(BindingAnswer { refusals: vec![refusal] })).await;
    node.state(|state| state.refused_claims == 1).await;
    node.session.stop().await;
}

#[tokio::test]
async fn a_rotated_key_is_proved_confirmed_and_kept() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    node.state(|state| state.connected.is_some()).await;
    let remote = node.session.remote();
    let rotation = tokio::spawn(async move { remote.rotate_key().await });
    let request = held.next(|m| if let ToController::RotateKey(m) = m { Some(m) } else { None }).await;
    let new = PublicKey(request.public_key.clone().try_into().unwrap());
    assert!(rotation::is_proved(&new, &held.key, &request.proof));
    *controller.known.lock().unwrap() = vec![new];
    let rotated = KeyRotated { public_key: request.public_key, error: String::new() };
    held.send(FromController::KeyRotated(rotated)).await;
    assert_eq!(rotation.await.unwrap(), Ok(new));
    assert_eq!(timeout(LIMIT, node.keys.recv()).await.unwrap().unwrap().public(), new);
    assert_eq!(PrivateKey::load(&node.dir.path().join("private.key")).unwrap().public(), new);
    drop(held);
    controller.restart().await;
    assert_eq!(controller.session().await.key, new);
    node.session.stop().await;
}

#[tokio::test]
async fn a_rotation_whose_confirmation_was_lost_is_found_out() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut held = controller.session().await;
    held.register().await;
    node.state(|state| state.connected.is_some()).await;
    let remote = node.session.remote();
    let rotation = tokio::spawn(async move { remote.rotate_key().await });
    let request = held.next(|m| if let ToController::RotateKey(m) = m { Some(m) } else { None }).await;
    let new = PublicKey(request.public_key.try_into().unwrap());
    *controller.known.lock().unwrap() = vec![new];
    // The controller has it; its word is lost.
    drop(held);
    assert!(rotation.await.unwrap().is_err());
    let mut held = controller.session().await;
    assert_eq!(held.key, new);
    held.register().await;
    assert_eq!(timeout(LIMIT, node.keys.recv()).await.unwrap().unwrap().public(), new);
    node.session.stop().await;
    assert_eq!(PrivateKey::load(&node.dir.path().join("private.key")).unwrap().public(), new);
}

#[tokio::test]
async fn signals_go_both_ways() {
    let mut controller = TestController::start().await;
    let mut node = TestNode::of(&controller);
    let mut signals = node.session.signals().unwrap();
    assert!(node.session.signals().is_none());
    let mut held = controller.session().await;
    held.register().await;
    node.state(|state| state.connected.is_some()).await;
    signals.to_nodes.send(Signal { node_id: "node-2".into(), payload: vec![1] }).await.unwrap();
    let signal = held.next(|m| if let ToController::Signal(m) = m { Some(m) } else { None }).await;
    assert_eq!((signal.node_id.as_str(), signal.payload), ("node-2", vec![1]));
    held.send(FromController::Signal(wire::Signal { node_id: "node-3".into(), payload: vec![2] })).await;
    let signal = timeout(LIMIT, signals.from_nodes.recv()).await.unwrap().unwrap();
    assert_eq!((signal.node_id.as_str(), signal.payload), ("node-3", vec![2]));
    node.session.stop().await;
}

#[tokio::test]
async fn joining_enrols_once_and_errors_name_the_mend() {
    let controller = TestController::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (state_dir, key_file) = (dir.path().join("state"), dir.path().join("etc/private.key"));
    let attempt = async |token: &str, force| {
        let (state_dir, key_file) = (&state_dir, &key_file);
        join::join(join::Join { token, name: "a", state_dir, key_file, force })
            .await
            .map_err(|e| format!("{e:#}"))
    };
    let token = controller.token();
    let forged = Token { secret: Secret::generate(), ..token.clone() };
    let expired = Token { expires: 1, ..forged.clone() };
    let elsewhere = Token { controller: PublicKey([1; 32]), ..token.clone() };
    for (token, words) in [
        ("skj1.abc".to_owned(), "cut short"),
        (forged.to_string(), "add-compute-node"),
        (expired.to_string(), "has expired"),
        (elsewhere.to_string(), "key is another"),
    ] {
        let error = attempt(&token, false).await.unwrap_err();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains(&token), "{error}");
    }
    let joined = attempt(&token.to_string(), false).await.unwrap();
    assert_eq!((joined.node_id.as_str(), joined.node_name.as_str()), ("node-1", "a"));
    assert_eq!(Joined::load(&state_dir).unwrap(), Some(joined));
    let key = PrivateKey::load(&key_file).unwrap().public();
    assert_eq!(*controller.known.lock().unwrap(), [key]);
    let error = attempt(&token.to_string(), false).await.unwrap_err();
    assert!(error.contains("switchd leave") && error.contains("--force"), "{error}");
    attempt(&token.to_string(), true).await.unwrap();
    assert!(join::leave(&state_dir, None).unwrap());
    assert!(key_file.exists() && !join::leave(&state_dir, Some(&key_file)).unwrap() && !key_file.exists());
}
