//! Kerberos: the AS exchange (RFC 4120 section 3.1) -> a ticket; with a TGT the TGS exchange (section 3.3) -> a ticket
//! for a service; the AP exchange (section 3.2), a ticket -> a sealed GSS context.
//!
//! The exchanges are state machines over bytes: they have no socket, no clock and no random numbers of their own, so every
//! path is tested without a network. Nothing here knows a domain controller or the volume. The primitives are
//! RustCrypto's; what Kerberos makes of them is here (`docs/dependencies.md`).

/// names
mod principal;

/// keys, encryption, checksums (RFC 3961, RFC 3962, RFC 8009)
mod crypto;

/// the messages in DER
mod messages;

/// what a KDC's refusal means
mod kdc_error;

/// a password or key -> a ticket
mod exchange;

/// a ticket-granting ticket -> a ticket for a service
mod tgs;

/// a TGT that can be renewed, from a file
mod renewable;

/// tickets by their use
mod tickets;

/// a ticket -> the keys of a security context
mod ap;

/// what binds that to TLS
mod bindings;

/// sealed and signed messages (RFC 4121)
mod token;

/// our side of GSS-SPNEGO, for the sealed LDAP connection
mod context;

/// tickets -> a file, and back
pub(crate) mod ccache;

/// keys -> a file, and back
pub(crate) mod keytab;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
pub(crate) use tests::unhex;

pub use ccache::{CacheImage, KeytabImage, Warm, warm};
pub use context::{ContextError, Sealer, SecurityContext};
pub use crypto::{Key, KeyError};
pub(crate) use exchange::SKEW_TO_BELIEVE;
pub use exchange::{AsExchange, ExchangeError, Proof, Step, TicketOptions};
pub use kdc_error::KdcError;
pub use principal::Principal;
use principal::{NT_ENTERPRISE, NT_PRINCIPAL, NT_SRV_INST};
pub use renewable::renewable;
pub use tgs::{Granted, TgsExchange};
pub use tickets::{GmsaTgt, LdapTicket, ServiceTicket, Ticket};
pub use token::{Role, TokenError, Tokens};

use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::fault::{Code, Fault};
use crate::name::{Account, Domain, Host, Spn};

/// The enctypes asked for, best known first: what every AD since 2008 speaks, then AES with SHA-2 (RFC 8009).
/// RC4 is left out on purpose: it is broken, and the directory's cure is one attribute.
pub const ENCTYPES: [i32; 4] = [18, 17, 20, 19];

/// How long before its end a KDC no longer accepts a TGT: AD refuses one in its last two minutes, so that no service
/// ticket is born dead.
pub const REFUSED_BEFORE_END: Duration = Duration::from_secs(120);

/// The shortest life that `GMSA_TICKET_LIFETIME` may ask for. Half of what comes before the last two minutes is left for
/// a renewal then: 30 seconds, in which a dead domain controller and a back-off still have room.
pub const LEAST_LIFE: Duration = Duration::from_secs(180);

/// A long-term key of one principal, with the salt it was derived with.
#[derive(Clone)]
pub struct ClientKey {
    key: Key,
    salt: Vec<u8>,
}

#[cfg(test)]
impl ClientKey {
    /// For tests that use no key, but need one.
    pub(crate) fn sample() -> Self {
        static SAMPLE: std::sync::OnceLock<ClientKey> = std::sync::OnceLock::new();
        let password = Password::new(Zeroizing::new("sample".to_owned()));
        SAMPLE.get_or_init(|| Self::derive(18, &password, b"salt", None).unwrap()).clone()
    }
}

impl ClientKey {
    /// Derives the key from a password (RFC 3962 section 4, RFC 8009 section 4). Costs some milliseconds of CPU: 4096
    /// rounds of PBKDF2 and more, or as many as the parameters say.
    pub fn derive(enctype: i32, password: &Password, salt: &[u8], params: Option<[u8; 4]>) -> Result<Self, KeyError> {
        Ok(Self { key: Key::from_password(enctype, password.as_str(), salt, params)?, salt: salt.to_vec() })
    }

    /// The number of its enctype.
    pub fn enctype(&self) -> i32 {
        self.key.enctype()
    }

    /// The salt that it was derived with: the one that the KDC told, if it told one.
    pub fn salt(&self) -> &[u8] {
        &self.salt
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

/// `account$@REALM`, with the account in the directory's own spelling: the KDC keeps the case that was asked for.
pub fn gmsa_principal(sam_account_name: &str, domain: &Domain) -> Principal {
    Principal::new(NT_PRINCIPAL, [sam_account_name], domain.realm())
}

/// `name@REALM` of a login.
pub fn login_principal(name: &str, domain: &Domain) -> Principal {
    Principal::new(NT_PRINCIPAL, [name], domain.realm())
}

/// A login's `userPrincipalName`, which only the KDC can resolve: `alice@corp.example.net` in the realm of a domain
/// (RFC 6806 section 5).
pub fn enterprise_principal(upn: &str, domain: &Domain) -> Principal {
    Principal::new(NT_ENTERPRISE, [upn], domain.realm())
}

/// `ldap/dc1.example.com/example.com@EXAMPLE.COM`, the name that only a DC of the domain has (MS-DRSR 2.2.4.2).
///
/// Any computer account may carry `ldap/HOST` of its own host. The validated write of servicePrincipalName lets only a
/// DC's own object carry this one (MS-ADTS 3.1.1.5.3.1.1.4), so its ticket proves a DC and not just an account. There
/// is no fall-back to the name of two parts.
pub fn ldap_service(host: &Host, domain: &Domain) -> Principal {
    Principal::new(NT_SRV_INST, ["ldap", host.as_str(), domain.as_str()], domain.realm())
}

/// `HTTP/web.example.com@REALM`, as asked for in one realm.
pub fn service(spn: &Spn, domain: &Domain) -> Principal {
    Principal::new(NT_SRV_INST, spn.components(), domain.realm())
}

/// `krbtgt/TO@FROM`, the way from one realm to another.
pub fn cross_realm_service(from: &Domain, to: &Domain) -> Principal {
    Principal::new(NT_SRV_INST, ["krbtgt".to_owned(), to.realm()], from.realm())
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
    let mut keys = Vec::new();
    for (kvno, password) in passwords {
        for enctype in [18, 17] {
            let key = ClientKey::derive(enctype, password, salt, None).map_err(|error| {
                Fault::new(Code::InternalBug, format!("no key could be made for the gMSA `{gmsa}`")).because(error)
            })?;
            keys.push((*kvno, key.key));
        }
    }
    let services = services.iter().map(|spn| Principal::new(NT_SRV_INST, spn.components(), &gmsa.realm));
    let entries: Vec<_> = std::iter::once(gmsa.clone())
        .chain(services)
        .flat_map(|principal| {
            let entry = |(kvno, key): &(u32, Key)| keytab::KeytabEntry {
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
