//! What answers from outside while the sidecar works.

/// connections, whatever the neighbours do
mod http;

/// `/health`, `/ready`, `/gate`, `/leases`, `/metrics` and the status page
pub mod readiness;
