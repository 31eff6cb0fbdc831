//! An external command as a provider: the request on its stdin, one JSON object a line on its stdout.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::{Cancel, Done, Progress, Request, cancelled};

/// Runs the command once for each request, in a process group of its own.
#[derive(Clone, Debug)]
pub struct ExecProvider {
    name: String,
    command: Vec<String>,
    timeout: Duration,
    grace: Duration,
}

impl ExecProvider {
    /// A provider of that name; `timeout` bounds one request.
    pub fn new(name: &str, command: Vec<String>, timeout: Duration) -> ExecProvider {
        ExecProvider { name: name.to_owned(), command, timeout, grace: GRACE }
    }

    /// Lets the command do what the request says. On a cancel or at the time limit the process group gets SIGTERM
    /// and, if it does not end within 5 s, SIGKILL. Dropping the future kills it at once.
    pub async fn run(
        &self,
        request: &Request,
        mut on_progress: impl FnMut(Progress) + Send,
        cancel: Cancel,
    ) -> Result<Done, ProviderError> {
        let secret = request.join_token.clone().unwrap_or_default();
        let mut group = self.start()?;
        let outcome = {
            let on_progress = |step: Progress| {
                on_progress(Progress { percent: step.percent, detail: redact(&step.detail, &secret) });
            };
            let talk = talk(&mut group.child, request, on_progress);
            tokio::select! {
                outcome = tokio::time::timeout(self.timeout, talk) => outcome.unwrap_or(Err(Failure::TimedOut)),
                () = cancelled(cancel) => Err(Failure::Cancelled),
            }
        };
        if matches!(
            outcome,
            Err(Failure::TimedOut | Failure::Cancelled | Failure::TooLong | Failure::Garbage(_))
        ) {
            group.end(self.grace).await;
        }
        outcome
            .map_err(|failure| self.explain(failure, &secret))
            .map(|done| Done { id: done.id, detail: redact(&done.detail, &secret) })
    }

    fn start(&self) -> Result<Group, ProviderError> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(ProviderError::NoCommand { provider: self.name.clone() });
        };
        let child = Command::new(program)
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let child = child.map_err(|source| ProviderError::Start {
            provider: self.name.clone(),
            program: program.clone(),
            source,
        })?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Group { child, id })
    }

    fn explain(&self, failure: Failure, secret: &str) -> ProviderError {
        let provider = self.name.clone();
        match failure {
            Failure::TimedOut => ProviderError::TimedOut { provider, limit: self.timeout },
            Failure::Cancelled => ProviderError::Cancelled { provider },
            Failure::TooLong => ProviderError::TooLong { provider },
            Failure::Garbage(line) => ProviderError::Garbage { provider, line: redact(&line, secret) },
            Failure::Refused(detail) => ProviderError::Refused { provider, detail: redact(&detail, secret) },
            Failure::NoAnswer { status, stderr } => {
                ProviderError::NoAnswer { provider, status, stderr: redact(&stderr, secret) }
            }
            Failure::Io(source) => ProviderError::Io { provider, source },
        }
    }
}

/// Why a provider did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The configuration is incomplete.
    #[error("provider {provider} has no command: set provider.command in controller.toml")]
    NoCommand {
        /// Whose.
        provider: String,
    },
    /// The program did not start.
    #[error(
        "provider {provider}: could not start {program}: {source}; check provider.command in controller.toml"
    )]
    Start {
        /// Whose.
        provider: String,
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long and was ended.
    #[error("provider {provider} did not finish within {} s and was ended: see its log, or raise provider.timeout", limit.as_secs_f32())]
    TimedOut {
        /// Whose.
        provider: String,
        /// The limit.
        limit: Duration,
    },
    /// The operation was cancelled.
    #[error("provider {provider} was cancelled")]
    Cancelled {
        /// Whose.
        provider: String,
    },
    /// It wrote more than any answer needs.
    #[error("provider {provider} wrote too much: a line may have 64 KiB, all lines 1 MiB")]
    TooLong {
        /// Whose.
        provider: String,
    },
    /// It wrote something else than the contract's objects.
    #[error("provider {provider} wrote a line that the contract does not know: {line:?} (docs/providers.md)")]
    Garbage {
        /// Whose.
        provider: String,
        /// The beginning of the line.
        line: String,
    },
    /// It said no.
    #[error("provider {provider}: {detail}")]
    Refused {
        /// Whose.
        provider: String,
        /// Its words.
        detail: String,
    },
    /// It ended without an answer.
    #[error("provider {provider} ended with {status} and no answer{}{stderr}", if stderr.is_empty() { "" } else { ": " })]
    NoAnswer {
        /// Whose.
        provider: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr.
        stderr: String,
    },
    /// A pipe broke.
    #[error("provider {provider}: could not talk to it: {source}")]
    Io {
        /// Whose.
        provider: String,
        /// Why.
        source: io::Error,
    },
}

impl ProviderError {
    /// How the call ended, as metrics have it.
    pub fn word(&self) -> &'static str {
        match self {
            ProviderError::TimedOut { .. } => "timed-out",
            ProviderError::Cancelled { .. } => "cancelled",
            ProviderError::Refused { .. } => "refused",
            _ => "broken",
        }
    }
}

enum Failure {
    TimedOut,
    Cancelled,
    TooLong,
    Garbage(String),
    Refused(String),
    NoAnswer { status: ExitStatus, stderr: String },
    Io(io::Error),
}

/// A line of the command's output: progress, or the answer.
#[derive(Deserialize)]
struct Line {
    progress: Option<f64>,
    ok: Option<bool>,
    #[serde(default)]
    id: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    error: String,
}

/// Sends the request, reads up to the answer, and waits for the command's end. The answer counts only if the command
/// also ended well.
async fn talk(
    child: &mut Child,
    request: &Request,
    on_progress: impl FnMut(Progress) + Send,
) -> Result<Done, Failure> {
    let mut stdin = child.stdin.take();
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::Io(io::Error::other("no pipes")));
    };
    let mut text = serde_json::to_vec(request).expect("a request is always JSON");
    text.push(b'\n');
    let write = async {
        if let Some(mut pipe) = stdin.take() {
            // One that does not read its request may still answer; its answer decides.
            let _ = pipe.write_all(&text).await;
        }
    };
    // What the command leaves running may keep stderr open for ever: its end is not waited for.
    let tail = Arc::new(Mutex::new(Vec::new()));
    let reader = tokio::spawn(keep_tail(stderr, tail.clone()));
    let ((), answer) = tokio::join!(write, read_answer(stdout, on_progress));
    let answer = answer.inspect_err(|_| reader.abort())?;
    let status = child.wait().await.map_err(Failure::Io)?;
    match answer {
        Some(Ok(done)) if status.success() => Ok(done),
        Some(Err(detail)) => Err(Failure::Refused(detail)),
        Some(Ok(_)) | None => {
            let _ = tokio::time::timeout(STDERR_WAIT, reader).await;
            let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            Err(Failure::NoAnswer { status, stderr: String::from_utf8_lossy(&tail).trim().to_owned() })
        }
    }
}

async fn read_answer(
    stdout: ChildStdout,
    mut on_progress: impl FnMut(Progress) + Send,
) -> Result<Option<Result<Done, String>>, Failure> {
    let mut lines = BufReader::new(stdout.take(MAX_OUTPUT + 1));
    let (mut line, mut total) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = read_line(&mut lines, &mut line).await?;
        total += read as u64;
        if total > MAX_OUTPUT {
            return Err(Failure::TooLong);
        }
        if read == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        let garbage = || Failure::Garbage(text.trim().chars().take(120).collect());
        let parsed: Line = serde_json::from_str(text.trim()).map_err(|_| garbage())?;
        match (parsed.ok, parsed.progress) {
            (Some(true), _) => return Ok(Some(Ok(Done { id: parsed.id, detail: parsed.detail }))),
            (Some(false), _) => {
                let said = if parsed.error.is_empty() { parsed.detail } else { parsed.error };
                return Ok(Some(Err(if said.is_empty() {
                    "it failed and did not say why".to_owned()
                } else {
                    said
                })));
            }
            (None, Some(percent)) => {
                let percent = percent.clamp(0.0, 100.0) as u8;
                on_progress(Progress { percent, detail: parsed.detail.chars().take(MAX_DETAIL).collect() });
            }
            (None, None) => return Err(garbage()),
        }
    }
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<usize, Failure> {
    let mut limited = reader.take(MAX_LINE + 1);
    let read = limited.read_until(b'\n', line).await.map_err(Failure::Io)?;
    if read as u64 > MAX_LINE { Err(Failure::TooLong) } else { Ok(read) }
}

/// Reads to the end and keeps the last bytes, so that a talkative command never blocks.
async fn keep_tail(mut stderr: impl AsyncRead + Unpin, tail: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..read]);
        let excess = tail.len().saturating_sub(MAX_STDERR);
        tail.drain(..excess);
    }
}

fn redact(text: &str, secret: &str) -> String {
    let text = if secret.is_empty() { text.to_owned() } else { text.replace(secret, "<join token>") };
    text.chars().take(MAX_DETAIL).collect()
}

/// A child and the process group that it leads.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    async fn end(&mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        let _ = tokio::time::timeout(grace, self.child.wait()).await;
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().await;
        self.id = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            let _ = killpg(id, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A finished command may have left a daemon, on purpose; the group is only killed under a running one. Until
        // the child is reaped its pid, and so the group's id, cannot be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
        }
    }
}

const GRACE: Duration = Duration::from_secs(5);
const MAX_LINE: u64 = 64 << 10;
const MAX_OUTPUT: u64 = 1 << 20;
const MAX_STDERR: usize = 4 << 10;
/// For what a command that has ended left in its stderr's pipe.
const STDERR_WAIT: Duration = Duration::from_millis(200);
const MAX_DETAIL: usize = 1000;
