//! TLS to a domain controller's LDAP service: which CAs are trusted, and what is wrong with a certificate, in words.
//!
//! It is the TLS library of the AWS client, with the same provider. The name in the certificate must be the domain
//! controller's, as its SRV record has it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode, Reader, SliceReader, Tag, Tagged};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock;
use crate::fault::{Code, Fault};
use crate::name::Host;
use crate::trust::trust_anchors;

/// Whom to trust: the system's CAs by default (`SSL_CERT_FILE` moves them).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    ca_file: Option<PathBuf>,
}

impl Tls {
    /// Trusts the CAs of a PEM bundle. It is read again for each connection, so that it may be replaced.
    ///
    /// # Errors
    /// Why the bundle cannot be used.
    pub fn trusting(bundle: PathBuf) -> Result<Self, String> {
        anchors_in(&bundle)?;
        Ok(Self { ca_file: Some(bundle) })
    }

    /// Makes a TLS connection of a TCP connection to `host`.
    pub async fn handshake(&self, stream: TcpStream, host: &Host) -> Result<TlsStream<TcpStream>, Fault> {
        let what = format!("no TLS connection to `{host}`");
        let untrusted =
            |why: String| Fault::new(Code::GmsaTlsUntrusted, &what).because(why).with_next(self.trust_advice(host));
        let failed = |why: String| {
            let next = format!(
                "enroll a certificate for server authentication on `{host}`, which then listens with it; or set \
                 GMSA_LDAP=sasl, which needs no certificate"
            );
            Fault::new(Code::GmsaTlsFailed, &what).because(why).with_next(next)
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots().map_err(untrusted)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| untrusted(error.to_string()))?;
        let witness = Arc::new(RecordingVerifier { verifier, seen: OnceLock::new() });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as _)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_string()).map_err(|error| failed(error.to_string()))?;
        match timeout(HANDSHAKE_DEADLINE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(match certificate_error(&error) {
                Some(error) => {
                    let certificate = witness.seen.get().and_then(|certificate| Certificate::of(certificate));
                    let certificate = certificate.map_or_else(|| "the certificate".to_owned(), |c| c.to_string());
                    let (code, reason) = self.words(error, host);
                    let next = match code {
                        Code::GmsaTlsUntrusted => self.trust_advice(host),
                        _ => format!(
                            "renew the certificate of `{host}` with the DNS name {host} and the use server \
                             authentication, then restart the domain controller's LDAP service"
                        ),
                    };
                    Fault::new(code, what).because(format!("{certificate}: {reason}")).with_next(next)
                }
                None if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                    failed("the server hung up".into())
                }
                None => failed(error.to_string()),
            }),
            Err(_elapsed) => Err(failed(format!("no answer in {HANDSHAKE_DEADLINE:?}"))),
        }
    }

    fn trust_advice(&self, host: &Host) -> String {
        let file = match &self.ca_file {
            Some(path) => format!("to the file `{}`, which GMSA_LDAP_CA_FILE names", path.display()),
            None => "to a file, and name the file in GMSA_LDAP_CA_FILE".to_owned(),
        };
        format!(
            "add the CA that issued the certificate of `{host}`, as PEM, {file}; this shows the issuers: openssl s_client \
             -connect {host}:636 -showcerts"
        )
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let certificates = match &self.ca_file {
            Some(path) => anchors_in(path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() { Err(format!("{self} are none")) } else { Ok(roots) }
    }

    /// What a verifier's error means, and whose business it is: the one who names the CAs, or the one who issues the
    /// certificate.
    fn words(&self, error: &CertificateError, host: &Host) -> (Code, String) {
        use CertificateError as E;
        let time = |at: &UnixTime| clock::rfc3339(std::time::UNIX_EPOCH + Duration::from_secs(at.as_secs()));
        match error {
            E::UnknownIssuer => (Code::GmsaTlsUntrusted, format!("its issuer is not among {self}")),
            E::ExpiredContext { not_after, .. } => {
                (Code::GmsaTlsCertificate, format!("it expired at {}", time(not_after)))
            }
            E::NotValidYetContext { not_before, .. } => {
                (Code::GmsaTlsCertificate, format!("it is not valid before {}", time(not_before)))
            }
            E::NotValidForNameContext { presented, .. } => {
                // `DnsName("dc1.example.com")`, as the library writes them.
                let names = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name).escape_debug());
                let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
                let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
                (Code::GmsaTlsCertificate, format!("it is for {names}, not for `{host}`"))
            }
            E::InvalidPurposeContext { .. } => {
                (Code::GmsaTlsCertificate, "its extended key usage does not allow server authentication".into())
            }
            other => (Code::GmsaTlsUntrusted, other.to_string()),
        }
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ca_file {
            Some(path) => write!(f, "the CAs of GMSA_LDAP_CA_FILE (`{}`)", path.display()),
            None => f.write_str("the system's CAs"),
        }
    }
}

fn anchors_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refused = |why: &str| format!("`{}` cannot be used: {why}", path.display());
    let pem = std::fs::read(path).map_err(|error| refused(&error.to_string()))?;
    trust_anchors(&pem).map_err(refused)
}

fn certificate_error(error: &io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}

/// The library's verifier, and the certificate it saw: an error alone does not tell whose it was.
#[derive(Debug)]
struct RecordingVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    seen: OnceLock<CertificateDer<'static>>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let _ = self.seen.set(certificate.clone().into_owned());
        self.verifier.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// What people want to know of a certificate. Domain controllers often have one without a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    subject: String,
    issuer: String,
    /// RFC 3339; empty where it is written in no way that RFC 5280 knows.
    not_after: String,
}

impl Certificate {
    /// Reads a certificate in DER (RFC 5280 section 4.1).
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let parts = Vec::<AnyRef<'_>>::from_der(certificate).ok()?;
        let fields = parts.first()?.decode_as::<Vec<AnyRef<'_>>>().ok()?;
        // The version is there unless it is 1.
        let versioned = usize::from(matches!(fields.first()?.tag(), Tag::ContextSpecific { .. }));
        let [_serial, _algorithm, issuer, validity, subject, ..] = fields.get(versioned..)? else { return None };
        let times = validity.decode_as::<Vec<AnyRef<'_>>>().ok()?;
        Some(Self {
            subject: name(subject)?,
            issuer: name(issuer)?,
            not_after: time(times.get(1)?).unwrap_or_default(),
        })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject.as_str() {
            "" => f.write_str("the certificate without a subject")?,
            subject => write!(f, "the certificate of {subject}")?,
        }
        write!(f, ", issued by {}, valid until {}", self.issuer, self.not_after)
    }
}

/// A distinguished name, the most special part first (RFC 4514 section 2.1); parts of unknown kinds are left out.
fn name(name: &AnyRef<'_>) -> Option<String> {
    let mut told = Vec::new();
    for set in name.decode_as::<Vec<AnyRef<'_>>>().ok()? {
        let mut reader = SliceReader::new(set.value()).ok()?;
        while !reader.is_finished() {
            let attribute = reader.decode::<Vec<AnyRef<'_>>>().ok()?;
            let [kind, value] = attribute.as_slice() else { return None };
            if let Some((_, kind)) = KINDS.iter().find(|(oid, _)| *oid == kind.value()) {
                let value: String = String::from_utf8_lossy(value.value()).chars().take(100).collect();
                told.push(format!("{kind}={}", value.escape_debug()));
            }
        }
    }
    told.reverse();
    Some(told.join(","))
}

fn time(time: &AnyRef<'_>) -> Option<String> {
    let since = match time.tag() {
        Tag::UtcTime => time.decode_as::<UtcTime>().ok()?.to_unix_duration(),
        _ => time.decode_as::<GeneralizedTime>().ok()?.to_unix_duration(),
    };
    Some(clock::rfc3339(std::time::UNIX_EPOCH + since))
}

/// RFC 4514 section 3.
const KINDS: [(&[u8], &str); 7] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
];

/// A server that takes longer is passed over.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use proptest::prelude::*;

    fn certificate(extension: &str) -> Vec<u8> {
        let path = format!("{}/tests/certificates/{extension}", env!("CARGO_MANIFEST_DIR"));
        CertificateDer::from_pem_file(path).unwrap().to_vec()
    }

    #[test]
    fn a_certificate_is_told_by_its_names() {
        let told = |name: &str| Certificate::of(&certificate(name)).unwrap().to_string();
        insta::assert_snapshot!(told("ad.pem"), @"the certificate of CN=DC1,OU=Domain Controllers,DC=example,DC=com, issued by CN=DC1,OU=Domain Controllers,DC=example,DC=com, valid until 2119-12-08T00:00:00Z");
        insta::assert_snapshot!(told("nameless.pem"), @"the certificate without a subject, issued by , valid until 2022-09-27T00:00:00Z");
    }

    proptest! {
        #[test]
        fn no_certificate_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Certificate::of(&bytes);
        }

        #[test]
        fn a_changed_certificate_tells_no_control_characters(at in any::<proptest::sample::Index>(), octet in any::<u8>()) {
            let mut certificate = certificate("ad.pem");
            let at = at.index(certificate.len());
            certificate[at] = octet;
            if let Some(told) = Certificate::of(&certificate) {
                prop_assert!(!told.to_string().contains(char::is_control));
            }
        }
    }
}
