//! The table of settings: one row gives a variable, its flag and its help.

use clap::Arg;

/// One setting: a variable of the environment and the flag of the same name.
pub(super) struct Setting {
    /// `GMSA_DNS_SERVERS`; also the flag's id.
    pub(super) variable: &'static str,
    /// `dns-servers`.
    pub(super) flag: &'static str,
    /// What it takes, in capitals.
    pub(super) takes: &'static str,
    /// What holds where it is not set: a value, or a word about it.
    pub(super) default: &'static str,
    /// What it means.
    pub(super) help: &'static str,
}

impl Setting {
    /// The flag of this setting.
    pub(super) fn arg(&self) -> Arg {
        let arg = Arg::new(self.variable)
            .long(self.flag)
            .value_name(self.takes)
            .help(format!("{}\n[env: {}] [default: {}]", self.help, self.variable, self.default));
        if self.takes == BOOL { arg.num_args(0..=1).default_missing_value("true") } else { arg }
    }
}

/// The row of a variable; the first one for a name that is not there, which tests rule out.
pub(super) fn setting(variable: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.variable == variable).unwrap_or(&SETTINGS[0])
}

const BOOL: &str = "true|false";

/// All settings, in the order of the help.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        variable: "GMSA_CREDENTIAL_SPECS",
        flag: "credential-specs",
        takes: "LIST",
        default: "discovered from the ECS task",
        help: "The CredSpecs, separated by white space or commas: credentialspecdomainless:ARN, credentialspec:ARN, \
               a bare ARN (an S3 object or an SSM parameter) or file:///path; or a JSON array of such strings; or one CredSpec document; \
               s3://BUCKET/PREFIX/ or an SSM path that ends in / names a list that is followed",
    },
    Setting {
        variable: "GMSA_DIR",
        flag: "dir",
        takes: "PATH",
        default: "/var/credentials-fetcher/krbdir",
        help: "The shared volume; its own mode and owner are not changed",
    },
    Setting {
        variable: "GMSA_OWNER",
        flag: "owner",
        takes: "UID[:GID]",
        default: "the process's own",
        help: "The numeric owner of all files and folders that are written",
    },
    Setting {
        variable: "GMSA_MODE",
        flag: "mode",
        takes: "OCTAL",
        default: "0600",
        help: "The mode of files with tickets or keys; account folders get the matching execute bits",
    },
    Setting {
        variable: "GMSA_KEYTAB",
        flag: "keytab",
        takes: BOOL,
        default: "false",
        help: "Also write a keytab, for apps that accept Kerberos; its keys are valid until the gMSA's password changes",
    },
    Setting {
        variable: "GMSA_SERVICE_TICKETS",
        flag: "service-tickets",
        takes: "LIST",
        default: "none",
        help: "Services whose tickets are kept too, separated by white space or commas: SPN, or account=SPN for one gMSA",
    },
    Setting {
        variable: "GMSA_LISTEN",
        flag: "listen",
        takes: "ADDRESS:PORT",
        default: "127.0.0.1:8488",
        help: "The HTTP address; if it is not loopback, only /health, /ready, /gate and /metrics are served",
    },
    Setting {
        variable: "GMSA_DOMAIN_CONTROLLERS",
        flag: "domain-controllers",
        takes: "HOSTS",
        default: "DNS SRV records",
        help: "Host names of domain controllers in order of preference; for several domains `domain=host host`, \
               separated by `;`",
    },
    Setting {
        variable: "GMSA_DNS_SERVERS",
        flag: "dns-servers",
        takes: "IP[:PORT]",
        default: "those of /etc/resolv.conf",
        help: "DNS servers for Active Directory names, separated by white space or commas",
    },
    Setting {
        variable: "GMSA_LDAP",
        flag: "ldap",
        takes: "sasl|ldaps",
        default: "sasl",
        help: "How the directory is read: sasl is port 389, sealed by Kerberos; ldaps is port 636, over TLS",
    },
    Setting {
        variable: "GMSA_LDAP_CA_FILE",
        flag: "ldap-ca-file",
        takes: "PATH",
        default: "the system's roots",
        help: "A PEM file with the CAs that ldaps trusts",
    },
    Setting {
        variable: "GMSA_SITE",
        flag: "site",
        takes: "auto|off|NAME",
        default: "auto",
        help: "The AD site whose domain controllers come first; `auto` is the site that the directory assigns to this address",
    },
    Setting {
        variable: "GMSA_LOGIN_KEYTAB",
        flag: "login-keytab",
        takes: "PATH",
        default: "none",
        help: "The keytab of the login for CredSpecs without a CredentialArn (domain-joined hosts)",
    },
    Setting {
        variable: "GMSA_LOGIN_PRINCIPAL",
        flag: "login-principal",
        takes: "PRINCIPAL",
        default: "this host's, else the first that ends in `$`, else the first",
        help: "The principal of that keytab that logs in",
    },
    Setting {
        variable: "GMSA_TICKET_LIFETIME",
        flag: "ticket-lifetime",
        takes: "DURATION",
        default: "off",
        help: "Request tickets with this lifetime, at least 180s, instead of the KDC's maximum",
    },
    Setting {
        variable: "GMSA_INIT_TIMEOUT",
        flag: "init-timeout",
        takes: "DURATION",
        default: "60s",
        help: "How long `init` retries failures that can pass by themselves",
    },
    Setting {
        variable: "GMSA_START_TIMEOUT",
        flag: "start-timeout",
        takes: "DURATION|off",
        default: "off",
        help: "End `run` with the exit code of the first fault if it was not ready within this time",
    },
    Setting {
        variable: "GMSA_HOST_SOCKET",
        flag: "host-socket",
        takes: "PATH",
        default: "/var/credentials-fetcher/socket/credentials_fetcher.sock",
        help: "The Unix socket of `host` for the ECS agent; a socket that systemd hands over wins",
    },
    Setting {
        variable: "GMSA_HOST_GROUP",
        flag: "host-group",
        takes: "GID",
        default: "none",
        help: "The numeric group that may call `host`, besides root",
    },
    Setting {
        variable: "GMSA_METRICS",
        flag: "metrics",
        takes: "emf|off",
        default: "off",
        help: "Reserved for metrics in CloudWatch's embedded metric format (emf); this version accepts the value and writes nothing",
    },
    Setting {
        variable: "GMSA_LOG",
        flag: "log",
        takes: "FILTER",
        default: "info",
        help: "What is logged: off, error, warn, info, debug or trace, or target=level separated by commas",
    },
    Setting {
        variable: "GMSA_LOG_FORMAT",
        flag: "log-format",
        takes: "json|text",
        default: "json, on a terminal text",
        help: "The format of the log on stderr",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_variables_have_one_name() {
        for setting in SETTINGS {
            let from_flag = format!("GMSA_{}", setting.flag.to_uppercase().replace('-', "_"));
            assert_eq!(setting.variable, from_flag);
            assert!(!setting.help.ends_with('.'), "{}", setting.variable);
        }
        for variable in ["GMSA_LISTEN", "GMSA_DIR"] {
            assert_eq!(setting(variable).variable, variable);
        }
    }
}
