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

/// A text from outside for a terminal: what could steer it is escaped.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if is_harmful(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// Whether a character steers a terminal, turns the order of what is shown round, or cannot be seen: control characters,
/// and those of Unicode's category Cf that are in use for it, with the separators of lines and paragraphs.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
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

/// A text from outside for a message: at most `most` characters; what is not printable ASCII is escaped, so that
/// control characters do no harm and look-alike letters are seen.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for c in text.chars().take(most) {
        match c {
            ' '..='~' => shown.push(c),
            '\n' | '\r' | '\t' => shown.push(' '),
            _ => shown.extend(c.escape_unicode()),
        }
    }
    if text.chars().count() > most {
        shown.push_str("..");
    }
    shown
}

/// A word for a POSIX shell. What is not printable ASCII becomes `$'\u{..}'` of bash, ksh and zsh.
pub(crate) fn shell(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        return word.to_owned();
    }
    if word.chars().all(|c| matches!(c, ' '..='~')) {
        return format!("'{}'", word.replace('\'', "'\\''"));
    }
    let mut quoted = String::from("$'");
    for c in word.chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted += &format!("\\U{:08x}", u32::from(c)),
        }
    }
    quoted.push('\'');
    quoted
}

/// A word for PowerShell. What is not printable ASCII becomes an escape within double quotes.
pub(crate) fn powershell(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(safe) {
        return word.to_owned();
    }
    if word.chars().all(|c| matches!(c, ' '..='~')) {
        return format!("'{}'", word.replace('\'', "''"));
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '`' | '$' => quoted.extend(['`', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted += &format!("`u{{{:x}}}", u32::from(c)),
        }
    }
    quoted.push('"');
    quoted
}

/// Why a text is not JSON, by place and by what was expected there. The parser's own words may quote the text, so only
/// set phrases of it are taken over.
pub(crate) fn json_reason(error: &serde_json::Error) -> String {
    const PHRASES: &[&str] = &[
        "EOF while parsing a list",
        "EOF while parsing an object",
        "EOF while parsing a string",
        "EOF while parsing a value",
        "expected `:`",
        "expected `,` or `]`",
        "expected `,` or `}`",
        "expected ident",
        "expected value",
        "expected `\"`",
        "invalid escape",
        "invalid number",
        "number out of range",
        "invalid unicode code point",
        "control character (\\u0000-\\u001F) found while parsing a string",
        "key must be a string",
        "lone leading surrogate in hex escape",
        "trailing comma",
        "trailing characters",
        "unexpected end of hex escape",
        "recursion limit exceeded",
    ];
    let message = error.to_string();
    let place = format!("line {}, column {}", error.line(), error.column());
    match PHRASES.iter().find(|phrase| message.starts_with(**phrase)) {
        Some(phrase) if error.is_eof() => format!("the JSON text ends too early at {place}: {phrase}"),
        Some(phrase) => format!("the JSON syntax is wrong at {place}: {phrase}"),
        None if error.is_eof() => format!("the JSON text ends too early at {place}"),
        None => format!("the JSON syntax is wrong at {place}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell_cannot_end_their_quotes() {
        assert_eq!(shell("arn:aws:s3:::bucket/a-b_c.json"), "arn:aws:s3:::bucket/a-b_c.json");
        assert_eq!(shell("a b; rm -rf $HOME `x`"), "'a b; rm -rf $HOME `x`'");
        assert_eq!(shell("it's"), r"'it'\''s'");
        assert_eq!(shell(""), "''");
        assert_eq!(shell("w\u{eb}b\n'"), r"$'w\U000000ebb\U0000000a\''");
    }

    #[test]
    fn words_for_powershell_cannot_end_their_quotes() {
        assert_eq!(powershell("svc-fetcher"), "svc-fetcher");
        assert_eq!(powershell("WebApp01$"), "'WebApp01$'");
        assert_eq!(powershell("it's; rm $x"), "'it''s; rm $x'");
        assert_eq!(powershell("-Force"), "'-Force'");
        assert_eq!(powershell(""), "''");
        assert_eq!(powershell("sv\u{441}`$\"\n"), "\"sv`u{441}```$`\"`u{a}\"");
    }

    #[test]
    fn texts_from_outside_are_bounded_and_show_what_is_not_ascii() {
        assert_eq!(plain("a\u{430}\x1b[31m\nb", 80), r"a\u{430}\u{1b}[31m b");
        assert_eq!(plain(&"x".repeat(90), 80).len(), 82);
    }
}
