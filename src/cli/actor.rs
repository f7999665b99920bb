use std::os::unix::fs::MetadataExt;

/// Actor for the audit log. In a container a user may have no name.
pub(super) fn actor(said: Option<String>) -> String {
    said.filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let uid = std::fs::metadata("/proc/self").map(|process| process.uid().to_string());
        format!("uid {}", uid.unwrap_or_else(|_| "unknown".into()))
    })
}
