//! Two shipped agents with the protocol's other end: sessions over TLS, desired state, reports, and a volume that moves.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod lab;

use std::collections::HashMap;
use std::fs;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use controller_api::node::instance_spec::Desired;
use controller_api::node::instance_status::State;
use controller_api::node::node_service_server::{NodeService, NodeServiceServer};
use controller_api::node::{self as wire, agent_message, controller_to_agent};
use lab::{in_lab, wait};
use node_session::joined::{Controller, Joined};
use node_session::key::{PrivateKey, PublicKey};
use node_session::server::{ConnectInfo, Limits, builder, incoming};
use node_session::tls;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

#[test]
fn an_instance_moves_with_its_volume_from_one_agent_to_another() {
    in_lab(|lab| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let key = PrivateKey::generate().unwrap();
        let config = tls::server_config(&key).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let relay = Relay::default();
        let service = NodeServiceServer::from_arc(Arc::new(relay.clone()));
        let _guard = runtime.enter();
        let connections = incoming(listener, config, Limits::default(), |_| true);
        runtime.spawn(builder().add_service(service).serve_with_incoming(connections));

        let join = |name: &str| {
            let own = PrivateKey::generate().unwrap();
            fs::create_dir_all(lab.node(name)).unwrap();
            own.save(&lab.node(name).join("private.key"), false).unwrap();
            let joined = Joined {
                node_id: name.to_owned(),
                node_name: name.to_owned(),
                cluster: "lab".to_owned(),
                controller: Controller { addresses: vec![address.clone()], public_key: key.public() },
                joined_at: 1,
                removed: None,
            };
            joined.save(&lab.node(name)).unwrap();
            own.public()
        };
        let (at_a, at_b) = (join("a"), join("b"));
        let (mut a, b) = (lab.agent("a", &[]), lab.agent("b", &[]));
        let spec = wire::InstanceSpec {
            id: "inst-1".to_owned(),
            name: "one".to_owned(),
            generation: 1,
            desired: Desired::Running.into(),
            driver: "container".to_owned(),
            command: ["sh", "-c", "echo turn >>/data/turns; exec sleep 1000"].map(str::to_owned).to_vec(),
            ..Default::default()
        };
        relay.want(at_a, &spec);
        relay
            .until(at_a, "runs", |status| status.state() == State::Running && status.runtime == "namespaces");
        wait("its first turn", || fs::read(a.home("inst-1").join("volume/turns")).map_err(|e| e.to_string()));

        // Without a controller's word, after kill -9, it goes on with what was said.
        a.kill();
        a.start();

        let stopped = wire::InstanceSpec { desired: Desired::Stopped.into(), ..spec.clone() };
        relay.want(at_a, &wire::InstanceSpec { upload_to: "t1".to_owned(), ..stopped.clone() });
        let coming = wire::InstanceSpec { generation: 2, download_from: "t1".to_owned(), ..stopped };
        relay.want(at_b, &coming);
        relay.until(at_a, "is uploaded", |status| status.state() == State::Stopped && status.uploaded);
        relay.until(at_b, "has come", |status| status.state() == State::Stopped && status.generation == 2);
        assert_eq!(fs::read_to_string(b.home("inst-1").join("volume/turns")).unwrap(), "turn\n");

        relay.want(at_b, &wire::InstanceSpec { desired: Desired::Running.into(), ..coming });
        relay.until(at_b, "runs", |status| status.state() == State::Running);
        wait("its second turn", || {
            match fs::read_to_string(b.home("inst-1").join("volume/turns")).unwrap() {
                turns if turns == "turn\nturn\n" => Ok(()),
                turns => Err(turns),
            }
        });
        relay.want(at_a, &wire::InstanceSpec { desired: Desired::Absent.into(), ..spec.clone() });
        wait("it left", || match relay.reports.lock().unwrap().get(&at_a.0) {
            Some(report) if report.iter().all(|status| status.state() == State::Absent) => {
                assert!(!report.is_empty() && !a.home("inst-1").exists());
                Ok(())
            }
            other => Err(format!("{other:?}")),
        });
        // An old word changes nothing at the new place; a bad one is answered.
        relay.want(at_b, &wire::InstanceSpec { desired: Desired::Absent.into(), ..spec.clone() });
        relay.want(at_a, &wire::InstanceSpec { driver: "xen".to_owned(), ..spec });
        relay.until(at_a, "is refused", |status| status.detail.contains("unknown driver 'xen'"));
        relay.until(at_b, "runs still", |status| status.state() == State::Running);
        drop((a, b));
        runtime.shutdown_background();
    });
}

type Meeting = (mpsc::Receiver<wire::VolumeChunk>, oneshot::Sender<()>);

/// The other end: passes on what the test wants and what the agents report, and volumes from one to the other.
#[derive(Clone, Default)]
struct Relay {
    desired: Arc<Mutex<HashMap<[u8; 32], watch::Sender<wire::DesiredInstances>>>>,
    reports: Arc<Mutex<HashMap<[u8; 32], Vec<wire::InstanceStatus>>>>,
    transfers: Arc<Mutex<HashMap<String, Meeting>>>,
}

impl Relay {
    fn want(&self, node: PublicKey, spec: &wire::InstanceSpec) {
        let desired = wire::DesiredInstances { epoch: 1, revision: 1, instances: vec![spec.clone()] };
        self.desired.lock().unwrap().entry(node.0).or_default().send_replace(desired);
    }

    fn until(&self, node: PublicKey, what: &str, condition: impl Fn(&wire::InstanceStatus) -> bool) {
        wait(&format!("it {what}"), || match self.reports.lock().unwrap().get(&node.0) {
            Some(report) if report.iter().any(&condition) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NodeService for Relay {
    type SwitchSessionStream = Out<wire::ControllerToSwitch>;
    type AgentSessionStream = Out<wire::ControllerToAgent>;
    type DownloadVolumeStream = Out<wire::VolumeChunk>;

    async fn enrol(&self, _: Request<wire::EnrolRequest>) -> Result<Response<wire::EnrolResponse>, Status> {
        Err(Status::unimplemented("no enrolment here"))
    }

    async fn switch_session(
        &self,
        _: Request<Streaming<wire::SwitchMessage>>,
    ) -> Result<Response<Self::SwitchSessionStream>, Status> {
        Err(Status::unimplemented("no switches here"))
    }

    async fn agent_session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::AgentSessionStream>, Status> {
        let key = request.extensions().get::<ConnectInfo>().unwrap().key.0;
        let mut incoming = request.into_inner();
        let reports = self.reports.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let instances = match message.message {
                    Some(agent_message::Message::Register(register)) => register.instances,
                    Some(agent_message::Message::Instances(report)) => report.instances,
                    _ => continue,
                };
                reports.lock().unwrap().insert(key, instances);
            }
        });
        let desired = self.desired.lock().unwrap().entry(key).or_default().subscribe();
        let registered = wire::Registered { heartbeat_ms: 60_000, ..Default::default() };
        let first = controller_to_agent::Message::Registered(registered);
        let rest =
            tokio_stream::wrappers::WatchStream::new(desired).map(controller_to_agent::Message::Desired);
        let all = tokio_stream::once(first).chain(rest);
        Ok(Response::new(Box::pin(all.map(|message| Ok(wire::ControllerToAgent { message: Some(message) })))))
    }

    async fn upload_volume(
        &self,
        request: Request<Streaming<wire::VolumeChunk>>,
    ) -> Result<Response<wire::VolumeReceipt>, Status> {
        let transfer = request.metadata().get("transfer").unwrap().to_str().unwrap().to_owned();
        let mut incoming = request.into_inner();
        let ((to, chunks), (met, meet)) = (mpsc::channel(1), oneshot::channel());
        self.transfers.lock().unwrap().insert(transfer, (chunks, met));
        meet.await.map_err(|_| Status::unavailable("the other side did not come"))?;
        let mut bytes = 0;
        while let Some(chunk) = incoming.message().await? {
            bytes += chunk.data.len() as u64;
            to.send(chunk).await.map_err(|_| Status::unavailable("the other side went away"))?;
        }
        Ok(Response::new(wire::VolumeReceipt { bytes }))
    }

    async fn download_volume(
        &self,
        request: Request<wire::DownloadVolumeRequest>,
    ) -> Result<Response<Self::DownloadVolumeStream>, Status> {
        let transfer = request.into_inner().transfer;
        let meeting = self.transfers.lock().unwrap().remove(&transfer);
        // The agent comes again: a transfer whose other side is late is no more than that.
        let (chunks, met) = meeting.ok_or_else(|| Status::unavailable("the other side is not there yet"))?;
        met.send(()).ok();
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks).map(Ok))))
    }
}
