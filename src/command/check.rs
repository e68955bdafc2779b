//! `gmsa-sidecar check`: the whole chain, step by step, on the same parts as `run`.
//!
//! It goes on after a failure wherever a later step can still be tried, and writes no ticket. A step that cannot be tried
//! is skipped, with the step that stopped it. A login is proven at most once.

mod account;
mod domain;
mod host;
mod own;
mod report;
mod twins;

pub use report::{CheckReport, CheckStep, Outcome, OutputFormat, Screen};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::domain::Reachability;
use crate::aws::Aws;
use crate::config::{Config, HostSeen, UnknownVariable};
use crate::credspec::{self, CredSpec, LoginSource, Reference};
use crate::directory::dc::Locator;
use crate::directory::{Directories, Extras};
use crate::fault::{Code, Fault};
use crate::host::Mounts;
use crate::lease::follow::LeaseDefaults;
use crate::lease::ports::ReadSpecs;
use crate::login::{Login, Logins};
use crate::name::{Account, Domain};
use crate::task::{self, Task};
use crate::text::count;

/// What was configured: what of it can be used, what cannot, and which variables are not settings.
pub struct Configured {
    /// The configuration; defaults stand in for what cannot be used.
    pub config: Config,
    /// What of it cannot be used.
    pub fault: Option<Fault>,
    /// Variables that are not settings.
    pub unknown: Vec<UnknownVariable>,
    /// What is looked at on a host instead of in a task.
    pub host: Option<HostSeen>,
}

/// Tries every step in the order of `run`, shows each as it ends, and returns them all.
pub async fn check(given: Configured, screen: Screen<'_>) -> CheckReport {
    let Configured { config, fault, unknown, host } = given;
    let mut checks = Checks { config: &config, screen, report: CheckReport::default() };
    if let Some(host) = host {
        checks.host(fault, &unknown, &host).await;
        checks.screen.end(&checks.report);
        return checks.report;
    }
    let usable = checks.configuration(fault, &unknown).await;
    checks.volume().await;
    checks.listen().await;
    match Aws::new(config.aws.clone()) {
        Ok(aws) => checks.chain(&Arc::new(aws), usable).await,
        Err(_told_already) => checks.skip_all(TASK, "", "configuration"),
    }
    checks.screen.end(&checks.report);
    checks.report
}

/// The steps so far, and where they are shown.
struct Checks<'c, 's> {
    config: &'c Config,
    screen: Screen<'s>,
    report: CheckReport,
}

/// A step's work: what later steps need of it, and what was seen; or its fault.
type Tried<T> = Result<(T, Outcome), Fault>;

/// A step that passed.
fn passed<T>(value: T, seen: impl Into<String>) -> Tried<T> {
    Ok((value, Outcome::Passed(seen.into())))
}

/// One lease: what `run` would keep.
struct ConfiguredLease {
    account: Account,
    domain: Domain,
    login: LoginSource,
    extras: Extras,
}

impl Checks<'_, '_> {
    async fn step<T>(&mut self, name: &'static str, subject: &str, work: impl Future<Output = Tried<T>>) -> Option<T> {
        self.screen.begin(name, subject);
        let start = Instant::now();
        let tried = work.await;
        self.show(name, subject, tried, start.elapsed())
    }

    fn show<T>(&mut self, name: &'static str, subject: &str, tried: Tried<T>, took: Duration) -> Option<T> {
        let (value, outcome) = match tried {
            Ok((value, outcome)) => (Some(value), outcome),
            Err(fault) => (None, Outcome::Failed(fault)),
        };
        let step = CheckStep { name, subject: subject.to_owned(), outcome, took };
        self.screen.show(&step);
        self.report.steps.push(step);
        value
    }

    fn warn(&mut self, name: &'static str, subject: &str, fault: Fault, took: Duration) {
        self.show(name, subject, Ok(((), Outcome::Warned(fault))), took);
    }

    fn skip(&mut self, name: &'static str, subject: &str, why: impl Into<String>) {
        self.show(name, subject, Ok(((), Outcome::Skipped(why.into()))), Duration::ZERO);
    }

    /// These steps cannot be tried because of another one.
    fn skip_all(&mut self, names: &[&'static str], subject: &str, stopped_by: &str) {
        for name in names {
            self.skip(name, subject, format!("`{stopped_by}` failed"));
        }
    }

    /// What `host` needs; with CredSpecs that are named, also the chain.
    async fn host(&mut self, fault: Option<Fault>, unknown: &[UnknownVariable], host: &HostSeen) {
        self.host_configuration(fault, unknown, host).await;
        let mounts = tokio::task::spawn_blocking(Mounts::of_host).await.ok().flatten().map(Arc::new);
        self.host_socket(host, mounts.as_deref()).await;
        let leases = self.host_folders(host, mounts.as_ref()).await;
        self.listen().await;
        let Ok(aws) = Aws::new(self.config.aws.clone()) else { return };
        let aws = Arc::new(aws);
        self.host_domains(&aws, host, &leases).await;
        if self.config.cred_specs.as_ref().is_some_and(|specs| !specs.is_empty()) {
            self.chain(&aws, true).await;
        }
    }

    /// From the task to the tickets.
    async fn chain(&mut self, aws: &Arc<Aws>, usable: bool) {
        self.task(aws).await;
        let references = match self.references(aws, usable).await {
            Ok(references) => references,
            Err(stopped_by) => return self.skip_all(CREDSPEC, "", stopped_by),
        };
        let wanted = self.cred_specs(&references, aws).await;
        self.services_of_nobody(&wanted);
        if wanted.is_empty() {
            return self.skip_all(SECRET, "", "credspec");
        }
        let logins = Arc::new(Logins::new(Arc::clone(aws), self.config.login_keytab.clone()));
        let locator =
            Locator::new(&self.config.dns_servers, self.config.domain_controllers.clone(), self.config.site.clone());
        let locator = Arc::new(locator);
        let directories = Directories::new(
            Arc::clone(&logins),
            Arc::clone(&locator),
            self.config.ldap.clone(),
            self.config.ticket_lifetime,
        );
        let keys = unique(wanted.iter().map(|lease| (lease.domain.clone(), lease.login.clone())));
        let mut read = HashMap::new();
        for (domain, source) in &keys {
            let login = self.login(domain, source, &logins).await;
            read.insert((domain.clone(), source.clone()), login);
        }
        let mut reached = HashMap::new();
        for domain in unique(wanted.iter().map(|lease| lease.domain.clone())) {
            let Some(lease) = wanted.iter().find(|lease| lease.domain == domain) else { continue };
            let reach = self.domain(&locator, &domain, &lease.account).await;
            reached.insert(domain, reach);
        }
        let mut refused = HashSet::new();
        for key in keys {
            let (domain, source) = &key;
            let leases: Vec<_> =
                wanted.iter().filter(|lease| (&lease.domain, &lease.login) == (domain, source)).collect();
            let stopped_by = match (read.get(&key), reached.get(domain)) {
                (Some(Ok(login)), Some(Reachability::Some(ports))) => {
                    if refused.contains(&(login.version.clone(), domain.clone())) {
                        Some(format!("login {}", login.principal))
                    } else {
                        let accepted = self.leases(&directories, domain, source, login, ports, &leases).await;
                        if !accepted {
                            refused.insert((login.version.clone(), domain.clone()));
                        }
                        None
                    }
                }
                (Some(Err(stopped_by)), _) => Some(stopped_by.clone()),
                (_, Some(Reachability::None(stopped_by))) => Some(stopped_by.clone()),
                // Both were filled for every key.
                (None, _) | (_, None) => None,
            };
            if let Some(stopped_by) = stopped_by {
                self.skip_all(&["login", "bind"], domain.as_str(), &stopped_by);
                self.skip_leases(&leases, &stopped_by);
            }
        }
    }

    fn skip_leases(&mut self, leases: &[&ConfiguredLease], stopped_by: &str) {
        for lease in leases {
            self.skip_all(&["gmsa", "password", "ticket"], lease.account.as_str(), stopped_by);
            self.skip_services(&lease.extras, stopped_by);
        }
    }

    fn skip_services(&mut self, extras: &Extras, stopped_by: &str) {
        for spn in &extras.services {
            self.skip_all(&["service-ticket"], &spn.to_string(), stopped_by);
        }
    }

    fn services_of_nobody(&mut self, wanted: &[ConfiguredLease]) {
        let named = |account: &Account| wanted.iter().any(|lease| lease.account.same_as(account.as_str()));
        for account in unique(self.config.service_tickets.accounts().filter(|account| !named(account))) {
            let what = format!("GMSA_SERVICE_TICKETS names the gMSA `{account}`, and no CredSpec does");
            let next = "correct the account name in GMSA_SERVICE_TICKETS, or add the CredSpec of that gMSA";
            let fault = Fault::new(Code::ConfigInvalid, what).with_next(next);
            self.warn("service-ticket", account.as_str(), fault, Duration::ZERO);
        }
    }

    async fn task(&mut self, aws: &Aws) {
        if self.config.aws.metadata_uri.is_none() {
            return self.skip("task", "", "ECS_CONTAINER_METADATA_URI_V4 is not set: this is not an ECS task");
        }
        let read = async {
            let container = aws.metadata("").await?;
            let task = Task::parse(&container, &aws.metadata("/task").await?)?;
            passed((), describe(&task))
        };
        self.step("task", "", read).await;
    }

    /// Where the CredSpecs are; else the step that stopped it.
    async fn references(&mut self, aws: &Aws, usable: bool) -> Result<Vec<Reference>, &'static str> {
        match &self.config.cred_specs {
            Some(named) if named.is_empty() && !usable => {
                self.skip_all(&["discovery"], "", "configuration");
                Err("configuration")
            }
            Some(named) => Ok(named.clone()),
            None if self.config.aws.metadata_uri.is_none() => {
                let what = "GMSA_CREDENTIAL_SPECS is not set, and this is not an ECS task";
                let none = async { Err(Fault::new(Code::ConfigNoCredSpec, what)) };
                self.step::<Vec<Reference>>("discovery", "", none).await.ok_or("discovery")
            }
            None => {
                let found = async {
                    let references = task::discover(aws).await?;
                    let names: Vec<_> = references.iter().map(ToString::to_string).collect();
                    passed(references, format!("the task names {}", names.join(", ")))
                };
                self.step("discovery", "", found).await.ok_or("discovery")
            }
        }
    }

    /// Reads the CredSpecs; those that cannot be used are left out.
    async fn cred_specs(&mut self, references: &[Reference], aws: &Aws) -> Vec<ConfiguredLease> {
        let mut documents = Vec::new();
        for reference in references {
            match aws.list(reference) {
                None => documents.push(reference.clone()),
                Some(listing) => {
                    let listed = async {
                        let listed = listing.await?;
                        let seen = format!("it lists {}", count(listed.len(), "CredSpec"));
                        passed(listed, seen)
                    };
                    documents.extend(self.step("credspec", &reference.to_string(), listed).await.unwrap_or_default());
                }
            }
        }
        let settings = LeaseDefaults::from(self.config);
        let mut wanted: Vec<ConfiguredLease> = Vec::new();
        let mut named_by: HashMap<String, String> = HashMap::new();
        for reference in documents {
            let subject = reference.to_string();
            let read = async {
                let spec = aws.read(&reference).await?;
                for account in spec.accounts() {
                    if let Some(other) = named_by.insert(account.as_str().to_ascii_lowercase(), subject.clone()) {
                        return Err(credspec::account_twice(account, &other, &subject));
                    }
                }
                let seen = seen_of(&spec);
                passed(spec, seen)
            };
            let Some(spec) = self.step("credspec", &subject, read).await else { continue };
            wanted.extend(spec.accounts().iter().map(|account| {
                let (domain, login) = (spec.domain_of(account).clone(), spec.login().clone());
                let extras = settings.of(account, spec.overrides()).0;
                ConfiguredLease { account: account.clone(), domain, login, extras }
            }));
        }
        wanted
    }

    /// Reads a login; else the step that stopped it.
    async fn login(&mut self, domain: &Domain, source: &LoginSource, logins: &Logins) -> Result<Arc<Login>, String> {
        let (name, subject) = match (source, &self.config.login_keytab) {
            (LoginSource::Secret(arn), _) => ("secret", arn.to_string()),
            (LoginSource::DomainJoined, Some(keytab)) => ("keytab", keytab.path.display().to_string()),
            (LoginSource::DomainJoined, None) => ("keytab", domain.to_string()),
            (LoginSource::Given(_) | LoginSource::Absent, _) => ("login", domain.to_string()),
        };
        let read = async {
            let login = logins.current(source, domain).await?;
            let seen = format!("login `{}` of `{}`; {}", login.principal.name(), login.domain, login.told);
            passed(Arc::new(login), seen)
        };
        self.step(name, &subject, read).await.ok_or_else(|| format!("{name} {subject}"))
    }
}

fn seen_of(spec: &CredSpec) -> String {
    let accounts: Vec<_> = spec.accounts().iter().map(|account| format!("`{account}`")).collect();
    let login = match spec.login() {
        LoginSource::Secret(arn) => format!("login from {arn}"),
        LoginSource::DomainJoined => "login from the host's keytab".to_owned(),
        LoginSource::Given(_) | LoginSource::Absent => "login from the request".to_owned(),
    };
    format!("gMSA {} of `{}`, {login}", accounts.join(", "), spec.domain())
}

fn describe(task: &Task) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut seen = format!(
        "task definition {}:{}, region {}, {}",
        part(&task.family),
        part(&task.revision),
        part(&task.region),
        count(task.container_labels.len(), "container")
    );
    if task.clock.as_ref().is_some_and(|clock| !clock.synchronized) {
        seen += "; WARNING: the host's clock is not synchronized";
    }
    seen
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

/// The steps from each of these to the end.
const TASK: &[&str] =
    &["task", "discovery", "credspec", "secret", "dns", "dc", "login", "bind", "gmsa", "password", "ticket"];
const CREDSPEC: &[&str] = TASK.split_at(2).1;
const SECRET: &[&str] = TASK.split_at(3).1;
