//! DNS -> domain controllers, in the order of preference, and the connections to them.
//!
//! Names are asked for as they are, with a final dot: no search list, never a reverse look-up. What a DC is called
//! is what its SRV record says.

mod answers;

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::Rng;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::Level;

use crate::directory::dns::{self, Dns};
use crate::fault::{Code, Fault, Owner};
use crate::log;
use crate::name::{Domain, Host, NameError, SiteName};
use crate::text::{items, quoted};

/// The domain controllers somebody named, in order of preference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainControllers {
    any: Vec<Host>,
    by_domain: BTreeMap<Domain, Vec<Host>>,
}

impl DomainControllers {
    /// The hosts named for a domain, in order of preference; none if DNS shall say.
    pub fn of(&self, domain: &Domain) -> &[Host] {
        self.by_domain.get(domain).unwrap_or(&self.any)
    }

    /// The domains that are named.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.by_domain.keys()
    }
}

impl FromStr for DomainControllers {
    type Err = String;

    /// `host, host` for every domain, `domain=host host` for one; several separated by `;`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut controllers = Self::default();
        for group in text.split(';').map(str::trim).filter(|group| !group.is_empty()) {
            let (domain, list) = match group.split_once('=') {
                Some((domain, list)) => (Some(domain.trim().parse::<Domain>().map_err(|e| e.to_string())?), list),
                None => (None, group),
            };
            let hosts = items(list).map(controller).collect::<Result<Vec<_>, _>>()?;
            if hosts.is_empty() {
                return Err(format!("{} names no host", quoted(group)));
            }
            let before = match domain {
                Some(domain) => controllers.by_domain.insert(domain, hosts),
                None => Some(std::mem::replace(&mut controllers.any, hosts)),
            };
            if before.is_some_and(|hosts| !hosts.is_empty()) {
                return Err(format!("{} comes after other hosts for the same domain", quoted(group)));
            }
        }
        Ok(controllers)
    }
}

/// A name, or an IPv4 address: the server then tells its name, which the KDC must know.
fn controller(name: &str) -> Result<Host, String> {
    if name.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(format!("{} is an IPv6 address: write the domain controller's name", quoted(name)));
    }
    name.parse::<Host>().map_err(|e| e.to_string())
}

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

/// Finds domain controllers, and remembers which of them are in trouble.
pub struct Locator {
    dns: Dns,
    configured: DomainControllers,
    site: Site,
    memory: Mutex<Memory>,
    /// How many searches for a second KDC that answers are under way.
    searches: watch::Sender<usize>,
}

/// What was learnt: it stands in for DNS when that fails, keeps the order of the DCs (and with it krb5.conf) steady,
/// and keeps a DC that hangs from costing its deadline again and again.
#[derive(Default)]
struct Memory {
    hosts: HashMap<Domain, Vec<Host>>,
    /// The nearest first, as a survey found them.
    near: HashMap<Domain, Vec<Host>>,
    surveyed: HashMap<Domain, Instant>,
    addresses: HashMap<Host, Vec<IpAddr>>,
    /// Of hosts that go by an alias or an address here.
    own_names: HashMap<Host, Host>,
    troubled: HashMap<(Host, DcService), Instant>,
    /// When a connect was answered.
    answered: HashMap<(Host, DcService), Instant>,
    /// Hosts whose answer came later than that of one that was tried after them.
    passed_over: HashMap<(Host, DcService), Instant>,
}

impl Memory {
    /// Lets go of what matters no more, and of everything if hosts come and go by the hundred: whoever answers DNS may
    /// name other ones each time.
    fn make_room(&mut self) {
        self.troubled.retain(|_, since| since.elapsed() < TROUBLE);
        if self.troubled.len() >= REMEMBERED {
            self.troubled.clear();
        }
        for seen in [&mut self.answered, &mut self.passed_over] {
            seen.retain(|_, since| since.elapsed() < TROUBLE);
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
        }
        if self.addresses.len() >= REMEMBERED {
            self.addresses.clear();
        }
        if self.own_names.len() >= REMEMBERED {
            self.own_names.clear();
        }
        if self.hosts.len() >= DOMAINS {
            self.hosts.clear();
            self.near.clear();
            self.surveyed.clear();
        }
    }
}

/// The services of a DC, which fail independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DcService {
    /// Kerberos, port 88.
    Kdc,
    /// LDAP, port 389.
    Ldap,
    /// LDAP over TLS, port 636.
    Ldaps,
}

impl DcService {
    /// Its TCP port.
    pub fn port(self) -> u16 {
        match self {
            Self::Kdc => 88,
            Self::Ldap => 389,
            Self::Ldaps => 636,
        }
    }
}

impl Locator {
    /// A locator that asks `servers`, or those of `/etc/resolv.conf` where none are given.
    pub fn new(servers: &[SocketAddr], configured: DomainControllers, site: Site) -> Self {
        let searches = watch::Sender::new(0);
        Self { dns: Dns::new(servers), configured, site, memory: Mutex::default(), searches }
    }

    /// The DNS servers of `/etc/resolv.conf`, asked where none are configured.
    pub fn system_servers() -> Vec<SocketAddr> {
        dns::system_servers()
    }

    /// The domain controllers of a domain in order of preference: those configured, else those of DNS, else, while DNS
    /// fails, those it named before; those that are near come first. Never empty.
    pub async fn locate(&self, domain: &Domain) -> Result<Vec<Host>, Fault> {
        let configured = self.configured.of(domain);
        if !configured.is_empty() {
            return Ok(configured.to_vec());
        }
        let asked = self.ask_for_hosts(domain).await;
        let mut memory = self.memory();
        let known = memory.hosts.get(domain);
        let hosts = match asked {
            Ok(hosts) => {
                let same = known
                    .is_some_and(|known| known.len() == hosts.len() && known.iter().all(|host| hosts.contains(host)));
                if let (true, Some(known)) = (same, known) {
                    known.clone()
                } else {
                    memory.make_room();
                    memory.hosts.insert(domain.clone(), hosts.clone());
                    hosts
                }
            }
            Err(fault) => match known {
                Some(known) => {
                    log::fault(Level::WARN, "dc.dns-failed", &fault);
                    known.clone()
                }
                None => return Err(fault),
            },
        };
        Ok(first(memory.near.get(domain).cloned().unwrap_or_default(), hosts))
    }

    /// How the choice of a domain controller looks at AD sites.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Whether it is time to find out which of a domain's controllers are near. Says so once in an hour, and only
    /// where there is a choice that nobody has made by configuration.
    pub fn is_survey_due(&self, domain: &Domain, hosts: &[Host]) -> bool {
        if self.site == Site::Off || hosts.len() < 2 || !self.configured.of(domain).is_empty() {
            return false;
        }
        let mut memory = self.memory();
        let fresh = memory.surveyed.get(domain).is_some_and(|last| last.elapsed() < SURVEY_AGE);
        if !fresh {
            memory.surveyed.insert(domain.clone(), Instant::now());
        }
        !fresh
    }

    /// The name that a host has for itself, where it was asked; else the name it goes by here.
    pub fn own_name(&self, host: &Host) -> Host {
        self.memory().own_names.get(host).unwrap_or(host).clone()
    }

    /// Notes the name that a host has for itself.
    pub fn is_called(&self, host: &Host, own: &Host) {
        let mut memory = self.memory();
        memory.make_room();
        memory.own_names.insert(host.clone(), own.clone());
    }

    /// Forgets it again: under that name it did not serve. It was nobody's word but the host's, and an alias may lead
    /// elsewhere by now.
    pub(super) fn is_not_called(&self, host: &Host, own: &Host) {
        let mut memory = self.memory();
        if memory.own_names.get(host) == Some(own) {
            memory.own_names.remove(host);
        }
    }

    /// Whether somebody named the domain controllers of this domain.
    pub fn is_configured(&self, domain: &Domain) -> bool {
        !self.configured.of(domain).is_empty()
    }

    /// Puts these controllers of a domain before all others from now on; returns whether that is news.
    pub fn prefer(&self, domain: &Domain, near: &[Host]) -> bool {
        self.memory().near.insert(domain.clone(), near.to_vec()).is_none_or(|before| before != near)
    }

    /// The domain's controllers as DNS has them, those of a configured site first.
    async fn ask_for_hosts(&self, domain: &Domain) -> Result<Vec<Host>, Fault> {
        let hosts = |targets: Vec<Target>| targets.into_iter().map(|target| target.host).collect();
        let Site::Named(site) = &self.site else { return self.controllers(domain, None).await.map(hosts) };
        let (near, all) = tokio::join!(self.controllers(domain, Some(site)), self.controllers(domain, None));
        match (near, all) {
            (Ok(near), Ok(all)) => Ok(first(hosts(near), hosts(all))),
            (Ok(near), Err(_)) => Ok(hosts(near)),
            (Err(fault), Ok(all)) => {
                log::fault(Level::WARN, "dc.site-unknown", &fault);
                Ok(hosts(all))
            }
            (Err(_), Err(fault)) => Err(fault),
        }
    }

    /// The addresses of a host, IPv4 and IPv6; while DNS fails, those it had before. Never empty.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Fault> {
        if let Ok(address) = host.as_str().parse() {
            return Ok(vec![address]);
        }
        let asked = self.dns.addresses(host).await;
        let mut memory = self.memory();
        match asked {
            Ok(addresses) => {
                memory.make_room();
                memory.addresses.insert(host.clone(), addresses.clone());
                Ok(addresses)
            }
            Err(fault) => memory.addresses.get(host).cloned().ok_or(fault),
        }
    }

    /// Says that a host was named by `GMSA_DOMAIN_CONTROLLERS`: then that may be what is wrong.
    fn with_origin(&self, fault: Fault, host: &Host, service: DcService) -> Fault {
        let lists = std::iter::once(&self.configured.any).chain(self.configured.by_domain.values());
        if !lists.flatten().any(|known| known == host) {
            return fault;
        }
        let why = fault.why.clone().unwrap_or_default();
        let fix = fault.fix.clone();
        let named = fault.because(format!("{why}; `{host}` comes from GMSA_DOMAIN_CONTROLLERS"));
        match (named.code, fix) {
            (Code::DcAddressNotFound, _) => named.owned_by(Owner::TaskDefinition).with_next(format!(
                "correct `{host}` in GMSA_DOMAIN_CONTROLLERS, or remove the variable, so that DNS names the domain \
                 controllers"
            )),
            (Code::DcUnreachable, Some(fix)) if fix.starts_with("start ") => {
                named.owned_by(Owner::TaskDefinition).with_next(format!(
                    "correct GMSA_DOMAIN_CONTROLLERS: nothing listens on TCP port {} of `{host}`; if it is a domain \
                     controller, start its service",
                    service.port()
                ))
            }
            _ => named,
        }
    }

    /// The hosts in their order, those whose service was in trouble lately behind the others.
    pub fn by_health(&self, hosts: &[Host], service: DcService) -> Vec<Host> {
        let (bad, mut good): (Vec<Host>, Vec<Host>) =
            hosts.iter().cloned().partition(|host| self.is_troubled(host, service));
        good.extend(bad);
        good
    }

    /// Notes that a DC's service failed: for a while others are preferred.
    pub fn in_trouble(&self, host: &Host, service: DcService, fault: &Fault) {
        self.all_in_trouble(vec![(host.clone(), service, fault.clone())]);
    }

    /// The same of several, in one line: a stranger's DNS may name hundreds.
    fn all_in_trouble(&self, faults: Vec<(Host, DcService, Fault)>) {
        let news = faults.iter().any(|(host, service, _)| !self.is_troubled(host, *service));
        faults.iter().for_each(|(host, service, _)| self.avoid(host, *service));
        if !faults.is_empty() {
            let fault = summary(faults.into_iter().map(|(.., fault)| fault).collect());
            let level = if news { Level::WARN } else { Level::DEBUG };
            log::fault(level, "dc.failed", &fault.with_next(DOES_NOT_BLOCK));
        }
    }

    /// Prefers others no longer.
    pub(super) fn forgive(&self, host: &Host, service: DcService) {
        self.memory().troubled.remove(&(host.clone(), service));
    }

    /// Prefers others for a while.
    pub(super) fn avoid(&self, host: &Host, service: DcService) {
        let mut memory = self.memory();
        memory.make_room();
        memory.answered.remove(&(host.clone(), service));
        memory.troubled.insert((host.clone(), service), Instant::now());
    }

    /// Whether a DC's service failed a short while ago.
    pub fn is_troubled(&self, host: &Host, service: DcService) -> bool {
        let memory = self.memory();
        memory.troubled.get(&(host.clone(), service)).is_some_and(|since| since.elapsed() < TROUBLE)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The SRV records `_ldap._tcp.dc._msdcs.<domain>`, or those of a site (MS-ADTS 6.3.2.3). Never empty.
    pub async fn controllers(&self, domain: &Domain, site: Option<&SiteName>) -> Result<Vec<Target>, Fault> {
        Ok(order(self.dns.controllers(domain, site).await?, &mut rand::thread_rng()))
    }
}

/// Connects to one of a host's addresses; the first that answers wins. Each is tried a moment after the one before, or
/// at once when that has failed (RFC 8305 section 5), and gets its deadline: an address that hangs, as IPv4 may where
/// there is only IPv6, costs little.
pub async fn dial(host: &Host, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Fault> {
    let attempt = async |address: IpAddr| {
        #[expect(clippy::disallowed_methods, reason = "this is the one door to the network of the domain")]
        let connect = TcpStream::connect((address, port));
        match timeout(CONNECT_DEADLINE, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                Err((error.kind() == ErrorKind::ConnectionRefused, format!("{address}: {}", plain(&error))))
            }
            Err(_elapsed) => Err((false, format!("{address}: no answer in {CONNECT_DEADLINE:?}"))),
        }
    };
    let mut left = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failures = Vec::new();
    while failures.len() < addresses.len() {
        attempts.extend(left.next().map(|address| attempt(*address)));
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(stream) => {
                    // Every message is one write and waits for its answer: Nagle could only delay it. A kernel that
                    // refuses the option costs time, not correctness.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(why) => failures.push(why),
            },
            () = sleep(HEAD_START), if left.len() > 0 => {}
        }
    }
    let what = format!("the domain controller `{host}` cannot be reached on TCP port {port}");
    let to: Vec<_> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
    let to = to.join(", ");
    let next = if failures.iter().all(|(refused, _)| *refused) {
        format!("start the service on `{host}` ({to}): nothing listens on its TCP port {port}")
    } else {
        format!(
            "allow TCP port {port} from the task to `{host}` ({to}): the task's security group outbound, the domain \
             controller's inbound, and a route"
        )
    };
    let why: Vec<_> = failures.into_iter().map(|(_, why)| why).collect();
    Err(Fault::new(Code::DcUnreachable, what).because(why.join("; ")).with_next(next))
}

/// The hosts that are waited for, for people.
pub(super) fn peers(hosts: &[Host], port: u16) -> String {
    let mut names: Vec<_> = hosts.iter().take(NAMED).map(|host| format!("{host}:{port}")).collect();
    if hosts.len() > NAMED {
        names.push(format!("and {} more", hosts.len() - NAMED));
    }
    names.join(", ")
}

/// An error of the system without its number.
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// One DC's fault as it is; of several a count, and the first few with their reasons.
pub(super) fn summary(mut faults: Vec<Fault>) -> Fault {
    if faults.len() == 1 {
        return faults.remove(0);
    }
    let count = faults.len();
    let told = faults.iter().take(NAMED).map(|fault| match &fault.why {
        Some(why) => format!("{}: {why}", fault.what),
        None => fault.what.clone(),
    });
    let mut told: Vec<_> = told.collect();
    if count > NAMED {
        told.push(format!("and {} more", count - NAMED));
    }
    let what = format!("none of the {count} domain controllers that were tried can be reached");
    let fault = Fault::new(Code::DcUnreachable, what).because(told.join("; "));
    match faults.into_iter().find(|fault| fault.fix.is_some()) {
        Some(Fault { fix: Some(fix), owner, .. }) => Fault { owner, ..fault.with_next(fix) },
        _ => fault,
    }
}

/// These before all others of the rest.
pub fn first(these: Vec<Host>, rest: Vec<Host>) -> Vec<Host> {
    let rest: Vec<_> = rest.into_iter().filter(|host| !these.contains(host)).collect();
    [these, rest].concat()
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The lowest is asked first.
    pub priority: u16,
    /// Its share of the load among those of the same priority.
    pub weight: u16,
    /// Whom it names.
    pub host: Host,
}

/// The order of RFC 2782: by priority, within one at random by weight, a weight of zero hardly ever first.
fn order(mut targets: Vec<Target>, random: &mut impl Rng) -> Vec<Target> {
    // Zero weights stand first within a priority, as the RFC's running sum wants it.
    targets.sort_by_key(|target| (target.priority, target.weight));
    let mut ordered = Vec::with_capacity(targets.len());
    while let Some(first) = targets.first() {
        let priority = first.priority;
        let same = targets.iter().take_while(|target| target.priority == priority);
        let total: u32 = same.map(|target| u32::from(target.weight)).sum();
        let mut left = random.gen_range(0..=total);
        let chosen = targets.iter().position(|target| {
            let weight = u32::from(target.weight);
            let taken = left <= weight;
            left = left.saturating_sub(weight);
            taken
        });
        ordered.push(targets.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// A DC that does not take a connection in this time is passed over.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// What an address has before the next one is tried too.
const HEAD_START: Duration = Duration::from_millis(250);
/// What is said of a domain controller that fails while another one serves.
const DOES_NOT_BLOCK: &str = "nothing at once: this does not block, another domain controller is used";
/// How many domain controllers or addresses a fault names.
const NAMED: usize = 5;
/// How many hosts are remembered.
const REMEMBERED: usize = 512;
/// How many domains are remembered.
const DOMAINS: usize = 256;
/// How long a survey of what is near holds.
const SURVEY_AGE: Duration = Duration::from_secs(3600);
/// How long a DC that failed stands behind the others.
const TROUBLE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn target(priority: u16, weight: u16, host: &str) -> Target {
        Target { priority, weight, host: host.parse().unwrap() }
    }

    #[test]
    fn priorities_come_first_and_weights_share_the_load() {
        let targets =
            vec![target(10, 0, "late"), target(0, 75, "heavy"), target(0, 25, "light"), target(0, 0, "never")];
        let mut first = HashMap::new();
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..1000 {
            let hosts = order(targets.clone(), &mut random);
            assert_eq!(hosts.len(), 4);
            assert_eq!(hosts[3].host.as_str(), "late");
            *first.entry(hosts[0].host.as_str().to_owned()).or_insert(0) += 1;
        }
        assert!((700..800).contains(&first["heavy"]), "{first:?}");
        assert!((200..300).contains(&first["light"]), "{first:?}");
        assert!(first.get("never").copied().unwrap_or(0) < 30, "{first:?}");
    }

    fn locator() -> Locator {
        Locator::new(&[], DomainControllers::default(), Site::Off)
    }

    /// Whoever answers DNS may name other hosts each time.
    #[test]
    fn what_is_remembered_of_hosts_does_not_pile_up() {
        let locator = locator();
        let fault = Fault::new(Code::DcUnreachable, "no");
        for at in 0..5 * REMEMBERED {
            let host: Host = format!("dc{at}.example.com").parse().unwrap();
            locator.in_trouble(&host, DcService::Ldap, &fault);
            locator.avoid(&host, DcService::Kdc);
            locator.is_called(&host, &"dc1.example.com".parse().unwrap());
            locator.memory().make_room();
            locator.memory().addresses.insert(host, Vec::new());
        }
        let memory = locator.memory();
        let kept = [memory.troubled.len(), memory.addresses.len(), memory.own_names.len(), memory.answered.len()];
        assert!(kept.iter().all(|kept| *kept <= REMEMBERED + 1), "{kept:?}");
        drop(memory);
        let last: Host = "dc.example.com".parse().unwrap();
        locator.avoid(&last, DcService::Ldap);
        assert!(locator.is_troubled(&last, DcService::Ldap), "the latest counts");
    }

    #[test]
    fn a_name_under_which_a_host_did_not_serve_is_forgotten() {
        let locator = locator();
        let [alias, one, two]: [Host; 3] =
            ["dc", "dc1", "dc2"].map(|name| format!("{name}.example.com").parse().unwrap());
        assert_eq!(locator.own_name(&alias), alias);
        locator.is_called(&alias, &one);
        assert_eq!(locator.own_name(&alias), one);
        locator.is_not_called(&alias, &two);
        assert_eq!(locator.own_name(&alias), one, "it was another name that did not serve");
        locator.is_not_called(&alias, &one);
        assert_eq!(locator.own_name(&alias), alias);
    }

    #[test]
    fn no_targets_are_no_hosts() {
        assert!(order(Vec::new(), &mut StdRng::seed_from_u64(1)).is_empty());
    }
}
