//! One domain with one login: what its leases share.
//!
//! Leases that renew at the same time use one connection to a KDC and one `Session`: one login ticket, one LDAP
//! connection. The last one to finish closes them, so nothing is kept open for the hours between renewals.

/// DNS -> domain controllers, and the connections to them
pub mod dc;

/// questions to DNS servers
mod dns;

mod race;

mod ber;

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

/// the connection to a KDC, and the exchanges over it
pub mod kdc;

/// who may read a managed password, and what else has none
pub(crate) mod readers;

/// what to change after a KDC refused a ticket
mod advice;

/// why a KDC gave no ticket
pub mod refusal;

/// from one domain to another
pub mod referral;

/// what the steps of a renewal fail on
pub mod error;

/// the proofs that a server must give
pub(crate) mod server;

mod key_versions;
pub(crate) mod prove;
pub(crate) mod session;

/// SQL Server's other name
pub(crate) mod twin;

/// security identifiers, and who may read a managed password
pub mod sid;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

use self::error::{DirectoryError, FailureKind};
use self::gmsa::{Gmsa, ManagedPassword};
use self::kdc::{Kdc, authenticate, grant, renew};
use self::key_versions::{InUse, versions};
use self::referral::follow;
use self::refusal::TicketRefusal;
use self::server::{Confirmed, Server, unproven, witness};
use self::session::{GmsaKeyProof, Proven, Session};
use self::twin::NoTwins;
use crate::clock;
use crate::credspec::LoginSource;
use crate::directory::dc::{DcService, Locator, peers};
use crate::directory::ldap::{LdapConnection, Plain, Transport};
use crate::fault::{Code, Fault};
use crate::kerberos::{
    self, ClientKey, ExchangeError, GmsaTgt, Granted, KeytabImage, LdapTicket, Principal, Proof, ServiceTicket,
    TicketOptions,
};
use crate::login::lockout::{AccountKey, Lockout};
use crate::login::{Login, Logins};
use crate::name::{Account, Domain, Host, Spn};
use crate::progress;

/// A domain as one login sees it.
pub struct Directory {
    domain: Domain,
    login: LoginSource,
    logins: Arc<Logins>,
    locator: Arc<Locator>,
    ldap: Transport,
    lockout: Arc<Lockout>,
    lifetime: Option<Duration>,
    kdc: Mutex<Weak<Mutex<Kdc>>>,
    session: Mutex<Weak<Session>>,
    /// The gMSAs whose passwords the KDC could not confirm, said once.
    unconfirmed: StdMutex<HashSet<Account>>,
    no_twins: StdMutex<NoTwins>,
}

/// A gMSA's key, or a ticket that can be renewed, kept between renewals: with it a renewal asks nobody but a KDC.
#[derive(Clone)]
pub struct GmsaCredential {
    principal: Principal,
    key: CredentialForm,
    kvno: Option<u32>,
    /// When the managed password should be read again (its `QueryPasswordInterval`).
    pub due: SystemTime,
}

#[derive(Clone)]
enum CredentialForm {
    Key(ClientKey),
    Ticket(Arc<GmsaTgt>),
}

impl GmsaCredential {
    /// A ticket that an earlier process left, to go on with until a login is at hand. None if it cannot be renewed.
    pub fn of_ticket(tgt: GmsaTgt) -> Option<Self> {
        let due = tgt.renewable_until()?;
        Some(Self { principal: tgt.client().clone(), key: CredentialForm::Ticket(Arc::new(tgt)), kvno: None, due })
    }
}

/// What is kept for a gMSA in addition to its TGT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// Tickets for these services.
    pub services: Vec<Spn>,
    /// A keytab.
    pub keytab: bool,
    /// A renewable TGT for the next process, in this folder, which no container sees. Where there is none the ccache in
    /// the lease's own folder is taken, if another program left a renewable ticket in it.
    pub bridge: Option<PathBuf>,
}

/// What a renewal brought.
#[derive(Clone)]
pub struct Renewal {
    /// The ticket.
    pub ticket: GmsaTgt,
    /// The tickets for services that were asked for, in that order.
    pub services: Vec<(Spn, Result<ServiceTicket, Fault>)>,
    /// The twins of those services ([`Spn::twin`]), with their tickets where the directory knows them.
    pub twins: Vec<(Spn, Option<ServiceTicket>)>,
    /// A keytab, if one is wanted and the managed password was read.
    pub keytab: Option<Arc<KeytabImage>>,
    /// The renewable ticket that it was got with, if it was: see [`Directory::bridge`].
    pub bridge: Option<Arc<GmsaTgt>>,
    /// The key it was got with, for the next time.
    pub key: GmsaCredential,
    /// The KDC that gave it.
    pub dc: Option<Host>,
    /// The version of the managed password, where the directory told.
    pub kvno: Option<u32>,
    /// The domain's controllers, the one that served first: what the app's krb5.conf shall name.
    pub controllers: Vec<Host>,
    /// Why the managed password could not be read although it was due; the kept key still served.
    pub unread: Option<Fault>,
    /// The managed password, if it was read for this renewal.
    pub password: Option<PasswordRead>,
}

/// What is known of a managed password that was read.
#[derive(Clone)]
pub struct PasswordRead {
    /// The domain controller that gave it.
    pub host: Host,
    /// How long until the directory has the next one.
    pub next_in: Duration,
    /// The KDC accepted the previous password, not the current one.
    pub is_previous: bool,
    /// Why the KDC could not confirm it.
    pub unconfirmed: Option<String>,
}

/// All directories of the process: leases of one domain with one login share one.
pub struct Directories {
    logins: Arc<Logins>,
    locator: Arc<Locator>,
    ldap: Transport,
    lockout: Arc<Lockout>,
    lifetime: Option<Duration>,
    /// Those that a lease uses.
    known: StdMutex<HashMap<(Domain, LoginSource), Weak<Directory>>>,
}

impl Directories {
    /// None yet; nothing is asked. `lifetime` is what the gMSAs' tickets are asked for.
    pub fn new(logins: Arc<Logins>, locator: Arc<Locator>, ldap: Transport, lifetime: Option<Duration>) -> Self {
        Self { logins, locator, ldap, lockout: Arc::default(), lifetime, known: StdMutex::default() }
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
            lockout: Arc::clone(&self.lockout),
            lifetime: self.lifetime,
            kdc: Mutex::default(),
            session: Mutex::default(),
            unconfirmed: StdMutex::default(),
            no_twins: StdMutex::default(),
        });
        known.insert(key, Arc::downgrade(&directory));
        Ok(directory)
    }

    /// Lets go of the directories that no lease uses, with their logins.
    pub fn tidy(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, known| known.strong_count() > 0);
    }
}

impl Directory {
    /// Gets fresh tickets for a gMSA: its TGT, and with that those for services.
    pub async fn renew(
        &self,
        account: &Account,
        kept: Option<GmsaCredential>,
        wanted: &Extras,
    ) -> Result<Renewal, Fault> {
        let connection = self.kdc().await.map_err(|fault| self.with_document(fault, account))?;
        let renewed = self.renew_tgt(account, kept, wanted.keytab, &connection).await;
        let mut renewal = renewed.map_err(|fault| self.with_document(fault, account))?;
        for spn in &wanted.services {
            let granted = self.service_ticket(&connection.kdc, &renewal.ticket, spn).await;
            renewal.services.push((spn.clone(), granted));
        }
        renewal.twins = self.twins(&connection.kdc, &renewal.ticket, &renewal.services).await;
        self.locator.second_answers().await;
        renewal.controllers = self.locator.for_apps(&connection.controllers, renewal.dc.as_ref());
        Ok(renewal)
    }

    /// Says which document a name comes from that the domain does not know.
    fn with_document(&self, fault: Fault, account: &Account) -> Fault {
        let LoginSource::Secret(arn) = &self.login else { return fault };
        let Some(document) = &arn.hints.document else { return fault };
        let why = fault.why.clone().unwrap_or_default();
        let domain = &self.domain;
        match fault.code {
            Code::DcSrvNotFound if fault.what.contains(&format!("`{domain}`")) => {
                let fix = fault.next().to_owned();
                fault
                    .because(format!("{why}; `{domain}` comes from `DnsName` in the CredSpec {document}"))
                    .with_next(format!("{fix}; if `{domain}` is misspelt, correct `DnsName` in the CredSpec {document}"))
            }
            Code::GmsaReadDenied => fault.because(format!("{why}; the login comes from the secret {arn}")),
            Code::GmsaNotFound if fault.fix.is_some() => {
                let next = fault.next().replace("in the CredSpec;", &format!("in the CredSpec {document};"));
                fault.owned_by(crate::fault::Owner::CredSpec).with_next(next)
            }
            Code::GmsaNotFound => fault.owned_by(crate::fault::Owner::CredSpec).with_next(format!(
                "correct the account name `{account}` in the CredSpec {document}: `{domain}` has no such gMSA; this lists \
                 them: Get-ADServiceAccount -Filter * -Server {domain}"
            )),
            _ => fault,
        }
    }

    /// With the kept key while that is good, else with the managed password.
    ///
    /// When the password is due but cannot be read, the kept key is tried all the same: a gMSA's password stays good
    /// for minutes after it was replaced, and often was not replaced at all.
    async fn renew_tgt(
        &self,
        account: &Account,
        kept: Option<GmsaCredential>,
        keytab: bool,
        via: &Connected,
    ) -> Result<Renewal, Fault> {
        let Some(mut kept) = kept else {
            return self.renew_by_password(account, keytab, via).await.map_err(fault_of);
        };
        let by_ticket = matches!(kept.key, CredentialForm::Ticket(_));
        let has_login = self.login != LoginSource::Absent;
        if by_ticket && !has_login {
            return match self.renew_by_key(account, &kept, via).await {
                // It says what is needed now: a login.
                Err(TicketRefusal::Exchange(_, error)) => {
                    tracing::info!(event = "gmsa.ticket-not-renewed", why = %error);
                    self.renew_by_password(account, keytab, via).await.map_err(fault_of)
                }
                outcome => outcome.map_err(|refusal| refusal.of_gmsa(&kept.principal)),
            };
        }
        if !by_ticket && clock::now() < kept.due {
            match self.renew_by_key(account, &kept, via).await {
                Err(refusal) if refusal.is_key_refused() => {
                    let kvno = kept.kvno;
                    tracing::info!(event = "gmsa.key-replaced", kvno, "the KDC refuses the kept key; reading again");
                    return self.renew_by_password(account, keytab, via).await.map_err(fault_of);
                }
                outcome => return outcome.map_err(|refusal| refusal.of_gmsa(&kept.principal)),
            }
        }
        let fault = match self.renew_by_password(account, keytab, via).await {
            Ok(renewal) => return Ok(renewal),
            Err(error) => fault_of(error),
        };
        if by_ticket {
            return match self.renew_by_key(account, &kept, via).await {
                Ok(renewal) => Ok(Renewal { unread: Some(fault), ..renewal }),
                Err(_refusal) => Err(fault),
            };
        }
        kept.due = clock::now() + if keytab { READ_AGAIN_FOR_KEYTAB } else { READ_AGAIN };
        match self.renew_by_key(account, &kept, via).await {
            Ok(renewal) => Ok(Renewal { unread: Some(fault), ..renewal }),
            Err(_refusal) => Err(fault),
        }
    }

    async fn renew_by_key(
        &self,
        account: &Account,
        kept: &GmsaCredential,
        via: &Connected,
    ) -> Result<Renewal, TicketRefusal> {
        let key = match &kept.key {
            CredentialForm::Key(key) => key.clone(),
            CredentialForm::Ticket(tgt) => return self.renew_by_ticket(account, tgt, kept, via).await,
        };
        let proof = Proof::Key(key);
        let (ticket, key) = self.gmsa_ticket(&via.kdc, account, &kept.principal, proof, false).await?;
        Ok(self.renewal(ticket, GmsaCredential { key: CredentialForm::Key(key), ..kept.clone() }, via).await)
    }

    /// Renews the ticket that is kept, and gets with it one for the app, which cannot be renewed.
    async fn renew_by_ticket(
        &self,
        account: &Account,
        tgt: &GmsaTgt,
        kept: &GmsaCredential,
        via: &Connected,
    ) -> Result<Renewal, TicketRefusal> {
        let mut kdc = via.kdc.lock().await;
        let renewed = renew(&mut kdc, tgt.as_ticket()).await?;
        let renewed = renewed.into_gmsa_tgt(account).map_err(|error| kdc.refusal(error))?;
        let service = kerberos::ticket_granting_service(&self.domain);
        let ticket = match grant(&mut kdc, renewed.as_ticket(), &service).await? {
            Granted::Ticket(ticket) => ticket.into_gmsa_tgt(account).map_err(|error| kdc.refusal(error))?,
            Granted::Referral(..) => {
                let what = "a referral came instead of a ticket for the own realm".to_owned();
                return Err(kdc.refusal(ExchangeError::Invalid(what)));
            }
        };
        drop(kdc);
        let renewed = Arc::new(renewed);
        let due = renewed.renewable_until().unwrap_or(kept.due);
        let key = GmsaCredential { key: CredentialForm::Ticket(Arc::clone(&renewed)), due, ..kept.clone() };
        Ok(Renewal { bridge: Some(renewed), ..self.renewal(ticket, key, via).await })
    }

    /// A ticket that can be renewed, by the key that the last one was got with. Without it all is well, until a restart.
    pub async fn bridge(&self, account: &Account, kept: &GmsaCredential) -> Option<Arc<GmsaTgt>> {
        let CredentialForm::Key(key) = &kept.key else { return None };
        let (proof, via) = (Proof::Key(key.clone()), self.kdc().await);
        let got = match &via {
            Ok(via) => self.gmsa_ticket(&via.kdc, account, &kept.principal, proof, true).await,
            Err(fault) => Err(TicketRefusal::Unreachable(fault.clone())),
        };
        match got {
            Ok((ticket, _)) => ticket.renewable_until().is_some().then(|| Arc::new(ticket)),
            Err(refusal) => {
                tracing::info!(event = "gmsa.no-renewable-ticket", why = %refusal);
                None
            }
        }
    }

    /// Reads the managed password and gets a ticket with it. A server whose password the KDC does not confirm is not
    /// a domain controller: the next one is asked. The error comes with the server that gave the password, if one did.
    pub(crate) async fn renew_by_password(
        &self,
        account: &Account,
        keytab: bool,
        via: &Connected,
    ) -> Result<Renewal, (Option<Host>, DirectoryError)> {
        let mut left = via.controllers.clone();
        loop {
            let (host, error) = match self.renew_by_password_of(account, keytab, via, &left).await {
                Err((Some(host), error)) if error.kind == FailureKind::Unproven => (host, error),
                outcome => return outcome,
            };
            self.locator.in_trouble(&host, self.ldap.service(), &error.fault);
            *self.session.lock().await = Weak::new();
            left.retain(|other| *other != host);
            if left.is_empty() {
                return Err((Some(host), error));
            }
        }
    }

    /// One attempt with these hosts.
    async fn renew_by_password_of(
        &self,
        account: &Account,
        keytab: bool,
        via: &Connected,
        hosts: &[Host],
    ) -> Result<Renewal, (Option<Host>, DirectoryError)> {
        let kdc = &via.kdc;
        let (gmsa, session, witness) = self.read(account, hosts, kdc).await.map_err(|error| (None, error))?;
        let told = |error: DirectoryError| (Some(session.host.clone()), error);
        let principal = kerberos::gmsa_principal(&gmsa.sam_account_name, &self.domain);
        let salt = kerberos::gmsa_salt(account, &self.domain);
        let next_in = gmsa.password.query_interval;
        let mut due = clock::now() + next_in;
        let proof = |password| Proof::SaltedPassword(password, salt.clone());
        let ManagedPassword { current, previous, unchanged_interval, .. } = gmsa.password;
        let mut in_use = InUse::Current;
        let mut ticket = self.gmsa_ticket(kdc, account, &principal, proof(current.clone()), false).await;
        // Shortly before a password expires the directory already tells the next one, which the KDC still refuses;
        // and right after, a KDC may not have heard of it.
        if let (Err(refusal), Some(previous)) = (&ticket, &previous)
            && refusal.is_wrong_password()
        {
            in_use = InUse::Previous;
            ticket = self.gmsa_ticket(kdc, account, &principal, proof(previous.clone()), false).await;
        }
        // A KDC that has a password which the DC asked for it has not heard of yet: that one's own KDC has not either.
        if let Err(refusal) = &ticket
            && refusal.is_wrong_password()
            && kdc.lock().await.host() != Some(&session.host)
        {
            kdc.lock().await.go_to(&session.host);
            in_use = InUse::Current;
            ticket = self.gmsa_ticket(kdc, account, &principal, proof(current.clone()), false).await;
        }
        let key = match &ticket {
            Ok((_, key)) => Some(key),
            Err(refusal) if refusal.is_wrong_password() => None,
            Err(refusal) => return Err(told(refusal.of_gmsa(&principal).into())),
        };
        let passwords = [Some(&current), previous.as_ref()].into_iter().flatten().cloned().collect();
        let mut unconfirmed = None;
        match Confirmed::by(witness, key, passwords, salt.clone()).await {
            Confirmed::Yes => {}
            Confirmed::No => return Err(told(unproven(&session.host, account, &self.domain))),
            Confirmed::Unknown(why) if keytab => {
                let what = format!("no keytab is written for the gMSA `{account}$`: its key cannot be confirmed");
                return Err(told(Fault::new(Code::GmsaUnconfirmed, what).because(why).into()));
            }
            Confirmed::Unknown(why) => {
                self.tell_unconfirmed(account, &why);
                unconfirmed = Some(why);
            }
        }
        let (ticket, key) = ticket.map_err(|refusal| told(refusal.of_gmsa(&principal).into()))?;
        let mut kvno = gmsa.kvno;
        let mut image = None;
        if keytab {
            let now = clock::now();
            let names = session.names(&self.domain, account).await.map_err(told)?;
            let life = ticket.expires_at().duration_since(now).unwrap_or_default();
            let versions = versions(in_use, &names, &current, previous.as_ref(), life, now);
            let made = kerberos::gmsa_keytab(&principal, &names.services, key.salt(), &versions.keys, now);
            image = Some(Arc::new(made.map_err(|fault| told(fault.into()))?));
            due = versions.until.min(now + unchanged_interval + IN_THE_WINDOW);
            kvno = Some(names.kvno);
        }
        let key = GmsaCredential { principal, key: CredentialForm::Key(key), kvno, due };
        let is_previous = matches!(in_use, InUse::Previous);
        let password = Some(PasswordRead { host: session.host.clone(), next_in, is_previous, unconfirmed });
        Ok(Renewal { keytab: image, password, ..self.renewal(ticket, key, via).await })
    }

    /// Says once for each account that the KDC could not confirm its password.
    fn tell_unconfirmed(&self, account: &Account, why: &str) {
        let news = self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner).insert(account.clone());
        if news {
            tracing::info!(event = "gmsa.unconfirmed", account = account.as_str(), why);
        }
    }

    async fn renewal(&self, ticket: GmsaTgt, key: GmsaCredential, via: &Connected) -> Renewal {
        let dc = via.kdc.lock().await.host().cloned();
        let controllers = via.controllers.clone();
        Renewal {
            ticket,
            services: Vec::new(),
            twins: Vec::new(),
            keytab: None,
            bridge: None,
            dc,
            kvno: key.kvno,
            key,
            controllers,
            unread: None,
            password: None,
        }
    }

    /// An AS exchange of the gMSA for its TGT. A KDC that does not know the account may not have heard of it yet.
    async fn gmsa_ticket(
        &self,
        kdc: &Mutex<Kdc>,
        account: &Account,
        gmsa: &Principal,
        proof: Proof,
        renewable: bool,
    ) -> Result<(GmsaTgt, ClientKey), TicketRefusal> {
        let service = kerberos::ticket_granting_service(&self.domain);
        // Constrained delegation needs a ticket that may be forwarded.
        let options = TicketOptions { lifetime: self.lifetime, forwardable: true, renewable };
        let mut kdc = kdc.lock().await;
        let (ticket, key) = authenticate(&mut kdc, gmsa, &service, proof, options).await?;
        let ticket = ticket.into_gmsa_tgt(account).map_err(|error| kdc.refusal(error))?;
        Ok((ticket, key))
    }

    /// A TGS exchange of the gMSA for a service, by way of other domains where the KDC refers to them.
    pub(crate) async fn service_ticket(
        &self,
        kdc: &Mutex<Kdc>,
        tgt: &GmsaTgt,
        spn: &Spn,
    ) -> Result<ServiceTicket, Fault> {
        let service = kerberos::service(spn, &self.domain);
        let granted = grant(&mut *kdc.lock().await, tgt.as_ticket(), &service).await;
        follow(granted, spn, &self.domain, &self.locator).await.map_err(|refusal| refusal.of_service(spn, tgt.client()))
    }

    /// Reads the managed password; returns it with the session that told, and what the proven KDC knows of the gMSA. A DC
    /// that does not know the account may not have heard of it yet, and a read-only one has no passwords, so the others
    /// are asked before that is a fault.
    async fn read(
        &self,
        account: &Account,
        controllers: &[Host],
        kdc: &Arc<Mutex<Kdc>>,
    ) -> Result<(Gmsa, Arc<Session>, GmsaKeyProof), DirectoryError> {
        let mut session = self.session(controllers, kdc, account).await?;
        let mut read = self.read_with_witness(&session, account, kdc).await;
        if let Err(error) = &read
            && error.kind == FailureKind::Lost
        {
            // The connection broke, or the DC hangs: once more, on a connection to whoever is healthy.
            self.locator.in_trouble(&session.host, self.ldap.service(), &error.fault);
            // Unless another lease has done so already.
            let mut shared = self.session.lock().await;
            if shared.ptr_eq(&Arc::downgrade(&session)) {
                *shared = Weak::new();
            }
            drop(shared);
            session = self.session(controllers, kdc, account).await?;
            read = self.read_with_witness(&session, account, kdc).await;
        }
        let mut others: Vec<_> = controllers.iter().filter(|host| **host != session.host).cloned().collect();
        while let Err(error) = &read
            && !others.is_empty()
            && self.others_may_tell(&session, error).await
        {
            let Ok(other) = self.log_in(&others, kdc, account).await else { break };
            others.retain(|host| *host != other.host);
            session = Arc::new(other);
            read = self.read_with_witness(&session, account, kdc).await.or(read);
        }
        read.map(|(gmsa, witness)| (gmsa, session, witness))
    }

    /// Reads the managed password, and at the same time asks the KDC for the witness, unless that is there already.
    async fn read_with_witness(
        &self,
        session: &Session,
        account: &Account,
        kdc: &Arc<Mutex<Kdc>>,
    ) -> Result<(Gmsa, GmsaKeyProof), DirectoryError> {
        let witness = async {
            match session.take_witness(account) {
                Some(witness) => Ok(witness),
                None => witness(&session.proven, account, &self.domain, kdc, &self.lockout).await,
            }
        };
        // Whoever cannot read waits for no witness.
        let host = peers(std::slice::from_ref(&session.host), self.ldap.service().port());
        let read = session.read(&self.domain, account);
        tokio::try_join!(progress::during("gmsa", host, gmsa::LDAP_DEADLINE, read), witness)
    }

    /// Whether another DC may tell the password that this one does not.
    async fn others_may_tell(&self, session: &Session, error: &DirectoryError) -> bool {
        match error.kind {
            FailureKind::NotFound | FailureKind::Lost => true,
            FailureKind::NoPassword | FailureKind::SearchRefused if session.is_read_only(&self.domain).await => {
                self.locator.in_trouble(&session.host, self.ldap.service(), &error.fault);
                true
            }
            _ => false,
        }
    }

    /// The connection to a KDC that is in use, or one to be made, with the domain's controllers.
    pub(crate) async fn kdc(&self) -> Result<Connected, Fault> {
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
    async fn log_in(
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

/// The connection to a KDC that is in use, and all controllers of the domain.
pub(crate) struct Connected {
    pub(crate) kdc: Arc<Mutex<Kdc>>,
    pub(crate) controllers: Vec<Host>,
}

fn fault_of((_, error): (Option<Host>, DirectoryError)) -> Fault {
    error.into()
}

/// In its last five minutes the directory tells the next password, which the KDC does not use yet: when in that time it
/// is read, and how soon again if that failed.
const IN_THE_WINDOW: Duration = Duration::from_secs(60);
const READ_AGAIN_FOR_KEYTAB: Duration = Duration::from_secs(60);
/// How soon a managed password that could not be read when it was due is read again.
const READ_AGAIN: Duration = Duration::from_secs(300);
/// How many servers may refuse a bind before that is the answer.
const BINDS: u32 = 4;
/// A pending version of a secret that is older belongs to no rotation that is under way.
const PENDING: Duration = Duration::from_secs(3600);

#[cfg(test)]
impl Renewal {
    /// For tests of leases: a ticket of ten minutes or hours, whatever is said, and a key that is due then.
    pub(crate) fn sample(account: &Account, domain: &Domain, expires_at: SystemTime, due: SystemTime) -> Self {
        let principal = kerberos::gmsa_principal(&account.sam_account_name(), domain);
        let key = GmsaCredential { principal, key: CredentialForm::Key(ClientKey::sample()), kvno: Some(1), due };
        Self {
            ticket: GmsaTgt::sample(account, domain, expires_at),
            services: Vec::new(),
            twins: Vec::new(),
            keytab: None,
            bridge: None,
            key,
            dc: None,
            kvno: Some(1),
            controllers: format!("dc1.{domain}").parse().into_iter().collect(),
            unread: None,
            password: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::credspec::GivenLogin;
    use crate::directory::dc::{DomainControllers, Site};

    fn directories() -> Directories {
        let aws = Arc::new(crate::aws::tests::aws_at("http://127.0.0.1:1"));
        let locator = Arc::new(Locator::new(&[], DomainControllers::default(), Site::Off));
        Directories::new(Arc::new(Logins::new(aws, None)), locator, Transport::Sasl, None)
    }

    fn given(password: &str) -> LoginSource {
        let domain = "corp.example.com".parse().unwrap();
        let password = Zeroizing::new(password.to_owned());
        LoginSource::Given(Arc::new(GivenLogin { user: "svc".to_owned(), domain, password }))
    }

    #[test]
    fn leases_of_one_login_share_a_directory_and_the_last_one_takes_its_password_along() {
        let directories = directories();
        let domain = "corp.example.com".parse().unwrap();
        let login = given("Passw0rd");
        let one = directories.of(&domain, &login).unwrap();
        assert!(Arc::ptr_eq(&one, &directories.of(&domain, &given("Passw0rd")).unwrap()));
        let other = directories.of(&domain, &given("another")).unwrap();
        assert!(!Arc::ptr_eq(&one, &other), "a password of one caller served another");
        drop((one, other));
        directories.tidy();
        assert!(directories.known.lock().unwrap().is_empty());
        let LoginSource::Given(login) = login else { panic!() };
        assert_eq!((Arc::strong_count(&login), format!("{login:?}").contains("Passw0rd")), (1, false));
    }

    #[tokio::test]
    async fn a_login_that_does_not_exist_is_a_fault_before_anybody_is_asked() {
        let directories = directories();
        let domain: Domain = "corp.example.com".parse().unwrap();
        let fault = directories.of(&domain, &LoginSource::DomainJoined).err().unwrap();
        assert_eq!(fault.code, Code::ConfigLoginMissing);
        // One that is to come may be waited for with the gMSA's own key.
        assert!(directories.of(&domain, &LoginSource::Absent).is_ok());
        let login = directories.logins.current(&LoginSource::Absent, &domain).await;
        assert_eq!(login.err().unwrap().code, Code::ConfigLoginMissing);
        let one = directories.logins.current(&given("one"), &domain).await.unwrap();
        let two = directories.logins.current(&given("two"), &domain).await.unwrap();
        assert_eq!(one.principal.to_string(), "svc@CORP.EXAMPLE.COM");
        assert_ne!(one.version, two.version);
    }
}
