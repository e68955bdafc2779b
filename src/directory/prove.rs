//! A login's AS exchange, kept to the rules of [`Lockout`].
//!
//! A proof goes only to a KDC that has just answered the request without one on the same connection, or has just
//! accepted the same key on it. It is waited for in a task of its own: whoever asked may be cancelled, the count of the
//! proof is settled all the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::Instrument;

use crate::clock;
use crate::directory::kdc::{Kdc, KdcRotation, ReuseOutcome, off_thread, receive};
use crate::directory::refusal::TicketRefusal;
use crate::entropy;
use crate::fault::Fault;
use crate::kerberos::{AsExchange, ClientKey, ExchangeError, KdcError, Principal, Proof, Step, Ticket, TicketOptions};
use crate::login::Login;
use crate::login::lockout::{AccountKey, Ending, Lockout, WhyHeld};

/// Gets a ticket for `service` as the login. `key` is one that a KDC has accepted for it before: on a connection that
/// has just done so it saves the question for the salt.
pub(crate) async fn prove(
    login: &Arc<Login>,
    key: Option<&ClientKey>,
    service: &Principal,
    kdc: &Arc<Mutex<Kdc>>,
    lockout: &Arc<Lockout>,
) -> Result<(Ticket, ClientKey), TicketRefusal> {
    let name = AccountKey::name(&login.principal.to_string());
    let proving = Proving {
        login: Arc::clone(login),
        key: key.cloned(),
        service: service.clone(),
        kdc: Arc::clone(kdc),
        lockout: Arc::clone(lockout),
        name,
    };
    tokio::spawn(proving.run().in_current_span()).await.unwrap_or_else(|error| Err(TicketRefusal::bug(&error)))
}

struct Proving {
    login: Arc<Login>,
    key: Option<ClientKey>,
    service: Principal,
    kdc: Arc<Mutex<Kdc>>,
    lockout: Arc<Lockout>,
    name: AccountKey,
}

impl Proving {
    async fn run(self) -> Result<(Ticket, ClientKey), TicketRefusal> {
        let _turn = self.lockout.turn(&self.name).await;
        self.allowed(&[&self.name])?;
        let mut kdc = self.kdc.lock().await;
        let mut round = KdcRotation::of(&kdc);
        loop {
            let outcome = self.once(&mut kdc).await;
            if let Some(outcome) = round.ends(&mut kdc, outcome) {
                return outcome;
            }
        }
    }

    fn allowed(&self, keys: &[&AccountKey]) -> Result<(), TicketRefusal> {
        let allowed = self.lockout.allows(keys, &self.login.version, Instant::now());
        allowed.map_err(|held| TicketRefusal::Held(self.held(held)))
    }

    /// The proof is not sent. What was refused before keeps its own advice.
    fn held(&self, held: WhyHeld) -> Fault {
        let Login { principal, domain, origin, .. } = &*self.login;
        let fault = held.fault(&principal.to_string());
        if fault.fix.is_some() {
            return fault;
        }
        let user = principal.components.join("/");
        fault.with_next(format!(
            "store the current password of `{user}`, then wait and do not restart the task: {}",
            origin.store(&user, domain)
        ))
    }

    /// With the KDC that is connected, or the first that can be reached.
    async fn once(&self, kdc: &mut Kdc) -> Result<(Ticket, ClientKey), TicketRefusal> {
        let client = self.login.principal.clone();
        if let Some(key) = self.key.as_ref().filter(|_| kdc.has_accepted(&client)) {
            match self.show(kdc, Proof::Key(key.clone()), true).await? {
                ProofOutcome::Ticket(proven) => return Ok(*proven),
                ProofOutcome::Closed => {}
            }
        }
        for _ in 0..ATTEMPTS {
            match self.show(kdc, self.login.proof.clone(), false).await? {
                ProofOutcome::Ticket(proven) => return Ok(*proven),
                ProofOutcome::Closed => {}
            }
        }
        Err(kdc.silent("it closes the connection after each answer, so no proof of the login is sent to it"))
    }

    async fn show(&self, kdc: &mut Kdc, proof: Proof, accepted: bool) -> Result<ProofOutcome, TicketRefusal> {
        let (client, service) = (self.login.principal.clone(), self.service.clone());
        let start =
            move || AsExchange::start(client, service, proof, TicketOptions::default(), clock::now(), entropy::system);
        let (mut exchange, mut request) = off_thread(start).await.map_err(|error| kdc.refusal(error))?;
        if !accepted {
            // It counts as no failed login, and brings the salt.
            let reply = kdc.ask(&request).await?;
            let (next, step) = receive(exchange, reply).await;
            exchange = next;
            match step.map_err(|error| kdc.refusal(error))? {
                Step::Done(ticket, key) => return Ok(ProofOutcome::Ticket(Box::new((*ticket, key)))),
                Step::Send(next) => request = next,
            }
        }
        for _ in 0..PROOFS {
            let salt = exchange.salt().map(|salt| AccountKey::Salt(salt.to_vec()));
            let _turn = match &salt {
                Some(salt) => Some(self.lockout.turn(salt).await),
                None => None,
            };
            let keys: Vec<&AccountKey> = std::iter::once(&self.name).chain(&salt).collect();
            self.allowed(&keys)?;
            let counted = Instant::now();
            self.lockout.count(&keys, counted);
            let settle = |ending: &Ending| self.lockout.settle(&keys, counted, ending, Instant::now());
            let reply = match kdc.tell(&request, PROOF_DEADLINE).await {
                ReuseOutcome::Reply(reply) => reply,
                ReuseOutcome::NotSent => {
                    settle(&Ending::OtherError);
                    return Ok(ProofOutcome::Closed);
                }
                ReuseOutcome::Silence(fault) => {
                    settle(&Ending::Silence);
                    return Err(TicketRefusal::Unreachable(fault));
                }
            };
            let (next, step) = receive(exchange, reply).await;
            exchange = next;
            match step {
                Ok(Step::Done(ticket, key)) => {
                    settle(&Ending::Success);
                    kdc.accepted(&self.login.principal);
                    return Ok(ProofOutcome::Ticket(Box::new((*ticket, key))));
                }
                // It told its clock, or another way to make the key: the next proof is another one.
                Ok(Step::Send(next)) => {
                    settle(&Ending::OtherError);
                    request = next;
                }
                Err(error) => {
                    let invalid = matches!(error, ExchangeError::Invalid(_));
                    let wrong = matches!(&error, ExchangeError::Kdc(told) if told.code == KdcError::PREAUTH_FAILED);
                    let refusal = kdc.refusal(error);
                    settle(&match (wrong, invalid) {
                        (true, _) => Ending::Refused(self.login.version.clone(), refusal.of_login(&*self.login)),
                        // What cannot be believed tells nothing.
                        (_, true) => Ending::Silence,
                        _ => Ending::OtherError,
                    });
                    return Err(refusal);
                }
            }
        }
        Err(kdc.silent("it asks for another proof again and again"))
    }
}

/// What came of showing a proof.
enum ProofOutcome {
    Ticket(Box<(Ticket, ClientKey)>),
    /// The KDC had closed the connection before the proof was sent.
    Closed,
}

/// A DC that asks its PDC emulator takes some seconds; who gives up before sends the same proof to the next.
const PROOF_DEADLINE: Duration = Duration::from_secs(10);
/// How often a connection is made to a KDC that closes it.
const ATTEMPTS: usize = 2;
/// One for the salt, one for the clock.
const PROOFS: usize = 2;
