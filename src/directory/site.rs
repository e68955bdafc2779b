//! AD sites: which domain controllers are near.
//!
//! A DC tells by its list of subnets which site an address belongs to (the LDAP ping, MS-ADTS 6.3.3), DNS names the
//! DCs of each site, and the time of a connect tells which of these is the nearest. A survey of that goes on beside a
//! renewal, which does not wait for it: what it finds orders the DCs of the next one. Nothing of it is proven by
//! anyone; all that a lie could do is change that order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use tokio::time::{Instant, timeout};

use crate::directory::dc::{Locator, Site, Target, dial};
use crate::directory::ldap::Transport;
use crate::fault::{Code, Fault};
use crate::name::{Domain, Host, SiteName};

/// Finds out which of a domain's DCs are near, and has the locator prefer them. `hosts` are those known so far.
pub async fn survey(locator: Arc<Locator>, ldap: Transport, domain: Domain, hosts: Vec<Host>) {
    let site = match locator.site() {
        Site::Named(site) => Some(site.clone()),
        _ => ask(&locator, &ldap, &domain, &hosts).await.ok().and_then(|(_, site)| site),
    };
    let mut targets = match &site {
        Some(site) => locator.controllers(&domain, Some(site)).await.unwrap_or_default(),
        None => Vec::new(),
    };
    if targets.is_empty() {
        targets = locator.controllers(&domain, None).await.unwrap_or_default();
    }
    let measured = targets.into_iter().take(MEASURED).map(async |target| {
        let start = Instant::now();
        let reached = match locator.addresses(&target.host).await {
            Ok(addresses) => dial(&target.host, &addresses, ldap.service().port()).await.is_ok(),
            Err(_) => false,
        };
        (target, reached.then(|| start.elapsed()))
    });
    let mut measured = join_all(measured).await;
    if site.is_none() {
        // A choice of many by chance: what is down is no nearer than those that were not asked.
        measured.retain(|(_, time)| time.is_some());
    }
    let near = nearest_first(measured);
    if locator.prefer(&domain, &near) {
        let hosts: Vec<_> = near.iter().map(Host::as_str).collect();
        let site = site.as_ref().map_or("none", SiteName::as_str);
        tracing::info!(event = "dc.site", domain = domain.as_str(), site, hosts = hosts.join(" "));
    }
}

/// Asks the first of the hosts which site this task's address belongs to; none if the directory has no subnet for it.
pub async fn ask(
    locator: &Locator,
    ldap: &Transport,
    domain: &Domain,
    hosts: &[Host],
) -> Result<(Host, Option<SiteName>), Fault> {
    let asked = hosts.iter().take(ASKED).map(|host| Box::pin(ask_one(locator, ldap, domain, host)));
    if asked.len() == 0 {
        return Err(Fault::new(Code::DcUnreachable, "there is no domain controller to ask for the site"));
    }
    select_ok(asked).await.map(|(told, _others)| told)
}

async fn ask_one(
    locator: &Locator,
    ldap: &Transport,
    domain: &Domain,
    host: &Host,
) -> Result<(Host, Option<SiteName>), Fault> {
    let fault = || Fault::new(Code::GmsaConnectionLost, format!("`{host}` does not say which site this is"));
    let work = async {
        let stream = dial(host, &locator.addresses(host).await?, ldap.service().port()).await?;
        let mut connection = ldap.open(stream, host).await?;
        Ok::<_, Fault>(connection.netlogon(domain).await.map_err(|error| fault().because(error))?.client_site)
    };
    let site = timeout(DEADLINE, work).await.map_err(|_| fault().because(format!("no answer in {DEADLINE:?}")))??;
    Ok((host.clone(), site))
}

/// By priority, then by the time of a connect, in steps of a factor of two: what is equally near keeps the order that
/// DNS gave it by weight, and chance does not turn the order round. What cannot be reached comes last.
fn nearest_first(mut measured: Vec<(Target, Option<Duration>)>) -> Vec<Host> {
    measured.sort_by_key(|(target, time)| {
        let step = time.map_or(u32::MAX, |time| time.as_micros().max(1000).ilog2());
        (time.is_none(), target.priority, step)
    });
    measured.into_iter().map(|(target, _)| target.host).collect()
}

/// How many DCs are asked for the site; the first answer counts.
const ASKED: usize = 3;
/// How many are measured: of a large domain without sites not all.
const MEASURED: usize = 8;
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_comes_before_nearness_and_small_differences_do_not_count() {
        let target = |priority, host: &str, micros: Option<u64>| {
            let target = Target { priority, weight: 100, host: host.parse().unwrap() };
            (target, micros.map(Duration::from_micros))
        };
        let order = nearest_first(vec![
            target(0, "far", Some(80_000)),
            target(0, "dead", None),
            target(10, "late", Some(10)),
            target(0, "first", Some(900)),
            target(0, "second", Some(300)),
        ]);
        let order: Vec<_> = order.iter().map(Host::as_str).collect();
        assert_eq!(order, ["first", "second", "far", "late", "dead"]);
    }
}
