//! `GmsaSidecar`: what a CredSpec asks for its accounts in addition.

use serde_json::Value;

use super::document::field;
use crate::name::Spn;
use crate::text::{items, plain};
use crate::volume::{Mode, Owner};

/// What the optional object `GmsaSidecar` of a CredSpec sets for its accounts. A variable that is set wins over it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `Owner`: `uid[:gid]` or `:gid`.
    pub owner: Option<Owner>,
    /// `Mode`, octal. One that lets everyone write is refused.
    pub mode: Option<Mode>,
    /// `Keytab`.
    pub keytab: Option<bool>,
    /// `ServiceTickets`: SPNs.
    pub service_tickets: Option<Vec<Spn>>,
}

impl Overrides {
    /// Reads the object; the error is a clause that names the field.
    pub(super) fn read(document: &Value) -> Result<Self, String> {
        let Some(object) = field(document, NAME)? else { return Ok(Self::default()) };
        let Some(fields) = object.as_object() else { return Err(format!("`{NAME}` is not an object")) };
        if let Some(unknown) = fields.keys().find(|key| !FIELDS.iter().any(|field| field.eq_ignore_ascii_case(key))) {
            return Err(format!("`{NAME}.{}` is not known; known are {}", plain(unknown, 60), FIELDS.join(", ")));
        }
        Ok(Self {
            owner: parsed(object, "Owner", |value| match value {
                Value::Number(uid) => uid.to_string().parse().map_err(str::to_owned),
                Value::String(owner) => Owner::or_group(owner).map_err(str::to_owned),
                _ => Err("an owner is a string like \"1654:1654\"".to_owned()),
            })?,
            mode: parsed(object, "Mode", |value| match value {
                Value::String(mode) => mode.parse().map_err(str::to_owned),
                _ => Err("a mode is an octal number in quotation marks, like \"0640\"".to_owned()),
            })?,
            keytab: parsed(object, "Keytab", |value| match value {
                Value::Bool(keytab) => Ok(*keytab),
                Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
                Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
                _ => Err("it is neither true nor false".to_owned()),
            })?,
            service_tickets: parsed(object, "ServiceTickets", services)?,
        })
    }
}

fn parsed<T>(object: &Value, name: &str, parse: impl Fn(&Value) -> Result<T, String>) -> Result<Option<T>, String> {
    let Some(value) = field(object, name)? else { return Ok(None) };
    parse(value).map(Some).map_err(|why| format!("`{NAME}.{name}`: {why}"))
}

/// An array of SPNs, or one text with several.
fn services(value: &Value) -> Result<Vec<Spn>, String> {
    let not_a_list = || "it is not a list of service principal names".to_owned();
    let words: Vec<&str> = match value {
        Value::Array(words) => {
            words.iter().map(|word| word.as_str().ok_or_else(not_a_list)).collect::<Result<_, _>>()?
        }
        Value::String(text) => items(text).collect(),
        _ => return Err(not_a_list()),
    };
    let mut spns: Vec<Spn> = Vec::new();
    for word in words {
        let spn: Spn = word.parse().map_err(|error: crate::name::NameError| error.to_string())?;
        if !spns.iter().any(|known| known.same_as(&spn.to_string())) {
            spns.push(spn);
        }
    }
    // As many as GMSA_SERVICE_TICKETS takes: clients read the whole cache each time.
    if spns.len() > 32 { Err(format!("{} services are more than 32", spns.len())) } else { Ok(spns) }
}

const NAME: &str = "GmsaSidecar";
const FIELDS: &[&str] = &["Owner", "Mode", "Keytab", "ServiceTickets"];
