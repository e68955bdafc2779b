//! Why the directory shows an account without its managed password: what the account is, and who may read it.

use tokio::time::timeout;

use crate::directory::error::{DirectoryError, FailureKind};
use crate::directory::gmsa::{self, LDAP_DEADLINE};
use crate::directory::ldap::{LdapConnection, Sealed, SearchEntry};
use crate::directory::sid::{Sid, readers};
use crate::fault::{Code, Fault};
use crate::name::{Account, Domain};
use crate::text::{plain, powershell};

/// Adds to a fault without a password why that is so: two or three more searches.
pub(crate) async fn explain(
    connection: &mut LdapConnection<Sealed>,
    domain: &Domain,
    account: &Account,
    login: &str,
    error: DirectoryError,
) -> DirectoryError {
    let found = gmsa::find(connection, domain, std::slice::from_ref(account), login, ATTRIBUTES).await.pop();
    let Some(Ok(entry)) = found else { return error };
    let classes: Vec<_> = entry.texts("objectClass").collect();
    if let Some(fault) = not_a_gmsa(&classes, account, domain) {
        return DirectoryError::new(FailureKind::NoPassword, fault);
    }
    let sids = entry.value("msDS-GroupMSAMembership").map(readers).unwrap_or_default();
    let mut allowed = Vec::new();
    for sid in sids.iter().take(NAMED) {
        allowed.push(PasswordReader::of(connection, domain, sid).await);
    }
    let DirectoryError { kind, fault } = error;
    DirectoryError::new(kind, denied(*fault, account, domain, login, &allowed))
}

/// An account of another kind has no managed password, whoever asks.
fn not_a_gmsa(classes: &[&str], account: &Account, domain: &Domain) -> Option<Fault> {
    let is = |class: &str| classes.iter().any(|known| known.eq_ignore_ascii_case(class));
    let kind = match () {
        () if is("msDS-GroupManagedServiceAccount") || classes.is_empty() => return None,
        () if is("msDS-ManagedServiceAccount") => "a standalone managed service account (sMSA)",
        () if is("msDS-DelegatedManagedServiceAccount") => "a delegated managed service account (dMSA)",
        () if is("computer") => "a computer account",
        () if is("user") => "a user account",
        () => "another kind of object",
    };
    let name = account.sam_account_name();
    let what = format!("the account `{name}` in `{domain}` is {kind}, not a gMSA");
    let why = format!("its objectClass is {}", plain(classes.last().unwrap_or(&"unknown"), 80));
    let next = format!(
        "name a gMSA instead of `{account}` in the CredSpec; this lists them: Get-ADServiceAccount -Filter * -Server {domain}"
    );
    Some(Fault::new(Code::GmsaNotFound, what).because(why).with_next(next))
}

/// The login is not among those who may read the password: who is, and the command that adds it.
fn denied(fault: Fault, account: &Account, domain: &Domain, login: &str, allowed: &[PasswordReader]) -> Fault {
    let (user, realm) = login.rsplit_once('@').unwrap_or((login, ""));
    let own = realm.eq_ignore_ascii_case(domain.as_str());
    let member = if own {
        powershell(user)
    } else {
        format!("(Get-ADUser -Identity {} -Server {})", powershell(user), powershell(&realm.to_lowercase()))
    };
    let names: Vec<_> = allowed.iter().map(PasswordReader::told).collect();
    let why = match names.as_slice() {
        [] => format!(
            "the gMSA's PrincipalsAllowedToRetrieveManagedPassword is empty, or `{user}` is not allowed to see it"
        ),
        names => format!("the gMSA allows only {}; `{user}` is not among them", names.join(", ")),
    };
    let group = allowed.iter().find(|reader| reader.is_group);
    let next = if let Some(PasswordReader { name, .. }) = group {
        format!("Add-ADGroupMember -Identity {} -Members {member} -Server {domain}", powershell(name))
    } else {
        // The cmdlet replaces the list: it is given what is there, not what was named above, which may be a part.
        // Within an expression a bare word is a command.
        let member = if own { format!("'{}'", user.replace('\'', "''")) } else { member };
        let (gmsa, property) = (powershell(account.as_str()), "PrincipalsAllowedToRetrieveManagedPassword");
        format!(
            "Set-ADServiceAccount -Identity {gmsa} -Server {domain} -{property} (@((Get-ADServiceAccount -Identity {gmsa} \
             -Server {domain} -Properties {property}).{property}) + {member})"
        )
    };
    fault.because(why).with_next(next)
}

/// One that may read the password.
struct PasswordReader {
    name: String,
    is_group: bool,
}

impl PasswordReader {
    /// What the directory calls it; its SID if that is all there is.
    async fn of(connection: &mut LdapConnection<Sealed>, domain: &Domain, sid: &Sid) -> Self {
        let sid = sid.to_string();
        let base = domain.base_dn();
        let search =
            connection.search(&base, "objectSid", std::slice::from_ref(&sid), &["sAMAccountName", "groupType"]);
        let entries: Vec<SearchEntry> = match timeout(LDAP_DEADLINE, search).await {
            Ok(Ok(entries)) => entries,
            _ => Vec::new(),
        };
        let entry = entries.first();
        let name = entry.and_then(|entry| entry.text("sAMAccountName")).map(str::to_owned);
        Self { is_group: entry.is_some_and(|entry| entry.value("groupType").is_some()), name: name.unwrap_or(sid) }
    }

    fn told(&self) -> String {
        let kind = if self.is_group { "the group" } else { "the account" };
        format!("{kind} `{}`", plain(&self.name, 80))
    }
}

/// How many who may read are named.
const NAMED: usize = 5;
const ATTRIBUTES: &[&str] = &["sAMAccountName", "objectClass", "msDS-GroupMSAMembership"];

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Domain {
        "corp.example.com".parse().unwrap()
    }

    fn account() -> Account {
        "WebApp01".parse().unwrap()
    }

    fn of(login: &str, allowed: &[(&str, bool)]) -> Fault {
        let allowed: Vec<_> = allowed
            .iter()
            .map(|(name, is_group)| PasswordReader { name: (*name).to_owned(), is_group: *is_group })
            .collect();
        denied(Fault::new(Code::GmsaReadDenied, "denied"), &account(), &domain(), login, &allowed)
    }

    #[test]
    fn the_command_adds_the_login_to_the_group_that_is_allowed() {
        let fault = of("svc@CORP.EXAMPLE.COM", &[("WebApp01$", false), ("Web App's Readers", true)]);
        assert_eq!(
            fault.next(),
            "Add-ADGroupMember -Identity 'Web App''s Readers' -Members svc -Server corp.example.com"
        );
        assert!(fault.why.unwrap().contains("only the account `WebApp01$`, the group `Web App's Readers`"));
        let fault = of("svc@OTHER.TEST", &[("Readers", true)]);
        assert!(fault.next().contains("-Members (Get-ADUser -Identity svc -Server other.test) -Server corp"));
    }

    #[test]
    fn without_a_group_the_login_is_added_to_the_list_that_is_there() {
        let fault = of("svc@CORP.EXAMPLE.COM", &[("HOST$", false)]);
        assert_eq!(
            fault.next(),
            "Set-ADServiceAccount -Identity WebApp01 -Server corp.example.com \
             -PrincipalsAllowedToRetrieveManagedPassword (@((Get-ADServiceAccount -Identity WebApp01 -Server corp.example.com \
             -Properties PrincipalsAllowedToRetrieveManagedPassword).PrincipalsAllowedToRetrieveManagedPassword) + 'svc')"
        );
        assert!(of("svc@CORP.EXAMPLE.COM", &[]).why.unwrap().contains("is empty"));
    }

    #[test]
    fn an_account_of_another_kind_is_not_a_lack_of_rights() {
        let of = |classes: &[&str]| not_a_gmsa(classes, &account(), &domain()).map(|fault| fault.what);
        let user = ["top", "person", "organizationalPerson", "user"];
        assert!(of(&user).unwrap().contains("is a user account, not a gMSA"));
        let computer = [&user[..], &["computer"]].concat();
        assert!(of(&computer).unwrap().contains("a computer account"));
        assert!(of(&[&computer[..], &["msDS-ManagedServiceAccount"]].concat()).unwrap().contains("standalone"));
        assert_eq!(of(&[&computer[..], &["msDS-GroupManagedServiceAccount"]].concat()), None);
        assert_eq!(of(&[]), None, "the login may not see the class");
    }
}
