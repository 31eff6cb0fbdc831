//! Volumes over gRPC: the streams of [`crate::volume`] in the calls UploadVolume and DownloadVolume, named by the
//! metadata key `transfer`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use controller_api::node::node_service_client::NodeServiceClient;
use controller_api::node::{DownloadVolumeRequest, VolumeChunk};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::driver::Volume;
use crate::failure::{Failure, chain};
use crate::volume::{self, Chunk, VolumeError};

/// Percent of a transfer.
pub type Progress = Arc<AtomicU32>;

/// Whatever carries volumes between nodes. Dropping the future breaks a transfer off.
#[async_trait]
pub trait Transfers: Send + Sync {
    /// Sends a volume to a transfer.
    async fn upload(&self, transfer: &str, volume: Volume, progress: Progress) -> Result<(), Failure>;
    /// Takes a volume from a transfer, in the place of what is there.
    async fn download(&self, transfer: &str, volume: Volume, progress: Progress) -> Result<(), Failure>;
}

/// The controller passes the volumes on.
pub struct ThroughController {
    channel: watch::Receiver<Option<Channel>>,
}

impl ThroughController {
    /// `channel` is the session's, as it comes and goes.
    pub fn new(channel: watch::Receiver<Option<Channel>>) -> ThroughController {
        ThroughController { channel }
    }

    async fn client(&self) -> Result<NodeServiceClient<Channel>, Failure> {
        let mut channel = self.channel.clone();
        let connected = tokio::time::timeout(CONNECTED, channel.wait_for(Option::is_some)).await;
        let channel = connected.ok().and_then(Result::ok).and_then(|channel| (*channel).clone());
        match channel {
            Some(channel) => Ok(NodeServiceClient::new(channel)),
            None => Err(Failure::waiting("the volume waits for the controller, which cannot be reached")),
        }
    }
}

#[async_trait]
impl Transfers for ThroughController {
    async fn upload(&self, transfer: &str, volume: Volume, progress: Progress) -> Result<(), Failure> {
        let mut client = self.client().await?;
        let (to, chunks) = mpsc::channel(QUEUE);
        let sending = tokio::task::spawn_blocking(move || {
            let mut meter = Meter::new(progress);
            volume::send(&volume, |chunk| {
                meter.count(&chunk);
                to.blocking_send(to_wire(chunk)).is_ok()
            })
        });
        let mut request = Request::new(ReceiverStream::new(chunks));
        request.metadata_mut().insert("transfer", key(transfer)?);
        let receipt = client.upload_volume(request).await;
        // The answer says more than the break that it makes on this side.
        let receipt = receipt.map_err(|status| refused("send", &status))?.into_inner();
        let sent = sending.await.map_err(|_| Failure::transient("sending the volume was broken off"))?;
        let sent = sent.map_err(Failure::from)?;
        if receipt.bytes == sent {
            return Ok(());
        }
        Err(Failure::transient(format!("{sent} bytes of the volume were sent, {} came", receipt.bytes)))
    }

    async fn download(&self, transfer: &str, volume: Volume, progress: Progress) -> Result<(), Failure> {
        let mut client = self.client().await?;
        let mut request = Request::new(DownloadVolumeRequest { transfer: transfer.to_owned() });
        request.metadata_mut().insert("transfer", key(transfer)?);
        let mut stream =
            client.download_volume(request).await.map_err(|status| refused("take", &status))?.into_inner();
        let (to, mut chunks) = mpsc::channel(QUEUE);
        let taking = tokio::task::spawn_blocking(move || {
            let mut meter = Meter::new(progress);
            volume::receive(&volume, || {
                let chunk = chunks.blocking_recv()?;
                meter.count(&chunk);
                Some(chunk)
            })
        });
        let mut broken = None;
        loop {
            match stream.message().await {
                Ok(Some(chunk)) => {
                    if to.send(from_wire(chunk)).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    broken = Some(refused("take", &status));
                    break;
                }
            }
        }
        drop(to);
        let taken = taking.await.map_err(|_| Failure::transient("taking the volume was broken off"))?;
        match (taken, broken) {
            (Err(VolumeError::Broken), Some(failure)) => Err(failure),
            (taken, _) => taken.map(drop).map_err(Failure::from),
        }
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Failure {
        match error {
            VolumeError::Broken => Failure::waiting(chain(&error)),
            error => Failure::transient(chain(&error)),
        }
    }
}

struct Meter {
    total: u64,
    done: u64,
    progress: Progress,
}

impl Meter {
    fn new(progress: Progress) -> Meter {
        progress.store(0, Ordering::Relaxed);
        Meter { total: 0, done: 0, progress }
    }

    fn count(&mut self, chunk: &Chunk) {
        self.total = self.total.max(chunk.total);
        self.done += chunk.data.len() as u64;
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(0).min(99);
        let percent = if chunk.digest.is_empty() { percent } else { 100 };
        self.progress.store(u32::try_from(percent).unwrap_or(100), Ordering::Relaxed);
    }
}

fn key(transfer: &str) -> Result<MetadataValue<Ascii>, Failure> {
    transfer.parse().map_err(|_| Failure::permanent("the transfer's name cannot stand in a header"))
}

/// A controller or another end that went away comes back by itself, and the move goes on; a word that it said itself
/// is a failure.
fn refused(verb: &str, status: &tonic::Status) -> Failure {
    let detail = format!("cannot {verb} the volume: {}", status.message());
    match status.code() {
        // What gRPC itself calls a connection that broke depends on where in the call it broke. A transfer that is not
        // known has been replaced: what shall be in its place is on its way.
        Code::Unavailable
        | Code::NotFound
        | Code::Aborted
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unknown => Failure::waiting(detail),
        _ => Failure::transient(detail),
    }
}

fn to_wire(chunk: Chunk) -> VolumeChunk {
    VolumeChunk { data: chunk.data, total_bytes: chunk.total, digest: chunk.digest }
}

fn from_wire(chunk: VolumeChunk) -> Chunk {
    Chunk { data: chunk.data, total: chunk.total_bytes, digest: chunk.digest }
}

/// Chunks that may wait between the disk and the network.
const QUEUE: usize = 4;
const CONNECTED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::FailureClass;

    #[test]
    fn a_controller_that_goes_away_is_waited_for_and_its_refusal_is_not() {
        let class = |code| refused("take", &tonic::Status::new(code, "why")).class;
        for code in
            [Code::Unavailable, Code::NotFound, Code::Aborted, Code::Internal, Code::Unknown, Code::Cancelled]
        {
            assert_eq!(class(code), FailureClass::Waiting, "{code:?}");
        }
        for code in [Code::PermissionDenied, Code::DataLoss, Code::ResourceExhausted] {
            assert_eq!(class(code), FailureClass::Transient, "{code:?}");
        }
        assert_eq!(Failure::from(VolumeError::Broken).class, FailureClass::Waiting);
        assert_eq!(Failure::from(VolumeError::Digest).class, FailureClass::Transient);
    }
}
