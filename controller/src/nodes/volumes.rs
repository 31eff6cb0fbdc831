//! The way of a volume from one agent to another. Chunk by chunk, at the pace of the slower end; nothing is stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_api::node as proto;
use controller_registry::{NodeId, PublicKey};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Status, Streaming};

use super::{NodeCounters, Shared};

type Chunk = Result<proto::VolumeChunk, Status>;

/// Transfers that run or wait for their other end.
pub(super) struct Volumes {
    transfers: Arc<Mutex<HashMap<String, Transfer>>>,
    counters: Arc<NodeCounters>,
    partner_timeout: Duration,
}

/// The meeting point of a transfer's two ends. Of several dials of one end the last one counts: the agent dials again
/// when its last one failed.
#[derive(Default)]
struct Transfer {
    /// The uploader waits for where its chunks go.
    uploader: Option<oneshot::Sender<mpsc::Sender<Chunk>>>,
    /// The downloader waits for chunks.
    downloader: Option<mpsc::Sender<Chunk>>,
    keys: Vec<PublicKey>,
    /// Becomes true when nobody may go on.
    ended: watch::Sender<bool>,
}

impl Volumes {
    pub(super) fn new(counters: Arc<NodeCounters>) -> Volumes {
        Volumes { transfers: Arc::default(), counters, partner_timeout: PARTNER_TIMEOUT }
    }

    /// Passes the chunks on; the receipt comes when the other end has taken the last one.
    pub(super) async fn upload(
        &self,
        transfer: &str,
        key: PublicKey,
        chunks: Streaming<proto::VolumeChunk>,
    ) -> Result<proto::VolumeReceipt, Status> {
        let (meeting, ended) = {
            let mut transfers = self.lock();
            let entry = transfers.entry(transfer.to_owned()).or_default();
            entry.keys.push(key);
            let (meet, meeting) = oneshot::channel();
            match entry.downloader.take().filter(|downloader| !downloader.is_closed()) {
                Some(downloader) => drop(meet.send(downloader)),
                None => entry.uploader = Some(meet),
            }
            (meeting, entry.ended.subscribe())
        };
        // A task of its own: when the uploader goes away its call is dropped, and the other end has to be told.
        let relay = Relay { counters: self.counters.clone(), partner_timeout: self.partner_timeout };
        let relayed = tokio::spawn(relay.run(chunks, meeting, ended)).await;
        let result = relayed
            .unwrap_or_else(|_| Err(Status::internal("the transfer failed: see the controller's log")));
        self.forget_if_idle(transfer);
        match &result {
            Ok(receipt) => {
                self.counters.volumes.add(1);
                tracing::info!(transfer, bytes = receipt.bytes, "a volume was passed on");
            }
            Err(status) => {
                self.counters.volumes_failed.add(1);
                tracing::warn!(transfer, "a volume was not passed on: {}", status.message());
            }
        }
        result
    }

    /// The chunks, once the other end sends them.
    pub(super) fn download(&self, transfer: &str, key: PublicKey) -> mpsc::Receiver<Chunk> {
        let (chunks, stream) = mpsc::channel(CHUNKS);
        {
            let mut transfers = self.lock();
            let entry = transfers.entry(transfer.to_owned()).or_default();
            entry.keys.push(key);
            match entry.uploader.take() {
                Some(uploader) => match uploader.send(chunks) {
                    Ok(()) => return stream,
                    // That uploader went away.
                    Err(chunks) => entry.downloader = Some(chunks),
                },
                None => entry.downloader = Some(chunks),
            }
        }
        self.limit_wait(transfer.to_owned());
        stream
    }

    /// Nobody sends or takes this one any more.
    pub(super) fn end(&self, transfer: &str) {
        if let Some(transfer) = self.lock().remove(transfer) {
            transfer.end("the transfer was ended");
        }
    }

    /// Ends the transfers that one of the keys takes part in.
    pub(super) fn end_of_keys(&self, keys: &[PublicKey]) {
        let mut transfers = self.lock();
        let of_keys = |transfer: &Transfer| transfer.keys.iter().any(|key| keys.contains(key));
        let names: Vec<String> = transfers
            .iter()
            .filter(|(_, transfer)| of_keys(transfer))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if let Some(transfer) = transfers.remove(&name) {
                transfer.end("a node of the transfer was removed");
            }
        }
    }

    /// A downloader whose other end does not come is told so.
    fn limit_wait(&self, transfer: String) {
        let (transfers, limit) = (self.transfers.clone(), self.partner_timeout);
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            let mut transfers = transfers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = transfers.get_mut(&transfer)
                && let Some(downloader) = entry.downloader.take()
            {
                let _ = downloader.try_send(Err(Status::deadline_exceeded(NO_PARTNER)));
                if entry.uploader.is_none() {
                    transfers.remove(&transfer);
                }
            }
        });
    }

    fn forget_if_idle(&self, transfer: &str) {
        let mut transfers = self.lock();
        let idle = transfers
            .get(transfer)
            .is_some_and(|entry| entry.downloader.is_none() && entry.uploader.is_none());
        if idle {
            transfers.remove(transfer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Transfer>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One upload.
struct Relay {
    counters: Arc<NodeCounters>,
    partner_timeout: Duration,
}

impl Relay {
    async fn run(
        self,
        mut chunks: Streaming<proto::VolumeChunk>,
        meeting: oneshot::Receiver<mpsc::Sender<Chunk>>,
        mut ended: watch::Receiver<bool>,
    ) -> Result<proto::VolumeReceipt, Status> {
        let to = tokio::select! {
            met = tokio::time::timeout(self.partner_timeout, meeting) => match met {
                Ok(Ok(to)) => to,
                Ok(Err(_)) => return Err(Status::aborted("a newer upload, or the transfer's end, took its place")),
                Err(_) => return Err(Status::deadline_exceeded(NO_PARTNER)),
            },
            _ = ended.wait_for(|ended| *ended) => return Err(Status::aborted("the transfer was ended")),
        };
        let pass_on = async {
            let (mut bytes, mut complete) = (0, false);
            while let Some(chunk) = stalled_is_an_error(chunks.message()).await?? {
                bytes += chunk.data.len() as u64;
                complete = !chunk.digest.is_empty();
                self.counters.volume_bytes.add(chunk.data.len() as u64);
                let sent = stalled_is_an_error(to.send(Ok(chunk))).await?;
                sent.map_err(|_| Status::aborted("the node that takes the volume went away"))?;
            }
            // A call that was dropped looks like one that ended; only the digest ends a volume.
            if !complete {
                return Err(Status::aborted("the node that sends the volume went away"));
            }
            // All places free again: the last chunk is on its way, not in here.
            let all = stalled_is_an_error(to.reserve_many(CHUNKS)).await?;
            drop(all.map_err(|_| Status::aborted("the node that takes the volume went away"))?);
            Ok(proto::VolumeReceipt { bytes })
        };
        let result = tokio::select! {
            result = pass_on => result,
            _ = ended.wait_for(|ended| *ended) => Err(Status::aborted("the transfer was ended")),
        };
        if let Err(status) = &result {
            let told = to.send(Err(Status::aborted(format!(
                "the volume did not come to its end: {}",
                status.message()
            ))));
            let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        }
        result
    }
}

impl Transfer {
    fn end(self, why: &'static str) {
        self.ended.send_replace(true);
        if let Some(downloader) = self.downloader {
            let _ = downloader.try_send(Err(Status::aborted(why)));
        }
    }
}

/// Only the two nodes of the move that is under way may take part, each on its side.
pub(super) async fn check(shared: &Shared, node: NodeId, transfer: &str, upload: bool) -> Result<(), Status> {
    let ends = shared.engine.read(|registry| registry.transfer(transfer)).await;
    let ends = ends.ok_or_else(|| Status::not_found("there is no such transfer now"))?;
    if node == if upload { ends.from } else { ends.to } {
        return Ok(());
    }
    shared.counters.volumes_failed.add(1);
    let side = if upload { "send" } else { "take" };
    Err(Status::permission_denied(format!("{node} is not the node that may {side} this transfer")))
}

async fn stalled_is_an_error<T>(step: impl Future<Output = T>) -> Result<T, Status> {
    let stalled = || Status::deadline_exceeded("the transfer stood still for 60 s");
    tokio::time::timeout(STALL_TIMEOUT, step).await.map_err(|_| stalled())
}

/// Chunks on their way: what a transfer costs in memory is at most this many of the largest messages.
const CHUNKS: usize = 4;
const PARTNER_TIMEOUT: Duration = Duration::from_secs(60);
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const NO_PARTNER: &str = "the other end of the transfer did not come within the time: try again";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_downloader_whose_partner_does_not_come_is_told_and_nothing_is_left() {
        let mut volumes = Volumes::new(Arc::default());
        volumes.partner_timeout = Duration::from_millis(20);
        let mut first = volumes.download("move-1", PublicKey([1; 32]));
        let mut second = volumes.download("move-1", PublicKey([1; 32]));
        // The first one's place was taken.
        assert!(first.recv().await.is_none());
        let error = second.recv().await.unwrap().unwrap_err();
        assert!(error.message().contains("did not come"), "{error}");
        assert!(volumes.lock().is_empty());
    }

    #[tokio::test]
    async fn the_end_of_a_key_ends_its_transfers_alone() {
        let volumes = Volumes::new(Arc::default());
        let mut ended = volumes.download("move-1", PublicKey([1; 32]));
        let mut other = volumes.download("move-2", PublicKey([2; 32]));
        volumes.end_of_keys(&[PublicKey([1; 32])]);
        assert!(ended.recv().await.unwrap().unwrap_err().message().contains("removed"));
        assert!(other.try_recv().is_err());
        assert_eq!(volumes.lock().len(), 1);
    }
}
