//! `gmsa-sidecar explain`: the page of a fault code. It needs no network: the text is part of the program, so that it can
//! be read in a container that has no shell.

use std::io::{self, Write};

use serde::Serialize;

use crate::fault::manual::{Page, owner_in_words, retry_in_words};
use crate::fault::{Code, RegistryEntry};
use crate::text::{distance, quoted};

/// Prints the page of `code`, or the list of all codes.
///
/// # Errors
/// There is no such code.
pub fn explain(code: Option<&str>, json: bool, out: &mut impl Write) -> Result<(), UnknownCode> {
    let printed = match code {
        None if json => print_json(&Code::ALL.iter().map(Explained::of).collect::<Vec<_>>(), out),
        None => list(out),
        Some(name) => {
            let entry = find(name)?;
            if json { print_json(&Explained::of(entry), out) } else { out.write_all(page(entry).as_bytes()) }
        }
    };
    // A reader that has seen enough hangs up.
    let _ = printed;
    Ok(())
}

/// There is no such code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is not a fault code; the nearest one is `{nearest}`; `gmsa-sidecar explain` without a code lists all",
    quoted(.name)
)]
pub struct UnknownCode {
    name: String,
    nearest: &'static str,
}

/// As people type it, or copy it out of a log: in capitals, as `code=dc-unreachable`, or with a colon after it.
fn find(name: &str) -> Result<&'static RegistryEntry, UnknownCode> {
    let typed =
        name.trim().trim_start_matches("code=").trim_end_matches([':', '.', ',']).trim_matches(['`', '"', '\'']);
    let typed = typed.to_ascii_lowercase().replace('_', "-");
    // Longer than any code: what it is like is of no interest.
    let start: String = typed.chars().take(80).collect();
    let like = |entry: &&RegistryEntry| {
        let part = typed.len() > 3 && entry.name.contains(&typed);
        (entry.name != typed, !part, distance(&start, entry.name))
    };
    match Code::ALL.iter().min_by_key(like) {
        Some(entry) if entry.name == typed => Ok(entry),
        nearest => {
            let nearest = nearest.map_or("internal-bug", |entry| entry.name);
            Err(UnknownCode { name: name.to_owned(), nearest })
        }
    }
}

fn list(out: &mut impl Write) -> io::Result<()> {
    let width = Code::ALL.iter().map(|entry| entry.name.len()).max().unwrap_or_default();
    writeln!(out, "{:width$}  exit  fixed in", "code")?;
    for RegistryEntry { name, exit, owner, .. } in Code::ALL {
        writeln!(out, "{name:width$}  {:4}  {}", *exit as u8, owner.name())?;
    }
    writeln!(out, "\n`gmsa-sidecar explain CODE` prints the page of a code.")
}

/// The page for a terminal: paragraphs of [`WIDTH`] columns, the command on a line of its own.
fn page(entry: &RegistryEntry) -> String {
    let (exit, owner) = (entry.exit as u8, owner_in_words(entry.owner));
    let mut text = format!("{}\n\n", entry.name);
    let retry = retry_in_words(entry.code.retry(), entry.exit);
    text += &wrapped(&format!("Exit code {exit}. Fixed in {owner}. {retry}"));
    if let Some(page) = Page::of(entry.code) {
        let parts = [("Cause", page.cause), ("Next", entry.next), ("Fix", page.cure)];
        for (name, part) in parts {
            text += &format!("\n{name}\n{}", indented(&wrapped(part)));
        }
        text += &format!("\nSee it\n  {}\n", page.show);
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Breaks a paragraph between words.
fn wrapped(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &line;
            lines.push('\n');
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

const WIDTH: usize = 78;

fn print_json(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// What is known of a code, for programs.
#[derive(Serialize)]
struct Explained {
    code: &'static str,
    exit: u8,
    owner: &'static str,
    retry: &'static str,
    next: &'static str,
    cause: Option<&'static str>,
    fix: Option<&'static str>,
    show: Option<&'static str>,
}

impl Explained {
    fn of(entry: &RegistryEntry) -> Self {
        let page = Page::of(entry.code);
        Self {
            code: entry.name,
            exit: entry.exit as u8,
            owner: entry.owner.name(),
            retry: entry.code.retry().name(),
            next: entry.next,
            cause: page.map(|page| page.cause),
            fix: page.map(|page| page.cure),
            show: page.map(|page| page.show),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: Option<&str>, json: bool) -> Result<String, UnknownCode> {
        let mut out = Vec::new();
        explain(code, json, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_code_has_a_page_that_fits_a_terminal() {
        for entry in Code::ALL {
            let page = told(Some(entry.name), false).unwrap();
            for part in ["Cause\n  ", "Next\n  ", "Fix\n  ", "See it\n  "] {
                assert!(page.contains(part), "{page}");
            }
            let (text, _command) = page.split_once("\nSee it\n").unwrap();
            // A word is not broken: a name or a URL is copied.
            let long = |line: &&str| line.len() > 100 && line.trim().contains(' ');
            assert_eq!(text.lines().find(long), None, "{}", entry.name);
            let json: serde_json::Value = serde_json::from_str(&told(Some(entry.name), true).unwrap()).unwrap();
            assert_eq!((&json["code"], json["cause"].is_string()), (&entry.name.into(), true));
        }
    }

    #[test]
    fn the_page_has_the_words_of_the_registry() {
        let page = told(Some("dc-srv-not-found"), false).unwrap();
        assert!(page.starts_with("dc-srv-not-found\n\nExit code 69. Fixed in the network: "), "{page}");
        let joined = page.split_whitespace().collect::<Vec<_>>().join(" ");
        let code = Code::DcSrvNotFound;
        for text in [code.entry().next, Page::of(code).unwrap().cause, Page::of(code).unwrap().cure] {
            assert!(joined.contains(text), "{text}: {page}");
        }
    }

    #[test]
    fn without_a_code_all_are_listed() {
        let list = told(None, false).unwrap();
        let json: Vec<serde_json::Value> = serde_json::from_str(&told(None, true).unwrap()).unwrap();
        assert_eq!(json.len(), Code::ALL.len());
        for (entry, json) in Code::ALL.iter().zip(&json) {
            let line = list.lines().find(|line| line.split(' ').next() == Some(entry.name)).unwrap();
            assert!(line.contains(&(entry.exit as u8).to_string()) && line.ends_with(entry.owner.name()), "{line}");
            assert_eq!(json["code"], entry.name);
        }
    }

    #[test]
    fn a_code_is_found_as_people_copy_it_and_a_wrong_one_has_a_nearest() {
        for typed in ["dc-unreachable", "DC-UNREACHABLE", "code=dc-unreachable", "dc_unreachable", "`dc-unreachable`:"]
        {
            assert!(told(Some(typed), false).unwrap().starts_with("dc-unreachable\n"), "{typed}");
        }
        for (typed, nearest) in [
            ("dc-unreachble", "dc-unreachable"),
            ("unreachable", "dc-unreachable"),
            ("srv-not-found", "dc-srv-not-found"),
            ("secret", "secret-denied"),
        ] {
            let unknown = told(Some(typed), true).unwrap_err();
            assert_eq!(unknown.nearest, nearest, "{typed}");
            assert!(unknown.to_string().starts_with(&format!("`{typed}` is not a fault code")), "{unknown}");
        }
        assert!(told(Some(&"x\u{1b}".repeat(10_000)), false).unwrap_err().to_string().len() < 500);
        assert!(told(Some(""), false).is_err());
    }
}
