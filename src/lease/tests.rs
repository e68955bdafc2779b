//! Leases over fakes.
