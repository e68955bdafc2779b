use super::*;
use crate::name::Host;

const SPEC: (&str, &str) = ("GMSA_CREDENTIAL_SPECS", "file:///spec.json");

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect())
}

fn invoke(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Invocation, clap::Error> {
    let arguments = ["gmsa-sidecar"].iter().chain(arguments).map(OsString::from);
    Invocation::new(arguments, &environment(variables))
}

fn run(flags: &[&str], variables: &[(&str, &str)]) -> Result<Config, Fault> {
    let arguments: Vec<_> = ["run"].iter().chain(flags).copied().collect();
    match invoke(&arguments, variables).unwrap().command {
        Command::Run(config) => config,
        other => panic!("{other:?}"),
    }
}

fn why(flags: &[&str], variables: &[(&str, &str)]) -> String {
    let fault = run(flags, &[&[SPEC], variables].concat()).unwrap_err();
    assert_eq!(fault.code, Code::ConfigInvalid);
    fault.why.unwrap()
}

#[test]
fn every_value_that_cannot_be_used_is_told_at_once() {
    let variables = [
        SPEC,
        ("ECS_CONTAINER_METADATA_URI_V4", "169.254.170.2/v4"),
        ("GMSA_DNS_SERVERS", "10.0.0.2,dns.example.com"),
        ("GMSA_DOMAIN_CONTROLLERS", "dc1.corp.example.com fd00::1"),
        ("GMSA_HOST_SOCKET", "fetcher.sock"),
        ("GMSA_INIT_TIMEOUT", "soon"),
        ("GMSA_KEYTAB", "yes"),
        ("GMSA_LDAP", "tls"),
        ("GMSA_LDAP_CA_FILE", "/ca.pem"),
        ("GMSA_LISTEN", "localhost"),
        ("GMSA_LOG", "inof"),
        ("GMSA_LOG_FORMAT", "xml"),
        ("GMSA_LOGIN_PRINCIPAL", "HOST$"),
        ("GMSA_METRICS", "prometheus"),
        ("GMSA_SERVICE_TICKETS", "HTTP/web MSSQLSvc/db.corp.example.com@OTHER"),
        ("GMSA_SITE", "Frankfurt.West"),
        ("GMSA_START_TIMEOUT", "0s"),
    ];
    let fault = run(&[], &variables).unwrap_err();
    insta::assert_snapshot!(fault.to_string().replace("; ", ";\n        "), @r"
    code=config-invalid
      what: The configuration cannot be used
      why:  GMSA_LOG: `inof` is not a level: off, error, warn, info, debug, trace;
            GMSA_LOG_FORMAT: must be `json` or `text`;
            ECS_CONTAINER_METADATA_URI_V4: `169.254.170.2/v4` is not an http URL;
            GMSA_KEYTAB: `yes` is neither `true` nor `false`;
            GMSA_SERVICE_TICKETS: service principal name `MSSQLSvc/db.corp.example.com@OTHER` names a realm: leave it out, the KDCs know where the service is;
            GMSA_LISTEN: `localhost` is not `address:port`;
            GMSA_DOMAIN_CONTROLLERS: `fd00::1` is an IPv6 address: write the domain controller's name;
            GMSA_DNS_SERVERS: `dns.example.com` is not `ip` or `ip:port`;
            GMSA_LDAP: `tls` is neither `sasl` nor `ldaps`;
            GMSA_LDAP_CA_FILE: has an effect with GMSA_LDAP=ldaps only;
            GMSA_SITE: site `Frankfurt.West` may not hold dots;
            GMSA_LOGIN_PRINCIPAL: has an effect with GMSA_LOGIN_KEYTAB only;
            GMSA_INIT_TIMEOUT: `soon` is not like `90s` or `2m`;
            GMSA_START_TIMEOUT: `0s` is not between 1ms and 1day;
            GMSA_HOST_SOCKET: `fetcher.sock` is not an absolute path;
            GMSA_METRICS: `prometheus` is neither `emf` nor `off`
      next: correct or remove GMSA_LOG, GMSA_LOG_FORMAT, ECS_CONTAINER_METADATA_URI_V4, GMSA_KEYTAB, GMSA_SERVICE_TICKETS, GMSA_LISTEN, GMSA_DOMAIN_CONTROLLERS, GMSA_DNS_SERVERS, GMSA_LDAP, GMSA_LDAP_CA_FILE, GMSA_SITE, GMSA_LOGIN_PRINCIPAL, GMSA_INIT_TIMEOUT, GMSA_START_TIMEOUT, GMSA_HOST_SOCKET, GMSA_METRICS;
            `gmsa-sidecar help run` says what each takes
      more: gmsa-sidecar explain config-invalid
    ");
}

/// Shorter, and the KDC would refuse the ticket before it can be renewed.
#[test]
fn a_ticket_that_cannot_be_renewed_without_a_gap_is_refused() {
    for short in ["1s", "119s", "2m", "150s", "179999ms"] {
        let told = why(&[], &[SPEC, ("GMSA_TICKET_LIFETIME", short)]);
        assert!(told.starts_with(&format!("GMSA_TICKET_LIFETIME: `{short}` is too short")), "{told}");
        assert!(told.contains("lives 180s") && told.contains("last 120s"), "{told}");
    }
    let lifetime = |text| run(&[], &[SPEC, ("GMSA_TICKET_LIFETIME", text)]).unwrap().ticket_lifetime;
    assert_eq!(lifetime("180s"), Some(Duration::from_secs(180)));
    assert_eq!(lifetime("10h"), Some(Duration::from_secs(36_000)));
    assert_eq!(lifetime("off"), None);
}

#[test]
fn long_values_are_cut_and_control_characters_escaped() {
    let told = why(&[], &[("GMSA_LISTEN", &format!("\x1b[31m\n{}", "x".repeat(200)))]);
    assert!(told.starts_with("GMSA_LISTEN: `\\u{1b}[31m\\nxxx") && told.len() < 140, "{told}");
}

#[test]
fn nothing_set_means_what_the_help_says() {
    let mut literal = vec![SPEC];
    for setting in settings::SETTINGS {
        if !["discovered", "none", "DNS SRV"].iter().any(|word| setting.default.starts_with(word))
            && !setting.default.contains(' ')
        {
            literal.push((setting.variable, setting.default));
        }
    }
    assert!(literal.len() > 8, "{literal:?}");
    let set = run(&[], &literal).unwrap();
    assert!(set.mode_is_set && set.keytab_is_set);
    assert_eq!(run(&[], &[SPEC]).unwrap(), Config { mode_is_set: false, keytab_is_set: false, ..set });
    let config = run(&[], &[SPEC]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8488");
    assert_eq!(config.init_timeout, Duration::from_secs(60));
    assert_eq!(config.start_timeout, None);
}

#[test]
fn a_flag_wins_over_its_variable_and_an_empty_value_is_none() {
    let set = [SPEC, ("GMSA_DIR", "/from/env"), ("GMSA_LISTEN", "")];
    assert_eq!(run(&["--dir", "/from/flag"], &set).unwrap().dir, PathBuf::from("/from/flag"));
    assert_eq!(run(&["--dir="], &set).unwrap().dir, PathBuf::from("/from/env"));
    assert_eq!(run(&[], &set).unwrap().listen, Config::LISTEN);
    assert_eq!(run(&["--start-timeout=off"], &[SPEC, ("GMSA_START_TIMEOUT", "2m")]).unwrap().start_timeout, None);
}

#[test]
fn a_bare_boolean_flag_is_true() {
    let keytab =
        |flags: &[&str], variables: &[(&str, &str)]| run(flags, &[&[SPEC], variables].concat()).unwrap().keytab;
    assert!(keytab(&["--keytab"], &[]) && keytab(&["--keytab", "--dir", "/x"], &[]) && keytab(&["--keytab=true"], &[]));
    assert!(!keytab(&["--keytab", "false"], &[("GMSA_KEYTAB", "true")]));
    assert!(!keytab(&[], &[]) && !keytab(&[], &[("GMSA_KEYTAB", "false")]) && keytab(&[], &[("GMSA_KEYTAB", "true")]));
    assert_eq!(why(&[], &[("GMSA_KEYTAB", "1")]), "GMSA_KEYTAB: `1` is neither `true` nor `false`");
}

#[test]
fn domain_controllers_are_named_for_all_domains_or_for_one() {
    let parse = |text: &str| text.parse::<DomainControllers>();
    let of = |controllers: &DomainControllers, domain: &str| {
        controllers.of(&domain.parse().unwrap()).iter().map(Host::to_string).collect::<Vec<_>>().join(" ")
    };
    let all = parse("DC1.corp.example.com, dc2.corp.example.com").unwrap();
    assert_eq!(of(&all, "corp.example.com"), "dc1.corp.example.com dc2.corp.example.com");
    let some =
        parse("Corp.Example.com=dc1.corp.example.com dc2.corp.example.com; other.test = dc.other.test;").unwrap();
    assert_eq!(of(&some, "corp.example.com"), "dc1.corp.example.com dc2.corp.example.com");
    assert_eq!(of(&some, "other.test"), "dc.other.test");
    assert_eq!(of(&some, "third.test"), "");
    let mixed = parse("dc.any; other.test=dc.other.test").unwrap();
    assert_eq!((of(&mixed, "third.test"), of(&mixed, "other.test")), ("dc.any".into(), "dc.other.test".into()));
    for bad in ["a.test=", "=dc.a", "dc.a; dc.b", "a.test=dc.a; A.test=dc.b", "fd00::1", "dc_1.test/x", "a=b=c"] {
        assert!(parse(bad).is_err(), "{bad} was accepted");
    }
}

#[test]
fn service_tickets_are_named_for_all_gmsas_or_for_one() {
    let parse = |text: &str| text.parse::<ServiceTickets>();
    let wanted = parse("HTTP/web.example.com, webapp01$=MSSQLSvc/db.example.com:1433").unwrap();
    let of = |account: &str| {
        wanted.of(&account.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("WebApp01"), "HTTP/web.example.com MSSQLSvc/db.example.com:1433");
    assert_eq!(of("WebApp02"), "HTTP/web.example.com");
    assert!(parse("").unwrap().of(&"WebApp01".parse().unwrap()).is_empty());
    let many = (0..33).map(|n| format!("HTTP/web{n}.example.com ")).collect::<String>();
    for bad in ["HTTP", "=HTTP/web", "a/b=HTTP/web", "HTTP/web http/WEB", &many] {
        assert!(parse(bad).is_err(), "{bad} was accepted");
    }
}

#[test]
fn dns_servers_may_have_ports() {
    let servers = dns_servers("10.0.0.2, 10.0.0.3:5353\n::1 [::1] [::1]:54").unwrap();
    let servers: Vec<_> = servers.iter().map(SocketAddr::to_string).collect();
    assert_eq!(servers, ["10.0.0.2:53", "10.0.0.3:5353", "[::1]:53", "[::1]:53", "[::1]:54"]);
    for bad in ["10.0.0", "10.0.0.2:99999", "[10.0.0.2", "::1:x"] {
        assert!(dns_servers(bad).is_err(), "{bad} was accepted");
    }
}

#[test]
fn without_a_credspec_and_a_task_there_is_nothing_to_do() {
    let set = [("GMSA_CREDENTIAL_SPECS", "")];
    assert_eq!(run(&[], &set).unwrap_err().code, Code::ConfigNoCredSpec);
    let task = [("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/abc")];
    assert_eq!(run(&[], &task).unwrap().aws.metadata_uri.unwrap(), "http://169.254.170.2/v4/abc");
}

#[test]
fn a_value_that_is_not_text_is_told() {
    use std::os::unix::ffi::OsStringExt;
    let mut environment = environment(&[SPEC, ("GMSA_DIR", "/x")]);
    environment.0.insert("GMSA_DIR".to_owned(), OsString::from_vec(vec![b'/', 0xff]));
    environment.0.insert("OTHER".to_owned(), OsString::from_vec(vec![0xff]));
    let invocation = Invocation::new(["gmsa-sidecar", "run"].map(OsString::from), &environment).unwrap();
    let Command::Run(Err(fault)) = invocation.command else { panic!("{:?}", invocation.command) };
    assert_eq!(fault.why.unwrap(), "GMSA_DIR: is not UTF-8");
}

#[test]
fn misspelt_variables_are_told_with_the_nearest_known_one() {
    let set = [SPEC, ("GMSA_DNS_SERVER", "10.0.0.2"), ("GMSA_CREDSPECS", "x"), ("GMSA_CRED", "x"), ("OTHER", "x")];
    let unknown = invoke(&["run"], &set).unwrap().unknown;
    let told: Vec<_> = unknown.iter().map(|u| (u.variable.as_str(), u.nearest)).collect();
    let specs = "GMSA_CREDENTIAL_SPECS";
    assert_eq!(told, [("GMSA_CRED", specs), ("GMSA_CREDSPECS", specs), ("GMSA_DNS_SERVER", "GMSA_DNS_SERVERS")]);
}

#[test]
fn health_and_klist_take_what_they_need() {
    let set = [("GMSA_LISTEN", "[::]:1"), ("GMSA_DIR", "/vol"), ("GMSA_MODE", "nonsense")];
    let Command::Health { listen, wait } = invoke(&["health", "--wait", "30s"], &set).unwrap().command else {
        panic!("not health")
    };
    assert_eq!((listen.unwrap().to_string().as_str(), wait), ("[::]:1", Duration::from_secs(30)));
    let klist = |arguments: &[&str]| match invoke(arguments, &set).unwrap().command {
        Command::Klist { path, json } => (path.display().to_string(), json),
        other => panic!("{other:?}"),
    };
    assert_eq!(klist(&["klist"]), ("/vol".to_owned(), false));
    assert_eq!(klist(&["klist", "--json", "/x/krb5cc"]), ("/x/krb5cc".to_owned(), true));
    assert!(invoke(&["health", "--wait", "never"], &set).is_err());
}

#[test]
fn the_command_line_is_sound_and_unknown_flags_are_refused() {
    parser().debug_assert();
    assert!(invoke(&["run", "--dirr", "/x"], &[SPEC]).unwrap_err().use_stderr());
    assert!(invoke(&[], &[SPEC]).unwrap_err().use_stderr());
    for asks in [["--help"].as_slice(), &["--version"], &["help", "run"], &["init", "--help"]] {
        assert!(!invoke(asks, &[]).unwrap_err().use_stderr(), "{asks:?}");
    }
}

#[test]
fn the_help_teaches_every_setting_and_shows_no_value_of_the_environment() {
    let help = invoke(&["help", "run"], &[("GMSA_DIR", "/hidden")]).unwrap_err().to_string();
    for setting in settings::SETTINGS {
        assert!(help.contains(&format!("--{}", setting.flag)), "{}", setting.flag);
        assert!(help.contains(setting.variable), "{}", setting.variable);
    }
    assert!(!help.contains("/hidden"));
}

#[test]
fn the_environment_shows_no_values() {
    let shown = format!("{:?}", environment(&[("AWS_SECRET_ACCESS_KEY", "hunter2")]));
    assert_eq!(shown, r#"{"AWS_SECRET_ACCESS_KEY"}"#);
}

#[test]
fn no_variable_of_ours_ends_in_a_panic_and_an_empty_one_is_none() {
    let long = "x".repeat(64 * 1024);
    for setting in settings::SETTINGS {
        for value in ["", " ", "0", "-1", "word", "localhost:80", "\u{7f}", "\u{e4}", ";=,", "[", "{", &long] {
            let set = [SPEC, (setting.variable, value)];
            let set = if setting.variable == SPEC.0 { &set[1..] } else { &set[..] };
            for command in ["run", "init", "check", "health", "klist"] {
                let invocation = invoke(&[command], set).unwrap();
                if let Command::Run(Err(fault)) = &invocation.command {
                    assert!(fault.code.is_config() && fault.to_string().len() < 2000, "{}={value}", setting.variable);
                    assert!(!value.is_empty() || setting.variable == SPEC.0, "{}: {fault}", setting.variable);
                }
            }
        }
    }
}
