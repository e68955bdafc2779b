//! The sealed LDAP connection (RFC 4511 over RFC 4422 with GSS-SPNEGO) and the one search that is made on it.
//!
//! A connection is [`LdapConnection<Plain>`](crate::directory::ldap::LdapConnection) until the bind has succeeded; only a
//! sealed one can search the directory, so nothing but the bind and the LDAP ping is ever sent in the clear and no
//! password arrives on an open line. What seals is SASL on port 389, or TLS on port 636; there is no way from one to the
//! other.

use std::io;

use bytes::{Buf, BytesMut};
use futures_util::{SinkExt, StreamExt};
use ldap3_proto::LdapCodec;
use ldap3_proto::proto::{
    LdapBindCred, LdapBindRequest, LdapDerefAliases, LdapFilter, LdapMsg, LdapOp, LdapResult, LdapResultCode,
    LdapSearchRequest, LdapSearchScope, SaslCredentials,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Decoder, Encoder, Framed};
use tokio_util::either::Either;
use zeroize::Zeroize;

use crate::clock;
use crate::directory::ber::{self, Limits};
use crate::directory::dc::DcService;
use crate::directory::netlogon::Netlogon;
use crate::directory::tls::{Certificate, Tls};
use crate::entropy;
use crate::fault::Fault;
use crate::kerberos::{ContextError, LdapTicket, Sealer, SecurityContext};
use crate::name::{Domain, Host};

/// What keeps the managed password from other eyes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Transport {
    /// SASL, on port 389.
    #[default]
    Sasl,
    /// TLS, on port 636.
    Tls(Tls),
}

impl Transport {
    /// The service of a DC that it takes.
    pub fn service(&self) -> DcService {
        match self {
            Self::Sasl => DcService::Ldap,
            Self::Tls(_) => DcService::Ldaps,
        }
    }

    /// An LDAP connection over a TCP connection to that service of `host`.
    pub async fn open(&self, stream: TcpStream, host: &Host) -> Result<LdapConnection<Plain>, Fault> {
        let stream = match self {
            Self::Sasl => Either::Left(stream),
            Self::Tls(tls) => Either::Right(Box::new(tls.handshake(stream, host).await?)),
        };
        Ok(LdapConnection { framed: Framed::new(stream, Plain(codec())), last_id: 0 })
    }
}

/// An LDAP connection to a DC. Callers put deadlines around its operations.
pub struct LdapConnection<State> {
    framed: Framed<Stream, State>,
    last_id: i32,
}

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Not bound yet: nobody has signed or sealed anything but TLS, where it is used.
pub struct Plain(LdapCodec);

/// Bound; signed and sealed.
pub struct Sealed {
    /// Nothing within TLS.
    sealer: Option<Sealer>,
    ldap: LdapCodec,
    opened: BytesMut,
}

impl LdapConnection<Plain> {
    /// The server's TLS certificate, in DER; none on port 389.
    fn certificate(&self) -> Option<&[u8]> {
        match self.framed.get_ref() {
            Either::Left(_) => None,
            Either::Right(stream) => Some(stream.get_ref().1.peer_certificates()?.first()?.as_ref()),
        }
    }

    /// Whom the server's TLS certificate names, for people.
    pub fn peer(&self) -> Option<Certificate> {
        Certificate::of(self.certificate()?)
    }

    /// Binds as the ticket's client by GSS-SPNEGO: one round trip, with mutual authentication.
    pub async fn bind(mut self, ticket: &LdapTicket) -> Result<LdapConnection<Sealed>, LdapError> {
        let now = clock::now();
        let (mut context, token) = match (self.certificate(), self.framed.get_ref()) {
            (Some(certificate), _) => SecurityContext::initiate_in_tls(ticket, certificate, now, entropy::system)?,
            (None, Either::Left(_)) => SecurityContext::initiate(ticket, now, entropy::system)?,
            (None, Either::Right(_)) => return Err(LdapError::Protocol("TLS without a certificate".into())),
        };
        let mut token = Some(token);
        loop {
            let credentials = token.take().unwrap_or_default();
            let cred = LdapBindCred::SASL(SaslCredentials { mechanism: "GSS-SPNEGO".into(), credentials });
            let bind = LdapOp::BindRequest(LdapBindRequest { version: 3, dn: String::new(), cred });
            let LdapOp::BindResponse(response) = self.ask(bind).await? else {
                return Err(LdapError::Protocol("an answer to the bind that is none".into()));
            };
            let finished = match response.res.code {
                LdapResultCode::Success => true,
                LdapResultCode::SaslBindInProgress => false,
                _ => return Err(LdapError::from(response.res)),
            };
            if let Some(answer) = response.saslcreds {
                token = context.step(&answer)?;
            }
            if finished {
                break;
            }
            if token.is_none() {
                return Err(LdapError::Protocol("the server waits for a token that there is none of".into()));
            }
        }
        let sealed = Sealed { sealer: context.into_sealer()?, ldap: codec(), opened: BytesMut::new() };
        Ok(LdapConnection { framed: self.framed.map_codec(|_plain| sealed), last_id: self.last_id })
    }
}

impl LdapConnection<Sealed> {
    /// Finds the entries below `base` whose `attribute` is one of the `values`, with the attributes asked for.
    ///
    /// A value travels as a BER octet string, so nothing in it can be read as filter syntax (RFC 4511 section
    /// 4.5.1.7). References to other domains are skipped.
    pub async fn search(
        &mut self,
        base: &str,
        attribute: &str,
        values: &[String],
        attributes: &[&str],
    ) -> Result<Vec<SearchEntry>, LdapError> {
        let mut filters: Vec<_> =
            values.iter().map(|value| LdapFilter::Equality(attribute.to_owned(), value.clone())).collect();
        let filter = if filters.len() == 1 { filters.remove(0) } else { LdapFilter::Or(filters) };
        // The values are names, and unique.
        let limit = i32::try_from(values.len()).unwrap_or(0).saturating_add(1);
        self.find(base, LdapSearchScope::Subtree, filter, attributes, limit).await
    }
}

/// For the fuzzer, which has no connection.
#[cfg(fuzzing)]
impl Plain {
    /// A decoder of messages in the clear.
    #[expect(clippy::new_without_default, reason = "one way to make one is enough")]
    pub fn new() -> Self {
        Self(codec())
    }
}

/// For the fuzzer, which has no connection.
#[cfg(fuzzing)]
impl Sealed {
    /// A decoder of sealed frames.
    pub fn new(sealer: Sealer) -> Self {
        Self { sealer: Some(sealer), ldap: codec(), opened: BytesMut::new() }
    }
}

impl<State> LdapConnection<State>
where
    State: Decoder<Item = LdapMsg, Error = io::Error> + Encoder<LdapMsg, Error = io::Error>,
{
    /// The LDAP ping (MS-ADTS 6.3.3): what a DC tells anybody who asks, of itself and of where it thinks that he is.
    pub async fn netlogon(&mut self, domain: &Domain) -> Result<Netlogon, LdapError> {
        // NETLOGON_NT_VERSION_5 and 5EX (MS-ADTS 6.3.1.1), four octets, little endian.
        let version = LdapFilter::Equality("NtVer".into(), "\u{6}\0\0\0".into());
        let filter = LdapFilter::And(vec![LdapFilter::Equality("DnsDomain".into(), domain.to_string()), version]);
        let root = self.find("", LdapSearchScope::Base, filter, &["netlogon"], 1).await?;
        let told = root.first().and_then(|entry| entry.value("netlogon")).and_then(Netlogon::parse);
        told.ok_or_else(|| LdapError::Protocol("the answer to the LDAP ping is none".into()))
    }

    async fn find(
        &mut self,
        base: &str,
        scope: LdapSearchScope,
        filter: LdapFilter,
        attributes: &[&str],
        limit: i32,
    ) -> Result<Vec<SearchEntry>, LdapError> {
        let request = LdapOp::SearchRequest(LdapSearchRequest {
            base: base.to_owned(),
            scope,
            aliases: LdapDerefAliases::Never,
            sizelimit: limit,
            timelimit: 0,
            typesonly: false,
            filter,
            attrs: attributes.iter().map(ToString::to_string).collect(),
        });
        let mut answer = self.ask(request).await?;
        let (mut entries, mut octets) = (Vec::new(), 0);
        // A server that goes on for ever is stopped by the number of its messages, and one of many long entries by what
        // is kept of them: each message alone is bounded already.
        let most = usize::try_from(limit).unwrap_or(0);
        for _message in 0..most + REFERENCES {
            match answer {
                LdapOp::SearchResultEntry(_) if entries.len() == most => break,
                LdapOp::SearchResultEntry(entry) => {
                    let attributes = entry.attributes.into_iter().map(|given| (given.atype, given.vals)).collect();
                    let entry = SearchEntry { attributes };
                    octets += entry.size();
                    if octets > AFTER_THE_BIND.octets {
                        let why =
                            format!("the server answers with entries of more than {} bytes", AFTER_THE_BIND.octets);
                        return Err(LdapError::Protocol(why));
                    }
                    entries.push(entry);
                }
                LdapOp::SearchResultReference(_) => {}
                LdapOp::SearchResultDone(result) if result.code == LdapResultCode::Success => return Ok(entries),
                LdapOp::SearchResultDone(result) => return Err(LdapError::from(result)),
                _ => return Err(LdapError::Protocol("an answer to the search that is none".into())),
            }
            answer = self.answer().await?;
        }
        Err(LdapError::Protocol(format!("the server answers with more than the {most} entries that were asked for")))
    }

    async fn ask(&mut self, request: LdapOp) -> Result<LdapOp, LdapError> {
        self.last_id += 1;
        self.framed.send(LdapMsg::new(self.last_id, request)).await?;
        self.answer().await
    }

    /// The next message for the last request. Message id 0 is a notice that the server disconnects (RFC 4511 section
    /// 4.4.1).
    async fn answer(&mut self) -> Result<LdapOp, LdapError> {
        let message = self.framed.next().await.ok_or(LdapError::Closed)??;
        match message.op {
            LdapOp::ExtendedResponse(notice) if message.msgid == 0 => Err(LdapError::Notice(told(&notice.res.message))),
            op if message.msgid == self.last_id => Ok(op),
            _ => Err(LdapError::Protocol("an answer to another request".into())),
        }
    }
}

impl Decoder for Plain {
    type Item = LdapMsg;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<LdapMsg>> {
        decode(&mut self.0, source, BEFORE_THE_BIND)
    }
}

impl Encoder<LdapMsg> for Plain {
    type Error = io::Error;

    fn encode(&mut self, message: LdapMsg, target: &mut BytesMut) -> io::Result<()> {
        self.0.encode(message, target)
    }
}

impl Decoder for Sealed {
    type Item = LdapMsg;
    type Error = io::Error;

    /// Frames of a 4-byte length and a wrap token (RFC 4422 section 3.7). Messages and frames need not coincide.
    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<LdapMsg>> {
        let Some(sealer) = &mut self.sealer else { return decode(&mut self.ldap, source, AFTER_THE_BIND) };
        loop {
            if let Some(message) = decode(&mut self.ldap, &mut self.opened, AFTER_THE_BIND)? {
                return Ok(Some(message));
            }
            let Some(length) = source.first_chunk().map(|length| u32::from_be_bytes(*length)) else {
                return Ok(None);
            };
            let length = usize::try_from(length).map_err(io::Error::other)?;
            if length > AFTER_THE_BIND.octets {
                return Err(io::Error::other(format!("a sealed frame of {length} bytes, more than is allowed")));
            }
            if source.len() < 4 + length {
                return Ok(None);
            }
            source.advance(4);
            let token = source.split_to(length);
            let message = sealer.unseal(&token).map_err(io::Error::other)?;
            self.opened.extend_from_slice(&message);
        }
    }
}

impl Encoder<LdapMsg> for Sealed {
    type Error = io::Error;

    fn encode(&mut self, message: LdapMsg, target: &mut BytesMut) -> io::Result<()> {
        let Some(sealer) = &mut self.sealer else { return self.ldap.encode(message, target) };
        let mut plain = BytesMut::new();
        self.ldap.encode(message, &mut plain)?;
        let token = sealer.seal(&plain).map_err(io::Error::other)?;
        let length = u32::try_from(token.len()).map_err(io::Error::other)?;
        target.extend_from_slice(&length.to_be_bytes());
        target.extend_from_slice(&token);
        Ok(())
    }
}

/// An entry of a search result. It has no `Debug`: one of its values may be a password.
pub struct SearchEntry {
    attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl SearchEntry {
    /// What it takes of memory, about.
    fn size(&self) -> usize {
        let attributes = self
            .attributes
            .iter()
            .map(|(name, values)| VALUE + name.len() + values.iter().map(|value| VALUE + value.len()).sum::<usize>());
        attributes.sum()
    }

    /// The first value of an attribute; attribute names compare without case.
    pub fn value(&self, attribute: &str) -> Option<&[u8]> {
        self.values(attribute).next()
    }

    /// All values of an attribute.
    pub fn values(&self, attribute: &str) -> impl Iterator<Item = &[u8]> {
        let given = self.attributes.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(attribute));
        given.flat_map(|(_, values)| values.iter().map(Vec::as_slice))
    }

    /// All values of an attribute that are text.
    pub fn texts<'a>(&'a self, attribute: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.attributes.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(attribute));
        found.flat_map(|(_, values)| values).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The first value of an attribute as text.
    pub fn text(&self, attribute: &str) -> Option<&str> {
        std::str::from_utf8(self.value(attribute)?).ok()
    }
}

impl Drop for SearchEntry {
    fn drop(&mut self) {
        for (_, values) in &mut self.attributes {
            values.zeroize();
        }
    }
}

/// Why an LDAP operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LdapError {
    /// The server refused, with the result code and its words.
    #[error("the LDAP server answered {code:?} ({}){}", .code.clone() as i64, words(.message))]
    Refused {
        /// RFC 4511 section 4.1.9.
        code: LdapResultCode,
        /// The server's diagnostic message; AD puts its own sub-code here.
        message: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(#[from] io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server says that it is about to close the connection, with these words.
    #[error("the server closes the connection{}", words(.0))]
    Notice(String),
    /// The security context failed.
    #[error("{0}")]
    Context(#[from] ContextError),
    /// The server does not keep to the protocol.
    #[error("{0}")]
    Protocol(String),
}

impl LdapError {
    /// The server does not serve at all now: the connection broke, or it is busy (51), unavailable (52) or about to
    /// close the connection (RFC 4511 section 4.4.1). Another server may serve.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Closed | Self::Connection(_) | Self::Notice(_) => true,
            Self::Refused { code, .. } => matches!(code, LdapResultCode::Busy | LdapResultCode::Unavailable),
            Self::Context(_) | Self::Protocol(_) => false,
        }
    }
}

impl LdapError {
    /// AD's sub-code, where the server gives one.
    pub(crate) fn sub_code(&self) -> Option<u32> {
        match self {
            Self::Refused { message, .. } => sub_code(message),
            _ => None,
        }
    }
}

impl From<LdapResult> for LdapError {
    fn from(result: LdapResult) -> Self {
        Self::Refused { code: result.code, message: told(&result.message) }
    }
}

/// The server's words, escaped and cut.
fn told(message: &str) -> String {
    message.trim_end_matches('\0').escape_debug().to_string().chars().take(300).collect()
}

/// What the server says, and in words what AD's sub-code in it means.
fn words(message: &str) -> String {
    let meaning = meaning(message).map(|meaning| format!(" ({meaning})")).unwrap_or_default();
    if message.is_empty() { String::new() } else { format!(": {message}{meaning}") }
}

/// AD's sub-code of a failure: `.. AcceptSecurityContext error, data 52e, v4563` of a failed bind, else the Win32 error that the
/// message begins with (MS-ADTS 3.1.1.3.1.9, MS-ERREF 2.2).
fn sub_code(message: &str) -> Option<u32> {
    let data = message.split_once(", data ").map(|(_, data)| data.split(',').next().unwrap_or(data).trim());
    let code = data.filter(|data| *data != "0").unwrap_or_else(|| message.split(':').next().unwrap_or(message));
    u32::from_str_radix(code.split(' ').next()?.trim_start_matches("0x"), 16).ok()
}

/// A sub-code in words.
fn meaning(message: &str) -> Option<&'static str> {
    Some(match sub_code(message)? {
        0x57 => "a parameter of the request is not valid",
        0x4dc => "the server does not take the connection as bound",
        0x51f => "the server finds no domain controller that can check the login",
        0x525 => "there is no such account",
        0x52e => "the name or the password is wrong",
        0x52f => "the account is restricted from logging on like this",
        0x530 => "the account may not log on at this time of the day",
        0x531 => "the account may not log on from this computer",
        0x532 => "the password has expired",
        0x533 => "the account is disabled",
        0x568 => "the account is in too many groups",
        0x569 => "the account does not have the right to log on over the network",
        0x701 => "the account has expired",
        0x773 => "the password must be changed first",
        0x775 => "the account is locked",
        0x2028 => "the server requires a stronger authentication",
        0x2029 => "the server does not allow this kind of authentication for the account",
        0x202d => "the attribute is read over an encrypted connection only",
        0x2098 => "the login lacks the right",
        0x208d => "there is no such object",
        0x8009_0302 => "the server does not support the function that it needs",
        0x8009_0308 => "the token is not accepted",
        0x8009_030c => "the logon was denied",
        0x8009_030e => "the server has no credentials of its own to check the ticket with",
        0x8009_0324 => "the clocks differ too much",
        0x35b | 0x8009_0346 => "the TLS channel binding is missing or wrong",
        _ => return None,
    })
}

fn codec() -> LdapCodec {
    LdapCodec::new(Some(AFTER_THE_BIND.octets), None)
}

/// Decodes a message once all of it is there and it is within the limits.
fn decode(codec: &mut LdapCodec, source: &mut BytesMut, limits: Limits) -> io::Result<Option<LdapMsg>> {
    if ber::whole(source, limits)?.is_none() {
        return Ok(None);
    }
    let message = codec.decode(source)?;
    message.map(Some).ok_or_else(|| io::Error::other("a message that cannot be read"))
}

/// Anybody may answer before the bind: an LDAP ping and an answer to a bind are far smaller.
const BEFORE_THE_BIND: Limits = Limits { octets: 64 << 10, elements: 1024 };
/// No answer to our one search comes near it: a blob is under a kilobyte, and twenty are read together; the lists of a
/// security descriptor have 64 KiB at most (MS-DTYP 2.4.5, a size of 16 bits). All entries of an answer together may take
/// as many octets as one message, which is held several times over while it is unsealed and decoded.
const AFTER_THE_BIND: Limits = Limits { octets: 256 << 10, elements: 16 << 10 };
/// What a value takes besides its octets.
const VALUE: usize = 48;
/// How many references to other domains an answer may hold besides its entries.
const REFERENCES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_codes_of_ad_are_told_in_words() {
        for (message, words) in [
            ("80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 52e, v4563", "password"),
            ("80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 775, v4563", "locked"),
            ("80090346: LdapErr: DSID-0C090639, comment: AcceptSecurityContext error, data 80090346, v4563", "channel"),
            ("80090346: LdapErr: DSID-0C090711, comment: AcceptSecurityContext error, data 35b, v1db1", "channel"),
            ("0000202D: The operation requires an encrypted connection", "encrypted"),
            (
                "00002028: LdapErr: DSID-0C090259, comment: The server requires binds to turn on integrity, data 0, v4563",
                "stronger",
            ),
            ("80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 57, v4563", "parameter"),
            ("80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 569, v4563", "network"),
            ("80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 51f, v4563", "controller"),
            ("80090324: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data 80090324, v4563", "clocks"),
            ("8009030E: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 0, v4563", "credentials"),
            ("80090302: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 0, v4563", "support"),
            ("00002029: LdapErr: DSID-0C0901E3, comment: Cannot bind using simple, data 0, v4563", "authentication"),
            ("000004DC: LdapErr: DSID-0C0909A2, comment: a successful bind must be completed, data 0, v4563", "bound"),
            ("00002098: SecErr: DSID-03150F94, problem 4003 (INSUFF_ACCESS_RIGHTS), data 0", "right"),
        ] {
            let meaning = meaning(message).unwrap_or_default();
            assert!(meaning.contains(words), "{message}: {meaning}");
        }
        for message in ["", "data", "SASL:[GSS-SPNEGO]: NT_STATUS_LOGON_FAILURE", ", data zz", "add failed"] {
            assert_eq!(meaning(message), None, "{message}");
        }
    }
}
