//! The way to a domain: DNS, the site, the domain controllers' ports, clocks and certificates.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Checks, Outcome, Tried, passed};
use crate::clock;
use crate::directory::dc::{self, DcService, DomainControllers, Locator, Site};
use crate::directory::kdc::{self, Kdc};
use crate::directory::ldap::Transport;
use crate::directory::site;
use crate::fault::{Code, Fault};
use crate::kerberos::{self, Principal, SKEW_TO_BELIEVE};
use crate::name::{Account, Domain, Host};
use crate::text::{count, short};

/// How far the network lets us come.
pub(super) enum Reachability {
    /// The KDC of a domain controller, at least.
    Some(Ports),
    /// Nowhere: the step that stopped it.
    None(String),
}

/// Which services of a domain answer.
pub(super) struct Ports {
    /// A host whose KDC does.
    pub(super) kdc: Host,
    /// Whether LDAP does on some host; else the step that failed.
    pub(super) ldap: Result<(), String>,
}

/// One domain controller after the connections to its ports.
struct DialledServer {
    host: Host,
    addresses: Vec<IpAddr>,
    /// What was seen of the ports that are open, and of one that need not be.
    seen: Vec<String>,
    open: Vec<DcService>,
    closed: Vec<(DcService, Fault)>,
    took: Duration,
}

/// A DNS server that did not answer although another did.
struct Silent {
    server: SocketAddr,
    fault: Fault,
    took: Duration,
}

impl Checks<'_, '_> {
    /// Finds the domain controllers as `run` does, and connects to all of them.
    pub(super) async fn domain(&mut self, locator: &Arc<Locator>, domain: &Domain, account: &Account) -> Reachability {
        let mut silent = Vec::new();
        let Some(mut hosts) = self.dns(locator, domain, &mut silent).await else {
            let stopped_by = format!("dns {domain}");
            self.skip_all(&["dc"], domain.as_str(), &stopped_by);
            return Reachability::None(stopped_by);
        };
        if self.config.site != Site::Off && !locator.is_configured(domain) && hosts.len() > 1 {
            hosts = self.site(locator, hosts, domain).await;
        }
        self.controllers(locator, &hosts, domain, account, silent).await
    }

    /// Which DCs a domain has. Nothing is asked where the configuration names them.
    async fn dns(&mut self, locator: &Locator, domain: &Domain, silent: &mut Vec<Silent>) -> Option<Vec<Host>> {
        if locator.is_configured(domain) {
            self.skip("dns", domain.as_str(), "GMSA_DOMAIN_CONTROLLERS names the domain controllers");
            return locator.locate(domain).await.ok();
        }
        let given = &self.config.dns_servers;
        let servers = if given.is_empty() { Locator::system_servers() } else { given.clone() };
        let find = async {
            let (found, answers) = tokio::join!(locator.locate(domain), each_server(&servers, domain));
            let words = answers.iter().map(DnsAnswer::to_string).collect::<Vec<_>>().join(", ");
            let mut hosts = found.map_err(|fault| match &fault.why {
                // With one server the fault has said all of it.
                Some(why) if servers.len() > 1 => {
                    let why = format!("{why}; one by one: {words}");
                    fault.because(why)
                }
                _ => fault,
            })?;
            if !matches!(self.config.site, Site::Named(_)) {
                // Those of one priority come in any order.
                hosts.sort();
            }
            silent.extend(answers.into_iter().filter_map(DnsAnswer::silent));
            let names: Vec<_> = hosts.iter().map(Host::as_str).collect();
            let seen = format!("{} ({words})", names.join(", "));
            passed(hosts, seen)
        };
        self.screen.begin("dns", domain.as_str());
        let start = Instant::now();
        let found = find.await;
        self.show("dns", domain.as_str(), found, start.elapsed())
    }

    /// Puts the DCs that are near first. If nobody knows which are, that is no more than a warning: then all of them count.
    async fn site(&mut self, locator: &Arc<Locator>, hosts: Vec<Host>, domain: &Domain) -> Vec<Host> {
        let config = self.config;
        let find = async {
            let (site, source) = match &config.site {
                Site::Named(site) => (Some(site.clone()), "GMSA_SITE".to_owned()),
                _ => {
                    let (host, site) = site::ask(locator, &config.ldap, domain, &hosts).await?;
                    (site, format!("`{host}`"))
                }
            };
            let Some(site) = site else {
                return passed(Vec::new(), format!("{source} knows no subnet that contains this task's address"));
            };
            let near = locator.controllers(domain, Some(&site)).await;
            let near: Vec<_> = near.unwrap_or_default().into_iter().map(|target| target.host).collect();
            let names: Vec<_> = near.iter().map(Host::as_str).collect();
            let names = if names.is_empty() { "it has no domain controllers".to_owned() } else { names.join(", ") };
            passed(near, format!("`{site}`, according to {source}: {names}"))
        };
        let found = async { Ok(find.await.unwrap_or_else(|fault| (Vec::new(), Outcome::Warned(fault)))) };
        let near = self.step("site", domain.as_str(), found).await.unwrap_or_default();
        locator.prefer(domain, &near);
        dc::first(near, hosts)
    }

    /// Connects to all DCs of a domain at once: one entry for each of them. What does not block comes last.
    async fn controllers(
        &mut self,
        locator: &Arc<Locator>,
        hosts: &[Host],
        domain: &Domain,
        account: &Account,
        mut silent: Vec<Silent>,
    ) -> Reachability {
        let ldap = self.config.ldap.service();
        self.screen.begin("dc", &count(hosts.len(), "domain controller"));
        let mut all = join_all(hosts.iter().map(|host| dial(locator, host, ldap))).await;
        let served = |service: DcService, all: &[DialledServer]| {
            all.iter().find(|one| one.open.contains(&service)).map(|one| one.host.clone())
        };
        let (kdc, directory) = (served(DcService::Kdc, &all), served(ldap, &all));
        let client = kerberos::gmsa_principal(&account.sam_account_name(), domain);
        let clocks = join_all(all.iter().map(async |one| match one.open.contains(&DcService::Kdc) {
            true => Some(clock_of(locator, &one.host, &client, domain).await),
            false => None,
        }));
        let clocks = clocks.await;
        let one_is_right = clocks.iter().flatten().any(Result::is_ok);
        let mut late = Vec::new();
        for (one, clock) in all.iter_mut().zip(clocks) {
            let subject = one.host.to_string();
            match clock {
                None => {}
                Some(Ok(Outcome::Passed(words))) => one.seen.push(words),
                Some(Ok(outcome)) => late.push(("clock", subject, Ok(((), outcome)), Duration::ZERO)),
                Some(Err(fault)) if one_is_right => {
                    late.push(("clock", subject, Ok(((), Outcome::Warned(fault))), Duration::ZERO));
                }
                Some(Err(fault)) => late.push(("clock", subject, Err(fault), Duration::ZERO)),
            }
        }
        for one in all {
            let blocks = one.closed.iter().any(|(service, _)| match service {
                DcService::Kdc => kdc.is_none(),
                _ => directory.is_none(),
            });
            let (host, took) = (one.host.to_string(), one.took);
            match one.into_fault(&mut silent) {
                Ok(seen) => drop(self.show("dc", &host, passed((), seen), took)),
                Err(fault) if blocks => drop(self.show::<()>("dc", &host, Err(fault), took)),
                Err(fault) => late.push(("dc", host, Ok(((), Outcome::Warned(fault))), took)),
            }
        }
        for Silent { server, fault, took } in silent {
            late.push(("dns", server.to_string(), Ok(((), Outcome::Warned(fault))), took));
        }
        for (name, subject, tried, took) in late {
            self.show(name, &subject, tried, took);
        }
        let Some(kdc) = kdc else { return Reachability::None(format!("dc {domain}")) };
        let ldap = match directory {
            None => Err(format!("dc {domain}")),
            Some(_) => self.certificates(locator, hosts).await.then_some(()).ok_or_else(|| format!("tls {domain}")),
        };
        Reachability::Some(Ports { kdc, ldap })
    }

    /// Begins a TLS connection to each DC with `ldaps`; returns whether one can be trusted.
    async fn certificates(&mut self, locator: &Arc<Locator>, hosts: &[Host]) -> bool {
        let config = self.config;
        if matches!(config.ldap, Transport::Sasl) {
            return true;
        }
        self.screen.begin("tls", &count(hosts.len(), "domain controller"));
        let opened = join_all(hosts.iter().map(async |host| {
            let start = Instant::now();
            (host, handshake(locator, host, &config.ldap).await, start.elapsed())
        }));
        let opened = opened.await;
        let one_serves = opened.iter().any(|(_, opened, _)| opened.is_ok());
        for (host, opened, took) in opened {
            match opened {
                // Its port is closed: its own entry says so.
                Err(fault) if fault.code == Code::DcUnreachable || fault.code == Code::DcAddressNotFound => {}
                Err(fault) if one_serves => self.warn("tls", host.as_str(), fault, took),
                opened => drop(self.show("tls", host.as_str(), opened, took)),
            }
        }
        one_serves
    }
}

impl DialledServer {
    /// What was seen, or one fault for all ports that are closed. A host that is a silent DNS server too is one matter.
    fn into_fault(self, silent: &mut Vec<Silent>) -> Result<String, Fault> {
        let mut closed = self.closed.into_iter();
        let Some((service, mut fault)) = closed.next() else { return Ok(self.seen.join("; ")) };
        let more: Vec<_> = closed.collect();
        if !more.is_empty() {
            let ports: Vec<_> = more.iter().map(|(service, _)| service.port().to_string()).collect();
            let ports = format!("{} and {}", service.port(), ports.join(" and "));
            fault.what = format!("the domain controller `{}` cannot be reached on TCP ports {ports}", self.host);
            let next = fault.next().replacen(&format!("TCP port {}", service.port()), &format!("TCP ports {ports}"), 1);
            fault = fault.with_next(next);
        }
        let mut why = vec![fault.why.clone().unwrap_or_default()];
        let open: Vec<_> = self.open.iter().map(|service| service.port().to_string()).collect();
        if !open.is_empty() {
            why.push(format!("TCP port {} of it is open", open.join(" and ")));
        }
        let before = silent.len();
        silent.retain(|silent| !self.addresses.contains(&silent.server.ip()));
        if silent.len() < before {
            why.push("it is a DNS server too, and does not answer as such either".to_owned());
        }
        Err(fault.because(why.join("; ")))
    }
}

/// What one DNS server says of a domain.
struct DnsAnswer {
    server: SocketAddr,
    found: Result<Vec<Host>, Fault>,
    took: Duration,
}

impl DnsAnswer {
    fn silent(self) -> Option<Silent> {
        let Self { server, found, took } = self;
        let fault = found.err().filter(|fault| fault.code != Code::DcSrvNotFound)?;
        Some(Silent { server, fault, took })
    }
}

impl std::fmt::Display for DnsAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (server, took) = (self.server, short(self.took));
        let server = if server.port() == 53 { server.ip().to_string() } else { server.to_string() };
        match &self.found {
            Ok(hosts) => write!(f, "{server} named {} in {took}", hosts.len()),
            Err(fault) if fault.code == Code::DcSrvNotFound => write!(f, "{server} knows none"),
            Err(_) => write!(f, "{server} did not answer in {took}"),
        }
    }
}

/// What each DNS server says of a domain, asked at once.
async fn each_server(servers: &[SocketAddr], domain: &Domain) -> Vec<DnsAnswer> {
    let answers = servers.iter().map(async |server| {
        let start = Instant::now();
        let found = Locator::new(&[*server], DomainControllers::default(), Site::Off).locate(domain).await;
        DnsAnswer { server: *server, found, took: start.elapsed() }
    });
    join_all(answers).await
}

/// Connects to the ports of a DC, at once, and hangs up. Of its two for LDAP one is needed.
async fn dial(locator: &Locator, host: &Host, ldap: DcService) -> DialledServer {
    let begun = Instant::now();
    let mut dialled = DialledServer {
        host: host.clone(),
        addresses: Vec::new(),
        seen: Vec::new(),
        open: Vec::new(),
        closed: Vec::new(),
        took: Duration::ZERO,
    };
    match locator.addresses(host).await {
        Err(fault) => dialled.closed.push((DcService::Kdc, fault)),
        Ok(addresses) => {
            let dial = async |service: DcService| {
                let start = Instant::now();
                let dialled = dc::dial(host, &addresses, service.port()).await;
                (service, dialled.map(|_hangs_up| start.elapsed()))
            };
            let tries = tokio::join!(dial(DcService::Kdc), dial(DcService::Ldap), dial(DcService::Ldaps));
            dialled.seen.push(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
            for (service, tried) in <[_; 3]>::from(tries) {
                let (port, needed) = (service.port(), [DcService::Kdc, ldap].contains(&service));
                match tried {
                    Ok(took) => {
                        dialled.seen.push(format!("TCP {port} in {}", short(took)));
                        if needed {
                            dialled.open.push(service);
                        }
                    }
                    Err(_) if !needed => dialled.seen.push(format!("TCP {port} is closed (it is not needed)")),
                    Err(fault) => dialled.closed.push((service, fault)),
                }
            }
            dialled.addresses = addresses;
        }
    }
    dialled.took = begun.elapsed();
    dialled
}

/// Begins a TLS connection to a DC, and hangs up.
async fn handshake(locator: &Locator, host: &Host, transport: &Transport) -> Tried<()> {
    let stream = dc::dial(host, &locator.addresses(host).await?, transport.service().port()).await?;
    let peer = transport.open(stream, host).await?.peer();
    passed((), peer.map_or_else(|| "a certificate that is trusted".to_owned(), |peer| peer.to_string()))
}

/// How far the clock of a DC is from ours, by a question that counts as no failed login. What the sidecar works around
/// is a warning: not every client of the app does.
async fn clock_of(locator: &Arc<Locator>, host: &Host, client: &Principal, domain: &Domain) -> Result<Outcome, Fault> {
    let mut kdc = Kdc::new(Arc::clone(locator), std::slice::from_ref(host));
    kdc.connect().await?;
    let asked = clock::now();
    let probe = kdc::probe(&mut kdc, client, &kerberos::ticket_granting_service(domain)).await;
    let answered = clock::now();
    // A KDC that does not know the gMSA yet has a clock all the same.
    let Some(told) = probe.map_err(|refusal| refusal.of_gmsa(client))? else {
        return Ok(Outcome::Passed("its clock is unknown: the gMSA needs no pre-authentication".to_owned()));
    };
    let between = asked + answered.duration_since(asked).unwrap_or_default() / 2;
    let (skew, ahead) = told.skew(between);
    let words = format!("{} {} ours", short(skew), if ahead { "ahead of" } else { "behind" });
    if skew > SKEW_LIMIT {
        let what = format!("the clock of `{host}` is {words}");
        let (its, ours) = (clock::rfc3339(told.kdc_time), clock::rfc3339(between));
        let fault = Fault::new(Code::TicketClockSkew, what).because(format!("it says {its}, ours says {ours}"));
        return if skew > SKEW_TO_BELIEVE { Err(fault) } else { Ok(Outcome::Warned(fault)) };
    }
    Ok(Outcome::Passed(format!("its clock is {words}")))
}

/// What Kerberos allows (RFC 4120 section 8.2; AD's default).
const SKEW_LIMIT: Duration = Duration::from_secs(300);
