//! Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar.

pub mod arn;
pub mod aws;
pub mod clock;
pub mod credspec;
pub mod fault;
pub mod lease;
pub mod name;
pub mod secret;
pub mod task;
