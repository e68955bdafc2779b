//! The commands that look and change nothing.

/// every step of the chain, tried once
pub mod check;

/// the question of a container health check
pub mod health;

/// what is in the caches on the volume
pub mod klist;

/// the page of a fault code
pub mod explain;
