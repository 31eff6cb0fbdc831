//! The configuration file, with its named contexts.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Fingerprint, Token};

/// `~/.config/skippy/config.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConfigFile {
    /// The context that is used if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_context: Option<String>,
    /// Controllers, by the names that the user gave them.
    #[serde(default, rename = "context")]
    pub contexts: BTreeMap<String, Context>,
    /// Where it was read.
    #[serde(skip)]
    pub path: PathBuf,
}

/// One controller and who calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Context {
    /// `https://HOST:PORT`
    pub url: String,
    /// Of the controller's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// A PEM file with the authorities to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The token itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The file with the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl ConfigFile {
    /// Where the file is: `SKIPPY_CONFIG`, or under `XDG_CONFIG_HOME`, or under `HOME`.
    pub fn place(env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, ConfigError> {
        let env = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        env("SKIPPY_CONFIG")
            .or_else(|| env("XDG_CONFIG_HOME").map(|dir| dir.join("skippy/config.toml")))
            .or_else(|| env("HOME").map(|dir| dir.join(".config/skippy/config.toml")))
            .ok_or(ConfigError::NoPlace)
    }

    /// Reads the file; none is an empty one. One that shows a token to others is refused.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file = Self::read_exposed(path)?;
        let failed = |error| ConfigError::File { action: "read", path: path.to_owned(), error };
        let holds_token = file.contexts.values().any(|context| context.token.is_some());
        if holds_token && fs::metadata(path).map_err(failed)?.mode() & 0o077 != 0 {
            return Err(ConfigError::Exposed(path.to_owned()));
        }
        Ok(file)
    }

    /// Reads the file, whoever else may, in order to write it anew.
    pub fn read_exposed(path: &Path) -> Result<Self, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { path: path.to_owned(), ..Self::default() });
            }
            Err(error) => return Err(ConfigError::File { action: "read", path: path.to_owned(), error }),
        };
        // The parser's full message quotes the line, which may hold a token.
        let mut file: Self = toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            ConfigError::Syntax { path: path.to_owned(), reason: format!("line {line}: {}", error.message()) }
        })?;
        file.path = path.to_owned();
        Ok(file)
    }

    /// Writes the file as a whole, for its owner alone.
    pub fn write(&self) -> Result<(), ConfigError> {
        let path = &self.path;
        let failed = |error| ConfigError::File { action: "write", path: path.clone(), error };
        let text = toml::to_string(self)
            .map_err(|error| ConfigError::Syntax { path: path.clone(), reason: error.to_string() })?;
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written.map_err(failed)
    }

    /// The context of this name.
    pub fn context(&self, name: &str) -> Result<&Context, ConfigError> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if names.is_empty() {
                "it has none; make one with `skippy config set-context`".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            ConfigError::NoContext { name: name.to_owned(), path: self.path.clone(), known }
        })
    }
}
