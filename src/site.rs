//! AD sites: which domain controllers are near.
//!
//! A DC tells by its list of subnets which site an address belongs to (the LDAP ping, MS-ADTS 6.3.3), DNS names the
//! DCs of each site, and the time of a connect tells which of these is the nearest. A survey of that goes on beside a
//! renewal, which does not wait for it: what it finds orders the DCs of the next one. Nothing of it is proven by
//! anyone; all that a lie could do is change that order.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use tokio::time::{Instant, timeout};

use crate::dc::{Locator, Target, dial};
use crate::fault::{Code, Fault};
use crate::ldap::Transport;
use crate::name::{Domain, Host, NameError, SiteName};

/// How the choice of a domain controller looks at AD sites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Site {
    /// The site that the directory puts this task's address into.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// This one.
    Named(SiteName),
}

impl FromStr for Site {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            name => name.parse().map(Self::Named),
        }
    }
}

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
    let near = nearest_first(join_all(measured).await);
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
    let fault = || Fault::new(Code::GmsaConnectionLost, format!("`{host}` does not tell the site"));
    let work = async {
        let stream = dial(host, &locator.addresses(host).await?, ldap.service().port()).await?;
        let mut connection = ldap.open(stream, host).await?;
        Ok(connection.netlogon(domain).await.map_err(|error| fault().because(error))?.client_site)
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

/// What a DC answers to the LDAP ping: NETLOGON_SAM_LOGON_RESPONSE_EX (MS-ADTS 6.3.1.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netlogon {
    /// It is no read-only DC.
    pub is_writable: bool,
    /// The site that our address belongs to, where the directory has a subnet for it.
    pub client_site: Option<SiteName>,
}

impl Netlogon {
    /// Reads the answer, little endian; none if it is malformed.
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let opcode = u16::from_le_bytes(*answer.first_chunk()?);
        if ![LOGON_SAM_LOGON_RESPONSE_EX, LOGON_SAM_USER_UNKNOWN_EX].contains(&opcode) {
            return None;
        }
        let flags = u32::from_le_bytes(*answer.get(4..)?.first_chunk()?);
        let mut at = NAMES;
        for _forest_domain_host_netbios_computer_user_and_dc_site in 0..7 {
            name(answer, &mut at)?;
        }
        let site = name(answer, &mut at)?;
        let client_site = if site.is_empty() { None } else { Some(site.parse().ok()?) };
        Some(Self { is_writable: flags & DS_WRITABLE_FLAG != 0, client_site })
    }
}

/// A name of labels (RFC 1035 section 4.1.4), with its end put into `at`. A pointer ends it where it stands; pointers to
/// pointers are followed a few times.
fn name(blob: &[u8], at: &mut usize) -> Option<String> {
    let mut labels: Vec<&str> = Vec::new();
    let (mut from, mut end, mut jumps) = (*at, None, 0);
    loop {
        let length = usize::from(*blob.get(from)?);
        match length {
            0 => break,
            0xc0.. => {
                end = end.or(Some(from + 2));
                from = (length & 0x3f) << 8 | usize::from(*blob.get(from + 1)?);
                jumps += 1;
                if jumps > 8 {
                    return None;
                }
            }
            _ => {
                labels.push(std::str::from_utf8(blob.get(from + 1..from + 1 + length)?).ok()?);
                from += 1 + length;
                if labels.len() > 128 {
                    return None;
                }
            }
        }
    }
    *at = end.unwrap_or(from + 1);
    Some(labels.join("."))
}

const LOGON_SAM_LOGON_RESPONSE_EX: u16 = 23;
const LOGON_SAM_USER_UNKNOWN_EX: u16 = 25;
/// MS-ADTS 6.3.1.2.
const DS_WRITABLE_FLAG: u32 = 0x100;
/// Behind opcode, padding, flags and the domain's GUID.
const NAMES: usize = 24;
/// How many DCs are asked for the site; the first answer counts.
const ASKED: usize = 3;
/// How many are measured: of a large domain without sites not all.
const MEASURED: usize = 8;
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    /// What the lab's DC answers.
    fn answer() -> Vec<u8> {
        BASE64_STANDARD
            .decode(
                "FwAAAL3RAQCB317xT3NXTIE3rHkywj7MB2V4YW1wbGUDY29tAMAYA2RjMcAYB0VYQU1QTEUAA0RDMQAAF0RlZmF1bHQtRmlyc3Qt\
                 U2l0ZS1OYW1lAMA8BQAAAP////8=",
            )
            .unwrap()
    }

    #[test]
    fn the_answer_is_read_through_its_pointers() {
        let told = Netlogon::parse(&answer()).unwrap();
        assert_eq!(told.client_site.unwrap().as_str(), "Default-First-Site-Name");
        assert!(told.is_writable);
        // The read-only one's flags.
        let mut read_only = answer();
        read_only[4..8].copy_from_slice(&[0xbc, 0xc8, 1, 0]);
        assert!(!Netlogon::parse(&read_only).unwrap().is_writable);
    }

    #[test]
    fn no_site_is_no_error_and_a_loop_is_one() {
        let mut none = answer();
        let pointer = none.len() - 10;
        assert_eq!(none[pointer..pointer + 2], [0xc0, 0x3c]);
        none.splice(pointer..pointer + 2, [0]);
        assert_eq!(Netlogon::parse(&none).unwrap().client_site, None);
        let mut looping = answer();
        looping[pointer + 1] = u8::try_from(pointer).unwrap();
        assert_eq!(Netlogon::parse(&looping), None);
        assert_eq!(Netlogon::parse(&[]), None);
    }

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

    proptest! {
        #[test]
        fn no_answer_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), real in any::<bool>()) {
            if real && bytes.len() > 2 {
                bytes[..2].copy_from_slice(&[23, 0]);
            }
            let _ = Netlogon::parse(&bytes);
        }
    }
}
