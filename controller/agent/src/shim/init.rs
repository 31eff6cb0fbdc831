//! The first process of an instance: enters its namespaces, waits for its network, drops its privileges, and then is,
//! or watches over, what the instance runs.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, execvpe, setsid};

use super::READY;
use super::root;
use crate::failure::{Failure, Step};
use crate::launch::{ContainerLaunch, Launch};
use crate::sys::{self, Fork};

/// Never returns but with a failure.
pub(super) fn run(
    container: &ContainerLaunch,
    launch: &Launch,
    output: PipeWriter,
    status: &mut PipeWriter,
    go: PipeReader,
) -> Result<Infallible, Failure> {
    begin(launch)?;
    // After the control groups were joined: the cgroup namespace begins there.
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).step("make namespaces")?;
    wait_for_go(status, go)?;
    // The file is the caller's own UTS namespace's.
    fs::write("/proc/sys/kernel/hostname", &container.hostname).step("set the hostname")?;
    root::enter(container)?;
    connect(output)?;
    // Signals wait for the loop below; a first process without handlers would ignore them.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect();
    if container.command.is_empty() && container.base != std::path::Path::new("/") {
        // The image's own init wants to be the first process itself.
        sys::keep_capabilities(CAPABILITIES).step("drop capabilities")?;
        let inits = ["/sbin/init", "/init", "/bin/init"];
        let init = inits.into_iter().find(|path| fs::metadata(path).is_ok()).ok_or_else(|| {
            Failure::permanent("the image has no /sbin/init and the type no command: give one of them")
        })?;
        return execute(&[init.to_owned()], container);
    }
    signals.thread_block().step("block signals")?;
    let main = if container.command.is_empty() {
        None
    } else {
        match sys::fork().step("fork")? {
            Fork::Parent(pid) => Some(Pid::from_raw(pid)),
            Fork::Child => {
                let result = (|| {
                    signals.thread_unblock().step("unblock signals")?;
                    setsid().step("make a session")?;
                    sys::no_new_privileges().step("set no_new_privs")?;
                    sys::keep_capabilities(CAPABILITIES).step("drop capabilities")?;
                    execute(&container.command, container)
                })();
                let failure = match result {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                };
                status.write_all(super::failed_line(&failure).as_bytes()).ok();
                sys::exit_now(127);
            }
        }
    };
    // Only the command's copy is left; it closes when the command is executed.
    *status = null_writer()?;
    sys::keep_capabilities(CAPABILITIES).step("drop capabilities")?;
    watch_over(main, &signals)
}

/// A program in the host's namespaces.
pub(super) fn run_host(
    argv: &[String],
    launch: &Launch,
    output: PipeWriter,
    status: &mut PipeWriter,
    go: PipeReader,
) -> Result<Infallible, Failure> {
    begin(launch)?;
    wait_for_go(status, go)?;
    setsid().step("make a session")?;
    connect(output)?;
    let words = c_strings(argv)?;
    let environment = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    let errno = match execvpe(&words[0], &words, &environment) {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    Err(not_executed(&argv[0], errno))
}

fn begin(launch: &Launch) -> Result<(), Failure> {
    sys::die_with_parent().step("tie the instance to its shim")?;
    for file in &launch.cgroup_procs {
        fs::write(file, "0").step(format!("join the control group {}", file.display()))?;
    }
    Ok(())
}

fn wait_for_go(status: &mut PipeWriter, mut go: PipeReader) -> Result<(), Failure> {
    status.write_all(&[READY]).step("tell the shim")?;
    let mut word = [0];
    go.read_exact(&mut word).step("wait for the network")
}

/// Standard output and error go to the log, input is empty.
fn connect(output: PipeWriter) -> Result<(), Failure> {
    let null = fs::File::open("/dev/null").step("open /dev/null")?;
    nix::unistd::dup2_stdin(&null).step("set the standard input")?;
    sys::redirect_output(&OwnedFd::from(output)).step("set the standard output")
}

fn execute(command: &[String], container: &ContainerLaunch) -> Result<Infallible, Failure> {
    let mut environment = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        "HOME=/data".to_owned(),
        "LANG=C.UTF-8".to_owned(),
    ];
    environment.retain(|word| !container.environment.contains_key(word.split('=').next().unwrap_or("")));
    environment.extend(container.environment.iter().map(|(key, value)| format!("{key}={value}")));
    // The search goes by this process's own PATH: std's copy is the shim's, the same default.
    let (words, environment) = (c_strings(command)?, c_strings(&environment)?);
    let errno = match execvpe(&words[0], &words, &environment) {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    Err(not_executed(&command[0], errno))
}

fn not_executed(program: &str, errno: Errno) -> Failure {
    let text = format!("cannot execute {program}: {}", errno.desc());
    match errno {
        Errno::ENOENT | Errno::EACCES | Errno::ENOEXEC | Errno::ENOTDIR | Errno::E2BIG => {
            Failure::permanent(text)
        }
        _ => Failure::transient(text),
    }
}

/// Reaps whatever ends, passes SIGTERM on, and ends with the command: then the kernel ends all that is left.
fn watch_over(main: Option<Pid>, signals: &SigSet) -> ! {
    loop {
        match signals.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => match main {
                Some(main) => {
                    kill(main, Signal::SIGTERM).ok();
                }
                None => sys::exit_now(0),
            },
            Ok(_) => {
                while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    match status {
                        WaitStatus::Exited(pid, code) if Some(pid) == main => sys::exit_now(code),
                        WaitStatus::Signaled(pid, signal, _) if Some(pid) == main => {
                            sys::exit_now(128 + signal as i32)
                        }
                        WaitStatus::StillAlive => break,
                        _ => {}
                    }
                }
            }
            Err(_) => {}
        }
    }
}

fn c_strings(words: &[String]) -> Result<Vec<CString>, Failure> {
    let convert = |word: &String| CString::new(word.as_str());
    words
        .iter()
        .map(convert)
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::permanent("a word of the command holds a NUL"))
}

fn null_writer() -> Result<PipeWriter, Failure> {
    let null = fs::File::options().write(true).open("/dev/null").step("open /dev/null")?;
    Ok(PipeWriter::from(OwnedFd::from(null)))
}

/// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot,
/// audit_write, setfcap: what plain programs that run as root need inside. Nothing that reaches the kernel's
/// configuration, devices, modules, other namespaces or the clock. Bits as in include/uapi/linux/capability.h.
const CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 29
    | 1 << 31;
