//! Captured frames as pcapng (draft-ietf-opsawg-pcapng), which tcpdump and Wireshark read: one interface per
//! network and direction, nanosecond timestamps, the peer as each packet's comment.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::SystemTime;

use crate::view::{CapturedFrame, Direction};

/// Writes one section of blocks.
pub struct PcapngWriter<W> {
    to: W,
    snaplen: u32,
    interfaces: HashMap<(String, Direction), u32>,
}

impl<W: Write> PcapngWriter<W> {
    /// Writes the section header. `snaplen` goes into every interface.
    pub fn new(mut to: W, snaplen: u32, node: &str) -> io::Result<PcapngWriter<W>> {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        body.extend(1u16.to_le_bytes()); // version 1.0
        body.extend(0u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes()); // section length unknown
        option(&mut body, SHB_USERAPPL, concat!("switchctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, OPT_COMMENT, format!("captured on node {node}").as_bytes());
        end_of_options(&mut body);
        block(&mut to, SECTION_HEADER, &body)?;
        Ok(PcapngWriter { to, snaplen, interfaces: HashMap::new() })
    }

    /// Writes one frame, and before it the description of its interface if that is new.
    pub fn frame(&mut self, frame: &CapturedFrame) -> io::Result<()> {
        let interface = self.interface(&frame.network, frame.direction)?;
        let nanoseconds = frame
            .time
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let kept = u32::try_from(frame.bytes.len())
            .map_err(|_| io::Error::other("a captured frame exceeds 4 GiB"))?;
        let mut body = Vec::with_capacity(frame.bytes.len() + 96);
        body.extend(interface.to_le_bytes());
        body.extend(((nanoseconds >> 32) as u32).to_le_bytes());
        body.extend((nanoseconds as u32).to_le_bytes());
        body.extend(kept.to_le_bytes());
        body.extend(frame.original_len.to_le_bytes());
        body.extend(&frame.bytes);
        pad(&mut body);
        if let Some(peer) = &frame.peer {
            option(&mut body, OPT_COMMENT, format!("peer {peer}").as_bytes());
        }
        if frame.missed > 0 {
            option(&mut body, EPB_DROPCOUNT, &frame.missed.to_le_bytes());
        }
        end_of_options(&mut body);
        block(&mut self.to, ENHANCED_PACKET, &body)
    }

    /// Flushes the writer under it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    fn interface(&mut self, network: &str, direction: Direction) -> io::Result<u32> {
        let key = (network.to_owned(), direction);
        if let Some(index) = self.interfaces.get(&key) {
            return Ok(*index);
        }
        let mut body = Vec::new();
        body.extend(LINKTYPE_ETHERNET.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(self.snaplen.to_le_bytes());
        option(&mut body, IF_NAME, format!("{network}/{}", direction.as_str()).as_bytes());
        option(&mut body, IF_DESCRIPTION, describe(direction).as_bytes());
        option(&mut body, IF_TSRESOL, &[9]); // 10^-9 s
        end_of_options(&mut body);
        block(&mut self.to, INTERFACE_DESCRIPTION, &body)?;
        let index = self.interfaces.len() as u32;
        self.interfaces.insert(key, index);
        Ok(index)
    }
}

fn describe(direction: Direction) -> &'static str {
    match direction {
        Direction::Local => "frames from this node's bridge",
        Direction::Remote => "frames from peers",
    }
}

/// A block's total length stands before and after its body.
fn block(to: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    to.write_all(&kind.to_le_bytes())?;
    to.write_all(&length)?;
    to.write_all(body)?;
    to.write_all(&length)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Bodies consist of 32-bit words.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const LINKTYPE_ETHERNET: u16 = 1;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_DROPCOUNT: u16 = 4;

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    fn frame(direction: Direction, length: usize) -> CapturedFrame {
        // ARP: who-has 10.0.0.2 tell 10.0.0.1.
        let mut bytes = vec![0xff; 6];
        bytes.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        bytes.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        bytes.resize(length, 0);
        CapturedFrame {
            time: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            network: "blue".into(),
            direction,
            peer: (direction == Direction::Remote).then(|| "node-b".into()),
            original_len: length as u32,
            bytes,
            missed: 0,
        }
    }

    fn file() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = PcapngWriter::new(&mut bytes, 65_558, "node-a").unwrap();
        writer.frame(&frame(Direction::Local, 42)).unwrap();
        writer.frame(&frame(Direction::Remote, 43)).unwrap();
        writer.frame(&CapturedFrame { missed: 3, ..frame(Direction::Local, 60) }).unwrap();
        writer.flush().unwrap();
        bytes
    }

    #[test]
    fn blocks_are_whole_words_with_their_length_at_both_ends() {
        let bytes = file();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut kinds = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = word(at + 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(at + length - 4) as usize, length);
            kinds.push(word(at));
            if word(at) == ENHANCED_PACKET {
                let ns = u64::from(word(at + 12)) << 32 | u64::from(word(at + 16));
                assert_eq!(ns, 1_700_000_000_123_456_789);
            }
            at += length;
        }
        assert_eq!(kinds, [SECTION_HEADER, 1, 6, 1, 6, 6], "an interface stands before its first frame");
    }

    #[test]
    fn tcpdump_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames.pcapng");
        std::fs::write(&path, file()).unwrap();
        let read = Command::new("tcpdump").args(["--nano", "-tt", "-n", "-r"]).arg(&path).output();
        let Ok(output) = read else {
            eprintln!("skipped: tcpdump is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(text.lines().count(), 3, "{text}");
        for line in text.lines() {
            assert!(line.contains("1700000000.123456789"), "{line}");
            assert!(line.contains("who-has 10.0.0.2 tell 10.0.0.1"), "{line}");
        }
    }
}
