//! The log, on stderr: the users' only window into a container.
//!
//! `json` is one short object a line, `text` is for a terminal. Events of ours have a stable name in the field
//! `event` (`lease.renewed`) and no free text; the fields of the spans they happen in (`account`, `realm`) are added.

mod flood;
mod line;
mod queue;

use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use self::flood::{Admitted, Floods, WHILE};
use self::line::{Fields, Line};
use self::queue::Queue;
use crate::clock;
use crate::fault::{Code, Fault};
use crate::text::quoted;

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Which events are logged.
    pub filter: Filter,
    /// `json` or `text`; by default `text` on a terminal.
    pub format: Option<Format>,
    /// Whether a terminal may get colours (<https://no-color.org>).
    pub colour: bool,
}

/// Starts the log of this process and makes a panic end it with exit code 70, logged without its payload.
pub fn start(settings: LogSettings) {
    let terminal = io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let colour = terminal && settings.colour;
    let report = move |dropped| missing(dropped, format, colour);
    let queue = Queue::start(io::stderr(), report).ok().map(|queue| QUEUE.get_or_init(|| queue));
    let out = move |line: String, urgent: bool| match queue {
        Some(queue) => queue.push(line, urgent),
        // Without a thread, lines are written where they arise. With stderr gone nobody reads them.
        None => drop(io::stderr().lock().write_all(line.as_bytes())),
    };
    let lines = Lines { format, colour, out };
    // Fails only if a log was started before; then that one stays.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(settings.filter.targets).with(lines));
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or("an unknown place".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
        fault(Level::ERROR, "sidecar.panicked", &bug().because(format_args!("it panicked at {place}")));
        finish();
        #[expect(clippy::disallowed_methods, reason = "a panic ends the process, with an exit code of its own")]
        std::process::exit(Code::InternalBug.exit() as i32);
    }));
}

/// Before the process ends: waits until the lines are written, for at most a second.
pub fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_WORDS);
    }
}

/// How many lines were dropped since the start because nothing read stderr.
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped())
}

/// A process has one stderr.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// How long the end of the process waits for a reader of stderr.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The line that stands for those that were dropped.
fn missing(dropped: u64, format: Format, colour: bool) -> String {
    let fields = Fields::from([("event", "log.dropped".into()), ("count", dropped.into())]);
    Line { time: clock::now(), level: Level::WARN, spans: Vec::new(), fields }.render(format, colour)
}

/// What a panic is told as.
fn bug() -> Fault {
    Fault::new(Code::InternalBug, "the sidecar stopped because of a bug of its own")
}

/// Repeats these variables, which are not known, in each error until [`ready`]: one of them may be the reason.
pub fn repeat_unknown(variables: &[(&str, &str)]) {
    let told: Vec<_> =
        variables.iter().map(|(variable, nearest)| format!("{variable} (is {nearest} meant?)")).collect();
    *unknown() = (!told.is_empty()).then(|| told.join(", "));
}

/// All tickets are there: the variables that are not known were not needed.
pub fn ready() {
    *unknown() = None;
}

fn unknown() -> MutexGuard<'static, Option<String>> {
    UNKNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The variables that are not known, with what may be meant.
static UNKNOWN: Mutex<Option<String>> = Mutex::new(None);

/// Whether one more line of an event is logged that others decide how often it happens. Says once that further ones are
/// left out.
pub fn admits(event: &'static str) -> bool {
    let admitted = FLOODS.lock().unwrap_or_else(PoisonError::into_inner).admit(event, Instant::now());
    if admitted == Admitted::LastOne {
        let seconds = WHILE.as_secs();
        tracing::warn!(event = "log.left-out", of = event, seconds, "GET /leases has all of them");
    }
    admitted == Admitted::Yes
}

/// Logs a fault under the event's name: as an error, as a warning, or for those who look closely (`debug`). Of many within
/// a short time the first.
pub fn fault(level: Level, event: &'static str, fault: &Fault) {
    if matches!(level, Level::ERROR | Level::WARN) && !admits(event) {
        return;
    }
    let (code, what, why, next) = (fault.code.name(), fault.what.as_str(), fault.why.as_deref(), fault.next());
    let (owner, retry) = (fault.owner().name(), fault.retry().name());
    let next_attempt_at = fault.next_attempt_at.map(clock::rfc3339);
    match level {
        Level::ERROR => match unknown().clone() {
            Some(unknown_variables) => {
                tracing::error!(event, code, what, why, next, owner, retry, next_attempt_at, unknown_variables);
            }
            None => tracing::error!(event, code, what, why, next, owner, retry, next_attempt_at),
        },
        Level::WARN => tracing::warn!(event, code, what, why, next, owner, retry, next_attempt_at),
        _ => tracing::debug!(event, code, what, why, next, owner, retry, next_attempt_at),
    }
}

static FLOODS: Mutex<Floods> = Mutex::new(Floods::new());

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
///
/// Only this program's own records are ever logged. Those of other crates may hold what they decode: secrets, and
/// bytes from outside of any length.
#[derive(Debug, Clone)]
pub struct Filter {
    targets: Targets,
    level: LevelFilter,
    foreign: Vec<String>,
}

impl Filter {
    fn ours(level: LevelFilter) -> Self {
        let targets = Targets::new().with_default(LevelFilter::OFF).with_target(OURS, level);
        Self { targets, level, foreign: Vec::new() }
    }

    /// The level of what has no target of its own: `info`.
    pub fn level(&self) -> String {
        self.level.to_string()
    }

    /// The targets of other crates that were named: they are without effect.
    pub fn foreign(&self) -> &[String] {
        &self.foreign
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        for directive in text.split(',').map(str::trim) {
            // `Targets` would take a misspelt level for a target and log all of it.
            let level = directive.split_once('=').map_or(directive, |(_, level)| level);
            if level.parse::<LevelFilter>().is_err() || level.is_empty() {
                return Err(format!("{} is not a level: off, error, warn, info, debug, trace", quoted(level)));
            }
        }
        let read: Targets = text.parse().map_err(|_| "is not `level` or `target=level,..`".to_owned())?;
        let mut filter = Self::ours(read.default_level().unwrap_or(LevelFilter::INFO));
        for (target, level) in read.iter() {
            if is_ours(target) {
                filter.targets = filter.targets.with_target(target, level);
                filter.level = if target == OURS { level } else { filter.level };
            } else {
                filter.foreign.push(target.to_owned());
            }
        }
        Ok(filter)
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::ours(LevelFilter::INFO)
    }
}

/// The target of this crate's events.
const OURS: &str = "gmsa_sidecar";

fn is_ours(target: &str) -> bool {
    target.split("::").next() == Some(OURS)
}

/// Hands each event of ours to `out` as one line (`text`: one paragraph), and says whether it is an error.
struct Lines<W> {
    format: Format,
    colour: bool,
    out: W,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(String, bool) + 'static,
{
    /// Whatever the filter says.
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_ours(metadata.target())
    }

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
        let level = *event.metadata().level();
        let mut line = Line { time: clock::now(), level, spans: spans.collect(), fields };
        (self.out)(line.render(self.format, self.colour), level == Level::ERROR);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::log::line::{CUT, LINE};

    /// What `tell` logs in the given form, with the time blotted out.
    fn logged(format: Format, filter: &str, tell: impl FnOnce()) -> String {
        let log = Arc::new(Mutex::new(String::new()));
        let lines = Lines {
            format,
            colour: false,
            out: {
                let log = Arc::clone(&log);
                move |line: String, _urgent| log.lock().unwrap().push_str(&line)
            },
        };
        let filter: Filter = filter.parse().unwrap();
        tracing::subscriber::with_default(Registry::default().with(filter.targets).with(lines), tell);
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
        tracing::error!(target: "hyper::proto", account = "other", "not told");
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        insta::assert_snapshot!(logged(Format::Json, "info", tell_all), @r#"
        {"timestamp":"TIME","level":"INFO","event":"lease.renewed","account":"WebApp01","realm":"CORP.EXAMPLE.COM","dc":"dc1.corp.example.com","kvno":3,"took":"0ns"}
        {"timestamp":"TIME","level":"ERROR","event":"lease.failed","account":"WebApp01","realm":"CORP.EXAMPLE.COM","code":"dc-srv-not-found","what":"no domain controller is known for `corp.example.com`","why":"NXDOMAIN\u001b[31m from\n10.0.0.2","next":"let the VPC resolve the AD domain (DHCP options or a Route 53 Resolver rule), or set GMSA_DNS_SERVERS","owner":"network","retry":"soon","next_attempt_at":null}
        {"timestamp":"TIME","level":"WARN","event":"lease.overdue","account":"WebApp01","realm":"CORP.EXAMPLE.COM","code":"config-listen","what":"no why","why":null,"next":"choose a free address and port with GMSA_LISTEN; all containers of a task share one network","owner":"task-definition","retry":"never","next_attempt_at":null}
        "#);
    }

    #[test]
    fn text_is_for_people() {
        insta::assert_snapshot!(logged(Format::Text, "info", tell_all), @r"
        TIME INFO  lease{account=WebApp01 realm=CORP.EXAMPLE.COM}: lease.renewed dc=dc1.corp.example.com kvno=3 took=0ns
        TIME ERROR lease{account=WebApp01 realm=CORP.EXAMPLE.COM}: lease.failed code=dc-srv-not-found owner=network retry=soon
          what: no domain controller is known for `corp.example.com`
          why:  NXDOMAIN\u{1b}[31m from\n10.0.0.2
          next: let the VPC resolve the AD domain (DHCP options or a Route 53 Resolver rule), or set GMSA_DNS_SERVERS
          more: gmsa-sidecar explain dc-srv-not-found
        TIME WARN  lease{account=WebApp01 realm=CORP.EXAMPLE.COM}: lease.overdue code=config-listen owner=task-definition retry=never
          what: no why
          next: choose a free address and port with GMSA_LISTEN; all containers of a task share one network
          more: gmsa-sidecar explain config-listen
        ");
    }

    #[test]
    fn only_our_own_records_are_logged_whatever_is_asked_for() {
        let tell = || {
            tracing::debug!(event = "ours");
            tracing::trace!(event = "closely");
            tracing::error!(target: "aws_config::region", marker = "MARKER");
            tracing::error!(target: "gmsa_sidecar_of_somebody_else", "MARKER");
            tracing::trace!(target: "ldap3_proto", "MARKER");
            let _span = tracing::error_span!(target: "ldap3_proto", "theirs", marker = "MARKER").entered();
            tracing::info!(event = "within");
        };
        let told = |filter: &str| {
            let log = logged(Format::Text, filter, tell);
            assert!(!log.contains("MARKER"), "{filter}: {log}");
            ["within", "ours", "closely"].map(|event| log.contains(event))
        };
        assert_eq!(told("off"), [false, false, false]);
        assert_eq!(told("error"), [false, false, false]);
        assert_eq!(told("info"), [true, false, false]);
        assert_eq!(told("debug"), [true, true, false]);
        assert_eq!(told("trace"), [true, true, true]);
        assert_eq!(told("aws_config=trace,ldap3_proto=trace"), [true, false, false]);
        assert_eq!(told("off,ldap3_proto=trace"), [false, false, false]);
        assert_eq!(told("gmsa_sidecar=debug,gmsa_sidecar_of_somebody_else=trace"), [true, true, false]);
        assert_eq!(told("gmsa_sidecar::log=trace,warn"), [true, true, true]);
        assert_eq!(told("debug,gmsa_sidecar=info"), [true, false, false]);
    }

    #[test]
    fn a_filter_tells_its_level_and_what_it_leaves_out() {
        let told = |text: &str| {
            let filter: Filter = text.parse().unwrap();
            (filter.level(), filter.foreign().join(" "))
        };
        assert_eq!(told("debug"), ("debug".to_owned(), String::new()));
        assert_eq!(told("warn,hyper=trace,gmsa_sidecar::lease=debug"), ("warn".to_owned(), "hyper".to_owned()));
        assert_eq!(told("warn,gmsa_sidecar=debug").0, "debug");
    }

    #[test]
    fn a_line_has_at_most_8_kib_and_stays_json() {
        for filler in ["x", "\0", "\u{1b}", "ü", "\"", "\u{10ffff}"] {
            for many in [3000, 9000, 1_000_000] {
                let long = filler.repeat(many);
                let tell = || {
                    let _span = tracing::info_span!("lease", gmsa = "WebApp01", realm = long).entered();
                    let cause = Fault::new(Code::DcUnreachable, long.clone()).because(&long).with_next(&long);
                    fault(Level::DEBUG, "lease.failed", &cause);
                    tracing::info!(event = "dc.site", hosts = ?[&long, &long], display = %long);
                };
                for line in logged(Format::Json, "debug", tell).lines() {
                    let value: serde_json::Value = serde_json::from_str(line).unwrap();
                    assert!(line.len() < LINE && line.contains(CUT) && value["gmsa"] == "WebApp01", "{}", line.len());
                }
                let text = logged(Format::Text, "debug", tell);
                assert!(text.contains(CUT) && text.len() <= 2 * LINE, "{}", text.len());
            }
        }
    }

    #[test]
    fn foreign_text_steers_no_terminal_in_either_form() {
        // DEL, CSI of C1, right-to-left override, isolate, line separator, zero width space, a tag.
        let foreign = "a\x7f\u{9b}31m\u{202e}b\u{2066}c\u{2028}d\u{200b}\u{e0041}é";
        let tell = || {
            let _span = tracing::info_span!("lease", gmsa = foreign, realm = %foreign).entered();
            tracing::info!(event = "dc.site", hosts = foreign, site = ?foreign);
        };
        for format in [Format::Json, Format::Text] {
            let line = logged(format, "info", tell);
            let harmful = line.trim_end().chars().find(|c| c.is_control() || !c.is_ascii() && *c != 'é');
            assert_eq!(harmful, None, "{line:?}");
            assert!(line.contains("u{9b}31m") && line.contains("u{202e}b") && line.contains('é'), "{line}");
        }
    }

    #[test]
    fn misspelt_filters_are_refused() {
        for text in ["inof", "debug,", "aws_config", "aws_config=", "a=b=info", "gmsa_sidecar=verbose"] {
            assert!(text.parse::<Filter>().is_err(), "{text} was accepted");
        }
    }
}
