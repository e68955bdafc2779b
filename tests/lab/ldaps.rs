use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::examples::{Fake, dc1, relay, relayed};
use crate::faults::told;
use crate::support::{Sidecar, cred_spec, lab, secret_arn, write};

/// A domain controller that serves Kerberos, and on port 636 what `serve` does; nobody listens on port 389.
fn without_ldap(serve: impl Fn(TcpStream) + Send + 'static) -> Sidecar {
    let fake = Fake::start(|_, request| relayed(request));
    let listener = TcpListener::bind((fake.address, 636)).unwrap();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(serve));
    Sidecar::inline("WebApp01", "gmsa/login")
        .with("GMSA_DOMAIN_CONTROLLERS", lab("LAB_DC1"))
        .with("GMSA_DNS_SERVERS", &fake.address.to_string())
        .with("GMSA_LDAP", "ldaps")
        .with("GMSA_LDAP_CA_FILE", lab("LAB_CA"))
}

fn to_dc1(stream: TcpStream) {
    relay(stream, SocketAddr::from((dc1(), 636)));
}

/// A server certificate of the lab's CA with a key of its own.
pub struct Forged {
    folder: TempDir,
}

impl Forged {
    /// For a name, good until 1 January of a year.
    pub fn new(name: &str, year: u16) -> Self {
        let forged = Self { folder: TempDir::new().unwrap() };
        let authority = lab("LAB_CA").trim_end_matches(".pem");
        let policy = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nrand_serial=yes\nnew_certs_dir=.\npolicy=p\ndefault_md=sha256\n\
                      [p]\norganizationName=optional\ncommonName=supplied\n";
        write(&forged.path("policy"), policy);
        write(&forged.path("index"), "");
        write(&forged.path("extensions"), &format!("extendedKeyUsage=serverAuth\nsubjectAltName=DNS:{name}\n"));
        let openssl = |arguments: &str| {
            let arguments = arguments.split(' ').filter(|word| !word.is_empty());
            let done = Command::new("openssl").args(arguments).current_dir(forged.folder.path()).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=Example/CN={name} -keyout key -out csr"
        ));
        openssl(&format!(
            "ca -batch -notext -config policy -extfile extensions -cert {authority}.pem -keyfile {authority}.key \
             -startdate 20200101000000Z -enddate {year}0101000000Z -in csr -out pem"
        ));
        forged
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Takes TLS connections with this certificate, and passes what is said in them on to the real DC.
    fn serve(self) -> impl Fn(TcpStream) + Send + 'static {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = |path: &Path| vec![CertificateDer::from_pem_file(path).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path("key")).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificate(&self.path("pem")), key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificate(Path::new(lab("LAB_CA"))));
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (server, client) = (Arc::new(server), Arc::new(client));
        move |stream| {
            let (acceptor, connector) = (TlsAcceptor::from(server.clone()), TlsConnector::from(client.clone()));
            std::thread::spawn(move || {
                let dc = TcpStream::connect((dc1(), 636)).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let [stream, dc] = [stream, dc].map(|stream| {
                        stream.set_nonblocking(true).unwrap();
                        tokio::net::TcpStream::from_std(stream).unwrap()
                    });
                    // The client may well hang up.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let name = ServerName::try_from(lab("LAB_DC1")).unwrap();
                    let mut dc = connector.connect(name, dc).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut dc).await;
                });
            });
        }
    }
}

#[test]
fn the_password_is_read_over_tls_and_nothing_else() {
    let sidecar = without_ldap(to_dc1);
    sidecar.init().ok();
    assert!(sidecar.path("WebApp01/krb5cc").exists());
    // The same with the CAs of the system, of which the lab's is one here.
    let system = without_ldap(to_dc1).without("GMSA_LDAP_CA_FILE").with("SSL_CERT_FILE", lab("LAB_CA"));
    system.init().ok();
    // On port 389 there is nothing.
    let sealed =
        without_ldap(to_dc1).without("GMSA_LDAP_CA_FILE").without("GMSA_LDAP").init_with("GMSA_INIT_TIMEOUT", "1s");
    assert!(sealed.fault().starts_with("dc-unreachable exit 69"), "{sealed:#?}");
}

/// The one in the middle has a certificate that the sidecar trusts. The DC refuses the login all the same, since the
/// login is bound to another certificate than its own.
#[test]
fn the_login_is_bound_to_the_certificate() {
    let middle = without_ldap(Forged::new(lab("LAB_DC1"), 2100).serve());
    let ended = middle.init();
    assert!(ended.fault().starts_with("gmsa-bind-refused exit 77"), "{ended:#?}");
    assert!(ended.fault().contains("80090346"), "{ended:#?}");
    assert!(ended.fault().contains("the TLS channel binding is missing or wrong"), "{ended:#?}");
}

#[test]
fn certificates_that_are_not_good() {
    let good = || Forged::new(lab("LAB_DC1"), 2100).serve();
    let told = told(vec![
        ("an issuer that is not known", without_ldap(good()).with("GMSA_LDAP_CA_FILE", lab("LAB_OTHER_CA"))),
        ("the system's CAs", without_ldap(good()).without("GMSA_LDAP_CA_FILE")),
        ("an expired certificate", without_ldap(Forged::new(lab("LAB_DC1"), 2021).serve())),
        ("a certificate for another name", without_ldap(Forged::new("www.example.com", 2100).serve())),
        ("no certificate", without_ldap(|mut stream| drop(stream.read(&mut [0; 4096])))),
    ]);
    insta::assert_snapshot!(told.replace(lab("LAB_OTHER_CA"), "/ca.pem"));
}

#[test]
fn a_domain_controller_with_a_bad_certificate_is_passed_over() {
    let bad = Forged::new("www.example.com", 2100).serve();
    let first = std::sync::atomic::AtomicBool::new(true);
    let sidecar = without_ldap(move |stream| {
        if first.swap(false, std::sync::atomic::Ordering::Relaxed) { bad(stream) } else { to_dc1(stream) }
    });
    let both = format!("dc9.example.com {}", lab("LAB_DC1"));
    let ended = sidecar.with("GMSA_DOMAIN_CONTROLLERS", &both).init();
    let warned = ended.log().iter().any(|line| line["event"] == "dc.failed" && line["code"] == "gmsa-tls-certificate");
    assert!(warned, "{ended:#?}");
    ended.ok();
}

#[test]
fn a_bundle_that_cannot_be_used_is_told_at_the_start() {
    let told = |path: &str, ldap: &str| {
        let sidecar = Sidecar::of("webapp01.json").with("GMSA_LDAP", ldap).with("GMSA_LDAP_CA_FILE", path);
        sidecar.init().fault()
    };
    assert!(told("/no/such.pem", "ldaps").contains("GMSA_LDAP_CA_FILE: `/no/such.pem` cannot be used: No such file"));
    assert!(told("/dev/null", "ldaps").contains("it holds no CA certificate"));
    assert!(told(lab("LAB_CA"), "sasl").contains("has an effect with GMSA_LDAP=ldaps only"));
}

#[test]
fn check_walks_the_way_over_tls() {
    let checked = |sidecar: &Sidecar| -> serde_json::Value {
        serde_json::from_str(&sidecar.call(&["check", "--json"]).stdout).unwrap()
    };
    let step = |report: &serde_json::Value, name: &str| {
        report["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap().clone()
    };
    let sidecar = without_ldap(to_dc1);
    let report = checked(&sidecar);
    assert_eq!(report["exit_code"], 0, "{report:#}");
    let dc = step(&report, "dc")["what"].as_str().unwrap().to_owned();
    assert!(dc.contains("TCP 636 in ") && dc.contains("TCP 389 is closed (it is not needed)"), "{dc}");
    let tls = step(&report, "tls")["what"].as_str().unwrap().to_owned();
    assert!(tls.starts_with("the certificate of CN=dc1, issued by CN=Lab ca, valid until 20"), "{tls}");
    assert_eq!(step(&report, "bind")["what"], "LDAP on port 636, in TLS, bound to its certificate");
    let report = checked(&sidecar.with("GMSA_LDAP_CA_FILE", lab("LAB_OTHER_CA")));
    assert_eq!(step(&report, "tls")["code"], "gmsa-tls-untrusted", "{report:#}");
    assert_eq!((&report["exit_code"], &step(&report, "bind")["why"]), (&78.into(), &"`tls example.com` failed".into()));
    assert_eq!(step(&report, "login")["result"], "pass", "Kerberos needs no LDAP");
}

/// A firewall that lets Kerberos through and not LDAP.
#[test]
fn check_tries_the_login_where_only_kerberos_is_open() {
    let spec = cred_spec("WebApp01", lab("LAB_DOMAIN"), &secret_arn("gmsa/wrong-password"));
    let sidecar = without_ldap(drop).with("GMSA_LDAP", "sasl").without("GMSA_LDAP_CA_FILE");
    let ended = sidecar.with("GMSA_CREDENTIAL_SPECS", &spec).call(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let step = |name: &str| report["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap();
    assert_eq!(step("dc")["code"], "dc-unreachable", "{report:#}");
    assert!(step("dc")["why"].as_str().unwrap().ends_with("TCP port 88 of it is open"), "{report:#}");
    assert_eq!(step("login")["code"], "ticket-login-refused", "{report:#}");
    assert_eq!(step("bind")["why"], "`dc example.com` failed");
}
