//! Connections to the first controller that answers, and which others do: what the app's `krb5.conf` is made of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};

use super::{CONNECT_DEADLINE, DcService, Locator, TROUBLE, dial, peers, summary};
use crate::directory::dns::DNS_DEADLINE;
use crate::directory::race::{PENDING, Race, STEP, race};
use crate::fault::Fault;
use crate::name::Host;
use crate::progress;

/// A connect that came to an end, by its place in the order of preference.
type Dialled = (usize, Result<(Host, TcpStream), (Host, Fault)>);

impl Locator {
    /// Connects to a service of one of the hosts: they race, the preferred ones first, those in trouble last. Returns
    /// the one that it reached; the others are left alone, and those that were slow come later for a while.
    pub async fn connect(self: &Arc<Self>, hosts: &[Host], service: DcService) -> Result<(Host, TcpStream), Fault> {
        let hosts = self.by_health(hosts, service);
        let attempt = |place: usize| Arc::clone(self).attempt(place, hosts[place].clone(), service);
        let (all, rounds) =
            (race(hosts.len(), attempt), u32::try_from(hosts.len().div_ceil(PENDING)).unwrap_or(u32::MAX));
        let limit = CONNECT_DEADLINE * rounds + DNS_DEADLINE;
        let all = progress::during("dc", peers(&hosts, service.port()), limit, all);
        let Race { winner, failed, pending, begun } = all.await;
        let faults: Vec<_> = failed.into_iter().map(|(_, (host, fault))| (host, service, fault)).collect();
        let Some((place, (host, stream))) = winner else {
            faults.iter().for_each(|(host, ..)| self.avoid(host, service));
            return Err(summary(faults.into_iter().map(|(.., fault)| fault).collect()));
        };
        self.all_in_trouble(faults);
        self.passed_over(&hosts[..place], service);
        self.answered(&host, service);
        // One that serves at once needs no second; behind one that does not the next may be as dead.
        let rest = if place == 0 { Vec::new() } else { hosts[begun..].to_vec() };
        if !pending.is_empty() || !rest.is_empty() {
            let searching = (place > 0 && service == DcService::Kdc).then(|| Searching::begin(self));
            let attempt = Self::attempt;
            tokio::spawn(Arc::clone(self).look_at_the_others(service, pending, rest, attempt, searching));
        }
        Ok((host, stream))
    }

    async fn attempt(self: Arc<Self>, place: usize, host: Host, service: DcService) -> Dialled {
        let work = async { dial(&host, &self.addresses(&host).await?, service.port()).await };
        match work.await {
            Ok(stream) => (place, Ok((host, stream))),
            Err(fault) => {
                let fault = self.with_origin(fault, &host, service);
                (place, Err((host, fault)))
            }
        }
    }

    /// Sees which of the others answer, for the order of the next time and for the app's krb5.conf, and goes on through
    /// the rest until one does. Their connections are closed unused.
    async fn look_at_the_others<F: Future<Output = Dialled>>(
        self: Arc<Self>,
        service: DcService,
        mut pending: FuturesUnordered<F>,
        rest: Vec<Host>,
        attempt: impl Fn(Arc<Self>, usize, Host, DcService) -> F,
        mut searching: Option<Searching>,
    ) {
        let (mut faults, mut rest, mut found) = (Vec::new(), rest.into_iter(), false);
        let mut next = tokio::time::Instant::now();
        loop {
            let may_begin = !found && rest.len() > 0;
            let may_begin_now = may_begin && pending.len() < PENDING;
            tokio::select! {
                biased;
                Some((_, ended)) = pending.next() => match ended {
                    Ok((host, _closed)) => {
                        self.answered(&host, service);
                        found = true;
                        searching = None;
                    }
                    Err((host, fault)) => faults.push((host, service, fault)),
                },
                () = sleep_until(next), if may_begin_now => {
                    next = tokio::time::Instant::now() + STEP;
                    pending.extend(rest.next().map(|host| attempt(Arc::clone(&self), 0, host, service)));
                }
                else => break,
            }
        }
        drop(searching);
        self.all_in_trouble(faults);
    }

    /// Waits a moment for a second KDC that answers, where the preferred one did not and a second is being looked for.
    pub(in crate::directory) async fn second_answers(&self) {
        let mut searches = self.searches.subscribe();
        let _ = timeout(SECOND, searches.wait_for(|under_way| *under_way == 0)).await;
    }

    /// The hosts in the order for the app's krb5.conf, whose clients try them one by one and wait for each: the KDC
    /// that served, those that answered lately, those of which nothing is known, those that were slow or in trouble.
    pub(in crate::directory) fn for_apps(&self, hosts: &[Host], served: Option<&Host>) -> Vec<Host> {
        let memory = self.memory();
        let is_in = |seen: &std::collections::HashMap<(Host, DcService), Instant>, host: &Host| {
            seen.get(&(host.clone(), DcService::Kdc)).is_some_and(|since| since.elapsed() < TROUBLE)
        };
        let mut hosts = hosts.to_vec();
        hosts.sort_by_cached_key(|host| match host {
            host if Some(host) == served => 0,
            host if is_in(&memory.troubled, host) => 4,
            host if is_in(&memory.answered, host) => 1,
            host if is_in(&memory.passed_over, host) => 3,
            _ => 2,
        });
        hosts
    }

    /// Notes that a DC's service answered.
    fn answered(&self, host: &Host, service: DcService) {
        self.forgive(host, service);
        let (mut memory, of) = (self.memory(), (host.clone(), service));
        memory.make_room();
        memory.passed_over.remove(&of);
        memory.answered.insert(of, Instant::now());
    }

    /// Notes that a host behind these answered first.
    fn passed_over(&self, hosts: &[Host], service: DcService) {
        let mut memory = self.memory();
        memory.make_room();
        for host in hosts {
            memory.answered.remove(&(host.clone(), service));
            memory.passed_over.insert((host.clone(), service), Instant::now());
        }
    }
}

/// A search that is under way.
struct Searching(Arc<Locator>);

impl Searching {
    fn begin(locator: &Arc<Locator>) -> Self {
        locator.searches.send_modify(|under_way| *under_way += 1);
        Self(Arc::clone(locator))
    }
}

impl Drop for Searching {
    fn drop(&mut self) {
        self.0.searches.send_modify(|under_way| *under_way = under_way.saturating_sub(1));
    }
}

/// How long a renewal waits for a second KDC that answers. Ten hosts are begun in this time.
const SECOND: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::dc::{DomainControllers, Site};
    use crate::fault::Code;

    fn locator() -> Arc<Locator> {
        Arc::new(Locator::new(&[], DomainControllers::default(), Site::Off))
    }

    fn hosts(names: &[&str]) -> Vec<Host> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn apps_are_given_what_served_then_what_answered_and_last_what_is_in_trouble() {
        let (locator, all) = (locator(), hosts(&["hung", "slow", "unknown", "second", "served"]));
        locator.in_trouble(&all[0], DcService::Kdc, &Fault::new(Code::DcUnreachable, "it hangs"));
        locator.passed_over(&all[1..2], DcService::Kdc);
        locator.answered(&all[3], DcService::Kdc);
        locator.answered(&all[1], DcService::Ldap);
        let order = |served| locator.for_apps(&all, served);
        assert_eq!(order(Some(&all[4])), hosts(&["served", "second", "unknown", "slow", "hung"]));
        // The one that served comes first although it hangs now; without news the order is DNS's.
        assert_eq!(order(Some(&all[0]))[0], all[0]);
        locator.answered(&all[1], DcService::Kdc);
        assert_eq!(order(None), hosts(&["slow", "second", "unknown", "served", "hung"]));
    }

    /// Nine of ten wait for ever, then another one answers: it is looked for beyond those that were begun.
    #[tokio::test(start_paused = true)]
    async fn a_second_one_that_answers_is_looked_for_where_the_first_did_not() {
        let locator = locator();
        let rest = hosts(&["dead1", "dead2", "alive", "later"]);
        let attempt = |_: Arc<Locator>, place: usize, host: Host, _: DcService| async move {
            if host.as_str() == "alive" {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                stream.set_nonblocking(true).unwrap();
                return (place, Ok((host, TcpStream::from_std(stream).unwrap())));
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            (place, Err((host, Fault::new(Code::DcUnreachable, "no answer"))))
        };
        let (searching, start) = (Searching::begin(&locator), tokio::time::Instant::now());
        let looking = Arc::clone(&locator).look_at_the_others(
            DcService::Kdc,
            FuturesUnordered::new(),
            rest.clone(),
            attempt,
            Some(searching),
        );
        let looking = tokio::spawn(looking);
        locator.second_answers().await;
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
        assert_eq!(locator.for_apps(&rest, None), hosts(&["alive", "dead1", "dead2", "later"]));
        looking.await.unwrap();
        // What did not answer comes last, and what was not needed was not begun.
        assert_eq!(locator.for_apps(&rest, None), hosts(&["alive", "later", "dead1", "dead2"]));
        // None that answers holds a renewal up for long.
        let _searching = Searching::begin(&locator);
        let start = tokio::time::Instant::now();
        locator.second_answers().await;
        assert_eq!(start.elapsed(), SECOND);
    }
}
