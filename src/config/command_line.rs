//! The command line: its subcommands, and what `--help` says of each.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command as Parser};

use super::{SPECS, duration, settings};

pub(super) const RUN: &str = "run";
pub(super) const INIT: &str = "init";
pub(super) const HOST: &str = "host";
pub(super) const CHECK: &str = "check";
pub(super) const HEALTH: &str = "health";
pub(super) const KLIST: &str = "klist";
pub(super) const EXPLAIN: &str = "explain";
pub(super) const CODE: &str = "code";
pub(super) const WAIT: &str = "wait";
pub(super) const PATH: &str = "path";
pub(super) const JSON: &str = "json";

/// The command line.
pub(super) fn parser() -> Parser {
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
