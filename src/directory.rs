//! One domain with one login: what its leases share.
//!
//! Leases that renew at the same time use one connection to a KDC and one `Session`: one login ticket, one LDAP
//! connection. The last one to finish closes them, so nothing is kept open for the hours between renewals.

/// DNS -> domain controllers, and the connections to them
pub mod dc;

/// subnets -> which of them are near
pub mod site;

/// the answer to an LDAP ping
pub mod netlogon;

/// the sealed LDAP connection
pub mod ldap;

/// TLS to a domain controller
pub mod tls;

/// sealed LDAP -> the managed password
pub mod gmsa;

/// security identifiers, and who may read a managed password
pub mod sid;

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use self::gmsa::{Gmsa, ManagedPassword, Names};
use crate::clock;
use crate::credspec::LoginSource;
use crate::directory::dc::{Kdc, Locator, Service};
use crate::directory::ldap::{Connection, Plain, Sealed, Transport};
use crate::fault::{Code, Fault};
use crate::kerberos::{
    self, ClientKey, GmsaTgt, Granted, LdapTicket, Password, Principal, Proof, Refusal, ServiceTicket, Ticket,
};
use crate::login::{Guards, Login, Logins};
use crate::name::{Account, Domain, Host, Spn};
use crate::volume::KeytabImage;

/// A domain as one login sees it.
pub struct Directory {
    domain: Domain,
    login: LoginSource,
    logins: Arc<Logins>,
    locator: Arc<Locator>,
    ldap: Transport,
    guards: Arc<Guards>,
    lifetime: Option<Duration>,
    kdc: Mutex<Weak<Mutex<Kdc>>>,
    session: Mutex<Weak<Session>>,
}

/// A gMSA's key, kept between renewals: with it a renewal asks nobody but a KDC.
#[derive(Clone)]
pub struct KeptKey {
    principal: Principal,
    key: ClientKey,
    kvno: Option<u32>,
    /// When the managed password should be read again (its `QueryPasswordInterval`).
    pub due: SystemTime,
}

/// What is wanted for a gMSA beside its TGT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Tickets for these services.
    pub services: Vec<Spn>,
    /// A keytab.
    pub keytab: bool,
}

/// What a renewal brought.
pub struct Renewal {
    /// The ticket.
    pub ticket: GmsaTgt,
    /// The tickets for services that were asked for, in that order.
    pub services: Vec<(Spn, Result<ServiceTicket, Fault>)>,
    /// A keytab, if one is wanted and the managed password was read.
    pub keytab: Option<Arc<KeytabImage>>,
    /// The key it was got with, for the next time.
    pub key: KeptKey,
    /// The KDC that gave it.
    pub dc: Option<Host>,
    /// The version of the managed password, where the directory told.
    pub kvno: Option<u32>,
    /// The domain's controllers, the one that served first: what the app's krb5.conf shall name.
    pub controllers: Vec<Host>,
    /// Why the managed password could not be read although it was due; the kept key still served.
    pub unread: Option<Fault>,
}

/// All directories of the process: leases of one domain with one login share one.
pub struct Directories {
    logins: Arc<Logins>,
    locator: Arc<Locator>,
    ldap: Transport,
    guards: Arc<Guards>,
    lifetime: Option<Duration>,
    /// Those that a lease uses.
    known: StdMutex<HashMap<(Domain, LoginSource), Weak<Directory>>>,
}

impl Directories {
    /// None yet; nothing is asked. `lifetime` is what the gMSAs' tickets are asked for.
    pub fn new(logins: Logins, locator: Arc<Locator>, ldap: Transport, lifetime: Option<Duration>) -> Self {
        let logins = Arc::new(logins);
        Self { logins, locator, ldap, guards: Arc::default(), lifetime, known: StdMutex::default() }
    }

    /// The directory of a domain and a login; `config-login-missing` where there is no such login.
    pub fn of(&self, domain: &Domain, login: &LoginSource) -> Result<Arc<Directory>, Fault> {
        self.logins.knows(login, domain)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (domain.clone(), login.clone());
        if let Some(directory) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(directory);
        }
        let directory = Arc::new(Directory {
            domain: domain.clone(),
            login: login.clone(),
            logins: Arc::clone(&self.logins),
            locator: Arc::clone(&self.locator),
            ldap: self.ldap.clone(),
            guards: Arc::clone(&self.guards),
            lifetime: self.lifetime,
            kdc: Mutex::default(),
            session: Mutex::default(),
        });
        known.insert(key, Arc::downgrade(&directory));
        Ok(directory)
    }

    /// Lets go of the directories that no lease uses, with their logins, and of guards that hold nothing back.
    pub fn tidy(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, known| known.strong_count() > 0);
        self.guards.tidy();
    }
}

impl Directory {
    /// Gets fresh tickets for a gMSA: its TGT, and with that those for services.
    pub async fn renew(&self, account: &Account, kept: Option<KeptKey>, wanted: &Wanted) -> Result<Renewal, Fault> {
        let connection = self.kdc().await?;
        let mut renewal = self.renew_tgt(account, kept, wanted.keytab, &connection).await?;
        for spn in &wanted.services {
            let granted = self.service_ticket(&connection.kdc, &renewal.ticket, spn).await;
            renewal.services.push((spn.clone(), granted));
        }
        Ok(renewal)
    }

    /// With the kept key while that is good, else with the managed password.
    ///
    /// When the password is due but cannot be read, the kept key is tried all the same: a gMSA's password stays good
    /// for minutes after it was replaced, and often was not replaced at all.
    async fn renew_tgt(
        &self,
        account: &Account,
        kept: Option<KeptKey>,
        keytab: bool,
        via: &Connected,
    ) -> Result<Renewal, Fault> {
        let Some(mut kept) = kept else {
            return self.renew_by_password(account, keytab, via).await;
        };
        if clock::now() < kept.due {
            match self.renew_by_key(&kept, via).await {
                Err(refusal) if refusal.is_wrong_password() => {
                    let kvno = kept.kvno;
                    tracing::info!(event = "gmsa.key-replaced", kvno, "the KDC refuses the kept key; reading again");
                    return self.renew_by_password(account, keytab, via).await;
                }
                outcome => return outcome.map_err(|refusal| refusal.of_gmsa(&kept.principal)),
            }
        }
        let fault = match self.renew_by_password(account, keytab, via).await {
            Ok(renewal) => return Ok(renewal),
            Err(fault) => fault,
        };
        kept.due = clock::now() + if keytab { READ_AGAIN_FOR_KEYTAB } else { READ_AGAIN };
        match self.renew_by_key(&kept, via).await {
            Ok(renewal) => Ok(Renewal { unread: Some(fault), ..renewal }),
            Err(_refusal) => Err(fault),
        }
    }

    async fn renew_by_key(&self, kept: &KeptKey, via: &Connected) -> Result<Renewal, Refusal> {
        let (ticket, key) = self.gmsa_ticket(&via.kdc, &kept.principal, Proof::Key(kept.key.clone())).await?;
        Ok(self.renewal(ticket, KeptKey { key, ..kept.clone() }, via).await)
    }

    async fn renew_by_password(&self, account: &Account, keytab: bool, via: &Connected) -> Result<Renewal, Fault> {
        let Connected { kdc, controllers } = via;
        let (gmsa, session) = self.read(account, controllers, kdc).await?;
        let principal = kerberos::gmsa_principal(&gmsa.sam_account_name, &self.domain);
        let mut due = clock::now() + gmsa.password.query_interval;
        let proof = |password| Proof::SaltedPassword(password, kerberos::gmsa_salt(account, &self.domain));
        let ManagedPassword { current, previous, unchanged_interval, .. } = gmsa.password;
        let mut in_use = InUse::Current;
        let mut ticket = self.gmsa_ticket(kdc, &principal, proof(current.clone())).await;
        // Shortly before a password expires the directory already tells the next one, which the KDC still refuses;
        // and right after, a KDC may not have heard of it.
        if let (Err(refusal), Some(previous)) = (&ticket, &previous)
            && refusal.is_wrong_password()
        {
            in_use = InUse::Previous;
            ticket = self.gmsa_ticket(kdc, &principal, proof(previous.clone())).await;
        }
        // A KDC that has a password which the DC asked for it has not heard of yet: that one's own KDC has not either.
        if let Err(refusal) = &ticket
            && refusal.is_wrong_password()
            && kdc.lock().await.host() != Some(&session.host)
        {
            kdc.lock().await.go_to(&session.host);
            in_use = InUse::Current;
            ticket = self.gmsa_ticket(kdc, &principal, proof(current.clone())).await;
        }
        let (ticket, key) = ticket.map_err(|refusal| refusal.of_gmsa(&principal))?;
        let mut kvno = gmsa.kvno;
        let mut image = None;
        if keytab {
            let now = clock::now();
            let names = session.names(&self.domain, account).await?;
            let life = ticket.expires_at().duration_since(now).unwrap_or_default();
            let versions = versions(in_use, &names, &current, previous.as_ref(), life, now);
            let salt = kerberos::gmsa_salt(account, &self.domain);
            image = Some(Arc::new(kerberos::gmsa_keytab(&principal, &names.services, &salt, &versions.keys, now)?));
            due = versions.until.min(now + unchanged_interval + IN_THE_WINDOW);
            kvno = Some(names.kvno);
        }
        let key = KeptKey { principal, key, kvno, due };
        Ok(Renewal { keytab: image, ..self.renewal(ticket, key, via).await })
    }

    async fn renewal(&self, ticket: GmsaTgt, key: KeptKey, via: &Connected) -> Renewal {
        let dc = via.kdc.lock().await.host().cloned();
        let mut controllers = self.locator.by_health(&via.controllers, Service::Kdc);
        if let Some(at) = controllers.iter().position(|host| Some(host) == dc.as_ref()) {
            controllers[..=at].rotate_right(1);
        }
        Renewal { ticket, services: Vec::new(), keytab: None, dc, kvno: key.kvno, key, controllers, unread: None }
    }

    /// An AS exchange of the gMSA for its TGT. A KDC that does not know the account may not have heard of it yet.
    async fn gmsa_ticket(
        &self,
        kdc: &Mutex<Kdc>,
        gmsa: &Principal,
        proof: Proof,
    ) -> Result<(GmsaTgt, ClientKey), Refusal> {
        let service = kerberos::ticket_granting_service(&self.domain);
        let (ticket, key) = authenticate(&mut *kdc.lock().await, gmsa, &service, proof, self.lifetime).await?;
        Ok((ticket.into_gmsa_tgt(), key))
    }

    async fn service_ticket(&self, kdc: &Mutex<Kdc>, tgt: &GmsaTgt, spn: &Spn) -> Result<ServiceTicket, Fault> {
        let service = kerberos::service(spn, &self.domain);
        let granted = grant(&mut *kdc.lock().await, tgt.as_ticket(), &service).await;
        follow(granted, spn, &self.domain, &self.locator).await.map_err(|refusal| refusal.of_service(spn, tgt.client()))
    }

    /// Reads the managed password; returns it with the session that told. A DC that does not know the account may not have
    /// heard of it yet, and a read-only one has no passwords, so the others are asked before that is a fault.
    async fn read(
        &self,
        account: &Account,
        controllers: &[Host],
        kdc: &Mutex<Kdc>,
    ) -> Result<(Gmsa, Arc<Session>), Fault> {
        let mut session = self.session(controllers, kdc).await?;
        let mut read = session.read(&self.domain, account).await;
        if matches!(&read, Err(fault) if fault.code == Code::GmsaConnectionLost) {
            // The connection broke, or the DC hangs: once more, on a connection to whoever is healthy.
            if let Err(fault) = &read {
                self.locator.in_trouble(&session.host, self.ldap.service(), fault);
            }
            // Unless another lease has done so already.
            let mut shared = self.session.lock().await;
            if shared.ptr_eq(&Arc::downgrade(&session)) {
                *shared = Weak::new();
            }
            drop(shared);
            session = self.session(controllers, kdc).await?;
            read = session.read(&self.domain, account).await;
        }
        let mut others: Vec<_> = controllers.iter().filter(|host| **host != session.host).cloned().collect();
        while let Err(fault) = &read
            && !others.is_empty()
            && self.others_may_tell(&session, fault).await
        {
            let Ok(other) = self.log_in(&others, kdc).await else { break };
            others.retain(|host| *host != other.host);
            session = Arc::new(other);
            read = session.read(&self.domain, account).await.or(read);
        }
        Ok((read?, session))
    }

    /// Whether another DC may tell the password that this one does not.
    async fn others_may_tell(&self, session: &Session, fault: &Fault) -> bool {
        match fault.code {
            Code::GmsaNotFound => true,
            Code::GmsaReadDenied | Code::GmsaSearchFailed if session.is_read_only(&self.domain).await => {
                self.locator.in_trouble(&session.host, self.ldap.service(), fault);
                true
            }
            _ => false,
        }
    }

    /// The connection to a KDC that is in use, or one to be made, with the domain's controllers.
    async fn kdc(&self) -> Result<Connected, Fault> {
        let controllers = self.locator.locate(&self.domain).await?;
        if self.locator.is_survey_due(&self.domain, &controllers) {
            let (locator, ldap, domain) = (Arc::clone(&self.locator), self.ldap.clone(), self.domain.clone());
            tokio::spawn(site::survey(locator, ldap, domain, controllers.clone()));
        }
        let mut shared = self.kdc.lock().await;
        if let Some(kdc) = shared.upgrade() {
            return Ok(Connected { kdc, controllers });
        }
        let kdc = Arc::new(Mutex::new(Kdc::new(Arc::clone(&self.locator), &controllers)));
        *shared = Arc::downgrade(&kdc);
        Ok(Connected { kdc, controllers })
    }

    /// The session in use, or a new one. Whoever opens it holds the lock, so leases that start together log in once.
    async fn session(&self, controllers: &[Host], kdc: &Mutex<Kdc>) -> Result<Arc<Session>, Fault> {
        let mut shared = self.session.lock().await;
        if let Some(session) = shared.upgrade() {
            return Ok(session);
        }
        let session = Arc::new(self.log_in(controllers, kdc).await?);
        *shared = Arc::downgrade(&session);
        Ok(session)
    }

    /// Proves the login, and binds to LDAP on the first of the hosts that serves.
    async fn log_in(&self, hosts: &[Host], kdc: &Mutex<Kdc>) -> Result<Session, Fault> {
        // All at the same time; of several faults the earliest step's is told.
        let (login, connected, reached) = tokio::join!(
            self.logins.current(&self.login, &self.domain),
            async { kdc.lock().await.connect().await },
            self.connect(hosts)
        );
        let (login, (), (mut host, mut connection)) = (login?, connected?, reached?);
        let mut left = hosts.to_vec();
        loop {
            left.retain(|other| *other != host);
            let attempt = self.bind(&login, &host, connection, kdc).await;
            match attempt {
                // A service that no KDC knows is one that does not serve: others do.
                Err(fault) if serves_elsewhere(&fault) && !left.is_empty() => {
                    self.locator.in_trouble(&host, self.ldap.service(), &fault);
                    let Ok(next) = self.connect(&left).await else { return Err(fault) };
                    (host, connection) = next;
                }
                outcome => return outcome,
            }
        }
    }

    /// Connects to the LDAP service of the first of the hosts that serves. One whose certificate is not good is as bad as
    /// one that is down.
    async fn connect(&self, hosts: &[Host]) -> Result<(Host, Connection<Plain>), Fault> {
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

    async fn bind(
        &self,
        login: &Login,
        host: &Host,
        connection: Connection<Plain>,
        kdc: &Mutex<Kdc>,
    ) -> Result<Session, Fault> {
        let healthy = !self.locator.is_troubled(host, self.ldap.service());
        let ticket = self.login_ticket(login, host, kdc).await?;
        if healthy && self.locator.is_troubled(host, self.ldap.service()) {
            let what = format!("the domain controller `{host}` hangs");
            return Err(Fault::new(Code::GmsaConnectionLost, what).because("its KDC gave no answer"));
        }
        let login = login.principal.to_string();
        let ldap = gmsa::bind(connection, &ticket, host, &login).await?;
        Ok(Session::new(host.clone(), login, ldap))
    }

    /// The login's ticket for `ldap/<host>/<domain>`. While a rotation of the secret is under way AD may have the pending
    /// password already, so that one is tried once where the current one is refused.
    async fn login_ticket(&self, login: &Login, host: &Host, kdc: &Mutex<Kdc>) -> Result<LdapTicket, Fault> {
        let guard = self.guards.of(&login.principal.to_string());
        let mut guard = guard.lock().await;
        let refused = match guard.allows(&login.version, clock::now()) {
            Ok(()) => match prove(login, host, &self.domain, kdc, &self.locator).await {
                Ok(ticket) => {
                    guard.succeeded();
                    return Ok(ticket);
                }
                Err(fault) if fault.code == Code::TicketLoginRefused => {
                    guard.failed(&login.version, &fault, clock::now());
                    fault
                }
                Err(fault) => return Err(fault),
            },
            Err(fault) => fault,
        };
        if !guard.trusts_pending() {
            return Err(refused);
        }
        let Some(pending) = self.logins.pending(&self.login, &self.domain).await else {
            return Err(refused);
        };
        let now = clock::now();
        let young = pending.created_at.is_some_and(|made| now.duration_since(made).is_ok_and(|age| age < PENDING));
        let other = pending.version != login.version && pending.principal == login.principal;
        if !young || !other || guard.allows(&pending.version, now).is_err() {
            return Err(refused);
        }
        match prove(&pending, host, &self.domain, kdc, &self.locator).await {
            Ok(ticket) => {
                tracing::info!(event = "secret.pending-used", "AD has the pending password of the secret already");
                Ok(ticket)
            }
            Err(fault) => {
                if fault.code == Code::TicketLoginRefused {
                    guard.failed(&pending.version, &fault, now);
                }
                Err(refused)
            }
        }
    }
}

/// The login's ticket for the LDAP service of a DC of `domain`, whose KDC is `kdc`. A login of that domain gets it
/// straight away; one of another is proven to its own domain, which tells the way to this one.
pub(crate) async fn prove(
    login: &Login,
    host: &Host,
    domain: &Domain,
    kdc: &Mutex<Kdc>,
    locator: &Arc<Locator>,
) -> Result<LdapTicket, Fault> {
    let service = kerberos::ldap_service(host, domain);
    let refused = |refusal: Refusal| refusal.of_login(&login.principal);
    if login.domain == *domain {
        let proven = authenticate(&mut *kdc.lock().await, &login.principal, &service, login.proof.clone(), None).await;
        return Ok(proven.map_err(refused)?.0.into_ldap_ticket());
    }
    let tgt = cross(login, domain, locator).await?;
    match grant(&mut *kdc.lock().await, &tgt, &service).await.map_err(refused)? {
        Granted::Ticket(ticket) => Ok(ticket.into_ldap_ticket()),
        Granted::Referral(elsewhere, _) => {
            let why = format!("the KDC of `{domain}` refers to `{elsewhere}` for `{}`", service.name());
            Err(no_way(login, domain).because(why))
        }
    }
}

/// The login's TGT for another domain, by way of the domains between (RFC 4120 section 1.2): each KDC gives a ticket for
/// that domain, or for one that is nearer.
async fn cross(login: &Login, to: &Domain, locator: &Arc<Locator>) -> Result<Ticket, Fault> {
    let mut kdc = Kdc::new(Arc::clone(locator), &locator.locate(&login.domain).await?);
    let own = kerberos::ticket_granting_service(&login.domain);
    let proven = authenticate(&mut kdc, &login.principal, &own, login.proof.clone(), None).await;
    let (mut tgt, _) = proven.map_err(|refusal| refusal.of_login(&login.principal))?;
    let mut way = vec![login.domain.clone()];
    loop {
        let from = &way[way.len() - 1];
        let granted = match grant(&mut kdc, &tgt, &kerberos::cross_realm_service(from, to)).await {
            Err(refusal) if refusal.is_unknown_name() => {
                return Err(no_way(login, to).because(format!("{refusal}: `{from}` does not know `{to}`")));
            }
            outcome => outcome.map_err(|refusal| refusal.of_login(&login.principal))?,
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
            return Err(no_way(login, to).because(format!("the KDCs refer in a circle: {}", way.join(" -> "))));
        }
        kdc = Kdc::new(Arc::clone(locator), &locator.locate(&next).await?);
        way.push(next);
    }
}

fn no_way(login: &Login, to: &Domain) -> Fault {
    let what = format!("the login `{}` has no way to the gMSA's domain `{to}`", login.principal);
    Fault::new(Code::TicketTrust, what)
}

/// The connection to a KDC that is in use, and all controllers of the domain.
struct Connected {
    kdc: Arc<Mutex<Kdc>>,
    controllers: Vec<Host>,
}

/// A sealed LDAP connection to one DC.
struct Session {
    host: Host,
    login: String,
    ldap: Mutex<Connection<Sealed>>,
    /// The gMSAs whose passwords are wanted, with those who wait for them.
    wanted: StdMutex<Vec<(Account, Answer)>>,
}

type Answer = oneshot::Sender<Result<Gmsa, Fault>>;

impl Session {
    fn new(host: Host, login: String, ldap: Connection<Sealed>) -> Self {
        Self { host, login, ldap: Mutex::new(ldap), wanted: StdMutex::default() }
    }

    /// Reads a managed password. Whoever gets the connection reads for all who wait for it by then, in one search.
    async fn read(&self, domain: &Domain, account: &Account) -> Result<Gmsa, Fault> {
        let mut answered = self.want(account);
        loop {
            let mut ldap = self.ldap.lock().await;
            match answered.try_recv() {
                Ok(read) => return read,
                Err(TryRecvError::Empty) => {}
                // Whoever was reading for us was cancelled.
                Err(TryRecvError::Closed) => answered = self.want(account),
            }
            let (accounts, mut answers) = self.next_wanted(TOGETHER);
            let mut read = Gmsa::read(&mut ldap, domain, &accounts, &self.login).await;
            let lost =
                read.iter().find_map(|read| read.as_ref().err().filter(|fault| fault.code == Code::GmsaConnectionLost));
            if let Some(fault) = lost.cloned() {
                // Nobody shall wait for the same deadline again.
                let (_, waiting) = self.next_wanted(usize::MAX);
                read.extend(waiting.iter().map(|_| Err(fault.clone())));
                answers.extend(waiting);
            }
            for (answer, read) in answers.into_iter().zip(read) {
                // Who no longer waits needs none.
                let _ = answer.send(read);
            }
            if let Ok(read) = answered.try_recv() {
                return read;
            }
        }
    }

    fn want(&self, account: &Account) -> oneshot::Receiver<Result<Gmsa, Fault>> {
        let (answer, answered) = oneshot::channel();
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).push((account.clone(), answer));
        answered
    }

    fn next_wanted(&self, most: usize) -> (Vec<Account>, Vec<Answer>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let count = wanted.len().min(most);
        wanted.drain(..count).unzip()
    }

    async fn names(&self, domain: &Domain, account: &Account) -> Result<Names, Fault> {
        Names::read(&mut *self.ldap.lock().await, domain, account, &self.login).await
    }

    /// Whether it is a read-only DC; one that does not tell is none.
    async fn is_read_only(&self, domain: &Domain) -> bool {
        let mut ldap = self.ldap.lock().await;
        matches!(timeout(gmsa::LDAP_DEADLINE, ldap.netlogon(domain)).await, Ok(Ok(told)) if !told.is_writable)
    }
}

/// Which of the two managed passwords the KDC has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InUse {
    Current,
    Previous,
}

/// What a keytab holds, and until when it should.
struct Versions<'a> {
    keys: Vec<(u32, &'a Password)>,
    until: SystemTime,
}

/// The versions of the key: the one that the KDC uses, the next one where the directory tells it already, and the one
/// before while tickets that were made with it are good. Those live as long as the gMSA's own (`life`) or ten hours,
/// AD's default for tickets to services, and the clocks may differ by five minutes.
fn versions<'a>(
    in_use: InUse,
    names: &Names,
    current: &'a Password,
    previous: Option<&'a Password>,
    life: Duration,
    now: SystemTime,
) -> Versions<'a> {
    let Names { kvno, changed_at, .. } = names;
    let longest = life.max(Duration::from_secs(10 * 3600)) + Duration::from_secs(300);
    // Where it is not told since when the key is in use, the one before stays until the next look.
    let needed_until = changed_at.map_or(now, |changed| changed) + longest;
    match (in_use, previous) {
        (InUse::Previous, Some(previous)) => {
            Versions { keys: vec![(kvno + 1, current), (*kvno, previous)], until: now + longest }
        }
        (InUse::Current, Some(previous)) if now < needed_until && *kvno > 1 => {
            Versions { keys: vec![(*kvno, current), (kvno - 1, previous)], until: needed_until }
        }
        _ => Versions { keys: vec![(*kvno, current)], until: now + FAR },
    }
}

/// An AS exchange, with any KDC that knows the names.
async fn authenticate(
    kdc: &mut Kdc,
    client: &Principal,
    server: &Principal,
    proof: Proof,
    lifetime: Option<Duration>,
) -> Result<(Ticket, ClientKey), Refusal> {
    let mut round = Round::of(kdc);
    loop {
        let outcome = kerberos::authenticate(kdc, client, server, proof.clone(), lifetime).await;
        if let Some(outcome) = round.ends(kdc, outcome) {
            return outcome;
        }
    }
}

/// A TGS exchange, with any KDC that knows the service.
async fn grant(kdc: &mut Kdc, tgt: &Ticket, service: &Principal) -> Result<Granted, Refusal> {
    let mut round = Round::of(kdc);
    loop {
        let outcome = kerberos::grant(kdc, tgt, service).await;
        if let Some(outcome) = round.ends(kdc, outcome) {
            return outcome;
        }
    }
}

/// Goes on from what a KDC of `domain` gave for a service to whichever domain it refers to (RFC 6806 section 8).
pub(crate) async fn follow(
    mut granted: Result<Granted, Refusal>,
    spn: &Spn,
    domain: &Domain,
    locator: &Arc<Locator>,
) -> Result<ServiceTicket, Refusal> {
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
        granted = grant(&mut kdc, &tgt, &kerberos::service(spn, &domain)).await;
        seen.push(domain);
    }
}

/// The KDCs of a domain asked one after the other, where one does not know a name that another may know already.
struct Round {
    left: usize,
    refused: Option<Refusal>,
}

impl Round {
    fn of(kdc: &Kdc) -> Self {
        Self { left: kdc.count(), refused: None }
    }

    /// What it comes to; nothing while there is another KDC to ask.
    fn ends<T>(&mut self, kdc: &mut Kdc, outcome: Result<T, Refusal>) -> Option<Result<T, Refusal>> {
        match outcome {
            Err(refusal) if refusal.is_unknown_name() => {
                kdc.leave();
                self.left = self.left.saturating_sub(1);
                let first = self.refused.take().unwrap_or(refusal);
                if self.left == 0 {
                    return Some(Err(first));
                }
                self.refused = Some(first);
                None
            }
            Err(Refusal::Unreachable(fault)) => Some(Err(self.refused.take().unwrap_or(Refusal::Unreachable(fault)))),
            outcome => Some(outcome),
        }
    }
}

/// Whether another DC may serve where this one does not.
fn serves_elsewhere(fault: &Fault) -> bool {
    matches!(fault.code, Code::GmsaConnectionLost | Code::TicketServiceUnknown)
}

/// How many domains a service is looked for in: forests are rarely deeper than three.
const REFERRALS: usize = 8;
/// In its last five minutes the directory tells the next password, which the KDC does not use yet: when in that time it
/// is read, and how soon again if that failed.
const IN_THE_WINDOW: Duration = Duration::from_secs(60);
const READ_AGAIN_FOR_KEYTAB: Duration = Duration::from_secs(60);
/// No gMSA's password lives longer.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How many managed passwords one search reads. Each is under a kilobyte, and the DC computes it anew.
const TOGETHER: usize = 20;
/// How soon a managed password that could not be read when it was due is read again.
const READ_AGAIN: Duration = Duration::from_secs(300);
/// A pending version of a secret that is older belongs to no rotation that is under way.
const PENDING: Duration = Duration::from_secs(3600);

#[cfg(test)]
impl Renewal {
    /// For tests of leases: a ticket of ten minutes or hours, whatever is said, and a key that is due then.
    pub(crate) fn sample(account: &Account, domain: &Domain, expires_at: SystemTime, due: SystemTime) -> Self {
        let principal = kerberos::gmsa_principal(&account.sam_account_name(), domain);
        let key = KeptKey { principal, key: ClientKey::sample(), kvno: Some(1), due };
        Self {
            ticket: GmsaTgt::sample(account, domain, expires_at),
            services: Vec::new(),
            keytab: None,
            key,
            dc: None,
            kvno: Some(1),
            controllers: format!("dc1.{domain}").parse().into_iter().collect(),
            unread: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[test]
    fn a_keytab_holds_the_next_key_and_the_one_before_while_it_is_needed() {
        let password = |text: &str| Password::new(Zeroizing::new(text.to_owned()));
        let (current, previous) = (password("current"), password("previous"));
        let now = clock::from_unix(1_790_000_000);
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        let told = |in_use, kvno, changed_at: Option<SystemTime>, previous, life| {
            let names = Names { kvno, services: Vec::new(), changed_at };
            let versions = versions(in_use, &names, &current, previous, life, now);
            let keys: Vec<_> = versions.keys.iter().map(|(kvno, key)| (*kvno, key.as_str().to_owned())).collect();
            (keys, versions.until.duration_since(now).unwrap())
        };
        let key = |kvno, text: &str| (kvno, text.to_owned());
        let ago = |age| Some(now - hours(age));
        let clocks = Duration::from_secs(300);
        let (keys, _) = told(InUse::Previous, 4, ago(720), Some(&previous), hours(10));
        assert_eq!(keys, [key(5, "current"), key(4, "previous")], "the KDC still uses the old one");
        let (keys, until) = told(InUse::Current, 5, ago(1), Some(&previous), hours(1));
        assert_eq!((keys, until), (vec![key(5, "current"), key(4, "previous")], hours(9) + clocks));
        let (_, until) = told(InUse::Current, 5, ago(1), Some(&previous), hours(24));
        assert_eq!(until, hours(23) + clocks, "tickets of this domain live longer");
        assert_eq!(told(InUse::Current, 5, ago(11), Some(&previous), hours(10)).0, [key(5, "current")]);
        assert_eq!(told(InUse::Current, 1, ago(1), None, hours(10)).0, [key(1, "current")]);
        let (keys, until) = told(InUse::Current, 5, None, Some(&previous), hours(10));
        assert_eq!((keys.len(), until), (2, hours(10) + clocks), "since when is not told");
    }
}
