use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const PRINT_A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const PRINT_B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn file() -> ConfigFile {
    toml::from_str(&format!(
        r#"
        current-context = "lab"
        [context.lab]
        url = "https://lab:7443"
        fingerprint = "{PRINT_A}"
        token = "lab-token"
        [context.other]
        url = "https://other:7443"
        token-file = "/nonexistent/token"
        "#
    ))
    .unwrap()
}

fn resolved(flags: &Flags, env: &[(&str, &str)], file: &ConfigFile) -> Result<Settings, ConfigError> {
    let env: HashMap<_, _> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    resolve(flags, &|name| env.get(name).cloned(), file)
}

#[test]
fn the_file_alone_is_enough() {
    let settings = resolved(&Flags::default(), &[], &file()).unwrap();
    assert_eq!(settings.url.as_str(), "https://lab:7443/");
    assert_eq!(settings.token.unwrap().secret(), "lab-token");
    assert_eq!(settings.trust, Trust::Pinned(PRINT_A.parse().unwrap()));
    assert_eq!(settings.context.as_deref(), Some("lab"));
}

#[test]
fn flags_beat_the_environment_and_the_environment_beats_the_file() {
    let env = [("SKIPPY_URL", "https://env"), ("SKIPPY_FINGERPRINT", PRINT_B), ("SKIPPY_TOKEN", "env-token")];
    let settings = resolved(&Flags::default(), &env, &file()).unwrap();
    assert_eq!(settings.url.as_str(), "https://env/");
    assert_eq!(settings.token.unwrap().secret(), "env-token");
    assert_eq!(settings.trust, Trust::Pinned(PRINT_B.parse().unwrap()));
    assert_eq!(settings.context, None);

    let flags = Flags {
        url: Some("https://flag:1".into()),
        fingerprint: Some(PRINT_A.parse().unwrap()),
        ..Flags::default()
    };
    let settings = resolved(&flags, &env, &file()).unwrap();
    assert_eq!(settings.url.as_str(), "https://flag:1/");
    assert_eq!(settings.trust, Trust::Pinned(PRINT_A.parse().unwrap()));
    // A CA on the command line also beats a fingerprint in the environment.
    let flags = Flags { fingerprint: None, ca: Some("/ca.pem".into()), ..flags };
    assert_eq!(resolved(&flags, &env, &file()).unwrap().trust, Trust::Ca("/ca.pem".into()));
}

#[test]
fn tokens_come_from_files_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "from-file\n").unwrap();
    let flags = Flags { token_file: Some(path.clone()), ..Flags::default() };
    let settings = resolved(&flags, &[("SKIPPY_TOKEN", "env-token")], &file()).unwrap();
    assert_eq!(settings.token.unwrap().secret(), "from-file");
    let path = path.to_str().unwrap();
    let settings = resolved(&Flags::default(), &[("SKIPPY_TOKEN_FILE", path)], &file()).unwrap();
    assert_eq!(settings.token.unwrap().secret(), "from-file");
}

#[test]
fn a_contexts_token_goes_to_its_own_controller_alone() {
    let flags = Flags { url: Some("https://elsewhere".into()), ..Flags::default() };
    let settings = resolved(&flags, &[], &file()).unwrap();
    assert_eq!(settings.token, None);
    assert_eq!(settings.trust, Trust::System);
    let flags = Flags { url: Some("https://lab:7443/".into()), ..Flags::default() };
    assert!(resolved(&flags, &[], &file()).unwrap().token.is_some());
}

#[test]
fn contexts_are_chosen_by_flag_environment_and_file() {
    let env = [("SKIPPY_CONTEXT", "other"), ("SKIPPY_TOKEN", "t")];
    assert_eq!(resolved(&Flags::default(), &env, &file()).unwrap().url.as_str(), "https://other:7443/");
    let flags = Flags { context: Some("lab".into()), ..Flags::default() };
    assert_eq!(resolved(&flags, &env, &file()).unwrap().url.as_str(), "https://lab:7443/");
}

#[test]
fn what_is_wrong_is_said_with_the_mend() {
    let none = ConfigFile::default();
    let url = |url: &str| Flags { url: Some(url.into()), ..Flags::default() };
    let context = |name: &str| Flags { context: Some(name.into()), ..Flags::default() };
    for (flags, env, file, message) in [
        (Flags::default(), vec![], &none, "set-context"),
        (url("http://lab:7443"), vec![], &none, "HTTPS alone"),
        (url("lab:7443"), vec![], &none, "write https://HOST:PORT"),
        (url("https://me:pw@lab"), vec![], &none, "password"),
        (url("https://lab?x=1"), vec![], &none, "query"),
        (context("nope"), vec![], &file(), "there are lab, other"),
        (context("nope"), vec![], &none, "it has none"),
        (context("other"), vec![], &file(), "cannot read /nonexistent/token"),
        (url("https://lab"), vec![("SKIPPY_FINGERPRINT", "sha256:abc")], &none, "64 hexadecimal"),
        (
            url("https://lab"),
            vec![("SKIPPY_FINGERPRINT", PRINT_A), ("SKIPPY_CA", "/x")],
            &none,
            "one of them",
        ),
        (url("https://lab"), vec![("SKIPPY_TOKEN", "two words")], &none, "SKIPPY_TOKEN has spaces"),
    ] {
        let error = resolved(&flags, &env, file).unwrap_err().to_string();
        assert!(error.contains(message), "{error} lacks {message}");
        assert!(!error.contains("two words") && !error.contains("pw@"), "{error} shows a secret");
    }
}

#[test]
fn fingerprints_are_read_and_written() {
    let print: Fingerprint = PRINT_A.to_uppercase().replace("SHA256", "sha256").parse().unwrap();
    assert_eq!(print.to_string(), PRINT_A);
    let colons = format!("sha256:{}", ["ab"; 32].join(":"));
    assert_eq!(colons.parse::<Fingerprint>().unwrap(), Fingerprint([0xab; 32]));
    assert_eq!("ab".repeat(32).parse::<Fingerprint>().unwrap(), Fingerprint([0xab; 32]));
    for wrong in ["", "abc", "sha1:00", &PRINT_A[..70], "sha256:zz"] {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong:?}");
    }
}

#[test]
fn the_file_is_written_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/config.toml");
    let mut config = file();
    config.path = path.clone();
    config.write().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ConfigFile::read(&path).unwrap(), config);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = ConfigFile::read(&path).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    // Writing again mends it.
    config.write().unwrap();
    ConfigFile::read(&path).unwrap();
}

#[test]
fn a_broken_file_is_named_with_its_line_and_without_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, "[context.lab]\nurl = \"https://lab\"\ntoken = \"secret secret\"\n").unwrap();
    let error = ConfigFile::read(&path).unwrap_err().to_string();
    assert!(error.contains("config.toml: line"), "{error}");
    assert!(!error.contains("secret secret"), "{error}");
    assert_eq!(ConfigFile::read(&dir.path().join("none")).unwrap().contexts, Default::default());
}

#[test]
fn a_token_is_not_shown_by_debug() {
    let settings = resolved(&Flags::default(), &[], &file()).unwrap();
    assert!(!format!("{settings:?} {:?}", file()).contains("lab-token"));
}
