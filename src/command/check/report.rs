//! What `check` shows: a line for each step as it ends, or one JSON document.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::fault::Fault;
use crate::text::{count, harmless, short};

/// One step that was tried, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStep {
    /// `secret`, `dns`, ...
    pub name: &'static str,
    /// Which of several: an ARN, a host, an account; empty where there is one only.
    pub subject: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With what was seen.
    Passed(String),
    /// With a fault that does not stand in the way: there is another one that serves.
    Warned(Fault),
    /// With a fault.
    Failed(Fault),
    /// It was not tried, and why.
    Skipped(String),
}

/// All steps in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The steps.
    pub steps: Vec<CheckStep>,
}

impl CheckReport {
    /// The fault of the first step that failed: what the others may only be consequences of.
    pub fn fault(&self) -> Option<&Fault> {
        self.steps.iter().find_map(|step| match &step.outcome {
            Outcome::Failed(fault) => Some(fault),
            _ => None,
        })
    }

    /// The exit code: 0 if nothing failed.
    pub fn exit(&self) -> u8 {
        self.fault().map_or(0, |fault| fault.code.exit() as u8)
    }

    fn number(&self, is: fn(&Outcome) -> bool) -> usize {
        self.steps.iter().filter(|step| is(&step.outcome)).count()
    }
}

impl Serialize for CheckReport {
    /// `{"passed","exit_code","fault","steps"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Report", 4)?;
        fields.serialize_field("passed", &self.fault().is_none())?;
        fields.serialize_field("exit_code", &self.exit())?;
        fields.serialize_field("fault", &self.fault())?;
        fields.serialize_field("steps", &self.steps)?;
        fields.end()
    }
}

impl Serialize for CheckStep {
    /// `{"step","subject","result","code","what","why","next","owner","took_ms"}`; null where there is nothing to tell.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (result, what, why, fault) = match &self.outcome {
            Outcome::Passed(detail) => ("pass", Some(detail.as_str()), None, None),
            Outcome::Warned(fault) => ("warn", Some(fault.what.as_str()), fault.why.as_deref(), Some(fault)),
            Outcome::Failed(fault) => ("fail", Some(fault.what.as_str()), fault.why.as_deref(), Some(fault)),
            Outcome::Skipped(why) => ("skipped", None, Some(why.as_str()), None),
        };
        let mut fields = serializer.serialize_struct("Step", 9)?;
        fields.serialize_field("step", self.name)?;
        fields.serialize_field("subject", &Some(&self.subject).filter(|subject| !subject.is_empty()))?;
        fields.serialize_field("result", result)?;
        fields.serialize_field("code", &fault.map(|fault| fault.code.name()))?;
        fields.serialize_field("what", &what)?;
        fields.serialize_field("why", &why)?;
        fields.serialize_field("next", &fault.map(Fault::next))?;
        fields.serialize_field("owner", &fault.map(|fault| fault.owner().name()))?;
        fields.serialize_field("took_ms", &((self.took.as_secs_f64() * 1e4).round() / 10.0))?;
        fields.end()
    }
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// A terminal: the step at work is shown too.
    Terminal {
        /// Whether it may have colours.
        colour: bool,
    },
    /// Whole lines, for a log.
    Plain,
    /// One JSON document at the end.
    Json,
}

/// Where the steps are shown. That nobody reads any more is no reason to stop.
pub struct Screen<'a> {
    out: &'a mut dyn Write,
    style: OutputFormat,
    /// Skipped steps that one line may join.
    skipped: Vec<CheckStep>,
}

impl<'a> Screen<'a> {
    /// Shows steps in this form on `out`: stdout, as a rule.
    pub fn new(out: &'a mut dyn Write, style: OutputFormat) -> Self {
        Self { out, style, skipped: Vec::new() }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, name: &str, subject: &str) {
        self.show_skipped();
        if matches!(self.style, OutputFormat::Terminal { .. }) {
            // On one line of any terminal: only the last one can be taken back.
            let line: String = format!("{name} {}", harmless(subject)).chars().take(60).collect();
            let _ = write!(self.out, "{ERASE}..    {line}");
            let _ = self.out.flush();
        }
    }

    /// A step has ended.
    pub(super) fn show(&mut self, step: &CheckStep) {
        match &step.outcome {
            Outcome::Skipped(_) => {
                if self.skipped.last().is_some_and(|last| last.outcome != step.outcome) {
                    self.show_skipped();
                }
                self.skipped.push(step.clone());
            }
            _ => {
                self.show_skipped();
                self.write(|colour| words(step, colour));
            }
        }
    }

    /// Several steps in a row that one fault stopped are one line.
    fn show_skipped(&mut self) {
        let skipped = std::mem::take(&mut self.skipped);
        if let Some(CheckStep { outcome: Outcome::Skipped(why), .. }) = skipped.first() {
            self.write(|colour| skipped_words(&skipped, why, colour));
        }
    }

    fn write(&mut self, text: impl FnOnce(bool) -> String) {
        let text = match self.style {
            OutputFormat::Terminal { colour } => format!("{ERASE}{}", text(colour)),
            OutputFormat::Plain => text(false),
            OutputFormat::Json => return,
        };
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// All steps have ended.
    pub(super) fn end(&mut self, report: &CheckReport) {
        self.show_skipped();
        let _ = match self.style {
            OutputFormat::Json => json(self.out, report),
            _ => writeln!(self.out, "\n{}", summary(report)),
        };
        let _ = self.out.flush();
    }
}

fn json(out: &mut dyn Write, report: &CheckReport) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

/// `skip  dns example.com, dc example.com, ticket WebApp01: not tried, ..`
fn skipped_words(steps: &[CheckStep], why: &str, colour: bool) -> String {
    let (hue, plain) = if colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let names = steps.iter().map(|step| match step.subject.as_str() {
        "" => step.name.to_owned(),
        subject => format!("{} {}", step.name, harmless(subject)),
    });
    format!("{hue}skip{plain}  {}: not tried, {}\n", names.collect::<Vec<_>>().join(", "), harmless(why))
}

/// `ok    dns example.com (2.0ms): ..`, the parts of a fault on lines of their own.
fn words(step: &CheckStep, colour: bool) -> String {
    let (mark, hue) = match &step.outcome {
        Outcome::Passed(_) => ("ok  ", "\x1b[32m"),
        Outcome::Warned(_) => ("warn", "\x1b[33m"),
        Outcome::Failed(_) => ("FAIL", "\x1b[1;31m"),
        Outcome::Skipped(_) => ("skip", "\x1b[2m"),
    };
    let (hue, dim, plain) = if colour { (hue, "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{hue}{mark}{plain}  {}", step.name);
    if !step.subject.is_empty() {
        text += &format!(" {}", harmless(&step.subject));
    }
    // Writing to a string does not fail.
    let _ = match &step.outcome {
        Outcome::Passed(detail) if step.took.is_zero() => write!(text, ": {}", harmless(detail)),
        Outcome::Passed(detail) => write!(text, " {dim}({}){plain}: {}", short(step.took), harmless(detail)),
        Outcome::Skipped(why) => write!(text, ": not tried, {}", harmless(why)),
        Outcome::Warned(fault) | Outcome::Failed(fault) => {
            if matches!(step.outcome, Outcome::Warned(_)) {
                text += ": does not block";
            }
            let mut below = |name: &str, value: &str| write!(text, "\n      {name:<6} {}", harmless(value));
            let _ = below("code:", fault.code.name()).and_then(|()| below("what:", &fault.what));
            let _ = fault.why.as_deref().map(|why| below("why:", why));
            let _ = below("next:", fault.next());
            let _ = below("owner:", fault.owner().name());
            let _ = below("more:", &format!("gmsa-sidecar explain {}", fault.code));
            if step.took.is_zero() { Ok(()) } else { below("took:", &short(step.took)) }
        }
    };
    text + "\n"
}

fn summary(report: &CheckReport) -> String {
    let passed = report.number(|outcome| matches!(outcome, Outcome::Passed(_)));
    let failed = report.number(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = report.number(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let warned = report.number(|outcome| matches!(outcome, Outcome::Warned(_)));
    let warned = if warned == 0 { String::new() } else { format!("{}, ", count(warned, "warning")) };
    let counts = format!("{} passed, {warned}{failed} failed, {skipped} not tried", count(passed, "step"));
    match report.fault() {
        None => counts,
        Some(fault) => format!("{counts}; the first failure is what to correct first: {}", fault.code),
    }
}

/// To the line's begin, and the line empty (ECMA-48 EL).
const ERASE: &str = "\r\x1b[2K";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Code;

    fn report() -> CheckReport {
        let step = |name, subject: &str, outcome| CheckStep {
            name,
            subject: subject.to_owned(),
            outcome,
            took: Duration::from_micros(2_340),
        };
        let fault = Fault::new(Code::DcSrvNotFound, "no domain controller is known for `example.com`");
        let unreachable = Fault::new(Code::DcUnreachable, "the domain controller `dc2.example.com` cannot be reached");
        CheckReport {
            steps: vec![
                step("configuration", "", Outcome::Passed("GMSA_CREDENTIAL_SPECS names 1 CredSpec".into())),
                step("dns", "example.com", Outcome::Failed(fault.because("NXDOMAIN\x1b[31m"))),
                step("dc", "dc2.example.com", Outcome::Warned(unreachable)),
                step("login", "svc", Outcome::Skipped("`dc example.com` failed".into())),
                step("bind", "example.com", Outcome::Skipped("`dc example.com` failed".into())),
                step("password", "WebApp01", Outcome::Skipped("`gmsa WebApp01` failed".into())),
            ],
        }
    }

    fn shown(style: OutputFormat) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, style);
        let report = report();
        for step in &report.steps {
            if !matches!(step.outcome, Outcome::Skipped(_)) {
                screen.begin(step.name, &step.subject);
            }
            screen.show(step);
        }
        screen.end(&report);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_log_gets_whole_lines() {
        insta::assert_snapshot!(shown(OutputFormat::Plain));
    }

    #[test]
    fn a_terminal_sees_the_step_at_work() {
        insta::assert_snapshot!(
            shown(OutputFormat::Terminal { colour: true }).escape_debug().to_string().replace("\\n", "\n")
        );
    }

    #[test]
    fn json_has_every_field_and_null_where_there_is_nothing() {
        insta::assert_snapshot!(shown(OutputFormat::Json));
        assert_eq!(report().exit(), 69);
        assert_eq!(CheckReport::default().exit(), 0);
    }
}
