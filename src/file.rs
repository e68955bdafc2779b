//! Files that other people name: read at once or not at all.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// The system's answer.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Reading it could block for ever or never end.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// Longer than the limit, in bytes.
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
}

/// The bytes of a regular file of at most `limit` bytes. A FIFO, a device or a folder in its place is refused before
/// anything is read, so it blocks no thread.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Unread> {
    // NONBLOCK: opening a FIFO for reading would wait for a writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    let kind = match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a directory"),
        _ if kind.is_fifo() => Some("a FIFO"),
        _ if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        _ => Some("a special file"),
    };
    if let Some(kind) = kind {
        return Err(Unread::NotRegular(kind));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(Unread::TooLarge(limit)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::{Duration, Instant};

    #[test]
    fn only_regular_files_within_the_limit_are_read_and_nothing_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let start = Instant::now();
        let why = |path: &Path| read(path, 4).unwrap_err().to_string();
        assert_eq!(why(&fifo), "it is a FIFO, not a regular file");
        assert_eq!(why(folder.path()), "it is a directory, not a regular file");
        assert_eq!(why(Path::new("/dev/zero")), "it is a device, not a regular file");
        assert!(why(&folder.path().join("missing")).contains("No such file"));
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(read(&socket, 4).is_err());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"1234").unwrap();
        assert_eq!(read(file.path(), 4).unwrap(), b"1234");
        assert_eq!(read(file.path(), 3).unwrap_err().to_string(), "it has more than 3 bytes");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
