//! What a configuration may say.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("controller.toml"))
}

#[test]
fn an_empty_configuration_is_the_default() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn everything_can_be_set() {
    let config = parse(
        r#"
        state_dir = "/tmp/c"
        advertise = ["192.0.2.1", "[2001:db8::1]:99", "controller.example"]
        nodes.listen = "127.0.0.1:1"
        rest = { listen = "127.0.0.1:2", certificate = "c.pem", private_key = "k.pem" }
        metrics.listen = "off"
        admin = { socket = "/tmp/s", group = "wheel" }
        [limits]
        heartbeat_seconds = 1
        [mgmt]
        enabled = true
        subnets = ["10.90.0.0/24"]
        [relay]
        enabled = false
        min_port = 50000
        max_port = 50999
        credential_hours = 1
        [[relay.external]]
        address = "[2001:db8::5]"
        transports = ["tls"]
        secret_file = "/tmp/secret"
        [[relay.external]]
        address = "stun.example"
        [[provider]]
        name = "netns"
        kind = "exec"
        command = ["/usr/bin/provider-netns", "--x"]
        timeout_seconds = 9
        "#,
    )
    .unwrap();
    assert_eq!(config.store_path(), Path::new("/tmp/c/controller.redb"));
    assert_eq!(config.metrics_listen, None);
    let mgmt = config.mgmt.as_ref().unwrap();
    assert_eq!((mgmt.name.as_str(), mgmt.vni.0, mgmt.subnet_v6), ("mgmt", 16_777_200, None));
    assert_eq!(mgmt.subnet_v4.unwrap().to_string(), "10.90.0.0/24");
    assert_eq!(config.settings().kept_network, Some(mgmt.vni));
    assert_eq!(config.limits.heartbeat(), Duration::from_secs(1));
    assert_eq!(config.providers[0].timeout, Duration::from_secs(9));
    assert!(!config.relay.enabled);
    assert_eq!((config.relay.ports, config.relay.credentials), (50_000..=50_999, Duration::from_secs(3600)));
    let external: Vec<_> = config
        .relay
        .external
        .iter()
        .map(|server| (server.address.as_str(), &server.transports[..]))
        .collect();
    let (tls, both) = ([Transport::Tls], [Transport::Udp, Transport::Tcp]);
    assert_eq!(external, [("[2001:db8::5]:5349", &tls[..]), ("stun.example:3478", &both)]);
    let dialled: Vec<String> = config.advertise.iter().map(|text| super::dialled(text).unwrap()).collect();
    assert_eq!(dialled, ["192.0.2.1:4842", "[2001:db8::1]:99", "controller.example:4842"]);
}

#[test]
fn mistakes_are_named_all_at_once_with_the_mend() {
    let text = r#"
        advertise = ["a b", "x:0", "-x"]
        rest.certificate = "c.pem"
        metrics.listen = "here"
        [relay]
        address = ["c d"]
        min_port = 5
        max_port = 4
        allocations = 0
        credential_hours = 0
        [[relay.external]]
        address = "e f"
        [[relay.external]]
        address = "g"
        certificate_sha256 = "12"
        [limits]
        connections = 0
        [[provider]]
        name = "manual"
        kind = "exec"
        command = ["relative"]
        [[provider]]
        name = "Bad name"
        kind = "cloud"
        timeout_seconds = 0
    "#;
    let error = parse(text).unwrap_err().to_string();
    for part in [
        "\"a b\"",
        "\"x:0\"",
        "\"-x\"",
        "\"c d\"",
        "relay.min_port",
        "enabled = false",
        "credential_hours",
        "\"e f\"",
        "64 hexadecimal",
        "both files",
        "\"off\"",
        "at least 1",
        "always there",
        "absolute path",
        "lower-case",
        "the only one is \"exec\"",
        "timeout_seconds",
    ] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
    let unknown = parse("listne = 1").unwrap_err().to_string();
    assert!(unknown.contains("listne") && unknown.contains("controller.toml"), "{unknown}");
    assert!(Config::load(Path::new("/no/such.toml")).unwrap_err().to_string().contains("--config"));
}

#[test]
fn the_example_says_what_the_defaults_are() {
    let text = include_str!("../../../packaging/controller.toml.example");
    assert_eq!(parse(text).unwrap(), Config::default());
    // What is commented out is right, too.
    let all = text.replace("# advertise", "advertise").replace("# [[", "[[");
    let all = [
        "name",
        "kind",
        "command",
        "timeout_seconds",
        "certificate",
        "private_key",
        "address",
        "allow_private",
        "transports",
        "secret_file",
        "certificate_sha256",
    ]
    .iter()
    .fold(all, |all, key| all.replace(&format!("# {key} ="), &format!("{key} =")));
    let config = parse(&all).unwrap();
    assert_eq!((config.advertise.len(), config.providers.len()), (2, 1));
    assert!(config.rest_certificate.is_some());
    assert_eq!(config.relay.address.len(), 2);
    assert_eq!(config.relay.allow_private, Some(false));
    let external = &config.relay.external[0];
    assert!(external.secret_file.is_some() && external.certificate_sha256.is_some());
}

#[test]
fn the_nodes_own_network_is_checked_also_while_it_is_off() {
    let cases = [
        ("vni = 0", "mgmt.vni: 0 is not a VNI"),
        ("subnets = []", "name one of either family"),
        ("subnets = [\"10.0.0.1/8\"]", "bits past its length"),
        ("subnets = [\"10.0.0.0/8\", \"11.0.0.0/8\"]", "second of its family"),
    ];
    for (line, words) in cases {
        let error = parse(&format!("[mgmt]\n{line}")).unwrap_err().to_string();
        assert!(error.contains(words), "{line}: {error}");
    }
    assert_eq!(parse("[mgmt]\nvni = 7").unwrap().mgmt, None);
}
