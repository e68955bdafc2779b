//! Words for people, and lists from people.

use std::time::Duration;

/// The members of a list separated by white space or commas.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || c == ',').filter(|item| !item.is_empty())
}

/// A value for a message: escaped, and cut after 80 characters.
pub(crate) fn quoted(value: &str) -> String {
    let start: String = value.chars().take(80).collect();
    let cut = if start.len() < value.len() { ".." } else { "" };
    format!("`{}{cut}`", start.escape_debug())
}

/// A text from outside for a terminal: its control characters are escaped.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `1 CredSpec`, `2 CredSpecs`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A short time in one unit: `0.4ms`, `120ms`, `2.1s`, `12m`.
pub(crate) fn short(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.1}ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0}ms", seconds * 1e3),
        seconds if seconds < 120.0 => format!("{seconds:.1}s"),
        seconds => format!("{:.0}m", seconds / 60.0),
    }
}

/// Why a text is not JSON, by place and category only: the parser's own words may quote the text.
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    let category = if error.is_eof() { "it ends too early" } else { "it is not JSON" };
    format!("{category} (line {}, column {})", error.line(), error.column())
}

/// The least number of letters to add, drop or change to get from one word to the other (Levenshtein).
pub(crate) fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
