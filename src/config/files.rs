//! The files that systemd gives the host daemon as its environment (`EnvironmentFile=`, systemd.exec(5)), for those who look
//! from a shell.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::Environment;

/// The ECS agent's configuration.
pub const ECS_CONFIG: &str = "/etc/ecs/ecs.config";
/// Ours. It is read last, so it wins.
pub const HOST_CONF: &str = "/etc/gmsa-sidecar/host.conf";

/// What one file was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSeen {
    /// The file.
    pub path: PathBuf,
    /// How many variables it sets, or why it cannot be read; nothing if it does not exist.
    pub read: Option<Result<usize, String>>,
    /// The numbers of lines that systemd ignores, since they set nothing.
    pub ignored: Vec<usize>,
}

impl Environment {
    /// With what the daemon's unit takes from files. What is set in this environment wins.
    pub(super) fn with_files_of_host(&self) -> (Self, Vec<FileSeen>) {
        let mut all = self.0.clone();
        let mut seen = Vec::new();
        for path in [HOST_CONF, ECS_CONFIG].map(Path::new) {
            let (variables, file) = read(path);
            for (name, value) in variables {
                all.entry(name).or_insert_with(|| OsString::from(value));
            }
            seen.push(file);
        }
        seen.reverse();
        (Self(all), seen)
    }
}

fn read(path: &Path) -> (Vec<(String, String)>, FileSeen) {
    let mut seen = FileSeen { path: path.to_owned(), read: None, ignored: Vec::new() };
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), seen),
        Err(error) => {
            let text = error.to_string();
            seen.read = Some(Err(text.split(" (os error").next().unwrap_or(&text).to_owned()));
            return (Vec::new(), seen);
        }
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let (variables, ignored) = parse(&text);
    seen.read = Some(Ok(variables.len()));
    seen.ignored = ignored;
    (variables, seen)
}

/// The assignments of a file in their order, of equal names the last one, and the numbers of the other lines.
fn parse(text: &str) -> (Vec<(String, String)>, Vec<usize>) {
    let (mut variables, mut ignored) = (Vec::<(String, String)>::new(), Vec::new());
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        // A backslash at the end joins the next line.
        while let Some(begun) = line.strip_suffix('\\') {
            let next = lines.next().map_or("", |(_, line)| line.trim());
            line = format!("{begun}{next}");
        }
        match line.split_once('=') {
            Some((name, value)) if is_name(name.trim()) => {
                let (name, value) = (name.trim().to_owned(), unquoted(value.trim()));
                variables.retain(|(known, _)| *known != name);
                variables.push((name, value));
            }
            _ => ignored.push(number + 1),
        }
    }
    (variables, ignored)
}

fn is_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(word)
}

/// `"a b"` and `'a b'` without their quotes.
fn unquoted(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_systemd_reads_them() {
        let text = "# comment\n; another\n\nA=1\nB = 'two words'\nC=\"x=y\"\nA=2\nD=one\\\n  two\nexport E=1\nnothing\n1F=x\nG=\n";
        let (variables, ignored) = parse(text);
        let told: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(told, ["B=two words", "C=x=y", "A=2", "D=onetwo", "G="]);
        assert_eq!(ignored, [10, 11, 12]);
    }

    #[test]
    fn a_file_that_does_not_exist_differs_from_one_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none")).1.read, None);
        assert_eq!(read(folder.path()).1.read, Some(Err("Is a directory".to_owned())));
    }
}
