//! Why a KDC gave no ticket, and the fault that it is for whoever asked.

use std::time::Duration;

use crate::clock;
use crate::directory::advice::{self, Client};
use crate::fault::{Code, Fault};
use crate::kerberos::{ExchangeError, KdcError, Principal};
use crate::name::{Host, Spn};

/// Why no ticket came.
#[derive(Debug, thiserror::Error)]
pub enum TicketRefusal {
    /// The KDC could not be asked.
    #[error("{0}")]
    Unreachable(#[from] Fault),
    /// The login's proof was not sent, so that its account does not get locked.
    #[error("{0}")]
    Held(Fault),
    /// The exchange failed, with this KDC if it came so far.
    #[error("{1}")]
    Exchange(Option<Host>, ExchangeError),
}

impl TicketRefusal {
    /// The KDC takes the proof for wrong.
    pub fn is_wrong_password(&self) -> bool {
        matches!(self, Self::Exchange(_, ExchangeError::Kdc(error)) if error.code == KdcError::PREAUTH_FAILED)
    }

    /// The error code of the KDC, where it refused.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Exchange(_, ExchangeError::Kdc(error)) => Some(error.code),
            _ => None,
        }
    }

    /// The KDC does not take the kept key: another one, or one of another enctype, may do.
    pub fn is_key_refused(&self) -> bool {
        matches!(self.code(), Some(KdcError::PREAUTH_FAILED | KdcError::ENCTYPE_UNSUPPORTED))
    }

    /// The KDC does not know the client or the service: it may not have replicated to it yet.
    pub fn is_unknown_name(&self) -> bool {
        matches!(self.code(), Some(KdcError::CLIENT_UNKNOWN | KdcError::SERVICE_UNKNOWN))
    }

    /// Another KDC may give what this one does not: it does not know a name yet, or it is starting or stopping.
    pub fn may_pass_elsewhere(&self) -> bool {
        self.is_unknown_name() || self.code() == Some(KdcError::SERVICE_UNAVAILABLE)
    }

    /// A task of ours ended where none does.
    pub(super) fn bug(error: &tokio::task::JoinError) -> Self {
        Self::Unreachable(Fault::new(Code::InternalBug, "the exchange with the KDC ended early").caused_by(error))
    }

    /// As a fault of the login's exchange for a DC's LDAP service.
    pub fn of_login<'a>(&self, login: impl Into<Client<'a>>) -> Fault {
        self.fault(&login.into())
    }

    /// As a fault of the gMSA's own exchange.
    pub fn of_gmsa(&self, gmsa: &Principal) -> Fault {
        self.fault(&Client::Gmsa(gmsa, None))
    }

    /// As a fault of a TGS exchange for a service, asked as the gMSA.
    pub fn of_service(&self, spn: &Spn, gmsa: &Principal) -> Fault {
        self.fault(&Client::Gmsa(gmsa, Some(spn)))
    }

    fn fault(&self, client: &Client<'_>) -> Fault {
        let (kdc, error) = match self {
            Self::Unreachable(fault) | Self::Held(fault) => return fault.clone(),
            Self::Exchange(kdc, error) => (kdc, error),
        };
        let (code, words) = match error {
            ExchangeError::Invalid(_) => (Code::TicketReplyInvalid, "its reply is not valid"),
            ExchangeError::Encryption(_) => (Code::TicketEncryption, "it offers no enctype that is allowed here"),
            ExchangeError::Preauthentication(_) => (Code::TicketPreauth, "it does not take a password"),
            ExchangeError::Kdc(refused) => {
                (client.code(refused), refused.status_in_words().unwrap_or_else(|| refused.code_in_words()))
            }
        };
        let mut why = error.to_string();
        if let ExchangeError::Kdc(refused) = error {
            if refused.code == KdcError::CLOCK_SKEW {
                let (skew, ahead) = refused.skew(clock::now());
                let skew = humantime::format_duration(Duration::from_secs(skew.as_secs()));
                why = format!("{why}; its clock is {skew} {} of ours", if ahead { "ahead" } else { "behind" });
            }
            if let (KdcError::WRONG_REALM, Some(realm)) = (refused.code, &refused.realm) {
                why = format!("{why}; the account is in the realm `{realm}`");
            }
        }
        let of_way = matches!(code, Code::TicketKdcFailed | Code::TicketReplyInvalid | Code::TicketClockSkew);
        if let Some(origin) = client.origin().filter(|_| !of_way) {
            why = format!("{why}; the login comes from {}", origin.named());
        }
        let from = kdc.as_ref().map_or_else(String::new, |host| format!(" from the KDC on `{host}`"));
        let fault = Fault::new(code, format!("no ticket for {client}{from}: {words}")).because(why);
        advice::add(fault, error, client, kdc.as_ref())
    }
}
