//! The shipped agent runs containers on the real kernel.

mod lab;

use std::fs;
use std::time::Instant;

use lab::{in_lab, nic, sh, spec, wait};
use serde_json::json;

#[test]
fn a_container_has_its_network_and_its_fences_and_outlives_the_agent() {
    in_lab(|lab| {
        let mut wanted = spec("web-1", &["sh", "-c", "echo hello; echo kept >/data/file; exec sleep 1000"]);
        wanted["nics"] = nic(1, "10.9.0.2/24");
        wanted["environment"] = json!({ "COLOUR": "blue" });
        let mut agent = lab.agent("a", std::slice::from_ref(&wanted));
        agent.until("web-1", "waits for its bridge", |status| {
            status["state"] == "starting"
                && status["detail"].to_string().contains("waiting for the bridge br-t")
        });
        lab.bridge();
        let began = Instant::now();
        agent.running("web-1");
        println!("running {:?} after its bridge came", began.elapsed());
        sh("ping -c 1 -W 5 10.9.0.2");

        let link = agent.inside("web-1", "ip -o link show eth0; ip -o addr show; ip route; hostname");
        for part in
            ["02:73:69:00:00:01", "mtu 1400", "10.9.0.2/24", "default via 10.9.0.1", "\nweb-1", "127.0.0.1"]
        {
            assert!(link.contains(part), "{part} in {link}");
        }
        assert!(sh("ip -o link show vweb-1").contains("master br-t"));
        assert_eq!(fs::read_to_string(agent.home("web-1").join("volume/file")).unwrap(), "kept\n");
        assert_eq!(agent.log("web-1"), "hello\n");
        let processes = agent.inside("web-1", "ls -d /proc/[0-9]* | wc -l");
        assert!(processes.trim().parse::<u32>().unwrap() < 10, "its own processes only: {processes}");
        for fence in [
            "touch /etc/x",
            "touch /x",
            "echo 1 >/proc/sys/net/ipv4/ip_forward",
            "head -c1 /etc/shadow | grep .",
            "ls /var/lib/node-agent/*",
        ] {
            agent.inside("web-1", &format!("! ({fence}) 2>/dev/null"));
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child_of(agent.pid("web-1")))).unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        // Neither net_admin (12) nor sys_admin (21) nor mknod (27).
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
        let bounding = u64::from_str_radix(bounding, 16).unwrap();
        assert_eq!(bounding & (1 << 12 | 1 << 21 | 1 << 27), 0);

        let pid = agent.pid("web-1");
        agent.kill();
        sh("ping -c 1 -W 5 10.9.0.2");
        agent.start();
        agent.running("web-1");
        assert_eq!(agent.pid("web-1"), pid, "the same process: it was not started again");

        wanted["desired"] = json!("stopped");
        agent.restart(std::slice::from_ref(&wanted));
        agent.until("web-1", "is stopped", |status| status["state"] == "stopped");
        sh("! ip link show vweb-1 2>/dev/null");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(agent.home("web-1").join("volume/file").exists());

        wanted["desired"] = json!("absent");
        agent.restart(&[wanted]);
        wait("it is gone", || match agent.home("web-1").exists() {
            true => Err("its home is there".to_owned()),
            false => Ok(()),
        });
    });
}

#[test]
fn limits_are_read_back_and_hold() {
    in_lab(|lab| {
        let mut burner = spec("burner", &["sh", "-c", "while :; do :; done"]);
        (burner["cores_milli"], burner["memory_bytes"]) = (json!(200), json!(64 << 20));
        // Twice its limit, in the tail's buffer.
        let mut hog =
            spec("hog", &["sh", "-c", "head -c 128M /dev/zero | tail -c 128M >/dev/null; sleep 1000"]);
        hog["memory_bytes"] = json!(32 << 20);
        let agent = lab.agent("a", &[burner, hog]);
        let config = node_agent::config::Config { state_dir: agent.state.clone(), ..Default::default() };
        let groups = node_agent::cgroup::Hierarchies::detect(&config.cgroup_parent()).unwrap();
        let running = agent.running("burner");
        if running["cores_milli_limit"] == 0 || running["memory_bytes_limit"] == 0 {
            eprintln!("skipped: this kernel limits nothing ({})", running["detail"]);
            return;
        }
        assert_eq!(
            (&running["cores_milli_limit"], &running["memory_bytes_limit"]),
            (&json!(200), &json!(64 << 20))
        );
        let throttled = wait("it is throttled", || match groups.group("burner").usage() {
            usage if usage.throttled >= 5 => Ok(usage),
            usage => Err(format!("{usage:?}")),
        });
        println!("burner: {throttled:?}");
        let killed = wait("it is killed at its limit", || match groups.group("hog").usage() {
            usage if usage.oom_kills > 0 => Ok(usage),
            usage => Err(format!("{usage:?}")),
        });
        println!("hog: {killed:?}");
        assert!(killed.memory_bytes <= 32 << 20);
    });
}

#[test]
fn what_ends_is_started_again_and_what_cannot_start_says_why() {
    in_lab(|lab| {
        let missing = spec("missing", &["/no/such/program"]);
        let ending = spec("ending", &["sh", "-c", "echo turn; exit 3"]);
        let mut image = spec("image", &["true"]);
        image["image"] = json!("nowhere");
        let agent = lab.agent("a", &[missing, ending, image]);
        let failed = |id: &str, word: &str| {
            agent.until(id, word, |status| {
                status["state"] == "failed" && status["detail"].to_string().contains(word)
            })
        };
        let status = failed("missing", "cannot execute /no/such/program");
        assert!(!status["detail"].to_string().contains("tried again"), "only another spec helps: {status}");
        failed("ending", "it ended with status 3; tried again in");
        failed("image", "there is no image 'nowhere'");
        wait("it had another turn", || match agent.log("ending") {
            log if log.matches("turn").count() >= 3 => Ok(()),
            log => Err(log),
        });
    });
}

#[test]
fn an_image_is_a_root_of_its_own() {
    let Some(guest) = lab::guest() else { return };
    in_lab(move |lab| {
        let root = lab.dir().join("images/small");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy(guest.join("busybox"), root.join("bin/busybox")).unwrap();
        let mut wanted =
            spec("small-1", &["/bin/busybox", "sh", "-c", "/bin/busybox ls /; exec /bin/busybox sleep 999"]);
        wanted["image"] = json!("small");
        let agent = lab.agent("a", &[wanted]);
        agent.running("small-1");
        wait("it lists its root", || match agent.log("small-1") {
            log if log == "bin\ndata\ndev\nproc\nrun\nsys\ntmp\n" => Ok(()),
            log => Err(log),
        });
    });
}

fn child_of(pid: i64) -> String {
    wait("the command runs", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        match children.split_whitespace().next() {
            Some(child) => Ok(child.to_owned()),
            None => Err("no child".to_owned()),
        }
    })
}
