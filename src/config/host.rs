//! What `host` is told beyond what all commands are.

use std::path::Path;
use std::time::Duration;

use super::{Config, FileSeen, Values};
use crate::fault::Fault;
use crate::login::HostKeytab;
use crate::text::quoted;
use crate::volume::Owner;

/// What `host` is told beyond [`Config`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// `GMSA_HOST_GROUP`: who may call besides root.
    pub group: Option<u32>,
    /// `GMSA_OWNER`, here also `:gid`.
    pub owner: Option<Owner>,
    /// `CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA` of ecs.config: the login of a joined host is in this secret.
    pub secret: Option<String>,
    /// `NOTIFY_SOCKET`: where systemd listens.
    pub notify_socket: Option<String>,
    /// `WATCHDOG_USEC`: how long systemd waits for a sign of life.
    pub watchdog: Option<Duration>,
}

/// What `check --host` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSeen {
    /// As far as it can be used.
    pub host: HostConfig,
    /// The files that were read for it.
    pub files: Vec<FileSeen>,
    /// `ECS_GMSA_SUPPORTED`: whether the agent looks for the socket.
    pub supported: Option<String>,
    /// `CREDENTIALS_FETCHER_HOST`: where it looks.
    pub agent_looks_at: Option<String>,
    /// `GMSA_LOGIN_KEYTAB` was set.
    pub keytab_is_set: bool,
}

impl Values<'_> {
    /// The configuration of `host`, which is told its CredSpecs by the ECS agent.
    pub(super) fn host(mut self) -> Result<(Config, HostConfig), Fault> {
        let read = self.read_host();
        self.sound(read)
    }

    /// The same for `check`: what can be used of it, and what cannot.
    pub(super) fn host_seen(mut self, files: Vec<FileSeen>) -> (Config, HostSeen, Option<Fault>) {
        let (config, host) = self.read_host();
        let set = |name: &str| self.environment.get(name).map(str::to_owned);
        let seen = HostSeen {
            host,
            files,
            supported: set("ECS_GMSA_SUPPORTED"),
            agent_looks_at: set("CREDENTIALS_FETCHER_HOST"),
            keytab_is_set: self.text("GMSA_LOGIN_KEYTAB").is_some(),
        };
        (config, seen, self.sound(()).err())
    }

    fn read_host(&mut self) -> (Config, HostConfig) {
        self.of_host = true;
        let group = self.parsed("GMSA_HOST_GROUP", |text| match text.parse() {
            Ok(gid) if gid != u32::MAX && !text.starts_with('+') => Ok(gid),
            _ => Err(format!("{} is not a numeric group", quoted(text))),
        });
        let owner = self
            .parsed("GMSA_OWNER", |text| Owner::or_group(text).map_err(|reason| format!("{}: {reason}", quoted(text))));
        let secret = self.environment.get(SECRET).map(str::to_owned);
        let watchdog = self.environment.get("WATCHDOG_USEC").and_then(|text| text.parse().ok());
        let watchdog = watchdog.map(Duration::from_micros);
        let notify_socket = self.environment.get("NOTIFY_SOCKET").map(str::to_owned);
        let controllers = match self.text("GMSA_DOMAIN_CONTROLLERS") {
            None => self.parsed_variable(CONTROLLERS, str::parse),
            Some(_) => None,
        };
        let mut config = self.values();
        config.domain_controllers = controllers.unwrap_or(config.domain_controllers);
        // What `net ads join` and `realm join` write.
        let keytab = || HostKeytab { path: Path::new("/etc/krb5.keytab").to_owned(), principal: None };
        config.login_keytab.get_or_insert_with(keytab);
        (config, HostConfig { group, owner, secret, notify_socket, watchdog })
    }
}

/// Keys of ecs.config, which credentials-fetcher reads too.
const SECRET: &str = "CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA";
const CONTROLLERS: &str = "DOMAIN_CONTROLLER_GMSA";
