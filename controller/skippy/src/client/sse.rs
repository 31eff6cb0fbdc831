//! Server-sent events, parsed from the bytes of an answer as they come in whatever pieces.

use std::collections::VecDeque;
use std::time::Duration;

/// An event longer than this is not one of a controller.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// One event of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The event's type; empty if the stream named none.
    pub kind: String,
    /// Its lines, joined by newlines.
    pub data: String,
    /// The id in force: what to send as `Last-Event-ID` to go on after this event.
    pub id: String,
}

/// The stream sent an event beyond all bounds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an event of the stream is longer than 1 MiB")]
pub struct EventTooLong;

/// The parser of one stream, after the WHATWG's HTML standard (9.2.6, "Interpreting an event stream").
///
/// Bytes in: [`push`](Self::push). Events out: [`pop`](Self::pop), until it says `None`.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    /// The last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The byte order mark has been looked for.
    begun: bool,
    kind: String,
    data: String,
    has_data: bool,
    id: String,
    retry: Option<Duration>,
    events: VecDeque<SseEvent>,
}

impl SseParser {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => {
                    self.after_cr = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    self.take_line(&line);
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err(EventTooLong);
            }
        }
        Ok(())
    }

    /// The next whole event.
    pub fn pop(&mut self) -> Option<SseEvent> {
        self.events.pop_front()
    }

    /// Begins a new stream: what was half read is dropped, the id and the pause stay.
    pub fn restart(&mut self) {
        let (id, retry) = (std::mem::take(&mut self.id), self.retry);
        *self = Self { id, retry, events: std::mem::take(&mut self.events), ..Self::default() };
    }

    /// The id to go on after when the stream has broken; empty if it gave none.
    pub fn last_id(&self) -> &str {
        &self.id
    }

    /// How long the server asks to wait before a new try.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn take_line(&mut self, line: &[u8]) {
        let mut line = line;
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            // A comment (no field name), or a field that this version does not know.
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let kind = std::mem::take(&mut self.kind);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            self.events.push_back(SseEvent { kind, data, id: self.id.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&str]) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        for chunk in chunks {
            parser.push(chunk.as_bytes()).unwrap();
        }
        std::iter::from_fn(|| parser.pop()).collect()
    }

    fn event(kind: &str, data: &str, id: &str) -> SseEvent {
        SseEvent { kind: kind.into(), data: data.into(), id: id.into() }
    }

    #[test]
    fn streams_give_events() {
        for (stream, expected) in [
            ("data: one\n\n", vec![event("", "one", "")]),
            ("data:one\r\ndata:  two\r\n\r\n", vec![event("", "one\n two", "")]),
            ("event: node\ndata: {}\nid: 7\n\n", vec![event("node", "{}", "7")]),
            ("data: a\rdata: b\r\r", vec![event("", "a\nb", "")]),
            (": keep-alive\n\n: again\n\ndata: x\n\n", vec![event("", "x", "")]),
            ("\u{feff}data: marked\n\n", vec![event("", "marked", "")]),
            ("data\n\n", vec![event("", "", "")]),
            ("data\ndata\n\n", vec![event("", "\n", "")]),
            // Without data there is no event, and its type is forgotten; its id is not.
            ("event: x\nid: 3\n\ndata: y\n\n", vec![event("", "y", "3")]),
            ("id: 1\ndata: a\n\nid\ndata: b\n\n", vec![event("", "a", "1"), event("", "b", "")]),
            ("id: 1\u{0}\ndata: a\n\n", vec![event("", "a", "")]),
            ("unknown: z\nretry: x\ndata: a\n\n", vec![event("", "a", "")]),
            // The end of the stream is no end of an event.
            ("data: cut\n", vec![]),
        ] {
            assert_eq!(events(&[stream]), expected, "{stream:?}");
            let bytes: Vec<String> = stream.chars().map(String::from).collect();
            let pieces: Vec<&str> = bytes.iter().map(String::as_str).collect();
            assert_eq!(events(&pieces), expected, "by pieces: {stream:?}");
        }
    }

    #[test]
    fn bytes_of_one_character_may_come_apart() {
        let mut parser = SseParser::default();
        for byte in "data: größer\n\n".as_bytes() {
            parser.push(&[*byte]).unwrap();
        }
        assert_eq!(parser.pop(), Some(event("", "größer", "")));
        assert_eq!(parser.pop(), None);
    }

    #[test]
    fn retry_and_id_are_kept_for_the_next_try() {
        let mut parser = SseParser::default();
        parser.push(b"retry: 1500\nid: 42\n\n").unwrap();
        assert_eq!(parser.retry(), Some(Duration::from_millis(1500)));
        assert_eq!(parser.last_id(), "42");
        assert_eq!(parser.pop(), None);
        parser.push(b"data: cut in ha").unwrap();
        parser.restart();
        parser.push(b"data: whole\n\n").unwrap();
        assert_eq!(parser.pop(), Some(event("", "whole", "42")));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = SseParser::default();
        let line = vec![b'x'; MAX_EVENT_BYTES];
        parser.push(&line).unwrap();
        assert_eq!(parser.push(b"y"), Err(EventTooLong));
    }
}
