//! Renewals that the agent asks for: hourly, once for each secret of each task, and for all leases of its login.
//!
//! While it waits the agent does nothing else, so the answer comes at once where no ticket needs the login. Otherwise one
//! renewal serves all who ask with the same password.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::Code as Grpc;

use crate::aws::arn::SecretArn;
use crate::clock;
use crate::credspec::LoginSource;
use crate::fault::{Code, Fault};
use crate::name::Domain;

use super::daemon::{Daemon, Host, Ticket};
use super::document::Document;
use super::keeper::{AwsKeys, Given, Got, Keeper, Login, Need, Place};
use super::name::{LeaseId, LoginName};
use super::status::Refused;

/// The renewals under way, one for each login.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Flight>>);

/// The login's name in lower case, its domain, and the one lease if only that is meant.
type Key = (String, Domain, Option<LeaseId>);

/// The results of a renewal, once they are known.
type Results = Option<Arc<Vec<(Place, Result<Got, Fault>)>>>;

struct Flight {
    /// Another password is another renewal.
    login: Arc<Given>,
    results: watch::Receiver<Results>,
}

impl<K: Keeper> Daemon<K> {
    /// `RenewNonDomainJoinedKerberosLease`: the login has this password now.
    ///
    /// # Errors
    /// If the login is refused; or if no ticket could be renewed and one ends before the agent asks again.
    pub async fn renew(
        self: &Arc<Self>,
        login: Given,
        lease: Option<LeaseId>,
        deadline: Instant,
    ) -> Result<Vec<PathBuf>, Refused> {
        let login = Arc::new(login);
        let tickets = self.of_login(&login, lease.as_ref());
        let paths = tickets.iter().map(|ticket| ticket.path.clone()).collect();
        match tickets.iter().map(|ticket| self.need(ticket, &login)).max() {
            None | Some(Need::Nothing) => Ok(paths),
            Some(Need::Soon) => {
                drop(self.board(login, lease).await);
                Ok(paths)
            }
            Some(Need::Now) => {
                let flight = async {
                    let mut results = self.board(login, lease).await;
                    let results = results.wait_for(Option::is_some).await.ok()?;
                    results.clone()
                };
                let late = |_| Refused::Late("The renewal took too long; it goes on".to_owned());
                let results = timeout_at(deadline, flight).await.map_err(late)?.ok_or(Refused::Gone)?;
                self.judge(&results, clock::now())?;
                Ok(paths)
            }
        }
    }

    /// The tickets of a login; while its name is rotated of either name.
    fn of_login(&self, login: &Given, lease: Option<&LeaseId>) -> Vec<Ticket> {
        self.tickets(|id, ticket| {
            // The secret's text, as the agent sends it.
            let user = LoginName::new(&ticket.entry.domainless_user, &login.domain);
            ticket.is_domainless()
                && lease.is_none_or(|lease| lease == id)
                && user.is_ok_and(|user| login.name.is(&user.user))
                // Of a lease that credentials-fetcher made the login's domain is not known.
                && ticket.login_domain().is_none_or(|domain| domain == login.domain)
        })
    }

    fn need(&self, ticket: &Ticket, login: &Given) -> Need {
        let need = self.health(ticket).need;
        // A new name has to prove itself before the old one may go.
        let renamed = ticket.entry.domainless_user != login.name.spelled && login.name.old.is_some();
        if renamed && ticket.duty.is_some() { need.max(Need::Soon) } else { need }
    }

    /// Joins the renewal that is under way with this password, or begins one, after one with another password.
    async fn board(self: &Arc<Self>, login: Arc<Given>, lease: Option<LeaseId>) -> watch::Receiver<Results> {
        let key = (login.name.user.to_lowercase(), login.domain.clone(), lease);
        loop {
            let mut other = {
                let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
                match flights.entry(key.clone()) {
                    Entry::Occupied(flight) if flight.get().login == login => return flight.get().results.clone(),
                    Entry::Occupied(flight) => flight.get().results.clone(),
                    Entry::Vacant(free) => {
                        let (done, results) = watch::channel(None);
                        free.insert(Flight { login: Arc::clone(&login), results: results.clone() });
                        tokio::spawn(Arc::clone(self).fly(key, login, done));
                        return results;
                    }
                }
            };
            // It ends with a result, or without one if it died: in both cases it is over.
            let _ = other.wait_for(Option::is_some).await;
            tokio::task::yield_now().await;
        }
    }

    /// One renewal. It goes on when those who asked for it have gone.
    async fn fly(self: Arc<Self>, key: Key, login: Arc<Given>, done: watch::Sender<Results>) {
        let due = self.of_login(&login, key.2.as_ref());
        let due = due.iter().filter(|ticket| self.need(ticket, &login) > Need::Nothing);
        let places: Vec<_> = due.filter_map(|ticket| ticket.place().cloned()).collect();
        let results = self.keeper.renew(places, Login::Given(Arc::clone(&login))).await;
        let failed = results.iter().filter(|(_, result)| result.is_err()).count();
        tracing::info!(event = "host.renewed", login = %login.name.user, tickets = results.len() - failed, failed);
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        let _ = done.send(Some(Arc::new(results.clone())));
        for (place, result) in &results {
            let Ok(got) = result else { continue };
            self.note(place, |entry, extra| {
                entry.domainless_user.clone_from(&login.name.spelled);
                extra.login_domain = Some(login.domain.to_string());
                if let Some(name) = &got.distinguished_name {
                    entry.distinguished_name.clone_from(name);
                }
            })
            .await;
        }
    }

    /// Whether the agent has to know: it keeps the message that made it ask, and that is all it can do.
    fn judge(&self, results: &[(Place, Result<Got, Fault>)], now: SystemTime) -> Result<(), Refused> {
        let faults = || results.iter().filter_map(|(place, result)| Some((place, result.as_ref().err()?)));
        let refused = |fault: &Fault| {
            let status = Refused::from(fault.clone()).grpc();
            status == Grpc::Unauthenticated || fault.code == Code::TicketLoginHeld
        };
        if let Some((_, fault)) = faults().find(|(_, fault)| refused(fault)) {
            return Err(fault.clone().into());
        }
        let ends = |place: &Place| self.keeper.health(place).expires_at.is_none_or(|end| end < now + UNTIL_NEXT);
        if results.iter().all(|(_, result)| result.is_err())
            && let Some((_, fault)) = faults().find(|(place, _)| ends(place))
        {
            return Err(fault.clone().into());
        }
        Ok(())
    }

    /// `RenewKerberosArnLease`: all leases that were made by ARN, with these AWS credentials.
    pub async fn renew_by_arn(self: &Arc<Self>, keys: AwsKeys, deadline: Instant) -> Result<(), Refused> {
        let tickets = self.tickets(|_, ticket| !ticket.entry.credspec_info.is_empty() && ticket.duty.is_some());
        let due: Vec<_> = tickets.into_iter().filter(|ticket| self.health(ticket).need > Need::Nothing).collect();
        let (daemon, keys) = (Arc::clone(self), Arc::new(keys));
        // Begun is done: the next call finds what this one has renewed.
        let renewed = tokio::spawn(async move { daemon.renew_each(due, keys).await });
        match timeout_at(deadline, renewed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_died)) => Err(Refused::Gone),
            Err(_elapsed) => Err(Refused::Late("The renewal took too long; it goes on".to_owned())),
        }
    }

    /// By secret: one login serves all tickets of it.
    async fn renew_each(&self, tickets: Vec<Ticket>, keys: Arc<AwsKeys>) -> Result<(), Refused> {
        let mut by_secret: HashMap<_, Vec<Place>> = HashMap::new();
        let mut first: Result<(), Refused> = Ok(());
        let mut results = Vec::new();
        for ticket in &tickets {
            let Some(place) = ticket.place() else { continue };
            match self.secret_of(ticket, &keys).await {
                Ok(secret) => by_secret.entry(secret).or_default().push(place.clone()),
                Err(refused) => first = first.and(Err(refused)),
            }
        }
        for (secret, places) in by_secret {
            results.extend(self.keeper.renew(places, Login::Secret(secret, Arc::clone(&keys))).await);
        }
        first?;
        results.into_iter().try_for_each(|(_, result)| result.map(|_| ())).map_err(Refused::from)
    }

    /// credentials-fetcher does not always write down where the secret is; the CredSpec says it.
    async fn secret_of(&self, ticket: &Ticket, keys: &AwsKeys) -> Result<SecretArn, Refused> {
        if let Ok(arn) = ticket.entry.credential_arn.parse() {
            return Ok(arn);
        }
        let document = self.keeper.cred_spec(&ticket.entry.credspec_info, keys).await?;
        match Document::parse(&document, &Host::default())?.login {
            LoginSource::Secret(arn) => Ok(arn),
            _ => Err(Refused::invalid("The CredSpec of a lease names no login any more")),
        }
    }
}

/// The agent asks about every hour.
const UNTIL_NEXT: Duration = Duration::from_secs(65 * 60);
