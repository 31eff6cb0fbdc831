use std::time::Duration;

use clap::CommandFactory;
use controller_api::rest::Driver;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("skippy").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_right_is_taken_and_what_is_wrong_is_not() {
    for (line, right) in [
        ("add-compute-node --provider manual", true),
        ("add-compute-node --provider manual --type t --name n --wait --label rack=1 --token-ttl 2h", true),
        ("add-compute-node", false),
        ("add-compute-node --provider manual --wait --no-wait", false),
        ("add-compute-node --provider manual --label rack", false),
        ("remove-compute-node node-1 --force", true),
        ("remove-compute-node node-1 --now", true),
        ("remove-compute-node", false),
        ("add-type small --cores 0.5 --memory 256MiB", true),
        ("add-type small --cores 0.5", false),
        ("add-type small --cores 0 --memory 256MiB", false),
        ("add-type small --cores 1 --memory 0", false),
        ("add-type small --cores 1 --memory 1000", false),
        ("add-type small --cores 1 --memory 256MiB --disk 1500MiB", false),
        ("add-type small --cores 1 --memory 256MiB --driver kvm", false),
        (
            "allocate small --node a --network blue --network red --ip 10.0.0.1 --ip fd00::1 -e A=b -- sh -c x",
            true,
        ),
        ("allocate small sh", false),
        ("allocate small --ip 10.0.0", false),
        ("migrate web node-2 --no-wait", true),
        ("migrate web", false),
        ("node list --columns name,state", true),
        ("node list --columns name --wide", false),
        ("node list --columns name --json", false),
        ("node set a --schedulable false", true),
        ("node set a --schedulable perhaps", false),
        ("node set a --label a=b --no-labels", false),
        ("node token a --ttl 1d", true),
        ("type list", true),
        ("network add blue --vni 0", false),
        ("network add blue --vni 16777215", true),
        ("network add blue --vni 16777216", false),
        ("network add blue --mtu 1279", false),
        ("network add blue --mtu 1280", true),
        ("network add blue --mtu 9217", false),
        ("network set blue --all-nodes --node a", false),
        ("network set blue --no-gateway --anti-spoof strict --mss-clamp false", true),
        ("instance stop web --no-wait", true),
        ("binding set blue 02:00:00:00:00:07 --node a --ip 10.0.0.7 --vlan 5 --expected-generation 0", true),
        ("binding set blue 02:00:00:00:00:07", false),
        ("binding set blue 02:00:00:00:00:07 --node a --vlan 4095", false),
        ("binding remove blue 02:00:00:00:00:07", true),
        ("link list --state down", true),
        ("link list --state broken", false),
        ("operation watch op-1", true),
        ("event watch --kind node -n 3 --json", true),
        ("token create ci --role operator --ttl 90d", true),
        ("token create ci --role root", false),
        ("token create ci", false),
        ("top --once --interval 500ms", true),
        ("top --interval 1ms", false),
        ("config set-context lab --url https://x --token-from f", true),
        ("config set-context lab --token-from f --no-token", false),
        ("config set-context lab --token-from f --token-file g", false),
        ("config set-context lab --system-trust --ca x", false),
        ("completion bash", true),
        ("completion tcsh", false),
        ("status --fingerprint sha256:12", false),
        ("status --timeout 0s", false),
        ("status --idempotency-key", false),
        ("whoami extra", false),
    ] {
        let parsed = parse(line);
        assert_eq!(parsed.is_ok(), right, "{line}: {parsed:?}");
    }
}

#[test]
fn figures_arrive_in_the_apis_units() {
    let Command::AddType(args) =
        parse("add-type s --cores 250m --memory 1.5GiB --disk 2GiB").unwrap().command
    else {
        panic!("another command");
    };
    assert_eq!((args.cores, args.memory, args.disk, args.driver), (250, 1536, 2, Driver::Container));
    let cli = parse("top --interval 1s --timeout 5s").unwrap();
    assert_eq!(cli.globals.timeout, Duration::from_secs(5));
}

#[test]
fn a_command_of_the_instance_keeps_its_own_flags() {
    let Command::Allocate(args) =
        parse("allocate small --name web -- python3 --json -m http").unwrap().command
    else {
        panic!("another command");
    };
    assert_eq!(args.command, ["python3", "--json", "-m", "http"]);
    assert_eq!(args.name.as_deref(), Some("web"));
}

#[test]
fn the_papers_calls_are_commands_by_their_names() {
    let names: Vec<_> = Cli::command().get_subcommands().map(|c| c.get_name().replace('-', "_")).collect();
    for call in ["add_compute_node", "remove_compute_node", "add_type", "allocate", "migrate"] {
        assert!(names.iter().any(|name| name == call), "{call}");
    }
}

#[test]
fn every_command_has_a_sentence() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}
