//! The shipped agent boots a real guest with TCG.

mod lab;

use std::process::Command;
use std::time::Instant;

use lab::{in_lab, nic, sh, spec, wait};
use serde_json::json;

#[test]
fn a_guest_boots_answers_outlives_the_agent_and_stops() {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        eprintln!("skipped: no qemu-system-x86_64 here (run .ci/deps)");
        return;
    }
    let Some(guest) = lab::guest() else { return };
    in_lab(move |lab| {
        lab.bridge();
        std::fs::create_dir_all(lab.dir().join("images")).unwrap();
        std::os::unix::fs::symlink(&guest, lab.dir().join("images/small")).unwrap();
        let mut wanted = spec("vm-1", &["quiet"]);
        wanted["driver"] = json!("qemu");
        wanted["image"] = json!("small");
        (wanted["cores_milli"], wanted["memory_bytes"]) = (json!(1000), json!(128 << 20));
        wanted["disk_bytes"] = json!(64 << 20);
        wanted["nics"] = nic(9, "10.9.0.9/24");
        let began = Instant::now();
        let mut agent = lab.agent("a", std::slice::from_ref(&wanted));
        let status = agent.running("vm-1");
        println!("running after {:?}", began.elapsed());
        assert_eq!((&status["runtime"], &status["memory_bytes_limit"]), (&json!("tcg"), &json!(128 << 20)));
        wait("it answers", || {
            match Command::new("ping").args(["-c1", "-W1", "10.9.0.9"]).output().unwrap() {
                output if output.status.success() => Ok(()),
                _ => Err(agent.log("vm-1")),
            }
        });
        println!("answers after {:?}", began.elapsed());
        assert!(sh("ip neigh show 10.9.0.9").contains("02:73:69:00:00:09"));
        wait("its word", || match agent.log("vm-1") {
            log if log.contains("guest ready: vm-1") => Ok(()),
            log => Err(log),
        });
        let pid = agent.pid("vm-1");
        let memory = sh(&format!("grep VmRSS /proc/{pid}/status"));
        println!("{}", memory.trim());

        agent.kill();
        sh("ping -c 1 -W 5 10.9.0.9");
        agent.start();
        agent.running("vm-1");
        assert_eq!(agent.pid("vm-1"), pid);

        wanted["desired"] = json!("stopped");
        agent.restart(&[wanted]);
        let began = Instant::now();
        agent.until("vm-1", "is stopped", |status| status["state"] == "stopped");
        println!("stopped after {:?}", began.elapsed());
        sh("! ip link show vvm-1 2>/dev/null");
        assert!(
            sh(&format!("qemu-img info {}", agent.home("vm-1").join("disk.qcow2").display()))
                .contains("64 MiB")
        );
    });
}
