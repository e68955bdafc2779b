//! Sealed LDAP -> the gMSA's managed password.

use std::time::{Duration, SystemTime};

use crate::directory::error::{DirectoryError, FailureKind};
use crate::directory::ldap::{LdapConnection, LdapError, Plain, Sealed, SearchEntry};
use crate::fault::{Code, Fault};
use crate::kerberos::{LdapTicket, Password};
use crate::name::{Account, Domain, Host, Spn};
use crate::text::powershell;

/// A gMSA as its directory knows it.
pub struct Gmsa {
    /// `sAMAccountName` in the directory's spelling, with `$`: the principal's name, since the KDC keeps the case
    /// that was asked for.
    pub sam_account_name: String,
    /// `msDS-KeyVersionNumber`, where the login may read it.
    pub kvno: Option<u32>,
    /// The managed password.
    pub password: ManagedPassword,
}

impl Gmsa {
    /// Reads the passwords of accounts in one search, in their order.
    ///
    /// `login` names who asks, for the fault: the directory answers a login without the right with success and just
    /// leaves `msDS-ManagedPassword` out.
    pub async fn read(
        connection: &mut LdapConnection<Sealed>,
        domain: &Domain,
        accounts: &[Account],
        login: &str,
    ) -> Vec<Result<Self, DirectoryError>> {
        let found = find(connection, domain, accounts, login, ATTRIBUTES).await;
        let read =
            |(account, entry): (&Account, Result<SearchEntry, DirectoryError>)| Self::of(&entry?, account, login);
        accounts.iter().zip(found).map(read).collect()
    }

    fn of(entry: &SearchEntry, account: &Account, login: &str) -> Result<Self, DirectoryError> {
        let name = account.sam_account_name();
        let Some(blob) = entry.value("msDS-ManagedPassword") else {
            let what = format!("the login `{login}` may not read the managed password of the gMSA `{name}`");
            let why = "the directory shows the account without msDS-ManagedPassword: the login is not among the \
                       PrincipalsAllowedToRetrieveManagedPassword (msDS-GroupMSAMembership)";
            return Err(DirectoryError::new(
                FailureKind::NoPassword,
                Fault::new(Code::GmsaReadDenied, what).because(why),
            ));
        };
        let password = ManagedPassword::parse(blob).map_err(|error| {
            let what = format!("the managed password of the gMSA `{name}` cannot be read");
            Fault::new(Code::GmsaBlobMalformed, what).because(error)
        })?;
        Ok(Self {
            sam_account_name: entry.text("sAMAccountName").unwrap_or(&name).to_owned(),
            kvno: entry.text("msDS-KeyVersionNumber").and_then(|kvno| kvno.parse().ok()),
            password,
        })
    }
}

/// What an acceptor's keys go by.
pub struct AcceptorNames {
    /// `msDS-KeyVersionNumber`: the version of the key that the KDC uses.
    pub kvno: u32,
    /// `servicePrincipalName`.
    pub services: Vec<Spn>,
    /// `pwdLastSet`: since when the KDC uses it.
    pub changed_at: Option<SystemTime>,
}

impl AcceptorNames {
    /// Searches the domain for the account once more, behind a login with the managed password: the directory makes the
    /// new key when somebody first looks, and the answer to that look still tells the old version.
    pub async fn read(
        connection: &mut LdapConnection<Sealed>,
        domain: &Domain,
        account: &Account,
        login: &str,
    ) -> Result<Self, DirectoryError> {
        let entry = find(connection, domain, std::slice::from_ref(account), login, NAMES).await.remove(0)?;
        let Some(kvno) = entry.text("msDS-KeyVersionNumber").and_then(|kvno| kvno.parse().ok()) else {
            let what = format!("the login `{login}` may not read the key version of the gMSA `{account}$`");
            let why = "the directory shows the account without msDS-KeyVersionNumber, which a keytab cannot do without";
            return Err(Fault::new(Code::GmsaReadDenied, what).because(why).into());
        };
        // What cannot be the name of a service in a keytab is no name that a client asks for.
        let services = entry.texts("servicePrincipalName").filter_map(|spn| spn.parse().ok()).collect();
        let changed_at = entry.text("pwdLastSet").and_then(|ticks| ticks.parse().ok()).and_then(filetime);
        Ok(Self { kvno, services, changed_at })
    }
}

/// A FILETIME: 100 ns units since 1601 (MS-DTYP 2.3.3).
fn filetime(ticks: u64) -> Option<SystemTime> {
    const FROM_1601_TO_1970: u64 = 11_644_473_600;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs((ticks / 10_000_000).checked_sub(FROM_1601_TO_1970)?))
}

/// Searches the domain for accounts, all in one search; the entries in the order of the accounts. `login` names who
/// asks, for the fault.
pub async fn find(
    connection: &mut LdapConnection<Sealed>,
    domain: &Domain,
    accounts: &[Account],
    login: &str,
    attributes: &[&str],
) -> Vec<Result<SearchEntry, DirectoryError>> {
    let names: Vec<_> = accounts.iter().map(Account::sam_account_name).collect();
    let base = domain.base_dn();
    let found = connection.search(&base, "sAMAccountName", &names, attributes);
    let mut entries = match tokio::time::timeout(LDAP_DEADLINE, found).await {
        Ok(Ok(entries)) => entries,
        Ok(Err(error)) => return names.iter().map(|name| Err(search_fault(&error, name, domain))).collect(),
        Err(_elapsed) => {
            let why = format!("waited {LDAP_DEADLINE:?}");
            let what = |name| format!("the search for the gMSA `{name}` in `{domain}` got no answer");
            let fault = |name| {
                let fault = Fault::new(Code::GmsaConnectionLost, what(name)).because(&why);
                Err(DirectoryError::new(FailureKind::Lost, fault))
            };
            return names.iter().map(fault).collect();
        }
    };
    let mut take = |account| {
        let at = entries.iter().position(|entry| is_account(entry, account));
        at.map(|at| entries.swap_remove(at)).ok_or_else(|| {
            let what = format!("the domain `{domain}` has no gMSA `{}`", account.sam_account_name());
            let why = format!("a search by sAMAccountName as `{login}` found nothing");
            DirectoryError::new(FailureKind::NotFound, Fault::new(Code::GmsaNotFound, what).because(why))
        })
    };
    accounts.iter().map(&mut take).collect()
}

/// Binds a connection to a DC's LDAP service with the login's ticket.
pub async fn bind(
    connection: LdapConnection<Plain>,
    ticket: &LdapTicket,
    host: &Host,
    login: &str,
) -> Result<LdapConnection<Sealed>, DirectoryError> {
    let what = format!("the login `{login}` cannot bind to LDAP on `{host}`");
    let computer = powershell(host.as_str());
    let lost = |why: String| {
        let next = format!(
            "check the LDAP service of `{host}`, and firewalls that inspect LDAP: Get-WinEvent -ComputerName {computer} \
             -LogName 'Directory DcService' -MaxEvents 20"
        );
        DirectoryError::new(FailureKind::Lost, Fault::new(Code::GmsaConnectionLost, &what).because(why).with_next(next))
    };
    match tokio::time::timeout(LDAP_DEADLINE, connection.bind(ticket)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) if error.is_lost() => Err(lost(format!("`{host}`: {error}"))),
        Ok(Err(error)) => {
            let fault = Fault::new(Code::GmsaBindRefused, &what).because(format!("`{host}`: {error}"));
            Err(DirectoryError::new(FailureKind::BindRefused, fault.with_next(bind_advice(&error, host, login))))
        }
        Err(_elapsed) => Err(lost(format!("`{host}`: no answer in {LDAP_DEADLINE:?}"))),
    }
}

/// What to change after a bind that `host` refused.
fn bind_advice(error: &LdapError, host: &Host, login: &str) -> String {
    let (user, realm) = login.rsplit_once('@').unwrap_or((login, ""));
    let account = format!("-Identity {} -Server {}", powershell(user), powershell(&realm.to_lowercase()));
    let computer = powershell(host.as_str());
    match error.sub_code() {
        Some(0x530) => format!("Set-ADUser {account} -Clear logonHours"),
        Some(0x531) => format!("Set-ADUser {account} -Clear userWorkstations"),
        Some(0x532) => format!("set a new password and store it in the secret: Set-ADAccountPassword {account} -Reset"),
        Some(0x533) => format!("Enable-ADAccount {account}"),
        Some(0x569) => format!(
            "give `{user}` the user right `Access this computer from the network` on `{host}` (Group Policy, \
             SeNetworkLogonRight)"
        ),
        Some(0x701) => format!("Clear-ADAccountExpiration {account}"),
        Some(0x773) => format!("Set-ADUser {account} -ChangePasswordAtLogon $false"),
        Some(0x775) => format!("Unlock-ADAccount {account}"),
        Some(0x568) => format!("remove `{user}` from groups: its token is too large for `{host}`"),
        Some(0x8009_0324) => format!("set the clock of `{host}`: w32tm /resync /computer:{computer}"),
        Some(0x35b | 0x8009_0346) => format!(
            "find what intercepts TLS between the task and `{host}`: `{host}` has another certificate than the task sees"
        ),
        Some(0x51f | 0x8009_030e | 0x8009_0302) => format!(
            "check the Netlogon service and the secure channel of `{host}`: nltest /server:{computer} /sc_verify:{}",
            powershell(&realm.to_lowercase())
        ),
        _ => format!(
            "check that only the computer account of `{host}` has the service name ldap/{host}: setspn -Q ldap/{host}; \
             then restart it or set its clock"
        ),
    }
}

/// A managed password: what `MSDS-MANAGEDPASSWORD_BLOB` holds (MS-ADTS 2.2.19). Wiped when dropped.
#[derive(Debug)]
pub struct ManagedPassword {
    /// The password now. In the last minutes before it expires this is already the next one, which the KDC still
    /// refuses: then [`previous`](Self::previous) is the one that works.
    pub current: Password,
    /// The password before.
    pub previous: Option<Password>,
    /// In how long the password should be read again.
    pub query_interval: Duration,
    /// For how long the password will surely not change.
    pub unchanged_interval: Duration,
}

impl ManagedPassword {
    /// Decodes the blob, little endian, by its offsets: Samba adds no padding, so nothing but them tells where a
    /// field lies.
    pub fn parse(blob: &[u8]) -> Result<Self, BlobError> {
        let version = u16_at(blob, 0)?;
        if version != 1 {
            return Err(BlobError::Version(version));
        }
        let length = field(blob, 4).copied().map(u32::from_le_bytes)?;
        if usize::try_from(length).ok() != Some(blob.len()) {
            return Err(BlobError::Length { told: length, found: blob.len() });
        }
        let previous = match u16_at(blob, 10)? {
            0 => None,
            offset => Some(password(blob, offset)?),
        };
        Ok(Self {
            current: password(blob, u16_at(blob, 8)?)?,
            previous,
            query_interval: interval(blob, u16_at(blob, 12)?)?,
            unchanged_interval: interval(blob, u16_at(blob, 14)?)?,
        })
    }
}

/// The blob is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Another version than 1.
    #[error("version {0} of msDS-ManagedPassword is not known")]
    Version(u16),
    /// The length it tells is not the length it has.
    #[error("msDS-ManagedPassword gives its length as {told} bytes and has {found}")]
    Length {
        /// What the blob tells.
        told: u32,
        /// What was received.
        found: usize,
    },
    /// A field lies outside, or over the header.
    #[error("msDS-ManagedPassword has a field at offset {0}, which is not inside it")]
    Offset(usize),
}

/// A password is 256 octets, taken by length: they are random and may hold NULs and newlines. By reference: an array
/// that is moved leaves copies of itself on the stack, which nobody wipes.
fn password(blob: &[u8], offset: u16) -> Result<Password, BlobError> {
    let octets: &[u8; 256] = behind_header(blob, offset)?;
    Ok(Password::from_utf16le(octets))
}

/// An interval is an unsigned number of 100 ns units.
fn interval(blob: &[u8], offset: u16) -> Result<Duration, BlobError> {
    let units = behind_header(blob, offset).copied().map(u64::from_le_bytes)?;
    Ok(Duration::from_micros(units / 10))
}

fn behind_header<const N: usize>(blob: &[u8], offset: u16) -> Result<&[u8; N], BlobError> {
    let offset = usize::from(offset);
    if offset < HEADER_LENGTH { Err(BlobError::Offset(offset)) } else { field(blob, offset) }
}

fn u16_at(blob: &[u8], offset: usize) -> Result<u16, BlobError> {
    field(blob, offset).copied().map(u16::from_le_bytes)
}

fn field<const N: usize>(blob: &[u8], offset: usize) -> Result<&[u8; N], BlobError> {
    blob.get(offset..).and_then(<[u8]>::first_chunk).ok_or(BlobError::Offset(offset))
}

fn is_account(entry: &SearchEntry, account: &Account) -> bool {
    entry.text("sAMAccountName").is_some_and(|name| account.same_as(name))
}

fn search_fault(error: &LdapError, name: &str, domain: &Domain) -> DirectoryError {
    let what = format!("the search for the gMSA `{name}` in `{domain}` failed");
    let (kind, code) = match error {
        LdapError::Refused { .. } if error.is_lost() => (FailureKind::Lost, Code::GmsaSearchFailed),
        LdapError::Refused { .. } => (FailureKind::SearchRefused, Code::GmsaSearchFailed),
        _ => (FailureKind::Lost, Code::GmsaConnectionLost),
    };
    DirectoryError::new(kind, Fault::new(code, what).because(error))
}

const NAMES: &[&str] = &["sAMAccountName", "msDS-KeyVersionNumber", "servicePrincipalName", "pwdLastSet"];
const ATTRIBUTES: &[&str] = &["sAMAccountName", "msDS-ManagedPassword", "msDS-KeyVersionNumber"];

/// Version, reserved, length and four offsets.
const HEADER_LENGTH: usize = 16;

/// For one operation. A DC answers in milliseconds.
pub(crate) const LDAP_DEADLINE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::unhex;
    use proptest::prelude::*;

    fn blob(previous: bool) -> Vec<u8> {
        // As Samba lays it out: no padding, so the intervals lie unaligned.
        let mut blob = vec![0; HEADER_LENGTH];
        let mut offsets = [0; 4];
        for (slot, octets) in [(0, vec![b'a'; 258]), (1, vec![b'b'; 258])] {
            if slot == 0 || previous {
                offsets[slot] = blob.len();
                blob.extend(octets);
            }
        }
        for (slot, units) in [(2, 600_000_000_u64), (3, 300_000_000)] {
            offsets[slot] = blob.len();
            blob.extend(units.to_le_bytes());
        }
        blob[0] = 1;
        let length = u32::try_from(blob.len()).unwrap();
        blob[4..8].copy_from_slice(&length.to_le_bytes());
        for (slot, offset) in offsets.into_iter().enumerate() {
            blob[8 + 2 * slot..10 + 2 * slot].copy_from_slice(&u16::try_from(offset).unwrap().to_le_bytes());
        }
        blob
    }

    #[test]
    fn the_fields_are_found_by_their_offsets() {
        let fresh = ManagedPassword::parse(&blob(false)).unwrap();
        assert!(fresh.previous.is_none());
        let rolled = ManagedPassword::parse(&blob(true)).unwrap();
        assert!(rolled.previous.is_some());
        assert_eq!(rolled.query_interval, Duration::from_secs(60));
        assert_eq!(rolled.unchanged_interval, Duration::from_secs(30));
    }

    /// `lab/gmsa.py vectors` lays the blob out as Samba does; the password holds a newline, a NUL and lone surrogates.
    #[test]
    fn a_real_layout_is_read_to_the_last_octet() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../lab/vectors.json")).unwrap();
        let read = ManagedPassword::parse(&unhex(&vectors["blob"])).unwrap();
        assert_eq!(read.current.as_str().as_bytes(), unhex(&vectors["current"]["utf8"]));
        assert_eq!(read.previous.unwrap().as_str().as_bytes(), unhex(&vectors["previous"]["utf8"]));
        assert_eq!(read.query_interval, Duration::from_secs(12 * 3600));
        assert_eq!(read.unchanged_interval, Duration::from_secs(12 * 3600 - 300));
        let fresh = ManagedPassword::parse(&unhex(&vectors["blob_without_previous"])).unwrap();
        assert!(fresh.previous.is_none());
    }

    #[test]
    fn a_blob_that_lies_is_refused() {
        let good = blob(true);
        let changed = |at: usize, octet: u8| {
            let mut blob = good.clone();
            blob[at] = octet;
            ManagedPassword::parse(&blob).unwrap_err()
        };
        assert_eq!(changed(0, 2), BlobError::Version(2));
        assert_eq!(changed(8, 3), BlobError::Offset(3));
        assert_eq!(changed(9, 0xff), BlobError::Offset(0xff10));
        assert!(matches!(changed(4, 1), BlobError::Length { .. }));
        assert!(ManagedPassword::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_blob_panics(blob in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = ManagedPassword::parse(&blob);
        }

        #[test]
        fn no_offset_panics(offset in any::<u16>(), slot in 0_usize..4) {
            let mut blob = blob(true);
            blob[8 + 2 * slot..10 + 2 * slot].copy_from_slice(&offset.to_le_bytes());
            let _ = ManagedPassword::parse(&blob);
        }
    }
}
