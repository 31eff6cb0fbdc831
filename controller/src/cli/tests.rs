//! The command line on real files.

use super::*;
use clap::CommandFactory;

fn try_run(args: &[&str]) -> anyhow::Result<String> {
    let cli = Cli::try_parse_from([&["controller"], args].concat())?;
    let mut printed = String::new();
    execute(cli.command, |_| Ok(()), &mut |line| printed.push_str(line))?;
    Ok(printed)
}

struct Lab {
    dir: tempfile::TempDir,
    config: String,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab { config: dir.path().join("controller.toml").to_str().unwrap().to_owned(), dir };
        let state = lab.path("state");
        let socket = lab.path("admin.sock");
        std::fs::write(&lab.config, format!("state_dir = {state:?}\nadmin.socket = {socket:?}\n")).unwrap();
        lab
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        try_run(&[args, &["--config", &self.config]].concat())
    }
}

#[test]
fn the_command_line_is_consistent_and_has_help() {
    Cli::command().debug_assert();
    let help = Cli::command().render_long_help().to_string();
    for word in [
        "init",
        "run",
        "token",
        "fingerprint",
        "backup",
        "restore",
        "check-config",
        "CONTROLLER_LOG",
        "switchd join",
    ] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn init_makes_one_cluster_and_keeps_it() {
    let lab = Lab::new();
    let error = lab.run(&["init"]).unwrap_err().to_string();
    assert!(error.contains("--advertise"), "{error}");
    let token = lab.run(&["init", "--name", "lab", "--advertise", "192.0.2.1"]).unwrap();
    assert!(token.starts_with("skt_"), "{token}");
    let error = lab.run(&["init", "--advertise", "192.0.2.1"]).unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");
    assert_eq!(lab.run(&["fingerprint"]).unwrap().len(), 64);
    assert!(lab.run(&["check-config"]).unwrap().contains("manual"));
    for entry in std::fs::read_dir(lab.path("state")).unwrap() {
        let entry = entry.unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
        let content = std::fs::read(entry.path()).unwrap();
        assert!(!content.windows(token.len()).any(|window| window == token.as_bytes()));
    }
}

#[test]
fn tokens_on_a_stopped_controller() {
    let lab = Lab::new();
    assert!(lab.run(&["token", "list"]).unwrap_err().to_string().contains("controller init"));
    lab.run(&["init", "--advertise", "192.0.2.1"]).unwrap();
    let token = lab.run(&["token", "create", "ci", "--role", "reader", "--hours", "2"]).unwrap();
    assert!(token.starts_with("skt_"));
    let list = lab.run(&["token", "list"]).unwrap();
    assert!(
        list.contains("ci") && list.contains("reader") && list.contains("in 2 h") && list.contains("admin"),
        "{list}"
    );
    lab.run(&["token", "revoke", "ci"]).unwrap();
    assert!(!lab.run(&["token", "list"]).unwrap().contains("ci"));
    assert!(lab.run(&["token", "revoke", "ci"]).is_err());
}

#[test]
fn a_restored_cluster_has_its_key_its_tokens_and_a_new_epoch() {
    let (lab, other) = (Lab::new(), Lab::new());
    lab.run(&["init", "--advertise", "192.0.2.1"]).unwrap();
    lab.run(&["token", "create", "kept"]).unwrap();
    let file = lab.path("backup");
    lab.run(&["backup", &file]).unwrap();
    let epoch = |lab: &Lab| {
        let store = crate::store::FileStore::open(Path::new(&lab.path("state/controller.redb"))).unwrap();
        let registry = crate::engine::load(&store).unwrap();
        (registry.cluster().unwrap().epoch, registry.revision())
    };
    let (first_epoch, first_revision) = epoch(&lab);

    assert!(lab.run(&["restore", &file]).unwrap_err().to_string().contains("--force"));
    let mut damaged = std::fs::read(&file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(lab.path("damaged"), damaged).unwrap();
    lab.run(&["restore", "--force", &lab.path("damaged")]).unwrap_err();
    assert_eq!(epoch(&lab), (first_epoch, first_revision));

    other.run(&["restore", &file]).unwrap();
    let (epoch, revision) = epoch(&other);
    assert!(epoch != first_epoch && revision >= first_revision);
    assert!(other.run(&["token", "list"]).unwrap().contains("kept"));
    assert_eq!(other.run(&["fingerprint"]).unwrap(), lab.run(&["fingerprint"]).unwrap());
    let key = |lab: &Lab| StateDir::new(Path::new(&lab.path("state"))).load_key().unwrap().public();
    assert_eq!(key(&lab), key(&other));
}
