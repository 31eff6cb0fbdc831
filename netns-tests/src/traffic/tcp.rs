//! One TCP connection with bulk data both ways at once.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::fill;
use crate::ns::Namespace;

/// Connects from `client` to `ip` in `server`, sends `bytes` each way at the same time, checks every byte, and returns
/// how long it took. An error if nothing moves for `stall`.
pub fn tcp_both_ways(
    client: &Namespace,
    server: &Namespace,
    ip: IpAddr,
    bytes: u64,
    stall: Duration,
) -> Result<Duration> {
    let listener = server.enter(|| TcpListener::bind((ip, 0)).context("cannot listen"))?;
    let addr = listener.local_addr()?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let accepted = scope.spawn(move || {
            let stream = accept(&listener, stall)?;
            exchange(&stream, bytes, stall, [1 << 40, 0]).context("at the server")
        });
        let stream = client.enter(|| connect(addr, stall))?;
        exchange(&stream, bytes, stall, [0, 1 << 40]).context("at the client")?;
        accepted.join().map_err(|_| anyhow!("the server's thread panicked"))?
    })?;
    Ok(start.elapsed())
}

/// Connects within `limit`.
pub(super) fn connect(addr: SocketAddr, limit: Duration) -> Result<TcpStream> {
    TcpStream::connect_timeout(&addr, limit).with_context(|| format!("cannot connect to {addr}"))
}

/// Accepts one connection within `limit`.
pub(super) fn accept(listener: &TcpListener, limit: Duration) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let (stream, _) = crate::wait_ok("a connection", limit, || listener.accept().context("nobody connects"))?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Writes the stream from `offsets[0]` and checks what comes against the stream from `offsets[1]`.
fn exchange(stream: &TcpStream, bytes: u64, stall: Duration, offsets: [u64; 2]) -> Result<()> {
    stream.set_read_timeout(Some(stall))?;
    stream.set_write_timeout(Some(stall))?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut buf = vec![0; CHUNK];
            let mut done = 0;
            while done < bytes {
                let part = &mut buf[..CHUNK.min((bytes - done) as usize)];
                fill(part, offsets[0] + done);
                (&mut &*stream)
                    .write_all(part)
                    .with_context(|| format!("stuck after sending {done} bytes"))?;
                done += part.len() as u64;
            }
            stream.shutdown(Shutdown::Write).context("cannot end the stream")
        });
        let read = check(stream, bytes, offsets[1]);
        let wrote = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        read.and(wrote)
    })
}

fn check(mut stream: &TcpStream, bytes: u64, offset: u64) -> Result<()> {
    let (mut got, mut want) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut done = 0;
    while done < bytes {
        let part = &mut got[..CHUNK.min((bytes - done) as usize)];
        stream.read_exact(part).with_context(|| format!("nothing came after about {done} bytes"))?;
        let want = &mut want[..part.len()];
        fill(want, offset + done);
        ensure!(part == want, "wrong bytes between {done} and {}", done + part.len() as u64);
        done += part.len() as u64;
    }
    ensure!(stream.read(&mut got)? == 0, "more than {bytes} bytes came");
    Ok(())
}

/// A multiple of 8, as [`fill`] wants offsets.
const CHUNK: usize = 64 << 10;
