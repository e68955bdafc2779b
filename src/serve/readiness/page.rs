//! The status page: one HTML document without script, for whoever is inside the task.

use std::fmt::Write;
use std::time::Duration;

use super::report::{Detail, Details};
use crate::clock;
use crate::fault::Fault;
use crate::progress::Wait;

/// The page. Everything that was not written in this file is escaped.
pub(super) fn render(details: &Details<'_>) -> String {
    let answer = if details.ready { "ready" } else { "not ready" };
    let class = if details.ready { "held" } else { "expired" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"10\"><title>gmsa-sidecar: {answer}</title><style>{STYLE}</style>\n\
         <h1>gmsa-sidecar <b class=\"{class}\">{answer}</b></h1>\n"
    );
    if let Some(fault) = details.fault {
        page += &told(fault);
    }
    if details.leases.is_empty() {
        page += "<p>The CredSpecs are not known yet.</p>\n";
    }
    for step in &details.waiting {
        page += &waiting(step);
    }
    for lease in &details.leases {
        page += &section(lease);
    }
    page + "<footer>Reloads every 10 seconds. In the container: <code>gmsa-sidecar check</code></footer>\n"
}

fn waiting(step: &Wait) -> String {
    let [since, until] = [step.since, step.until].map(clock::rfc3339);
    format!("<p>Waiting for <code>{}</code> since {since}; gives up at {until}.</p>\n", escaped(&step.peer))
}

fn section(detail: &Detail<'_>) -> String {
    let lease = &detail.lease;
    let title = lease.account.or(lease.spec).unwrap_or_default();
    let mut html = format!("<section><h2>{} <b class=\"{1}\">{1}</b></h2>\n", escaped(title), lease.state);
    if let Some((left, life)) = detail.life {
        html += &bar(lease.state, left, life);
    }
    if let Some(fault) = lease.fault {
        html += &told(fault);
    }
    let (attempts, kvno) = (detail.attempts.to_string(), detail.kvno.map(|kvno| kvno.to_string()));
    let clock = detail.clock_offset_seconds.filter(|offset| *offset != 0);
    let clock = clock.map(|offset| {
        let side = if offset > 0 { "ahead of" } else { "behind" };
        format!("{} {side} this host", spoken(offset.unsigned_abs()))
    });
    let services = detail.service_tickets.iter().map(|ticket| match &ticket.expires_at {
        Some(end) => format!("{} until {end}", ticket.service),
        None => format!("{}: none", ticket.service),
    });
    let services = Some(services.collect::<Vec<_>>().join(", ")).filter(|services| !services.is_empty());
    let facts = [
        ("realm", lease.realm.as_deref()),
        ("domain controller", detail.dc),
        ("expires", lease.expires_at.as_deref()),
        ("next renewal", lease.next_renewal_at.as_deref()),
        ("service tickets", services.as_deref()),
        ("ccache", lease.path.as_deref()),
        ("CredSpec", lease.spec),
        ("password version", kvno.as_deref()),
        ("the KDC's clock", clock.as_deref()),
        ("attempts", Some(attempts.as_str())),
    ];
    html += "<dl>";
    for (name, value) in facts {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = write!(html, "<dt>{name}<dd>{}", escaped(value));
        }
    }
    html += "</dl>\n";
    if !detail.history.is_empty() {
        html += "<table><caption>last renewals</caption>";
        for attempt in &detail.history {
            let (outcome, class) = match attempt.code {
                Some(code) => (code, "expired"),
                None => (attempt.dc.unwrap_or("done"), "held"),
            };
            let (at, took) = (&attempt.at, &attempt.took);
            let _ = write!(html, "<tr><td>{at}<td class=\"{class}\">{}<td>{took}", escaped(outcome));
        }
        html += "</table>\n";
    }
    html + "</section>\n"
}

/// What is left of the ticket's life. The bar shrinks by itself, by an animation without script.
fn bar(state: &str, left: Duration, life: Duration) -> String {
    let life = life.as_secs().max(1);
    let left = left.as_secs().min(life);
    let share = left * 1000 / life;
    let words = if left == 0 { "expired".to_owned() } else { format!("{} left of {}", spoken(left), spoken(life)) };
    format!(
        "<svg class=\"{state}\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{words}\">\
         <rect width=\"{share}\" height=\"10\"><animate attributeName=\"width\" from=\"{share}\" to=\"0\" dur=\"{}s\" \
         fill=\"freeze\"/></rect></svg><p>{words}</p>\n",
        left.max(1)
    )
}

/// Hours and minutes, rounded; seconds only below a minute.
fn spoken(seconds: u64) -> String {
    let minutes = (seconds + 30) / 60;
    match (minutes / 60, minutes % 60) {
        _ if seconds < 60 => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

fn told(fault: &Fault) -> String {
    let why = fault.why.as_deref().map(|why| format!("<dt>why<dd>{}", marked(why))).unwrap_or_default();
    let (code, what, next) = (fault.code.name(), marked(&fault.what), marked(fault.next()));
    let owner = fault.owner().name();
    format!(
        "<dl class=\"fault\"><dt>fault<dd><code>{code}</code> ({owner})<dt>what<dd>{what}{why}<dt>next<dd>{next}</dl>\n"
    )
}

/// A fault's text: what stands between backquotes is a name.
fn marked(text: &str) -> String {
    let parts: Vec<_> = text.split('`').map(escaped).collect();
    if parts.len() % 2 == 0 {
        // One of them is part of a name.
        return escaped(text);
    }
    let mark =
        |(place, part): (usize, &String)| if place % 2 == 1 { format!("<code>{part}</code>") } else { part.clone() };
    parts.iter().enumerate().map(mark).collect()
}

/// Text that HTML reads as text, in an element or an attribute.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            c => html.push(c),
        }
    }
    html
}

/// Nothing but the style below, by its SHA-256: a test compares the two.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; style-src 'sha256-Age7KjU3p9Jy2hSGPsWZLbyUY77DM7R5A0/Fp4tY7ac='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif;\
--text:#1c2024;--soft:#60646c;--line:#d9dce1;--card:#fff;--page:#f6f7f9;--good:#18794e;--warn:#9a5b00;--bad:#c62a2f}\
@media(prefers-color-scheme:dark){:root{--text:#edeef0;--soft:#b0b4ba;--line:#363a3f;--card:#1d2023;--page:#121416;\
--good:#3dd68c;--warn:#ffb224;--bad:#ff8589}}\
body{max-width:52rem;margin:0 auto;padding:1rem;color:var(--text);background:var(--page)}\
h1{font-size:1.3rem}h2{font-size:1.1rem;margin:0 0 .5rem;overflow-wrap:anywhere}\
b{font-size:.8rem;font-weight:600;padding:.1rem .6rem;border:1px solid;border-radius:1rem;white-space:nowrap}\
section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:1rem;margin:1rem 0}\
svg{display:block;width:100%;height:.6rem;border-radius:.3rem;background:var(--line);fill:currentColor}\
p{margin:.3rem 0 1rem}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0}\
dt,caption,footer{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\
.fault{border-left:.25rem solid var(--bad);padding-left:.75rem;margin:1rem 0}\
table{border-collapse:collapse;width:100%;margin-top:1rem;font-size:.9rem}caption{text-align:left}\
td{border-top:1px solid var(--line);padding:.2rem .5rem .2rem 0;overflow-wrap:anywhere}\
.held{color:var(--good)}.pending,.overdue{color:var(--warn)}.expired{color:var(--bad)}\
@media(max-width:32rem){dl{grid-template-columns:1fr}dd{margin-bottom:.3rem}}";

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_allows_the_style_and_nothing_else() {
        let hash = format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(STYLE)));
        assert!(SECURITY_POLICY.contains(&hash), "write {hash}");
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        assert_eq!(escaped(r#"<a b="c" d='e'>&"#), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
    }

    #[test]
    fn names_in_a_fault_are_marked_and_escaped() {
        assert_eq!(marked("the gMSA `<b>` is `x`"), "the gMSA <code>&lt;b&gt;</code> is <code>x</code>");
        assert_eq!(marked("an odd ` one"), "an odd ` one");
    }

    #[test]
    fn the_bar_shows_what_is_left_and_never_more_than_all() {
        let bar = |left, life| bar("held", Duration::from_secs(left), Duration::from_secs(life));
        assert!(bar(18_000, 36_000).contains("from=\"500\" to=\"0\" dur=\"18000s\""));
        assert!(bar(18_000, 35_999).contains("5 h left of 10 h"));
        assert!(bar(90, 60).contains("from=\"1000\""));
        assert!(bar(0, 0).contains("expired"));
    }
}
