//! Faults -> gRPC statuses. The ECS agent tries UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED and INTERNAL
//! three times and nothing else, and shows the text as the reason why the task stopped.

use std::fmt;

use tonic::{Code as Grpc, Status};

use crate::fault::{Code, Exit, Fault};

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A step failed.
    #[error("{0}")]
    Fault(Fault),
    /// The request cannot be meant.
    #[error("task-request-invalid: {0}")]
    Invalid(String),
    /// As many calls as there may be are under way, or as many leases as there may be exist.
    #[error("task-host-busy: {0}")]
    Busy(&'static str),
    /// There was no answer in time, and no step has failed yet.
    #[error("task-host-timeout: {0}")]
    Late(String),
    /// The process at the other end may not call.
    #[error("task-host-denied: {0}")]
    Denied(String),
    /// The caller has gone.
    #[error("the caller has gone")]
    Gone,
}

impl Refused {
    /// The request cannot be meant; the message says which part of it.
    pub fn invalid(what: impl fmt::Display) -> Self {
        Self::Invalid(what.to_string())
    }

    /// The code of the status.
    pub fn grpc(&self) -> Grpc {
        match self {
            Self::Fault(fault) => grpc(fault.code),
            Self::Invalid(_) => Grpc::InvalidArgument,
            Self::Busy(_) => Grpc::ResourceExhausted,
            Self::Late(_) => Grpc::Unavailable,
            Self::Denied(_) => Grpc::PermissionDenied,
            Self::Gone => Grpc::Cancelled,
        }
    }

    /// The text: the code first, one line, the cure, less than 1,024 bytes with what the agent puts before it.
    pub fn text(&self) -> String {
        let (code, what) = match self {
            Self::Fault(fault) => return told(fault),
            Self::Invalid(what) => (Code::TaskRequestInvalid, what.as_str()),
            Self::Busy(what) => (Code::TaskHostBusy, *what),
            Self::Late(what) => (Code::TaskHostTimeout, what.as_str()),
            Self::Denied(what) => (Code::TaskHostDenied, what.as_str()),
            Self::Gone => return "the caller has gone".to_owned(),
        };
        told(&Fault::new(code, what))
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        Self::new(refused.grpc(), refused.text())
    }
}

/// What a fault is to the agent: shall it try again?
fn grpc(code: Code) -> Grpc {
    match code {
        // The request, or what the agent read for it.
        Code::CredSpecMalformed
        | Code::CredSpecTooLarge
        | Code::CredSpecCredentialArnMissing
        | Code::SecretMalformed
        | Code::SecretKeyMissing
        | Code::SecretTooLarge
        | Code::TaskRequestInvalid
        | Code::ConfigAccountTwice => Grpc::InvalidArgument,
        Code::TaskHostBusy => Grpc::ResourceExhausted,
        // Each further try would bring the login nearer to its lock-out.
        Code::TicketLoginRefused
        | Code::TicketLoginUnknown
        | Code::TicketLoginRevoked
        | Code::TicketLoginDisabled
        | Code::TicketLoginLocked
        | Code::TicketLoginExpired
        | Code::TicketLoginMustChange
        | Code::TicketLoginRestricted
        | Code::TicketLoginPasswordExpired => Grpc::Unauthenticated,
        Code::TicketLoginHeld => Grpc::FailedPrecondition,
        Code::GmsaReadDenied | Code::GmsaBindRefused => Grpc::PermissionDenied,
        Code::GmsaNotFound
        | Code::DcSrvNotFound
        | Code::CredSpecNotFound
        | Code::SecretNotFound
        | Code::TicketServiceUnknown => Grpc::NotFound,
        Code::TicketClockSkew | Code::TicketGmsaRevoked | Code::GmsaBlobMalformed => Grpc::FailedPrecondition,
        // The directory has the gMSA, or its password, and the KDC not yet: replication.
        Code::TicketGmsaUnknown | Code::TicketGmsaRefused => Grpc::Unavailable,
        code => match code.exit() {
            Exit::Unavailable => Grpc::Unavailable,
            Exit::Denied => Grpc::PermissionDenied,
            Exit::Data | Exit::Config => Grpc::FailedPrecondition,
            Exit::CannotCreate | Exit::Software => Grpc::Internal,
        },
    }
}

fn told(fault: &Fault) -> String {
    let what = match &fault.why {
        Some(why) => format!("{}: {}: {why}", fault.code, fault.what),
        None => format!("{}: {}", fault.code, fault.what),
    };
    one_line(&what, fault.next())
}

/// The cure stays whole as long as it can: it is what the reader needs.
fn one_line(what: &str, next: &str) -> String {
    let plain = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let (what, next) = (plain(what), shortened(&plain(next), LIMIT / 2));
    let what = shortened(what.trim_end_matches('.'), LIMIT - next.len() - ". Next: ".len());
    format!("{what}. Next: {next}")
}

fn shortened(text: &str, limit: usize) -> String {
    const MORE: &str = "...";
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit.saturating_sub(MORE.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{MORE}", &text[..end])
}

/// The agent cuts the reason to 1,024 bytes with `rpc error: code = FailedPrecondition desc = ` and its own words
/// before it.
const LIMIT: usize = 900;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_the_status_of_the_table() {
        let mut table = String::new();
        for entry in Code::ALL {
            table += &format!("{}: {:?}\n", entry.name, grpc(entry.code));
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn no_refusal_of_a_login_is_tried_again() {
        let tried_again =
            [Grpc::Unavailable, Grpc::DeadlineExceeded, Grpc::ResourceExhausted, Grpc::Aborted, Grpc::Internal];
        for entry in Code::ALL.iter().filter(|entry| entry.name.starts_with("ticket-login-")) {
            assert!(!tried_again.contains(&grpc(entry.code)), "{}", entry.name);
        }
    }

    #[test]
    fn the_text_is_one_short_line_with_the_code_first_and_the_cure_last() {
        let fault = Fault::new(Code::TicketLoginRefused, "the KDC refused the login `svc`").because("wrong\npassword");
        let text = Refused::from(fault).text();
        assert!(
            text.starts_with("ticket-login-refused: the KDC refused the login `svc`: wrong password. Next: "),
            "{text}"
        );
        for length in [0, 10, 500, 900, 5000] {
            for entry in Code::ALL {
                let text =
                    Refused::from(Fault::new(entry.code, "é".repeat(length)).because("x\u{1b}\r".repeat(length)))
                        .text();
                assert!(text.len() <= LIMIT && text.starts_with(entry.name), "{}", text.len());
                assert!(!text.contains(char::is_control) && text.contains("Next: "), "{text}");
            }
        }
    }
}
