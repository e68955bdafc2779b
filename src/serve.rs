//! What answers from outside while the sidecar works.

/// `/health`, `/ready`, `/gate`, `/leases`, `/metrics` and the status page
pub mod readiness;
