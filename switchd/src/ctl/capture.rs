//! `switchctl capture`: frames as lines of text, JSON or pcapng.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::SystemTime;

use super::client::{Client, CtlError};
use super::{Capture, print_line};
use crate::admin::protocol::Request;
use crate::capture::PcapngWriter;
use crate::view::{CaptureFilter, CapturedFrame, Status};

pub(super) fn run(
    client: &mut Client,
    out: &mut dyn Write,
    terminal: bool,
    json: bool,
    options: &Capture,
) -> Result<(), CtlError> {
    if json && options.write.is_some() {
        return Err(CtlError::Usage("--json and --write exclude each other".to_owned()));
    }
    let to_stdout = options.write.as_deref() == Some(Path::new("-"));
    if to_stdout && terminal {
        return Err(CtlError::Usage(
            "pcapng is no text for a terminal: pipe it (| tcpdump -n -r -), or --write FILE".to_owned(),
        ));
    }
    let status: Status = client.ask(&Request::Status)?;
    let filter = CaptureFilter {
        network: options.of.network.clone(),
        direction: options.direction.direction(),
        snaplen: options.snaplen,
    };
    client.ask::<()>(&Request::Capture(filter))?;
    let mut sink: Box<dyn Sink + '_> = match &options.write {
        None if json => Box::new(JsonLines(out)),
        None => Box::new(TextLines(out)),
        Some(_) if to_stdout => pcapng(out, options.snaplen, &status.node)?,
        Some(path) => {
            let file = File::create(path)
                .map_err(|error| CtlError::Usage(format!("could not create {}: {error}", path.display())))?;
            pcapng(BufWriter::new(file), options.snaplen, &status.node)?
        }
    };
    if !json {
        eprintln!("capturing; Ctrl-C ends it");
    }
    let (mut frames, mut missed) = (0, 0);
    while options.count.is_none_or(|count| frames < count) {
        let Some(frame) = client.next::<CapturedFrame>()? else { break };
        frames += 1;
        missed += frame.missed;
        sink.frame(&frame)?;
        if !client.has_buffered() {
            // Ctrl-C ends the process at once: what has come is in the file by then.
            sink.flush()?;
        }
    }
    sink.flush()?;
    if !json {
        eprintln!("{frames} frames captured, {missed} missed because this was too slow");
    }
    Ok(())
}

trait Sink {
    fn frame(&mut self, frame: &CapturedFrame) -> Result<(), CtlError>;
    fn flush(&mut self) -> Result<(), CtlError>;
}

struct TextLines<'a>(&'a mut dyn Write);

impl Sink for TextLines<'_> {
    fn frame(&mut self, frame: &CapturedFrame) -> Result<(), CtlError> {
        writeln!(self.0, "{}", line(frame)).map_err(CtlError::Output)
    }

    fn flush(&mut self) -> Result<(), CtlError> {
        self.0.flush().map_err(CtlError::Output)
    }
}

struct JsonLines<'a>(&'a mut dyn Write);

impl Sink for JsonLines<'_> {
    fn frame(&mut self, frame: &CapturedFrame) -> Result<(), CtlError> {
        print_line(self.0, frame)
    }

    fn flush(&mut self) -> Result<(), CtlError> {
        Ok(())
    }
}

impl<W: Write> Sink for PcapngWriter<W> {
    fn frame(&mut self, frame: &CapturedFrame) -> Result<(), CtlError> {
        PcapngWriter::frame(self, frame).map_err(CtlError::Output)
    }

    fn flush(&mut self) -> Result<(), CtlError> {
        PcapngWriter::flush(self).map_err(CtlError::Output)
    }
}

fn pcapng<'a, W: Write + 'a>(to: W, snaplen: u32, node: &str) -> Result<Box<dyn Sink + 'a>, CtlError> {
    let mut writer = PcapngWriter::new(to, snaplen, node).map_err(CtlError::Output)?;
    writer.flush().map_err(CtlError::Output)?;
    Ok(Box::new(writer))
}

/// Seconds since the epoch, side, and the Ethernet header. For more, pipe pcapng into tcpdump.
fn line(frame: &CapturedFrame) -> String {
    let since = frame.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut text = format!(
        "{}.{:09} {} {}",
        since.as_secs(),
        since.subsec_nanos(),
        frame.network,
        frame.direction.as_str()
    );
    if let Some(peer) = &frame.peer {
        let _ = write!(text, " {peer}");
    }
    match switch_core::frame::Eth::parse(&frame.bytes) {
        Ok(eth) => {
            let _ = write!(text, ": {} > {}", eth.src, eth.dst);
            for vid in eth.tags.vids() {
                let _ = write!(text, " vlan {vid}");
            }
            let _ = write!(text, " {:#06x}", eth.ethertype);
        }
        Err(error) => {
            let _ = write!(text, ": {error}");
        }
    }
    let _ = write!(text, ", {} bytes", frame.original_len);
    text
}
