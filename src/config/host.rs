//! What `host` is told beyond what all commands are.

use std::path::Path;
use std::time::Duration;

use super::{Config, Values};
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

impl Values<'_> {
    /// The configuration of `host`, which is told its CredSpecs by the ECS agent.
    pub(super) fn host(mut self) -> Result<(Config, HostConfig), Fault> {
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
        self.sound((config, HostConfig { group, owner, secret, notify_socket, watchdog }))
    }
}

/// Keys of ecs.config, which credentials-fetcher reads too.
const SECRET: &str = "CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA";
const CONTROLLERS: &str = "DOMAIN_CONTROLLER_GMSA";
