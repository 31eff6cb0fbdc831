//! The shim: the parent of one instance. One thread, no runtime, little memory; see [`crate::launch`] for what it says
//! to the agent.

mod init;
mod root;

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use crate::boundedlog::BoundedLog;
use crate::failure::{Failure, Step};
use crate::launch::{Exit, Launch, Processes, Program};
use crate::process::ProcessRef;
use crate::reconcile::FailureClass;
use crate::store::Home;
use crate::sys::{self, Fork};

/// Runs the shim of the instance whose home is `dir`: `node-agent shim <dir>`.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let home = Home::at(dir);
    let Some(launch) = home.read_run::<Launch>("launch.json")? else {
        anyhow::bail!("{} has no run/launch.json: only the agent starts shims", dir.display());
    };
    // Two forks: the first for a session of its own, the second so that it can take no terminal.
    for first in [true, false] {
        if let Fork::Parent(_) = sys::fork()? {
            sys::exit_now(0);
        }
        if first {
            setsid()?;
        }
    }
    std::env::set_current_dir("/")?;
    let code = match supervise(&home, &launch) {
        Ok(()) => 0,
        Err(failure) => {
            say(&failed_line(&failure));
            1
        }
    };
    sys::exit_now(code)
}

fn supervise(home: &Home, launch: &Launch) -> Result<(), Failure> {
    let (output, output_end) = pipe()?;
    let (mut status, status_end) = pipe()?;
    let (go_end, mut go) = pipe()?;
    if matches!(launch.what, Program::Container(_)) {
        unshare(CloneFlags::CLONE_NEWPID).step("make a pid namespace")?;
    }
    let pid = match sys::fork().step("fork")? {
        Fork::Child => {
            drop((output, status, go));
            first_process(launch, output_end, status_end, go_end);
        }
        Fork::Parent(pid) => pid,
    };
    drop((output_end, status_end, go_end));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let shim = i32::try_from(std::process::id()).unwrap_or(0);
    let mut made = || {
        // One byte: its namespaces are there. Anything else is its word on why not.
        let mut ready = [0];
        if status.read(&mut ready).step("hear from the first process")? != 1 {
            return Err(Failure::transient("the first process ended at once"));
        }
        if ready != [READY] {
            return Err(rest_of(&ready, &mut status));
        }
        let processes = Processes {
            shim: ProcessRef::of(shim).step("look at the shim")?,
            main: ProcessRef::of(pid).step("look at the first process")?,
            since,
        };
        home.write_run("process.json", &processes).map_err(Failure::from)?;
        say(&format!("made {pid}"));
        let mut word = String::new();
        BufReader::new(io::stdin().lock()).read_line(&mut word).step("hear from the agent")?;
        if word != "go\n" {
            return Err(Failure::transient("the agent went away"));
        }
        go.write_all(&[READY]).step("let the first process go on")?;
        // The end without a word: what it runs has been executed.
        let failure = rest_of(&[], &mut status);
        if failure.detail.is_empty() { Ok(()) } else { Err(failure) }
    };
    if let Err(failure) = made() {
        nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
        waitpid(Pid::from_raw(pid), None).ok();
        home.write_run("exit.json", &Exit { detail: failure.detail.clone() }).ok();
        return Err(failure);
    }
    say("started");
    // The agent's ends of the pipes: nothing more is said, and a write after its death must not kill the shim.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        sys::redirect_output(&OwnedFd::from(null)).ok();
    }
    keep_log(output, BoundedLog::open(&launch.log, launch.log_bytes));
    let detail = match waitpid(Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, code)) if code > 128 => {
            format!("it ended by signal {}", signal_name(code - 128))
        }
        Ok(WaitStatus::Exited(_, code)) => format!("it ended with status {code}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("it ended by signal {signal}"),
        other => format!("its end is unknown: {other:?}"),
    };
    home.write_run("exit.json", &Exit { detail }).ok();
    Ok(())
}

/// The instance's first process: becomes what it shall run, or says why not and ends.
fn first_process(launch: &Launch, output: PipeWriter, mut status: PipeWriter, go: PipeReader) -> ! {
    let result = match &launch.what {
        Program::Container(container) => init::run(container, launch, output, &mut status, go),
        Program::Host(argv) => init::run_host(argv, launch, output, &mut status, go),
    };
    let failure = match result {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    status.write_all(failed_line(&failure).as_bytes()).ok();
    sys::exit_now(127)
}

fn keep_log(mut output: PipeReader, mut log: BoundedLog) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => log.write(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The failure that the first process tells; its detail is empty if there was no word.
fn rest_of(begin: &[u8], status: &mut PipeReader) -> Failure {
    let mut text = begin.to_vec();
    status.read_to_end(&mut text).ok();
    let text = String::from_utf8_lossy(&text).into_owned();
    match text.strip_prefix("failed permanent ") {
        Some(detail) => Failure::permanent(detail),
        None => Failure::transient(text.strip_prefix("failed transient ").unwrap_or(&text)),
    }
}

fn failed_line(failure: &Failure) -> String {
    let class = if failure.class == FailureClass::Permanent { "permanent" } else { "transient" };
    format!("failed {class} {}", failure.detail.replace('\n', " "))
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).ok();
}

fn pipe() -> Result<(PipeReader, PipeWriter), Failure> {
    io::pipe().step("make a pipe")
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or(number.to_string(), |signal| signal.to_string())
}

const READY: u8 = b'+';
