//! Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar.

pub mod clock;
pub mod fault;
pub mod health;
pub mod lease;
pub mod log;
pub mod metrics;
pub mod name;
pub mod readiness;
pub mod refresh;
