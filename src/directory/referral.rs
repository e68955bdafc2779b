//! The way from one domain to another, by the referrals of their KDCs.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::directory::dc::Locator;
use crate::directory::kdc::{Kdc, KdcChoice, grant, grant_by};
use crate::directory::prove::prove;
use crate::directory::refusal::TicketRefusal;
use crate::fault::{Code, Fault};
use crate::kerberos::{self, Granted, ServiceTicket, Ticket};
use crate::login::Login;
use crate::login::lockout::Lockout;
use crate::name::{Domain, Host, Spn};

/// The login's TGT for another domain, by way of the domains between (RFC 4120 section 1.2): each KDC gives a ticket for
/// that domain, or for one that is nearer.
pub(super) async fn cross(
    login: &Arc<Login>,
    to: &Domain,
    locator: &Arc<Locator>,
    lockout: &Arc<Lockout>,
) -> Result<Ticket, TicketRefusal> {
    let connect = |hosts: &[Host]| Arc::new(Mutex::new(Kdc::new(Arc::clone(locator), hosts)));
    let located = locator.locate(&login.domain).await.map_err(|fault| of_login_domain(fault, login, to));
    let mut kdc = connect(&located?);
    let own = kerberos::ticket_granting_service(&login.domain);
    let (mut tgt, _) = prove(login, None, &own, &kdc, lockout).await?;
    let mut way = vec![login.domain.clone()];
    loop {
        let from = &way[way.len() - 1];
        let granted = match grant(&mut *kdc.lock().await, &tgt, &kerberos::cross_realm_service(from, to)).await {
            Err(refusal) if refusal.is_unknown_name() => {
                return Err(no_way(login, to).because(format!("{refusal}: `{from}` does not know `{to}`")).into());
            }
            outcome => outcome?,
        };
        let next = match granted {
            Granted::Ticket(ticket) => return Ok(ticket),
            Granted::Referral(next, ticket) => {
                tgt = ticket;
                next
            }
        };
        if way.contains(&next) || way.len() > REFERRALS {
            let way: Vec<_> = way.iter().chain([&next]).map(Domain::realm).collect();
            return Err(no_way(login, to).because(format!("the KDCs refer in a circle: {}", way.join(" -> "))).into());
        }
        kdc = connect(&locator.locate(&next).await?);
        way.push(next);
    }
}

pub(super) fn no_way(login: &Login, to: &Domain) -> Fault {
    let what = format!("the login `{}` has no way to the gMSA's domain `{to}`", login.principal);
    let user = login.principal.components.join("/");
    let next = format!(
        "if `{user}` is an account of `{to}`, set {} to `{to}`: {}; otherwise let `{to}` trust `{}` (Get-ADTrust -Filter \
         * -Server {to})",
        login.origin.domain_field(),
        login.origin.store(&user, to),
        login.domain,
    );
    Fault::new(Code::TicketTrust, what).with_next(next)
}

/// The login's domain is not found in DNS: where its name is written, which differs from the gMSA's.
fn of_login_domain(fault: Fault, login: &Login, to: &Domain) -> Fault {
    let Login { domain, origin, principal, .. } = login;
    let field = origin.domain_field();
    let why = fault.why.clone().unwrap_or_default();
    let missing = fault.code == Code::DcSrvNotFound;
    let fault = fault.because(format!("{why}; the login's domain `{domain}` comes from {field}"));
    if !missing {
        return fault;
    }
    let user = principal.components.join("/");
    fault.owned_by(origin.owner()).with_next(format!(
        "correct {field}: if `{user}` is an account of `{to}`, run {}; if the login's domain really is `{domain}`, \
         forward that name to its DNS servers",
        origin.store(&user, to)
    ))
}

/// Goes on from what a KDC of `domain` gave for a service to whichever domain it refers to (RFC 6806 section 8).
pub(crate) async fn follow(
    granted: Result<Granted, TicketRefusal>,
    spn: &Spn,
    domain: &Domain,
    locator: &Arc<Locator>,
) -> Result<ServiceTicket, TicketRefusal> {
    follow_by(granted, spn, domain, locator, KdcChoice::Any).await
}

/// The same with these KDCs of each domain.
pub(super) async fn follow_by(
    mut granted: Result<Granted, TicketRefusal>,
    spn: &Spn,
    domain: &Domain,
    locator: &Arc<Locator>,
    whom: KdcChoice,
) -> Result<ServiceTicket, TicketRefusal> {
    let mut seen = vec![domain.clone()];
    loop {
        let (domain, tgt) = match granted? {
            Granted::Ticket(ticket) => return Ok(ticket.into_service_ticket(spn.clone())),
            Granted::Referral(domain, tgt) => (domain, tgt),
        };
        if seen.contains(&domain) || seen.len() > REFERRALS {
            let way: Vec<_> = seen.iter().chain([&domain]).map(Domain::realm).collect();
            let what = format!("the KDCs refer to each other for the service `{spn}`");
            return Err(Fault::new(Code::TicketServiceUnknown, what).because(way.join(" -> ")).into());
        }
        let mut kdc = Kdc::new(Arc::clone(locator), &locator.locate(&domain).await?);
        granted = grant_by(&mut kdc, &tgt, &kerberos::service(spn, &domain), whom).await;
        seen.push(domain);
    }
}

/// How many domains a service is looked for in: forests are rarely deeper than three.
const REFERRALS: usize = 8;
