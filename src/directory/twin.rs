//! SQL Server's other name: drivers differ in which of the two they ask for, so the cache gets tickets for both.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Directory;
use super::kdc::{Kdc, KdcChoice, grant_by};
use super::referral::follow_by;
use super::refusal::TicketRefusal;
use crate::fault::{Code, Fault};
use crate::kerberos::{self, GmsaTgt, KdcError, ServiceTicket};
use crate::name::Spn;

impl Directory {
    /// The tickets for the twins of the services that were asked for. A twin is good to have and nobody's duty: one KDC is
    /// asked, a refusal is no fault, and it is not asked for again for a day.
    pub(super) async fn twins(
        &self,
        kdc: &Mutex<Kdc>,
        tgt: &GmsaTgt,
        named: &[(Spn, Result<ServiceTicket, Fault>)],
    ) -> Vec<(Spn, Option<ServiceTicket>)> {
        let mut twins = Vec::new();
        // A KDC that hangs costs its deadline once.
        let mut silent = named.iter().any(|(_, granted)| is_silence(granted));
        for twin in of(named.iter().map(|(spn, _)| spn)) {
            let known = self.no_twins.lock().unwrap_or_else(PoisonError::into_inner).has(&twin, Instant::now());
            let ticket = if silent || known {
                None
            } else {
                match self.twin_ticket(kdc, tgt, &twin).await {
                    Ok(ticket) => Some(ticket),
                    Err(refusal) => {
                        silent =
                            matches!(&refusal, TicketRefusal::Unreachable(fault) if fault.code == Code::DcUnreachable);
                        if refusal.code().is_some_and(|code| code != KdcError::SERVICE_UNAVAILABLE) {
                            self.tell_no_twin(&twin);
                        }
                        None
                    }
                }
            };
            twins.push((twin, ticket));
        }
        twins
    }

    /// Asks one KDC for a ticket for a twin; where that refers to another domain, one of each domain on the way.
    pub(crate) async fn twin_ticket(
        &self,
        kdc: &Mutex<Kdc>,
        tgt: &GmsaTgt,
        twin: &Spn,
    ) -> Result<ServiceTicket, TicketRefusal> {
        let service = kerberos::service(twin, &self.domain);
        let granted = grant_by(&mut *kdc.lock().await, tgt.as_ticket(), &service, KdcChoice::One).await;
        follow_by(granted, twin, &self.domain, &self.locator, KdcChoice::One).await
    }

    fn tell_no_twin(&self, twin: &Spn) {
        self.no_twins.lock().unwrap_or_else(PoisonError::into_inner).add(twin.clone(), Instant::now());
        let service = twin.to_string();
        tracing::info!(event = "ticket.no-twin", service, "no ticket for SQL Server's other name");
    }
}

/// The twins of services that are not among them, each once.
pub(crate) fn of<'a>(services: impl Iterator<Item = &'a Spn> + Clone) -> Vec<Spn> {
    let mut twins: Vec<Spn> = Vec::new();
    for twin in services.clone().filter_map(Spn::twin) {
        let name = twin.to_string();
        if !services.clone().any(|known| known.same_as(&name)) && !twins.iter().any(|known| known.same_as(&name)) {
            twins.push(twin);
        }
    }
    twins
}

fn is_silence(granted: &Result<ServiceTicket, Fault>) -> bool {
    matches!(granted, Err(fault) if fault.code == Code::DcUnreachable)
}

/// The twins that a KDC did not know, and when.
#[derive(Default)]
pub(super) struct NoTwins(HashMap<Spn, Instant>);

impl NoTwins {
    fn has(&self, twin: &Spn, now: Instant) -> bool {
        self.0.get(twin).is_some_and(|asked| now < *asked + A_DAY)
    }

    fn add(&mut self, twin: Spn, now: Instant) {
        // Those of settings that have changed since.
        self.0.retain(|_, asked| now < *asked + A_DAY);
        self.0.insert(twin, now);
    }
}

const A_DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_those_that_nobody_named_each_once() {
        let twins = |services: &[&str]| {
            let services: Vec<Spn> = services.iter().map(|spn| spn.parse().unwrap()).collect();
            of(services.iter()).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(twins(&["MSSQLSvc/db.example.com", "HTTP/db.example.com"]), ["MSSQLSvc/db.example.com:1433"]);
        assert_eq!(twins(&["MSSQLSvc/db.example.com:1433"]), ["MSSQLSvc/db.example.com"]);
        assert_eq!(twins(&["MSSQLSvc/db.example.com", "mssqlsvc/DB.example.com:1433"]), [""; 0]);
        assert_eq!(twins(&["MSSQLSvc/a.x", "mssqlsvc/A.x"]), ["MSSQLSvc/a.x:1433"]);
        assert_eq!(twins(&["MSSQLSvc/db.example.com:14330", "HTTP/db.example.com"]), [""; 0]);
    }

    #[test]
    fn a_no_is_kept_for_a_day() {
        let (mut known, now) = (NoTwins::default(), Instant::now());
        let twin: Spn = "MSSQLSvc/db.example.com".parse().unwrap();
        assert!(!known.has(&twin, now));
        known.add(twin.clone(), now);
        assert!(known.has(&twin, now + Duration::from_secs(86_399)));
        assert!(!known.has(&twin, now + A_DAY));
        known.add("MSSQLSvc/other.example.com".parse().unwrap(), now + A_DAY);
        assert_eq!(known.0.len(), 1, "what is old is kept for ever");
    }
}
