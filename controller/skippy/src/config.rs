//! Which controller to talk to, as whom, and how to know that it is the right one.

mod file;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;
use serde::{Deserialize, Serialize};

pub use self::file::{ConfigFile, Context};

/// Everything that a [`Client`](crate::client::Client) needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the controller's API is, without `/v1`.
    pub url: Url,
    /// Who calls; without one only what needs no token works.
    pub token: Option<Token>,
    /// How the controller's certificate is checked.
    pub trust: Trust,
    /// The context of the configuration file that was used, if any.
    pub context: Option<String>,
}

/// A bearer token. It is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

/// How the controller's certificate is checked. There is no way not to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is exactly the one with this fingerprint, whatever its name and dates.
    Pinned(Fingerprint),
    /// It is valid for the URL's host and signed by one of the authorities in this PEM file.
    Ca(PathBuf),
    /// It is valid for the URL's host and signed by an authority that the system trusts.
    System,
}

/// SHA-256 of a certificate in DER: `sha256:<hex>`; read also without the prefix, and with colons.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

/// What the command line says about the connection.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--context`
    pub context: Option<String>,
    /// `--url`
    pub url: Option<String>,
    /// `--token-file`
    pub token_file: Option<PathBuf>,
    /// `--fingerprint`
    pub fingerprint: Option<Fingerprint>,
    /// `--ca`
    pub ca: Option<PathBuf>,
}

/// Why there are no settings, with the mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No source names a controller.
    #[error(
        "no controller named: give --url or SKIPPY_URL, or make a context with \
         `skippy config set-context NAME --url https://HOST:PORT --fingerprint sha256:... --token-from FILE`"
    )]
    NoUrl,
    /// The URL cannot be used.
    #[error("{url:?} is no URL of a controller ({reason}): write https://HOST:PORT")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A fingerprint cannot be read.
    #[error("{0}")]
    Fingerprint(String),
    /// Two ways to check one certificate.
    #[error("{0} gives both a fingerprint and a CA: give one of them")]
    TwoTrusts(&'static str),
    /// The context is not in the file.
    #[error("no context {name:?} in {}: {known}", path.display())]
    NoContext {
        /// Which.
        name: String,
        /// The file.
        path: PathBuf,
        /// What there is.
        known: String,
    },
    /// A token cannot be used.
    #[error("the token in {source_name} {reason}")]
    Token {
        /// Where it came from.
        source_name: String,
        /// What is wrong, never the token.
        reason: &'static str,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {error}", path.display())]
    File {
        /// `read`, `write`, ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
    /// The configuration file holds a token and others may read it.
    #[error("{} holds a token and others may read it: chmod 600 {}", .0.display(), .0.display())]
    Exposed(PathBuf),
    /// There is no place for a configuration file.
    #[error("no place for a configuration file: set HOME, or SKIPPY_CONFIG to its path")]
    NoPlace,
}

/// Combines the sources: flags before environment before file.
///
/// A context's token, fingerprint and CA are used only with the context's own URL: a `--url` to another place never
/// gets the token of this one.
pub fn resolve(
    flags: &Flags,
    env: &dyn Fn(&str) -> Option<String>,
    file: &ConfigFile,
) -> Result<Settings, ConfigError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let named = flags.context.clone().or_else(|| env("SKIPPY_CONTEXT"));
    let context = match named.or_else(|| file.current_context.clone()) {
        Some(name) => Some((name.clone(), file.context(&name)?)),
        None => None,
    };
    let given = match flags.url.clone().or_else(|| env("SKIPPY_URL")) {
        Some(url) => Some(parse_url(&url)?),
        None => None,
    };
    let context_url = context.as_ref().map(|(_, context)| parse_url(&context.url)).transpose()?;
    let url = given.or_else(|| context_url.clone()).ok_or(ConfigError::NoUrl)?;
    let context = context.filter(|_| context_url.as_ref() == Some(&url));

    let env_fingerprint = env("SKIPPY_FINGERPRINT").map(|text| text.parse()).transpose()?;
    let mut trust = one_trust("the command line", flags.fingerprint, flags.ca.clone())?;
    if trust.is_none() {
        trust = one_trust("the environment", env_fingerprint, env("SKIPPY_CA").map(PathBuf::from))?;
    }
    let mut token = flags.token_file.as_deref().map(Token::from_file).transpose()?;
    if token.is_none() {
        token = match (env("SKIPPY_TOKEN"), env("SKIPPY_TOKEN_FILE")) {
            (Some(token), _) => Some(Token::parse(&token, "SKIPPY_TOKEN")?),
            (None, Some(path)) => Some(Token::from_file(Path::new(&path))?),
            (None, None) => None,
        };
    }
    let name = context.as_ref().map(|(name, _)| name.clone());
    if let Some((name, context)) = context {
        if trust.is_none() {
            trust = one_trust("the context", context.fingerprint, context.ca.clone())?;
        }
        token = match (token, &context.token, &context.token_file) {
            (Some(token), _, _) => Some(token),
            (None, Some(token), _) => Some(Token::parse(&token.0, &format!("context {name:?}"))?),
            (None, None, Some(path)) => Some(Token::from_file(path)?),
            (None, None, None) => None,
        };
    }
    Ok(Settings { url, token, trust: trust.unwrap_or(Trust::System), context: name })
}

fn one_trust(
    level: &'static str,
    fingerprint: Option<Fingerprint>,
    ca: Option<PathBuf>,
) -> Result<Option<Trust>, ConfigError> {
    match (fingerprint, ca) {
        (Some(_), Some(_)) => Err(ConfigError::TwoTrusts(level)),
        (Some(fingerprint), None) => Ok(Some(Trust::Pinned(fingerprint))),
        (None, Some(path)) => Ok(Some(Trust::Ca(path))),
        (None, None) => Ok(None),
    }
}

/// Reads `https://HOST:PORT`. Plain HTTP is refused: it would show the token to everyone on the way.
pub fn parse_url(text: &str) -> Result<Url, ConfigError> {
    let wrong = |reason: &str| ConfigError::Url { url: text.to_owned(), reason: reason.to_owned() };
    let url: Url = text.parse().map_err(|error| wrong(&format!("{error}")))?;
    if url.scheme() != "https" {
        return Err(wrong("the API is spoken over HTTPS alone"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::Url {
            url: "https://...@...".to_owned(),
            reason: "it holds a user's name or password".to_owned(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a query or fragment"));
    }
    Ok(url)
}

impl Token {
    /// Takes a token; `source_name` is named if it cannot be one.
    pub fn parse(text: &str, source_name: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        let refuse = |reason| Err(ConfigError::Token { source_name: source_name.to_owned(), reason });
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.len() > 4096 {
            return refuse("is longer than 4096 characters: is it the right file?");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("has spaces or characters that no token has: is it the right file?");
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a token from a file, or from the standard input for `-`.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        if path == Path::new("-") {
            let text = std::io::read_to_string(std::io::stdin()).map_err(|error| ConfigError::File {
                action: "read",
                path: path.to_owned(),
                error,
            })?;
            return Self::parse(&text, "the standard input");
        }
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
            action: "read",
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The token itself, for the Authorization header alone.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl TryFrom<String> for Token {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        Self::parse(&text, "the configuration")
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl FromStr for Fingerprint {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || {
            ConfigError::Fingerprint(format!(
                "{text:?} is no fingerprint: write sha256: and 64 hexadecimal digits, or these alone, as `controller fingerprint` prints it"
            ))
        };
        let text = text.trim();
        let hex = text.strip_prefix("sha256:").unwrap_or(text).replace(':', "");
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests;
