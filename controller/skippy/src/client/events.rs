//! The stream of events, taken up again where it broke.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};

use super::{Call, Client, FIRST_PAUSE, LONGEST_PAUSE, SseEvent, SseParser};
use crate::error::Error;

/// The controller sends at least a comment this often; silence of twice that is a dead connection.
const SILENCE: Duration = Duration::from_secs(60);
/// Failed tries in a row, some 40 seconds, after which the controller counts as gone.
const TRIES: u32 = 12;

/// Events as they come, across broken connections: the stream goes on after the last event that was seen.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    call: Call,
    parser: SseParser,
    last_id: String,
    response: Option<Response>,
}

impl Client {
    /// Follows a stream of server-sent events; `after` is the id of the last event that is known.
    pub fn events(&self, call: Call, after: Option<String>) -> EventStream {
        let last_id = after.unwrap_or_default();
        EventStream { client: self.clone(), call, parser: SseParser::default(), last_id, response: None }
    }
}

impl EventStream {
    /// The next event. Cancel safe: what has come is kept.
    pub async fn next(&mut self) -> Result<SseEvent, Error> {
        let mut failures = 0;
        loop {
            if let Some(event) = self.parser.pop() {
                event.id.clone_into(&mut self.last_id);
                return Ok(event);
            }
            match self.more().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    self.response = None;
                    failures += 1;
                    if !error.may_pass() || failures == TRIES {
                        return Err(error);
                    }
                    let pause = FIRST_PAUSE * 2u32.pow(failures.min(5));
                    tokio::time::sleep(self.parser.retry().unwrap_or(pause).min(LONGEST_PAUSE)).await;
                }
            }
        }
    }

    /// Connects if need be, and takes the next bytes.
    async fn more(&mut self) -> Result<(), Error> {
        let url = self.client.base.clone();
        let response = match &mut self.response {
            Some(response) => response,
            None => {
                let after = self.client.timeout;
                let opened = tokio::time::timeout(after, self.client.send(&self.call, Some(self.headers()?)));
                let opened = opened.await.unwrap_or(Err(Error::TimedOut { url: url.clone(), after }))?;
                // Half an event of the old connection must not be glued to the new one's.
                self.parser.restart();
                self.response.insert(opened)
            }
        };
        let chunk = tokio::time::timeout(SILENCE, response.chunk()).await;
        let chunk = chunk.map_err(|_| Error::TimedOut { url: url.clone(), after: SILENCE })?;
        match chunk.map_err(|error| self.client.transport_error(&error))? {
            Some(bytes) => self
                .parser
                .push(&bytes)
                .map_err(|error| Error::BadAnswer { call: self.call.name(), reason: error.to_string() }),
            None => {
                let reason = "the event stream ended".to_owned();
                Err(Error::Unreachable { url, reason, connected: true })
            }
        }
    }

    fn headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if !self.last_id.is_empty() {
            let id = HeaderValue::try_from(&self.last_id)
                .map_err(|_| Error::Usage(format!("{:?} is no event's id", self.last_id)))?;
            headers.insert("last-event-id", id);
        }
        Ok(headers)
    }
}
