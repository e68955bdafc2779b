//! The status page: one HTML document without script, for whoever is inside the task.

use std::fmt::Write;

use super::report::{Detail, Details};
use crate::fault::Fault;

/// The page. Everything that was not written in this file is escaped.
pub(super) fn render(details: &Details<'_>) -> String {
    let answer = if details.ready { "ready" } else { "not ready" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
         <title>gmsa-sidecar: {answer}</title><style>{STYLE}</style>\n<h1>gmsa-sidecar is {answer}</h1>\n"
    );
    if let Some(fault) = details.fault {
        page += &told(fault);
    }
    if details.leases.is_empty() {
        page += "<p>No CredSpec is known yet.</p>\n";
    }
    for lease in &details.leases {
        page += &section(lease);
    }
    page
}

fn section(detail: &Detail<'_>) -> String {
    let lease = &detail.lease;
    let title = lease.account.unwrap_or(lease.spec);
    let mut html = format!("<section><h2>{} <b class=\"{1}\">{1}</b></h2>\n<dl>", escaped(title), lease.state);
    let (attempts, kvno) = (detail.attempts.to_string(), detail.kvno.map(|kvno| kvno.to_string()));
    let facts = [
        ("realm", lease.realm.as_deref()),
        ("CredSpec", Some(lease.spec)),
        ("ccache", lease.path.as_deref()),
        ("expires", lease.expires_at.as_deref()),
        ("next renewal", lease.next_renewal_at.as_deref()),
        ("last success", detail.last_success_at.as_deref()),
        ("domain controller", detail.dc),
        ("password version", kvno.as_deref()),
        ("took", detail.took.as_deref()),
        ("attempts", Some(attempts.as_str())),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = write!(html, "<dt>{name}<dd>{}", escaped(value));
        }
    }
    html += "</dl>\n";
    if let Some(fault) = lease.fault {
        html += &told(fault);
    }
    html + "</section>\n"
}

fn told(fault: &Fault) -> String {
    let why = fault.why.as_deref().map(|why| format!("<dt>why<dd>{}", escaped(why))).unwrap_or_default();
    let (code, what, next) = (fault.code.name(), escaped(&fault.what), escaped(fault.next()));
    format!("<dl class=\"fault\"><dt>fault<dd>{code}<dt>what<dd>{what}{why}<dt>next<dd>{next}</dl>\n")
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
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; style-src 'sha256-nYLD8wZXB0G6fCGEso0P0se9OQm9vi9AOaZud6k9HuY='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:60rem;margin:2rem auto;padding:0 1rem}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1rem}dd{margin:0;overflow-wrap:anywhere}\
.fault{border-left:.25rem solid #c33;padding-left:.75rem}b{font-weight:600}.held{color:#383}\
.pending,.overdue{color:#a60}.expired{color:#c33}";

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
}
