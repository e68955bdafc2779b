//! What the steps of a renewal fail on: a kind, which decides what is tried next, and the fault that people read.

use std::fmt;

use crate::fault::Fault;

/// A step failed.
#[derive(Debug, Clone)]
pub struct DirectoryError {
    /// What decides how it goes on.
    pub kind: FailureKind,
    /// What people read.
    pub fault: Box<Fault>,
}

/// How it goes on after a failed step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The connection broke or hangs, or the server says that it cannot serve now: another connection may do.
    Lost,
    /// The server is not proven to be a domain controller, or told a password that no KDC knows: another one may be.
    Unproven,
    /// The server refused the bind.
    BindRefused,
    /// The server does not know the account; it may not have replicated to it yet.
    NotFound,
    /// The server shows the account without its password.
    NoPassword,
    /// The server refused the search.
    SearchRefused,
    /// Nothing here goes on after it.
    Final,
}

impl DirectoryError {
    /// A step failed in this way.
    pub fn new(kind: FailureKind, fault: Fault) -> Self {
        Self { kind, fault: Box::new(fault) }
    }
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for DirectoryError {}

impl From<Fault> for DirectoryError {
    fn from(fault: Fault) -> Self {
        Self::new(FailureKind::Final, fault)
    }
}

impl From<DirectoryError> for Fault {
    fn from(error: DirectoryError) -> Self {
        *error.fault
    }
}
