//! The lease: this task's duty to keep one gMSA's ticket fresh at one path.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::fault::Fault;
use crate::name::{Account, Host};

/// All that the sidecar knows of its work; published by `watch`, read by readiness.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Why the CredSpecs could not be found, while they could not.
    pub discovery: Option<Fault>,
    /// One entry a lease, in the order of the CredSpecs; a CredSpec not read yet is one entry without identity.
    pub leases: Vec<LeaseStatus>,
}

impl Status {
    /// At least one lease, and every lease holds what its app needs now.
    pub fn is_ready(&self, now: SystemTime) -> bool {
        !self.leases.is_empty() && self.leases.iter().all(|lease| lease.state.is_ready(now))
    }
}

/// One lease as others see it.
#[derive(Debug, Clone)]
pub struct LeaseStatus {
    /// Where the CredSpec comes from: an ARN, `file:///path`, or `inline`.
    pub spec: String,
    /// Whose ticket and where it lies; unknown until the CredSpec is read.
    pub identity: Option<Identity>,
    /// How things stand.
    pub state: LeaseState,
    /// When the next attempt is due.
    pub next_renewal_at: Option<SystemTime>,
    /// Attempts since the start, successful or not.
    pub attempts: u64,
}

/// Whose ticket a lease keeps, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The gMSA.
    pub account: Account,
    /// Its realm, upper case.
    pub realm: String,
    /// The ccache on the volume.
    pub path: PathBuf,
}

/// How a lease stands. Expiry is not a state of its own: it is [`Held::valid_at`] and the clock.
#[derive(Debug, Clone)]
pub enum LeaseState {
    /// No ticket yet; the fault of the last attempt, if there was one.
    Pending(Option<Fault>),
    /// A ticket is on the volume.
    Held(Held),
    /// A ticket is on the volume but its last renewal failed.
    Overdue(Held, Fault),
}

impl LeaseState {
    /// The ticket, if there is one.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Self::Pending(_) => None,
            Self::Held(held) | Self::Overdue(held, _) => Some(held),
        }
    }

    /// What is wrong now, if anything is.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Pending(fault) => fault.as_ref(),
            Self::Held(_) => None,
            Self::Overdue(_, fault) => Some(fault),
        }
    }

    /// Whether the app finds a valid ticket on the volume.
    pub fn is_ready(&self, now: SystemTime) -> bool {
        self.held().is_some_and(|held| held.valid_at(now))
    }
}

/// A ticket on the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// When it expires.
    pub expires_at: SystemTime,
    /// When it was got, or found on the volume at a warm start.
    pub renewed_at: SystemTime,
    /// The DC that issued it; unknown for one found on the volume.
    pub dc: Option<Host>,
    /// The version of the managed password it was got with, where the directory told.
    pub kvno: Option<u32>,
    /// How long getting it took.
    pub took: Option<Duration>,
}

impl Held {
    /// Whether the ticket is good at `now`.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        now < self.expires_at
    }
}
