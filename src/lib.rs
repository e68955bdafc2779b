//! Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar.

pub mod clock;
pub mod dc;
pub mod fault;
pub mod gmsa;
pub mod kerberos;
pub mod ldap;
pub mod lease;
pub mod name;
