//! Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar.
//!
//! The modules in the order of the data. Each imports only what stands below it, but for `fault` and the small modules
//! at the end, which all of them use.

/// wires one process: what `run`, `init` and `host` do
pub mod sidecar;

/// the commands that look: check, klist, health, explain
pub mod command;

/// the ECS agent's socket -> leases of a whole host
pub mod host;

/// the state of the leases -> HTTP
pub mod serve;

/// one gMSA's ticket, kept fresh
pub mod lease;

/// one domain with one login -> the managed password and a ticket, by way of DNS, KDC and sealed LDAP
pub mod directory;

/// Secrets Manager, a keytab -> the login
pub mod login;

/// the ECS task, S3, SSM, a file, inline -> the CredSpec: which gMSAs, which login
pub mod credspec;

/// files on the shared volume
pub mod volume;

/// names, keys, exchanges, tickets; it knows no domain controller and no volume
pub mod kerberos;

/// the AWS client: settings, endpoints, failures
pub mod aws;

// What these stand on:

pub mod clock;
pub mod config;
pub mod entropy;
pub mod fault;
mod file;
pub mod log;
pub mod name;
pub mod progress;
mod text;
pub mod trust;

pub use aws::arn;
pub use credspec::task;
pub use login::secret;
pub use sidecar::{host as host_daemon, init, run};
