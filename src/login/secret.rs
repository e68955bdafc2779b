//! The secret: who logs in to the directory, and with what password.
//!
//! Nothing of a secret's text appears in a fault, not even of one that is malformed: faults name the secret's ARN
//! and the key that is wrong.

use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::aws::Aws;
use crate::aws::arn::SecretArn;
use crate::aws::secret::{self, Raw};
use crate::fault::{Code, Fault};
use crate::login::origin::store_command;
use crate::name::Domain;
use crate::text::json_reason;

pub use crate::aws::secret::Stage;

/// A version of a secret, read.
#[derive(Debug)]
pub struct Secret {
    /// The service's id of the version: the same id is the same text.
    pub version_id: String,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// Which secret it is.
    pub arn: SecretArn,
    /// What it says.
    pub login: SecretLogin,
}

/// The plain AD account that may read the managed password.
pub struct SecretLogin {
    /// How the account is called in its domain.
    pub user: UserName,
    /// Its domain: the secret's `domainName`, else the CredSpec's.
    pub domain: Domain,
    /// Whether the secret names that domain itself.
    pub names_domain: bool,
    /// Its password.
    pub password: Zeroizing<String>,
    /// Which of the keys that a login is read from have a value.
    pub keys: Vec<&'static str>,
    /// What is unusual about it, for `check`.
    pub notes: Vec<&'static str>,
}

/// A login's name, which decides the type of its principal's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserName {
    /// `user`: NT-PRINCIPAL (RFC 4120 section 6.2), found as sAMAccountName.
    Plain(String),
    /// `user@suffix`, where the suffix is not the login's domain: NT-ENTERPRISE (RFC 6806 section 5), found as
    /// userPrincipalName. Asked as a plain `user` it could be another person's account.
    Enterprise(String),
}

impl UserName {
    /// The name as it is sent.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Plain(name) | Self::Enterprise(name) => name,
        }
    }
}

impl SecretLogin {
    /// Reads the secret's text: a JSON object (UTF-8, a BOM is ignored, at most 64 KiB) with the keys, in any case,
    ///
    /// - `username` | `usernameOfStandardUserAccount` | `awsSeamlessDomainUsername`: `user`, `user@domain`,
    ///   `DOMAIN\user`, or `old:new` of any of these, of which the part behind the colon counts: AWS's way to rotate the
    ///   name of the login. The login's domain is told by `domainName` alone, since a user principal name's suffix need
    ///   not be a domain.
    /// - `password` | `passwordOfStandardUserAccount` | `awsSeamlessDomainPassword`
    /// - `domainName`, if the login's domain is not the CredSpec's
    /// - `distinguishedName` | `distinguishedNameOfgMSA` are ignored, as all others: the gMSA is found by its
    ///   sAMAccountName, which is unique in its domain, so a DN could only repeat that or be wrong.
    ///
    /// Several spellings of one key: the first named above wins.
    fn parse(text: &[u8], arn: &SecretArn, domain: &Domain) -> Result<Self, Malformed> {
        if text.len() > LIMIT {
            return Err(Malformed::new(Code::SecretTooLarge, format!("it has {} bytes", text.len())));
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut value: Value = serde_json::from_slice(text).map_err(|error| Malformed::text(json_reason(&error)))?;
        if let Some(key) = &arn.json_key {
            value = value.get_mut(key).map(Value::take).ok_or_else(|| {
                Malformed::new(Code::SecretKeyMissing, format!("it has no key `{key}`, which the CredentialArn names"))
            })?;
        }
        let mut fields = object(value)?;
        let given = |key: &&&str| {
            let value = spelling(&fields, key).and_then(|spelling| fields.get(&spelling));
            value.is_some_and(|value| !value.is_null() && value != "")
        };
        let keys: Vec<_> =
            [USER_KEYS, PASSWORD_KEYS, DOMAIN_KEYS].into_iter().flatten().filter(given).copied().collect();
        let found = told(&fields);
        let user = take(&mut fields, USER_KEYS)?.ok_or_else(|| Malformed::missing(USER_KEYS[0], &found))?;
        let password = take(&mut fields, PASSWORD_KEYS)?.ok_or_else(|| Malformed::missing(PASSWORD_KEYS[0], &found))?;
        let named = take(&mut fields, DOMAIN_KEYS)?;
        let around = arn.login_domain.as_ref().unwrap_or(domain);
        let of_document = Around { domain: around, netbios: arn.hints.netbios.as_deref() };
        let domain = match &named {
            None => around.clone(),
            Some(name) => of_document.domain_of(name)?,
        };
        let user = user_name(&user, &domain, named.is_some(), &of_document)
            .map_err(|why| Malformed::text(format!("`{}` {why}", USER_KEYS[0])))?;
        let ends_blank = password.ends_with(char::is_whitespace) || password.starts_with(char::is_whitespace);
        let notes =
            if ends_blank { vec!["the password begins or ends with white space, which counts"] } else { vec![] };
        Ok(Self { user, domain, names_domain: named.is_some(), password, keys, notes })
    }
}

impl fmt::Debug for SecretLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// What the CredSpec says of the domain.
struct Around<'a> {
    domain: &'a Domain,
    netbios: Option<&'a str>,
}

impl Around<'_> {
    /// Whether a name without a dot stands for a domain.
    fn is_short_name(&self, name: &str, domain: &Domain) -> bool {
        let first = domain.as_str().split('.').next().unwrap_or_default();
        let is_document_s = domain == self.domain && self.netbios.is_some_and(|own| own.eq_ignore_ascii_case(name));
        name.eq_ignore_ascii_case(first) || is_document_s
    }

    /// `domainName`: a DNS name, or the NetBIOS name of the CredSpec's own domain.
    fn domain_of(&self, name: &str) -> Result<Domain, Malformed> {
        let name = name.trim();
        if !name.trim_end_matches('.').contains('.') {
            let is_word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            if !is_word {
                return Err(Malformed::text("`domainName` is not the DNS name of a domain"));
            }
            return if self.is_short_name(name, self.domain) {
                Ok(self.domain.clone())
            } else {
                Err(Malformed::text(
                    "`domainName` looks like a NetBIOS name: it has no dot, and the CredSpec does not say which domain \
                     it stands for",
                )
                .fixed_by("write the DNS name of the login's domain, e.g. corp.example.com, into `domainName`"))
            };
        }
        name.parse().map_err(|_| Malformed::text("`domainName` is not the DNS name of a domain"))
    }
}

/// Reads a login from its secret (`secretsmanager:GetSecretValue`, or `ssm:GetParameters` for a parameter), in the region
/// of its ARN. `domain` is the CredSpec's, for secrets that name none.
pub async fn fetch(arn: &SecretArn, domain: &Domain, aws: &Aws, stage: Stage) -> Result<Secret, Fault> {
    let Raw { version_id, created_at, text } = secret::read(arn, aws, stage).await?;
    match SecretLogin::parse(&text, arn, domain) {
        Ok(login) => Ok(Secret { version_id, created_at, arn: arn.clone(), login }),
        Err(malformed) => Err(malformed.fault(arn, domain)),
    }
}

/// For the fuzzer: the user name in a secret's text, if it is a login.
#[cfg(fuzzing)]
pub fn decode(text: &[u8], json_key: Option<&str>) -> Option<UserName> {
    let domain = "example.com".parse().ok()?;
    let mut arn: SecretArn = "gmsa/login".parse().ok()?;
    arn.json_key = json_key.map(str::to_owned);
    SecretLogin::parse(text, &arn, &domain).ok().map(|login| login.user)
}

/// Why a text is not a login, without any of it.
#[derive(Debug)]
struct Malformed {
    code: Code,
    why: String,
    fix: Option<&'static str>,
    /// The key of a login that is missing.
    key: Option<&'static str>,
}

impl Malformed {
    fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), fix: None, key: None }
    }

    fn text(why: impl Into<String>) -> Self {
        Self::new(Code::SecretMalformed, why)
    }

    fn missing(key: &'static str, found: &str) -> Self {
        let why = format!("it has no key `{key}` with a value; its keys: {found}");
        Self { key: Some(key), ..Self::new(Code::SecretKeyMissing, why) }
    }

    fn fixed_by(mut self, fix: &'static str) -> Self {
        self.fix = Some(fix);
        self
    }

    fn fault(self, arn: &SecretArn, domain: &Domain) -> Fault {
        let fault = Fault::new(self.code, format!("The secret {arn} does not hold a login")).because(self.why);
        match (self.fix, self.code) {
            (Some(fix), _) => fault.with_next(format!("{fix} in the secret {arn}")),
            (None, Code::SecretTooLarge) => fault.with_next(match &arn.hints.document {
                Some(document) => format!("correct the CredentialArn of {document}: a login has at most {LIMIT} bytes"),
                None => format!("correct the CredentialArn: a login has at most {LIMIT} bytes"),
            }),
            _ => {
                let domain = arn.login_domain.as_ref().unwrap_or(domain);
                let model = store_command(arn, "LOGIN", domain);
                let add = match self.key {
                    Some(key) => format!("add the key `{key}`: "),
                    None => String::new(),
                };
                fault.with_next(format!("{add}{model} (with the real name and password)"))
            }
        }
    }
}

/// A login's object; also one that was encoded twice, as templates do.
fn object(value: Value) -> Result<Map<String, Value>, Malformed> {
    let value = match value {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| Malformed::text(json_reason(&error)))?,
        value => value,
    };
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Malformed::text("it is not a JSON object (`{ .. }`)")),
    }
}

/// How a key is spelt in an object: exactly, or in another case.
fn spelling(fields: &Map<String, Value>, key: &str) -> Option<String> {
    let other = || fields.keys().find(|known| known.eq_ignore_ascii_case(key)).cloned();
    if fields.contains_key(key) { Some(key.to_owned()) } else { other() }
}

/// The keys of an object for a message: a key that is not commonplace could be a password at the wrong place.
fn told(fields: &Map<String, Value>) -> String {
    let is_common = |key: &&String| COMMON_KEYS.iter().any(|common| common.eq_ignore_ascii_case(key));
    let common: Vec<_> = fields.keys().filter(is_common).map(|key| format!("`{key}`")).collect();
    match (common.len(), fields.len() - common.len()) {
        (0, 0) => "none".to_owned(),
        (0, others) => format!("{others}, none of them known"),
        (_, 0) => common.join(", "),
        (_, others) => format!("{} and {others} not known", common.join(", ")),
    }
}

/// The first of `keys` that has a value. What is left of the document is wiped when freed, by the allocator.
fn take(fields: &mut Map<String, Value>, keys: &[&str]) -> Result<Option<Zeroizing<String>>, Malformed> {
    for key in keys {
        let spelling = spelling(fields, key);
        match spelling.and_then(|spelling| fields.get_mut(&spelling)).map(Value::take) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(Zeroizing::new(text))),
            Some(_) => return Err(Malformed::text(format!("`{key}` is not a string"))),
        }
    }
    Ok(None)
}

/// The account's name out of `user`, `user@suffix` or `DOMAIN\user`, or of the part of `old:new` behind the colon.
/// Refused are the characters that a sAMAccountName cannot hold (SAM-Account-Name in the Active Directory schema): they
/// would split a principal or steer a filter.
fn user_name(text: &str, domain: &Domain, is_named: bool, around: &Around<'_>) -> Result<UserName, &'static str> {
    let text = match text.split_once(':') {
        Some((old, new)) if old.trim().is_empty() || new.trim().is_empty() || new.contains(':') => {
            return Err("holds a colon but is not `old:new`, two names");
        }
        Some((_, new)) => new,
        None => text,
    };
    if let Some((short, name)) = text.split_once('\\') {
        let is_own = around.is_short_name(short, domain) || short.eq_ignore_ascii_case(domain.as_str());
        // Without `domainName` the proof would go to a domain that this does not name, for whoever is called so there.
        if !is_named && !is_own {
            return Err(
                "names another domain than the CredSpec: add the DNS name of the login's domain as `domainName`",
            );
        }
        return sam_name(name).map(UserName::Plain);
    }
    let Some((name, suffix)) = text.split_once('@') else { return sam_name(text).map(UserName::Plain) };
    let name = sam_name(name)?;
    if suffix.trim_end_matches('.').eq_ignore_ascii_case(domain.as_str()) {
        return Ok(UserName::Plain(name));
    }
    let suffix: Domain = suffix.parse().map_err(|_| "has a suffix behind `@` that is not a DNS name")?;
    Ok(UserName::Enterprise(format!("{name}@{suffix}")))
}

/// The same for a name that comes with its domain and without a secret around it.
pub(crate) fn given_name(text: &str, domain: &Domain) -> Result<UserName, &'static str> {
    user_name(text, domain, true, &Around { domain, netbios: None })
}

fn sam_name(name: &str) -> Result<String, &'static str> {
    if name.is_empty() || name.chars().count() > 256 || name.trim() != name {
        return Err("is not an account name: it is empty, longer than 256 characters, or has white space around it");
    }
    if name.chars().any(|c| c.is_control() || "\"/\\[]:;|=,+*?<>@".contains(c)) {
        return Err("is not an account name: it takes `user`, `user@domain` or `DOMAIN\\user`");
    }
    Ok(name.to_owned())
}

const USER_KEYS: &[&str] = &["username", "usernameOfStandardUserAccount", "awsSeamlessDomainUsername"];
const PASSWORD_KEYS: &[&str] = &["password", "passwordOfStandardUserAccount", "awsSeamlessDomainPassword"];
const DOMAIN_KEYS: &[&str] = &["domainName"];

/// Names of keys that a message may repeat.
const COMMON_KEYS: &[&str] = &[
    "username",
    "usernameOfStandardUserAccount",
    "awsSeamlessDomainUsername",
    "password",
    "passwordOfStandardUserAccount",
    "awsSeamlessDomainPassword",
    "domainName",
    "distinguishedName",
    "distinguishedNameOfgMSA",
    "directoryName",
    "user",
    "user_name",
    "user-name",
    "login",
    "account",
    "name",
    "pass",
    "passwd",
    "pwd",
    "secret",
    "value",
    "domain",
    "domain_name",
    "realm",
    "host",
    "port",
    "engine",
    "dbname",
];

/// Bytes; Secrets Manager's own limit.
const LIMIT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt;

    use crate::aws::may_log;
    use crate::aws::tests::{aws_at, http, server, shown};

    const ARN: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf";
    const PASSWORD: &str = "pa55W0RD-marker";

    fn parse(text: &str) -> Result<SecretLogin, Malformed> {
        parse_key(text, None)
    }

    fn parse_key(text: &str, json_key: Option<&str>) -> Result<SecretLogin, Malformed> {
        let mut arn: SecretArn = ARN.parse().unwrap();
        arn.json_key = json_key.map(str::to_owned);
        arn.hints.netbios = Some("KORP".to_owned());
        SecretLogin::parse(text.as_bytes(), &arn, &domain())
    }

    fn name(text: &str) -> Result<UserName, &'static str> {
        user_name(text, &domain(), false, &Around { domain: &domain(), netbios: Some("KORP") })
    }

    fn domain() -> Domain {
        "corp.example.com".parse().unwrap()
    }

    #[test]
    fn every_spelling_of_the_keys_is_read() {
        for text in [
            r#"{"username":"svc","password":"x"}"#,
            r#"{"username":"svc@corp.example.com","password":"x","domainName":"","distinguishedName":7}"#,
            r#"{"username":"CORP\\svc","password":"x","domainName":null,"more":[1]}"#,
            r#"{"usernameOfStandardUserAccount":"svc","passwordOfStandardUserAccount":"x"}"#,
            r#"{"awsSeamlessDomainUsername":"svc","awsSeamlessDomainPassword":"x"}"#,
            r#"{"username":"","awsSeamlessDomainUsername":"svc","password":"x"}"#,
            "\u{feff}{\"username\":\"svc\",\"password\":\"x\"}",
            r#""{\"username\":\"svc\",\"password\":\"x\"}""#,
        ] {
            let login = parse(text).unwrap();
            assert_eq!(login.user, UserName::Plain("svc".to_owned()), "{text}");
            assert_eq!(login.password.as_str(), "x", "{text}");
            assert_eq!(login.domain, domain());
        }
        let login = parse(r#"{"username":"s","password":"x","domainName":"Other.Example.COM"}"#).unwrap();
        assert_eq!(login.domain.as_str(), "other.example.com");
    }

    #[test]
    fn a_json_key_selects_one_of_several_logins() {
        let text = r#"{"a":{"username":"svc","password":"x"},"b":"{\"username\":\"svc\",\"password\":\"x\"}","c":"x"}"#;
        for key in ["a", "b"] {
            assert_eq!(parse_key(text, Some(key)).unwrap().user.as_str(), "svc");
        }
        let code = |key| parse_key(text, Some(key)).unwrap_err().code;
        assert_eq!((code("c"), code("d")), (Code::SecretMalformed, Code::SecretKeyMissing));
    }

    #[test]
    fn what_is_no_login_is_refused() {
        for (text, code) in [
            ("", Code::SecretMalformed),
            ("svc:pa55W0RD", Code::SecretMalformed),
            ("[]", Code::SecretMalformed),
            (r#"{"username":"svc"}"#, Code::SecretKeyMissing),
            (r#"{"password":"x"}"#, Code::SecretKeyMissing),
            (r#"{"username":"svc","password":""}"#, Code::SecretKeyMissing),
            (r#"{"username":"svc","password":1}"#, Code::SecretMalformed),
            (r#"{"username":"svc","password":"x","domainName":"a b"}"#, Code::SecretMalformed),
        ] {
            assert_eq!(parse(text).unwrap_err().code, code, "{text}");
        }
        let long = format!(r#"{{"username":"{}"}}"#, "x".repeat(LIMIT));
        assert_eq!(parse(&long).unwrap_err().code, Code::SecretTooLarge);
    }

    #[test]
    fn user_names_that_could_split_a_principal_are_refused() {
        let bad = [
            "svc/admin",
            "a@b@c",
            "@corp",
            "CORP\\",
            "a\\b\\c",
            "a\nb",
            "a\0",
            " a",
            "a ",
            "*",
            "a@b c",
            "x:",
            ":x",
            "a:b:c",
        ];
        for bad in bad {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        for good in ["svc-fetcher", "svc.fetcher", "svc fetcher", "WebApp01$", "dvořák"] {
            assert_eq!(name(good), Ok(UserName::Plain(good.to_owned())));
        }
    }

    #[test]
    fn the_kind_of_a_user_name_follows_from_its_domain() {
        let plain = |user: &str| Ok(UserName::Plain(user.to_owned()));
        assert_eq!(name("svc@Corp.Example.COM"), plain("svc"));
        assert_eq!(name("CORP\\svc"), plain("svc"));
        assert_eq!(name("korp\\svc"), plain("svc"));
        assert_eq!(name("corp.example.com\\svc"), plain("svc"));
        assert_eq!(name("old:new"), plain("new"));
        assert_eq!(name("CORP\\old:CORP\\new"), plain("new"));
        assert_eq!(name("alice@Corp.Example.Net"), Ok(UserName::Enterprise("alice@corp.example.net".to_owned())));
        assert_eq!(name("old:alice@corp.example.net").unwrap().as_str(), "alice@corp.example.net");
        assert!(name("OTHER\\svc").unwrap_err().contains("domainName"));
        // Whoever has that name in the other domain is asked for there.
        let login = parse(r#"{"username":"OTHER\\svc","password":"x","domainName":"other.test"}"#).unwrap();
        assert_eq!((login.user, login.domain.as_str()), (UserName::Plain("svc".to_owned()), "other.test"));
        let login = parse(r#"{"username":"a@corp.example.com","password":"x","domainName":"other.test"}"#).unwrap();
        assert_eq!(login.user, UserName::Enterprise("a@corp.example.com".to_owned()));
    }

    #[test]
    fn a_netbios_name_of_the_credspecs_domain_stands_for_it_and_no_other_is_guessed() {
        for own in ["KORP", "corp", "Corp.Example.com."] {
            let login = parse(&format!(r#"{{"username":"s","password":"x","domainName":"{own}"}}"#)).unwrap();
            assert_eq!(login.domain, domain(), "{own}");
        }
        let other = parse(r#"{"username":"s","password":"x","domainName":"OTHER"}"#).unwrap_err();
        assert!(other.why.contains("looks like a NetBIOS name"), "{}", other.why);
        let mut arn: SecretArn = ARN.parse().unwrap();
        arn.login_domain = Some("parent.test".parse().unwrap());
        let login = SecretLogin::parse(br#"{"username":"s","password":"x"}"#, &arn, &domain()).unwrap();
        assert_eq!(login.domain.as_str(), "parent.test");
    }

    #[test]
    fn keys_match_without_case_and_those_found_are_named() {
        let login = parse(r#"{"UserName":"svc","PASSWORD":"x ","DomainName":"other.test"}"#).unwrap();
        assert_eq!((login.user.as_str(), login.domain.as_str(), login.password.as_str()), ("svc", "other.test", "x "));
        assert_eq!((login.keys.len(), login.notes.len()), (3, 1));
        assert!(parse(r#"{"username":"svc","password":"x"}"#).unwrap().notes.is_empty());
        let why = |text| parse(text).unwrap_err().why;
        assert_eq!(
            why(r#"{"User":"svc","Pwd":"x"}"#),
            "it has no key `username` with a value; its keys: `Pwd`, `User`"
        );
        assert_eq!(
            why(r#"{"username":"svc","hunter2":"x"}"#),
            "it has no key `password` with a value; its keys: `username` and 1 not known"
        );
    }

    /// Where the test's log goes.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }
    }

    impl Write for Log {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Everything at TRACE, or all of it that may be logged.
    fn log_to(log: &Log, all: bool) -> tracing::subscriber::DefaultGuard {
        let log = log.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || log.clone());
        let layer = layer.with_filter(filter_fn(move |metadata| all || may_log(metadata)));
        tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
    }

    fn answer_with(secret: &str) -> Vec<u8> {
        let body = serde_json::json!({"ARN": ARN, "Name": "gmsa/login", "VersionId": "v1", "SecretString": secret});
        http(200, "content-type: application/x-amz-json-1.1\r\n", body.to_string().as_bytes())
    }

    fn refusal(status: u16, body: &str) -> Vec<u8> {
        http(status, "content-type: application/x-amz-json-1.1\r\n", body.as_bytes())
    }

    async fn fetch_from(answers: Vec<Vec<u8>>) -> Result<Secret, Fault> {
        fetch(&ARN.parse().unwrap(), &domain(), &aws_at(&server(answers)), Stage::Current).await
    }

    #[tokio::test]
    async fn a_secret_is_read_as_string_and_as_binary() {
        let text = format!(r#"{{"username":"svc","password":"{PASSWORD}"}}"#);
        let secret = fetch_from(vec![answer_with(&text)]).await.unwrap();
        assert_eq!((secret.version_id.as_str(), secret.login.password.as_str()), ("v1", PASSWORD));
        assert!(!format!("{secret:?}").contains(PASSWORD));
        let binary = format!(r#"{{"VersionId":"v2","SecretBinary":"{}"}}"#, BASE64_STANDARD.encode(text));
        let secret = fetch_from(vec![refusal(200, &binary)]).await.unwrap();
        assert_eq!((secret.version_id.as_str(), secret.login.password.as_str()), ("v2", PASSWORD));
    }

    #[tokio::test]
    async fn refusals_have_their_codes() {
        for (status, body, code) in [
            (400, r#"{"__type":"ResourceNotFoundException","Message":"no"}"#, Code::SecretNotFound),
            (400, r#"{"__type":"com.amazonaws#InvalidRequestException","Message":"no"}"#, Code::SecretUnusable),
            (400, r#"{"__type":"DecryptionFailure","Message":"KMS"}"#, Code::SecretDenied),
            (400, r#"{"__type":"AccessDeniedException","Message":"no"}"#, Code::SecretDenied),
            (403, "", Code::SecretDenied),
            (400, r#"{"__type":"UnrecognizedClientException"}"#, Code::SecretAwsCredentials),
            (400, r#"{"__type":"NewException"}"#, Code::SecretUnreachable),
            (200, r#"{"VersionId":"v1"}"#, Code::SecretUnusable),
        ] {
            let fault = fetch_from(vec![refusal(status, body)]).await.unwrap_err();
            assert_eq!(fault.code, code, "{body}");
        }
        let denied = r#"{"__type":"AccessDeniedException","Message":"User: arn:aws:sts::123456789012:assumed-role/r/s is not authorized to perform: secretsmanager:GetSecretValue on resource: x because no identity-based policy allows the secretsmanager:GetSecretValue action"}"#;
        insta::assert_snapshot!(shown(&fetch_from(vec![refusal(400, denied)]).await.unwrap_err()), @r#"
        code=secret-denied
          what: Could not read the secret arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf (version AWSCURRENT)
          why:  AWS answered AccessDeniedException (HTTP 400): arn:aws:sts::123456789012:assumed-role/r/s is not allowed to perform secretsmanager:GetSecretValue (no identity-based policy allows it); endpoint: http://ENDPOINT (set by AWS_ENDPOINT_URL)
          next: aws iam put-role-policy --role-name r --policy-name gmsa-sidecar-secretsmanager-GetSecretValue --policy-document '{"Statement":[{"Action":"secretsmanager:GetSecretValue","Effect":"Allow","Resource":"arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf"}],"Version":"2012-10-17"}'
          more: gmsa-sidecar explain secret-denied
        "#);
    }

    #[tokio::test]
    async fn a_secret_marked_for_deletion_is_restored_by_a_command() {
        let body = r#"{"__type":"InvalidRequestException","Message":"You can't perform this operation on the secret because it was marked for deletion."}"#;
        let fault = fetch_from(vec![refusal(400, body)]).await.unwrap_err();
        assert!(fault.why.as_deref().unwrap().contains("it was marked for deletion"), "{fault}");
        assert_eq!(fault.next(), format!("aws secretsmanager restore-secret --region eu-central-1 --secret-id {ARN}"));
    }

    #[tokio::test]
    async fn a_login_is_read_from_a_parameter_and_no_answer_brings_it_into_a_fault() {
        let arn: SecretArn = "arn:aws:ssm:eu-central-1:123456789012:parameter/gmsa-login".parse().unwrap();
        let value = format!(r#"{{"username":"svc","password":"{PASSWORD}"}}"#);
        let found = serde_json::json!({"Parameters": [{"Value": value, "Version": 3, "LastModifiedDate": 1.7e9}]});
        let aws = aws_at(&server(vec![refusal(200, &found.to_string())]));
        let secret = fetch(&arn, &domain(), &aws, Stage::Current).await.unwrap();
        assert_eq!((secret.version_id.as_str(), secret.login.password.as_str()), ("3", PASSWORD));
        for answer in leaky_answers() {
            let aws = aws_at(&server(vec![answer]));
            let fault = fetch(&arn, &domain(), &aws, Stage::Current).await.unwrap_err();
            assert!(!format!("{fault} {fault:?}").contains(PASSWORD), "{fault}");
        }
        let none = aws_at(&server(vec![refusal(200, r#"{"InvalidParameters":["x"]}"#)]));
        let fault = fetch(&arn, &domain(), &none, Stage::Current).await.unwrap_err();
        assert_eq!(fault.code, Code::SecretNotFound);
    }

    /// Answers with the password in every place a broken or hostile service could put it.
    fn leaky_answers() -> Vec<Vec<u8>> {
        let p = PASSWORD;
        let json = |body: String| refusal(200, &body);
        let mut answers = vec![
            json(format!(r#"{{"VersionId":"v1","SecretString":"{{\"username\":\"svc\",\"password\":\"{p}"#)),
            json(format!(r#"{{"VersionId":["{p}"],"SecretString":7}}"#)),
            json(format!(r#"{{"VersionId":"v1","SecretString":{{"password":"{p}"}}}}"#)),
            json(format!(r#"{{"VersionId":"v1","SecretBinary":"{p}!!"}}"#)),
            json(format!(r#"{{"VersionId":"v1","SecretBinary":"{}"}}"#, BASE64_STANDARD.encode(p))),
            json(format!(
                r#"{{"VersionId":"v1","SecretBinary":"{}"}}"#,
                BASE64_STANDARD.encode([p.as_bytes(), b"\xff"].concat())
            )),
            json(format!("<html>{p}</html>")),
            json(p.to_owned()),
            json(format!(r#"{{"CreatedDate":"{p}","SecretString":"x"}}"#)),
            refusal(400, &format!(r#"{{"__type":"InvalidRequestException","Message":"secret is {p}"}}"#)),
            refusal(
                400,
                &format!(r#"{{"__type":"AccessDeniedException","Message":"User: {p} perform: {p}:x on {p}"}}"#),
            ),
            refusal(400, &format!(r#"{{"__type":"{p}","Message":"{p}"}}"#)),
            refusal(400, p),
            refusal(404, &format!("<html>{p}</html>")),
            http(400, &format!("x-amzn-errortype: {p}\r\n"), b"{}"),
            http(301, &format!("location: https://{p}/\r\nx-amz-bucket-region: {p}\r\n"), p.as_bytes()),
            format!("{p} {p}\r\n\r\n").into_bytes(),
            format!("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{{\"SecretString\":\"{p}").into_bytes(),
        ];
        answers.extend(
            [
                p.to_owned(),
                format!("svc:{p}"),
                format!(r#"{{"username":"svc","password":"{p}"#),
                format!(r#"{{"username":"svc","password":"{p}",}}"#),
                format!(r#"{{"username":"svc","password":{{"{p}":"{p}"}}}}"#),
                format!(r#"{{"username":"svc","password":["{p}"]}}"#),
                format!(r#"{{"username":"{p}/{p}","password":"{p}"}}"#),
                format!(r#"{{"username":7,"password":"{p}"}}"#),
                format!(r#"{{"username":"svc","password":"{p}","domainName":"{p} {p}"}}"#),
                format!(r#"{{"user":"svc","{p}":"{p}"}}"#),
                format!(r#""{{\"username\":\"svc\",\"password\":{p}}}""#),
                format!(r#"["{p}"]"#),
                format!(r#""{p}""#),
                format!("{{\"username\":\"svc\",\"password\":\"{p}\u{1}\"}}"),
            ]
            .map(|secret| answer_with(&secret)),
        );
        answers
    }

    #[tokio::test]
    async fn no_answer_brings_the_password_into_a_fault_or_a_log() {
        let log = Log::default();
        let guard = log_to(&log, false);
        for answer in leaky_answers() {
            let fault = fetch_from(vec![answer]).await.unwrap_err();
            assert!(!format!("{fault} {fault:?}").contains(PASSWORD), "{fault}");
            tracing::info!(?fault, "a fault is logged");
        }
        drop(guard);
        assert!(log.text().contains("a fault is logged"));
        assert!(!log.text().contains(PASSWORD), "{}", log.text());
    }

    /// Why [`may_log`] is there. Should this fail because the SDK has become silent, it may go.
    #[tokio::test]
    async fn without_the_filter_the_sdk_logs_secrets() {
        let log = Log::default();
        let guard = log_to(&log, true);
        for answer in leaky_answers() {
            fetch_from(vec![answer]).await.unwrap_err();
        }
        drop(guard);
        assert!(log.text().contains(PASSWORD));
    }

    #[test]
    fn a_fetch_can_be_spawned() {
        fn sent<T: Send>(_: T) {}
        let (aws, arn) = (aws_at("http://127.0.0.1:9"), ARN.parse().unwrap());
        sent(fetch(&arn, &domain(), &aws, Stage::Pending));
        sent(crate::credspec::fetch(&"{}".parse().unwrap(), &aws));
        sent(crate::task::discover(&aws));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn an_accepted_user_name_is_one_component_of_a_principal(text in ".{0,40}") {
            if let Ok(name) = name(&text) {
                let plain = match &name {
                    UserName::Plain(name) => name.as_str(),
                    UserName::Enterprise(name) => name.split_once('@').unwrap().0,
                };
                prop_assert!(!plain.is_empty() && !name.as_str().contains(['/', '\\', '*', '\0', '\n']));
                prop_assert!(!plain.contains('@'));
            }
        }
    }
}
