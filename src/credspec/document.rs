//! The bytes of a CredSpec document -> JSON, and its fields by name.

use serde_json::{Map, Value};

use super::malformed;
use crate::fault::Fault;
use crate::text::json_reason;

/// Decodes a document: UTF-8, or UTF-16 as Windows PowerShell writes it, with or without a byte order mark. A
/// Kubernetes `GMSACredentialSpec` is read by its `credspec`.
pub(super) fn read(bytes: &[u8]) -> Result<Value, Fault> {
    let text = decode(bytes)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(malformed("it is empty"));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| not_json(text, &error))?;
    if !value.is_object() {
        return Err(malformed("it is JSON, but not an object (`{ .. }`)"));
    }
    of_kubernetes(value)
}

fn decode(bytes: &[u8]) -> Result<String, Fault> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|pair| match pair {
            [first, second] => unit([*first, *second]),
            _ => 0xd800,
        });
        let text: Result<String, _> = char::decode_utf16(units).collect();
        text.map_err(|_| {
            let why = "it begins as UTF-16, as Windows PowerShell writes it, and goes on as something else";
            malformed(why).with_next("write the document again as UTF-8 (Set-Content -Encoding utf8)")
        })
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [b'{', 0, ..] => wide(bytes, u16::from_le_bytes),
        [0, b'{', ..] => wide(bytes, u16::from_be_bytes),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Fault> {
    String::from_utf8(bytes.to_vec()).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let what = match bytes {
            [0x1f, 0x8b, ..] => "gzip data".to_owned(),
            [b'P', b'K', 3, 4, ..] => "a ZIP archive".to_owned(),
            _ if at < 4 => "not text".to_owned(),
            _ => format!("not UTF-8 after {at} bytes"),
        };
        let start: Vec<_> = bytes.iter().take(4).map(|byte| format!("{byte:02X}")).collect();
        malformed(format!("it is {what}; it begins with the bytes {}", start.join(" ")))
            .with_next("write the document as UTF-8 text (Set-Content -Encoding utf8)")
    })
}

/// What a text is that is not JSON.
fn not_json(text: &str, error: &serde_json::Error) -> Fault {
    let reason = json_reason(error);
    let is_yaml = |line: &str| ["apiVersion:", "kind:", "---", "credspec:"].iter().any(|key| line.starts_with(key));
    if text.starts_with('<') {
        let fault = malformed("it begins with `<`: it is XML or HTML, not JSON");
        return fault.with_next("replace it by the CredSpec; a page like this can also come from a proxy in between");
    }
    if text.lines().take(5).any(is_yaml) {
        let fault = malformed("it is YAML, not JSON");
        return fault.with_next("store the JSON form: kubectl get gmsacredentialspec NAME -o json");
    }
    let line = error.line().checked_sub(1).and_then(|line| text.lines().nth(line)).unwrap_or_default();
    let before: String = line.chars().take(error.column()).collect();
    if let Some(quote) = line.chars().find(|c| "\u{201c}\u{201d}\u{201e}\u{ab}\u{bb}\u{2018}\u{2019}".contains(*c)) {
        let quote = u32::from(quote);
        let fault = malformed(format!("{reason}; the line holds a typographic quotation mark (U+{quote:04X})"));
        return fault.with_next(format!("replace the quotation marks in line {} by `\"`", error.line()));
    }
    if before.ends_with('/') || before.ends_with('#') {
        let fault = malformed(format!("{reason}; there is a comment, and JSON has none"));
        return fault.with_next(format!("remove the comment in line {}", error.line()));
    }
    malformed(reason).with_next(format!("correct line {}, column {} of the document", error.line(), error.column()))
}

/// The CredSpec in a `GMSACredentialSpec`, or in a list of one; else the document as it is.
fn of_kubernetes(mut document: Value) -> Result<Value, Fault> {
    let kind = field(&document, "kind").ok().flatten().and_then(Value::as_str).map(str::to_ascii_lowercase);
    match kind.as_deref() {
        Some("gmsacredentialspec") => match take(&mut document, "credspec") {
            Some(spec @ Value::Object(_)) => Ok(spec),
            _ => Err(malformed("it is a Kubernetes GMSACredentialSpec without the object `credspec`")),
        },
        Some("list" | "gmsacredentialspeclist") => match take(&mut document, "items") {
            Some(Value::Array(mut items)) if items.len() == 1 => of_kubernetes(items.remove(0)),
            _ => Err(malformed("it is a Kubernetes list, not one GMSACredentialSpec")
                .with_next("store one of them: kubectl get gmsacredentialspec NAME -o json")),
        },
        _ => Ok(document),
    }
}

fn take(object: &mut Value, name: &str) -> Option<Value> {
    let fields = object.as_object_mut()?;
    let key = fields.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone();
    fields.remove(&key)
}

/// A field of an object by its name without case; `None` if it is missing or null. The error names two that differ in
/// nothing but case.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Result<Option<&'a Value>, String> {
    let Some(fields) = value.as_object() else { return Ok(None) };
    let mut found = named(fields, name);
    let first = found.next();
    match found.next() {
        Some((second, _)) => Err(format!("it has both `{}` and `{second}`", first.map_or(name, |(key, _)| key))),
        None => Ok(first.map(|(_, value)| value).filter(|value| !value.is_null())),
    }
}

fn named<'a>(fields: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    fields.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name))
}

/// Where in a document a key stands, as `A.B[1].C`.
pub(super) fn places(value: &Value, name: &str) -> Vec<String> {
    fn walk(value: &Value, name: &str, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    if key.eq_ignore_ascii_case(name) {
                        found.push(path.clone());
                    }
                    walk(value, name, &path, found);
                }
            }
            Value::Array(values) => {
                for (place, value) in values.iter().enumerate() {
                    walk(value, name, &format!("{path}[{place}]"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, name, "", &mut found);
    found
}
