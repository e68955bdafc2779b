//! What the directory says of a login and of its gMSAs, by the same steps as a renewal.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::domain::Ports;
use super::{Checks, ConfiguredLease, Outcome, Tried, passed};
use crate::clock;
use crate::credspec::LoginSource;
use crate::directory::error::{DirectoryError, FailureKind};
use crate::directory::ldap::Transport;
use crate::directory::session::Session;
use crate::directory::{Connected, Directories, Directory, Renewal};
use crate::fault::{Code, Fault};
use crate::login::Login;
use crate::name::{Account, Domain, Host, Spn};
use crate::text::powershell;

/// One login at one domain.
struct LoginCheck<'a> {
    directory: &'a Directory,
    via: &'a Connected,
    session: Arc<Session>,
    domain: &'a Domain,
}

/// What came of a renewal by password; a fault comes with the server that gave the password, if one did.
type Renewed = Result<Renewal, (Option<Host>, DirectoryError)>;

impl Checks<'_, '_> {
    /// Logs in, and tries each gMSA of the login. Returns whether the login was accepted.
    pub(super) async fn leases(
        &mut self,
        directories: &Directories,
        domain: &Domain,
        source: &LoginSource,
        login: &Login,
        ports: &Ports,
        leases: &[&ConfiguredLease],
    ) -> bool {
        let principal = login.principal.to_string();
        let connected = async {
            let directory = directories.of(domain, source)?;
            let via = directory.kdc().await?;
            Ok::<_, Fault>((directory, via))
        };
        let (directory, via) = match connected.await {
            Ok(connected) => connected,
            Err(fault) => {
                self.show::<()>("login", &principal, Err(fault), Duration::ZERO);
                self.not_accepted(domain, &principal, leases);
                return false;
            }
        };
        if let Err(stopped_by) = &ports.ldap {
            let prove = async {
                directory.prove_login(&ports.kdc, &via).await.map_err(Fault::from)?;
                passed((), format!("the KDC on `{}` accepts it", ports.kdc))
            };
            let accepted = self.step("login", &principal, prove).await.is_some();
            self.skip_all(&["bind"], domain.as_str(), stopped_by);
            self.skip_leases(leases, stopped_by);
            return accepted;
        }
        let Some(first) = leases.first() else { return true };
        self.screen.begin("login", &principal);
        let start = Instant::now();
        let session = match directory.session(&via.controllers, &via.kdc, &first.account).await {
            Ok(session) => session,
            Err(error) => {
                let accepted = error.kind == FailureKind::BindRefused || error.fault.code == Code::GmsaConnectionLost;
                if accepted {
                    self.show("login", &principal, passed((), "the KDC accepts it"), start.elapsed());
                    self.show::<()>("bind", domain.as_str(), Err(error.into()), Duration::ZERO);
                    self.skip_leases(leases, &format!("bind {domain}"));
                } else {
                    self.show::<()>("login", &principal, Err(error.into()), start.elapsed());
                    self.not_accepted(domain, &principal, leases);
                }
                return accepted;
            }
        };
        let host = &session.host;
        let trust = if login.domain == *domain { "" } else { ", by the trust between the domains" };
        let seen = format!("a KDC gave a ticket for ldap/{host}/{domain}, which only a domain controller has{trust}");
        self.show("login", &principal, passed((), seen), start.elapsed());
        let sealed = match self.config.ldap {
            Transport::Sasl => "signed and sealed",
            Transport::Tls(_) => "in TLS, bound to its certificate",
        };
        let seen = format!("LDAP on port {}, {sealed}", self.config.ldap.service().port());
        self.show("bind", host.as_str(), passed((), seen), Duration::ZERO);
        let visit = LoginCheck { directory: &directory, via: &via, session: Arc::clone(&session), domain };
        for lease in leases {
            self.lease(&visit, lease).await;
        }
        true
    }

    fn not_accepted(&mut self, domain: &Domain, principal: &str, leases: &[&ConfiguredLease]) {
        let stopped_by = format!("login {principal}");
        self.skip_all(&["bind"], domain.as_str(), &stopped_by);
        self.skip_leases(leases, &stopped_by);
    }

    /// The account, its password and the tickets, as a renewal asks for them.
    async fn lease(&mut self, visit: &LoginCheck<'_>, lease: &ConfiguredLease) {
        let (account, subject) = (&lease.account, lease.account.as_str());
        self.screen.begin("gmsa", subject);
        let start = Instant::now();
        let described = visit.describe(account).await;
        let took = start.elapsed();
        let (renewed, took) = match described {
            Ok(outcome) => {
                self.show("gmsa", subject, Ok(((), outcome)), took);
                self.screen.begin("password", subject);
                let start = Instant::now();
                (visit.renew(lease).await, start.elapsed())
            }
            Err(error) => {
                // Another domain controller may know it already.
                let start = Instant::now();
                let renewed = visit.renew(lease).await;
                match &renewed {
                    Ok(_) => self.warn("gmsa", subject, error.into(), took),
                    Err(_) => {
                        self.show::<()>("gmsa", subject, Err(error.into()), took);
                        self.skip_all(&["password", "ticket"], subject, &format!("gmsa {account}"));
                        return self.skip_services(&lease.extras, &format!("gmsa {account}"));
                    }
                }
                (renewed, start.elapsed())
            }
        };
        let renewal = match renewed {
            Ok(renewal) => renewal,
            Err((None, error)) => {
                self.show::<()>("password", subject, Err(error.into()), took);
                let stopped_by = format!("password {account}");
                self.skip_all(&["ticket"], subject, &stopped_by);
                return self.skip_services(&lease.extras, &stopped_by);
            }
            Err((Some(host), error)) => {
                self.show("password", subject, passed((), format!("`{host}` gave it")), took);
                self.show::<()>("ticket", subject, Err(error.into()), Duration::ZERO);
                return self.skip_services(&lease.extras, &format!("ticket {account}"));
            }
        };
        self.show("password", subject, passed((), visit.password_seen(&renewal)), took);
        self.show("ticket", subject, passed((), ticket_seen(&renewal)), Duration::ZERO);
        for spn in &lease.extras.services {
            self.step("service-ticket", &spn.to_string(), visit.service_ticket(&renewal, spn)).await;
        }
        self.twins(visit.directory, visit.via, &renewal, &lease.extras.services).await;
    }
}

impl LoginCheck<'_> {
    async fn renew(&self, lease: &ConfiguredLease) -> Renewed {
        self.directory.renew_by_password(&lease.account, lease.extras.keytab, self.via).await
    }

    /// What the directory says of a gMSA.
    async fn describe(&self, account: &Account) -> Result<Outcome, DirectoryError> {
        let entry = self.session.find(self.domain, account, ATTRIBUTES).await?;
        let enctypes = match entry.text("msDS-SupportedEncryptionTypes").and_then(|bits| bits.parse().ok()) {
            Some(bits) => format!("msDS-SupportedEncryptionTypes {bits} ({})", enctypes(bits)),
            None => "msDS-SupportedEncryptionTypes is not set: services may get RC4 tickets for it".to_owned(),
        };
        let control: u32 = entry.text("userAccountControl").and_then(|bits| bits.parse().ok()).unwrap_or_default();
        let name = entry.text("distinguishedName").unwrap_or("found").to_owned();
        Ok(if control & ACCOUNT_DISABLED == 0 {
            Outcome::Passed(format!("{name}; enabled; {enctypes}"))
        } else {
            let what = format!("the gMSA `{account}$` is disabled in `{}`", self.domain);
            let (gmsa, domain) = (powershell(account.as_str()), self.domain);
            let next = format!("Set-ADServiceAccount -Identity {gmsa} -Server {domain} -Enabled $true");
            Outcome::Warned(Fault::new(Code::TicketGmsaRevoked, what).because(name).with_next(next))
        })
    }

    fn password_seen(&self, renewal: &Renewal) -> String {
        let mut seen = vec![format!("`{}` may read it", self.session.login)];
        seen.extend(renewal.kvno.map(|kvno| format!("version {kvno}")));
        if let Some(read) = &renewal.password {
            let hours = read.next_in.as_secs() / 3600;
            seen.push(format!("the next one comes in {} days {} hours", hours / 24, hours % 24));
            if read.host != self.session.host {
                seen.push(format!("`{}` gave it", read.host));
            }
        }
        seen.join("; ")
    }

    /// Gets a ticket for a service, and throws it away. Where the KDC knows none, tells who has the name.
    async fn service_ticket(&self, renewal: &Renewal, spn: &Spn) -> Tried<()> {
        let tgt = &renewal.ticket;
        match self.directory.service_ticket(&self.via.kdc, tgt, spn).await {
            Ok(ticket) => {
                let (realm, until) = (ticket.realm(), clock::rfc3339(ticket.expires_at()));
                let client = tgt.client();
                passed((), format!("a KDC of {realm} gave a ticket for {client} until {until}; it is not kept"))
            }
            Err(fault) if fault.code == Code::TicketServiceUnknown => {
                let holders = self.holders(spn).await;
                let why = format!("{}; {holders}", fault.why.as_deref().unwrap_or_default());
                Err(fault.because(why))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Which accounts of the domain have an SPN, in words.
    async fn holders(&self, spn: &Spn) -> String {
        let (domain, spn) = (self.domain, spn.to_string());
        let Some(entries) = self.session.search(domain, "servicePrincipalName", &spn, &["sAMAccountName"]).await else {
            return format!("`{domain}` could not be asked which account has it");
        };
        let names = entries.iter().filter_map(|entry| entry.text("sAMAccountName"));
        match names.map(|name| format!("`{}`", name.escape_debug())).collect::<Vec<_>>().as_slice() {
            [] => format!("no account of `{domain}` has it"),
            [name] => format!("{name} has it"),
            names => format!("{} have it in `{domain}`: only one may", names.join(" and ")),
        }
    }
}

fn ticket_seen(renewal: &Renewal) -> String {
    let kdc = renewal.dc.as_ref().map_or("a KDC", Host::as_str);
    let (client, until) = (renewal.ticket.client(), clock::rfc3339(renewal.ticket.expires_at()));
    let (which, confirmed) = match &renewal.password {
        Some(read) => (read.is_previous, read.unconfirmed.as_deref()),
        None => (false, None),
    };
    let which = if which { ", with the previous password: the current one becomes valid within minutes" } else { "" };
    let confirmed = confirmed.map_or_else(
        || "the KDC confirms the password".to_owned(),
        |why| format!("the KDC cannot confirm the password: {why}"),
    );
    format!("`{kdc}` gave a ticket for {client} until {until}{which}; {confirmed}; it is not kept")
}

/// The bits of msDS-SupportedEncryptionTypes (MS-KILE 2.2.7).
fn enctypes(bits: u32) -> String {
    let known = [(0x4, "RC4"), (0x8, "AES128"), (0x10, "AES256"), (0x40, "AES128-SHA256"), (0x80, "AES256-SHA384")];
    let names: Vec<_> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if bits & 0x18 == 0 { format!("{}: no AES", names.join(", ")) } else { names.join(", ") }
}

const ATTRIBUTES: &[&str] =
    &["sAMAccountName", "distinguishedName", "userAccountControl", "msDS-SupportedEncryptionTypes"];

/// ADS_UF_ACCOUNTDISABLE (MS-ADTS 2.2.16).
const ACCOUNT_DISABLED: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_types_are_named() {
        assert_eq!(enctypes(28), "RC4, AES128, AES256");
        assert_eq!(enctypes(24), "AES128, AES256");
        assert_eq!(enctypes(4), "RC4: no AES");
    }
}
