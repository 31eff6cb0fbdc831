//! The controller's directory: the store, the cluster's key, the certificate of the REST API. Only its user reads it.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::prelude::{BASE64_STANDARD, Engine};
use node_session::file::write_private;
use node_session::key::{KeyError, PrivateKey};
use serde::{Deserialize, Serialize};

use crate::config;

/// The files of a controller.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// What `controller init` was told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The cluster's name.
    pub cluster: String,
    /// What nodes dial.
    pub advertise: Vec<String>,
}

impl StateDir {
    /// Those in the directory.
    pub fn new(path: &Path) -> StateDir {
        StateDir { path: path.to_owned() }
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path.join("controller.redb")
    }

    /// The cluster's private key: nodes know the controller by it.
    pub fn cluster_key(&self) -> PathBuf {
        self.path.join(CLUSTER_KEY)
    }

    /// The certificate of the REST API, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.path.join(CERTIFICATE)
    }

    /// Its private key, PEM.
    pub fn certificate_key(&self) -> PathBuf {
        self.path.join(CERTIFICATE_KEY)
    }

    /// What the relay's credentials are made with. It is in no backup: a new one is made where it is missing, and nodes
    /// are told of it.
    pub fn relay_secret(&self) -> PathBuf {
        self.path.join("relay.secret")
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory, the cluster's key and the certificate. Whatever is there already stays, and is an error.
    pub fn create(&self, setup: &Setup) -> Result<(), StateError> {
        self.make()?;
        for path in [self.store(), self.cluster_key(), self.certificate(), self.path.join(SETUP)] {
            if path.exists() {
                return Err(StateError::Exists(path));
            }
        }
        PrivateKey::generate().and_then(|key| key.save(&self.cluster_key(), false))?;
        let names = certificate_names(&setup.advertise).map_err(StateError::Advertise)?;
        let (certificate, key) = self_signed(names)?;
        self.write(CERTIFICATE_KEY, key.as_bytes())?;
        self.write(CERTIFICATE, certificate.as_bytes())?;
        let text = serde_json::to_vec_pretty(setup).expect("names and addresses are always JSON");
        self.write(SETUP, &text)
    }

    /// What `controller init` was told.
    pub fn setup(&self) -> Result<Setup, StateError> {
        let path = self.path.join(SETUP);
        let text = std::fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StateError::NoCluster(self.path.clone()),
            _ => StateError::Io { step: "read", path: path.clone(), source },
        })?;
        serde_json::from_slice(&text).map_err(|_| StateError::Malformed(path))
    }

    /// The cluster's private key.
    pub fn load_key(&self) -> Result<PrivateKey, StateError> {
        match PrivateKey::load(&self.cluster_key()) {
            Err(KeyError::Missing { .. }) => Err(StateError::NoCluster(self.path.clone())),
            other => Ok(other?),
        }
    }

    /// All files that a backup needs, beside the store.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        let read = |name: &str| {
            let path = self.path.join(name);
            let content =
                std::fs::read(&path).map_err(|source| StateError::Io { step: "read", path, source })?;
            Ok((name.to_owned(), content))
        };
        [CLUSTER_KEY, CERTIFICATE, CERTIFICATE_KEY, SETUP].into_iter().map(read).collect()
    }

    /// Puts files of a backup in their places.
    pub fn restore_files(&self, files: &[(String, Vec<u8>)]) -> Result<(), StateError> {
        self.make()?;
        for (name, content) in files {
            let known = [CLUSTER_KEY, CERTIFICATE, CERTIFICATE_KEY, SETUP].contains(&name.as_str());
            if !known {
                return Err(StateError::UnknownFile(name.clone()));
            }
            self.write(name, content)?;
        }
        Ok(())
    }

    /// Makes the directory, if it is missing, for its user alone.
    pub fn make(&self) -> Result<(), StateError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|source| StateError::Io { step: "make", path: self.path.clone(), source })
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        write_private(&path, content).map_err(|source| StateError::Io { step: "write", path, source })
    }
}

/// SHA-256 of the first certificate of a PEM file, in hexadecimal: what clients pin.
pub fn fingerprint(certificate: &Path) -> Result<String, StateError> {
    let text = std::fs::read_to_string(certificate).map_err(|source| StateError::Io {
        step: "read",
        path: certificate.to_owned(),
        source,
    })?;
    let malformed = || StateError::Malformed(certificate.to_owned());
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----").ok_or_else(malformed)?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----").ok_or_else(malformed)?;
    let body: String = body.split_whitespace().collect();
    let der = BASE64_STANDARD.decode(body).map_err(|_| malformed())?;
    let sum = digest::digest(&digest::SHA256, &der);
    Ok(sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file of a cluster is there.
    #[error("{path} exists: there is a cluster here already, and it is kept (a token for it: controller token create NAME --role admin); another one needs another --state-dir", path = .0.display())]
    Exists(PathBuf),
    /// Nothing is there.
    #[error("there is no cluster in {path}: make one with `controller init`, or restore one with `controller restore FILE`", path = .0.display())]
    NoCluster(PathBuf),
    /// A file holds something else.
    #[error("{path} is malformed: restore it from a backup", path = .0.display())]
    Malformed(PathBuf),
    /// A backup names a file that is none of these.
    #[error("the backup has a file {0:?} that this version does not know")]
    UnknownFile(String),
    /// No address.
    #[error("--advertise: {0}")]
    Advertise(String),
    /// The certificate could not be made.
    #[error("could not make the certificate of the REST API")]
    Certificate(#[from] rcgen::Error),
    /// The key could not be made, read or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A step failed.
    #[error("could not {step} {path}", path = path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn certificate_names(advertise: &[String]) -> Result<Vec<String>, String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname")
        && config::check_advertise(name.trim()).is_ok()
    {
        names.push(name.trim().to_owned());
    }
    for address in advertise {
        names.push(config::check_advertise(address)?.0);
    }
    let mut unique = Vec::new();
    for name in names {
        // An address in another spelling is the same one.
        let name = name.parse::<IpAddr>().map_or(name, |ip| ip.to_string());
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    Ok(unique)
}

/// PEM of the certificate and of its key. Clients pin it by its fingerprint, so it lasts as long as the cluster.
fn self_signed(names: Vec<String>) -> Result<(String, String), rcgen::Error> {
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "controller");
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

const CLUSTER_KEY: &str = "cluster.key";
const CERTIFICATE: &str = "rest.crt";
const CERTIFICATE_KEY: &str = "rest.key";
const SETUP: &str = "setup.json";
