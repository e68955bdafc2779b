//! One domain with one login: what its leases share.
//!
//! Leases that renew at the same time use one [`Session`]: one login ticket, one LDAP connection, one KDC
//! connection. The last one to finish closes it, so nothing is kept open for the hours between renewals.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;
use tracing::Level;

use crate::aws::Aws;
use crate::credspec::LoginSource;
use crate::dc::{self, KdcConnection, LDAP_PORT, Locator};
use crate::fault::{Code, Fault};
use crate::gmsa::{self, Gmsa};
use crate::kerberos::{self, ClientKey, GmsaTgt, Password, Principal, Proof, Refusal};
use crate::ldap::{Connection, Sealed};
use crate::log;
use crate::name::{Account, Domain, Host};
use crate::secret::{self, Secret, Stage};

/// A domain as one login sees it.
pub struct Directory {
    domain: Domain,
    login: LoginSource,
    aws: Arc<Aws>,
    locator: Arc<Locator>,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    session: Weak<Session>,
    /// The DC that served last, tried first.
    preferred: Option<Host>,
    /// The version of the secret whose password AD refused, with the refusal: it is not sent again, since each
    /// attempt brings the account nearer to being locked.
    refused: Option<(String, Fault)>,
}

/// What a renewal brought.
pub struct Renewal {
    /// The ticket.
    pub ticket: GmsaTgt,
    /// The DC that gave it.
    pub dc: Host,
    /// The version of the managed password, where the directory told.
    pub kvno: Option<u32>,
    /// The domain's controllers, the one that served first: what the app's krb5.conf shall name.
    pub controllers: Vec<Host>,
}

impl Directory {
    /// A directory; nothing is asked yet.
    pub fn new(domain: Domain, login: LoginSource, aws: Arc<Aws>, locator: Arc<Locator>) -> Self {
        Self { domain, login, aws, locator, shared: Mutex::default() }
    }

    /// Gets a fresh TGT for a gMSA.
    pub async fn renew(&self, account: &Account) -> Result<Renewal, Fault> {
        let session = self.session().await?;
        let renewal = session.renew(&self.domain, account).await;
        if matches!(&renewal, Err(fault) if is_connection_fault(fault)) {
            // Whoever comes next opens another session instead of waiting on this one.
            self.shared.lock().await.session = Weak::new();
        }
        renewal
    }

    /// The session in use, or a new one. Whoever opens it holds the lock, so leases that start together log in once.
    async fn session(&self) -> Result<Arc<Session>, Fault> {
        let mut shared = self.shared.lock().await;
        if let Some(session) = shared.session.upgrade() {
            return Ok(session);
        }
        let session = Arc::new(self.open(&mut shared).await?);
        shared.preferred = Some(session.host.clone());
        shared.session = Arc::downgrade(&session);
        Ok(session)
    }

    /// Logs in to the first DC that can be reached. A DC that refuses is believed: the next one would only count
    /// another failed login.
    async fn open(&self, shared: &mut Shared) -> Result<Session, Fault> {
        let LoginSource::Secret(arn) = &self.login else {
            return Err(Fault::new(
                Code::ConfigLoginMissing,
                format!("the CredSpec for `{}` names no CredentialArn", self.domain),
            )
            .because("a login by a host's keytab is not supported by this version"));
        };
        // Secret and DNS are asked at the same time; of two faults the earlier step's is told.
        let (secret, hosts) = tokio::join!(
            secret::fetch(arn, &self.domain, &self.aws, Stage::Current),
            self.locator.locate(&self.domain)
        );
        let (secret, mut hosts) = (secret?, hosts?);
        if secret.login.domain != self.domain {
            let what = format!("the login belongs to `{}`, the gMSA to `{}`", secret.login.domain, self.domain);
            let why = "a login across a trust is not supported by this version";
            return Err(Fault::new(Code::TicketTrust, what).because(why));
        }
        if let Some((version, fault)) = &shared.refused
            && *version == secret.version_id
        {
            let why = "this version of the secret was refused before and is not sent again";
            return Err(fault.clone().because(format!("{}; {why}", fault.why.as_deref().unwrap_or_default())));
        }
        if let Some(at) = hosts.iter().position(|host| shared.preferred.as_ref() == Some(host)) {
            hosts[..=at].rotate_right(1);
        }
        let mut unreachable = Vec::new();
        for at in 0..hosts.len() {
            match self.log_in(&hosts[at], &secret).await {
                Ok(mut session) => {
                    hosts[..=at].rotate_right(1);
                    session.controllers = hosts;
                    return Ok(session);
                }
                Err(fault) if is_connection_fault(&fault) => {
                    log::fault(Level::WARN, "dc.failed", &fault);
                    unreachable.push(fault);
                }
                Err(fault) => {
                    if fault.code == Code::TicketLoginRefused {
                        shared.refused = Some((secret.version_id.clone(), fault.clone()));
                    }
                    return Err(fault);
                }
            }
        }
        Err(summary(&self.domain, unreachable))
    }

    /// Connects to both services of a DC at once, gets a ticket straight for `ldap/<dc>` and binds with it.
    async fn log_in(&self, host: &Host, secret: &Secret) -> Result<Session, Fault> {
        let addresses = self.locator.addresses(host).await?;
        let (mut kdc, stream) = tokio::try_join!(
            KdcConnection::open(host.clone(), addresses.clone()),
            dc::dial(host, &addresses, LDAP_PORT)
        )?;
        let login = kerberos::login_principal(&secret.login.user, &self.domain);
        let service = kerberos::ldap_service(host, &self.domain);
        let password = Password::new(secret.login.password.clone());
        let (ticket, _key) = kerberos::authenticate(&mut kdc, &login, &service, Proof::Password(password))
            .await
            .map_err(|refusal| refusal.of_login(&login, host))?;
        let ldap = gmsa::bind(stream, &ticket.into_ldap_ticket(), host, &login.to_string()).await?;
        Ok(Session {
            host: host.clone(),
            login: login.to_string(),
            controllers: Vec::new(),
            kdc: Mutex::new(kdc),
            ldap: Mutex::new(ldap),
        })
    }
}

/// A login to one DC.
struct Session {
    host: Host,
    login: String,
    controllers: Vec<Host>,
    kdc: Mutex<KdcConnection>,
    ldap: Mutex<Connection<Sealed>>,
}

impl Session {
    async fn renew(&self, domain: &Domain, account: &Account) -> Result<Renewal, Fault> {
        let gmsa = Gmsa::read(&mut *self.ldap.lock().await, domain, account, &self.login).await?;
        let principal = kerberos::gmsa_principal(&gmsa.sam_account_name, domain);
        let mut ticket = self.authenticate(&principal, domain, account, gmsa.password.current).await;
        // Shortly before a password expires the directory already tells the next one, which the KDC still refuses.
        if let (Err(refusal), Some(previous)) = (&ticket, gmsa.password.previous)
            && refusal.is_wrong_password()
        {
            ticket = self.authenticate(&principal, domain, account, previous).await;
        }
        let (ticket, _key) = ticket.map_err(|refusal| refusal.of_gmsa(&principal, &self.host))?;
        Ok(Renewal { ticket, dc: self.host.clone(), kvno: gmsa.kvno, controllers: self.controllers.clone() })
    }

    async fn authenticate(
        &self,
        gmsa: &Principal,
        domain: &Domain,
        account: &Account,
        password: Password,
    ) -> Result<(GmsaTgt, ClientKey), Refusal> {
        let proof = Proof::SaltedPassword(password, kerberos::gmsa_salt(account, domain));
        let service = kerberos::ticket_granting_service(domain);
        let mut kdc = self.kdc.lock().await;
        let (ticket, key) = kerberos::authenticate(&mut kdc, gmsa, &service, proof).await?;
        Ok((ticket.into_gmsa_tgt(), key))
    }
}

/// Whether another DC, or the same one later, may do what this one did not.
fn is_connection_fault(fault: &Fault) -> bool {
    matches!(fault.code, Code::DcUnreachable | Code::DcAddressNotFound | Code::GmsaConnectionLost)
}

/// One DC's fault as it is; of several the first, with the others as its reason.
fn summary(domain: &Domain, mut faults: Vec<Fault>) -> Fault {
    if faults.len() == 1 {
        return faults.remove(0);
    }
    let told: Vec<_> = faults
        .into_iter()
        .map(|fault| match fault.why {
            Some(why) => format!("{}: {why}", fault.what),
            None => fault.what,
        })
        .collect();
    let what = format!("none of the {} domain controllers of `{domain}` can be used", told.len());
    Fault::new(Code::DcUnreachable, what).because(told.join("; "))
}
