//! A sealed LDAP connection to one domain controller, shared by the leases that renew at the same time.

use std::collections::HashMap;
use std::slice;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use crate::directory::error::{DirectoryError, FailureKind};
use crate::directory::gmsa::{self, AcceptorNames, Gmsa};
use crate::directory::ldap::{LdapConnection, Sealed, SearchEntry};
use crate::directory::readers;
use crate::fault::Code;
use crate::kerberos::{ClientKey, Ticket};
use crate::login::Login;
use crate::name::{Account, Domain, Host};
use crate::text::powershell;

/// A sealed LDAP connection to one DC.
pub(crate) struct Session {
    pub(crate) host: Host,
    /// Who is logged in.
    pub(crate) login: String,
    pub(super) proven: Proven,
    ldap: Mutex<LdapConnection<Sealed>>,
    /// The gMSAs whose passwords are wanted, with those who wait for them.
    wanted: StdMutex<Vec<(Account, Answer)>>,
    /// Tickets for gMSAs that were got while the connection was bound, for the first read.
    witnesses: StdMutex<HashMap<Account, GmsaKeyProof>>,
}

type Answer = oneshot::Sender<Result<Gmsa, DirectoryError>>;

/// What a KDC has accepted: with it the login gets further tickets.
#[derive(Clone)]
pub(crate) enum Proven {
    /// The login's key, by a KDC of its own domain, which is the gMSA's too.
    Key(Arc<Login>, ClientKey),
    /// A ticket for the ticket-granting service of the gMSA's domain, by way of a trust.
    Tgt(Arc<Ticket>),
}

/// What the KDC that the login's key has proven knows of a gMSA's key: only with that key can its ticket be read.
pub(crate) enum GmsaKeyProof {
    /// A ticket of the login for the gMSA.
    Ticket(Box<Ticket>),
    /// It gives none, for this reason.
    None(String),
}

impl Session {
    pub(super) fn new(host: Host, login: String, proven: Proven, ldap: LdapConnection<Sealed>) -> Self {
        let (ldap, wanted, witnesses) = (Mutex::new(ldap), StdMutex::default(), StdMutex::default());
        Self { host, login, proven, ldap, wanted, witnesses }
    }

    /// Keeps a witness for the first read of this account's password.
    pub(super) fn keep_witness(&self, account: &Account, witness: GmsaKeyProof) {
        self.witnesses().insert(account.clone(), witness);
    }

    /// The witness that was kept, once.
    pub(super) fn take_witness(&self, account: &Account) -> Option<GmsaKeyProof> {
        self.witnesses().remove(account)
    }

    fn witnesses(&self) -> MutexGuard<'_, HashMap<Account, GmsaKeyProof>> {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a managed password. Whoever gets the connection reads for all who wait for it by then, in one search.
    pub(super) async fn read(&self, domain: &Domain, account: &Account) -> Result<Gmsa, DirectoryError> {
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
            if accounts.len() > 1 && read.iter().all(|read| is(read, FailureKind::SearchRefused)) {
                // One that the server cannot answer for must not be the end of the others.
                read.clear();
                for account in &accounts {
                    read.extend(Gmsa::read(&mut ldap, domain, slice::from_ref(account), &self.login).await);
                }
            }
            for (read, account) in read.iter_mut().zip(&accounts) {
                if let Err(error) = read {
                    *error = self.explained(&mut ldap, domain, account, error.clone()).await;
                }
            }
            let lost = read.iter().find(|read| is(read, FailureKind::Lost)).and_then(|read| read.as_ref().err());
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

    /// A failure with who answered, and what to change.
    async fn explained(
        &self,
        ldap: &mut LdapConnection<Sealed>,
        domain: &Domain,
        account: &Account,
        error: DirectoryError,
    ) -> DirectoryError {
        if error.kind == FailureKind::NoPassword {
            return readers::explain(ldap, domain, account, &self.login, error).await;
        }
        let DirectoryError { kind, mut fault } = error;
        let host = &self.host;
        fault.why = fault.why.map(|why| format!("`{host}`: {why}"));
        let computer = powershell(host.as_str());
        let fix = match fault.code {
            Code::GmsaConnectionLost => format!(
                "check the LDAP service of `{host}`, and firewalls that inspect LDAP: Get-WinEvent -ComputerName {computer} \
                 -LogName 'Directory DcService' -MaxEvents 20"
            ),
            Code::GmsaSearchFailed => format!(
                "read the reason on `{host}`: Get-WinEvent -ComputerName {computer} -LogName 'Directory DcService' -MaxEvents \
                 20"
            ),
            _ => return DirectoryError { kind, fault },
        };
        DirectoryError::new(kind, fault.with_next(fix))
    }

    fn want(&self, account: &Account) -> oneshot::Receiver<Result<Gmsa, DirectoryError>> {
        let (answer, answered) = oneshot::channel();
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).push((account.clone(), answer));
        answered
    }

    fn next_wanted(&self, most: usize) -> (Vec<Account>, Vec<Answer>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let count = wanted.len().min(most);
        wanted.drain(..count).unzip()
    }

    pub(super) async fn names(&self, domain: &Domain, account: &Account) -> Result<AcceptorNames, DirectoryError> {
        AcceptorNames::read(&mut *self.ldap.lock().await, domain, account, &self.login).await
    }

    /// Searches the domain for a gMSA.
    pub(crate) async fn find(
        &self,
        domain: &Domain,
        account: &Account,
        attributes: &[&str],
    ) -> Result<SearchEntry, DirectoryError> {
        let mut ldap = self.ldap.lock().await;
        gmsa::find(&mut ldap, domain, slice::from_ref(account), &self.login, attributes).await.remove(0)
    }

    /// The entries of the domain whose `attribute` has this value; none if the server does not answer.
    pub(crate) async fn search(
        &self,
        domain: &Domain,
        attribute: &str,
        value: &str,
        attributes: &[&str],
    ) -> Option<Vec<SearchEntry>> {
        let (base, values) = (domain.base_dn(), [value.to_owned()]);
        let mut ldap = self.ldap.lock().await;
        let search = ldap.search(&base, attribute, &values, attributes);
        timeout(gmsa::LDAP_DEADLINE, search).await.ok()?.ok()
    }

    /// Whether it is a read-only DC; one that does not tell is none.
    pub(super) async fn is_read_only(&self, domain: &Domain) -> bool {
        let mut ldap = self.ldap.lock().await;
        matches!(timeout(gmsa::LDAP_DEADLINE, ldap.netlogon(domain)).await, Ok(Ok(told)) if !told.is_writable)
    }
}

fn is(read: &Result<Gmsa, DirectoryError>, kind: FailureKind) -> bool {
    read.as_ref().err().is_some_and(|error| error.kind == kind)
}

/// How many managed passwords one search reads. Each is under a kilobyte, and the DC computes it for each search.
const TOGETHER: usize = 20;
