//! The session of a node's agent.

use std::sync::Arc;

use controller_api::node as proto;
use controller_registry::{AgentInput, Input, NodeId};
use proto::agent_message::Message as In;
use proto::controller_to_agent::Message as Out;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::outbox::Closing;
use super::session::{self, Session, State, Take, protocol};
use super::{Caller, Shared, convert};

type Message = proto::ControllerToAgent;

/// Runs until either side ends it.
pub(super) async fn run(
    shared: Arc<Shared>,
    node: NodeId,
    caller: Caller,
    mut inbound: Streaming<proto::AgentMessage>,
    out: mpsc::Sender<Result<Message, Status>>,
) {
    let mut session = Session::new(caller, out);
    if let Err(closing) = register(&shared, node, caller, &mut inbound, &mut session).await {
        session::note_end(&shared, node, "agent", &closing);
        return session.finish(&closing).await;
    }
    let mut changed = shared.engine.agent_changed(node);
    session.welcome(&shared, node).await;
    let mut reader = Reader { shared: shared.clone(), node, handle: session.handle.clone() };
    let mut sender = DesiredSender { shared: shared.clone(), node, last: None };
    let end = tokio::select! {
        () = session.pump(&mut changed, &mut sender) => None,
        closing = session::take_all(&shared, &mut inbound, &mut reader) => Some(closing),
    };
    let number = session.handle.session;
    let closing = session.handle.closing.borrow().clone().or(end).unwrap_or(Closing::Ended);
    session::note_end(&shared, node, "agent", &closing);
    shared.agents.remove(node, number);
    // Refused if another session has taken over: as it should be.
    let _ = shared.engine.execute(Input::Agent(node, AgentInput::Gone { session: number })).await;
    session.finish(&closing).await;
}

async fn register(
    shared: &Shared,
    node: NodeId,
    caller: Caller,
    inbound: &mut Streaming<proto::AgentMessage>,
    session: &mut Session<Message>,
) -> Result<(), Closing> {
    let Some(In::Register(register)) = session::first(inbound).await?.message else {
        return Err(protocol("the first message is not register"));
    };
    let instances =
        convert::instances(register.instances).map_err(|wrong| protocol(format!("register.{wrong}")))?;
    let old_alive = session::other_is_alive(&shared.agents, node, register.boot).await;
    let input = AgentInput::Registered {
        session: session.handle.session,
        boot: register.boot,
        version: convert::text(register.version, 64),
        capacity: convert::capacity(register.capacity),
        drivers: convert::drivers(register.drivers),
        instances,
        old_alive,
    };
    let answer = shared.engine.execute(Input::Agent(node, input)).await;
    session::accepted(shared, node, caller, answer)?;
    session.handle.boot = register.boot;
    shared.agents.insert(node, session.handle.clone());
    if let Err(closing) = session::still_stands(shared, caller).await {
        shared.agents.remove(node, session.handle.session);
        let gone = AgentInput::Gone { session: session.handle.session };
        // Refused if the registry has ended it already.
        let _ = shared.engine.execute(Input::Agent(node, gone)).await;
        return Err(closing);
    }
    Ok(())
}

/// Makes what the agent shall have, if that is other than what it was told last.
struct DesiredSender {
    shared: Arc<Shared>,
    node: NodeId,
    last: Option<Vec<proto::InstanceSpec>>,
}

impl State<Message> for DesiredSender {
    async fn next(&mut self) -> Vec<Message> {
        let node = self.node;
        let (epoch, revision, instances) = self
            .shared
            .engine
            .read(|registry| {
                let epoch = registry.cluster().map_or(0, |cluster| cluster.epoch);
                (epoch, registry.revision().0, registry.desired_instances(node))
            })
            .await;
        let instances: Vec<_> = instances.into_iter().map(convert::spec).collect();
        if self.last.as_ref() == Some(&instances) {
            return Vec::new();
        }
        self.last = Some(instances.clone());
        let desired = proto::DesiredInstances { epoch, revision, instances };
        vec![Message { message: Some(Out::Desired(desired)) }]
    }
}

/// Takes the agent's messages.
struct Reader {
    shared: Arc<Shared>,
    node: NodeId,
    handle: super::sessions::Handle<Message>,
}

impl Take<proto::AgentMessage> for Reader {
    async fn take(&mut self, message: proto::AgentMessage) -> Result<(), Closing> {
        match message.message {
            Some(In::Heartbeat(heartbeat)) if heartbeat.answer => self.handle.life.answer(heartbeat.sequence),
            Some(In::Heartbeat(heartbeat)) => {
                let answer = Out::Heartbeat(proto::Heartbeat { sequence: heartbeat.sequence, answer: true });
                let _ = self.handle.queue.send(Message { message: Some(answer) }).await;
            }
            Some(In::Instances(report)) => {
                let instances = convert::instances(report.instances).map_err(protocol)?;
                let input = AgentInput::Report { session: self.handle.session, full: report.full, instances };
                let answer = self.shared.engine.execute(Input::Agent(self.node, input)).await;
                answer.map_err(|refusal| session::refused(&refusal))?;
            }
            Some(In::Register(_)) => return Err(protocol("register came twice in one session")),
            // Of a newer agent.
            None => {}
        }
        Ok(())
    }
}
