//! Whether the directory knows SQL Server's other name, which another driver asks for.

use tokio::time::Instant;

use super::{Outcome, Session, Step, Walk};
use crate::clock;
use crate::directory::twin;
use crate::fault::{Code, Fault};
use crate::kerberos::GmsaTgt;
use crate::name::{Domain, Spn};

impl Walk<'_> {
    /// A twin that is missing is a warning: `run` writes its ticket where there is one and goes without where not.
    pub(super) async fn twins(&mut self, domain: &Domain, ticket: &GmsaTgt, services: &[Spn], session: &Session) {
        for twin in twin::of(services.iter()) {
            let subject = twin.to_string();
            self.screen.begin("service-ticket", &subject);
            let start = Instant::now();
            let outcome = match twin::ask(&session.kdc, ticket, &twin, domain, &session.locator).await {
                Ok(granted) => {
                    let until = clock::rfc3339(granted.expires_at());
                    Outcome::Passed(format!(
                        "the other name of a service also has a ticket until {until}; it is not kept"
                    ))
                }
                Err(refusal) => Outcome::Warned(missing(&twin, refusal.of_service(&twin, ticket.client()))),
            };
            self.show(Step { name: "service-ticket", subject, outcome, took: start.elapsed() });
        }
    }
}

/// An SPN that the KDC does not know is described as the twin that is missing; other faults say what they are.
fn missing(twin: &Spn, fault: Fault) -> Fault {
    if fault.code != Code::TicketServiceUnknown {
        return fault;
    }
    let named = twin.twin().map_or_else(String::new, |named| named.to_string());
    let drivers = if twin.to_string().contains(':') { "ODBC, JDBC, Go and FreeTDS" } else { "SqlClient" };
    Fault::new(fault.code, format!("The KDC does not know the SPN `{twin}`, the other name of `{named}`"))
        .because(format!("{drivers} ask for `{twin}` when they connect to this SQL Server"))
        .with_next(format!(
            "if the app uses such a driver, register the SPN for the account of `{named}`: setspn -S {twin} ACCOUNT"
        ))
}
