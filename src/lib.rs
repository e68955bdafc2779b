//! Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar.

pub mod clock;
pub mod fault;
pub mod klist;
pub mod lease;
pub mod name;
pub mod volume;
