//! The whole binary against the lab: a real AD domain, S3, Secrets Manager and ECS over HTTP, real Kerberos clients.
//!
//! `scripts/test` starts the lab and runs these inside its network namespace; by hand: `lab/up --rodc`, then
//! `lab/run cargo nextest run --test lab`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test that cannot go on shall panic, and shares its helpers with all of itself"
)]

/// the other end of a security context
mod acceptor;

/// a ticket is always there, whatever breaks
mod always;

/// every step of the chain, told without writing a ticket
mod check;

/// a DC whose clock moves
mod clock;

/// real clients use the ticket
mod clients;

/// Microsoft's ODBC driver and MIT's library inside a driver
mod drivers;

/// the drivers that take longer to fetch or to run: scripts/full
mod drivers_full;

mod drivers_support;

/// every bad input has its fault and leaves nothing behind
mod faults;

/// the host daemon
mod host;

/// the ECS agent's stand-in
#[path = "../host/agent.rs"]
#[allow(dead_code, reason = "tests/host uses all of it")]
mod agent;

/// peers that want to mislead, to exhaust or to stop it
mod hostile;

/// a domain that has no IPv4 address
mod ipv6;

/// LDAP over TLS: whom it trusts, and what it is bound to
mod ldaps;

/// our end of a security context against MIT's
mod interop;

/// starting, renewing, stopping, starting again
mod life;

/// many gMSAs and several domains in one task
mod many;

/// what a running sidecar's memory holds
mod memory;

/// faults that only a broken network, DC or volume shows: the examples of docs/faults.md
mod examples;

/// from the log line alone, the exact mend
mod mends;
/// one controller, or one gMSA, that is refused: the others go on
mod refusals;

/// what the first ticket costs on the wire
mod round_trips;

/// service tickets, keytabs, other logins, other domains
mod tickets;

/// AD sites: the domain controllers that are near come first
mod sites;

/// domain controllers that drop packets or are far away
mod unreachable;

/// every place a CredSpec may come from
mod sources;

mod support;
