//! The JSON that `/ready`, `/gate` and `/leases` answer with. Fields are only ever added; unknown is null.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::clock;
use crate::fault::Fault;
use crate::lease::status::{self, LeaseState, LeaseStatus};
use crate::progress;

/// `/ready` and `/gate`.
#[derive(Serialize)]
pub(super) struct ReadyReport<'a> {
    ready: bool,
    /// Of the discovery.
    fault: Option<&'a Fault>,
    pub(super) leases: Vec<LeaseReport<'a>>,
    waiting: Vec<progress::Wait>,
}

impl<'a> ReadyReport<'a> {
    /// In full, or without what names logins and where they come from: ARNs, faults.
    pub(super) fn new(status: &'a status::Status, now: SystemTime, in_full: bool) -> Self {
        let shown =
            |lease: LeaseReport<'a>| if in_full { lease } else { LeaseReport { spec: None, fault: None, ..lease } };
        let leases = status.leases.iter().map(|lease| shown(LeaseReport::new(lease, now))).collect();
        let fault = status.discovery.as_ref().filter(|_| in_full);
        let waiting = if in_full { progress::steps() } else { Vec::new() };
        Self { ready: status.is_ready(now), fault, leases, waiting }
    }
}

/// `/leases`.
#[derive(Serialize)]
pub(super) struct Details<'a> {
    pub(super) ready: bool,
    pub(super) fault: Option<&'a Fault>,
    pub(super) leases: Vec<Detail<'a>>,
    pub(super) waiting: Vec<progress::Wait>,
}

impl<'a> Details<'a> {
    pub(super) fn new(status: &'a status::Status, now: SystemTime) -> Self {
        let leases = status.leases.iter().map(|lease| Detail::new(lease, now)).collect();
        Self { ready: status.is_ready(now), fault: status.discovery.as_ref(), leases, waiting: progress::steps() }
    }
}

/// One lease.
#[derive(Serialize)]
pub(super) struct LeaseReport<'a> {
    pub(super) spec: Option<&'a str>,
    pub(super) account: Option<&'a str>,
    pub(super) realm: Option<String>,
    pub(super) path: Option<Cow<'a, str>>,
    pub(super) state: &'static str,
    pub(super) expires_at: Option<String>,
    pub(super) next_renewal_at: Option<String>,
    pub(super) fault: Option<&'a Fault>,
}

impl<'a> LeaseReport<'a> {
    fn new(lease: &'a LeaseStatus, now: SystemTime) -> Self {
        let identity = lease.identity.as_ref();
        Self {
            spec: Some(&lease.spec),
            account: identity.map(|identity| identity.account.as_str()),
            realm: identity.map(|identity| identity.domain.realm()),
            path: identity.map(|identity| identity.path.to_string_lossy()),
            state: state(&lease.state, now),
            expires_at: lease.state.held().map(|held| clock::rfc3339(held.expires_at)),
            next_renewal_at: lease.next_renewal_at.map(clock::rfc3339),
            fault: lease.state.fault(),
        }
    }
}

/// One lease and how its last ticket was got.
#[derive(Serialize)]
pub(super) struct Detail<'a> {
    #[serde(flatten)]
    pub(super) lease: LeaseReport<'a>,
    pub(super) dc: Option<&'a str>,
    pub(super) last_success_at: Option<String>,
    pub(super) attempts: u64,
    pub(super) kvno: Option<u32>,
    /// The services whose tickets are wanted.
    pub(super) service_tickets: Vec<ServiceTicketReport>,
    pub(super) took: Option<String>,
    /// How far the KDC's clock is ahead of ours.
    pub(super) clock_offset_seconds: Option<i64>,
    /// The last attempts, the latest first.
    pub(super) history: Vec<AttemptReport<'a>>,
    /// How much of the ticket's life is left, and its whole life.
    #[serde(skip)]
    pub(super) life: Option<(Duration, Duration)>,
}

/// A service whose ticket is wanted; without an end there is none.
#[derive(Serialize)]
pub(super) struct ServiceTicketReport {
    pub(super) service: String,
    pub(super) expires_at: Option<String>,
}

impl ServiceTicketReport {
    fn new(service: &status::ServiceHeld) -> Self {
        Self { service: service.spn.to_string(), expires_at: service.expires_at.map(clock::rfc3339) }
    }
}

/// One attempt to renew.
#[derive(Serialize)]
pub(super) struct AttemptReport<'a> {
    pub(super) at: String,
    pub(super) took: String,
    pub(super) dc: Option<&'a str>,
    /// Of the fault.
    pub(super) code: Option<&'static str>,
}

impl<'a> AttemptReport<'a> {
    fn new(attempt: &'a status::Attempt) -> Self {
        Self {
            at: clock::rfc3339(attempt.at),
            took: rounded(attempt.took),
            dc: attempt.outcome.as_ref().ok().and_then(|dc| dc.as_ref()).map(|dc| dc.as_str()),
            code: attempt.outcome.as_ref().err().map(|code| code.name()),
        }
    }
}

impl<'a> Detail<'a> {
    fn new(lease: &'a LeaseStatus, now: SystemTime) -> Self {
        let held = lease.state.held();
        Self {
            lease: LeaseReport::new(lease, now),
            dc: held.and_then(|held| held.dc.as_ref()).map(|dc| dc.as_str()),
            last_success_at: held.map(|held| clock::rfc3339(held.renewed_at)),
            attempts: lease.attempts,
            kvno: held.and_then(|held| held.kvno),
            service_tickets: held.map_or(&[][..], |held| &held.services).iter().map(ServiceTicketReport::new).collect(),
            took: held.and_then(|held| held.took).map(rounded),
            clock_offset_seconds: held.and_then(|held| held.clock_offset),
            history: lease.history.iter().map(AttemptReport::new).collect(),
            life: held.map(|held| {
                let span = |from: SystemTime| held.expires_at.duration_since(from).unwrap_or_default();
                (span(now), span(held.renewed_at))
            }),
        }
    }
}

/// A ticket that is not valid any more is `expired`, whether its renewal failed or was slept through. One for a service
/// that was never got keeps the lease `pending`.
fn state(state: &LeaseState, now: SystemTime) -> &'static str {
    match state {
        LeaseState::Pending(_) => "pending",
        LeaseState::Held(held) | LeaseState::Overdue(held, _)
            if held.valid_at(now) && held.services.iter().any(|service| service.expires_at.is_none()) =>
        {
            "pending"
        }
        _ if !state.is_ready(now) => "expired",
        LeaseState::Held(_) => "held",
        LeaseState::Overdue(..) => "overdue",
    }
}

/// To the millisecond: `1s 250ms`.
fn rounded(took: Duration) -> String {
    humantime::format_duration(Duration::from_secs_f64((took.as_secs_f64() * 1e3).round() / 1e3)).to_string()
}
