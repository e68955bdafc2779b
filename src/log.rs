//! The log, on stderr: the users' only window into a container.
//!
//! `json` is one short object a line, `text` is for a terminal. Events of ours have a stable name in the field
//! `event` (`lease.renewed`) and no free text; the fields of the spans they happen in (`account`, `realm`) are added.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::aws;
use crate::clock;
use crate::fault::{Code, Fault};
use crate::text::{harmless, quoted};

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which events are logged.
    pub filter: Filter,
    /// `json` or `text`; by default `text` on a terminal.
    pub format: Option<Format>,
    /// Whether a terminal may get colours (<https://no-color.org>).
    pub colour: bool,
}

/// Starts the log of this process and makes a panic end it with exit code 70, logged without its payload.
pub fn start(settings: Settings) {
    let terminal = io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let colour = terminal && settings.colour;
    let out = |line: &str| {
        // With stderr gone there is nobody left to tell.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    };
    let lines = Lines { format, colour, out };
    // Whatever the filter says: the SDK's traces can hold the body of a secret.
    let harmless = filter_fn(aws::may_log);
    // Fails only if a log was started before; then that one stays.
    let _ =
        tracing::subscriber::set_global_default(Registry::default().with(settings.filter.0).with(harmless).with(lines));
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("an unknown place".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
        fault(Level::ERROR, "sidecar.panicked", &bug().because(format_args!("it panicked at {place}")));
        #[expect(clippy::disallowed_methods, reason = "a panic ends the process, with an exit code of its own")]
        std::process::exit(Code::InternalBug.exit() as i32);
    }));
}

/// What a panic is told as.
fn bug() -> Fault {
    Fault::new(Code::InternalBug, "the sidecar stopped because of a bug of its own")
}

/// Logs a fault under the event's name: as an error, as a warning, or for those who look closely (`debug`).
pub fn fault(level: Level, event: &'static str, fault: &Fault) {
    let (code, what, why, next) = (fault.code.name(), fault.what.as_str(), fault.why.as_deref(), fault.next());
    let (owner, retry) = (fault.owner().name(), fault.code.retry().name());
    let next_attempt_at = fault.next_attempt_at.map(clock::rfc3339);
    match level {
        Level::ERROR => tracing::error!(event, code, what, why, next, owner, retry, next_attempt_at),
        Level::WARN => tracing::warn!(event, code, what, why, next, owner, retry, next_attempt_at),
        _ => tracing::debug!(event, code, what, why, next, owner, retry, next_attempt_at),
    }
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("must be `json` or `text`"),
        }
    }
}

/// Which events are logged: a level, `target=level`, or several separated by commas.
#[derive(Debug, Clone)]
pub struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    /// A level without a target is ours: other crates are held to `error` unless they are named:
    /// what they warn of is told by our own fault, in our own words.
    fn from_str(text: &str) -> Result<Self, String> {
        for directive in text.split(',').map(str::trim) {
            // `Targets` would take a misspelt level for a target and log all of it.
            let level = directive.split_once('=').map_or(directive, |(_, level)| level);
            if level.parse::<LevelFilter>().is_err() || level.is_empty() {
                return Err(format!("{} is not a level: off, error, warn, info, debug, trace", quoted(level)));
            }
        }
        let targets: Targets = text.parse().map_err(|_| "is not `level` or `target=level,..`".to_owned())?;
        let level = targets.default_level().unwrap_or(LevelFilter::INFO);
        let ours_named = targets.iter().any(|(target, _)| target == OURS);
        let targets = targets.with_default(level.min(LevelFilter::ERROR));
        Ok(Self(if ours_named { targets } else { targets.with_target(OURS, level) }))
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::ERROR).with_target(OURS, LevelFilter::INFO))
    }
}

/// The target of this crate's events.
const OURS: &str = "gmsa_sidecar";

/// Writes each event as one line (`text`: one paragraph) through `out`.
struct Lines<W> {
    format: Format,
    colour: bool,
    out: W,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&str) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::of(attributes.metadata());
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::of(event.metadata());
        event.record(&mut fields);
        let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans = spans.filter_map(|span| Some((span.name(), span.extensions().get::<Fields>()?.clone())));
        let line = Line {
            time: clock::now(),
            level: *event.metadata().level(),
            target: event.metadata().target(),
            spans: spans.collect(),
            fields,
        };
        (self.out)(&match self.format {
            Format::Json => line.json(),
            Format::Text => line.text(self.colour),
        });
    }
}

/// The fields of an event or a span in the order they were written; one without a value is null, never missing.
#[derive(Clone)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn of(metadata: &Metadata<'_>) -> Self {
        Self(metadata.fields().iter().map(|field| (field.name(), Value::Null)).collect())
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
        self.set(field, value);
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
        self.set(field, format!("{value:?}"));
    }
}

/// One event with all that is told of it.
struct Line<'a> {
    time: SystemTime,
    level: Level,
    target: &'a str,
    spans: Vec<(&'static str, Fields)>,
    fields: Fields,
}

impl Line<'_> {
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
        if let Some(target) = self.foreign_target() {
            line += &format!("{dim}{target}:{plain} ");
        }
        let mut below = String::new();
        for (name, value) in &self.fields.0 {
            match *name {
                "event" | "message" => line += &format!("{} ", shown(value)),
                "what" | "why" | "next" | "next_attempt_at" if value.is_null() => {}
                "what" | "why" => below += &format!("\n  {:5} {}", format!("{name}:"), shown(value)),
                "next" => {
                    let code = self.fields.text("code").unwrap_or_default();
                    below += &format!("\n  next: {}; see docs/faults.md#{code}", shown(value));
                }
                _ => line += &format!("{dim}{name}={plain}{} ", shown(value)),
            }
        }
        format!("{}{below}\n", line.trim_end())
    }

    fn timestamp(&self) -> String {
        humantime::format_rfc3339_millis(self.time).to_string()
    }

    /// Where an event comes from that has no name of ours.
    fn foreign_target(&self) -> Option<&str> {
        let ours = self.target.split("::").next() == Some(OURS);
        (!ours).then_some(self.target)
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.timestamp())?;
        map.serialize_entry("level", self.level.as_str())?;
        if let Some(target) = self.foreign_target() {
            map.serialize_entry("target", target)?;
        }
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

fn hue(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[1;31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What `tell` logs in the given form, with the time blotted out.
    fn logged(format: Format, filter: &str, tell: impl FnOnce()) -> String {
        let log = Arc::new(Mutex::new(String::new()));
        let lines = Lines {
            format,
            colour: false,
            out: {
                let log = Arc::clone(&log);
                move |line: &str| log.lock().unwrap().push_str(line)
            },
        };
        let filter: Filter = filter.parse().unwrap();
        tracing::subscriber::with_default(Registry::default().with(filter.0).with(lines), tell);
        let log = log.lock().unwrap();
        log.lines().map(|line| blot(line) + "\n").collect()
    }

    /// Replaces the time stamp, `2026-11-22T14:15:00.123Z`, by `TIME`.
    fn blot(line: &str) -> String {
        let year = clock::rfc3339(clock::now());
        match line.find(&year[..4]) {
            Some(at) if line.get(at + 23..at + 24) == Some("Z") => format!("{}TIME{}", &line[..at], &line[at + 24..]),
            _ => line.to_owned(),
        }
    }

    fn tell_all() {
        let span = tracing::info_span!("lease", account = "WebApp01", realm = tracing::field::Empty);
        span.record("realm", "CORP.EXAMPLE.COM");
        let _in = span.enter();
        tracing::info!(event = "lease.renewed", dc = "dc1.corp.example.com", kvno = 3, took = ?std::time::Duration::ZERO);
        let cause = Fault::new(Code::DcSrvNotFound, "no domain controller is known for `corp.example.com`");
        fault(Level::ERROR, "lease.failed", &cause.because("NXDOMAIN\x1b[31m from\n10.0.0.2"));
        fault(Level::WARN, "lease.overdue", &Fault::new(Code::ConfigListen, "no why"));
        tracing::error!(target: "hyper::proto", account = "other", "odd {}", 1);
        tracing::warn!(target: "hyper::proto", "not told");
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        insta::assert_snapshot!(logged(Format::Json, "info", tell_all), @r#"
        {"timestamp":"TIME","level":"INFO","event":"lease.renewed","account":"WebApp01","realm":"CORP.EXAMPLE.COM","dc":"dc1.corp.example.com","kvno":3,"took":"0ns"}
        {"timestamp":"TIME","level":"ERROR","event":"lease.failed","account":"WebApp01","realm":"CORP.EXAMPLE.COM","code":"dc-srv-not-found","what":"no domain controller is known for `corp.example.com`","why":"NXDOMAIN\u001b[31m from\n10.0.0.2","next":"let the VPC resolve the AD domain (DHCP options or a Route 53 Resolver rule), or set GMSA_DNS_SERVERS","owner":"network","retry":"soon","next_attempt_at":null}
        {"timestamp":"TIME","level":"WARN","event":"lease.overdue","account":"WebApp01","realm":"CORP.EXAMPLE.COM","code":"config-listen","what":"no why","why":null,"next":"choose a free address and port with GMSA_LISTEN; all containers of a task share one network","owner":"task-definition","retry":"never","next_attempt_at":null}
        {"timestamp":"TIME","level":"ERROR","target":"hyper::proto","realm":"CORP.EXAMPLE.COM","message":"odd 1","account":"other"}
        "#);
    }

    #[test]
    fn text_is_for_people() {
        insta::assert_snapshot!(logged(Format::Text, "info", tell_all), @r"
        TIME INFO  lease{account=WebApp01 realm=CORP.EXAMPLE.COM}: lease.renewed dc=dc1.corp.example.com kvno=3 took=0ns
        TIME ERROR lease{account=WebApp01 realm=CORP.EXAMPLE.COM}: lease.failed code=dc-srv-not-found owner=network retry=soon
          what: no domain controller is known for `corp.example.com`
          why:  NXDOMAIN\u{1b}[31m from\n10.0.0.2
          next: let the VPC resolve the AD domain (DHCP options or a Route 53 Resolver rule), or set GMSA_DNS_SERVERS; see docs/faults.md#dc-srv-not-found
        TIME WARN  lease{account=WebApp01 realm=CORP.EXAMPLE.COM}: lease.overdue code=config-listen owner=task-definition retry=never
          what: no why
          next: choose a free address and port with GMSA_LISTEN; all containers of a task share one network; see docs/faults.md#config-listen
        TIME ERROR lease{account=WebApp01 realm=CORP.EXAMPLE.COM}: hyper::proto: odd 1 account=other
        ");
    }

    #[test]
    fn other_crates_are_held_to_errors_unless_named() {
        let tell = || {
            tracing::debug!(event = "ours");
            tracing::warn!(target: "aws_config::region", "theirs");
            tracing::error!(target: "aws_config::region", "their error");
        };
        let told = |filter| {
            let log = logged(Format::Text, filter, tell);
            (log.contains("ours"), log.contains("theirs"), log.contains("their error"))
        };
        assert_eq!(told("info"), (false, false, true));
        assert_eq!(told("debug"), (true, false, true));
        assert_eq!(told("error"), (false, false, true));
        assert_eq!(told("off"), (false, false, false));
        assert_eq!(told("gmsa_sidecar=debug,aws_config=debug"), (true, true, true));
        assert_eq!(told("gmsa_sidecar=debug"), (true, false, true));
        assert_eq!(told("debug,gmsa_sidecar=info"), (false, false, true));
        assert_eq!(told("aws_config=trace"), (false, true, true));
    }

    #[test]
    fn misspelt_filters_are_refused() {
        for text in ["inof", "debug,", "aws_config", "aws_config=", "a=b=info", "gmsa_sidecar=verbose"] {
            assert!(text.parse::<Filter>().is_err(), "{text} was accepted");
        }
    }
}
