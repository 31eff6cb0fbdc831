//! The controller's messages as the sessions without tables read them: the parts that they only count stay bytes,
//! so that a thousand sessions in one process take less of the machine than a thousand nodes would.

use bytes::Bytes;
use controller_api::node as proto;
use tonic::codec::Streaming;
use tonic::transport::Channel;

/// `ControllerToSwitch`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ToSwitch {
    /// `Registered`.
    #[prost(message, optional, tag = "1")]
    pub(crate) registered: Option<proto::Registered>,
    /// `Heartbeat`.
    #[prost(message, optional, tag = "2")]
    pub(crate) heartbeat: Option<proto::Heartbeat>,
    /// A whole `StateUpdate`.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) update: Option<Bytes>,
    /// `BindingAnswer`.
    #[prost(message, optional, tag = "5")]
    pub(crate) refused: Option<proto::BindingAnswer>,
    /// `Goodbye`.
    #[prost(message, optional, tag = "6")]
    pub(crate) goodbye: Option<proto::Goodbye>,
}

/// `StateUpdate`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Update {
    #[prost(fixed64, tag = "1")]
    pub(crate) epoch: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
    #[prost(bool, tag = "3")]
    pub(crate) snapshot: bool,
    #[prost(bool, tag = "4")]
    pub(crate) first: bool,
    #[prost(bool, tag = "5")]
    pub(crate) more: bool,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub(crate) peers: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "10")]
    pub(crate) bindings: Vec<Bytes>,
}

/// Opens the session of a switch.
pub(crate) async fn session(
    channel: Channel,
    messages: tokio_stream::wrappers::ReceiverStream<proto::SwitchMessage>,
) -> Result<Streaming<ToSwitch>, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let path =
        tonic::codegen::http::uri::PathAndQuery::from_static("/switchd.node.v1.NodeService/SwitchSession");
    let codec = tonic_prost::ProstCodec::<proto::SwitchMessage, ToSwitch>::default();
    grpc.streaming(tonic::Request::new(messages), path, codec).await.map(tonic::Response::into_inner)
}

/// As much as the controller sends.
const MAX_MESSAGE: usize = 4 << 20;
