use std::{
    fs::{self, Metadata},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::super::webhook::signature;

/// What a secret file should hold.
pub const EXPECTED: &str = "should hold a secret of Standard Webhooks a line: whsec_ and 24 to 64 bytes as base64";

/// The secrets of a file, read anew when it changes.
#[derive(Debug)]
pub struct Secrets {
    file: PathBuf,
    known: Mutex<Option<(Version, Arc<str>)>>,
}

/// Of the file's content, as far as its metadata tell.
type Version = (Option<SystemTime>, u64);

impl Secrets {
    pub fn new(file: PathBuf) -> Self {
        Self { file, known: Mutex::new(None) }
    }

    /// The secrets. A file that other users of the machine may read is refused.
    ///
    /// # Errors
    /// Why they cannot be read, with the file's name.
    pub fn read(&self) -> Result<Arc<str>, String> {
        let wrong = |why: &str| format!("{}: {why}", self.file.display());
        let metadata = fs::metadata(&self.file).map_err(|error| wrong(&format!("cannot be read: {}", error.kind())))?;
        let version = (metadata.modified().ok(), metadata.len());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read, secrets)) = known
            && read == version
        {
            return Ok(secrets);
        }
        if is_public(&metadata) {
            return Err(wrong("every user of this machine may read it; take that right away (chmod o-r)"));
        }
        let text =
            fs::read_to_string(&self.file).map_err(|error| wrong(&format!("cannot be read: {}", error.kind())))?;
        signature::sign_with_all(&text, "id", 0, b"").map_err(|_| wrong(EXPECTED))?;
        let secrets: Arc<str> = text.into();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, Arc::clone(&secrets)));
        Ok(secrets)
    }
}

#[cfg(unix)]
fn is_public(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_public(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    const ONE: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn set_mode(file: &Path, mode: u32) {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn secrets_are_read_anew_when_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, format!("{ONE}\n")).unwrap();
        set_mode(&path, 0o600);
        let secrets = Secrets::new(path.clone());
        assert_eq!(secrets.read().unwrap().lines().count(), 1);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(ONE.as_bytes()).unwrap();
        assert_eq!(secrets.read().unwrap().lines().count(), 2);
    }

    #[test]
    fn a_missing_public_or_malformed_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let why = || Secrets::new(path.clone()).read().unwrap_err();
        assert!(why().contains("secret: cannot be read: entity not found"), "{}", why());
        fs::write(&path, ONE).unwrap();
        set_mode(&path, 0o644);
        assert!(why().contains("chmod o-r"), "{}", why());
        fs::write(&path, "hunter2").unwrap();
        set_mode(&path, 0o600);
        assert!(why().contains("whsec_") && !why().contains("hunter2"), "{}", why());
    }
}
