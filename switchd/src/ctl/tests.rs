use std::sync::Arc;

use clap::CommandFactory;

use super::*;
use crate::admin::{AdminSocket, serve};
use crate::view::fake::FakeView;

/// A daemon with made-up rows on a thread of its own.
fn daemon(view: FakeView) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("switchd.sock");
    let (bound, wait) = std::sync::mpsc::channel();
    let at = path.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = AdminSocket::bind(&at, "no-such-group").unwrap();
            bound.send(()).unwrap();
            serve(socket, Arc::new(view)).await;
        });
    });
    wait.recv().unwrap();
    (dir, path)
}

fn switchctl(socket: &std::path::Path, args: &[&str]) -> Result<Vec<u8>, CtlError> {
    let args = ["switchctl", "--socket", socket.to_str().unwrap()].into_iter().chain(args.iter().copied());
    let mut out = Vec::new();
    run(&Cli::try_parse_from(args).unwrap(), &mut out, false).map(|()| out)
}

fn text(socket: &std::path::Path, args: &[&str]) -> String {
    String::from_utf8(switchctl(socket, args).unwrap()).unwrap()
}

/// Without the tables' spaces.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn help_builds_and_has_examples() {
    Cli::command().debug_assert();
    let help = Cli::command().render_long_help().to_string();
    for word in ["status", "why-dropped", "capture", "Examples", "Exit codes", "--json"] {
        assert!(help.contains(word), "{word}");
    }
    for command in Cli::command().get_subcommands_mut() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
    }
}

#[test]
fn tables_show_what_the_daemon_said() {
    let (_dir, socket) = daemon(FakeView::default());
    let status = text(&socket, &["status"]);
    assert!(status.starts_with("node node-a: ready, switchd 0.1.0, up 1m30s\n"), "{status}");
    let row: Vec<_> = status.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(
        row,
        "blue 100 file rewrite br-blue sw-blue up 1500 csum,tso4 sealed node-b,node-c"
            .split(' ')
            .collect::<Vec<_>>()
    );
    let links = text(&socket, &["links"]);
    assert!(
        links.contains("0.250 ms")
            && links.contains("node-c  controller  down")
            && links.contains("1m1s  sealed,quic")
            && links.contains("node-c: no address"),
        "{links}"
    );
    assert!(text(&socket, &["bindings"]).contains("10.0.0.1, fd00::1"));
    assert!(text(&socket, &["macs", "--network", "blue"]).contains("remote"));
    let stats = text(&socket, &["stats"]);
    assert!(
        stats.contains("140 kB")
            && stats.contains("bad_tag")
            && stats.contains("EMSGSIZE: 1")
            && stats.contains("worker: 12.5s on a CPU, 0.2s waiting for one"),
        "{stats}"
    );
    for output in [status, links, stats] {
        assert!(!output.contains('\x1b') && output.lines().all(|line| line.trim_end() == line), "{output}");
    }
}

#[test]
fn a_node_that_is_not_ready_says_why() {
    let (_dir, socket) = daemon(FakeView { ready: false, ..FakeView::default() });
    let status = text(&socket, &["status"]);
    assert!(status.contains("NOT READY") && status.contains("bridge br-blue is missing"), "{status}");
    let error = switchctl(&socket, &["status", "--ready"]).unwrap_err();
    let says = "the node is not ready: bridge br-blue is missing";
    assert_eq!((error.exit_code(), error.to_string().as_str()), (1, says));
}

#[test]
fn json_is_the_views_rows() {
    let (_dir, socket) = daemon(FakeView::default());
    for command in ["status", "links", "bindings", "macs", "stats", "why-dropped"] {
        let value: serde_json::Value =
            serde_json::from_slice(&switchctl(&socket, &["--json", command]).unwrap()).unwrap();
        assert!(value.is_object() || value.is_array(), "{command}");
    }
    let links: Vec<Link> = serde_json::from_str(&text(&socket, &["links", "--json"])).unwrap();
    assert_eq!(links.len(), 2);
    let lines = text(&socket, &["--json", "capture", "--direction", "local", "--count", "2"]);
    assert_eq!(lines.lines().count(), 2);
    assert_eq!(text(&socket, &["--json", "watch", "--interval", "0.1", "--count", "2"]).lines().count(), 2);
}

#[test]
fn why_dropped_groups_and_explains() {
    let (_dir, socket) = daemon(FakeView::default());
    let all = text(&socket, &["why-dropped", "--last", "1"]);
    assert!(all.starts_with("flood_limited: 2 frames\n"), "{all}");
    assert!(all.contains("mend: look for a storm; else raise broadcast_rate"), "{all}");
    assert_eq!(all.matches("who-has").count(), 1, "{all}");
    let one = text(&socket, &["why-dropped", "--reason", "bad_tag"]);
    assert!(one.contains("bad_tag: 1 frame\n") && !one.contains("flood_limited"), "{one}");
    assert!(text(&socket, &["why-dropped", "--reason", "loop"]).starts_with("no dropped frames"));
    let counted = "queue_full: 2168 since the start, none of them in the log\n  why:  ";
    assert!(all.contains(counted) && !all.contains("bad_tag: 1 since"), "{all}");
    assert!(text(&socket, &["why-dropped", "--reason", "queue_full"]).starts_with(counted));
    assert!(!text(&socket, &["why-dropped", "--network", "blue"]).contains("queue_full"));
}

#[test]
fn netcheck_shows_nat_servers_relays_and_path_mtus() {
    let (_dir, socket) = daemon(FakeView::default());
    let shown = one_line(&text(&socket, &["netcheck"]));
    for wanted in [
        "IPv4: behind a NAT that gives one address for all destinations",
        "203.0.113.10:3478 yes 1.500 ms 198.51.100.1:20000",
        "203.0.113.20:3478 NO - -",
        "relay.example:3478 udp serving 203.0.113.10:49152",
        "relay.example:3478 (tls): the relay does not answer",
        "node-b host 1500",
    ] {
        assert!(shown.contains(wanted), "{wanted}\n{shown}");
    }
    let json: Netcheck = serde_json::from_str(&text(&socket, &["--json", "netcheck"])).unwrap();
    assert_eq!(json.path_mtus.len(), 1);
    let value: serde_json::Value = serde_json::from_str(&text(&socket, &["--json", "netcheck"])).unwrap();
    assert_eq!(value["ipv4"]["mapping"], "endpoint-independent");
}

#[test]
fn why_relayed_gives_the_reasons_and_what_was_tried() {
    let (_dir, socket) = daemon(FakeView::default());
    let shown = one_line(&text(&socket, &["why-relayed", "node-b"]));
    for wanted in [
        "node-b: frames go by a relay why: both NATs map each destination anew",
        "checks: quiet; the peer's last signal came 2.5s ago; the peer knows this node's candidates",
        "relayed 203.0.113.10:49153 7 yes alive 12.000 ms 1.2 % 1400",
        "node-b server-reflexive 198.51.100.2:20001",
        "host server-reflexive 198.51.100.2:20001 - no answer 9",
    ] {
        assert!(shown.contains(wanted), "{wanted}\n{shown}");
    }
    let json: WhyRelayed =
        serde_json::from_str(&text(&socket, &["--json", "why-relayed", "node-b"])).unwrap();
    assert!(json.relayed && json.pairs.len() == 2);
    let error = switchctl(&socket, &["why-relayed", "node-z"]).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("switchctl links")), (1, true));
}

#[test]
fn watch_shows_rates() {
    let (_dir, socket) = daemon(FakeView::default());
    let output = text(&socket, &["watch", "--interval", "0.1", "--count", "1"]);
    assert!(output.contains("FRAMES/S") && output.contains("0 bit/s"), "{output}");
}

#[test]
fn capture_prints_lines_and_writes_pcapng() {
    let (dir, socket) = daemon(FakeView::default());
    let lines = text(&socket, &["capture", "-n", "blue", "--count", "3"]);
    assert_eq!(
        lines.lines().nth(1).unwrap(),
        "1700000000.123456790 blue remote node-b: 02:02:02:02:02:02 > 02:02:02:02:02:02 0x0806, 60 bytes"
    );
    let file = dir.path().join("frames.pcapng");
    switchctl(&socket, &["capture", "-w", file.to_str().unwrap(), "--count", "3"]).unwrap();
    let written = std::fs::read(&file).unwrap();
    assert_eq!(switchctl(&socket, &["capture", "-w", "-", "--count", "3"]).unwrap(), written);
    assert_eq!(written[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
}

#[test]
fn errors_name_the_mend_and_the_exit_code() {
    let (dir, socket) = daemon(FakeView::default());
    let error = switchctl(&socket, &["macs", "--network", "red"]).unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (1, "there is no network named \"red\" on this node: blue")
    );
    let error = switchctl(&dir.path().join("none.sock"), &["status"]).unwrap_err();
    assert!(error.to_string().contains("systemctl start switchd"), "{error}");
    assert_eq!(error.exit_code(), 3);
    let dead = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(switchctl(&dead, &["status"]).unwrap_err().to_string().contains("nobody listens"));
    let denied = CtlError::Permission(socket);
    assert!(denied.to_string().contains("usermod -aG switchd"));
    assert!(Cli::try_parse_from(["switchctl", "watch", "--interval", "0"]).is_err());
}
