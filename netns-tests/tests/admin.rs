//! What people and machines see of the daemon: commands, captures, metrics, and the errors of a configuration.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::frames::{EXPERIMENTAL, Mac, ethernet};
use netns_tests::packet::PacketSocket;
use netns_tests::{Lab, LabSpec, cmd, ctl, expect, lab_test, measure, switchd_bin, wait_for};

/// The default of `metrics.listen`, in the node's own namespace.
const METRICS: u16 = 9484;

/// Two nodes that have spoken in both families.
fn spoken(name: &str, body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    lab_test(LabSpec::pair(name), |lab| {
        lab.start_switchd(|_| {})?;
        for ip in lab.instance("b1")?.both()? {
            measure::ping_ok(lab.instance("a1")?.ns(), ip)?;
        }
        // The counters shown are a snapshot that the worker renews now and then.
        for node in lab.nodes() {
            wait_for("counters of the pings", Duration::from_secs(2), || {
                node.stats().is_ok_and(|stats| ctl::sum(&stats, "frames") >= 12)
            })?;
        }
        body(lab)
    })
}

/// Something to count and to say why about: the endpoint's own frame comes back from the bridge.
fn looped_frame(lab: &Lab) -> Result<()> {
    let endpoint = "02:73:77:00:00:64".parse()?;
    let frame = ethernet(Mac::BROADCAST, endpoint, &[], EXPERIMENTAL, b"loop");
    PacketSocket::open(lab.instance("a1")?.ns(), "eth0")?.send(&frame)?;
    let node = lab.node("node-a")?;
    wait_for("a drop", Duration::from_secs(2), || {
        node.ctl(&["why-dropped"]).is_ok_and(|rows| rows.to_string().contains("loop"))
            && node.stats().is_ok_and(|stats| ctl::sum(&stats, "loop") > 0)
    })
    .map(drop)
}

#[test]
fn every_command_as_table_and_as_json() -> Result<()> {
    spoken("commands", |lab| {
        let node = lab.node("node-a")?;
        looped_frame(lab)?;
        // Command, and what its table and its JSON must mention.
        let rows = [
            ("status", ["node-a", "br-blue", "sw-blue"]),
            ("links", ["node-b", "up", "10.99.0.2"]),
            ("bindings", ["10.0.0.21", "node-b", "02:00:00:01:02:01"]),
            ("macs", ["02:00:00:01:01:01", "02:00:00:01:02:01", "node-b"]),
            ("stats", ["blue", "local", "remote"]),
            ("why-dropped", ["loop", "blue", "local"]),
        ];
        for (command, mentions) in rows {
            let (table, json) = (node.ctl_text(&[command])?, node.ctl(&[command])?.to_string());
            for mention in mentions {
                for (form, text) in [("table", &table), ("JSON", &json)] {
                    expect(text.contains(mention), || {
                        format!("the {form} of {command} lacks {mention}:\n{text}")
                    })?;
                }
            }
            expect(!table.contains('\u{1b}'), || format!("{command} colours what is no terminal"))?;
        }
        Ok(())
    })
}

#[test]
fn capture_is_read_by_tcpdump() -> Result<()> {
    spoken("capture", |lab| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let node = lab.node("node-a")?;
        let file = lab.dir().join("node-a.pcapng").display().to_string();
        for (direction, from, to) in [("local", a, b), ("remote", b, a)] {
            let captured = std::thread::scope(|scope| {
                let args = ["capture", "--direction", direction, "--count", "10", "--write", &file];
                let capture = scope.spawn(move || node.ctl_text(&args));
                // The capture begins at some time during these.
                let pings = measure::ping(from.ns(), to.v4()?, 100, Duration::from_millis(10));
                capture.join().map_err(|_| anyhow::anyhow!("the capture's thread panicked"))??;
                pings
            })?;
            expect(captured.received == 100, || format!("a capture disturbs traffic: {captured:?}"))?;
            let text = cmd::run(&["tcpdump", "-n", "-e", "-r", &file])?;
            let packets = text.lines().filter(|line| line.contains("ethertype")).count();
            expect(packets == 10, || format!("tcpdump read {packets} of 10 frames:\n{text}"))?;
            let echo = format!("{} > {}: ICMP echo request", from.v4()?, to.v4()?);
            expect(text.contains(&echo), || format!("no {echo:?} from the {direction} side:\n{text}"))?;
        }
        Ok(())
    })
}

#[test]
fn metrics_pass_promtool_and_health_is_told() -> Result<()> {
    spoken("metrics", |lab| {
        let node = lab.node("node-a")?;
        looped_frame(lab)?;
        let (code, text) = measure::http_get(node.ns(), METRICS, "/metrics")?;
        expect(code == 200, || format!("/metrics answered {code}"))?;
        cmd::run_with_input(&["promtool", "check", "metrics"], Some(&text)).context("promtool objects")?;
        for name in [
            "switchd_frames_total",
            "switchd_bytes_total",
            "switchd_drops_total",
            "switchd_link_up",
            "switchd_worker_cpu_seconds_total",
        ] {
            expect(text.contains(name), || format!("{name} is not among the metrics"))?;
        }
        let up = text.lines().find(|line| line.starts_with("switchd_link_up{") && line.contains("node-b"));
        expect(up.is_some_and(|line| line.ends_with(" 1")), || format!("the link should be up: {up:?}"))?;

        expect(measure::http_get(node.ns(), METRICS, "/healthz")?.0 == 200, || "/healthz".into())?;
        expect(measure::http_get(node.ns(), METRICS, "/readyz")?.0 == 200, || "/readyz".into())?;
        node.ns().ip("link del br-blue")?;
        wait_for("/readyz to say why not", Duration::from_secs(3), || {
            measure::http_get(node.ns(), METRICS, "/readyz")
                .is_ok_and(|(code, body)| code == 503 && body.contains("br-blue"))
        })?;
        expect(measure::http_get(node.ns(), METRICS, "/healthz")?.0 == 200, || {
            "/healthz without a bridge".into()
        })
    })
}

#[test]
fn socket_mode_and_a_daemon_that_is_not_there() -> Result<()> {
    spoken("socket", |lab| {
        let node = lab.node("node-a")?;
        let mode = std::fs::metadata(node.socket_path())?.permissions().mode() & 0o777;
        expect(mode == 0o660, || format!("the socket's mode is {mode:o}"))?;
        node.terminate()?;
        let error = node.ctl_text(&["status"]).err().map(|e| e.to_string()).unwrap_or_default();
        expect(error.contains("running"), || format!("no mend in: {error}"))?;
        // A socket that a killed daemon left behind is no obstacle.
        node.restart()?;
        node.wait_ready()?;
        node.kill9();
        node.restart()?;
        node.wait_ready()
    })
}

/// Unknown keys by name, ranges, and where the mistake is.
#[test]
fn mistakes_in_the_configuration_are_named() -> Result<()> {
    lab_test(LabSpec::pair("config_mistakes"), |lab| {
        let good = lab.configs()?.remove(0).to_toml();
        let node = lab.node("node-a")?;
        let bin = switchd_bin()?.display().to_string();
        let config = node.config_path().display().to_string();
        let check = |text: &str| -> Result<cmd::Finished> {
            node.write_config(text)?;
            cmd::finish(&[&bin, "check-config", "--config", &config], None, Duration::from_secs(5))
        };
        let done = check(&good)?;
        expect(done.status.success(), || format!("refused: {}", done.stderr))?;
        let rows = [
            ("vni = 100", "vni = 100\nvnii = 3", vec!["vnii"]),
            ("vni = 100", "vni = 16777216", vec!["vni", "16777215"]),
            ("keepalive = \"200ms\"", "keepalive = \"1ms\"", vec!["keepalive", "100ms"]),
            ("endpoint = \"sw-blue\"", "endpoint = \"a-name-that-is-too-long\"", vec!["endpoint", "15"]),
            ("[node]", "[nodes]", vec!["nodes"]),
        ];
        for (from, to, mentions) in rows {
            let text = good.replace(from, to);
            let line = text.lines().position(|l| to.lines().last() == Some(l)).map_or(0, |n| n + 1);
            let done = check(&text)?;
            expect(!done.status.success(), || format!("{to:?} was accepted"))?;
            for mention in mentions.into_iter().map(str::to_owned).chain([format!("{line}:")]) {
                expect(done.stderr.contains(&mention), || {
                    format!("{to:?}: no {mention:?} in\n{}", done.stderr)
                })?;
            }
        }
        Ok(())
    })
}

/// `watch` prints rates, again and again.
#[test]
fn watch_shows_rates() -> Result<()> {
    spoken("watch", |lab| {
        let node = lab.node("node-a")?;
        let text = std::thread::scope(|scope| {
            let watch =
                scope.spawn(|| node.ctl_text(&["--json", "watch", "--interval", "0.5", "--count", "3"]));
            measure::ping(
                lab.instance("a1")?.ns(),
                lab.instance("b1")?.v4()?,
                50,
                Duration::from_millis(20),
            )?;
            watch.join().map_err(|_| anyhow::anyhow!("watch panicked"))?
        })?;
        let lines: Vec<&str> = text.lines().collect();
        expect(lines.len() == 3, || format!("{} lines of 3:\n{text}", lines.len()))?;
        for line in lines {
            let value: serde_json::Value = serde_json::from_str(line).context("a line is no JSON")?;
            expect(value.to_string().contains("blue"), || format!("no network in {value}"))?;
        }
        Ok(())
    })
}
