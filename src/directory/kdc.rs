//! The KDCs of a domain, and the AS and TGS exchanges over a kept connection to one of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::clock;
use crate::directory::dc::{DcService, Locator, peers, summary};
use crate::directory::refusal::TicketRefusal;
use crate::entropy;
use crate::fault::{Code, Fault};
use crate::kerberos::{
    AsExchange, ClientKey, ExchangeError, Granted, KdcError, Password, Principal, Proof, Step, TgsExchange, Ticket,
    TicketOptions,
};
use crate::name::Host;
use crate::progress;

/// The KDCs of a domain, with a kept connection to one of them. One that fails is left for the next.
///
/// Each message is a length of four octets, network order, and the message (RFC 4120 section 7.2.2).
pub struct Kdc {
    locator: Arc<Locator>,
    /// In the order of preference.
    hosts: Vec<Host>,
    connection: Option<KdcConnection>,
    last: Option<Host>,
}

struct KdcConnection {
    host: Host,
    stream: TcpStream,
    /// Whose key the KDC has accepted on it.
    accepted: Option<Principal>,
}

/// What came of a request that goes over the connection there is and over no other.
pub(super) enum ReuseOutcome {
    /// The KDC's reply.
    Reply(Vec<u8>),
    /// The KDC had closed the connection: nothing was sent.
    NotSent,
    /// It was sent, or may have been, and no reply came in time.
    Silence(Fault),
}

impl Kdc {
    /// The KDCs of these hosts, best first; none is connected to yet.
    pub fn new(locator: Arc<Locator>, hosts: &[Host]) -> Self {
        Self { locator, hosts: hosts.to_vec(), connection: None, last: None }
    }

    /// Connects, if it is not connected: for those who have something else to wait for at the same time.
    pub async fn connect(&mut self) -> Result<(), Fault> {
        if self.connection.is_none() {
            let (host, stream) = self.locator.connect(&self.hosts, DcService::Kdc).await?;
            self.last = Some(host.clone());
            self.connection = Some(KdcConnection { host, stream, accepted: None });
        }
        Ok(())
    }

    /// Whether the KDC has accepted this client's key on the connection there is.
    pub(super) fn has_accepted(&self, client: &Principal) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.accepted.as_ref() == Some(client))
    }

    /// Notes that it has.
    pub(super) fn accepted(&mut self, client: &Principal) {
        if let Some(connection) = &mut self.connection {
            connection.accepted = Some(client.clone());
        }
    }

    /// What an exchange failed on, with the KDC that it was with.
    pub(super) fn refusal(&self, error: ExchangeError) -> TicketRefusal {
        TicketRefusal::Exchange(self.last.clone(), error)
    }

    /// The KDC that was asked last gives no answer, for this reason; others come first for a while.
    pub(super) fn silent(&mut self, why: &str) -> TicketRefusal {
        self.connection = None;
        let host = self.last.as_ref().map_or("of the domain", Host::as_str);
        let fault = Fault::new(Code::DcUnreachable, format!("the KDC `{host}` does not answer")).because(why);
        if let Some(host) = &self.last {
            self.locator.in_trouble(host, DcService::Kdc, &fault);
        }
        TicketRefusal::Unreachable(fault)
    }

    /// Sends a request over the connection there is; no other KDC gets it.
    pub(super) async fn tell(&mut self, request: &[u8], deadline: Duration) -> ReuseOutcome {
        let Some(mut connection) = self.connection.take().filter(|connection| is_open(&connection.stream)) else {
            return ReuseOutcome::NotSent;
        };
        let peer = peers(std::slice::from_ref(&connection.host), DcService::Kdc.port());
        let asked = timeout(deadline, converse(&mut connection.stream, request));
        let why = match progress::during("ticket", peer, deadline, asked).await {
            Ok(Ok(reply)) => {
                self.connection = Some(connection);
                return ReuseOutcome::Reply(reply);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => {
                self.locator.avoid(&connection.host, DcService::Ldap);
                self.locator.avoid(&connection.host, DcService::Ldaps);
                format!("no answer in {deadline:?}")
            }
        };
        let what = format!("the KDC on `{}` does not answer", connection.host);
        let fault = Fault::new(Code::DcUnreachable, what).because(why);
        self.locator.in_trouble(&connection.host, DcService::Kdc, &fault);
        ReuseOutcome::Silence(fault)
    }

    /// The KDC that was asked last.
    pub fn host(&self) -> Option<&Host> {
        self.last.as_ref()
    }

    /// Sends a request to the KDC, or to another one if it fails, until one answers.
    ///
    /// Sending it again is safe: one that closed the connection took no notice of it (some KDCs close theirs after
    /// each reply). A login's proof does not go this way but by `tell`.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        self.ask_of(request, self.hosts.clone()).await
    }

    /// Sends a request to one KDC: the one there is a connection to, else the first that takes one.
    async fn ask_one(&mut self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        self.connect().await?;
        self.ask_of(request, self.last.iter().cloned().collect()).await
    }

    async fn ask_of(&mut self, request: &[u8], hosts: Vec<Host>) -> Result<Vec<u8>, Fault> {
        let peer = peers(&hosts, DcService::Kdc.port());
        let limit = KDC_DEADLINE * u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        progress::during("ticket", peer, limit, self.ask_each(request, hosts)).await
    }

    async fn ask_each(&mut self, request: &[u8], mut left: Vec<Host>) -> Result<Vec<u8>, Fault> {
        let mut faults = Vec::new();
        loop {
            let kept = self.connection.take();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(kept) => kept,
                None if left.is_empty() => return Err(summary(faults)),
                None => match self.locator.connect(&left, DcService::Kdc).await {
                    Ok((host, stream)) => KdcConnection { host, stream, accepted: None },
                    Err(fault) => {
                        faults.push(fault);
                        return Err(summary(faults));
                    }
                },
            };
            let host = connection.host.clone();
            self.last = Some(host.clone());
            let why = match timeout(KDC_DEADLINE, converse(&mut connection.stream, request)).await {
                Ok(Ok(reply)) => {
                    self.connection = Some(connection);
                    return Ok(reply);
                }
                Ok(Err(error)) if !fresh && closed(&error) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => {
                    // Its other services most likely hang too.
                    self.locator.avoid(&host, DcService::Ldap);
                    self.locator.avoid(&host, DcService::Ldaps);
                    format!("no answer in {KDC_DEADLINE:?}")
                }
            };
            let what = format!("the KDC on `{host}` does not answer");
            let fault = Fault::new(Code::DcUnreachable, what).because(why);
            self.locator.in_trouble(&host, DcService::Kdc, &fault);
            left.retain(|other| *other != host);
            faults.push(fault);
        }
    }

    /// How many KDCs there are.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// Goes on with the KDC on this host, if it is one of them; also if it was in trouble: its other service has just
    /// served.
    pub fn go_to(&mut self, host: &Host) {
        self.locator.forgive(host, DcService::Kdc);
        if let Some(at) = self.hosts.iter().position(|known| known == host) {
            self.connection = None;
            self.hosts[..=at].rotate_right(1);
        }
    }

    /// Leaves this KDC for the next, because it does not know what the others may know already.
    pub fn leave(&mut self) {
        self.connection = None;
        if let Some(at) = self.hosts.iter().position(|host| Some(host) == self.last.as_ref()) {
            self.hosts[at..].rotate_left(1);
        }
    }
}

/// Carries an exchange through over a kept connection to a KDC.
async fn authenticate_once(
    kdc: &mut Kdc,
    client: &Principal,
    server: &Principal,
    proof: Proof,
    options: TicketOptions,
) -> Result<(Ticket, ClientKey), TicketRefusal> {
    let (client, server) = (client.clone(), server.clone());
    let start = move || AsExchange::start(client, server, proof, options, clock::now(), entropy::system);
    let (mut exchange, mut request) = off_thread(start).await.map_err(|error| TicketRefusal::Exchange(None, error))?;
    loop {
        let reply = kdc.ask(&request).await?;
        let step;
        (exchange, step) = receive(exchange, reply).await;
        match step.map_err(|error| kdc.refusal(error))? {
            Step::Send(next) => request = next,
            Step::Done(ticket, key) => return Ok((*ticket, key)),
        }
    }
}

/// Takes a reply; the key derivation in it costs CPU that the KDC chooses.
pub(super) async fn receive(mut exchange: AsExchange, reply: Vec<u8>) -> (AsExchange, Result<Step, ExchangeError>) {
    off_thread(move || {
        let step = exchange.receive(&reply, clock::now());
        (exchange, step)
    })
    .await
}

/// Does work that takes long, such as the derivation of a key, where it does not hold up who answers `/health`.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It is never cancelled, and a panic ends the process.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Asks a KDC of `server`'s realm for a ticket, with a ticket for its ticket-granting service.
async fn grant_once(
    kdc: &mut Kdc,
    tgt: &Ticket,
    server: &Principal,
    whom: KdcChoice,
) -> Result<Granted, TicketRefusal> {
    let failed = |host: Option<&Host>, error| TicketRefusal::Exchange(host.cloned(), error);
    let started = TgsExchange::start(tgt, server.clone(), clock::now(), entropy::system);
    let (exchange, request) = started.map_err(|error| failed(None, error))?;
    let reply = match whom {
        KdcChoice::Any => kdc.ask(&request).await?,
        KdcChoice::One => kdc.ask_one(&request).await?,
    };
    exchange.receive(&reply).map_err(|error| failed(kdc.host(), error))
}

/// Renews a ticket-granting ticket, with any KDC of its realm that serves.
pub(crate) async fn renew(kdc: &mut Kdc, tgt: &Ticket) -> Result<Ticket, TicketRefusal> {
    let failed = |host: Option<&Host>, error| TicketRefusal::Exchange(host.cloned(), error);
    let started = TgsExchange::renew(tgt, clock::now(), entropy::system);
    let (exchange, request) = started.map_err(|error| failed(None, error))?;
    let reply = kdc.ask(&request).await?;
    match exchange.receive(&reply).map_err(|error| failed(kdc.host(), error))? {
        Granted::Ticket(ticket) => Ok(ticket),
        Granted::Referral(domain, _) => {
            let what = format!("a referral to `{}` came for a renewal", domain.realm());
            Err(failed(kdc.host(), ExchangeError::Invalid(what)))
        }
    }
}

/// Asks a KDC for a ticket without a proof, as every login begins: it counts as no failed login. The refusal that it
/// answers with tells its clock; none if it gave the ticket.
pub(crate) async fn probe(
    kdc: &mut Kdc,
    client: &Principal,
    server: &Principal,
) -> Result<Option<KdcError>, TicketRefusal> {
    let failed = |host: Option<&Host>, error| TicketRefusal::Exchange(host.cloned(), error);
    let nothing = Proof::Password(Password::new(Zeroizing::default()));
    let options = TicketOptions::default();
    let started = AsExchange::start(client.clone(), server.clone(), nothing, options, clock::now(), entropy::system);
    let (_, request) = started.map_err(|error| failed(None, error))?;
    let reply = kdc.ask(&request).await?;
    AsExchange::refusal(&reply).map_err(|error| failed(kdc.host(), error))
}

/// An AS exchange, with any KDC that knows the names.
pub(crate) async fn authenticate(
    kdc: &mut Kdc,
    client: &Principal,
    server: &Principal,
    proof: Proof,
    options: TicketOptions,
) -> Result<(Ticket, ClientKey), TicketRefusal> {
    let mut round = KdcRotation::of(kdc);
    loop {
        let outcome = authenticate_once(kdc, client, server, proof.clone(), options).await;
        if let Some(outcome) = round.ends(kdc, outcome) {
            return outcome;
        }
    }
}

/// Which KDCs of a domain are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KdcChoice {
    /// Another one where one fails or does not know the name.
    Any,
    /// One, whatever it answers.
    One,
}

/// A TGS exchange, with any KDC that knows the service.
pub(crate) async fn grant(kdc: &mut Kdc, tgt: &Ticket, service: &Principal) -> Result<Granted, TicketRefusal> {
    grant_by(kdc, tgt, service, KdcChoice::Any).await
}

/// A TGS exchange with these KDCs.
pub(crate) async fn grant_by(
    kdc: &mut Kdc,
    tgt: &Ticket,
    service: &Principal,
    whom: KdcChoice,
) -> Result<Granted, TicketRefusal> {
    let mut round = KdcRotation::of(kdc);
    loop {
        let outcome = grant_once(kdc, tgt, service, whom).await;
        if whom == KdcChoice::One {
            return outcome;
        }
        if let Some(outcome) = round.ends(kdc, outcome) {
            return outcome;
        }
    }
}

/// The KDCs of a domain asked one after the other, where one does not know a name that another may know already.
pub(super) struct KdcRotation {
    left: usize,
    refused: Option<TicketRefusal>,
}

impl KdcRotation {
    pub(super) fn of(kdc: &Kdc) -> Self {
        Self { left: kdc.count().min(ASKED), refused: None }
    }

    /// What it comes to; nothing while there is another KDC to ask.
    pub(super) fn ends<T>(
        &mut self,
        kdc: &mut Kdc,
        outcome: Result<T, TicketRefusal>,
    ) -> Option<Result<T, TicketRefusal>> {
        match outcome {
            Err(refusal) if refusal.may_pass_elsewhere() => {
                kdc.leave();
                self.left = self.left.saturating_sub(1);
                let first = self.refused.take().unwrap_or(refusal);
                if self.left == 0 {
                    return Some(Err(first));
                }
                self.refused = Some(first);
                None
            }
            Err(TicketRefusal::Unreachable(fault)) => {
                Some(Err(self.refused.take().unwrap_or(TicketRefusal::Unreachable(fault))))
            }
            outcome => Some(outcome),
        }
    }
}

async fn converse(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(request);
    stream.write_all(&message).await?;
    let length = usize::try_from(stream.read_u32().await?).map_err(io::Error::other)?;
    if length > KDC_REPLY_LIMIT {
        return Err(io::Error::other(format!("a reply of {length} bytes, more than is allowed")));
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

/// Whether the other side has not closed it; a KDC sends nothing of its own accord.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// How many KDCs are asked for a name that the first ones do not know.
const ASKED: usize = 8;
const KDC_REPLY_LIMIT: usize = 128 << 10;
/// A KDC answers in milliseconds; one that hangs is passed over.
const KDC_DEADLINE: Duration = Duration::from_secs(2);
