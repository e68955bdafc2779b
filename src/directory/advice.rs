//! What to change after a KDC or a directory refused something: one fix, made from the case, that can be pasted.
//!
//! Commands for the directory are PowerShell's. Names from outside are quoted for it.

use std::fmt;

use crate::fault::{Code, Fault, Owner};
use crate::kerberos::{ExchangeError, KdcError, Principal};
use crate::login::Login;
use crate::login::origin::Origin;
use crate::name::{Domain, Host, Spn};
use crate::text::powershell;

/// Whose ticket a KDC refused.
#[derive(Debug, Clone, Copy)]
pub enum Client<'a> {
    /// The login's, and where the login comes from if that is known.
    Login(&'a Principal, Option<&'a Origin>),
    /// The gMSA's: its own, or one for a service.
    Gmsa(&'a Principal, Option<&'a Spn>),
}

impl<'a> From<&'a Login> for Client<'a> {
    fn from(login: &'a Login) -> Self {
        Self::Login(&login.principal, Some(&login.origin))
    }
}

impl<'a> From<&'a Principal> for Client<'a> {
    fn from(login: &'a Principal) -> Self {
        Self::Login(login, None)
    }
}

impl fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Login(login, _) => write!(f, "the login `{login}`"),
            Self::Gmsa(gmsa, None) => write!(f, "the gMSA `{gmsa}`"),
            Self::Gmsa(gmsa, Some(spn)) => write!(f, "the gMSA `{gmsa}` for the service `{spn}`"),
        }
    }
}

impl Client<'_> {
    /// Where the login comes from.
    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Login(_, origin) => *origin,
            Self::Gmsa(..) => None,
        }
    }

    fn principal(&self) -> &Principal {
        match self {
            Self::Login(principal, _) | Self::Gmsa(principal, _) => principal,
        }
    }

    /// The code of what the KDC answered. AD's own status says more than the code of Kerberos.
    pub(super) fn code(&self, error: &KdcError) -> Code {
        let is_login = matches!(self, Self::Login(..));
        let of = |login, gmsa| if is_login { login } else { gmsa };
        match (error.code, error.status) {
            (KdcError::PREAUTH_FAILED, Some(PASSWORD_EXPIRED)) => of(Code::TicketLoginRefused, Code::TicketGmsaRefused),
            (_, Some(ACCOUNT_DISABLED)) => of(Code::TicketLoginDisabled, Code::TicketGmsaRevoked),
            (_, Some(ACCOUNT_LOCKED)) => of(Code::TicketLoginLocked, Code::TicketGmsaRevoked),
            (_, Some(ACCOUNT_EXPIRED)) | (KdcError::CLIENT_EXPIRED, _) => {
                of(Code::TicketLoginExpired, Code::TicketGmsaRevoked)
            }
            (_, Some(MUST_CHANGE)) => of(Code::TicketLoginMustChange, Code::TicketGmsaRefused),
            (KdcError::PASSWORD_EXPIRED, _) | (_, Some(PASSWORD_EXPIRED)) => {
                of(Code::TicketLoginPasswordExpired, Code::TicketGmsaRefused)
            }
            (KdcError::CLIENT_UNKNOWN | KdcError::WRONG_REALM, _) => {
                of(Code::TicketLoginUnknown, Code::TicketGmsaUnknown)
            }
            (KdcError::SERVICE_UNKNOWN | KdcError::NOT_UNIQUE, _) => Code::TicketServiceUnknown,
            (KdcError::ENCTYPE_UNSUPPORTED, _) => Code::TicketEncryption,
            (KdcError::POLICY, _) => of(Code::TicketLoginRestricted, Code::TicketGmsaRevoked),
            (KdcError::CLIENT_REVOKED, _) => of(Code::TicketLoginRevoked, Code::TicketGmsaRevoked),
            (KdcError::PREAUTH_FAILED, _) => of(Code::TicketLoginRefused, Code::TicketGmsaRefused),
            (KdcError::PREAUTH_REQUIRED, _) => Code::TicketPreauth,
            (KdcError::CLOCK_SKEW, _) => Code::TicketClockSkew,
            _ => Code::TicketKdcFailed,
        }
    }

    /// The account as PowerShell takes it.
    fn account(&self) -> String {
        powershell(&self.principal().components.join("/"))
    }

    /// The domain of the account.
    fn domain(&self) -> String {
        self.principal().realm.to_lowercase()
    }

    /// A cmdlet on the account. `-Identity` takes no user principal name.
    fn act(&self, cmdlet: &str, parameters: &str) -> String {
        let (account, server) = (self.account(), powershell(&self.domain()));
        let parameters = if parameters.is_empty() { String::new() } else { format!(" {parameters}") };
        if self.principal().is_enterprise() {
            return format!(
                "Get-ADUser -LDAPFilter {} -Server {server} | {cmdlet}{parameters}",
                powershell(&format!("(userPrincipalName={})", in_filter(&self.principal().components.join("/"))))
            );
        }
        format!("{cmdlet} -Identity {account} -Server {server}{parameters}")
    }
}

/// Adds what to change, and who changes it.
pub(super) fn add(fault: Fault, error: &ExchangeError, client: &Client<'_>, kdc: Option<&Host>) -> Fault {
    let refused = match error {
        ExchangeError::Kdc(refused) => Some(refused),
        _ => None,
    };
    let status = refused.and_then(|refused| refused.status);
    let host = kdc.map_or_else(|| client.domain(), ToString::to_string);
    let computer = powershell(&host);
    let next = match (fault.code, client) {
        (Code::TicketServiceUnknown, _) => return service_unknown(fault, refused, client),
        (Code::TicketClockSkew, _) => format!(
            "set the clock of `{host}`: w32tm /resync /computer:{computer} (if `date -u` in the container is wrong, \
             correct the clock of the container's host instead)"
        ),
        (Code::TicketReplyInvalid, _) => format!(
            "find out what answers on TCP port 88 of `{host}`: it is not a KDC, or a proxy or firewall between changes \
             the messages"
        ),
        (Code::TicketKdcFailed, _) => format!(
            "read the KDC's own reason on `{host}`: Get-WinEvent -ComputerName {computer} -MaxEvents 20 \
             -FilterHashtable @{{LogName='System'; ProviderName='Microsoft-Windows-Kerberos-Key-Distribution-Center'}}"
        ),
        (_, Client::Login(login, origin)) => return of_login(fault, refused, client, login, *origin),
        (Code::TicketEncryption, _) => format!(
            "{}; then wait for the next managed password",
            client.act("Set-ADServiceAccount", "-KerberosEncryptionType AES128,AES256")
        ),
        (Code::TicketGmsaRevoked, _) => match status {
            Some(ACCOUNT_LOCKED) => client.act("Unlock-ADAccount", ""),
            Some(ACCOUNT_EXPIRED) => client.act("Clear-ADAccountExpiration", ""),
            Some(ACCOUNT_DISABLED) => client.act("Set-ADServiceAccount", "-Enabled $true"),
            Some(POLICY_DENIED) => {
                client.act("Set-ADServiceAccount", "-AuthenticationPolicy $null -AuthenticationPolicySilo $null")
            }
            _ => format!(
                "see what restricts the account: {}",
                client.act("Get-ADServiceAccount", "-Properties Enabled,LockedOut,AccountExpirationDate")
            ),
        },
        (Code::TicketGmsaRefused, _) => format!(
            "replicate the managed password to `{host}`: repadmin /syncall {computer} /AdeP (the domain controller that \
             returned the password is ahead of it, or its clock is wrong)"
        ),
        (Code::TicketGmsaUnknown, _) => {
            format!("replicate the account to `{host}`, which does not have it yet: repadmin /syncall {computer} /AdeP")
        }
        _ => return fault,
    };
    fault.with_next(next)
}

/// A value in an LDAP filter (RFC 4515 section 3).
fn in_filter(value: &str) -> String {
    value.chars().fold(String::new(), |mut text, c| {
        match c {
            '(' | ')' | '*' | '\\' | '\0' => text += &format!("\\{:02x}", u32::from(c)),
            _ => text.push(c),
        }
        text
    })
}

/// Each of the login's faults.
fn of_login(
    fault: Fault,
    refused: Option<&KdcError>,
    client: &Client<'_>,
    login: &Principal,
    origin: Option<&Origin>,
) -> Fault {
    let status = refused.and_then(|refused| refused.status);
    let user = login.components.join("/");
    let Ok(domain) = client.domain().parse::<Domain>() else { return fault };
    let place = origin.map_or_else(|| "the login's secret".to_owned(), Origin::named);
    let store = origin.map(|origin| origin.store(&user, &domain));
    let stored = store.as_deref().unwrap_or("store it in the login's secret");
    let owner = origin.map_or(Owner::Secret, Origin::owner);
    let next = match fault.code {
        Code::TicketLoginRefused if status == Some(PASSWORD_EXPIRED) => {
            format!("set a new password: {}; then store it: {stored}", client.act("Set-ADAccountPassword", "-Reset"))
        }
        Code::TicketLoginRefused => {
            let next = match origin {
                Some(Origin::Keytab(path)) => format!(
                    "replace the keytab file `{}` with one that has the current keys of `{user}`",
                    path.display()
                ),
                _ => format!("store the current password of `{user}`: {stored}"),
            };
            return fault.with_next(next).owned_by(owner);
        }
        Code::TicketLoginUnknown => {
            let next = match refused.and_then(|refused| refused.realm.as_deref()?.parse::<Domain>().ok()) {
                Some(realm) if refused.is_some_and(|refused| refused.code == KdcError::WRONG_REALM) => {
                    let store = origin.map(|origin| origin.store(&user, &realm));
                    format!("set `domainName` to `{realm}` in {place}: {}", store.unwrap_or_default())
                }
                _ => {
                    let field = origin.map_or("`domainName`", Origin::short_domain_field);
                    format!(
                        "correct the user name `{user}` in {place}: `{domain}` (from {field}) has no such account; this \
                         lists similar ones: Get-ADUser -LDAPFilter {} -Server {}",
                        powershell(&format!("(anr={})", in_filter(&user.chars().take(5).collect::<String>()))),
                        powershell(domain.as_str())
                    )
                }
            };
            return fault.with_next(next.trim_end_matches(": ").to_owned()).owned_by(owner);
        }
        Code::TicketLoginDisabled => client.act("Enable-ADAccount", ""),
        Code::TicketLoginLocked => format!(
            "{}; first stop what sends its old password, or it is locked again (event 4740 on the PDC emulator names \
             the computer)",
            client.act("Unlock-ADAccount", "")
        ),
        Code::TicketLoginExpired => client.act("Clear-ADAccountExpiration", ""),
        Code::TicketLoginRevoked => format!(
            "see which it is: {}",
            client.act("Get-ADUser", "-Properties Enabled,LockedOut,AccountExpirationDate")
        ),
        Code::TicketLoginMustChange => client.act("Set-ADUser", "-ChangePasswordAtLogon $false"),
        Code::TicketLoginPasswordExpired => {
            format!("set a new password: {}; then store it: {stored}", client.act("Set-ADAccountPassword", "-Reset"))
        }
        Code::TicketLoginRestricted | Code::TicketPreauth => match status {
            Some(LOGON_HOURS) => client.act("Set-ADUser", "-Clear logonHours"),
            Some(WORKSTATION) => client.act("Set-ADUser", "-Clear userWorkstations"),
            Some(POLICY_DENIED) => {
                client.act("Set-ADUser", "-AuthenticationPolicy $null -AuthenticationPolicySilo $null")
            }
            Some(SMARTCARD) => client.act("Set-ADUser", "-SmartcardLogonRequired $false"),
            _ if fault.code == Code::TicketPreauth => client.act("Set-ADUser", "-SmartcardLogonRequired $false"),
            _ => format!(
                "see what restricts the account: {}",
                client.act("Get-ADUser", "-Properties logonHours,userWorkstations,AuthenticationPolicy")
            ),
        },
        Code::TicketEncryption => format!(
            "{}; then set its password once ({}) and store it: {stored}",
            client.act("Set-ADUser", "-KerberosEncryptionType AES128,AES256"),
            client.act("Set-ADAccountPassword", "-Reset")
        ),
        _ => return fault,
    };
    fault.with_next(next)
}

/// A service name that no account has, or several.
fn service_unknown(fault: Fault, refused: Option<&KdcError>, client: &Client<'_>) -> Fault {
    let twice = refused.is_some_and(|refused| refused.code == KdcError::NOT_UNIQUE);
    let why = fault.why.clone().unwrap_or_default();
    match client {
        Client::Gmsa(_, Some(spn)) => {
            let name = powershell(&spn.to_string());
            let hint = spn.hint().map_or_else(String::new, |hint| format!("; {hint}"));
            let (reason, next) = if twice {
                (
                    "several accounts have this SPN",
                    format!(
                        "remove the SPN from all accounts but the one that the service runs as: setspn -D {name} ACCOUNT \
                         (setspn -Q {name} lists the accounts)"
                    ),
                )
            } else {
                (
                    "no account has this SPN, or several have it",
                    format!(
                        "give the SPN to the account that the service runs as: setspn -S {name} ACCOUNT (setspn -Q \
                         {name} lists who has it now)"
                    ),
                )
            };
            fault.because(format!("{why}; {reason}{hint}")).with_next(next)
        }
        _ => {
            let service = refused.map(|refused| &*refused.service).filter(|name| !name.is_empty());
            let name = powershell(service.unwrap_or("SPN"));
            let next = format!(
                "remove the service name {name} from all accounts but its domain controller's: setspn -D {name} ACCOUNT \
                 (setspn -Q {name} lists the accounts)"
            );
            fault.with_next(next)
        }
    }
}

// What AD answers in its own terms (MS-ERREF 2.3.1).
const LOGON_HOURS: u32 = 0xc000_006f;
const WORKSTATION: u32 = 0xc000_0070;
const PASSWORD_EXPIRED: u32 = 0xc000_0071;
const ACCOUNT_DISABLED: u32 = 0xc000_0072;
const ACCOUNT_EXPIRED: u32 = 0xc000_0193;
const MUST_CHANGE: u32 = 0xc000_0224;
const ACCOUNT_LOCKED: u32 = 0xc000_0234;
const SMARTCARD: u32 = 0xc000_02fa;
const POLICY_DENIED: u32 = 0xc000_0413;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::directory::refusal::TicketRefusal;

    const ARN: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf";

    fn answered(code: i32, status: Option<u32>) -> TicketRefusal {
        answered_of(code, status, None, "krbtgt/CORP.EXAMPLE.COM")
    }

    fn answered_of(code: i32, status: Option<u32>, realm: Option<&str>, service: &str) -> TicketRefusal {
        let error = KdcError {
            code,
            text: None,
            status,
            realm: realm.map(Into::into),
            service: service.into(),
            kdc_time: clock::now(),
        };
        TicketRefusal::Exchange(Some("dc1.corp.example.com".parse().unwrap()), ExchangeError::Kdc(error))
    }

    fn of_login(refusal: &TicketRefusal, user: &str) -> Fault {
        let principal = Principal::new(1, [user], "CORP.EXAMPLE.COM");
        let origin = Origin::Secret(Box::new(ARN.parse().unwrap()), true);
        refusal.of_login(Client::Login(&principal, Some(&origin)))
    }

    /// What Windows answers for each state of an account, in its own status.
    #[test]
    fn each_state_of_the_login_has_its_code_and_its_command() {
        for (code, status, name, next) in [
            (
                18,
                Some(0xc000_0072),
                Code::TicketLoginDisabled,
                "Enable-ADAccount -Identity svc -Server corp.example.com",
            ),
            (18, Some(0xc000_0234), Code::TicketLoginLocked, "Unlock-ADAccount -Identity svc -Server corp.example.com"),
            (18, Some(0xc000_0193), Code::TicketLoginExpired, "Clear-ADAccountExpiration -Identity svc"),
            (1, None, Code::TicketLoginExpired, "Clear-ADAccountExpiration -Identity svc"),
            (18, None, Code::TicketLoginRevoked, "-Properties Enabled,LockedOut,AccountExpirationDate"),
            (23, Some(0xc000_0071), Code::TicketLoginPasswordExpired, "Set-ADAccountPassword -Identity svc"),
            (23, Some(0xc000_0224), Code::TicketLoginMustChange, "-ChangePasswordAtLogon $false"),
            (23, None, Code::TicketLoginPasswordExpired, "Set-ADAccountPassword -Identity svc"),
            (24, None, Code::TicketLoginRefused, "aws secretsmanager put-secret-value --region eu-central-1"),
            (24, Some(0xc000_006a), Code::TicketLoginRefused, "put-secret-value"),
            (24, Some(0xc000_0071), Code::TicketLoginRefused, "Set-ADAccountPassword"),
            (12, Some(0xc000_006f), Code::TicketLoginRestricted, "-Clear logonHours"),
            (12, Some(0xc000_0413), Code::TicketLoginRestricted, "-AuthenticationPolicySilo $null"),
            (12, Some(0xc000_02fa), Code::TicketLoginRestricted, "-SmartcardLogonRequired $false"),
            (14, None, Code::TicketEncryption, "-KerberosEncryptionType AES128,AES256"),
        ] {
            let fault = of_login(&answered(code, status), "svc");
            assert_eq!(fault.code, name, "{code} {status:?}");
            assert!(fault.next().contains(next), "{code} {status:?}: {}", fault.next());
            assert!(fault.why.unwrap().contains(&format!("the login comes from the secret {ARN}")));
        }
    }

    #[test]
    fn a_realm_that_the_kdc_names_is_put_into_the_secret() {
        let fault = of_login(&answered_of(68, None, Some("CHILD.EXAMPLE.COM"), "krbtgt"), "svc");
        assert_eq!((fault.code, fault.owner()), (Code::TicketLoginUnknown, Owner::Secret));
        let next = fault.next().to_owned();
        assert!(next.starts_with("set `domainName` to `child.example.com` in the secret arn:"), "{next}");
        assert!(next.contains("\"domainName\":\"child.example.com\""), "{next}");
        assert!(fault.why.unwrap().contains("the account is in the realm `CHILD.EXAMPLE.COM`"));
        // What is not a domain is not repeated as one.
        let fault = of_login(&answered_of(68, None, Some("x; rm -rf /"), "krbtgt"), "svc");
        assert!(!fault.next().contains("rm -rf"), "{}", fault.next());
    }

    #[test]
    fn names_from_outside_cannot_end_a_command() {
        let fault = of_login(&answered(18, Some(0xc000_0072)), "a'; Remove-Item x; '");
        assert!(fault.next().contains("-Identity 'a''; Remove-Item x; '''"), "{}", fault.next());
        let principal = Principal::new(10, ["alice@corp.example.net"], "CORP.EXAMPLE.COM");
        let fault = answered(18, Some(0xc000_0072)).of_login(&principal);
        assert_eq!(
            fault.next(),
            "Get-ADUser -LDAPFilter '(userPrincipalName=alice@corp.example.net)' -Server corp.example.com | \
             Enable-ADAccount"
        );
    }

    #[test]
    fn a_name_in_a_filter_cannot_end_it() {
        let fault = of_login(&answered(6, None), "a)(b*");
        assert!(fault.next().contains(r"-LDAPFilter '(anr=a\29\28b\2a)'"), "{}", fault.next());
    }

    #[test]
    fn a_name_on_two_accounts_is_taken_from_one() {
        let gmsa = Principal::new(1, ["WebApp01$"], "CORP.EXAMPLE.COM");
        let spn: Spn = "HTTP/web.corp.example.com".parse().unwrap();
        let fault = answered(8, None).of_service(&spn, &gmsa);
        assert_eq!(fault.code, Code::TicketServiceUnknown);
        assert!(fault.next().contains("setspn -D HTTP/web.corp.example.com ACCOUNT"), "{}", fault.next());
        let fault = answered(7, None).of_service(&spn, &gmsa);
        assert!(fault.next().contains("setspn -S HTTP/web.corp.example.com ACCOUNT"), "{}", fault.next());
        let fault = of_login(&answered_of(8, None, None, "ldap/dc1.corp.example.com"), "svc");
        assert!(fault.next().contains("setspn -D ldap/dc1.corp.example.com ACCOUNT"), "{}", fault.next());
    }

    #[test]
    fn a_gmsa_s_states_have_their_commands() {
        let gmsa = Principal::new(1, ["WebApp01$"], "CORP.EXAMPLE.COM");
        let next = |code, status| answered(code, status).of_gmsa(&gmsa).next().to_owned();
        assert!(next(18, Some(0xc000_0072)).starts_with("Set-ADServiceAccount -Identity 'WebApp01$'"));
        assert!(next(18, Some(0xc000_0234)).starts_with("Unlock-ADAccount -Identity 'WebApp01$'"));
        assert!(next(6, None).contains("repadmin /syncall dc1.corp.example.com /AdeP"));
        assert!(next(60, None).contains("Get-WinEvent -ComputerName dc1.corp.example.com"));
    }
}
