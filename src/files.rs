//! Reading the files that users name: the configuration, certificates, keys.
//!
//! A path may lead to a device without end, to a FIFO that nobody writes to, or to a directory. Opening or reading
//! such a thing can take for ever, so only regular files are read, and only up to a size. Links to regular files are
//! followed: Kubernetes mounts every file as a link.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// The largest file that is read. The certificates of all public authorities together have a quarter of a mebibyte.
pub const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// Reads a regular file. Errors do not name it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before it is opened, because opening a device can have an effect: a watchdog begins to count.
    check(&std::fs::metadata(path)?)?;
    // Another file may take its place in between, so it is opened without waiting, and checked again.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    check(&file.metadata()?)?;
    let mut content = Vec::new();
    // Some files, such as those of /proc, hold more than their metadata says.
    file.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(too_large());
    }
    Ok(content)
}

/// Reads a regular file that holds text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 after {valid} bytes"))
    })
}

fn check(metadata: &Metadata) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is a {}, not a regular file", kind(metadata.file_type())),
        ));
    }
    if metadata.len() > MAX_SIZE { Err(too_large()) } else { Ok(()) }
}

/// The name of a file type other than a regular file.
pub fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "directory"
    } else if file_type.is_fifo() {
        "pipe"
    } else if file_type.is_socket() {
        "socket"
    } else {
        "device"
    }
}

fn too_large() -> io::Error {
    let message = format!("it is larger than {} MiB", MAX_SIZE / 1024 / 1024);
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refusal(path: &Path) -> String {
        read(path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let in_it = |name: &str| directory.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, in_it("fifo"), Mode::RWXU).unwrap();
        symlink(in_it("fifo"), in_it("link")).unwrap();
        let _socket = UnixListener::bind(in_it("socket")).unwrap();
        for (path, kind) in [
            (Path::new("/dev/zero").to_owned(), "device"),
            (Path::new("/dev/null").to_owned(), "device"),
            (in_it("fifo"), "pipe"),
            (in_it("link"), "pipe"),
            (in_it("socket"), "socket"),
            (directory.path().to_owned(), "directory"),
        ] {
            assert_eq!(refusal(&path), format!("it is a {kind}, not a regular file"), "{}", path.display());
        }
        assert_eq!(read(&in_it("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_SIZE).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, MAX_SIZE);
        // A sparse file, which takes no space on the disk.
        file.set_len(1 << 40).unwrap();
        assert_eq!(refusal(&path), "it is larger than 16 MiB");
    }

    #[test]
    fn links_to_regular_files_are_followed_and_files_without_a_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&path, "text").unwrap();
        symlink(&path, &link).unwrap();
        assert_eq!(read_text(&link).unwrap(), "text");
        assert!(read_text(Path::new("/proc/self/status")).unwrap().starts_with("Name:"));
        std::fs::write(&path, b"ab\xff").unwrap();
        assert_eq!(read_text(&path).unwrap_err().to_string(), "not UTF-8 after 2 bytes");
    }
}
