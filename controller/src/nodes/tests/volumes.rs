//! A whole move by two agents, with its volume.

use controller_api::node as proto;
use controller_registry::{Command, NewInstance, Outcome};
use proto::instance_spec::Desired;
use proto::instance_status::State;
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use super::fixture::{Agent, Lab};
use crate::config::Limits;

fn chunks(count: u8, size: usize) -> Vec<proto::VolumeChunk> {
    let digest = |i| if i + 1 == count { vec![9; 32] } else { vec![] };
    (0..count)
        .map(|i| proto::VolumeChunk { data: vec![i; size], total_bytes: 0, digest: digest(i) })
        .collect()
}

type Chunks = tokio_stream::Iter<std::vec::IntoIter<proto::VolumeChunk>>;

fn upload(transfer: &str, chunks: Vec<proto::VolumeChunk>) -> Request<Chunks> {
    let mut request = Request::new(tokio_stream::iter(chunks));
    request.metadata_mut().insert("transfer", transfer.parse().unwrap());
    request
}

/// An instance runs on the first node and is asked to move to the second; both agents know of the transfer.
async fn moving(lab: &Lab) -> (Agent, Agent, Agent, String) {
    let (a, b, c) = (lab.node().await, lab.node().await, lab.node().await);
    let (_sa, _) = a.switch(lab, 1).await;
    let (_sb, _) = b.switch(lab, 1).await;
    let (mut from, mut to, other) = (a.agent(lab).await, b.agent(lab).await, c.agent(lab).await);
    let new = NewInstance {
        node: Some(a.id.to_string()),
        instance_type: "small".to_owned(),
        ..NewInstance::default()
    };
    let outcome = lab.engine.command(Command::Allocate(new)).await.unwrap();
    assert!(matches!(outcome, Outcome::Allocated { .. }));
    let specs = from.desired(|specs| !specs.is_empty()).await;
    let (id, generation) = (specs[0].id.clone(), specs[0].generation);
    assert_eq!(specs[0].nics[0].addresses, ["10.1.0.1/24"]);
    from.report(&id, generation, State::Running).await;
    let ready = std::time::Instant::now();
    while lab
        .engine
        .read(|registry| registry.operations().values().any(|operation| !operation.is_finished()))
        .await
    {
        assert!(ready.elapsed() < super::fixture::SOON, "the allocation does not end");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    lab.engine.command(Command::Migrate { instance: id.clone(), node: b.id.to_string() }).await.unwrap();
    let specs = from.desired(|specs| specs.iter().any(|spec| spec.desired() == Desired::Stopped)).await;
    from.report(&id, specs[0].generation, State::Stopped).await;
    let specs = from.desired(|specs| specs.iter().any(|spec| !spec.upload_to.is_empty())).await;
    let transfer = specs[0].upload_to.clone();
    let specs = to.desired(|specs| !specs.is_empty()).await;
    assert_eq!(specs[0].download_from, transfer);
    (from, to, other, transfer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_from_the_one_named_agent_to_the_other() {
    let lab = Lab::start(Limits::default()).await;
    let (mut from, mut to, mut other, transfer) = moving(&lab).await;

    let request = proto::DownloadVolumeRequest { transfer: transfer.clone() };
    let error = other.client.download_volume(request.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let error = to.client.upload_volume(upload(&transfer, vec![])).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let error = from.client.upload_volume(upload("tr-none", vec![])).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);

    // Larger than everything that is buffered on the way: the uploader is as slow as the downloader.
    let sent = chunks(60, 512 << 10);
    let mut client = from.client.clone();
    let uploading = tokio::spawn({
        let request = upload(&transfer, sent.clone());
        async move { client.upload_volume(request).await }
    });
    let mut stream = to.client.download_volume(request).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(chunk) = stream.next().await {
        received.push(chunk.unwrap());
    }
    assert!(received == sent);
    let receipt = uploading.await.unwrap().unwrap().into_inner();
    assert_eq!(receipt.bytes, 60 * (512 << 10));
    assert_eq!(lab.nodes.counters().volumes.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_either_side_and_of_the_transfer_ends_the_other() {
    let lab = Lab::start(Limits::default()).await;
    let (from, mut to, _other, transfer) = moving(&lab).await;
    let request = proto::DownloadVolumeRequest { transfer: transfer.clone() };

    // The downloader goes away in the middle.
    let mut client = from.client.clone();
    let uploading = tokio::spawn({
        let request = upload(&transfer, chunks(60, 512 << 10));
        async move { client.upload_volume(request).await }
    });
    let mut stream = to.client.download_volume(request.clone()).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    let error = uploading.await.unwrap().unwrap_err();
    assert!(error.message().contains("went away"), "{error}");

    // The uploader goes away in the middle.
    let mut client = from.client.clone();
    let (send, chunk_stream) = tokio::sync::mpsc::channel(1);
    let uploading = tokio::spawn({
        let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(chunk_stream));
        request.metadata_mut().insert("transfer", transfer.parse().unwrap());
        async move { client.upload_volume(request).await }
    });
    send.send(chunks(2, 10).remove(0)).await.unwrap();
    let mut stream = to.client.download_volume(request.clone()).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    uploading.abort();
    let _ = uploading.await;
    drop((send, from));
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(error.message().contains("did not come to its end"), "{error}");

    // The move is cancelled.
    let operation = lab
        .engine
        .read(|registry| {
            registry.operations().values().find(|operation| !operation.is_finished()).unwrap().id
        })
        .await;
    let mut stream = to.client.download_volume(request).await.unwrap().into_inner();
    lab.engine.command(Command::CancelOperation { operation }).await.unwrap();
    let ended = tokio::time::timeout(super::fixture::SOON, stream.next()).await.unwrap().unwrap();
    assert!(ended.unwrap_err().message().contains("ended"));
}
