//! Old recordings.

use std::{fs, io, path::Path, time::SystemTime};

use crate::call::CallId;
use uuid::Uuid;

/// Deletes recordings that were last written before `before`, but none that is being written. Other files are left alone. How many files.
pub(super) fn delete(dir: &Path, before: SystemTime, is_open: impl Fn(CallId) -> bool) -> Result<u64, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(format!("{}: {error}", dir.display())),
    };
    let mut deleted = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| super::is_name(name)) else { continue };
        let call = name.split('.').next().and_then(|id| Uuid::try_parse(id).ok()).map(CallId::from);
        let old = entry.metadata().and_then(|about| about.modified()).is_ok_and(|at| at < before);
        if old && !call.is_some_and(&is_open) {
            fs::remove_file(entry.path()).map_err(|error| format!("{}: {error}", entry.path().display()))?;
            deleted += 1;
        }
    }
    Ok(deleted)
}
