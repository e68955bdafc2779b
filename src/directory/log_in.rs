//! The login's proof to a KDC, and the sealed session that it opens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::error::{DirectoryError, FailureKind};
use super::kdc::Kdc;
use super::refusal::TicketRefusal;
use super::server::{Server, witness};
use super::session::{Proven, Session};
use super::{Connected, Directory, gmsa};
use crate::clock;
use crate::directory::dc::{DcService, peers};
use crate::directory::ldap::{LdapConnection, Plain};
use crate::fault::{Code, Fault};
use crate::kerberos::LdapTicket;
use crate::login::Login;
use crate::login::lockout::AccountKey;
use crate::name::{Account, Host};
use crate::progress;

/// How many servers may refuse a bind before that is the answer.
const BINDS: u32 = 4;
/// A pending version of a secret that is older belongs to no rotation that is under way.
const PENDING: Duration = Duration::from_secs(3600);

impl Directory {
    /// The session in use, or a new one. Whoever opens it holds the lock, so leases that start together log in once.
    pub(crate) async fn session(
        &self,
        controllers: &[Host],
        kdc: &Arc<Mutex<Kdc>>,
        account: &Account,
    ) -> Result<Arc<Session>, DirectoryError> {
        let mut shared = self.session.lock().await;
        if let Some(session) = shared.upgrade() {
            return Ok(session);
        }
        let session = Arc::new(self.log_in(controllers, kdc, account).await?);
        *shared = Arc::downgrade(&session);
        Ok(session)
    }

    /// Proves the login to a KDC, and asks nothing else of the domain: for those who cannot reach its LDAP.
    pub(crate) async fn prove_login(&self, host: &Host, via: &Connected) -> Result<(), DirectoryError> {
        let login = Arc::new(self.logins.current(&self.login, &self.domain).await?);
        via.kdc.lock().await.connect().await?;
        let (kdc, locator, lockout) = (&via.kdc, &self.locator, &self.lockout);
        let server = Server { host, domain: &self.domain, kdc, locator, lockout };
        let proven = server.ticket_for(&login, &self.locator.own_name(host)).await;
        proven.map(|_| ()).map_err(|refusal| server.refused(&refusal, &*login))
    }

    /// Proves the login, and binds to LDAP on the first of the hosts that serves, to read the password of `account`.
    pub(super) async fn log_in(
        &self,
        hosts: &[Host],
        kdc: &Arc<Mutex<Kdc>>,
        account: &Account,
    ) -> Result<Session, DirectoryError> {
        // All at the same time; of several faults the earliest step's is told.
        let (login, connected, reached) = tokio::join!(
            self.logins.current(&self.login, &self.domain),
            async { kdc.lock().await.connect().await },
            self.connect(hosts)
        );
        let (connected, reached) = {
            let kdc = kdc.lock().await;
            with_other_port(connected, kdc.host(), reached, self.ldap.service())
        };
        let (login, (), (mut host, mut connection)) = (Arc::new(login?), connected?, reached?);
        let mut left = hosts.to_vec();
        let mut refused = 0;
        loop {
            left.retain(|other| *other != host);
            let error = match self.bind(&login, &host, connection, kdc, account).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            refused += u32::from(error.kind == FailureKind::BindRefused);
            if error.kind == FailureKind::Final || refused == BINDS || left.is_empty() {
                return Err(error);
            }
            self.locator.in_trouble(&host, self.ldap.service(), &error.fault);
            let Ok(next) = self.connect(&left).await else { return Err(error) };
            (host, connection) = next;
        }
    }

    /// Connects to the LDAP service of the first of the hosts that serves. One whose certificate is not good is as bad as
    /// one that is down.
    async fn connect(&self, hosts: &[Host]) -> Result<(Host, LdapConnection<Plain>), Fault> {
        let mut left = hosts.to_vec();
        let mut first = None;
        while !left.is_empty() {
            let (host, stream) = match self.locator.connect(&left, self.ldap.service()).await {
                Ok(reached) => reached,
                Err(fault) => return Err(first.unwrap_or(fault)),
            };
            match self.ldap.open(stream, &host).await {
                Ok(connection) => return Ok((host, connection)),
                Err(fault) => {
                    self.locator.in_trouble(&host, self.ldap.service(), &fault);
                    left.retain(|other| *other != host);
                    first = first.or(Some(fault));
                }
            }
        }
        Err(first.unwrap_or_else(|| Fault::new(Code::DcUnreachable, "there is no domain controller to ask")))
    }

    /// Binds to LDAP on this host, while the KDC is asked for the first witness.
    async fn bind(
        &self,
        login: &Arc<Login>,
        host: &Host,
        mut connection: LdapConnection<Plain>,
        kdc: &Arc<Mutex<Kdc>>,
        account: &Account,
    ) -> Result<Session, DirectoryError> {
        let healthy = !self.locator.is_troubled(host, self.ldap.service());
        let (ticket, proven) = self.login_ticket(login, host, kdc, &mut connection).await?;
        if healthy && self.locator.is_troubled(host, self.ldap.service()) {
            let what = format!("the domain controller `{host}` hangs");
            let fault = Fault::new(Code::GmsaConnectionLost, what).because("its KDC gave no answer");
            return Err(DirectoryError::new(FailureKind::Lost, fault));
        }
        let name = login.principal.to_string();
        let peer = peers(std::slice::from_ref(host), self.ldap.service().port());
        let (ldap, witness) = tokio::join!(
            progress::during("gmsa", peer, gmsa::LDAP_DEADLINE, gmsa::bind(connection, &ticket, host, &name)),
            witness(&proven, account, &self.domain, kdc, &self.lockout)
        );
        if ldap.is_err() {
            self.locator.is_not_called(host, &self.locator.own_name(host));
        }
        let session = Session::new(host.clone(), name, proven, ldap?);
        session.keep_witness(account, witness?);
        Ok(session)
    }

    /// The login's ticket for `ldap/<host>/<domain>`. While a rotation of the secret is under way AD may have the pending
    /// password already, so that one is tried once where the current one is refused.
    async fn login_ticket(
        &self,
        login: &Arc<Login>,
        host: &Host,
        kdc: &Arc<Mutex<Kdc>>,
        connection: &mut LdapConnection<Plain>,
    ) -> Result<(LdapTicket, Proven), DirectoryError> {
        let server = Server { host, domain: &self.domain, kdc, locator: &self.locator, lockout: &self.lockout };
        let refusal = match server.ticket(login, connection).await {
            Ok(proven) => return Ok(proven),
            Err(refusal) => refusal,
        };
        let known = self.lockout.has_succeeded(&AccountKey::name(&login.principal.to_string()));
        let refused = || Err(server.refused(&refusal, &**login));
        if !known || !(refusal.is_wrong_password() || matches!(refusal, TicketRefusal::Held(_))) {
            return refused();
        }
        let Some(pending) = self.logins.pending(&self.login, &self.domain).await else { return refused() };
        let now = clock::now();
        let young = pending.created_at.is_some_and(|made| now.duration_since(made).is_ok_and(|age| age < PENDING));
        if !young || pending.version == login.version || pending.principal != login.principal {
            return refused();
        }
        let Ok(proven) = server.ticket(&Arc::new(pending), connection).await else { return refused() };
        tracing::info!(event = "secret.pending-used", "AD has the pending password of the secret already");
        Ok(proven)
    }
}

/// Of one closed port: that the other one works is what tells a closed port from a host that is down or wrong.
fn with_other_port<T>(
    kdc: Result<(), Fault>,
    kdc_host: Option<&Host>,
    ldap: Result<(Host, T), Fault>,
    service: DcService,
) -> (Result<(), Fault>, Result<(Host, T), Fault>) {
    match (kdc, ldap) {
        (Err(fault), Ok((host, open))) => {
            (Err(other_works(fault, DcService::Kdc.port(), &host, service.port())), Ok((host, open)))
        }
        (Ok(()), Err(fault)) => match kdc_host {
            Some(host) => (Ok(()), Err(other_works(fault, service.port(), host, DcService::Kdc.port()))),
            None => (Ok(()), Err(fault)),
        },
        both => both,
    }
}

fn other_works(fault: Fault, closed: u16, host: &Host, open: u16) -> Fault {
    if fault.code != Code::DcUnreachable {
        return fault;
    }
    let why = fault.why.clone().unwrap_or_default();
    let fault = fault.because(format!("{why}; TCP port {open} of `{host}` works"));
    // It is the right host: its name is not what is wrong.
    if fault.what.contains(&format!("`{host}`")) && fault.next().contains("GMSA_DOMAIN_CONTROLLERS") {
        let next = format!("start the service on `{host}`: nothing listens on its TCP port {closed}");
        return Fault { owner: None, ..fault.with_next(next) };
    }
    fault
}
