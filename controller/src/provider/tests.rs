//! The exec provider against real commands.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

const TOKEN: &str = "join-token-secret";

fn request() -> Request {
    Request {
        version: 1,
        action: Action::Create,
        operation: "op-3".to_owned(),
        node: "node-4".to_owned(),
        name: "edge".to_owned(),
        machine_type: Some(MachineType {
            name: "small".to_owned(),
            cores_milli: 500,
            memory_bytes: 1 << 30,
            disk_bytes: 0,
        }),
        join_token: Some(TOKEN.to_owned()),
        id: None,
    }
}

fn shell(script: &str, timeout: Duration) -> ExecProvider {
    ExecProvider::new("test", ["sh", "-c", script].map(str::to_owned).to_vec(), timeout)
}

async fn run(script: &str) -> Result<Done, ProviderError> {
    shell(script, Duration::from_secs(20)).run(&request(), |_| {}, watch::channel(false).1).await
}

async fn error(script: &str) -> String {
    let error = run(script).await.unwrap_err().to_string();
    assert!(!error.contains(TOKEN), "{error}");
    error
}

#[tokio::test]
async fn progress_and_the_answer_come_back_and_the_request_goes_by_stdin_alone() {
    let script = r#"
        read request
        half=join-token-
        case "$request" in *'"action":"create"'*'"type":{'*"$half"secret*) ;; *) exit 9;; esac
        if { env; tr '\0' ' ' </proc/$$/cmdline; } | grep -q token-secre[t]; then exit 8; fi
        echo '{"progress": 40, "detail": "booting"}'
        echo '{"progress": 400}'
        echo '{"ok": true, "id": "vm-1", "detail": "made with '"$half"'secret"}'
    "#;
    let mut progress = Vec::new();
    let done = shell(script, Duration::from_secs(20))
        .run(&request(), |step| progress.push(step), watch::channel(false).1)
        .await
        .unwrap();
    assert_eq!(done, Done { id: "vm-1".to_owned(), detail: "made with <join token>".to_owned() });
    assert_eq!(progress.iter().map(|step| step.percent).collect::<Vec<_>>(), [40, 100]);
    assert_eq!(progress[0].detail, "booting");
}

#[tokio::test]
async fn every_way_to_fail_has_its_own_words() {
    assert!(
        error(r#"echo '{"ok": false, "error": "no quota for join-token-secret"}'"#)
            .await
            .contains("no quota")
    );
    assert!(error(r#"echo '{"ok": false}'; exit 3"#).await.contains("did not say why"));
    assert!(
        error("echo it broke with join-token-secret >&2; exit 3")
            .await
            .contains("exit status: 3 and no answer: it broke")
    );
    assert!(error(r#"echo '{"ok": true}'; exit 3"#).await.contains("no answer"));
    assert!(error("echo hello").await.contains("\"hello\""));
    assert!(error("echo '{}'; sleep 100").await.contains("contract"));
    assert!(error("yes '{\"progress\": 1}'").await.contains("too much"));
    assert!(error("head -c 100000 /dev/zero").await.contains("too much"));
    let missing = ExecProvider::new("test", vec!["/no/such/program".to_owned()], Duration::from_secs(1));
    let error = missing.run(&request(), |_| {}, watch::channel(false).1).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/program") && error.contains("controller.toml"), "{error}");
}

#[tokio::test]
async fn a_daemon_that_stays_does_not_hold_the_answer_up() {
    let start = Instant::now();
    let done = run(r#"sleep 30 & echo "{\"ok\": true, \"id\": \"$!\"}""#).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    let daemon: i32 = done.id.parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// The pids that a script wrote, once both are there.
fn pids(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn gone(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

#[tokio::test]
async fn a_time_limit_and_a_cancel_end_the_whole_group() {
    for by_cancel in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let script = format!("sleep 100 & echo $! >> {0}; echo $$ >> {0}; wait", file.display());
        let limit = if by_cancel { 100_000 } else { 500 };
        let provider = shell(&script, Duration::from_millis(limit));
        let (cancel, on_cancel) = watch::channel(false);
        let task = tokio::spawn(async move { provider.run(&request(), |_| {}, on_cancel).await });
        until("the script starts", || pids(&file).len() == 2).await;
        if by_cancel {
            cancel.send(true).unwrap();
        }
        let error = task.await.unwrap().unwrap_err();
        match by_cancel {
            true => assert!(matches!(error, ProviderError::Cancelled { .. }), "{error}"),
            false => assert!(matches!(error, ProviderError::TimedOut { .. }), "{error}"),
        }
        until("the group ends", || pids(&file).iter().all(|pid| gone(pid))).await;
    }
}

#[tokio::test]
async fn a_dropped_request_kills_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!("trap '' TERM; sleep 100 & echo $! >> {0}; echo $$ >> {0}; wait", file.display());
    let provider = shell(&script, Duration::from_secs(100));
    let task = tokio::spawn(async move { provider.run(&request(), |_| {}, watch::channel(false).1).await });
    until("the script starts", || pids(&file).len() == 2).await;
    task.abort();
    until("the group ends", || pids(&file).iter().all(|pid| gone(pid))).await;
}

#[tokio::test]
async fn progress_does_not_tell_the_token() {
    let script = format!(r#"echo '{{"progress":5,"detail":"with {TOKEN}"}}'; echo '{{"ok":true,"id":"x"}}'"#);
    let mut said = Vec::new();
    let run = shell(&script, Duration::from_secs(20));
    run.run(&request(), |step| said.push(step.detail), watch::channel(false).1).await.unwrap();
    assert_eq!(said, ["with <join token>"]);
}
