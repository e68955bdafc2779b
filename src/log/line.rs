//! One event -> one line. A value may come from outside and be of any length: a line never is.

use std::fmt::{self, Write};
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use super::Format;
use crate::text::{harmless, is_harmful};

/// The fields of an event or a span in the order they were written; one without a value is null, never missing.
#[derive(Clone)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    pub(super) fn of(metadata: &Metadata<'_>) -> Self {
        Self(metadata.fields().iter().map(|field| (field.name(), Value::Null)).collect())
    }

    /// What is known without an event.
    pub(super) fn from<const N: usize>(fields: [(&'static str, Value); N]) -> Self {
        Self(fields.into())
    }

    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        if let Some(place) = self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            place.1 = value.into();
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| *field == name)?.1.as_str()
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, visible(cut(value, LINE)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = BoundedText::default();
        // It fails once there is enough.
        let whole = write!(text, "{value:?}").is_ok();
        self.set(field, visible(if whole { text.0 } else { text.0 + CUT }));
    }
}

/// One event with all that is told of it.
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) spans: Vec<(&'static str, Fields)>,
    pub(super) fields: Fields,
}

impl Line {
    /// The line in its form, at most 8 KiB: what is too long is cut within its values, so that JSON stays JSON.
    pub(super) fn render(&mut self, format: Format, colour: bool) -> String {
        let form = |line: &Self| match format {
            Format::Json => line.json(),
            Format::Text => line.text(colour),
        };
        let mut text = form(self);
        let mut limit = LINE / 2;
        // An escaped character takes up to eight bytes, and an event of ours has less than thirty fields.
        while text.len() > LINE && limit >= 16 {
            let spans = self.spans.iter_mut().map(|(_, fields)| fields);
            for (_, value) in spans.chain([&mut self.fields]).flat_map(|fields| &mut fields.0) {
                if let Value::String(whole) = value {
                    *whole = cut(whole, limit);
                }
            }
            text = form(self);
            limit /= 2;
        }
        text
    }

    fn json(&self) -> String {
        // Strings and numbers under string keys always have a JSON form.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// `TIME LEVEL span{field=value}: event field=value`, the parts of a fault below on lines of their own.
    fn text(&self, colour: bool) -> String {
        let (level, dim, plain) = if colour { (hue(self.level), "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let mut line = format!("{dim}{}{plain} {level}{:5}{plain} ", self.timestamp(), self.level.as_str());
        for (name, fields) in &self.spans {
            let fields: Vec<_> = fields.0.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
            line += &format!("{dim}{name}{{{}}}:{plain} ", fields.join(" "));
        }
        let mut below = String::new();
        for (name, value) in &self.fields.0 {
            match *name {
                "event" | "message" => line += &format!("{} ", shown(value)),
                "what" | "why" | "next" | "next_attempt_at" if value.is_null() => {}
                "what" | "why" => below += &format!("\n  {:5} {}", format!("{name}:"), shown(value)),
                "next" => {
                    let code = self.fields.text("code").unwrap_or_default();
                    below += &format!("\n  next: {}\n  more: gmsa-sidecar explain {code}", shown(value));
                }
                _ => line += &format!("{dim}{name}={plain}{} ", shown(value)),
            }
        }
        format!("{}{below}\n", line.trim_end())
    }

    fn timestamp(&self) -> String {
        humantime::format_rfc3339_millis(self.time).to_string()
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.timestamp())?;
        map.serialize_entry("level", self.level.as_str())?;
        // What is said further in hides what is said further out: no key comes twice.
        let all: Vec<_> = self.spans.iter().flat_map(|(_, fields)| &fields.0).chain(&self.fields.0).collect();
        let (event, rest): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(_, (name, _))| *name == "event");
        for (at, (name, value)) in event.into_iter().chain(rest) {
            if !all.iter().skip(at + 1).any(|(later, _)| later == name) {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

/// A value for people. It may come from outside: control characters reach no terminal.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    harmless(&text)
}

/// A value for whichever form: JSON escapes control characters below 0x20 itself, and no others.
fn visible(text: String) -> String {
    let raw = |c: char| !c.is_ascii_control() && is_harmful(c) || c == '\x7f';
    if !text.contains(raw) {
        return text;
    }
    text.chars().flat_map(|c| if raw(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

fn hue(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[1;31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

/// The start of a text, with a mark if that is not all of it.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let start = text.strip_suffix(CUT).unwrap_or(text);
    start[..start.floor_char_boundary(limit)].to_owned() + CUT
}

/// Takes the start of a text of any length.
#[derive(Default)]
struct BoundedText(String);

impl Write for BoundedText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = LINE.saturating_sub(self.0.len());
        if part.len() <= room {
            self.0 += part;
            return Ok(());
        }
        self.0 += &part[..part.floor_char_boundary(room)];
        Err(fmt::Error)
    }
}

/// How long a line is at most, in bytes. Container platforms split longer ones at 16 KiB.
pub(super) const LINE: usize = 8 * 1024;

/// Stands where a value was cut.
pub(super) const CUT: &str = "..[cut]";
