//! The whole binary against the lab: a real AD domain, S3, Secrets Manager and ECS over HTTP, real Kerberos clients.
//!
//! `scripts/test` starts the lab and runs these inside its network namespace; by hand: `lab/up`, then
//! `lab/run cargo nextest run --test lab`.

mod clients;
mod support;
