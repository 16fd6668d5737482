//! The file that an exposition is written to.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::files;

/// Replaces a file with `text` atomically: a reader sees the old content or the new one, never half of it. If the
/// path is a link, the file that it leads to is replaced, and the link stays. Anything but a regular file is refused.
pub fn replace(path: &Path, text: &[u8]) -> Result<(), String> {
    let refused = |error: io::Error| format!("{}: cannot be written: {error}", path.display());
    let (target, old) = target(path).map_err(refused)?;
    if let Some(old) = old.as_ref().filter(|old| !old.is_file()) {
        return Err(format!(
            "{}: cannot be written: it is a {}, not a regular file\nhint: name a file, or leave --output out for \
             standard output",
            path.display(),
            files::kind(old.file_type())
        ));
    }
    let name = target.file_name().ok_or_else(|| format!("{}: not a file's name", path.display()))?;
    // With another ending than the file: the textfile collector reads all files that end with .prom.
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = target.with_file_name(temporary);
    let written = write_new(&temporary, old.as_ref(), text).and_then(|()| fs::rename(&temporary, &target));
    written.map_err(|error| {
        // The temporary file may not exist.
        let _ = fs::remove_file(&temporary);
        refused(error)
    })
}

/// The file that a path leads to, and its metadata if it exists.
fn target(path: &Path) -> io::Result<(PathBuf, Option<Metadata>)> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            let leads_nowhere =
                |error: io::Error| io::Error::new(error.kind(), format!("what the link leads to: {error}"));
            let target = fs::canonicalize(path).map_err(leads_nowhere)?;
            let found = fs::metadata(&target).map_err(leads_nowhere)?;
            Ok((target, Some(found)))
        }
        Ok(found) => Ok((path.to_owned(), Some(found))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((path.to_owned(), None)),
        Err(error) => Err(error),
    }
}

/// Writes a new file, with the permissions of the file that it will replace.
fn write_new(path: &Path, old: Option<&Metadata>, text: &[u8]) -> io::Result<()> {
    // A killed process with the same id may have left a file. It may also be a link, which must not be followed.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    if let Some(old) = old {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text)?;
    file.sync_all()
}
