//! The gRPC service as it is served: as generated, but for the sessions of switches, whose messages may be bytes that
//! many sessions share.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http;
use bytes::{BufMut, Bytes};
use controller_api::node as proto;
use controller_api::node::node_service_server::NodeServiceServer;
use proto::goodbye::Reason;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::server::{NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder};
use tower::Service;

use super::outbox::Outgoing;
use super::{MAX_MESSAGE, Nodes};

/// What goes to a switch.
#[derive(Clone, Debug)]
pub(super) enum ToSwitch {
    /// A message of its own.
    Message(proto::ControllerToSwitch),
    /// An encoded `ControllerToSwitch`.
    Encoded(Bytes),
}

impl From<proto::controller_to_switch::Message> for ToSwitch {
    fn from(message: proto::controller_to_switch::Message) -> ToSwitch {
        ToSwitch::Message(proto::ControllerToSwitch { message: Some(message) })
    }
}

impl Outgoing for ToSwitch {
    fn registered(registered: proto::Registered) -> Self {
        proto::controller_to_switch::Message::Registered(registered).into()
    }

    fn heartbeat(sequence: u64, answer: bool) -> Self {
        proto::controller_to_switch::Message::Heartbeat(proto::Heartbeat { sequence, answer }).into()
    }

    fn goodbye(reason: Reason, detail: String) -> Self {
        let goodbye = proto::Goodbye { reason: reason.into(), detail };
        proto::controller_to_switch::Message::Goodbye(goodbye).into()
    }
}

/// The service.
#[derive(Clone)]
pub(super) struct Served {
    nodes: Nodes,
    generated: NodeServiceServer<Nodes>,
}

impl Served {
    pub(super) fn new(nodes: Nodes) -> Served {
        let generated = NodeServiceServer::new(nodes.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_DESIRED);
        Served { nodes, generated }
    }
}

impl NamedService for Served {
    const NAME: &'static str = <NodeServiceServer<Nodes> as NamedService>::NAME;
}

impl Service<http::Request<tonic::body::Body>> for Served {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path() != SWITCH_SESSION {
            return self.generated.call(request);
        }
        let session = SwitchSession(self.nodes.clone());
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(SwitchCodec)
                .apply_max_message_size_config(Some(MAX_MESSAGE), Some(MAX_MESSAGE));
            Ok(grpc.streaming(session, request).await)
        })
    }
}

struct SwitchSession(Nodes);

impl StreamingService<proto::SwitchMessage> for SwitchSession {
    type Response = ToSwitch;
    type ResponseStream = super::Outgoing<ToSwitch>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<proto::SwitchMessage>>) -> Self::Future {
        let nodes = self.0.clone();
        Box::pin(async move { nodes.open_switch_session(request).await })
    }
}

struct SwitchCodec;

impl Codec for SwitchCodec {
    type Encode = ToSwitch;
    type Decode = proto::SwitchMessage;
    type Encoder = ToSwitchEncoder;
    type Decoder = ProstDecoder<proto::SwitchMessage>;

    fn encoder(&mut self) -> ToSwitchEncoder {
        ToSwitchEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<proto::ControllerToSwitch, proto::SwitchMessage>::default().decoder()
    }
}

struct ToSwitchEncoder;

impl Encoder for ToSwitchEncoder {
    type Item = ToSwitch;
    type Error = Status;

    fn encode(&mut self, item: ToSwitch, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match item {
            ToSwitch::Message(message) => {
                prost::Message::encode(&message, out).map_err(|error| Status::internal(error.to_string()))
            }
            ToSwitch::Encoded(bytes) => {
                out.put(bytes);
                Ok(())
            }
        }
    }
}

/// What an agent shall have goes in one message, with commands and environments; as much as an agent takes.
const MAX_DESIRED: usize = 64 << 20;
const SWITCH_SESSION: &str = "/switchd.node.v1.NodeService/SwitchSession";
