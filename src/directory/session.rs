//! A sealed LDAP connection to one domain controller, shared by the leases that renew at the same time.

use std::sync::{Mutex as StdMutex, PoisonError};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use crate::directory::gmsa::{self, Gmsa, Names};
use crate::directory::ldap::{Connection, Sealed};
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain, Host};

/// A sealed LDAP connection to one DC.
pub(super) struct Session {
    pub(super) host: Host,
    login: String,
    ldap: Mutex<Connection<Sealed>>,
    /// The gMSAs whose passwords are wanted, with those who wait for them.
    wanted: StdMutex<Vec<(Account, Answer)>>,
}

type Answer = oneshot::Sender<Result<Gmsa, Fault>>;

impl Session {
    pub(super) fn new(host: Host, login: String, ldap: Connection<Sealed>) -> Self {
        Self { host, login, ldap: Mutex::new(ldap), wanted: StdMutex::default() }
    }

    /// Reads a managed password. Whoever gets the connection reads for all who wait for it by then, in one search.
    pub(super) async fn read(&self, domain: &Domain, account: &Account) -> Result<Gmsa, Fault> {
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

    pub(super) async fn names(&self, domain: &Domain, account: &Account) -> Result<Names, Fault> {
        Names::read(&mut *self.ldap.lock().await, domain, account, &self.login).await
    }

    /// Whether it is a read-only DC; one that does not tell is none.
    pub(super) async fn is_read_only(&self, domain: &Domain) -> bool {
        let mut ldap = self.ldap.lock().await;
        matches!(timeout(gmsa::LDAP_DEADLINE, ldap.netlogon(domain)).await, Ok(Ok(told)) if !told.is_writable)
    }
}

/// How many managed passwords one search reads. Each is under a kilobyte, and the DC computes it for each search.
const TOGETHER: usize = 20;
