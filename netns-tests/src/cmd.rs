//! Running commands with a time limit, and errors that carry what the command said.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
}

/// Runs `args` (program first) and returns its standard output; a failure is an error with its standard error.
pub fn run<S: AsRef<str>>(args: &[S]) -> Result<String> {
    run_with_input(args, None)
}

/// Like [`run`], with `input` on standard input.
pub fn run_with_input<S: AsRef<str>>(args: &[S], input: Option<&str>) -> Result<String> {
    let done = finish(args, input, LIMIT)?;
    if !done.status.success() {
        bail!("`{}` failed ({}): {}{}", line(args), done.status, done.stderr.trim(), tail(&done.stdout));
    }
    Ok(done.stdout)
}

/// Runs `args` to its end, whatever its exit status; an error only if it cannot start or outlives `limit`.
pub fn finish<S: AsRef<str>>(args: &[S], input: Option<&str>, limit: Duration) -> Result<Finished> {
    let mut child = command(args)?
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}` (try `make deps`)", line(args)))?;
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
        // A command that does not read its input says why on its standard error.
        let _ = stdin.write_all(text.as_bytes());
    }
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("`{}` still ran after {limit:?}", line(args));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Ok(Finished { status, stdout: join(stdout)?, stderr: join(stderr)? })
}

/// A `Command` from program and arguments.
pub fn command<S: AsRef<str>>(args: &[S]) -> Result<Command> {
    let (program, rest) = args.split_first().ok_or_else(|| anyhow!("empty command"))?;
    let mut command = Command::new(program.as_ref());
    command.args(rest.iter().map(AsRef::as_ref));
    Ok(command)
}

fn line<S: AsRef<str>>(args: &[S]) -> String {
    args.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

fn tail(stdout: &str) -> String {
    if stdout.trim().is_empty() { String::new() } else { format!("\n{}", stdout.trim()) }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn join(reader: JoinHandle<Vec<u8>>) -> Result<String> {
    let bytes = reader.join().map_err(|_| anyhow!("the reader of a command's output panicked"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// No command of the lab's own takes longer; measurements give their own limit.
const LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_carries_the_message_and_time_is_bounded() {
        let error = run(&["sh", "-c", "echo why >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains("exit 3"), "{error}");
        let error = finish(&["sleep", "9"], None, Duration::from_millis(30)).unwrap_err().to_string();
        assert!(error.contains("still ran"), "{error}");
        assert_eq!(run_with_input(&["cat"], Some("x")).unwrap(), "x");
    }
}
