//! Whether the directory knows SQL Server's other name, which another driver asks for.

use tokio::time::Instant;

use super::{Checks, passed};
use crate::clock;
use crate::directory::{Connected, Directory, Renewal, twin};
use crate::fault::{Code, Fault};
use crate::name::Spn;

impl Checks<'_, '_> {
    /// A twin that is missing is a warning: `run` writes its ticket where there is one and goes without where not.
    pub(super) async fn twins(&mut self, directory: &Directory, via: &Connected, renewal: &Renewal, services: &[Spn]) {
        for twin in twin::of(services.iter()) {
            let subject = twin.to_string();
            self.screen.begin("service-ticket", &subject);
            let start = Instant::now();
            match directory.twin_ticket(&via.kdc, &renewal.ticket, &twin).await {
                Ok(granted) => {
                    let until = clock::rfc3339(granted.expires_at());
                    let seen = format!("the other name of a service also has a ticket until {until}; it is not kept");
                    self.show("service-ticket", &subject, passed((), seen), start.elapsed());
                }
                Err(refusal) => {
                    let fault = missing(&twin, refusal.of_service(&twin, renewal.ticket.client()));
                    self.warn("service-ticket", &subject, fault, start.elapsed());
                }
            }
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
