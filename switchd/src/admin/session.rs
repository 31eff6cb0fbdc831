//! One client's connection.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::MAX_CLIENTS;
use super::protocol::{Answer, MAX_REQUEST, Request, Snapshot, WATCH_INTERVAL};
use crate::view::{CaptureFilter, View};

/// Serves one client until it closes, is silent for [`IDLE`], or takes no answer for [`WRITE`].
pub(super) async fn run(mut stream: UnixStream, view: &dyn View) -> io::Result<()> {
    let (from_client, mut to_client) = stream.split();
    let mut from_client = BufReader::new(from_client);
    let mut line = Vec::new();
    loop {
        match timeout(IDLE, read_line(&mut from_client, &mut line)).await {
            Err(_) | Ok(Ok(Line::Closed)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Line::TooLong)) => {
                let message = format!("the request is longer than {MAX_REQUEST} bytes");
                return answer::<()>(&mut to_client, &Answer::Error(message)).await;
            }
            Ok(Ok(Line::Read)) => {}
        }
        match serde_json::from_slice(&line) {
            Err(error) => {
                answer::<()>(&mut to_client, &Answer::Error(format!("bad request: {error}"))).await?;
            }
            Ok(Request::Watch { interval_ms }) => {
                return watch(view, Duration::from_millis(interval_ms), from_client, to_client).await;
            }
            Ok(Request::Capture(filter)) => return capture(view, filter, from_client, to_client).await,
            Ok(Request::Status) => answer(&mut to_client, &Answer::Ok(view.status())).await?,
            Ok(Request::RotateKey) => {
                let rotated = view.rotate_key().await.map_or_else(Answer::Error, Answer::Ok);
                answer(&mut to_client, &rotated).await?;
            }
            Ok(Request::Links) => answer(&mut to_client, &Answer::Ok(view.links())).await?,
            Ok(Request::Stats) => answer(&mut to_client, &Answer::Ok(view.stats())).await?,
            Ok(Request::Bindings) => answer(&mut to_client, &asked(view.bindings()).await).await?,
            Ok(Request::Macs) => answer(&mut to_client, &asked(view.macs()).await).await?,
            Ok(Request::Drops) => answer(&mut to_client, &asked(view.drops()).await).await?,
            Ok(Request::Netcheck) => answer(&mut to_client, &found(NETCHECK, view.netcheck()).await).await?,
            Ok(Request::WhyRelayed { peer }) => {
                answer(&mut to_client, &found(WORKER, view.why_relayed(&peer)).await).await?;
            }
        }
    }
}

/// Tells a client that there are too many.
pub(super) async fn refuse(mut stream: UnixStream) -> io::Result<()> {
    let message =
        format!("{MAX_CLIENTS} clients are connected already: end one (a watch or a capture?) first");
    answer::<()>(&mut stream, &Answer::Error(message)).await
}

async fn watch(
    view: &dyn View,
    every: Duration,
    mut from_client: impl AsyncBufRead + Unpin,
    mut to_client: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    if !WATCH_INTERVAL.contains(&every) {
        let message = "interval_ms is out of range: use 100 to 3600000".to_owned();
        return answer::<()>(&mut to_client, &Answer::Error(message)).await;
    }
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            closed = wait_for_close(&mut from_client) => return closed,
            _ = ticks.tick() => {}
        }
        let status = view.status();
        let snapshot = Snapshot {
            uptime_seconds: status.uptime.as_secs_f64(),
            ready: status.ready,
            stats: view.stats(),
            links: view.links(),
        };
        answer(&mut to_client, &Answer::Ok(snapshot)).await?;
    }
}

async fn capture(
    view: &dyn View,
    filter: CaptureFilter,
    mut from_client: impl AsyncBufRead + Unpin,
    mut to_client: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut frames = match timeout(WORKER, view.capture(filter)).await {
        Ok(Ok(frames)) => frames,
        Ok(Err(error)) => return answer::<()>(&mut to_client, &Answer::Error(error.to_string())).await,
        Err(_) => return answer::<()>(&mut to_client, &Answer::Error(WORKER_SILENT.to_owned())).await,
    };
    answer(&mut to_client, &Answer::Ok(())).await?;
    let mut batch = Vec::with_capacity(CAPTURE_BATCH);
    let mut lines = Vec::new();
    loop {
        tokio::select! {
            closed = wait_for_close(&mut from_client) => return closed,
            received = frames.recv_many(&mut batch, CAPTURE_BATCH) => if received == 0 {
                return Ok(());
            }
        }
        lines.clear();
        for frame in batch.drain(..) {
            write_answer(&mut lines, &Answer::Ok(frame))?;
        }
        send(&mut to_client, &lines).await?;
    }
}

/// The worker's answer, or that there is none.
async fn asked<T>(rows: impl Future<Output = T>) -> Answer<T> {
    match timeout(WORKER, rows).await {
        Ok(rows) => Answer::Ok(rows),
        Err(_) => Answer::Error(WORKER_SILENT.to_owned()),
    }
}

/// What was found out, why not, or that it takes too long.
async fn found<T>(limit: Duration, found: impl Future<Output = Result<T, String>>) -> Answer<T> {
    match timeout(limit, found).await {
        Ok(Ok(found)) => Answer::Ok(found),
        Ok(Err(why)) => Answer::Error(why),
        Err(_) => {
            Answer::Error(format!("there was no answer within {} s: see the daemon's log", limit.as_secs()))
        }
    }
}

async fn answer<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), answer: &Answer<T>) -> io::Result<()> {
    let mut line = Vec::new();
    write_answer(&mut line, answer)?;
    send(to, &line).await
}

fn write_answer<T: Serialize>(line: &mut Vec<u8>, answer: &Answer<T>) -> io::Result<()> {
    serde_json::to_writer(&mut *line, answer)?;
    line.push(b'\n');
    Ok(())
}

async fn send(to: &mut (impl AsyncWrite + Unpin), lines: &[u8]) -> io::Result<()> {
    timeout(WRITE, to.write_all(lines)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

enum Line {
    Read,
    Closed,
    TooLong,
}

async fn read_line(from: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let read = from.take(MAX_REQUEST as u64).read_until(b'\n', line).await?;
    Ok(match line.last() {
        Some(b'\n') => Line::Read,
        _ if read == MAX_REQUEST => Line::TooLong,
        _ => Line::Closed,
    })
}

/// Ends when the client closes, or says anything: a stream takes no further request.
async fn wait_for_close(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    from.fill_buf().await.map(|_| ())
}

/// A client that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A client that takes no answer for so long is closed.
const WRITE: Duration = Duration::from_secs(10);
/// The worker turns many times a second; this long means that it hangs.
const WORKER: Duration = Duration::from_secs(5);
/// A check of the network ends by itself sooner.
const NETCHECK: Duration = Duration::from_secs(12);
const WORKER_SILENT: &str = "the worker did not answer within 5 s: see the daemon's log, then restart it";
const CAPTURE_BATCH: usize = 64;
