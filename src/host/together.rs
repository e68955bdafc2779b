//! One renewal for all leases of one gMSA that one login serves: N tasks with one CredSpec cost the directory as much as one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::credspec::LoginSource;
use crate::directory::{Extras, GmsaCredential, Renewal};
use crate::fault::{Code, Fault};
use crate::kerberos::GmsaTgt;
use crate::lease::ports::{Asked, Bridge, Domains, Renew};
use crate::name::{Account, Domain, Spn};

/// Domains whose renewals are shared while they are under way.
pub struct Together {
    domains: Arc<dyn Domains>,
    known: Mutex<HashMap<(Domain, LoginSource), Weak<Shared>>>,
    /// How many renewals are under way.
    busy: watch::Sender<usize>,
}

/// One domain as one login sees it.
struct Shared {
    domain: Arc<dyn Renew>,
    flights: Mutex<HashMap<Wanted, watch::Receiver<Option<Outcome>>>>,
    bridges: Mutex<HashMap<Account, watch::Receiver<Option<Bridged>>>>,
    busy: watch::Sender<usize>,
}

/// The renewable ticket, if there is one to be had.
type Bridged = Option<Arc<GmsaTgt>>;

type Outcome = Result<Renewal, Fault>;

/// What makes two renewals the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Wanted {
    account: Account,
    services: Vec<Spn>,
    keytab: bool,
    /// Without a key the login is proven.
    by_key: bool,
}

impl Together {
    /// Nothing is asked yet.
    pub fn new(domains: Arc<dyn Domains>) -> Self {
        Self { domains, known: Mutex::default(), busy: watch::Sender::new(0) }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(Domain, LoginSource), Weak<Shared>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Domains for Together {
    fn of(&self, domain: &Domain, login: &LoginSource) -> Result<Arc<dyn Renew>, Fault> {
        let inner = self.domains.of(domain, login)?;
        let mut known = self.known();
        let key = (domain.clone(), login.clone());
        if let Some(shared) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(Arc::new(Member(shared)));
        }
        let (flights, bridges) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { domain: inner, flights, bridges, busy: self.busy.clone() });
        known.insert(key, Arc::downgrade(&shared));
        Ok(Arc::new(Member(shared)))
    }

    fn tidy(&self) {
        self.known().retain(|_, shared| shared.strong_count() > 0);
        self.domains.tidy();
    }
}

/// A lease's share in it.
struct Member(Arc<Shared>);

impl Renew for Member {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        kept: Option<GmsaCredential>,
        extras: &'a Extras,
    ) -> Asked<'a, Renewal> {
        let wanted = Wanted {
            account: account.clone(),
            services: extras.services.clone(),
            keytab: extras.keytab,
            by_key: kept.is_some(),
        };
        let mut results = self.0.join(wanted, kept, extras.clone());
        Box::pin(async move {
            let died = || Fault::new(Code::InternalBug, "a renewal ended without a result");
            match results.wait_for(Option::is_some).await {
                Ok(result) => result.clone().unwrap_or_else(|| Err(died())),
                Err(_closed) => Err(died()),
            }
        })
    }

    /// One for all leases of the gMSA. It gives way to who waits for a ticket: of a hundred calls at once the last one
    /// does not wait for the bridges of the first.
    fn bridge<'a>(&'a self, account: &'a Account, kept: GmsaCredential) -> Bridge<'a> {
        let mut bridged = self.0.cross(account, kept);
        Box::pin(async move { bridged.wait_for(Option::is_some).await.ok()?.clone()? })
    }
}

impl Shared {
    /// Joins the renewal that is under way, or begins one. It goes on when the lease that began it ends.
    fn join(
        self: &Arc<Self>,
        wanted: Wanted,
        kept: Option<GmsaCredential>,
        extras: Extras,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut flights = self.flights();
        if let Some(results) = flights.get(&wanted) {
            return results.clone();
        }
        let (done, results) = watch::channel(None);
        flights.insert(wanted.clone(), results.clone());
        drop(flights);
        let this = Arc::clone(self);
        let busy = Busy::begin(&self.busy);
        tokio::spawn(async move {
            let _busy = busy;
            let renewed = timeout(DEADLINE, this.domain.renew(&wanted.account, kept, &extras)).await;
            this.flights().remove(&wanted);
            let late = |_| {
                let what = format!("renewing the ticket of the gMSA `{}` takes too long", wanted.account);
                Err(Fault::new(Code::DcUnreachable, what).because(format!("not done in {DEADLINE:?}")))
            };
            let _ = done.send(Some(renewed.unwrap_or_else(late)));
        });
        results
    }

    /// The same for the bridge.
    fn cross(self: &Arc<Self>, account: &Account, kept: GmsaCredential) -> watch::Receiver<Option<Bridged>> {
        let mut bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bridged) = bridges.get(account) {
            return bridged.clone();
        }
        let (done, bridged) = watch::channel(None);
        bridges.insert(account.clone(), bridged.clone());
        drop(bridges);
        let (this, account) = (Arc::clone(self), account.clone());
        tokio::spawn(async move {
            let _ = timeout(GIVES_WAY, calm(this.busy.subscribe())).await;
            let ticket = timeout(DEADLINE, this.domain.bridge(&account, kept)).await;
            this.bridges.lock().unwrap_or_else(PoisonError::into_inner).remove(&account);
            let _ = done.send(Some(ticket.ok().flatten()));
        });
        bridged
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Wanted, watch::Receiver<Option<Outcome>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A renewal that is under way.
struct Busy(watch::Sender<usize>);

impl Busy {
    fn begin(busy: &watch::Sender<usize>) -> Self {
        busy.send_modify(|count| *count += 1);
        Self(busy.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Waits until no renewal is under way, nor begins at once after the last one.
async fn calm(mut busy: watch::Receiver<usize>) {
    while busy.wait_for(|count| *count == 0).await.is_ok() {
        sleep(CALM).await;
        if *busy.borrow() == 0 {
            return;
        }
    }
}

const CALM: Duration = Duration::from_millis(50);
/// Where calls do not end a bridge is got all the same.
const GIVES_WAY: Duration = Duration::from_secs(20);

/// As long as a lease waits.
const DEADLINE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use super::*;

    /// Counts renewals, which take a second, and bridges.
    #[derive(Default)]
    struct Slow(AtomicUsize, AtomicUsize);

    struct SlowDomain(Arc<Slow>, Domain);

    impl Domains for Arc<Slow> {
        fn of(&self, domain: &Domain, _: &LoginSource) -> Result<Arc<dyn Renew>, Fault> {
            Ok(Arc::new(SlowDomain(Arc::clone(self), domain.clone())))
        }

        fn tidy(&self) {}
    }

    impl Renew for SlowDomain {
        fn renew<'a>(&'a self, account: &'a Account, _: Option<GmsaCredential>, _: &'a Extras) -> Asked<'a, Renewal> {
            self.0.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
                Ok(Renewal::sample(account, &self.1, end, end))
            })
        }

        fn bridge<'a>(&'a self, account: &'a Account, _: GmsaCredential) -> Bridge<'a> {
            self.0.1.fetch_add(1, Ordering::Relaxed);
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
            Box::pin(std::future::ready(Some(Arc::new(GmsaTgt::sample(account, &self.1, end)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_of_one_gmsa_with_one_login_are_one_while_they_are_under_way() {
        let slow = Arc::new(Slow::default());
        let together = Together::new(Arc::new(Arc::clone(&slow)));
        let domain: Domain = "corp.example.com".parse().unwrap();
        let member = |login| together.of(&domain, &login).unwrap();
        let members: Vec<_> = (0..100).map(|_| member(LoginSource::DomainJoined)).collect();
        let (one, two): (Account, Account) = ("WebApp01".parse().unwrap(), "WebApp02".parse().unwrap());
        let plain = Extras::default();
        let asked = |place: usize| if place.is_multiple_of(2) { &one } else { &two };
        let renewals = members.iter().enumerate().map(|(place, member)| member.renew(asked(place), None, &plain));
        let renewed = futures_util::future::join_all(renewals).await;
        assert!(renewed.iter().all(Result::is_ok));
        assert_eq!(slow.0.load(Ordering::Relaxed), 2);
        // Other extras, another login, or a later time: another renewal.
        let keytab = Extras { keytab: true, ..Extras::default() };
        let other = member(LoginSource::Absent);
        let (a, b, c) = tokio::join!(
            members[0].renew(&one, None, &plain),
            members[1].renew(&one, None, &keytab),
            other.renew(&one, None, &plain)
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        assert_eq!(slow.0.load(Ordering::Relaxed), 5);
        // Who began it may go.
        let leader = tokio::time::timeout(Duration::from_millis(1), members[0].renew(&one, None, &plain)).await;
        assert!(leader.is_err());
        assert!(members[1].renew(&one, None, &plain).await.is_ok());
        assert_eq!(slow.0.load(Ordering::Relaxed), 6);
        drop((members, other));
        together.tidy();
        assert!(together.known().is_empty(), "nothing is kept that no lease uses");
    }
    #[tokio::test(start_paused = true)]
    async fn a_bridge_is_got_once_for_all_leases_and_when_nobody_waits_for_a_ticket() {
        let slow = Arc::new(Slow::default());
        let together = Together::new(Arc::new(Arc::clone(&slow)));
        let domain: Domain = "corp.example.com".parse().unwrap();
        let (one, other) = (LoginSource::DomainJoined, LoginSource::Absent);
        let (one, other) = (together.of(&domain, &one).unwrap(), together.of(&domain, &other).unwrap());
        let (account, next): (Account, Account) = ("WebApp01".parse().unwrap(), "WebApp02".parse().unwrap());
        let plain = Extras::default();
        let key = one.renew(&account, None, &plain).await.unwrap().key;
        let begun = tokio::time::Instant::now();
        let bridged = || slow.1.load(Ordering::Relaxed);
        let bridges = futures_util::future::join_all((0..100).map(|_| one.bridge(&account, key.clone())));
        let renewals = async {
            // Also one that another login begins right after the first.
            other.renew(&next, None, &plain).await.unwrap();
            one.renew(&next, None, &plain).await.unwrap();
            assert_eq!(bridged(), 0, "somebody waits for a ticket");
        };
        let (bridges, ()) = tokio::join!(bridges, renewals);
        assert!(bridges.iter().all(Option::is_some));
        assert_eq!(bridged(), 1);
        assert!(begun.elapsed() < Duration::from_secs(3));
        // Where renewals never end it comes all the same.
        let busy = async {
            loop {
                one.renew(&next, None, &plain).await.unwrap();
            }
        };
        let begun = tokio::time::Instant::now();
        tokio::select! {
            () = busy => {}
            bridge = other.bridge(&account, key.clone()) => assert!(bridge.is_some()),
        }
        assert!(begun.elapsed() <= GIVES_WAY + CALM);
    }
}
