//! The binary `controller`, from outside.

mod common;

use common::Lab;

#[test]
fn it_runs_is_administered_and_ends() {
    let lab = Lab::new("");
    assert!(lab.error(&["run"]).contains("controller init"));
    let token = lab.ok(&["init", "--name", "lab", "--advertise", "127.0.0.1"]);
    assert!(token.starts_with("skt_"));
    let running = lab.run();

    // By the socket, while it runs.
    lab.ok(&["token", "create", "ci", "--role", "reader"]);
    assert!(lab.ok(&["token", "list"]).contains("ci"));
    let backup = lab.path("backup");
    lab.ok(&["backup", backup.to_str().unwrap()]);
    assert!(lab.error(&["restore", "--force", backup.to_str().unwrap()]).contains("stop it first"));
    assert!(lab.error(&["run"]).contains("another controller runs on it"));
    lab.ok(&["token", "revoke", "ci"]);
    running.stop();
    assert!(!lab.path("admin.sock").exists());

    // On the store, once it is stopped; and what a backup had is there again.
    assert!(!lab.ok(&["token", "list"]).contains("ci"));
    lab.ok(&["restore", "--force", backup.to_str().unwrap()]);
    assert!(lab.ok(&["token", "list"]).contains("ci"));
    lab.run().stop();
    let log = std::fs::read_to_string(lab.path("log")).unwrap();
    assert!(!log.contains(&token), "a secret is in the log");
}

#[test]
fn what_was_confirmed_before_a_crash_is_there_after_it() {
    let lab = Lab::new("");
    lab.ok(&["init", "--advertise", "127.0.0.1"]);
    for round in 0..5 {
        let running = lab.run();
        lab.ok(&["token", "create", &format!("round-{round}")]);
        running.kill();
    }
    let list = lab.ok(&["token", "list"]);
    assert!((0..5).all(|round| list.contains(&format!("round-{round}"))), "{list}");
}
