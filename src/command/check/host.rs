//! `check --host`: what is decided on the instance, and the way from there to the directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::domain::Reachability;
use super::{Checks, Outcome, Tried, passed, unique};
use crate::aws::Aws;
use crate::config::{ECS_CONFIG, FileSeen, HOST_CONF, HostSeen, UnknownVariable};
use crate::credspec::LoginSource;
use crate::directory::Directories;
use crate::directory::dc::Locator;
use crate::fault::{Code, Fault};
use crate::host::Mounts;
use crate::host::look::{self, Listener, Lying, Mounted, Socket};
use crate::login::{Login, Logins};
use crate::name::{Account, Domain};
use crate::text::count;
use crate::volume::Volume;

impl Checks<'_, '_> {
    /// The settings of the daemon, and the files that they come from.
    pub(super) async fn host_configuration(
        &mut self,
        fault: Option<Fault>,
        unknown: &[UnknownVariable],
        host: &HostSeen,
    ) {
        for file in &host.files {
            let subject = file.path.display().to_string();
            self.show("file", &subject, seen_of(file), Duration::ZERO);
            for number in &file.ignored {
                let what = format!("systemd ignores line {number} of {subject}: it is not VARIABLE=VALUE");
                let next = format!("correct line {number} of {subject}, then: systemctl restart gmsa-host");
                self.warn("file", &subject, Fault::new(Code::ConfigInvalid, what).with_next(next), Duration::ZERO);
            }
        }
        let owner = host.host.owner.map_or_else(|| "root".to_owned(), |owner| owner.to_string());
        let seen =
            format!("leases below {}, files of {owner} with mode {}", self.config.dir.display(), self.config.mode);
        self.configuration_is(fault, unknown, seen).await;
        let ecs = host.files.iter().find(|file| file.path == Path::new(ECS_CONFIG));
        if host.supported.is_none() && ecs.is_none_or(|file| file.read.is_none()) {
            return self.skip("agent", ECS_CONFIG, "it does not exist here");
        }
        let socket = self.config.host_socket.display().to_string();
        self.step("agent", ECS_CONFIG, async { agent_looks(host, &socket) }).await;
    }

    /// The units, the socket, and whether the agent has it.
    pub(super) async fn host_socket(&mut self, host: &HostSeen, mounts: Option<&Mounts>) {
        self.units();
        let path = &self.config.host_socket;
        let subject = path.display().to_string();
        let group = host.host.group;
        let socket =
            self.step("socket", &subject, async { socket_seen(look::socket(path).await, &subject, group) }).await;
        let is_served = socket.unwrap_or_default();
        match mounts {
            None => self.skip("agent", &subject, "the processes of the host are out of sight"),
            Some(_) if !is_served => self.skip("agent", &subject, "no process listens on the socket"),
            Some(mounts) => {
                self.step("agent", &subject, async { agent_has(look::mounted(path, mounts), &subject) }).await;
            }
        }
    }

    fn units(&mut self) {
        if !look::has_systemd() {
            return self.skip("units", "", "systemd does not run here");
        }
        let enabled = [("gmsa-host.socket", "sockets.target"), ("gmsa-host.service", "multi-user.target")];
        let missing: Vec<_> =
            enabled.iter().filter(|(unit, target)| !look::is_enabled(unit, target)).map(|(unit, _)| *unit).collect();
        let other = "credentials-fetcher.service";
        let tried = if !missing.is_empty() {
            let what = format!("{} does not start at boot", missing.join(" and "));
            let next = format!("systemctl enable --now {}", enabled.map(|(unit, _)| unit).join(" "));
            warned(Fault::new(Code::ConfigListen, what).with_next(next))
        } else if look::is_enabled(other, "multi-user.target") {
            let what = format!("{other} starts at boot too, and takes the socket");
            warned(Fault::new(Code::ConfigListen, what).with_next(format!("systemctl disable --now {other}")))
        } else {
            passed((), "gmsa-host.socket and gmsa-host.service start at boot")
        };
        self.show("units", "", tried, Duration::ZERO);
    }

    /// The folders, and what lies in them. Returns the gMSAs of the leases.
    pub(super) async fn host_folders(
        &mut self,
        host: &HostSeen,
        mounts: Option<&Arc<Mounts>>,
    ) -> Vec<(Account, Domain)> {
        let (dir, owner, mode) = (self.config.dir.clone(), host.host.owner, self.config.mode);
        let subject = dir.display().to_string();
        let look = async {
            let looked = tokio::task::spawn_blocking(move || {
                let state = look::folders(&dir)?;
                let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                look::of_host(&dir, &text)?;
                if dir.is_dir() {
                    Volume::inspect(&dir, owner, mode).map(|seen| (state, Some(seen.free)))
                } else {
                    Ok((state, None))
                }
            });
            let bug = |error| Fault::new(Code::InternalBug, "looking at it failed").caused_by(&error);
            let (state, free) = looked.await.map_err(bug)??;
            let free = free.map_or_else(String::new, |free| format!("; {} MiB free", free >> 20));
            passed((), format!("{state}{free}"))
        };
        self.step("volume", &subject, look).await;
        let (dir, mounts) = (self.config.dir.clone(), mounts.cloned());
        let leases =
            tokio::task::spawn_blocking(move || look::leases(&dir, mounts.as_deref())).await.unwrap_or_default();
        self.show("leases", &subject, leases_seen(&leases), Duration::ZERO);
        leases.into_iter().filter_map(|lease| lease.account).collect()
    }

    /// The login of a joined host, and all domains that are known to be used.
    pub(super) async fn host_domains(&mut self, aws: &Arc<Aws>, host: &HostSeen, leases: &[(Account, Domain)]) {
        let logins = Logins::new(Arc::clone(aws), self.config.login_keytab.clone());
        let config = self.config;
        let locator =
            Arc::new(Locator::new(&config.dns_servers, config.domain_controllers.clone(), config.site.clone()));
        let named = config.domain_controllers.domains().cloned();
        let mut domains = unique(named.chain(leases.iter().map(|(_, domain)| domain.clone())));
        let login = self.host_login(&logins, host, domains.first()).await;
        if let Some((_, login)) = &login
            && !domains.contains(&login.domain)
        {
            domains.push(login.domain.clone());
        }
        if domains.is_empty() {
            let why = "no lease, no keytab and no setting names a domain; GMSA_CREDENTIAL_SPECS can name a CredSpec";
            for step in ["dns", "dc", "login"] {
                self.skip(step, "", why);
            }
            return;
        }
        let logins = Arc::new(logins);
        let directories = Directories::new(logins, Arc::clone(&locator), config.ldap.clone(), config.ticket_lifetime);
        for domain in domains {
            let of_domain = leases.iter().find(|(_, other)| *other == domain).map(|(account, _)| account.clone());
            // Whoever is asked for, the answer has the time.
            let Some(account) = of_domain.or_else(|| "krbtgt".parse().ok()) else { continue };
            let reach = self.domain(&locator, &domain, &account).await;
            let Some((source, login)) = login.as_ref().filter(|(_, login)| login.domain == domain) else { continue };
            match reach {
                Reachability::None(stopped_by) => self.skip_all(&["login"], &login.principal.to_string(), &stopped_by),
                Reachability::Some(ports) => {
                    let prove = async {
                        let directory = directories.of(&domain, source)?;
                        let via = directory.kdc().await?;
                        directory.prove_login(&ports.kdc, &via).await.map_err(Fault::from)?;
                        passed((), format!("the KDC on `{}` accepts it", ports.kdc))
                    };
                    self.step("login", &login.principal.to_string(), prove).await;
                }
            }
        }
    }

    /// What a joined host logs in with: the secret of ecs.config, else its keytab.
    async fn host_login(
        &mut self,
        logins: &Logins,
        host: &HostSeen,
        domain: Option<&Domain>,
    ) -> Option<(LoginSource, Arc<Login>)> {
        if let Some(name) = &host.host.secret {
            let Some(domain) = domain else {
                self.skip("secret", name, "no lease and no setting names the domain of its login");
                return None;
            };
            let source = match name.parse() {
                Ok(arn) => LoginSource::Secret(arn),
                Err(error) => {
                    let what = "CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA does not name a secret";
                    let fault = Fault::new(Code::ConfigInvalid, what).because(error);
                    self.show::<()>("secret", name, Err(fault), Duration::ZERO);
                    return None;
                }
            };
            return self.login(domain, &source, logins).await.ok().map(|login| (source, login));
        }
        let keytab = self.config.login_keytab.as_ref()?;
        let path = keytab.path.clone();
        if !host.keytab_is_set && !path.exists() {
            let why = "it does not exist: this host is not joined, and serves credentialspecdomainless: alone";
            self.skip("keytab", &path.display().to_string(), why);
            return None;
        }
        let source = LoginSource::DomainJoined;
        // A keytab names its domain itself.
        let anywhere = domain.cloned().or_else(|| "localdomain".parse().ok())?;
        self.login(&anywhere, &source, logins).await.ok().map(|login| (source, login))
    }
}

fn warned<T: Default>(fault: Fault) -> Tried<T> {
    Ok((T::default(), Outcome::Warned(fault)))
}

fn seen_of(file: &FileSeen) -> Tried<()> {
    let path = file.path.display();
    match &file.read {
        Some(Ok(variables)) => passed((), format!("it sets {}", count(*variables, "variable"))),
        None if file.path == Path::new(HOST_CONF) => passed((), "it does not exist: the defaults apply"),
        None => {
            let what = format!("{path} does not exist: no ECS agent is set up here");
            warned(
                Fault::new(Code::ConfigInvalid, what)
                    .with_next(format!("echo {SUPPORTED} >>{path}; systemctl restart ecs")),
            )
        }
        Some(Err(why)) => {
            let what = format!("{path} cannot be read");
            Err(Fault::new(Code::ConfigInvalid, what).because(why).with_next("run `gmsa-sidecar check --host` as root"))
        }
    }
}

/// What ecs.config makes the agent look for.
fn agent_looks(host: &HostSeen, socket: &str) -> Tried<()> {
    let refused = |what: String, why: String, next: String| {
        Err(Fault::new(Code::ConfigInvalid, what).because(why).with_next(next))
    };
    if host.supported.as_deref() != Some("true") {
        let is =
            host.supported.as_ref().map_or_else(|| "not set".to_owned(), |text| format!("`{}`", text.escape_debug()));
        return refused(
            "the ECS agent does not look for the socket".to_owned(),
            format!("ECS_GMSA_SUPPORTED is {is} in {ECS_CONFIG}; only `true` counts"),
            format!("echo {SUPPORTED} >>{ECS_CONFIG}; systemctl restart ecs"),
        );
    }
    // What does not begin so is passed over by the agent.
    let other = host.agent_looks_at.as_deref().and_then(|text| text.strip_prefix("unix://"));
    match other.filter(|other| *other != socket) {
        Some(other) => refused(
            format!("the ECS agent looks for another socket than `{socket}`"),
            format!("CREDENTIALS_FETCHER_HOST in {ECS_CONFIG} is unix://{}", other.escape_debug()),
            format!("remove CREDENTIALS_FETCHER_HOST from {ECS_CONFIG}, then: systemctl restart ecs"),
        ),
        None => passed((), format!("{SUPPORTED}; the agent looks for {socket}")),
    }
}

/// Whether somebody listens; with that, whether it is of use to look further.
fn socket_seen(socket: Socket, path: &str, group: Option<u32>) -> Tried<bool> {
    const START: &str = "systemctl enable --now gmsa-host.socket gmsa-host.service";
    let fault = |what: String, next: &str| Fault::new(Code::ConfigListen, what).with_next(next);
    let served = |fault| Ok((true, Outcome::Warned(fault)));
    let listener = match socket {
        Socket::Served(listener) => listener,
        Socket::None => return warned(fault(format!("the socket `{path}` does not exist yet"), START)),
        Socket::Dead => {
            let next = format!("rm {path}; {START}; systemctl restart ecs");
            return Err(fault(format!("no process listens on the socket `{path}` any more"), &next));
        }
        Socket::Other => {
            let next = format!("find out what made `{path}`, and remove it");
            return Err(fault(format!("`{path}` is not a socket"), &next));
        }
        Socket::Closed(error) => {
            let next = "run `gmsa-sidecar check --host` as root";
            return Err(fault(format!("cannot connect to the socket `{path}`"), next).caused_by(&error));
        }
    };
    let Listener { process, name, mode, .. } = &listener;
    if let Some(group) = group.filter(|group| !listener.admits(*group)) {
        let what = format!("GMSA_HOST_GROUP is {group}, but the mode {mode:04o} of `{path}` keeps it out");
        let next = format!(
            "set SocketGroup={group} and SocketMode=0660 in [Socket]: systemctl edit gmsa-host.socket; then restart it and ecs"
        );
        return served(fault(what, &next));
    }
    if listener.is_credentials_fetcher() {
        let what = format!("`{name}` serves the agent on `{path}`");
        return served(fault(what, "change over as docs/host-daemon.md says, or keep credentials-fetcher"));
    }
    if listener.is_ours() {
        let what = format!("`{name}` has made the socket `{path}` itself: a restart of it cuts the agent off");
        return served(fault(
            what,
            "let systemd hold the socket: systemctl enable --now gmsa-host.socket, or restart ecs \
                                   after each restart of the container",
        ));
    }
    let whose = if listener.is_systemd() {
        "systemd holds it: the daemon can restart".to_owned()
    } else {
        process.map_or_else(|| format!("{name} listens"), |process| format!("`{name}` (process {process}) listens"))
    };
    passed(true, format!("{whose}; mode {mode:04o}"))
}

fn agent_has(mounted: Mounted, path: &str) -> Tried<()> {
    let restart = |what: String| Fault::new(Code::ConfigListen, what).with_next("systemctl restart ecs");
    match mounted {
        Mounted::Yes => passed((), "a container has this socket mounted"),
        Mounted::Former => Err(restart(format!("a container has a former socket of `{path}` mounted, which is gone"))),
        Mounted::No => {
            warned(restart(format!("no container has `{path}` mounted: the agent started before it was there")))
        }
    }
}

fn leases_seen(leases: &[Lying]) -> Tried<()> {
    let tickets = count(leases.len(), "ticket");
    if leases.iter().any(|lease| lease.mounted.is_none()) {
        let what = format!("{tickets}; which of them are in use cannot be seen, so unused leases are not removed");
        let next = "run the daemon in the host's process namespace (docker run --pid host)";
        return warned(Fault::new(Code::ConfigInvalid, what).with_next(next));
    }
    let used = leases.iter().filter(|lease| lease.mounted == Some(true)).count();
    passed((), format!("{tickets}, {used} of them mounted into containers"))
}

const SUPPORTED: &str = "ECS_GMSA_SUPPORTED=true";

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tried: Tried<impl Sized>) -> String {
        match tried {
            Ok((_, Outcome::Passed(seen))) => format!("ok: {seen}"),
            Ok((_, Outcome::Warned(fault))) => format!("warn: {}. {}", fault.what, fault.next()),
            Ok((_, outcome)) => format!("{outcome:?}"),
            Err(fault) => format!("fail {}: {}. {}", fault.code, fault.what, fault.next()),
        }
    }

    fn listener(process: i32, name: &str, mode: u32) -> Socket {
        Socket::Served(Listener { process: Some(process), name: name.to_owned(), mode, gid: 0 })
    }

    #[test]
    fn each_state_of_the_socket_has_its_words() {
        let words = |socket, group| seen(socket_seen(socket, "/s", group));
        let told = [
            words(listener(1, "systemd", 0o600), None),
            words(listener(1, "systemd", 0o600), Some(992)),
            words(listener(7, "gmsa-sidecar", 0o600), None),
            words(listener(7, "credentials-fet", 0o660), None),
            words(listener(7, "python3", 0o600), None),
            words(Socket::None, None),
            words(Socket::Dead, None),
            words(Socket::Other, None),
            words(Socket::Closed(std::io::ErrorKind::PermissionDenied.into()), None),
            seen(agent_has(Mounted::Yes, "/s")),
            seen(agent_has(Mounted::Former, "/s")),
            seen(agent_has(Mounted::No, "/s")),
        ];
        insta::assert_snapshot!(told.join("\n"));
    }
}
