//! The seam between the daemon and what gets tickets: everything that the daemon asks of the lease side, and no more.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::aws::arn::SecretArn;
use crate::fault::Fault;
use crate::name::{Account, Domain, Spn};
use crate::volume::{Mode, Owner};

use super::name::{Folder, LeaseId, LoginName};

/// Which ticket: the account's folder of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The lease.
    pub lease: LeaseId,
    /// The folder in it.
    pub folder: Folder,
}

/// One gMSA's ticket, to be kept fresh in one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duty {
    /// Which ticket it is.
    pub place: Place,
    /// The gMSA.
    pub account: Account,
    /// Its domain.
    pub domain: Domain,
    /// The folder that is mounted into the container: `krb5cc` and `krb5.conf` go there. It exists.
    pub path: PathBuf,
    /// A folder of root's alone that no container sees, for the renewable ticket that bridges a restart. It exists.
    pub private: PathBuf,
    /// What is written, and how.
    pub files: Files,
}

/// What is written into the folder that is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Who owns the files; the process if absent.
    pub owner: Option<Owner>,
    /// The mode of files with tickets or keys.
    pub mode: Mode,
    /// Whether there is a keytab too.
    pub keytab: bool,
    /// The services whose tickets are kept too.
    pub services: Vec<Spn>,
}

/// What may read the managed password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// The request brought it. It is in no file.
    Given(Arc<Given>),
    /// A secret, read with AWS credentials that the request brought.
    Secret(SecretArn, Arc<AwsKeys>),
    /// A secret, by its name, read with the credentials of the host.
    HostSecret(String),
    /// The host's own account: its keytab.
    Host,
}

/// A login that a request brought.
#[derive(PartialEq, Eq)]
pub struct Given {
    /// Its name.
    pub name: LoginName,
    /// Its password.
    pub password: Zeroizing<String>,
    /// Its domain.
    pub domain: Domain,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("name", &self.name).field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// AWS credentials that a request brought.
#[derive(PartialEq, Eq)]
pub struct AwsKeys {
    /// `AKIA...` or `ASIA...`
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Zeroizing<String>,
    /// Of temporary credentials.
    pub session_token: Zeroizing<String>,
    /// Where the secret is.
    pub region: String,
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeys").field("region", &self.region).finish_non_exhaustive()
    }
}

/// What became known when a ticket was got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Got {
    /// The login's name, for logins whose secret the keeper has read.
    pub user: Option<String>,
    /// The gMSA's place in the directory.
    pub distinguished_name: Option<String>,
}

/// How a ticket fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Whether a login is of use.
    pub need: Need,
    /// When the ticket ends; none if there is none.
    pub expires_at: Option<SystemTime>,
}

/// What a login, now that one is at hand, would be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// For nothing: the ticket has more than half of its life and can be renewed without a login.
    Nothing,
    /// The ticket is good but cannot be renewed without a login, as after a restart: renew it, nobody has to wait.
    Soon,
    /// The ticket has less than half of its life, or there is none.
    Now,
}

/// What gets tickets and keeps them fresh.
///
/// Calls for different logins and accounts never wait for each other; of calls for one login at most one logs in at a
/// time, and the others have its result.
pub trait Keeper: Send + Sync + 'static {
    /// Gets the first ticket, writes it, and keeps it fresh from then on. What was begun goes on if the future is
    /// dropped, until [`remove`](Self::remove).
    fn add(&self, duty: Duty, login: Login) -> impl Future<Output = Result<Got, Fault>> + Send;

    /// Keeps a ticket that an earlier process left, as far as that goes without a login if there is none.
    fn resume(&self, duty: Duty, login: Option<Login>);

    /// How a ticket fares.
    fn health(&self, place: &Place) -> Health;

    /// The last fault of a ticket, if it has one.
    fn fault(&self, place: &Place) -> Option<Fault>;

    /// Renews those of the tickets that are due. One login serves all of them.
    fn renew(&self, places: Vec<Place>, login: Login) -> impl Future<Output = Vec<(Place, Result<Got, Fault>)>> + Send;

    /// Ends keeping a ticket. Once this is done nothing is written to its folder any more. A place that is not known
    /// is none.
    fn remove(&self, place: &Place) -> impl Future<Output = ()> + Send;

    /// A lease was removed because nobody used it: for those who count.
    fn unused(&self) {}

    /// Reads a CredSpec in S3, of the caller's own account, at most 64 KiB.
    fn cred_spec(&self, arn: &str, keys: &AwsKeys) -> impl Future<Output = Result<Vec<u8>, Fault>> + Send;
}
