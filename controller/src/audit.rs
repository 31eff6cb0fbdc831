//! The audit log: one JSON object a line for each call of the API that may change something. Bodies are not in it,
//! so it holds no secret. The file is readable by its owner alone and is rotated by its size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use controller_api::rest::{Role, Timestamp};
use serde::Serialize;

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct AuditEntry {
    /// When its answer was made.
    pub time: Timestamp,
    /// The name of the caller's token; absent if the token was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The token's role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Where the call came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The call, as the OpenAPI document names it; empty for a path that is none.
    pub operation: String,
    /// The answer's status.
    pub status: u16,
    /// The id of what it was about, if it got as far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The id of the operation that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// The caller's idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The header `x-request-id` of the answer.
    pub request_id: String,
}

/// The audit log.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    max_bytes: u64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

/// The audit log could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {step} the audit log {path} (is its directory the controller's, and is there room?)", path = path.display())]
pub struct AuditError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl AuditLog {
    /// A file is rotated before it grows past this many bytes.
    pub const MAX_BYTES: u64 = 16 << 20;
    /// So many rotated files are kept: `audit.log.1` is the newest.
    pub const KEPT: u32 = 4;

    /// Opens the log in a directory, to append.
    pub fn open(directory: &Path) -> Result<AuditLog, AuditError> {
        AuditLog::open_bounded(directory, AuditLog::MAX_BYTES)
    }

    fn open_bounded(directory: &Path, max_bytes: u64) -> Result<AuditLog, AuditError> {
        let path = directory.join("audit.log");
        let open =
            open_file(&path).map_err(|source| AuditError { step: "open", path: path.clone(), source })?;
        Ok(AuditLog { path, max_bytes, open: Mutex::new(open) })
    }

    /// Appends an entry. The line goes to the kernel's page cache, which is quick enough for a call's own thread.
    pub fn write(&self, entry: &AuditEntry) -> Result<(), AuditError> {
        let fail = |step| move |source| AuditError { step, path: self.path.clone(), source };
        let mut line = serde_json::to_vec(entry).map_err(|error| fail("encode an entry of")(error.into()))?;
        line.push(b'\n');
        // A panic under the lock leaves at most a cut line.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let length = line.len() as u64;
        if open.bytes > 0 && open.bytes + length > self.max_bytes {
            *open = self.rotate().map_err(fail("rotate"))?;
        }
        open.file.write_all(&line).map_err(fail("write"))?;
        open.bytes += length;
        Ok(())
    }

    fn rotate(&self) -> io::Result<Open> {
        let rotated = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..AuditLog::KEPT).rev() {
            match fs::rename(rotated(n), rotated(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, rotated(1))?;
        open_file(&self.path)
    }
}

fn open_file(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(n: u64) -> AuditEntry {
        AuditEntry {
            time: Timestamp::from_unix_millis(n),
            principal: Some("ci".to_owned()),
            role: Some(Role::Operator),
            remote: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            method: "POST".to_owned(),
            path: "/v1/instances".to_owned(),
            operation: "allocate".to_owned(),
            status: 202,
            subject: Some("inst-1".to_owned()),
            operation_id: Some("op-1".to_owned()),
            idempotency_key: None,
            request_id: format!("req-{n}"),
        }
    }

    #[test]
    fn entries_are_lines_of_json_that_only_the_owner_reads() {
        let directory = tempfile::tempdir().expect("a directory");
        for n in 0..2 {
            AuditLog::open(directory.path()).expect("opened").write(&entry(n)).expect("written");
        }
        let path = directory.path().join("audit.log");
        let text = fs::read_to_string(&path).expect("a file");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["request_id"], "req-1");
        assert_eq!(lines[1]["role"], "operator");
        assert_eq!(lines[1].get("idempotency_key"), None);
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_full_file_is_rotated_and_the_oldest_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let length = serde_json::to_vec(&entry(0)).expect("JSON").len() as u64 + 1;
        let log = AuditLog::open_bounded(directory.path(), 2 * length).expect("opened");
        for n in 0..100 {
            log.write(&entry(n % 10)).expect("written");
        }
        let mut names: Vec<String> = fs::read_dir(directory.path())
            .expect("a directory")
            .map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3", "audit.log.4"]);
        for name in names {
            assert!(fs::metadata(directory.path().join(name)).expect("a file").len() <= 2 * length);
        }
    }
}
