use super::*;

const EXAMPLE: &str = include_str!("../../../packaging/switchd.toml.example");
const KEY_B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const KEY_C: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";

fn parse(text: &str) -> Config {
    Config::parse(text, "t").unwrap_or_else(|error| panic!("{error}"))
}

fn errors(text: &str) -> String {
    match Config::parse(text, "t").unwrap_err() {
        ConfigError::Invalid(problems) => ConfigError::Invalid(problems).to_string(),
        other => panic!("{other}"),
    }
}

fn peers() -> String {
    format!(
        "[[peer]]\nname = \"b\"\npublic_key = \"{KEY_B}\"\naddress = \"192.0.2.2:4840\"\n\
         [[peer]]\nname = \"c\"\npublic_key = \"{KEY_C}\"\n"
    )
}

/// `[node]`, peers b and c, and a network with `extra` lines.
fn with_network(extra: &str) -> String {
    format!(
        "[node]\nname = \"a\"\n{}[[network]]\nname = \"blue\"\nvni = 100\nbridge = \"br-blue\"\n{extra}",
        peers()
    )
}

/// A line of the example that shows a default: `#key = value`.
fn is_default(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// A network without a carriage has that of `[link]`.
fn resolved(mut config: Config) -> Config {
    let carriages: Vec<_> = config.networks.iter().map(|network| config.carriage_of(network)).collect();
    for (network, carriage) in config.networks.iter_mut().zip(carriages) {
        network.carriage = Some(carriage);
    }
    config
}

#[test]
fn the_example_parses_and_its_commented_defaults_are_the_defaults() {
    let example = resolved(parse(EXAMPLE));
    assert_eq!((example.networks.len(), example.peers.len()), (1, 2));
    let uncommented: Vec<_> =
        EXAMPLE.lines().map(|line| if is_default(line) { &line[1..] } else { line }).collect();
    assert_eq!(resolved(parse(&uncommented.join("\n"))), example);
    assert!(EXAMPLE.lines().filter(|line| is_default(line)).count() > 20);
}

#[test]
fn the_example_documents_every_key() {
    let sections =
        ["node", "admin", "metrics", "link", "nat", "controller", "[network]", "[network.binding]", "[peer]"];
    for section in sections {
        let mut text = with_network("");
        text = match section {
            "node" => text.replace("[node]\n", "[node]\nzzzzzzzzzzzz = 1\n"),
            "[network]" => with_network("zzzzzzzzzzzz = 1\n"),
            _ => format!("{text}[{section}]\nzzzzzzzzzzzz = 1\n"),
        };
        let errors = errors(&text);
        let known = errors
            .lines()
            .find_map(|line| line.split_once("\"zzzzzzzzzzzz\"")?.1.split_once("known keys: "))
            .unwrap_or_else(|| panic!("{section}: {errors}"))
            .1;
        for key in known.split(", ").filter(|key| *key != "binding") {
            let body = EXAMPLE.split(&format!("\n[{section}]\n")).nth(1).unwrap();
            let body = body.split("\n[").next().unwrap();
            let documented = body.lines().any(|line| {
                line.trim_start_matches('#').strip_prefix(key).is_some_and(|rest| rest.starts_with(" = "))
            });
            assert!(documented, "{section} {key}");
        }
    }
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse("");
    assert!(!config.node.name.is_empty());
    assert_eq!(config.node.listen, "[::]:4840".parse().unwrap());
    assert_eq!(config.link.dead_after, Duration::from_secs(10));
    assert_eq!(config.metrics.listen, Some("127.0.0.1:9484".parse().unwrap()));
    assert_eq!((config.networks.len(), config.peers.len()), (0, 0));
}

#[test]
fn values_arrive() {
    let config = parse(&with_network(
        "create_bridge = true\nendpoint = \"sw-blue\"\nmode = \"preserve\"\nmtu = 9000\noffloads = false\n\
         dhcp = \"trusted:02:00:00:00:00:09\"\nanti_spoof = \"strict\"\nmac_age = \"1h\"\ngateways = [\"10.0.0.1\", \"fd00::1\"]\npeers = [\"b\"]\n\
         [[network.binding]]\nmac = \"02:00:00:00:00:01\"\nips = [\"10.0.0.1\"]\nnode = \"b\"\nvlans = [7, 0x10]\ngeneration = 3\n\
         [metrics]\nlisten = \"off\"\n",
    ));
    let network = &config.networks[0];
    assert_eq!(network.mode, Mode::Preserve);
    assert_eq!(network.dhcp, Dhcp::Trusted(Mac([2, 0, 0, 0, 0, 9])));
    assert_eq!(network.endpoint_mac, Mac([0x02, 0x73, 0x77, 0, 0, 100]));
    assert_eq!((network.mtu, network.mac_age), (9000, Duration::from_secs(3600)));
    assert_eq!(network.gateways, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(network.bindings[0].vlans.vids(), [7, 16]);
    assert_eq!(network.bindings[0].generation, Generation(3));
    assert_eq!(config.metrics.listen, None);
    assert_eq!(config.peers_of(network).map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_network_is_carried_as_it_says_else_as_links_are() {
    let carriages = |link: &str, network: &str| {
        let config = parse(&format!("{}[link]\n{link}", with_network(network)));
        (config.carriage_of(&config.networks[0]), config.uses_quic_carriage())
    };
    let (sealed, quic) = ("carriage = \"sealed\"\n", "carriage = \"quic\"\n");
    assert_eq!(carriages("", ""), (Carriage::Sealed, false));
    assert_eq!(carriages(quic, ""), (Carriage::Quic, true));
    assert_eq!(carriages(quic, sealed), (Carriage::Sealed, true), "a controller's network may come");
    assert_eq!(carriages("", quic), (Carriage::Quic, true));
    let new = parse(&format!("{}[link]\n{quic}", with_network(quic)));
    let reload = diff(&parse(&with_network("")), &new);
    assert_eq!(reload.needs_restart, ["link.carriage", "network \"blue\" carriage"]);
    assert!(!reload.config.uses_quic_carriage());
}

#[test]
fn each_mistake_is_named_with_its_place_and_mend() {
    let bad_gateway = with_network("gateways = [\"224.0.0.1\"]");
    let problem = errors(&bad_gateway);
    assert!(problem.contains("224.0.0.1 cannot be an instance's address"), "{problem}");
    for (text, says) in [
        ("[node]\nnmae = \"a\"", "t:2:1: unknown key \"nmae\" in node: did you mean \"name\"?"),
        ("[nodes]", "t:1:2: unknown key \"nodes\": did you mean \"node\"?"),
        (
            "colour = 1",
            "t:1:1: unknown key \"colour\": known keys: admin, controller, link, metrics, nat, network, node, peer",
        ),
        (
            "[node]\nname = \"a b\"",
            "t:2:8: node.name: \"a b\" is not a name: use 1 to 63 letters, digits, '-', '_' and '.'",
        ),
        (
            "[node]\nlisten = \"4840\"",
            "t:2:10: node.listen: \"4840\" is not allowed: use an address and a port, such as \"[::]:4840\" (IPv4 and IPv6)",
        ),
        (
            "[node]\nprivate_key = \"key\"",
            "t:2:15: node.private_key: \"key\" is not an absolute path: begin with /",
        ),
        ("[metrics]\nlisten = 9484", "t:2:10: metrics.listen: expected a text in quotes, found a number"),
        (
            "[link]\nkeepalive = \"10\"",
            "t:2:13: link.keepalive: \"10\" is not a duration: use a number and ms, s, m, h or d, 100ms to 1m",
        ),
        (
            "[link]\nkeepalive = 10",
            "t:2:13: link.keepalive: expected a text with its unit, 100ms to 1m, such as \"100ms\", found a number",
        ),
        ("[link]\nrekey_after = \"2d\"", "t:2:15: link.rekey_after: \"2d\" is out of range: use 1s to 1d"),
        (
            "[link]\ndead_after = \"2s\"",
            "t:2:14: link.dead_after: 2s with keepalive 3s: one lost keepalive would cut the link; use more than 6s",
        ),
        (
            "[link]\nkeepalive = \"5s\"",
            "t:2:13: link.dead_after: 10s with keepalive 5s: one lost keepalive would cut the link; use more than 10s",
        ),
        ("[link]\nunderlay_mtu = 1279", "t:2:16: link.underlay_mtu: 1279 is out of range: use 1280 to 9216"),
        (
            "[link]\nrekey_datagrams = -1",
            "t:2:19: link.rekey_datagrams: -1 is out of range: use 1000 to 2147483648",
        ),
        (
            "[link]\ncarriage = \"udp\"",
            "t:2:12: link.carriage: \"udp\" is not allowed: use \"sealed\" or \"quic\"",
        ),
        ("link = 1", "t:1:8: link: expected a table: [link], found a number"),
        ("[peer]", "t:1:1: peer: expected tables: [[peer]], found a table"),
        (
            "[[peer]]\nname = \"b\"",
            "t:1:1: peer.public_key is missing: add what `switchd pubkey` prints on that node",
        ),
        (
            "[[peer]]\nname = \"b\"\npublic_key = \"x\"",
            "t:3:14: peer.public_key: not a public key: use the 44 characters that `switchd pubkey` prints on that node",
        ),
    ] {
        assert_eq!(errors(text), says, "{text}");
    }
}

#[test]
fn mistakes_in_networks_and_bindings() {
    let blue = "[[network]]\nname = \"green\"\nvni = 100\nbridge = \"br-green\"\nendpoint = \"x\"\n";
    for (extra, says) in [
        ("mtu = 65536", "t:14:7: network.mtu: 65536 is out of range: use 1280 to 9216"),
        ("offloads = 1", "t:14:12: network.offloads: expected true or false, found a number"),
        (
            "mode = \"bridge\"",
            "t:14:8: network.mode: \"bridge\" is not allowed: use \"rewrite\" or \"preserve\"",
        ),
        (
            "dhcp = \"off\"",
            "t:14:8: network.dhcp: \"off\" is not allowed: use \"forward\", \"local-only\" or \"trusted:<mac>\"",
        ),
        (
            "endpoint = \"sixteen-bytes-xx\"",
            "t:14:12: network.endpoint: \"sixteen-bytes-xx\" has 16 bytes: an interface's name has at most 15",
        ),
        (
            "endpoint = \"br-blue\"",
            "t:14:12: interface \"br-blue\" is used twice: bridges and endpoints need a name each",
        ),
        (
            "endpoint_mac = \"03:00:00:00:00:01\"",
            "t:14:16: network.endpoint_mac: 03:00:00:00:00:01 is not a unicast address: its first byte must be even, such as 02",
        ),
        ("peers = [\"b\", \"d\"]", "t:14:15: network.peers: \"d\" is not a [[peer]]: the peers are b, c"),
        ("peers = [\"a\"]", "t:14:10: network.peers: \"a\" is this node itself: list other nodes only"),
        (blue, "t:16:7: network.vni: 100 is used twice"),
        (
            "[[network.binding]]\nmac = \"02:00:00:00:00:01\"\nnode = \"x\"",
            "t:16:8: binding.node: \"x\" is neither this node (\"a\") nor a [[peer]]: the peers are b, c",
        ),
        (
            "[[network.binding]]\nmac = \"02:00:00:00:00:01\"\nnode = \"a\"\nips = [\"10.0.0.1/24\"]",
            "t:17:8: binding.ips: expected IPv4 and IPv6 addresses in quotes, without a prefix length",
        ),
        (
            "[[network.binding]]\nmac = \"02:00:00:00:00:01\"\nnode = \"a\"\nvlans = [4095]",
            "t:17:10: binding.vlans: 4095 is not a VLAN id: use 1 to 4094",
        ),
        (
            "peers = [\"b\"]\n[[network.binding]]\nmac = \"02:00:00:00:00:01\"\nnode = \"c\"",
            "t:17:8: binding.node: \"c\" is not in network.peers: add it there",
        ),
    ] {
        assert_eq!(errors(&with_network(extra)), says, "{extra}");
    }
}

#[test]
fn a_binding_is_claimed_once_per_vlan() {
    let row = |mac: &str, ip: &str, vlans: &str| {
        format!("[[network.binding]]\nmac = \"{mac}\"\nips = [\"{ip}\"]\nnode = \"b\"\nvlans = [{vlans}]\n")
    };
    let (first, second) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
    let twice = row(first, "10.0.0.1", "") + &row(first, "10.0.0.1", "5");
    assert_eq!(parse(&with_network(&twice)).networks[0].bindings.len(), 2);
    let mac = row(first, "10.0.0.1", "") + &row(first, "10.0.0.2", "");
    assert_eq!(
        errors(&with_network(&mac)),
        "t:20:7: binding.mac: 02:00:00:00:00:01 has a binding in this network already"
    );
    let ip = row(first, "10.0.0.1", "") + &row(second, "10.0.0.1", "");
    assert_eq!(
        errors(&with_network(&ip)),
        "t:21:8: binding.ips: 10.0.0.1 has a binding in this network already"
    );
}

#[test]
fn duplicate_peers_are_refused() {
    let text = format!("[node]\nname = \"b\"\n{}{}", peers(), peers());
    assert_eq!(
        errors(&text),
        "t:4:8: peer.name: \"b\" is this node's own name (node.name)\n\
         t:11:8: peer.name: \"b\" is this node's own name (node.name)\n\
         t:11:8: peer.name: b is used twice\n\
         t:12:14: peer.public_key: AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI= is used twice\n\
         t:15:8: peer.name: c is used twice\n\
         t:16:14: peer.public_key: AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM= is used twice"
    );
}

#[test]
fn all_mistakes_come_at_once_in_the_files_order() {
    let text = "[link]\nkeepalive = \"9h\"\nfoo = 1\n[node]\nlisten = 5\n[[network]]\nvni = 0\n";
    let lines: Vec<_> = errors(text).lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["t:2:13:", "t:3:1:", "t:5:10:", "t:6:1:", "t:6:1:", "t:7:7:"]);
}

#[test]
fn broken_syntax_is_placed_too() {
    assert!(errors("[node]\nname = \n").starts_with("t:2:"), "{}", errors("[node]\nname = \n"));
    assert!(errors("[node]\nname = \"a\"\nname = \"b\"\n").starts_with("t:3:1: duplicate key"));
}

#[test]
fn a_missing_file_names_the_option() {
    let error = Config::load(Path::new("/nonexistent/switchd.toml")).unwrap_err();
    assert!(error.to_string().contains("--config"), "{error}");
}

#[test]
fn a_joined_node_needs_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (file, node) = (dir.path().join("switchd.toml"), dir.path().join(NODE_FILE));
    assert!(matches!(Config::load_as(&file, &file, &node), Err(ConfigError::Read { .. })));
    std::fs::write(&node, "{}").unwrap();
    let mut config = Config::load_as(&file, &file, &node).unwrap();
    assert_eq!(config.networks.len() + config.peers.len(), 0);
    config.set_given_name("node-7");
    assert_eq!(config.node.name, "node-7");
    assert!(
        Config::load_as(&file, Path::new("/other"), &node).is_err(),
        "a file that was named must be there"
    );

    std::fs::write(
        &file,
        "[node]\nname = \"a\"\n[controller]\nstate_dir = \"/s\"\naddresses = [\"c.example:7443\"]\n",
    )
    .unwrap();
    let mut config = Config::load_as(&file, &file, &node).unwrap();
    config.set_given_name("node-7");
    assert_eq!(config.node.name, "a");
    let controller = &config.controller;
    assert_eq!((controller.enabled, controller.state_dir.as_path()), (true, Path::new("/s")));
    assert_eq!(controller.addresses, ["c.example:7443"]);
    let problem = errors("[controller]\naddresses = [\"c.example\"]");
    assert!(problem.contains("controller.addresses: \"c.example\" is not a host and a port"), "{problem}");
}

#[test]
fn a_peer_may_have_several_addresses() {
    let peer = |rest: &str| format!("[[peer]]\nname = \"b\"\npublic_key = \"{KEY_B}\"\n{rest}");
    let config = parse(&peer("addresses = [\"192.0.2.2:4840\", \"[2001:db8::2]:4840\"]\n"));
    assert_eq!(config.peers[0].addresses.len(), 2);
    let config = parse(&peer("address = \"192.0.2.3:1\"\naddresses = [\"192.0.2.2:4840\"]\n"));
    assert_eq!(config.peers[0].addresses, ["192.0.2.3:1", "192.0.2.2:4840"].map(|a| a.parse().unwrap()));
    let problem = errors(&peer("addresses = [\"192.0.2.2:0\"]\n"));
    assert!(problem.contains("peer.addresses: \"192.0.2.2:0\" cannot be dialled"), "{problem}");
}

#[test]
fn networks_of_no_file_have_a_files_defaults_and_limits() {
    let vni = Vni::new(100).unwrap();
    let file = parse("[[network]]\nname = \"blue\"\nvni = 100\nbridge = \"swbr100\"\ncreate_bridge = true\n");
    let network = Network::with_defaults("blue".into(), vni);
    assert_eq!(network, file.networks[0]);
    network.check().unwrap();
    assert!(network.differs_live_only(&Network { dhcp: Dhcp::LocalOnly, ..network.clone() }));
    assert!(!network.differs_live_only(&Network { mtu: 9000, ..network.clone() }));
    for (bad, says) in [
        (Network { mtu: 100, ..network.clone() }, "mtu: 100 is out of range: use 1280 to 9216"),
        (Network { bridge: "a/b".into(), ..network.clone() }, "bridge: \"a/b\" is not an interface's name"),
        (Network { endpoint: "swbr100".into(), ..network.clone() }, "they need a name each"),
        (Network { endpoint_mac: Mac([1; 6]), ..network.clone() }, "endpoint_mac"),
        (Network { name: String::new(), ..network.clone() }, "name: "),
        (Network { ip_age: Duration::ZERO, ..network.clone() }, "ip_age"),
    ] {
        let error = bad.check().unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_reload_takes_peers_and_policies_and_names_the_rest() {
    let old = parse(&with_network(""));
    assert!(diff(&old, &old).is_empty());
    let text = with_network(
        "mtu = 9000\ndhcp = \"local-only\"\n[[network.binding]]\nmac = \"02:00:00:00:00:01\"\nnode = \"d\"\n\
         [[network]]\nname = \"red\"\nvni = 5\nbridge = \"br-red\"\n\
         [link]\nkeepalive = \"500ms\"\nunderlay_mtu = 9000\n[metrics]\nlisten = \"off\"\n",
    )
    .replace("name = \"c\"", "name = \"d\"")
    .replace("192.0.2.2", "192.0.2.7");
    let new = parse(&text);
    let reload = diff(&old, &new);
    assert_eq!(reload.peers_added, ["d"]);
    assert_eq!(reload.peers_removed, ["c"]);
    assert_eq!(reload.peers_changed, ["b"]);
    assert_eq!(reload.networks_changed, ["blue"]);
    assert!(reload.link_changed);
    assert_eq!(
        reload.needs_restart,
        ["metrics.listen", "link.underlay_mtu", "network \"blue\" mtu", "network \"red\" (added)"]
    );
    assert_eq!(reload.config.peers, new.peers);
    assert_eq!(reload.config.networks.len(), 1);
    let blue = &reload.config.networks[0];
    assert_eq!((blue.mtu, blue.dhcp, blue.bindings.len()), (1500, Dhcp::LocalOnly, 1));
    assert_eq!((reload.config.link.underlay_mtu, reload.config.link.keepalive.as_millis()), (1500, 500));
    let again = diff(&reload.config, &new);
    assert!(again.peers_added.is_empty() && again.networks_changed.is_empty() && !again.link_changed);
    assert_eq!(again.needs_restart, reload.needs_restart, "said at each reload until the restart");
}

#[test]
fn a_reload_keeps_a_removed_network_until_the_restart() {
    let old = parse(&with_network("peers = [\"b\", \"c\"]\n"));
    let new = parse(&format!(
        "[node]\nname = \"a\"\n[[peer]]\nname = \"b\"\npublic_key = \"{KEY_B}\"\naddress = \"192.0.2.2:4840\"\n"
    ));
    let reload = diff(&old, &new);
    assert_eq!(reload.needs_restart, ["network \"blue\" (removed)"]);
    assert_eq!(reload.config.networks[0].peers.as_deref(), Some(&["b".to_owned()][..]));
}
