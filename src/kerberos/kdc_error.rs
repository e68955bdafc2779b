//! A KDC's refusal: its code, what AD adds to it, and what that means.

use std::fmt;
use std::time::{Duration, SystemTime};

use der::Decode;

use super::messages::{BoundedList, KrbError, PaData};
use crate::text::plain;

/// A KRB-ERROR (RFC 4120 section 5.9.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KdcError {
    /// The error code (section 7.5.9).
    pub code: i32,
    /// The KDC's own words, if any.
    pub text: Option<String>,
    /// What AD adds in its own terms, an NTSTATUS: it tells a disabled account from a locked one.
    pub status: Option<u32>,
    /// The realm that the KDC names as the client's: with [`WRONG_REALM`](Self::WRONG_REALM) the one to ask (RFC 6806
    /// section 7).
    pub realm: Option<Box<str>>,
    /// The service that the answer is about: `ldap/dc1.example.com`.
    pub service: Box<str>,
    /// The KDC's clock, as anybody on the way may tell it.
    pub kdc_time: SystemTime,
}

impl KdcError {
    /// KDC_ERR_NAME_EXP: the account has expired
    pub const CLIENT_EXPIRED: i32 = 1;
    /// KDC_ERR_C_PRINCIPAL_UNKNOWN
    pub const CLIENT_UNKNOWN: i32 = 6;
    /// KDC_ERR_S_PRINCIPAL_UNKNOWN
    pub const SERVICE_UNKNOWN: i32 = 7;
    /// KDC_ERR_PRINCIPAL_NOT_UNIQUE
    pub const NOT_UNIQUE: i32 = 8;
    /// KDC_ERR_POLICY: logon hours, workstations, an authentication policy
    pub const POLICY: i32 = 12;
    /// KDC_ERR_ETYPE_NOSUPP
    pub const ENCTYPE_UNSUPPORTED: i32 = 14;
    /// KDC_ERR_CLIENT_REVOKED: disabled, locked or expired
    pub const CLIENT_REVOKED: i32 = 18;
    /// KDC_ERR_KEY_EXPIRED: the password must be changed
    pub const PASSWORD_EXPIRED: i32 = 23;
    /// KDC_ERR_PREAUTH_FAILED: a wrong password
    pub const PREAUTH_FAILED: i32 = 24;
    /// KDC_ERR_PREAUTH_REQUIRED: a step, not a fault
    pub const PREAUTH_REQUIRED: i32 = 25;
    /// KDC_ERR_MUST_USE_USER2USER: an account without a service name, to Windows
    pub const MUST_USE_USER2USER: i32 = 27;
    /// KDC_ERR_SVC_UNAVAILABLE: the KDC is starting or stopping
    pub const SERVICE_UNAVAILABLE: i32 = 29;
    /// KRB_AP_ERR_TKT_EXPIRED
    pub const TICKET_EXPIRED: i32 = 32;
    /// KRB_AP_ERR_SKEW
    pub const CLOCK_SKEW: i32 = 37;
    /// KDC_ERR_WRONG_REALM
    pub const WRONG_REALM: i32 = 68;

    /// What is wrong, in words, if AD told it in its own terms.
    pub fn status_in_words(&self) -> Option<&'static str> {
        match (self.code, self.status?) {
            // The same status stands for a clock in an answer to an AS-REQ, for a ticket's end in one to a TGS-REQ.
            (Self::TICKET_EXPIRED, 0xc000_0133) => None,
            (Self::PREAUTH_FAILED, 0xc000_0071) => Some("the password is wrong, and it has expired"),
            (_, status) => status_words(status).map(|(_, words)| words),
        }
    }

    /// What the code alone says, in words (RFC 4120 section 7.5.9).
    pub fn code_in_words(&self) -> &'static str {
        code_words(self.code).map_or("see its answer", |(_, words)| words)
    }

    /// What the code is called (RFC 4120 section 7.5.9, RFC 4556 section 3.1.3, RFC 6806 section 4).
    pub fn name(&self) -> &'static str {
        code_words(self.code).map_or("an unknown code", |(name, _)| name)
    }

    /// How far the KDC's clock is from `now`, and whether it is ahead.
    pub fn skew(&self, now: SystemTime) -> (Duration, bool) {
        match self.kdc_time.duration_since(now) {
            Ok(ahead) => (ahead, true),
            Err(behind) => (behind.duration(), false),
        }
    }
}

impl From<&KrbError> for KdcError {
    fn from(error: &KrbError) -> Self {
        let text = error.e_text.as_ref().map(|text| text.0.trim_end_matches('\0').escape_debug().to_string());
        Self {
            code: error.error_code,
            text: text.filter(|text| !text.is_empty()).map(|text| text.chars().take(200).collect()),
            realm: error.crealm.as_ref().map(|realm| plain(&realm.0, 255).into()),
            service: plain(&error.sname.joined(), 300).into(),
            status: error.e_data.as_ref().and_then(|data| status(data.as_bytes())),
            kdc_time: error.stime.to_system_time() + Duration::from_micros(u64::from(error.susec)),
        }
    }
}

impl fmt::Display for KdcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the KDC answered {} ({})", self.name(), self.code)?;
        if let Some(status) = self.status {
            let name = status_words(status).map_or("NTSTATUS", |(name, _)| name);
            write!(f, ", {name} ({status:#010x})")?;
        }
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// The NTSTATUS in the error data of AD and of Samba: KERB-ERROR-DATA of type 3 (MS-KILE 2.2.1), which looks like one
/// PA-DATA, and some send it as the only one of a METHOD-DATA. Its value begins with the status, little endian.
fn status(data: &[u8]) -> Option<u32> {
    const EXTENDED: i32 = 3;
    let one = PaData::from_der(data).map(|data| BoundedList(vec![data]));
    let methods = one.or_else(|_| BoundedList::<PaData>::from_der(data)).ok()?;
    let extended = methods.iter().find(|data| data.padata_type == EXTENDED)?;
    extended.padata_value.as_bytes().first_chunk().map(|status| u32::from_le_bytes(*status))
}

/// An NTSTATUS in its name and in words, as far as it tells of an account (MS-ERREF 2.3.1).
fn status_words(status: u32) -> Option<(&'static str, &'static str)> {
    Some(match status {
        0xc000_0064 => ("STATUS_NO_SUCH_USER", "it does not know the account"),
        0xc000_006a => ("STATUS_WRONG_PASSWORD", "the password is wrong"),
        0xc000_006d => ("STATUS_LOGON_FAILURE", "name or password is wrong"),
        0xc000_006e => ("STATUS_ACCOUNT_RESTRICTION", "the account is restricted from logging on like this"),
        0xc000_006f => ("STATUS_INVALID_LOGON_HOURS", "the account may not log on at this time of the day"),
        0xc000_0070 => (
            "STATUS_INVALID_WORKSTATION",
            "the account may not log on from this computer (its workstations, or an authentication policy)",
        ),
        0xc000_0071 => ("STATUS_PASSWORD_EXPIRED", "the password has expired"),
        0xc000_0072 => ("STATUS_ACCOUNT_DISABLED", "the account is disabled"),
        0xc000_00bb => ("STATUS_NOT_SUPPORTED", "it does not support the request"),
        0xc000_0133 => ("STATUS_TIME_DIFFERENCE_AT_DC", "the clocks differ too much"),
        0xc000_015b => ("STATUS_LOGON_TYPE_NOT_GRANTED", "the account may not log on like this"),
        0xc000_0193 => ("STATUS_ACCOUNT_EXPIRED", "the account has expired"),
        0xc000_0224 => ("STATUS_PASSWORD_MUST_CHANGE", "the password must be changed first"),
        0xc000_0234 => ("STATUS_ACCOUNT_LOCKED_OUT", "the account is locked"),
        0xc000_02fa => ("STATUS_SMARTCARD_LOGON_REQUIRED", "the account may log on with a smart card only"),
        0xc000_0413 => (
            "STATUS_AUTHENTICATION_FIREWALL_FAILED",
            "an authentication policy, a silo or the selective authentication of a trust forbids it",
        ),
        _ => return None,
    })
}

/// A code in its name and in words.
fn code_words(code: i32) -> Option<(&'static str, &'static str)> {
    Some(match code {
        0 => ("KDC_ERR_NONE", "it gives no reason"),
        1 => ("KDC_ERR_NAME_EXP", "the account has expired"),
        2 => ("KDC_ERR_SERVICE_EXP", "the service's account has expired"),
        3 => ("KDC_ERR_BAD_PVNO", "it does not speak this version of Kerberos"),
        4 => ("KDC_ERR_C_OLD_MAST_KVNO", "the account's key is sealed with an old master key"),
        5 => ("KDC_ERR_S_OLD_MAST_KVNO", "the service's key is sealed with an old master key"),
        6 => ("KDC_ERR_C_PRINCIPAL_UNKNOWN", "it does not know the account"),
        7 => ("KDC_ERR_S_PRINCIPAL_UNKNOWN", "it does not know the service asked for"),
        8 => ("KDC_ERR_PRINCIPAL_NOT_UNIQUE", "it has several accounts of this name"),
        9 => ("KDC_ERR_NULL_KEY", "the account has no key: its password was never set"),
        10 => ("KDC_ERR_CANNOT_POSTDATE", "it issues no ticket for a later time"),
        11 => ("KDC_ERR_NEVER_VALID", "the ticket would never be valid"),
        12 => ("KDC_ERR_POLICY", "its policy forbids it (logon hours, workstations, an authentication policy)"),
        13 => ("KDC_ERR_BADOPTION", "it does not allow an option of the request"),
        14 => ("KDC_ERR_ETYPE_NOSUPP", "it offers no enctype that is allowed here"),
        15 => ("KDC_ERR_SUMTYPE_NOSUPP", "it does not know the kind of checksum"),
        16 => ("KDC_ERR_PADATA_TYPE_NOSUPP", "it does not take this kind of pre-authentication"),
        17 => ("KDC_ERR_TRTYPE_NOSUPP", "it does not know the kind of transited realms"),
        18 => ("KDC_ERR_CLIENT_REVOKED", "the account is disabled, locked or expired"),
        19 => ("KDC_ERR_SERVICE_REVOKED", "the service's account is disabled"),
        20 => ("KDC_ERR_TGT_REVOKED", "the ticket was revoked"),
        21 => ("KDC_ERR_CLIENT_NOTYET", "the account is not valid yet"),
        22 => ("KDC_ERR_SERVICE_NOTYET", "the service's account is not valid yet"),
        23 => ("KDC_ERR_KEY_EXPIRED", "the password must be changed first"),
        24 => ("KDC_ERR_PREAUTH_FAILED", "the password is wrong"),
        25 => ("KDC_ERR_PREAUTH_REQUIRED", "it does not take a password"),
        26 => ("KDC_ERR_SERVER_NOMATCH", "the request is for another server than the ticket"),
        27 => ("KDC_ERR_MUST_USE_USER2USER", "the service's account has no service principal name"),
        28 => ("KDC_ERR_PATH_NOT_ACCEPTED", "it does not accept the realms between"),
        29 => ("KDC_ERR_SVC_UNAVAILABLE", "a service that it needs is not available"),
        31 => ("KRB_AP_ERR_BAD_INTEGRITY", "it cannot decrypt the request"),
        32 => ("KRB_AP_ERR_TKT_EXPIRED", "the ticket has expired"),
        33 => ("KRB_AP_ERR_TKT_NYV", "the ticket is not valid yet"),
        34 => ("KRB_AP_ERR_REPEAT", "the request came a second time"),
        35 => ("KRB_AP_ERR_NOT_US", "the ticket is not for it"),
        36 => ("KRB_AP_ERR_BADMATCH", "the ticket is of another account than the request"),
        37 => ("KRB_AP_ERR_SKEW", "the clocks differ too much"),
        38 => ("KRB_AP_ERR_BADADDR", "the request came from another address than the ticket allows"),
        39 => ("KRB_AP_ERR_BADVERSION", "it does not speak this version of Kerberos"),
        40 => ("KRB_AP_ERR_MSG_TYPE", "it does not expect such a message"),
        41 => ("KRB_AP_ERR_MODIFIED", "the request was changed on its way"),
        42 => ("KRB_AP_ERR_BADORDER", "the messages came in another order"),
        44 => ("KRB_AP_ERR_BADKEYVER", "it does not have this version of the key"),
        45 => ("KRB_AP_ERR_NOKEY", "it has no key for the service"),
        46 => ("KRB_AP_ERR_MUT_FAIL", "mutual authentication failed"),
        47 => ("KRB_AP_ERR_BADDIRECTION", "the message goes the wrong way"),
        48 => ("KRB_AP_ERR_METHOD", "it expects another kind of authentication"),
        49 => ("KRB_AP_ERR_BADSEQ", "the message has the wrong number"),
        50 => ("KRB_AP_ERR_INAPP_CKSUM", "it does not accept the kind of checksum"),
        51 => ("KRB_AP_PATH_NOT_ACCEPTED", "it does not accept the realms between"),
        52 => ("KRB_ERR_RESPONSE_TOO_BIG", "its answer is too long for UDP"),
        60 => ("KRB_ERR_GENERIC", "it failed for a reason of its own"),
        61 => ("KRB_ERR_FIELD_TOOLONG", "a field of the request is too long for it"),
        62 => ("KDC_ERR_CLIENT_NOT_TRUSTED", "it does not trust the client's certificate"),
        63 => ("KDC_ERR_KDC_NOT_TRUSTED", "it has no certificate that the client trusts"),
        64 => ("KDC_ERR_INVALID_SIG", "it takes the signature for invalid"),
        65 => ("KDC_ERR_DH_KEY_PARAMETERS_NOT_ACCEPTED", "it does not accept the key exchange"),
        66 => ("KDC_ERR_CERTIFICATE_MISMATCH", "the certificate is of another account"),
        67 => ("KRB_AP_ERR_NO_TGT", "it needs a ticket-granting ticket of the service"),
        68 => ("KDC_ERR_WRONG_REALM", "the account is of another realm"),
        69 => ("KRB_AP_ERR_USER_TO_USER_REQUIRED", "the service takes user-to-user tickets only"),
        70 => ("KDC_ERR_CANT_VERIFY_CERTIFICATE", "it cannot verify the certificate"),
        71 => ("KDC_ERR_INVALID_CERTIFICATE", "it takes the certificate for invalid"),
        72 => ("KDC_ERR_REVOKED_CERTIFICATE", "the certificate was revoked"),
        73 => ("KDC_ERR_REVOCATION_STATUS_UNKNOWN", "it does not know whether the certificate was revoked"),
        74 => ("KDC_ERR_REVOCATION_STATUS_UNAVAILABLE", "it cannot ask whether the certificate was revoked"),
        75 => ("KDC_ERR_CLIENT_NAME_MISMATCH", "the certificate is of another account"),
        76 => ("KDC_ERR_KDC_NAME_MISMATCH", "its certificate is of another KDC"),
        _ => return None,
    })
}
