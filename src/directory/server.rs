//! The two proofs that a server must give before its word counts: a ticket for the service name that only a domain
//! controller has, and a ticket for the gMSA that the password it told opens.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::directory::advice::Client;
use crate::directory::dc::Locator;
use crate::directory::error::{DirectoryError, FailureKind};
use crate::directory::gmsa;
use crate::directory::kdc::{Kdc, grant, off_thread};
use crate::directory::ldap::{LdapConnection, Plain};
use crate::directory::prove::prove;
use crate::directory::referral::{cross, no_way};
use crate::directory::refusal::TicketRefusal;
use crate::directory::session::{GmsaKeyProof, Proven};
use crate::fault::{Code, Fault};
use crate::kerberos::{self, ClientKey, Granted, KdcError, LdapTicket, Password};
use crate::login::Login;
use crate::login::lockout::Lockout;
use crate::name::{Account, Domain, Host};

/// A server that is to prove that it is a domain controller.
pub(crate) struct Server<'a> {
    /// As DNS or the configuration names it.
    pub(crate) host: &'a Host,
    /// Whose domain controller it should be.
    pub(crate) domain: &'a Domain,
    /// Who decides that.
    pub(crate) kdc: &'a Arc<Mutex<Kdc>>,
    /// Who knows the other names of hosts.
    pub(crate) locator: &'a Arc<Locator>,
    /// How often the login may be proven.
    pub(crate) lockout: &'a Arc<Lockout>,
}

impl Server<'_> {
    /// The login's ticket for the LDAP service of the server, and what was proven on the way.
    ///
    /// A KDC that does not know the host's name may know the one that the server has for itself: an alias and an
    /// address name no service. Whatever it says, the KDC decides who is a domain controller.
    pub(crate) async fn ticket(
        &self,
        login: &Arc<Login>,
        connection: &mut LdapConnection<Plain>,
    ) -> Result<(LdapTicket, Proven), TicketRefusal> {
        let name = self.locator.own_name(self.host);
        let refusal = match self.ticket_for(login, &name).await {
            Err(refusal) if refusal.code() == Some(KdcError::SERVICE_UNKNOWN) => refusal,
            outcome => return outcome,
        };
        self.locator.is_not_called(self.host, &name);
        let asked = timeout(gmsa::LDAP_DEADLINE, connection.netlogon(self.domain)).await;
        let Ok(Ok(Some(own))) = asked.map(|told| told.map(|told| told.host)) else { return Err(refusal) };
        if own == *self.host || own == name {
            return Err(refusal);
        }
        let proven = self.ticket_for(login, &own).await?;
        self.locator.is_called(self.host, &own);
        Ok(proven)
    }

    /// A login of the server's domain gets it straight away; one of another is proven to its own domain, which tells the
    /// way to this one.
    pub(super) async fn ticket_for(
        &self,
        login: &Arc<Login>,
        name: &Host,
    ) -> Result<(LdapTicket, Proven), TicketRefusal> {
        let service = kerberos::ldap_service(name, self.domain);
        if login.domain == *self.domain {
            let (ticket, key) = prove(login, None, &service, self.kdc, self.lockout).await?;
            return Ok((ticket.into_ldap_ticket(), Proven::Key(Arc::clone(login), key)));
        }
        let tgt = cross(login, self.domain, self.locator, self.lockout).await?;
        match grant(&mut *self.kdc.lock().await, &tgt, &service).await? {
            Granted::Ticket(ticket) => Ok((ticket.into_ldap_ticket(), Proven::Tgt(Arc::new(tgt)))),
            Granted::Referral(elsewhere, _) => {
                let why = format!("the KDC of `{}` refers to `{elsewhere}` for `{}`", self.domain, service.name());
                Err(no_way(login, self.domain).because(why).into())
            }
        }
    }

    /// What a refusal means here: a server whose service no KDC knows is not proven.
    pub(crate) fn refused<'a>(&self, refusal: &TicketRefusal, login: impl Into<Client<'a>>) -> DirectoryError {
        let Self { host, domain, .. } = self;
        if refusal.code() == Some(KdcError::NOT_UNIQUE) {
            let what = format!("the server `{host}` has not proven that it is a domain controller of `{domain}`");
            let why = format!("{refusal}: several accounts have the service name `ldap/{host}/{domain}`");
            let next = format!(
                "remove the service name from all accounts but the computer account of `{host}`: setspn -D \
                 ldap/{host}/{domain} ACCOUNT (setspn -Q ldap/{host}/{domain} lists the accounts)"
            );
            let fault = Fault::new(Code::GmsaServerUnproven, what).because(why).with_next(next);
            return DirectoryError::new(FailureKind::Unproven, fault);
        }
        if refusal.code() != Some(KdcError::SERVICE_UNKNOWN) {
            return refusal.of_login(login).into();
        }
        let what = format!("the server `{host}` has not proven that it is a domain controller of `{domain}`");
        let why = format!("{refusal}: no domain controller has the service name `ldap/{host}/{domain}`");
        let next = if self.locator.is_configured(domain) {
            format!(
                "correct GMSA_DOMAIN_CONTROLLERS: `{host}` is not the name of a domain controller; the names are listed by \
                 Get-ADDomainController -Filter * -Server {domain} | Select-Object HostName"
            )
        } else {
            format!(
                "find out who wrote the DNS record `_ldap._tcp.dc._msdcs.{domain}` that names `{host}`; until then name \
                 the domain controllers in GMSA_DOMAIN_CONTROLLERS"
            )
        };
        DirectoryError::new(
            FailureKind::Unproven,
            Fault::new(Code::GmsaServerUnproven, what).because(why).with_next(next),
        )
    }
}

/// A ticket of the login for the gMSA itself, from the KDC that the login's key has proven: nobody but that KDC and
/// whoever has the gMSA's key can make one that this key opens.
pub(crate) async fn witness(
    proven: &Proven,
    account: &Account,
    domain: &Domain,
    kdc: &Arc<Mutex<Kdc>>,
    lockout: &Arc<Lockout>,
) -> Result<GmsaKeyProof, DirectoryError> {
    let gmsa = kerberos::gmsa_principal(&account.sam_account_name(), domain);
    let (granted, login) = match proven {
        Proven::Key(login, key) => {
            let proven = prove(login, Some(key), &gmsa, kdc, lockout).await;
            (proven.map(|(ticket, _)| ticket), Client::from(&**login))
        }
        Proven::Tgt(tgt) => match grant(&mut *kdc.lock().await, tgt, &gmsa).await {
            Ok(Granted::Referral(elsewhere, _)) => {
                return Ok(GmsaKeyProof::None(format!("its KDC refers to `{elsewhere}` for it")));
            }
            Ok(Granted::Ticket(ticket)) => (Ok(ticket), Client::from(tgt.client())),
            Err(refusal) => (Err(refusal), Client::from(tgt.client())),
        },
    };
    match granted {
        Ok(ticket) => Ok(GmsaKeyProof::Ticket(Box::new(ticket))),
        Err(refusal) => match refusal.code() {
            Some(KdcError::SERVICE_UNKNOWN | KdcError::MUST_USE_USER2USER) => {
                Ok(GmsaKeyProof::None(refusal.to_string()))
            }
            _ => Err(refusal.of_login(login).into()),
        },
    }
}

/// The server told a password that is not the one the KDC has.
pub(crate) fn unproven(host: &Host, account: &Account, domain: &Domain) -> DirectoryError {
    let what = format!("the server `{host}` gave a managed password that the gMSA `{account}$` does not have");
    let why = format!("the KDC of `{domain}` that the login has proven seals tickets for the gMSA with another key");
    let next = format!(
        "check who `{host}` is: an account that holds the service name `ldap/{host}/{domain}` can answer as a domain \
         controller (setspn -Q ldap/{host}/{domain}); if it is one, check its replication (repadmin /showrepl {host})"
    );
    DirectoryError::new(FailureKind::Unproven, Fault::new(Code::GmsaServerUnproven, what).because(why).with_next(next))
}

/// Whether the password that LDAP told is the gMSA's.
pub(crate) enum Confirmed {
    /// It is: the KDC's ticket for the gMSA opens with it.
    Yes,
    /// It is not.
    No,
    /// The KDC gives no ticket that could tell, for this reason.
    Unknown(String),
}

impl Confirmed {
    /// Holds the witness against the key that a KDC has accepted for the gMSA, else against all passwords that were
    /// told.
    pub(crate) async fn by(
        witness: GmsaKeyProof,
        key: Option<&ClientKey>,
        passwords: Vec<Password>,
        salt: Vec<u8>,
    ) -> Self {
        let ticket = match witness {
            GmsaKeyProof::Ticket(ticket) => ticket,
            GmsaKeyProof::None(why) => return Self::Unknown(why),
        };
        if key.is_some_and(|key| ticket.is_sealed_with(key)) {
            return Self::Yes;
        }
        let salt = key.map_or(salt, |key| key.salt().to_vec());
        match off_thread(move || ticket.is_sealed_by(&passwords, &salt)).await {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(enctype) => {
                Self::Unknown(format!("the KDC seals tickets for it with {}", kerberos::enctype_name(enctype)))
            }
        }
    }
}
