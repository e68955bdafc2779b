//! Kerberos: the AS exchange (RFC 4120 section 3.1) -> a ticket; with a TGT the TGS exchange (section 3.3) -> a ticket
//! for a service; the AP exchange (section 3.2), a ticket -> a sealed GSS context.
//!
//! The exchanges are state machines over bytes: they have no socket and no clock, so every path is tested without a
//! network. This is the only module that names the `krb5` crate, whose part is the cryptography, the
//! sealing of messages and the file formats. Its own KDC client is not used: it needs twice the round trips, knows no salt
//! beforehand and leaves the names in a reply unchecked (`docs/dependencies.md`).

mod ap;
mod exchange;
pub(crate) mod keytab;
mod messages;
mod tgs;
mod tickets;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::unhex;

/// Our side of GSS-SPNEGO, for the sealed LDAP connection.
mod context;

pub use context::{ContextError, Sealer, SecurityContext};
pub(crate) use exchange::SKEW_TO_BELIEVE;
pub use exchange::{AsExchange, ExchangeError, KdcError, Proof, Step};
pub use krb5::{Key, Principal};
pub use tgs::{Granted, TgsExchange};
pub use tickets::{GmsaTgt, LdapTicket, ServiceTicket, Ticket};

use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use self::messages::Reply;
use crate::clock;
use crate::directory::dc::Kdc;
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain, Host, Spn};
use crate::volume::KeytabImage;

/// The enctypes asked for, best known first: what every AD since 2008 speaks, then AES with SHA-2 (RFC 8009).
/// RC4 is left out on purpose: it is broken, and the directory's cure is one attribute.
pub const ENCTYPES: [i32; 4] = [18, 17, 20, 19];

/// A long-term key of one principal, with the salt it was derived with.
#[derive(Clone)]
pub struct ClientKey {
    key: Key,
    salt: Vec<u8>,
}

impl ClientKey {
    /// Derives the key from a password (RFC 3962 section 4). Costs some milliseconds of CPU: 4096 rounds of PBKDF2.
    fn derive(enctype: i32, password: &str, salt: &[u8], params: Option<[u8; 4]>) -> Result<Self, krb5::key::KeyError> {
        Ok(Self { key: Key::from_password(enctype, password, salt, params)?, salt: salt.to_vec() })
    }
}

#[cfg(test)]
impl ClientKey {
    /// For tests that use no key, but need one.
    pub(crate) fn sample() -> Self {
        static SAMPLE: std::sync::OnceLock<ClientKey> = std::sync::OnceLock::new();
        SAMPLE.get_or_init(|| Self::derive(18, "sample", b"salt", None).unwrap()).clone()
    }
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientKey(enctype {})", self.key.enctype())
    }
}

/// A password in the form that string-to-key takes. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// A login's password.
    pub fn new(password: Zeroizing<String>) -> Self {
        Self(password)
    }

    /// A gMSA's password: 256 octets of UTF-16LE (MS-ADTS 2.2.19). They are random, so most hold lone surrogates;
    /// the directory turns each into U+FFFD before it derives the AES keys, and so must we.
    pub fn from_utf16le(octets: &[u8]) -> Self {
        let units = octets.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let units: Zeroizing<Vec<u16>> = Zeroizing::new(units.collect());
        Self(Zeroizing::new(String::from_utf16_lossy(&units)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(redacted)")
    }
}

/// Carries an exchange through over a kept connection to a KDC.
pub async fn authenticate(
    kdc: &mut Kdc,
    client: &Principal,
    server: &Principal,
    proof: Proof,
    lifetime: Option<Duration>,
) -> Result<(Ticket, ClientKey), Refusal> {
    let (client, server) = (client.clone(), server.clone());
    let failed = |host: Option<&Host>, error| Refusal::Exchange(host.cloned(), error);
    let started = AsExchange::start(client, server, proof, lifetime, rand::random(), clock::now());
    let (mut exchange, mut request) = started.map_err(|error| failed(None, error))?;
    loop {
        let reply = kdc.ask(&request).await?;
        match exchange.receive(&reply, clock::now()).map_err(|error| failed(kdc.host(), error))? {
            Step::Send(next) => request = next,
            Step::Done(ticket, key) => return Ok((*ticket, key)),
        }
    }
}

/// Asks a KDC of `server`'s realm for a ticket, with a ticket for its ticket-granting service.
pub async fn grant(kdc: &mut Kdc, tgt: &Ticket, server: &Principal) -> Result<Granted, Refusal> {
    let failed = |host: Option<&Host>, error| Refusal::Exchange(host.cloned(), error);
    let started = TgsExchange::start(tgt, server.clone(), rand::random(), clock::now());
    let (exchange, request) = started.map_err(|error| failed(None, error))?;
    let reply = kdc.ask(&request).await?;
    exchange.receive(&reply).map_err(|error| failed(kdc.host(), error))
}

/// Asks a KDC for a ticket without a proof, as every login begins: it counts as no failed login. The refusal that it
/// answers with tells its clock; none if it gave the ticket.
pub async fn probe(kdc: &mut Kdc, client: &Principal, server: &Principal) -> Result<Option<KdcError>, Refusal> {
    let failed = |host: Option<&Host>, error| Refusal::Exchange(host.cloned(), error);
    let nothing = Proof::Password(Password::new(Zeroizing::default()));
    let started = AsExchange::start(client.clone(), server.clone(), nothing, None, rand::random(), clock::now());
    let (_, request) = started.map_err(|error| failed(None, error))?;
    let reply = kdc.ask(&request).await?;
    match Reply::decode(&reply).map_err(|error| failed(kdc.host(), error.into()))? {
        Reply::Kdc(_) => Ok(None),
        Reply::Error(error) => Ok(Some(KdcError::from(&*error))),
    }
}

/// Why no ticket came.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The KDC could not be asked.
    #[error("{0}")]
    Unreachable(#[from] Fault),
    /// The exchange failed, with this KDC if it came so far.
    #[error("{1}")]
    Exchange(Option<Host>, ExchangeError),
}

impl Refusal {
    /// The KDC takes the proof for wrong.
    pub fn is_wrong_password(&self) -> bool {
        matches!(self, Self::Exchange(_, ExchangeError::Kdc(error)) if error.code == KdcError::PREAUTH_FAILED)
    }

    /// The KDC does not know the client or the service: it may not have replicated to it yet.
    pub fn is_unknown_name(&self) -> bool {
        use KdcError as E;
        matches!(self, Self::Exchange(_, ExchangeError::Kdc(E { code: E::CLIENT_UNKNOWN | E::SERVICE_UNKNOWN, .. })))
    }

    /// As a fault of the login's exchange for a DC's LDAP service.
    pub fn of_login(&self, login: &Principal) -> Fault {
        let codes = ClientCodes {
            unknown: Code::TicketLoginUnknown,
            revoked: Code::TicketLoginRevoked,
            restricted: Code::TicketLoginRestricted,
            password_expired: Code::TicketLoginPasswordExpired,
            wrong_password: Code::TicketLoginRefused,
        };
        self.fault(&format!("the login `{login}`"), &codes)
    }

    /// As a fault of the gMSA's own exchange.
    pub fn of_gmsa(&self, gmsa: &Principal) -> Fault {
        self.fault(&format!("the gMSA `{gmsa}`"), &OF_GMSA)
    }

    /// As a fault of a TGS exchange for a service, asked as the gMSA.
    pub fn of_service(&self, spn: &Spn, gmsa: &Principal) -> Fault {
        let fault = self.fault(&format!("the gMSA `{gmsa}` for the service `{spn}`"), &OF_GMSA);
        match (fault.code, &fault.why) {
            (Code::TicketServiceUnknown, Some(why)) => {
                let hint = spn.hint().map_or_else(String::new, |hint| format!("; {hint}"));
                let why = format!(
                    "{why}; no account has this SPN, or several have it: `setspn -Q {spn}` tells, and `setspn -S {spn} \
                     ACCOUNT` gives it to the account that the service runs as{hint}"
                );
                fault.because(why)
            }
            _ => fault,
        }
    }

    fn fault(&self, client: &str, codes: &ClientCodes) -> Fault {
        let (kdc, error) = match self {
            Self::Unreachable(fault) => return fault.clone(),
            Self::Exchange(kdc, error) => (kdc, error),
        };
        let (code, told) = match error {
            ExchangeError::Invalid(_) => (Code::TicketReplyInvalid, "its reply cannot be believed"),
            ExchangeError::Encryption(_) => (Code::TicketEncryption, "it offers no enctype that is allowed here"),
            ExchangeError::Preauthentication(_) => (Code::TicketPreauth, "it does not take a password"),
            ExchangeError::Kdc(refused) => {
                let code = match refused.code {
                    KdcError::CLIENT_UNKNOWN | KdcError::WRONG_REALM => codes.unknown,
                    KdcError::SERVICE_UNKNOWN => Code::TicketServiceUnknown,
                    KdcError::ENCTYPE_UNSUPPORTED => Code::TicketEncryption,
                    KdcError::POLICY => codes.restricted,
                    KdcError::CLIENT_REVOKED => codes.revoked,
                    KdcError::PASSWORD_EXPIRED => codes.password_expired,
                    KdcError::PREAUTH_FAILED => codes.wrong_password,
                    KdcError::PREAUTH_REQUIRED => Code::TicketPreauth,
                    KdcError::CLOCK_SKEW => Code::TicketClockSkew,
                    _ => Code::TicketKdcFailed,
                };
                (code, refused.status_in_words().unwrap_or_else(|| refused.code_in_words()))
            }
        };
        let mut why = error.to_string();
        if let ExchangeError::Kdc(refused @ KdcError { code: KdcError::CLOCK_SKEW, .. }) = error {
            let (skew, ahead) = refused.skew(clock::now());
            let skew = humantime::format_duration(Duration::from_secs(skew.as_secs()));
            why = format!("{why}; its clock is {skew} {} of ours", if ahead { "ahead" } else { "behind" });
        }
        let kdc = kdc.as_ref().map_or_else(String::new, |host| format!(" from the KDC on `{host}`"));
        Fault::new(code, format!("no ticket for {client}{kdc}: {told}")).because(why)
    }
}

/// The codes that tell whose account is at fault.
struct ClientCodes {
    unknown: Code,
    revoked: Code,
    restricted: Code,
    password_expired: Code,
    wrong_password: Code,
}

const OF_GMSA: ClientCodes = ClientCodes {
    unknown: Code::TicketGmsaUnknown,
    revoked: Code::TicketGmsaRevoked,
    restricted: Code::TicketGmsaRevoked,
    password_expired: Code::TicketGmsaRefused,
    wrong_password: Code::TicketGmsaRefused,
};

/// `account$@REALM`, with the account in the directory's own spelling: the KDC keeps the case that was asked for.
pub fn gmsa_principal(sam_account_name: &str, domain: &Domain) -> Principal {
    Principal::new(krb5::client::NT_PRINCIPAL, [sam_account_name], domain.realm())
}

/// `name@REALM` of a login.
pub fn login_principal(name: &str, domain: &Domain) -> Principal {
    Principal::new(krb5::client::NT_PRINCIPAL, [name], domain.realm())
}

/// `ldap/dc1.example.com/example.com@EXAMPLE.COM`, the name that only a DC of the domain has (MS-DRSR 2.2.4.2).
///
/// Any computer account may carry `ldap/HOST` of its own host. The validated write of servicePrincipalName lets only a
/// DC's own object carry this one (MS-ADTS 3.1.1.5.3.1.1.4), so its ticket proves a DC and not just an account. There
/// is no fall-back to the name of two parts.
pub fn ldap_service(host: &Host, domain: &Domain) -> Principal {
    Principal::new(krb5::client::NT_SRV_INST, ["ldap", host.as_str(), domain.as_str()], domain.realm())
}

/// `HTTP/web.example.com@REALM`, as asked for in one realm.
pub fn service(spn: &Spn, domain: &Domain) -> Principal {
    Principal::new(krb5::client::NT_SRV_INST, spn.components(), domain.realm())
}

/// `krbtgt/TO@FROM`, the way from one realm to another.
pub fn cross_realm_service(from: &Domain, to: &Domain) -> Principal {
    Principal::new(krb5::client::NT_SRV_INST, ["krbtgt".to_owned(), to.realm()], from.realm())
}

/// `krbtgt/REALM@REALM`.
pub fn ticket_granting_service(domain: &Domain) -> Principal {
    Principal::krbtgt(&domain.realm())
}

/// The salt of a computer-like account, which a gMSA is: `REALMhostname.domain` with the name in lower case and
/// without `$` (MS-KILE 3.1.1.2). It does not depend on dNSHostName.
pub fn gmsa_salt(account: &Account, domain: &Domain) -> Vec<u8> {
    format!("{}host{}.{}", domain.realm(), account.as_str().to_ascii_lowercase(), domain.as_str()).into_bytes()
}

/// A keytab for those who accept connections as the gMSA: AES keys of these versions of its password, for the account
/// and for each of its services.
pub fn gmsa_keytab(
    gmsa: &Principal,
    services: &[Spn],
    salt: &[u8],
    passwords: &[(u32, &Password)],
    now: SystemTime,
) -> Result<KeytabImage, Fault> {
    let derive = |enctype, password: &Password| Key::from_password(enctype, password.as_str(), salt, None);
    let mut keys = Vec::new();
    for (kvno, password) in passwords {
        for enctype in [18, 17] {
            let key = derive(enctype, password).map_err(|error| {
                Fault::new(Code::InternalBug, format!("no key could be made for the gMSA `{gmsa}`")).because(error)
            })?;
            keys.push((*kvno, key));
        }
    }
    let services = services.iter().map(|spn| Principal::new(krb5::client::NT_SRV_INST, spn.components(), &gmsa.realm));
    let entries: Vec<_> = std::iter::once(gmsa.clone())
        .chain(services)
        .flat_map(|principal| {
            let entry = |(kvno, key): &(u32, Key)| keytab::Entry {
                principal: principal.clone(),
                kvno: *kvno,
                key: key.clone(),
            };
            keys.iter().map(entry).collect::<Vec<_>>()
        })
        .collect();
    Ok(KeytabImage::of_gmsa(keytab::encode(&entries, now)))
}

/// What an enctype is called, as `klist` prints it.
pub fn enctype_name(enctype: i32) -> String {
    match enctype {
        17 => "aes128-cts-hmac-sha1-96".into(),
        18 => "aes256-cts-hmac-sha1-96".into(),
        19 => "aes128-cts-hmac-sha256-128".into(),
        20 => "aes256-cts-hmac-sha384-192".into(),
        23 => "rc4-hmac".into(),
        other => format!("enctype {other}"),
    }
}
