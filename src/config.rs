//! Arguments and environment -> `Invocation`. The process environment is read here and nowhere else.
//!
//! Every `GMSA_` variable is one row of `settings::SETTINGS`, from which its flag, its help and its name in
//! messages are made. Values that cannot be used are all told at once, in one fault.

mod files;
mod host;
mod settings;

pub use files::{ECS_CONFIG, FileSeen, HOST_CONF};
pub use host::{HostConfig, HostSeen};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command as Parser};
use hyper::Uri;

use crate::aws::AwsSettings;
use crate::credspec::{Reference, ReferenceError, parse_references};
use crate::directory::dc::{DomainControllers, Site};
use crate::directory::ldap::Transport;
use crate::directory::tls::Tls;
use crate::fault::{Code, Fault};
use crate::kerberos::{LEAST_LIFE, REFUSED_BEFORE_END};
use crate::log;
use crate::login::HostKeytab;
use crate::name::{Account, NameError, Spn};
use crate::text::{distance, items, quoted};
use crate::volume::{Mode, Owner};

/// What the process was started to do.
#[derive(Debug)]
pub struct Invocation {
    /// The command, with all it needs.
    pub command: Command,
    /// What is logged; the defaults stand in for values that cannot be used.
    pub log: log::LogSettings,
    /// `GMSA_` variables that mean nothing: misspelt, as a rule.
    pub unknown: Vec<UnknownVariable>,
}

/// The commands. Each tells the faults of its configuration in its own way.
#[derive(Debug)]
pub enum Command {
    /// Keep every ticket fresh until SIGTERM.
    Run(Result<Config, Fault>),
    /// Get every ticket once.
    Init(Result<Config, Fault>),
    /// Serve the ECS agent of a host until SIGTERM.
    Host(Result<Box<(Config, HostConfig)>, Fault>),
    /// Try every step and tell what works.
    Check {
        /// As far as it can be used: defaults stand in for the rest.
        config: Config,
        /// What of it cannot be used.
        fault: Option<Fault>,
        /// What is looked at on a host, for `--host`.
        host: Option<Box<HostSeen>>,
        /// For programs.
        json: bool,
    },
    /// Ask the sidecar whether the app may start.
    Health {
        /// Where the sidecar listens.
        listen: Result<SocketAddr, Fault>,
        /// How long to wait for a yes.
        wait: Duration,
    },
    /// Print the page of a fault code, or the list of codes.
    Explain {
        /// As it was typed.
        code: Option<String>,
        /// For programs.
        json: bool,
    },
    /// Show what is in the caches.
    Klist {
        /// A ccache, or a folder of them.
        path: PathBuf,
        /// For programs.
        json: bool,
    },
}

/// Everything `run`, `init` and `check` are told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the CredSpecs are; discovered if absent.
    pub cred_specs: Option<Vec<Reference>>,
    /// The way to AWS, and to the task's metadata.
    pub aws: AwsSettings,
    /// The shared volume.
    pub dir: PathBuf,
    /// The owner of everything written; the process's own if absent.
    pub owner: Option<Owner>,
    /// The mode of files with tickets or keys.
    pub mode: Mode,
    /// Whether that mode was set.
    pub mode_is_set: bool,
    /// Whether a keytab is written too.
    pub keytab: bool,
    /// Whether that was set.
    pub keytab_is_set: bool,
    /// The services whose tickets are kept too.
    pub service_tickets: ServiceTickets,
    /// The HTTP address.
    pub listen: SocketAddr,
    /// The domain controllers to use instead of those that DNS names.
    pub domain_controllers: DomainControllers,
    /// The DNS servers for AD names; those of the system if empty.
    pub dns_servers: Vec<SocketAddr>,
    /// What keeps the managed password from other eyes on its way.
    pub ldap: Transport,
    /// How the choice of a domain controller looks at AD sites.
    pub site: Site,
    /// The login for CredSpecs without a CredentialArn.
    pub login_keytab: Option<HostKeytab>,
    /// The life that is asked for; as long as the KDC allows if absent.
    pub ticket_lifetime: Option<Duration>,
    /// How long `init` tries.
    pub init_timeout: Duration,
    /// How long `run` may take to be ready for the first time.
    pub start_timeout: Option<Duration>,
    /// The level of the log.
    pub log_level: String,
    /// `GMSA_` variables that mean nothing.
    pub unknown: Vec<String>,
    /// Where `host` listens for the ECS agent.
    pub host_socket: PathBuf,
    /// Whether metrics go to stdout in CloudWatch's embedded metric format.
    pub emf: bool,
}

/// The services whose tickets are kept beside the TGT: for every gMSA, or for one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTickets(Vec<(Option<Account>, Spn)>);

/// A `GMSA_` variable that means nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownVariable {
    /// As it is set.
    pub variable: String,
    /// The one that looks most like it.
    pub nearest: &'static str,
}

impl Invocation {
    /// Reads the arguments, the program's name first; what they leave open is looked up in the environment.
    ///
    /// # Errors
    /// What clap has to say: a usage error, or the help and version that were asked for.
    pub fn new(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> Result<Self, clap::Error> {
        let matches = parser().try_get_matches_from(arguments)?;
        let (name, matches) = matches.subcommand().unwrap_or((RUN, &matches));
        let mut values = Values::new(matches, environment);
        let log = values.log();
        let mut unknown = unknown(environment);
        let command = match name {
            HEALTH => {
                let mut values = Values::new(matches, environment);
                let listen = values.listen();
                let wait = matches.get_one(WAIT).copied().unwrap_or_default();
                Command::Health { listen: values.sound(listen), wait }
            }
            KLIST => {
                let path = matches.get_one::<PathBuf>(PATH).cloned();
                Command::Klist { path: path.unwrap_or_else(|| values.dir()), json: matches.get_flag(JSON) }
            }
            EXPLAIN => {
                let code = matches.get_one::<String>(CODE).cloned();
                Command::Explain { code, json: matches.get_flag(JSON) }
            }
            CHECK if matches.get_flag(HOST) => {
                let (environment, files) = environment.with_files_of_host();
                unknown = self::unknown(&environment);
                let (config, host, fault) = Values::new(matches, &environment).host_seen(files);
                Command::Check { config, fault, host: Some(Box::new(host)), json: matches.get_flag(JSON) }
            }
            CHECK => {
                let (config, fault) = values.read();
                Command::Check { config, fault, host: None, json: matches.get_flag(JSON) }
            }
            INIT => Command::Init(values.config()),
            HOST => Command::Host(values.host().map(Box::new)),
            _ => Command::Run(values.config()),
        };
        Ok(Self { command, log, unknown })
    }
}

const RUN: &str = "run";
const INIT: &str = "init";
const HOST: &str = "host";
const CHECK: &str = "check";
const HEALTH: &str = "health";
const KLIST: &str = "klist";
const EXPLAIN: &str = "explain";
const CODE: &str = "code";
const WAIT: &str = "wait";
const PATH: &str = "path";
const JSON: &str = "json";

/// The command line.
fn parser() -> Parser {
    let every = || settings::SETTINGS.iter().map(settings::Setting::arg);
    Parser::new("gmsa-sidecar")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .after_help("Every option can be set in the environment; `help run` lists them all.")
        .subcommand_required(true)
        .subcommand(
            Parser::new(RUN)
                .about("Get every ticket and keep it fresh until SIGTERM")
                .long_about(ABOUT_RUN)
                .args(every()),
        )
        .subcommand(
            Parser::new(INIT).about("Get every ticket once, write it and exit").long_about(ABOUT_INIT).args(every()),
        )
        .subcommand(
            Parser::new(HOST)
                .about("Serve the ECS agent of a host: native credentialSpecs without credentials-fetcher")
                .long_about(ABOUT_HOST)
                .args(every().filter(|arg| !NOT_OF_HOST.contains(&arg.get_id().as_str()))),
        )
        .subcommand(
            Parser::new(CHECK)
                .about("Try each step and show what works, without writing a ticket")
                .long_about(ABOUT_CHECK)
                .arg(Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print JSON"))
                .arg(Arg::new(HOST).long(HOST).action(ArgAction::SetTrue).help("Check the set-up of the host daemon"))
                .args(every()),
        )
        .subcommand(
            Parser::new(HEALTH)
                .about("Ask the sidecar whether the app may run, for a container health check")
                .long_about(ABOUT_HEALTH)
                .arg(settings::setting("GMSA_LISTEN").arg())
                .arg(
                    Arg::new(WAIT)
                        .long(WAIT)
                        .value_name("DURATION")
                        .help("Wait this long for a yes, e.g. 30s")
                        .value_parser(duration),
                ),
        )
        .subcommand(
            Parser::new(KLIST)
                .about("Show the tickets in the caches: principals, times left, never keys")
                .long_about(ABOUT_KLIST)
                .arg(
                    Arg::new(PATH)
                        .value_name("DIR or FILE")
                        .help("A cache, or a folder of caches [default: the shared volume]")
                        .value_parser(clap::value_parser!(PathBuf)),
                )
                .arg(Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print JSON"))
                .arg(settings::setting("GMSA_DIR").arg()),
        )
        .subcommand(
            Parser::new(EXPLAIN)
                .about("Print the page of a fault code: its cause and how to fix it")
                .long_about(ABOUT_EXPLAIN)
                .arg(Arg::new(CODE).value_name("CODE").help("The code, e.g. dc-srv-not-found [default: a list of all]"))
                .arg(Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print JSON")),
        )
}

const ABOUT_RUN: &str = "\
Get every ticket and keep it fresh until SIGTERM.

The sidecar finds the CredSpecs of its ECS task, reads each gMSA's password from Active Directory with the login \
that the CredSpec names, gets a Kerberos ticket with it and writes the ticket to the shared volume, where the app \
finds it (KRB5CCNAME=DIR/krb5cc, KRB5_CONFIG=DIR/krb5.conf). It renews every ticket long before it expires, and \
serves /health, /ready, /metrics and a status page over HTTP. Failures of other systems are logged and tried again. It ends by \
itself only if its configuration or its volume cannot be used.

Each option can also be set in the environment. An option wins over its variable. An empty variable counts as not set.";

const ABOUT_INIT: &str = "\
Get every ticket once, write it and exit.

For a container that others wait for (dependsOn: SUCCESS), cron or systemd. Nothing renews the tickets afterwards: \
they expire after some hours, usually ten. Every CredSpec is tried, and the good tickets are written even if another \
one fails.

Exit codes: 0 all written; 65 something is not found, malformed or misnamed; 69 a network or service could not be \
reached in time; 70 a bug; 73 the volume cannot be written; 77 denied; 78 the configuration.";

const ABOUT_HOST: &str = "\
Serve the ECS agent of a host: native credentialSpecs without credentials-fetcher.

The agent asks for tickets on the socket --host-socket, and mounts the folder that it gets as \
/var/credentials-fetcher/krbdir into the container. The daemon writes krb5cc and krb5.conf there and keeps them fresh \
until the agent deletes the lease. Set KRB5CCNAME and KRB5_CONFIG in the task definition. Task definitions with \
credentialspecdomainless: and credentialspec: work unchanged.

systemd should hold the socket (gmsa-host.socket of the package): then a restart of the daemon does not cut the agent off. \
Run as root on the host. /etc/ecs/ecs.config needs ECS_GMSA_SUPPORTED=true; of that file the daemon knows \
DOMAIN_CONTROLLER_GMSA and CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA, given in its environment.

Owner, mode, keytab and service tickets are defaults here: the object GmsaSidecar of a CredSpec wins. --owner also takes \
:GID. An app that does not run as root reads its ticket with, for example, --owner :1654 --mode 0640. A joined host logs in \
with /etc/krb5.keytab unless --login-keytab names another file.

HTTP is served as by `run`. See docs/host-daemon.md for the change-over from credentials-fetcher.";

/// Where the CredSpecs are and how long the first tickets may take is the agent's business there.
const NOT_OF_HOST: &[&str] = &[SPECS, "GMSA_INIT_TIMEOUT", "GMSA_START_TIMEOUT"];

const ABOUT_CHECK: &str = "\
Try each step and show what works, without writing a ticket.

Run it in the sidecar's container, or anywhere with the same settings: it reads the configuration, the task, each \
CredSpec and secret, asks DNS, every domain controller and its clock, logs in once, reads each managed password, gets \
a ticket and throws it away, and tries the volume. It continues after a failure where possible, and shows for each step \
what failed, why, and what to do next. It can run alongside the sidecar.

With --host it checks an EC2 instance on which `host` runs or is to run: /etc/ecs/ecs.config and /etc/gmsa-sidecar/host.conf, \
the units, the socket and whether the ECS agent has it, the folders and leases, the login of a joined host, DNS and the \
domain controllers of all domains that are in use. CredSpecs are checked too if GMSA_CREDENTIAL_SPECS names them. Run it \
as root.

Exit codes: 0 nothing failed, else that of the first step that failed, as `help init` lists them.";

const ABOUT_HEALTH: &str = "\
Ask the sidecar whether the app may run, for a container health check.

Asks GET /gate of the sidecar at --listen. Exit code 0 means yes. Exit code 1 means no, with three lines: the fault, why, and what to do next.";

const ABOUT_EXPLAIN: &str = "\
Print the page of a fault code: its cause and how to fix it.

Each fault in the log, in /ready and in `check` has a code. Without CODE all codes are listed. It needs neither network \
nor configuration.

Exit code 0, or 64 if there is no such code; the code that is spelt most like it is named.";

const ABOUT_KLIST: &str = "\
Show the tickets in the caches: principals, times left, encryption type and flags, never keys.

Exit code 0 if a valid ticket-granting ticket is there, else 1.";

impl Config {
    // What holds where nothing is set; a test compares it with what the help says.
    const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8488);
    const DIR: &str = "/var/credentials-fetcher/krbdir";
    const HOST_SOCKET: &str = "/var/credentials-fetcher/socket/credentials_fetcher.sock";
    const INIT_TIMEOUT: Duration = Duration::from_secs(60);
}

/// The values given by flags or, where there is none, by the environment; notes those that cannot be used.
struct Values<'a> {
    flags: &'a ArgMatches,
    environment: &'a Environment,
    problems: Vec<String>,
    /// It reads `GMSA_OWNER` by itself.
    of_host: bool,
}

impl<'a> Values<'a> {
    fn new(flags: &'a ArgMatches, environment: &'a Environment) -> Self {
        Self { flags, environment, problems: Vec::new(), of_host: false }
    }

    /// The configuration, if all of it can be used.
    fn config(self) -> Result<Config, Fault> {
        match self.read() {
            (config, None) => Ok(config),
            (_, Some(fault)) => Err(fault),
        }
    }

    /// What can be used of the configuration, and what of it cannot. CredSpecs that are named wrongly are none.
    fn read(mut self) -> (Config, Option<Fault>) {
        let config = self.values();
        let nowhere = config.cred_specs.is_none() && config.aws.metadata_uri.is_none();
        let fault = self.sound(()).err().or_else(|| {
            let what = "No CredSpec is configured, and the sidecar is not running in ECS";
            let why = "neither GMSA_CREDENTIAL_SPECS nor ECS_CONTAINER_METADATA_URI_V4 is set";
            let misspelt = unknown(self.environment).into_iter().find(|known| known.nearest == "GMSA_CREDENTIAL_SPECS");
            let next = match misspelt {
                Some(UnknownVariable { variable, .. }) => {
                    format!("rename the variable {variable} to GMSA_CREDENTIAL_SPECS")
                }
                None => {
                    "set GMSA_CREDENTIAL_SPECS=credentialspecdomainless:arn:aws:s3:::BUCKET/KEY with the ARN of your \
                         CredSpec"
                        .to_owned()
                }
            };
            nowhere.then(|| Fault::new(Code::ConfigNoCredSpec, what).because(why).with_next(next))
        });
        (config, fault)
    }

    fn values(&mut self) -> Config {
        for variable in self.environment.not_unicode() {
            self.problems.push(format!("{variable}: is not UTF-8"));
        }
        Config {
            cred_specs: self.text(SPECS).is_some().then(|| self.parsed(SPECS, cred_specs).unwrap_or_default()),
            aws: self.aws(),
            dir: self.dir(),
            owner: if self.of_host { None } else { self.parsed("GMSA_OWNER", described) },
            mode: self.parsed("GMSA_MODE", described).unwrap_or_default(),
            mode_is_set: self.text("GMSA_MODE").is_some(),
            keytab: self.parsed("GMSA_KEYTAB", boolean).unwrap_or_default(),
            keytab_is_set: self.text("GMSA_KEYTAB").is_some(),
            service_tickets: self.parsed("GMSA_SERVICE_TICKETS", str::parse).unwrap_or_default(),
            listen: self.listen(),
            domain_controllers: self.parsed("GMSA_DOMAIN_CONTROLLERS", str::parse).unwrap_or_default(),
            dns_servers: self.parsed("GMSA_DNS_SERVERS", dns_servers).unwrap_or_default(),
            ldap: self.ldap(),
            site: self.parsed("GMSA_SITE", str::parse).unwrap_or_default(),
            login_keytab: self.login_keytab(),
            ticket_lifetime: self.parsed("GMSA_TICKET_LIFETIME", ticket_lifetime).flatten(),
            init_timeout: self.parsed("GMSA_INIT_TIMEOUT", duration).unwrap_or(Config::INIT_TIMEOUT),
            start_timeout: self.parsed("GMSA_START_TIMEOUT", timeout_or_off).flatten(),
            log_level: self
                .text("GMSA_LOG")
                .and_then(|text| text.parse::<log::Filter>().ok())
                .unwrap_or_default()
                .level(),
            unknown: unknown(self.environment).into_iter().map(|unknown| unknown.variable).collect(),
            host_socket: self.parsed("GMSA_HOST_SOCKET", absolute).unwrap_or_else(|| Config::HOST_SOCKET.into()),
            emf: self.parsed("GMSA_METRICS", emf).unwrap_or_default(),
        }
    }

    fn login_keytab(&mut self) -> Option<HostKeytab> {
        let path = self.text("GMSA_LOGIN_KEYTAB");
        let principal = self.parsed("GMSA_LOGIN_PRINCIPAL", |name| match path {
            None => Err("has an effect with GMSA_LOGIN_KEYTAB only".to_owned()),
            Some(_) if name.contains(char::is_control) => Err(format!("{} is not a principal", quoted(name))),
            Some(_) => Ok(name.to_owned()),
        });
        path.map(|path| HostKeytab { path: path.into(), principal })
    }

    fn ldap(&mut self) -> Transport {
        let ldaps = self.parsed("GMSA_LDAP", |value| match value {
            "sasl" => Ok(false),
            "ldaps" => Ok(true),
            _ => Err(format!("{} is neither `sasl` nor `ldaps`", quoted(value))),
        });
        let ldaps = ldaps.unwrap_or_default();
        let tls = self.parsed("GMSA_LDAP_CA_FILE", |path| {
            if ldaps { Tls::trusting(path.into()) } else { Err("has an effect with GMSA_LDAP=ldaps only".into()) }
        });
        if ldaps { Transport::Tls(tls.unwrap_or_default()) } else { Transport::Sasl }
    }

    fn log(&mut self) -> log::LogSettings {
        log::LogSettings {
            filter: self.parsed("GMSA_LOG", str::parse).unwrap_or_default(),
            format: self.parsed("GMSA_LOG_FORMAT", str::parse),
            colour: self.environment.get("NO_COLOR").is_none(),
        }
    }

    fn listen(&mut self) -> SocketAddr {
        let address = |value: &str| value.parse().map_err(|_| format!("{} is not `address:port`", quoted(value)));
        self.parsed("GMSA_LISTEN", address).unwrap_or(Config::LISTEN)
    }

    fn dir(&mut self) -> PathBuf {
        self.text("GMSA_DIR").unwrap_or_else(|| Config::DIR.to_owned()).into()
    }

    fn aws(&mut self) -> AwsSettings {
        let aws = AwsSettings::from_lookup(|name| self.environment.get(name).map(str::to_owned));
        let usable = |uri: Uri| uri.scheme_str() == Some("http") && uri.host().is_some();
        if let Some(url) = aws.metadata_uri.as_deref().filter(|url| !url.parse().is_ok_and(usable)) {
            self.problems.push(format!("{METADATA}: {} is not an http URL", quoted(url)));
        }
        self.problems.extend(aws.problems());
        aws
    }

    /// The value of a variable, parsed. `None` if it is not set, or cannot be used and is noted.
    fn parsed<T, E: fmt::Display>(&mut self, variable: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let value = self.text(variable)?;
        parse(&value).map_err(|problem| self.problems.push(format!("{variable}: {problem}"))).ok()
    }

    /// The value of a variable that has no flag, parsed.
    fn parsed_variable<T, E: fmt::Display>(
        &mut self,
        variable: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.environment.get(variable)?;
        parse(value).map_err(|problem| self.problems.push(format!("{variable}: {problem}"))).ok()
    }

    /// The value of a variable. Empty is the same as not set.
    fn text(&self, variable: &str) -> Option<String> {
        let flag = self.flags.try_get_one::<String>(variable).ok().flatten();
        let flag = flag.map(String::as_str).filter(|value| !value.is_empty());
        flag.or_else(|| self.environment.get(variable)).map(str::to_owned)
    }

    /// What was read, if all of it can be used.
    fn sound<T>(&self, read: T) -> Result<T, Fault> {
        match self.problems.as_slice() {
            [] => Ok(read),
            problems => {
                let fault = Fault::new(Code::ConfigInvalid, "The configuration cannot be used");
                Err(fault.because(problems.join("; ")).with_next(correction(problems)))
            }
        }
    }
}

/// What to correct, by the names that the problems begin with.
fn correction(problems: &[String]) -> String {
    let mut names: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
    names.dedup();
    let ours = names.iter().any(|name| name.starts_with("GMSA_"));
    let help = if ours { "; `gmsa-sidecar help run` says what each takes" } else { "" };
    format!("correct or remove {}{help}", names.join(", "))
}

const SPECS: &str = "GMSA_CREDENTIAL_SPECS";

/// Set by the ECS agent in every container of a task.
const METADATA: &str = "ECS_CONTAINER_METADATA_URI_V4";

impl ServiceTickets {
    /// The services for a gMSA.
    pub fn of(&self, account: &Account) -> Vec<Spn> {
        let of_account = |whose: &Option<Account>| whose.as_ref().is_none_or(|whose| whose.same_as(account.as_str()));
        self.0.iter().filter(|(whose, _)| of_account(whose)).map(|(_, spn)| spn.clone()).collect()
    }

    /// The gMSAs that are named.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.0.iter().filter_map(|(whose, _)| whose.as_ref())
    }
}

impl FromStr for ServiceTickets {
    type Err = String;

    /// `SPN` or `account=SPN`, separated by white space or commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut wanted: Vec<(Option<Account>, Spn)> = Vec::new();
        for item in items(text) {
            let (account, spn) = match item.split_once('=') {
                Some((account, spn)) => (Some(account.parse::<Account>().map_err(|error| error.to_string())?), spn),
                None => (None, item),
            };
            let spn: Spn = spn.parse().map_err(|error: NameError| error.to_string())?;
            let same = |known: &(Option<Account>, Spn)| known.0 == account && known.1.same_as(&spn.to_string());
            if wanted.iter().any(same) {
                return Err(format!("{} is there twice", quoted(item)));
            }
            wanted.push((account, spn));
        }
        if wanted.len() > SERVICES {
            return Err(format!("{} services are more than {SERVICES}", wanted.len()));
        }
        Ok(Self(wanted))
    }
}

/// A service ticket has some kilobytes, and clients read the whole cache each time.
const SERVICES: usize = 32;

fn dns_servers(text: &str) -> Result<Vec<SocketAddr>, String> {
    items(text).map(dns_server).collect()
}

/// `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:5353`.
fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let standard_port = || bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    text.parse().or_else(|_| standard_port()).map_err(|_| format!("{} is not `ip` or `ip:port`", quoted(text)))
}

fn cred_specs(text: &str) -> Result<Vec<Reference>, String> {
    let told = |errors: Vec<ReferenceError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    parse_references(text).map_err(told)
}

/// A value whose parser tells only the reason.
fn described<T: FromStr<Err = &'static str>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|reason| format!("{}: {reason}", quoted(text)))
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{} is neither `true` nor `false`", quoted(text)))
}

/// The path of a socket: a Unix address takes 107 bytes.
fn absolute(text: &str) -> Result<PathBuf, String> {
    match text {
        _ if !text.starts_with('/') || text.contains(char::is_control) => {
            Err(format!("{} is not an absolute path", quoted(text)))
        }
        _ if text.len() > 107 => Err(format!("{} is longer than the 107 bytes of a socket's path", quoted(text))),
        _ => Ok(text.into()),
    }
}

fn emf(text: &str) -> Result<bool, String> {
    match text {
        "off" => Ok(false),
        "emf" => Ok(true),
        _ => Err(format!("{} is neither `emf` nor `off`", quoted(text))),
    }
}

fn timeout_or_off(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" { Ok(None) } else { duration(text).map(Some) }
}

/// Not one that could not be renewed without a gap.
fn ticket_lifetime(text: &str) -> Result<Option<Duration>, String> {
    match timeout_or_off(text)? {
        Some(short) if short < LEAST_LIFE => Err(format!(
            "{} is too short: the shortest ticket that can be renewed without a gap lives {}s, since a KDC refuses a TGT \
             in its last {}s",
            quoted(text),
            LEAST_LIFE.as_secs(),
            REFUSED_BEFORE_END.as_secs()
        )),
        lifetime => Ok(lifetime),
    }
}

/// `90s`, `2m`; more than nothing and at most a day.
fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|_| format!("{} is not like `90s` or `2m`", quoted(text)))?;
    let sane = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);
    if sane.contains(&duration) { Ok(duration) } else { Err(format!("{} is not between 1ms and 1day", quoted(text))) }
}

/// The `GMSA_` variables in the environment that this version does not know.
fn unknown(environment: &Environment) -> Vec<UnknownVariable> {
    let known = |name: &str| settings::SETTINGS.iter().any(|setting| setting.variable == name);
    let ours = environment.0.keys().filter(|name| name.starts_with("GMSA_") && !known(name));
    let nearest = |name: &str| {
        let known = settings::SETTINGS.iter().map(|setting| setting.variable);
        // What looks like a beginning of a name is one.
        let begun_alike = |known: &str| known.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        known.min_by_key(|known| {
            (!known.starts_with(name), distance(name, known) + 2 * (64 - begun_alike(known).min(64)))
        })
    };
    ours.filter_map(|name| Some(UnknownVariable { variable: name.clone(), nearest: nearest(name)? })).collect()
}

/// The environment of the process. It may hold credentials: only names are ever shown.
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// As the process got it.
    pub fn of_process() -> Self {
        let unicode = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self(std::env::vars_os().filter_map(unicode).collect())
    }

    /// The value of a variable. Empty is the same as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().filter(|value| !value.is_empty())
    }

    /// The variables of ours whose value is not text.
    fn not_unicode(&self) -> impl Iterator<Item = &str> {
        let ours = |name: &str| name == METADATA || settings::SETTINGS.iter().any(|setting| setting.variable == name);
        self.0.iter().filter(move |(name, value)| ours(name) && value.to_str().is_none()).map(|(name, _)| name.as_str())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
