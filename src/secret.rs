//! The secret: who logs in to the directory, and with what password.
//!
//! Nothing of a secret's text appears in a fault, not even of one that is malformed: faults name the secret's ARN
//! and the key that is wrong.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::arn::Arn;
use crate::aws::{Aws, Codes, Failure, json_reason};
use crate::fault::{Code, Fault};
use crate::name::Domain;

/// A version of a secret, read.
#[derive(Debug)]
pub struct Secret {
    /// Secrets Manager's id of the version: the same id is the same text.
    pub version_id: String,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// What it says.
    pub login: Login,
}

/// The plain AD account that may read the managed password.
pub struct Login {
    /// The account's name in its domain, without domain or realm: the single component of its principal.
    pub user: String,
    /// Its domain: the secret's `domainName`, else the CredSpec's.
    pub domain: Domain,
    /// Its password.
    pub password: Zeroizing<String>,
    /// Which of the keys that a login is read from have a value.
    pub keys: Vec<&'static str>,
}

impl Login {
    /// Reads the secret's text: a JSON object (UTF-8, a BOM is ignored, at most 64 KiB) with the keys
    ///
    /// - `username` | `usernameOfStandardUserAccount` | `awsSeamlessDomainUsername`: `user`, `user@domain` or
    ///   `DOMAIN\user`. What is said of the domain is dropped: the login's domain is told by `domainName` alone,
    ///   since a user principal name's suffix need not be a domain and a NetBIOS name is none.
    /// - `password` | `passwordOfStandardUserAccount` | `awsSeamlessDomainPassword`
    /// - `domainName`, if the login's domain is not the CredSpec's
    /// - `distinguishedName` | `distinguishedNameOfgMSA` are ignored, as all others: the gMSA is found by its
    ///   sAMAccountName, which is unique in its domain, so a DN could only repeat that or be wrong.
    ///
    /// Several spellings of one key: the first named above wins.
    fn parse(text: &[u8], json_key: Option<&str>, domain: &Domain) -> Result<Self, Malformed> {
        if text.len() > LIMIT {
            return Err(Malformed::new(Code::SecretTooLarge, format!("it has {} bytes", text.len())));
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut value: Value = serde_json::from_slice(text).map_err(|error| Malformed::text(json_reason(&error)))?;
        if let Some(key) = json_key {
            value = value.get_mut(key).map(Value::take).ok_or_else(|| Malformed::missing(key))?;
        }
        let mut fields = object(value)?;
        let given = |key: &&&str| fields.get(**key).is_some_and(|value| !value.is_null() && value != "");
        let keys = [USER_KEYS, PASSWORD_KEYS, DOMAIN_KEYS].into_iter().flatten().filter(given).copied().collect();
        let user = take(&mut fields, USER_KEYS)?.ok_or_else(|| Malformed::missing(USER_KEYS[0]))?;
        let user = user_name(&user).map_err(|why| Malformed::text(format!("`{}` {why}", USER_KEYS[0])))?;
        let password = take(&mut fields, PASSWORD_KEYS)?.ok_or_else(|| Malformed::missing(PASSWORD_KEYS[0]))?;
        let domain = match take(&mut fields, DOMAIN_KEYS)? {
            None => domain.clone(),
            Some(name) => name.parse().map_err(|_| Malformed::text("`domainName` is no DNS name of a domain"))?,
        };
        Ok(Self { user, domain, password, keys })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// Where a secret is: its ARN with or without the six random characters, or the form of ECS's `valueFrom`,
/// `ARN:JSON-KEY:VERSION-STAGE:VERSION-ID`, in which each of the three may be empty.
///
/// With a JSON key the login is the object under that key of the secret (or a string that holds such an object), so
/// that one secret can hold several logins. A key whose value is a plain text, as ECS injects it, is no login.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretArn {
    arn: String,
    region: String,
    json_key: Option<String>,
    stage: Option<String>,
    version: Option<String>,
}

impl FromStr for SecretArn {
    type Err = SecretArnError;

    fn from_str(text: &str) -> Result<Self, SecretArnError> {
        let refuse = |why: &'static str| SecretArnError { text: text.chars().take(300).collect(), why: why.to_owned() };
        let arn = Arn::parse(text).map_err(|error| refuse("").because(error))?;
        if arn.service != "secretsmanager" {
            return Err(refuse("is not of Secrets Manager"));
        }
        if arn.region.is_empty() || arn.account.is_empty() {
            return Err(refuse("lacks region or account"));
        }
        let resource = arn.resource.strip_prefix("secret:").ok_or_else(|| refuse("names no secret"))?;
        let mut parts = resource.split(':');
        let name = parts.next().unwrap_or_default();
        let in_name = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
        if name.is_empty() || name.len() > 519 || !name.chars().all(in_name) {
            return Err(refuse("names no secret"));
        }
        let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        let (json_key, stage, version) = (part(), part(), part());
        if parts.next().is_some() {
            return Err(refuse("has more parts than `ARN:JSON-KEY:VERSION-STAGE:VERSION-ID`"));
        }
        let arn_alone = text.strip_suffix(&resource[name.len()..]).unwrap_or(text).to_owned();
        Ok(Self { arn: arn_alone, region: arn.region.to_owned(), json_key, stage, version })
    }
}

impl fmt::Display for SecretArn {
    /// The ARN without what `valueFrom` appends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

/// A text is no ARN of a secret; the message quotes it with its control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {why}", .text.escape_debug())]
pub struct SecretArnError {
    text: String,
    why: String,
}

impl SecretArnError {
    fn because(self, why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), ..self }
    }
}

/// Which version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `AWSCURRENT`, or the version that the ARN's `valueFrom` suffix pins.
    Current,
    /// `AWSPENDING`: during a rotation the directory has this one already. None is `secret-not-found`.
    Pending,
}

/// Reads a login from Secrets Manager (`secretsmanager:GetSecretValue`), in the region of its ARN. `domain` is the
/// CredSpec's, for secrets that name none.
pub async fn fetch(arn: &SecretArn, domain: &Domain, aws: &Aws, stage: Stage) -> Result<Secret, Fault> {
    let client = aws.secrets_manager(&arn.region).await;
    let request = client.get_secret_value().secret_id(&arn.arn);
    let (label, request) = match (stage, &arn.stage, &arn.version) {
        (Stage::Pending, _, _) => ("AWSPENDING", request.version_stage("AWSPENDING")),
        (Stage::Current, None, None) => ("AWSCURRENT", request.version_stage("AWSCURRENT")),
        (Stage::Current, stage, version) => (
            stage.as_deref().unwrap_or("pinned"),
            request.set_version_stage(stage.clone()).set_version_id(version.clone()),
        ),
    };
    let output = request.send().await.map_err(|error| {
        let what = format!("the {label} version of secret `{arn}` was not read");
        Failure::of(&error).fault(what, &CODES)
    })?;
    let version_id = output.version_id.unwrap_or_default();
    let created_at = output.created_date.and_then(|made| SystemTime::try_from(made).ok());
    let text = match (output.secret_string, output.secret_binary) {
        (Some(text), _) => Zeroizing::new(text.into_bytes()),
        (None, Some(bytes)) => Zeroizing::new(bytes.into_inner()),
        (None, None) => return Err(Fault::new(Code::SecretUnusable, format!("secret `{arn}` holds no value"))),
    };
    match Login::parse(&text, arn.json_key.as_deref(), domain) {
        Ok(login) => Ok(Secret { version_id, created_at, login }),
        Err(Malformed { code, why }) => Err(Fault::new(code, format!("secret `{arn}` is not a login")).because(why)),
    }
}

/// For the fuzzer: the user name in a secret's text, if it is a login.
#[cfg(fuzzing)]
pub fn decode(text: &[u8], json_key: Option<&str>) -> Option<String> {
    let domain = "example.com".parse().ok()?;
    Login::parse(text, json_key, &domain).ok().map(|login| login.user)
}

/// Why a text is no login, without any of it.
#[derive(Debug)]
struct Malformed {
    code: Code,
    why: String,
}

impl Malformed {
    fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    fn text(why: impl Into<String>) -> Self {
        Self::new(Code::SecretMalformed, why)
    }

    fn missing(key: &str) -> Self {
        Self::new(Code::SecretKeyMissing, format!("it has no `{key}`"))
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
        _ => Err(Malformed::text("it is no JSON object")),
    }
}

/// The first of `keys` that has a value. What is left of the document is wiped when freed, by the allocator.
fn take(fields: &mut Map<String, Value>, keys: &[&str]) -> Result<Option<Zeroizing<String>>, Malformed> {
    for key in keys {
        match fields.get_mut(*key).map(Value::take) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(Zeroizing::new(text))),
            Some(_) => return Err(Malformed::text(format!("`{key}` is no string"))),
        }
    }
    Ok(None)
}

/// The account's name out of `user`, `user@domain` or `DOMAIN\user`. Refused are the characters that a
/// sAMAccountName cannot hold (SAM-Account-Name in the Active Directory schema), and `@`: they would split a
/// principal or steer a filter.
pub(crate) fn user_name(text: &str) -> Result<String, &'static str> {
    let name = match text.split_once('\\') {
        Some((_, name)) => name,
        None => text.split_once('@').map_or(text, |(name, _)| name),
    };
    if name.is_empty() || name.chars().count() > 256 || name.trim() != name {
        return Err("is no account name: empty, longer than 256 characters, or with white space around it");
    }
    if name.chars().any(|c| c.is_control() || "\"/\\[]:;|=,+*?<>@".contains(c)) {
        return Err("is no account name: it takes `user`, `user@domain` or `DOMAIN\\user`");
    }
    Ok(name.to_owned())
}

const USER_KEYS: &[&str] = &["username", "usernameOfStandardUserAccount", "awsSeamlessDomainUsername"];
const PASSWORD_KEYS: &[&str] = &["password", "passwordOfStandardUserAccount", "awsSeamlessDomainPassword"];
const DOMAIN_KEYS: &[&str] = &["domainName"];

/// Bytes; Secrets Manager's own limit.
const LIMIT: usize = 64 * 1024;

const CODES: Codes = Codes {
    credentials: Code::SecretAwsCredentials,
    denied: Code::SecretDenied,
    unreachable: Code::SecretUnreachable,
    not_found: Code::SecretNotFound,
    unusable: Code::SecretUnusable,
};

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
    use crate::aws::tests::{aws_at, http, server};

    const ARN: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf";
    const PASSWORD: &str = "pa55W0RD-marker";

    fn parse(text: &str) -> Result<Login, Malformed> {
        Login::parse(text.as_bytes(), None, &domain())
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
            assert_eq!((login.user.as_str(), login.password.as_str()), ("svc", "x"), "{text}");
            assert_eq!(login.domain, domain());
        }
        let login = parse(r#"{"username":"s","password":"x","domainName":"Other.Example.COM"}"#).unwrap();
        assert_eq!(login.domain.as_str(), "other.example.com");
    }

    #[test]
    fn a_json_key_selects_one_of_several_logins() {
        let text = r#"{"a":{"username":"svc","password":"x"},"b":"{\"username\":\"svc\",\"password\":\"x\"}","c":"x"}"#;
        for key in ["a", "b"] {
            assert_eq!(Login::parse(text.as_bytes(), Some(key), &domain()).unwrap().user, "svc");
        }
        let code = |key| Login::parse(text.as_bytes(), Some(key), &domain()).unwrap_err().code;
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
        for name in ["svc/admin", "a@b@c", "@corp", "CORP\\", "a\\b\\c", "a\nb", "a\0", " a", "a ", "old:new", "*"] {
            // Everything after the first `@` is the suffix, whatever it holds.
            assert_eq!(user_name(name).is_err(), name != "a@b@c", "{name:?}");
        }
        for name in ["svc-fetcher", "svc.fetcher", "svc fetcher", "WebApp01$", "dvořák"] {
            assert_eq!(user_name(name).as_deref(), Ok(name));
        }
    }

    #[test]
    fn arns_with_and_without_suffixes_are_read() {
        let read = |text: &str| text.parse::<SecretArn>();
        let plain = read(ARN).unwrap();
        assert_eq!((plain.to_string().as_str(), plain.region.as_str()), (ARN, "eu-central-1"));
        let short = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:gmsa/login";
        assert_eq!(read(short).unwrap().arn, short);
        let pinned = read(&format!("{ARN}:key:AWSPREVIOUS:id-1")).unwrap();
        assert_eq!(pinned.arn, ARN);
        assert_eq!(pinned.json_key.as_deref(), Some("key"));
        assert_eq!((pinned.stage.as_deref(), pinned.version.as_deref()), (Some("AWSPREVIOUS"), Some("id-1")));
        assert_eq!(read(&format!("{ARN}:::")).unwrap(), plain);
        assert_eq!(read(&format!("{ARN}:key::")).unwrap().json_key.as_deref(), Some("key"));
        for text in [
            "gmsa/login",
            "arn:aws:s3:::bucket/key",
            "arn:aws:secretsmanager:eu-central-1:123456789012:secret:",
            "arn:aws:secretsmanager::123456789012:secret:x",
            "arn:aws:secretsmanager:eu-central-1:123456789012:x",
            "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a b",
            &format!("{ARN}:a:b:c:d"),
        ] {
            assert!(read(text).is_err(), "{text}");
        }
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
        insta::assert_snapshot!(fetch_from(vec![refusal(400, denied)]).await.unwrap_err(), @r"
        code=secret-denied
          what: the AWSCURRENT version of secret `arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login-AbCdEf` was not read
          why:  AccessDeniedException, status 400: arn:aws:sts::123456789012:assumed-role/r/s may not secretsmanager:GetSecretValue (no identity-based policy allows)
          next: allow secretsmanager:GetSecretValue on the secret to the *task* role, and kms:Decrypt if it is encrypted with a customer-managed key; see docs/faults.md#secret-denied
        
");
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
            let _ = text.parse::<SecretArn>();
        }

        #[test]
        fn an_accepted_user_name_is_one_component_of_a_principal(text in ".{0,40}") {
            if let Ok(name) = user_name(&text) {
                prop_assert!(!name.is_empty() && !name.contains(['/', '@', '\\', '*', '\0', '\n']));
            }
        }
    }
}
