//! Why a KDC gave no ticket, and the fault that it is for whoever asked.

use std::time::Duration;

use crate::clock;
use crate::fault::{Code, Fault};
use crate::kerberos::{ExchangeError, KdcError, Principal};
use crate::name::{Host, Spn};

/// Why no ticket came.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
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

impl Refusal {
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
            Self::Unreachable(fault) | Self::Held(fault) => return fault.clone(),
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
