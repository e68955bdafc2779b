//! The keeper over the lease manager: each ticket of the host is one lease, in a folder of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::aws::arn::SecretArn;
use crate::aws::{Aws, AwsSettings};
use crate::clock;
use crate::credspec::{self, GivenLogin, LoginSource};
use crate::directory::Extras;
use crate::fault::{Code, Exit, Fault};
use crate::lease::manager::{ConfAt, LeaseSpec, Manager};
use crate::lease::metrics::Metrics;
use crate::lease::status::{LeaseKey, LeaseState, Order, Status};
use crate::login::secret::{self, Stage};
use crate::name::Domain;
use crate::volume::{LeaseFolder, Location, Ownership};

use super::keeper::{AwsKeys, Duty, Given, Got, Health, Keeper, Login, Need, Place};

/// All tickets of the host.
pub struct Kept {
    manager: Manager,
    status: watch::Receiver<Status>,
    aws: AwsSettings,
    metrics: Arc<Metrics>,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    keys: HashMap<Place, LeaseKey>,
    /// How many there were: the place of the next one in reports.
    seen: usize,
}

impl Kept {
    /// None yet. Secrets that a request names are read on this way to AWS, with the credentials of the request.
    pub fn new(manager: Manager, status: watch::Receiver<Status>, aws: AwsSettings, metrics: Arc<Metrics>) -> Self {
        Self { manager, status, aws, metrics, places: Mutex::default() }
    }

    fn begin(&self, duty: &Duty, login: LoginSource) -> Result<LeaseKey, Fault> {
        let names = [duty.place.lease.as_str(), duty.place.folder.as_str()];
        let Some(folder) = LeaseFolder::new(&names) else {
            let what = format!("`{}/{}` cannot be the folder of a lease", names[0], names[1]);
            return Err(Fault::new(Code::InternalBug, what));
        };
        let mut places = self.places();
        places.seen += 1;
        let spec = LeaseSpec {
            account: duty.account.clone(),
            domain: duty.domain.clone(),
            login,
            extras: Extras {
                services: duty.files.services.clone(),
                keytab: duty.files.keytab,
                bridge: Some(duty.private.clone()),
            },
            location: Location {
                folder,
                at_root: false,
                ownership: Ownership { owner: duty.files.owner, mode: duty.files.mode },
            },
            krb5_conf: ConfAt::Folder,
            order: Order { spec: places.seen, ..Order::default() },
            named_by: format!("lease {}", duty.place.lease),
            fault: None,
        };
        let key = self.manager.add(spec)?;
        places.keys.insert(duty.place.clone(), key);
        Ok(key)
    }

    /// What a lease is told of a login, and the login's name if only the secret tells it.
    async fn source(&self, login: &Login, domain: &Domain) -> Result<(LoginSource, Option<String>), Fault> {
        match login {
            Login::Given(given) => Ok((given_login(given), None)),
            Login::Host => Ok((LoginSource::DomainJoined, None)),
            Login::HostSecret(name) => Ok((LoginSource::Secret(host_secret(name)?), None)),
            Login::Secret(arn, keys) => {
                let aws = self.aws_with(keys)?;
                let secret::Secret { login, .. } = secret::fetch(arn, domain, &aws, Stage::Current).await?;
                let user = login.user.as_str().to_owned();
                let given = GivenLogin { user: user.clone(), domain: login.domain, password: login.password };
                Ok((LoginSource::Given(Arc::new(given)), Some(user)))
            }
        }
    }

    fn aws_with(&self, keys: &AwsKeys) -> Result<Aws, Fault> {
        let AwsKeys { access_key_id, secret_access_key, session_token, region } = keys;
        Aws::new(self.aws.with_keys(access_key_id, secret_access_key, session_token, region))
    }

    /// One ticket with a login that is at hand.
    async fn renew_one(&self, place: &Place, source: &LoginSource) -> Result<(), Fault> {
        let gone = || Fault::new(Code::InternalBug, "the lease has ended");
        let key = self.key(place).ok_or_else(gone)?;
        let (Some(spec), Some(mut outcome)) = (self.manager.spec(key), self.manager.outcome(key)) else {
            return Err(gone());
        };
        outcome.mark_unchanged();
        let known = outcome.borrow().clone();
        let before = spec.login.clone();
        let changed = before != *source;
        if changed {
            self.manager.change(key, LeaseSpec { login: source.clone(), ..LeaseSpec::clone(&spec) });
        }
        self.manager.renew(key);
        let outcome = match timeout(PATIENCE, outcome.changed()).await {
            Ok(Ok(())) => outcome.borrow().clone(),
            Ok(Err(_ended)) => return Err(gone()),
            // It waits for its next attempt after a fault.
            Err(_elapsed) => known,
        };
        match outcome {
            Some(Ok(_)) => Ok(()),
            Some(Err(fault)) => {
                // A login that is not good does not take the place of one that was.
                if changed
                    && before != LoginSource::Absent
                    && fault.code.exit() == Exit::Denied
                    && let Some(spec) = self.manager.spec(key)
                {
                    self.manager.change(key, LeaseSpec { login: before, ..LeaseSpec::clone(&spec) });
                }
                Err(fault)
            }
            None => Err(Fault::new(Code::TaskHostTimeout, "the renewal takes long; it goes on")),
        }
    }

    fn key(&self, place: &Place) -> Option<LeaseKey> {
        self.places().keys.get(place).copied()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Kept {
    async fn add(&self, duty: Duty, login: Login) -> Result<Got, Fault> {
        let (source, user) = self.source(&login, &duty.domain).await?;
        let key = self.begin(&duty, source)?;
        // The agent asks again where that is of use: no fault is waited out here.
        self.manager.wait(key, Instant::now() + FOREVER, |_| false).await?;
        Ok(Got { user, distinguished_name: None })
    }

    fn resume(&self, duty: Duty, login: Option<Login>) {
        let source = match login {
            Some(Login::Host) => Ok(LoginSource::DomainJoined),
            Some(Login::HostSecret(name)) => host_secret(&name).map(LoginSource::Secret),
            Some(Login::Given(given)) => Ok(given_login(&given)),
            Some(Login::Secret(..)) | None => Ok(LoginSource::Absent),
        };
        if let Err(fault) = source.and_then(|source| self.begin(&duty, source)) {
            let lease = duty.place.lease.as_str();
            tracing::error!(event = "host.lease-not-kept", lease, code = %fault.code, what = %fault.what);
        }
    }

    fn health(&self, place: &Place) -> Health {
        let nothing = Health { need: Need::Now, expires_at: None };
        let Some(key) = self.key(place) else { return nothing };
        let absent = self.manager.spec(key).is_none_or(|spec| spec.login == LoginSource::Absent);
        let status = self.status.borrow();
        let Some(lease) = status.leases.iter().find(|lease| lease.key == key) else { return nothing };
        let Some(held) = lease.state.held() else { return nothing };
        let life = held.expires_at.duration_since(held.renewed_at).unwrap_or_default();
        let half = held.expires_at - life / 2;
        let need = match &lease.state {
            _ if clock::now() >= half => Need::Now,
            LeaseState::Overdue(..) => Need::Soon,
            _ if absent => Need::Soon,
            _ => Need::Nothing,
        };
        Health { need, expires_at: Some(held.expires_at) }
    }

    fn fault(&self, place: &Place) -> Option<Fault> {
        let outcome = self.manager.outcome(self.key(place)?)?;
        outcome.borrow().as_ref().and_then(|outcome| outcome.as_ref().err().cloned())
    }

    async fn renew(&self, places: Vec<Place>, login: Login) -> Vec<(Place, Result<Got, Fault>)> {
        let domain = places.iter().find_map(|place| Some(self.manager.spec(self.key(place)?)?.domain.clone()));
        let Some(domain) = domain else { return Vec::new() };
        let (source, user) = match self.source(&login, &domain).await {
            Ok(known) => known,
            Err(fault) => return places.into_iter().map(|place| (place, Err(fault.clone()))).collect(),
        };
        let renewed = places.into_iter().map(async |place| {
            let done = self.renew_one(&place, &source).await;
            (place, done.map(|()| Got { user: user.clone(), distinguished_name: None }))
        });
        join_all(renewed).await
    }

    async fn remove(&self, place: &Place) {
        let key = self.places().keys.remove(place);
        if let Some(key) = key {
            self.manager.remove(key).wait().await;
        }
    }

    fn unused(&self) {
        self.metrics.unused();
    }

    async fn cred_spec(&self, arn: &str, keys: &AwsKeys) -> Result<Vec<u8>, Fault> {
        credspec::fetch_object(arn, &self.aws_with(keys)?).await
    }
}

fn given_login(given: &Given) -> LoginSource {
    let Given { name, password, domain } = given;
    let (user, domain, password) = (name.user.clone(), domain.clone(), password.clone());
    LoginSource::Given(Arc::new(GivenLogin { user, domain, password }))
}

fn host_secret(name: &str) -> Result<SecretArn, Fault> {
    name.parse().map_err(|error| {
        let what = "CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA does not name a secret";
        Fault::new(Code::ConfigInvalid, what).because(error)
    })
}

/// For one renewal that somebody waits for: less than the caller has.
const PATIENCE: Duration = Duration::from_secs(15);
/// The caller keeps the time.
const FOREVER: Duration = Duration::from_secs(3600);
