//! `gmsa-sidecar check`: the whole chain, step by step, on the same parts as `run`.
//!
//! It goes on after a failure wherever a later step can still be tried, writes no ticket, and proves each login once:
//! a wrong password is sent to one DC, one time.

mod report;
mod twins;

pub use report::{Outcome, Report, Screen, Step, Style};

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::aws::Aws;
use crate::clock;
use crate::config::{Config, ServiceTickets, Unknown};
use crate::credspec::{self, CredSpec, LoginSource, Reference};
use crate::directory;
use crate::directory::dc::{self, DomainControllers, Locator, Service, Site};
use crate::directory::gmsa::{self, Gmsa, LDAP_DEADLINE};
use crate::directory::kdc::{self, Kdc};
use crate::directory::ldap::{Connection, Plain, Sealed, Transport};
use crate::directory::referral::follow;
use crate::directory::refusal::Refusal;
use crate::directory::server::{Confirmed, Server, unproven};
use crate::directory::session::Proven;
use crate::directory::sid::{Sid, readers};
use crate::directory::site;
use crate::fault::{Code, Fault};
use crate::kerberos::{self, ClientKey, GmsaTgt, Password, Principal, Proof, SKEW_TO_BELIEVE, TicketOptions};
use crate::login::lockout::Lockout;
use crate::login::{Login, Logins};
use crate::name::{Account, Domain, Host, Spn};
use crate::task::{self, Task};
use crate::text::{count, short};
use crate::volume::Volume;

/// What was configured: as far as it can be used, what of it cannot, and what means nothing.
pub struct Given {
    /// The configuration; defaults stand in for what cannot be used.
    pub config: Config,
    /// What of it cannot be used.
    pub fault: Option<Fault>,
    /// Variables that mean nothing.
    pub unknown: Vec<Unknown>,
}

/// Tries every step, shows each as it ends, and returns them all.
pub async fn check(given: Given, screen: Screen<'_>) -> Report {
    let mut walk = Walk { screen, lockout: Arc::default(), report: Report::default() };
    let Given { config, fault, unknown } = given;
    walk.step("configuration", "", async { configuration(&config, fault, &unknown) }).await;
    match Aws::new(config.aws.clone()) {
        Ok(aws) => walk.chain(&config, &Arc::new(aws)).await,
        Err(fault) => {
            // As a rule the configuration told it already.
            walk.skip("task", "", &fault.what);
        }
    }
    walk.volume(&config).await;
    walk.screen.end(&walk.report);
    walk.report
}

fn configuration(config: &Config, fault: Option<Fault>, unknown: &[Unknown]) -> Result<((), String), Fault> {
    if let Some(fault) = fault {
        return Err(fault);
    }
    let mut told = vec![match &config.cred_specs {
        Some(specs) => format!("GMSA_CREDENTIAL_SPECS names {}", count(specs.len(), "CredSpec")),
        None => "the ECS task is asked for its CredSpecs".to_owned(),
    }];
    told.extend(unknown.iter().map(|unknown| {
        format!("WARNING: {} is set and means nothing: is {} meant?", unknown.variable, unknown.nearest)
    }));
    Ok(((), told.join("; ")))
}

/// The steps so far, and where they are shown.
struct Walk<'a> {
    screen: Screen<'a>,
    lockout: Arc<Lockout>,
    report: Report,
}

/// A step's work: what later steps need of it, and what there is to tell; or its fault.
type Told<T> = Result<(T, String), Fault>;

impl Walk<'_> {
    async fn step<T>(&mut self, name: &'static str, subject: &str, work: impl Future<Output = Told<T>>) -> Option<T> {
        self.screen.begin(name, subject);
        let start = Instant::now();
        let told = work.await;
        self.tell(name, subject, told, start.elapsed())
    }

    fn skip(&mut self, name: &'static str, subject: &str, why: &str) {
        let subject = subject.to_owned();
        self.show(Step { name, subject, outcome: Outcome::Skipped(why.to_owned()), took: Duration::ZERO });
    }

    fn tell<T>(&mut self, name: &'static str, subject: &str, told: Told<T>, took: Duration) -> Option<T> {
        let (value, outcome) = match told {
            Ok((value, detail)) => (Some(value), Outcome::Passed(detail)),
            Err(fault) => (None, Outcome::Failed(fault)),
        };
        self.show(Step { name, subject: subject.to_owned(), outcome, took });
        value
    }

    fn show(&mut self, step: Step) {
        self.screen.show(&step);
        self.report.steps.push(step);
    }

    /// From the task to the tickets.
    async fn chain(&mut self, config: &Config, aws: &Arc<Aws>) {
        let Some(references) = self.references(config, aws).await else { return };
        let specs = self.cred_specs(&references, aws).await;
        self.services_of_nobody(&config.service_tickets, &specs);
        let logins = unique(specs.iter().map(|spec| (spec.domain().clone(), spec.login().clone())));
        let sources = Logins::new(Arc::clone(aws), config.login_keytab.clone());
        let mut read = HashMap::new();
        for (domain, source) in &logins {
            if let Some(login) = self.login(domain, source, &sources, config).await {
                read.insert((domain.clone(), source.clone()), login);
            }
        }
        let mut controllers = HashMap::new();
        for domain in unique(specs.iter().map(|spec| spec.domain().clone())) {
            let spec = specs.iter().find(|spec| *spec.domain() == domain);
            let account = spec.and_then(|spec| spec.accounts().first());
            if let (Some((locator, mut hosts)), Some(account)) = (self.domain(&domain, config).await, account) {
                if config.site != Site::Off && config.domain_controllers.of(&domain).is_empty() && hosts.len() > 1 {
                    hosts = self.site(&locator, hosts, &domain, config).await;
                }
                let reachable = self.controllers(&locator, &hosts, &domain, account, &config.ldap).await;
                controllers.extend(reachable.into_iter().next().map(|first| (domain, first)));
            }
        }
        let mut sent = HashSet::new();
        for key in logins {
            let (domain, login) = &key;
            let accounts = specs.iter().filter(|spec| (spec.domain(), spec.login()) == (domain, login));
            let accounts = unique(accounts.flat_map(CredSpec::accounts));
            let session = match (read.get(&key), controllers.get(domain)) {
                (None, _) => Err("there is no login to try"),
                (_, None) => Err("no domain controller can be reached"),
                (Some(login), Some(_)) if !sent.insert((login.version.clone(), domain.clone())) => {
                    Err("the same version of the same login was tried above; it is not sent twice")
                }
                (Some(login), Some(controller)) => Ok((login, controller)),
            };
            let session = match session {
                Ok((login, controller)) => self.log_in(domain, login, controller, config).await,
                Err(why) => {
                    self.skip("login", domain.as_str(), why);
                    self.skip("bind", domain.as_str(), why);
                    Err(why)
                }
            };
            match session {
                Ok(session) => self.accounts(domain, &accounts, &config.service_tickets, session).await,
                Err(why) => {
                    for account in accounts {
                        ["gmsa", "password", "ticket"].iter().for_each(|name| self.skip(name, account.as_str(), why));
                        self.skip_services(&config.service_tickets.of(account), why);
                    }
                }
            }
        }
    }

    fn services_of_nobody(&mut self, services: &ServiceTickets, specs: &[CredSpec]) {
        let named = |account: &Account| specs.iter().flat_map(CredSpec::accounts).any(|a| a.same_as(account.as_str()));
        for account in unique(services.accounts().filter(|account| !named(account))) {
            let what = format!("GMSA_SERVICE_TICKETS names the gMSA `{account}`, and no CredSpec does");
            let outcome = Outcome::Warned(Fault::new(Code::ConfigInvalid, what));
            let subject = account.to_string();
            self.show(Step { name: "service-ticket", subject, outcome, took: Duration::ZERO });
        }
    }

    fn skip_services(&mut self, services: &[Spn], why: &str) {
        for spn in services {
            self.skip("service-ticket", &spn.to_string(), why);
        }
    }

    /// Where the CredSpecs are.
    async fn references(&mut self, config: &Config, aws: &Aws) -> Option<Vec<Reference>> {
        if config.aws.metadata_uri.is_some() {
            let read = async {
                let container = aws.metadata("").await?;
                let task = Task::parse(&container, &aws.metadata("/task").await?)?;
                let told = describe(&task);
                Ok((task, told))
            };
            self.step("task", "", read).await;
        } else {
            self.skip("task", "", "this is no ECS task: ECS_CONTAINER_METADATA_URI_V4 is not set");
        }
        match &config.cred_specs {
            Some(named) if named.is_empty() => {
                self.skip("discovery", "", "GMSA_CREDENTIAL_SPECS cannot be used");
                None
            }
            Some(named) => Some(named.clone()),
            None if config.aws.metadata_uri.is_none() => {
                self.skip("discovery", "", "there is nobody to ask for CredSpecs");
                None
            }
            None => {
                let found = async {
                    let references = task::discover(aws).await?;
                    let names: Vec<_> = references.iter().map(ToString::to_string).collect();
                    Ok((references, format!("the task names {}", names.join(", "))))
                };
                self.step("discovery", "", found).await
            }
        }
    }

    /// Reads the CredSpecs; those that cannot be used are left out.
    async fn cred_specs(&mut self, references: &[Reference], aws: &Aws) -> Vec<CredSpec> {
        let mut specs = Vec::new();
        let mut folders: HashMap<String, String> = HashMap::new();
        for reference in references {
            let subject = reference.to_string();
            let read = async {
                let spec = credspec::fetch(reference, aws).await?;
                for account in spec.accounts() {
                    if let Some(other) = folders.insert(account.as_str().to_ascii_lowercase(), subject.clone()) {
                        let what = format!("two CredSpecs name the gMSA `{account}`");
                        let why = format!("{other} and {subject}");
                        return Err(Fault::new(Code::ConfigAccountTwice, what).because(why));
                    }
                }
                let accounts: Vec<_> = spec.accounts().iter().map(|account| format!("`{account}`")).collect();
                let login = match spec.login() {
                    LoginSource::Secret(arn) => format!("login from {arn}"),
                    LoginSource::DomainJoined => "login from the host's keytab".to_owned(),
                    LoginSource::Given(_) | LoginSource::Absent => "login from the request".to_owned(),
                };
                let told = format!("gMSA {} of `{}`, {login}", accounts.join(", "), spec.domain());
                Ok((spec, told))
            };
            specs.extend(self.step("credspec", &subject, read).await);
        }
        specs
    }

    async fn login(
        &mut self,
        domain: &Domain,
        source: &LoginSource,
        logins: &Logins,
        config: &Config,
    ) -> Option<Arc<Login>> {
        let (name, subject) = match (source, &config.login_keytab) {
            (LoginSource::Secret(arn), _) => ("secret", arn.to_string()),
            (LoginSource::DomainJoined, Some(keytab)) => ("keytab", keytab.path.display().to_string()),
            (LoginSource::DomainJoined, None) => ("keytab", domain.to_string()),
            (LoginSource::Given(_) | LoginSource::Absent, _) => ("login", domain.to_string()),
        };
        let read = async {
            let login = logins.current(source, domain).await?;
            let told = format!("login `{}` of `{}`; {}", login.principal.name(), login.domain, login.told);
            Ok((Arc::new(login), told))
        };
        self.step(name, &subject, read).await
    }

    /// Which DCs a domain has: as `run` finds them, and what each DNS server says.
    async fn domain(&mut self, domain: &Domain, config: &Config) -> Option<(Arc<Locator>, Vec<Host>)> {
        let configured = !config.domain_controllers.of(domain).is_empty();
        let servers =
            if config.dns_servers.is_empty() { Locator::system_servers() } else { config.dns_servers.clone() };
        let find = async {
            let locator =
                Arc::new(Locator::new(&config.dns_servers, config.domain_controllers.clone(), config.site.clone()));
            let (found, answers) = tokio::join!(locator.locate(domain), async {
                if configured { String::new() } else { each_server(&servers, domain).await }
            });
            let mut hosts = found.map_err(|fault| match &fault.why {
                // With one server the fault has told all of it.
                Some(why) if servers.len() > 1 => {
                    let why = format!("{why}; one by one: {answers}");
                    fault.because(why)
                }
                _ => fault,
            })?;
            if !configured && !matches!(config.site, Site::Named(_)) {
                // Those of one priority come in any order.
                hosts.sort();
            }
            let names: Vec<_> = hosts.iter().map(Host::as_str).collect();
            let source = if configured { "named by GMSA_DOMAIN_CONTROLLERS".to_owned() } else { answers };
            let told = format!("{} ({source})", names.join(", "));
            Ok(((locator, hosts), told))
        };
        self.step("dns", domain.as_str(), find).await
    }

    /// Puts the DCs that are near first. That they are not known is no more than a warning: then all of them count.
    async fn site(&mut self, locator: &Arc<Locator>, hosts: Vec<Host>, domain: &Domain, config: &Config) -> Vec<Host> {
        let find = async {
            let (site, source) = match &config.site {
                Site::Named(site) => (Some(site.clone()), "GMSA_SITE".to_owned()),
                _ => {
                    let (host, site) = site::ask(locator, &config.ldap, domain, &hosts).await?;
                    (site, format!("`{host}`"))
                }
            };
            let Some(site) = site else {
                return Ok((Vec::new(), format!("{source} knows no subnet that this task's address is in")));
            };
            let near = locator.controllers(domain, Some(&site)).await;
            let near: Vec<_> = near.unwrap_or_default().into_iter().map(|target| target.host).collect();
            let names: Vec<_> = near.iter().map(Host::as_str).collect();
            let names = if names.is_empty() { "it has no domain controllers".to_owned() } else { names.join(", ") };
            Ok((near, format!("`{site}`, says {source}: {names}")))
        };
        self.screen.begin("site", domain.as_str());
        let start = Instant::now();
        match find.await {
            Ok((near, told)) => {
                self.tell("site", domain.as_str(), Ok(((), told)), start.elapsed());
                dc::first(near, hosts)
            }
            Err(fault) => {
                let (subject, outcome) = (domain.to_string(), Outcome::Warned(fault));
                self.show(Step { name: "site", subject, outcome, took: start.elapsed() });
                hosts
            }
        }
    }

    /// Tries all DCs of a domain at once; returns those that can be reached, in their order.
    async fn controllers(
        &mut self,
        locator: &Arc<Locator>,
        hosts: &[Host],
        domain: &Domain,
        account: &Account,
        ldap: &Transport,
    ) -> Vec<Controller> {
        self.screen.begin("dc", &count(hosts.len(), "domain controller"));
        let tries = hosts.iter().map(async |host| {
            let start = Instant::now();
            (reach(locator, host, ldap.service()).await, start.elapsed())
        });
        let tries = hosts.iter().zip(join_all(tries).await);
        let mut reachable =
            self.tell_each("dc", tries.map(|(host, (told, took))| (host.clone(), told, took)).collect());
        let client = kerberos::gmsa_principal(&account.sam_account_name(), domain);
        self.screen.begin("clock", &count(reachable.len(), "domain controller"));
        let asked = reachable.iter().map(async |controller: &Controller| {
            let start = Instant::now();
            (clock_of(controller, &client, domain).await, start.elapsed())
        });
        let asked = join_all(asked).await;
        for (controller, (outcome, took)) in reachable.iter().zip(asked) {
            let subject = controller.host.to_string();
            self.show(Step { name: "clock", subject, outcome: outcome.unwrap_or_else(Outcome::Failed), took });
        }
        for host in hosts.iter().filter(|host| !reachable.iter().any(|controller| controller.host == **host)) {
            self.skip("clock", host.as_str(), "it cannot be reached");
        }
        if matches!(ldap, Transport::Tls(_)) {
            self.screen.begin("tls", &count(reachable.len(), "domain controller"));
            let opened = reachable.into_iter().map(async |controller| {
                let (host, start) = (controller.host.clone(), Instant::now());
                (host, handshake(controller, ldap).await, start.elapsed())
            });
            reachable = self.tell_each("tls", join_all(opened).await);
        }
        reachable
    }

    /// Tells what was tried with several DCs; a fault of one is a warning while another serves. Returns what serves.
    fn tell_each<T>(&mut self, name: &'static str, tries: Vec<(Host, Told<T>, Duration)>) -> Vec<T> {
        let one_serves = tries.iter().any(|(_, told, _)| told.is_ok());
        let mut serving = Vec::new();
        for (host, told, took) in tries {
            match told {
                Err(fault) if one_serves => {
                    self.show(Step { name, subject: host.to_string(), outcome: Outcome::Warned(fault), took });
                }
                told => serving.extend(self.tell(name, host.as_str(), told, took)),
            }
        }
        serving
    }

    /// Proves the login to one DC, and binds to its LDAP service.
    async fn log_in(
        &mut self,
        domain: &Domain,
        login: &Arc<Login>,
        controller: &Controller,
        config: &Config,
    ) -> Result<Session, &'static str> {
        let host = &controller.host;
        let principal = login.principal.to_string();
        let lockout = Arc::clone(&self.lockout);
        let log_in = async {
            let kdc = Arc::new(Mutex::new(controller.kdc()));
            let mut connection = controller.ldap(&config.ldap).await?;
            let (locator, lockout) = (&controller.locator, &lockout);
            let server = Server { host, domain, kdc: &kdc, locator, lockout };
            let ticket = server.ticket(login, &mut connection).await;
            let (ticket, proven) = ticket.map_err(|refusal| server.refused(&refusal, &login.principal))?;
            let trust = if login.domain == *domain { "" } else { ", by the trust between the domains" };
            let name = locator.own_name(host);
            let told =
                format!("`{host}` gave a ticket for ldap/{name}/{domain}, which only a domain controller has{trust}");
            Ok(((kdc, connection, ticket, proven), told))
        };
        let Some((kdc, connection, ticket, proven)) = self.step("login", &principal, log_in).await else {
            const WHY: &str = "the login was not accepted";
            self.skip("bind", host.as_str(), WHY);
            return Err(WHY);
        };
        let bind = async {
            let ldap = gmsa::bind(connection, &ticket, host, &principal).await?;
            let sealed = match config.ldap {
                Transport::Sasl => "signed and sealed",
                Transport::Tls(_) => "in TLS, bound to its certificate",
            };
            Ok((ldap, format!("LDAP on port {}, {sealed}", config.ldap.service().port())))
        };
        let ldap = self.step("bind", host.as_str(), bind).await.ok_or("the directory cannot be asked")?;
        let (locator, lifetime) = (Arc::clone(&controller.locator), config.ticket_lifetime);
        Ok(Session { locator, lockout, host: host.clone(), login: principal, proven, kdc, ldap, lifetime })
    }

    async fn accounts(
        &mut self,
        domain: &Domain,
        accounts: &[&Account],
        services: &ServiceTickets,
        mut session: Session,
    ) {
        for account in accounts {
            let (subject, services) = (account.as_str(), services.of(account));
            let Some(readers) = self.step("gmsa", subject, session.describe(domain, account)).await else {
                self.skip("password", subject, "the gMSA was not found");
                self.skip("ticket", subject, "there is no password");
                self.skip_services(&services, NO_TICKET);
                continue;
            };
            let ticket = match self.step("password", subject, session.read(domain, account, &readers)).await {
                Some(gmsa) => self.step("ticket", subject, session.ticket(domain, account, gmsa)).await,
                None => {
                    self.skip("ticket", subject, "there is no password");
                    None
                }
            };
            match ticket {
                Some(ticket) => {
                    for spn in &services {
                        let asked = session.service_ticket(domain, &ticket, spn);
                        self.step("service-ticket", &spn.to_string(), asked).await;
                    }
                    self.twins(domain, &ticket, &services, &session).await;
                }
                None => self.skip_services(&services, NO_TICKET),
            }
        }
    }

    async fn volume(&mut self, config: &Config) {
        let (path, owner, mode) = (config.dir.clone(), config.owner, config.mode);
        let subject = path.display().to_string();
        let inspect = async {
            // It may hang, where the volume is on a network.
            let seen = tokio::task::spawn_blocking(move || Volume::inspect(&path, owner, mode)).await;
            let seen =
                seen.map_err(|error| Fault::new(Code::InternalBug, "looking at it failed").caused_by(&error))??;
            let given = owner.map_or_else(|| "the sidecar's own user".to_owned(), |owner| format!("owner {owner}"));
            let told = format!(
                "folder of {} with mode {}, {} MiB free; files get {given} and mode {mode}",
                seen.owner,
                seen.mode,
                seen.free >> 20
            );
            Ok(((), told))
        };
        self.step("volume", &subject, inspect).await;
    }
}

/// A DC that takes connections on the ports needed.
struct Controller {
    locator: Arc<Locator>,
    host: Host,
    addresses: Vec<IpAddr>,
}

impl Controller {
    /// Its KDC, and no other: what it answers is what is to be told.
    fn kdc(&self) -> Kdc {
        Kdc::new(Arc::clone(&self.locator), std::slice::from_ref(&self.host))
    }

    /// A connection to its LDAP service, not bound yet.
    async fn ldap(&self, transport: &Transport) -> Result<Connection<Plain>, Fault> {
        let stream = dc::dial(&self.host, &self.addresses, transport.service().port()).await?;
        transport.open(stream, &self.host).await
    }
}

/// A login to one DC.
struct Session {
    locator: Arc<Locator>,
    host: Host,
    login: String,
    lockout: Arc<Lockout>,
    proven: Proven,
    kdc: Arc<Mutex<Kdc>>,
    ldap: Connection<Sealed>,
    /// What a gMSA's ticket is asked for.
    lifetime: Option<Duration>,
}

impl Session {
    /// What the directory says of a gMSA; returns who may read its password.
    async fn describe(&mut self, domain: &Domain, account: &Account) -> Told<Vec<Sid>> {
        let entry =
            gmsa::find(&mut self.ldap, domain, slice::from_ref(account), &self.login, ATTRIBUTES).await.remove(0)?;
        let enctypes = match entry.text("msDS-SupportedEncryptionTypes").and_then(|bits| bits.parse().ok()) {
            Some(bits) => format!("msDS-SupportedEncryptionTypes {bits} ({})", enctypes(bits)),
            None => "msDS-SupportedEncryptionTypes is not set: services may get RC4 tickets for it".to_owned(),
        };
        let control: u32 = entry.text("userAccountControl").and_then(|bits| bits.parse().ok()).unwrap_or_default();
        let state = if control & ACCOUNT_DISABLED == 0 { "enabled" } else { "DISABLED" };
        let name = entry.text("distinguishedName").unwrap_or("found").to_owned();
        let readers = entry.value("msDS-GroupMSAMembership").map(readers).unwrap_or_default();
        Ok((readers, format!("{name}; {state}; {enctypes}")))
    }

    /// Reads the managed password; without the right to, tells who has it.
    async fn read(&mut self, domain: &Domain, account: &Account, readers: &[Sid]) -> Told<Gmsa> {
        let read = Gmsa::read(&mut self.ldap, domain, slice::from_ref(account), &self.login).await.remove(0);
        match read.map_err(Fault::from) {
            Ok(gmsa) => {
                let mut told = vec![format!("`{}` may read it", self.login)];
                told.extend(gmsa.kvno.map(|kvno| format!("version {kvno}")));
                let hours = gmsa.password.query_interval.as_secs() / 3600;
                told.push(format!("the next one comes in {} days {} hours", hours / 24, hours % 24));
                Ok((gmsa, told.join("; ")))
            }
            Err(fault) if fault.code == Code::GmsaReadDenied => {
                let mut names = Vec::new();
                for sid in readers {
                    names.push(self.name(domain, sid).await);
                }
                let allowed = match names.as_slice() {
                    [] => "nobody, as far as the login may see".to_owned(),
                    names => names.join(", "),
                };
                let why = format!("{}; allowed are: {allowed}", fault.why.as_deref().unwrap_or_default());
                Err(fault.because(why))
            }
            Err(fault) => Err(fault),
        }
    }

    /// What the directory calls a principal; its SID if that is all there is.
    async fn name(&mut self, domain: &Domain, sid: &Sid) -> String {
        let sid = sid.to_string();
        let base = domain.base_dn();
        let search = self.ldap.search(
            &base,
            "objectSid",
            slice::from_ref(&sid),
            &["sAMAccountName", "objectClass", "groupType"],
        );
        let Ok(Ok(entries)) = timeout(LDAP_DEADLINE, search).await else { return sid };
        let name = entries.iter().find_map(|entry| {
            let kind = if entry.value("groupType").is_some() { "the group" } else { "the account" };
            Some(format!("{kind} `{}`", entry.text("sAMAccountName")?.escape_debug()))
        });
        name.unwrap_or(sid)
    }

    /// Gets a ticket, which is never written.
    async fn ticket(&mut self, domain: &Domain, account: &Account, gmsa: Gmsa) -> Told<GmsaTgt> {
        let principal = kerberos::gmsa_principal(&gmsa.sam_account_name, domain);
        let witness = directory::witness(&self.proven, account, domain, &self.kdc, &self.lockout).await?;
        let passwords = [Some(&gmsa.password.current), gmsa.password.previous.as_ref()];
        let passwords = passwords.into_iter().flatten().cloned().collect();
        let mut which = "";
        let mut ticket = self.authenticate(&principal, domain, account, gmsa.password.current).await;
        if let (Err(refusal), Some(previous)) = (&ticket, gmsa.password.previous)
            && refusal.is_wrong_password()
        {
            which = ", with the previous password: the current one becomes valid within minutes";
            ticket = self.authenticate(&principal, domain, account, previous).await;
        }
        let salt = kerberos::gmsa_salt(account, domain);
        let confirmed = match Confirmed::by(witness, ticket.as_ref().ok().map(|(_, key)| key), passwords, salt).await {
            Confirmed::Yes => "the KDC confirms the password".to_owned(),
            Confirmed::No => return Err(unproven(&self.host, account, domain).into()),
            Confirmed::Unknown(why) => format!("the KDC cannot confirm the password: {why}"),
        };
        let (ticket, _key) = ticket.map_err(|refusal| refusal.of_gmsa(&principal))?;
        let until = clock::rfc3339(ticket.expires_at());
        Ok((
            ticket,
            format!("`{}` gave a ticket for {principal} until {until}{which}; {confirmed}; it is not kept", self.host),
        ))
    }

    /// Gets a ticket for a service, and throws it away. Where the KDC knows none, tells who has the name.
    async fn service_ticket(&mut self, domain: &Domain, tgt: &GmsaTgt, spn: &Spn) -> Told<()> {
        let granted = kdc::grant(&mut *self.kdc.lock().await, tgt.as_ticket(), &kerberos::service(spn, domain)).await;
        let followed = follow(granted, spn, domain, &self.locator).await;
        match followed.map_err(|refusal| refusal.of_service(spn, tgt.client())) {
            Ok(ticket) => {
                let (realm, until) = (ticket.realm(), clock::rfc3339(ticket.expires_at()));
                Ok(((), format!("a KDC of {realm} gave a ticket for {} until {until}; it is not kept", tgt.client())))
            }
            Err(fault) if fault.code == Code::TicketServiceUnknown => {
                let holders = self.holders(domain, spn).await;
                let why = format!("{}; {holders}", fault.why.as_deref().unwrap_or_default());
                Err(fault.because(why))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Which accounts of the domain have an SPN, in words.
    async fn holders(&mut self, domain: &Domain, spn: &Spn) -> String {
        let (base, spn) = (domain.base_dn(), spn.to_string());
        let search = self.ldap.search(&base, "servicePrincipalName", slice::from_ref(&spn), &["sAMAccountName"]);
        let Ok(Ok(entries)) = timeout(LDAP_DEADLINE, search).await else {
            return format!("who has it in `{domain}` could not be asked");
        };
        let names = entries.iter().filter_map(|entry| entry.text("sAMAccountName"));
        match names.map(|name| format!("`{}`", name.escape_debug())).collect::<Vec<_>>().as_slice() {
            [] => format!("no account of `{domain}` has it"),
            [name] => format!("{name} has it"),
            names => format!("{} have it in `{domain}`: only one may", names.join(" and ")),
        }
    }

    async fn authenticate(
        &mut self,
        gmsa: &Principal,
        domain: &Domain,
        account: &Account,
        password: Password,
    ) -> Result<(GmsaTgt, ClientKey), Refusal> {
        let proof = Proof::SaltedPassword(password, kerberos::gmsa_salt(account, domain));
        let service = kerberos::ticket_granting_service(domain);
        let options = TicketOptions { lifetime: self.lifetime, forwardable: true, renewable: false };
        let mut kdc = self.kdc.lock().await;
        let (ticket, key) = kdc::authenticate(&mut kdc, gmsa, &service, proof, options).await?;
        let ticket = ticket.into_gmsa_tgt(account);
        Ok((ticket.map_err(|error| Refusal::Exchange(Some(self.host.clone()), error))?, key))
    }
}

fn describe(task: &Task) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut told = format!(
        "task definition {}:{}, region {}, {}",
        part(&task.family),
        part(&task.revision),
        part(&task.region),
        count(task.container_labels.len(), "container")
    );
    if task.clock.as_ref().is_some_and(|clock| !clock.synchronized) {
        told += "; WARNING: the host's clock is not synchronized";
    }
    told
}

/// What each DNS server says of a domain, asked at once.
async fn each_server(servers: &[SocketAddr], domain: &Domain) -> String {
    let answers = servers.iter().map(async |server| {
        let start = Instant::now();
        let found = Locator::new(&[*server], DomainControllers::default(), Site::Off).locate(domain).await;
        let took = short(start.elapsed());
        let server = if server.port() == 53 { server.ip().to_string() } else { server.to_string() };
        match found {
            Ok(hosts) => format!("{server} named {} in {took}", hosts.len()),
            Err(fault) if fault.code == Code::DcSrvNotFound => format!("{server} knows none"),
            Err(_) => format!("{server} did not answer in {took}"),
        }
    });
    join_all(answers).await.join(", ")
}

/// Connects to the ports of a DC, at once, and hangs up. Of its two for LDAP one is needed.
async fn reach(locator: &Arc<Locator>, host: &Host, ldap: Service) -> Told<Controller> {
    let addresses = locator.addresses(host).await?;
    let dial = async |service: Service| {
        let start = Instant::now();
        let dialled = dc::dial(host, &addresses, service.port()).await;
        (dialled.map(|_hangs_up| format!("TCP {} in {}", service.port(), short(start.elapsed()))), service)
    };
    let tries = tokio::join!(dial(Service::Kdc), dial(Service::Ldap), dial(Service::Ldaps));
    let mut told = vec![addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")];
    let mut faults = Vec::new();
    for (dialled, service) in <[_; 3]>::from(tries) {
        match dialled {
            Ok(time) => told.push(time),
            Err(_) if ![Service::Kdc, ldap].contains(&service) => {
                told.push(format!("TCP {} is closed (it is not needed)", service.port()));
            }
            Err(mut fault) => {
                fault.why = fault.why.map(|why| format!("port {}: {why}", service.port()));
                faults.push(fault);
            }
        }
    }
    let mut faults = faults.into_iter();
    match (faults.next(), faults.next()) {
        (None, _) => Ok((Controller { locator: Arc::clone(locator), host: host.clone(), addresses }, told.join("; "))),
        (Some(fault), None) => Err(fault),
        (Some(mut first), Some(second)) => {
            let ports = format!("{} and {}", Service::Kdc.port(), ldap.port());
            first.what = format!("the domain controller `{host}` cannot be reached on TCP ports {ports}");
            let whys = [first.why.clone(), second.why].map(Option::unwrap_or_default);
            Err(first.because(whys.join("; ")))
        }
    }
}

/// Begins a TLS connection to a DC, and hangs up.
async fn handshake(controller: Controller, transport: &Transport) -> Told<Controller> {
    let peer = controller.ldap(transport).await?.peer();
    Ok((controller, peer.map_or_else(|| "a certificate that is trusted".to_owned(), |peer| peer.to_string())))
}

/// How far the clock of a DC is from ours, by a question that counts as no failed login. What the sidecar works around
/// is a warning: not every client of the app does.
async fn clock_of(controller: &Controller, client: &Principal, domain: &Domain) -> Result<Outcome, Fault> {
    let mut kdc = controller.kdc();
    kdc.connect().await?;
    let asked = clock::now();
    let probe = kdc::probe(&mut kdc, client, &kerberos::ticket_granting_service(domain)).await;
    let answered = clock::now();
    let Some(told) = probe.map_err(|refusal| refusal.of_gmsa(client))? else {
        return Ok(Outcome::Passed("it told no time: the gMSA needs no pre-authentication".to_owned()));
    };
    let between = asked + answered.duration_since(asked).unwrap_or_default() / 2;
    let (skew, ahead) = told.skew(between);
    let words = format!("{} {} ours", short(skew), if ahead { "ahead of" } else { "behind" });
    if skew > SKEW_LIMIT {
        let what = format!("the clock of `{}` is {words}", controller.host);
        let why = format!("it says {}, ours {}", clock::rfc3339(told.kdc_time), clock::rfc3339(between));
        let fault = Fault::new(Code::TicketClockSkew, what).because(why);
        return if skew > SKEW_TO_BELIEVE { Err(fault) } else { Ok(Outcome::Warned(fault)) };
    }
    Ok(Outcome::Passed(format!("its clock is {words}")))
}

/// The bits of msDS-SupportedEncryptionTypes (MS-KILE 2.2.7).
fn enctypes(bits: u32) -> String {
    let known = [(0x4, "RC4"), (0x8, "AES128"), (0x10, "AES256"), (0x40, "AES128-SHA256"), (0x80, "AES256-SHA384")];
    let names: Vec<_> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if bits & 0x18 == 0 { format!("{}: no AES", names.join(", ")) } else { names.join(", ") }
}

/// Each once, in the order of the first.
fn unique<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut found, item| {
        if !found.contains(&item) {
            found.push(item);
        }
        found
    })
}

const ATTRIBUTES: &[&str] = &[
    "sAMAccountName",
    "distinguishedName",
    "userAccountControl",
    "msDS-SupportedEncryptionTypes",
    "msDS-GroupMSAMembership",
];

const NO_TICKET: &str = "there is no ticket-granting ticket to ask with";

/// ADS_UF_ACCOUNTDISABLE (MS-ADTS 2.2.16).
const ACCOUNT_DISABLED: u32 = 2;

/// What Kerberos allows (RFC 4120 section 8.2; AD's default).
const SKEW_LIMIT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_types_are_told_by_name() {
        assert_eq!(enctypes(28), "RC4, AES128, AES256");
        assert_eq!(enctypes(24), "AES128, AES256");
        assert_eq!(enctypes(4), "RC4: no AES");
    }

    #[test]
    fn times_are_short() {
        let told = [400, 12_000, 120_000, 2_100_000, 720_000_000].map(|micros| short(Duration::from_micros(micros)));
        assert_eq!(told, ["0.4ms", "12ms", "120ms", "2.1s", "12m"]);
    }
}
