//! `record DIR SEEDS`: talks to the lab's DC as the sidecar does and keeps what it answers: into DIR what the targets
//! are built on, into SEEDS/<target>/ their seeds. `scripts/fuzz record` runs it in the lab.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use bytes::BytesMut;
use gmsa_sidecar::kerberos::{
    AsExchange, Password, Principal, Proof, SecurityContext, Step, Ticket, TicketOptions, ldap_service,
    login_principal, ticket_granting_service,
};
use gmsa_sidecar_fuzz::{LOGIN, PASSWORD, domain, entropy, frames, part_of, principals, without_proof};
use ldap3_proto::LdapCodec;
use ldap3_proto::proto::{
    LdapBindCred, LdapBindRequest, LdapDerefAliases, LdapFilter, LdapMsg, LdapOp, LdapSearchRequest, LdapSearchScope,
    SaslCredentials,
};
use tokio_util::codec::{Decoder, Encoder};
use zeroize::Zeroizing;

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [dir, seeds] = &arguments[..] else { panic!("two folders are wanted") };
    // What the targets are built on.
    let (login, service) = principals();
    let now = SystemTime::now();
    let tgt = ticket_granting_service(&domain());
    let (replies, ticket) = ask(login.clone(), service, PASSWORD, now);
    fs::write(dir.join("as_rep"), &replies[1]).expect("a file");
    let ticket = ticket.expect("a ticket").into_ldap_ticket();
    for (what, replies) in [("ldap", replies), ("tgt", ask(login, tgt.clone(), PASSWORD, now).0)] {
        keep(seeds, "kdc_reply", &format!("{LOGIN}-{what}-0"), &replies[0]);
        keep(seeds, "kdc_reply", &format!("{LOGIN}-{what}-1"), &replies[1]);
        let part = part_of(&replies[1]);
        keep(seeds, "kdc_reply_part", what, &part);
        keep(seeds, "kdc_reply_part", &format!("{what}-without-proof"), &without_proof(&part));
    }

    // Every way that a KDC answers.
    let ldap = ldap_service(&"dc1.example.com".parse().expect("a host"), &domain());
    let lab = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use lab/env.sh"));
    for (name, password) in [("USER", "USER_PW"), ("DISABLED", "DISABLED_PW"), ("MUSTCHANGE", "MUSTCHANGE_PW")] {
        let (user, password) = (lab(&format!("LAB_{name}")), lab(&format!("LAB_{password}")));
        for (what, service) in [("tgt", &tgt), ("ldap", &ldap)] {
            let (replies, _) = ask(login_principal(&user, &domain()), service.clone(), &password, SystemTime::now());
            for (at, reply) in replies.iter().enumerate() {
                keep(seeds, "kdc_reply", &format!("{user}-{what}-{at}"), reply);
            }
        }
    }
    let nowhere = ldap_service(&"nowhere.example.com".parse().expect("a host"), &domain());
    let early = now - std::time::Duration::from_secs(7200);
    let user = || login_principal(&lab("LAB_USER"), &domain());
    for (what, login, service, password, now) in [
        ("unknown-client", login_principal("nobody", &domain()), ldap.clone(), "x", now),
        ("unknown-service", user(), nowhere, &*lab("LAB_USER_PW"), now),
        ("wrong-password", login_principal("svc-fuzz-2", &domain()), ldap.clone(), "x", now),
        ("clock-skew", user(), ldap, &*lab("LAB_USER_PW"), early),
    ] {
        for (at, reply) in ask(login, service, password, now).0.iter().enumerate() {
            keep(seeds, "kdc_reply", &format!("{what}-{at}"), reply);
        }
    }

    // The bind in the clear, good and bad; then what is sealed on the wire, by way of TLS.
    let (_context, token) = SecurityContext::initiate(&ticket, SystemTime::now(), entropy).expect("a token");
    let sasl = |credentials| LdapBindCred::SASL(SaslCredentials { mechanism: "GSS-SPNEGO".into(), credentials });
    let mut plain = Wire::Plain(TcpStream::connect(("dc1.example.com", 389)).expect("the DC"));
    let bound = plain.ask(1, bind("", sasl(token)));
    keep(seeds, "ldap_message", "bind-response", &bound);
    if let LdapOp::BindResponse(response) = first(&bound).op {
        keep(seeds, "spnego_token", "accept-completed", &response.saslcreds.expect("a token"));
    }
    let mut plain = Wire::Plain(TcpStream::connect(("dc1.example.com", 389)).expect("the DC"));
    keep(seeds, "ldap_message", "bind-refused", &plain.ask(1, bind("", sasl(b"no token".to_vec()))));
    let mut plain = Wire::Plain(TcpStream::connect(("dc1.example.com", 389)).expect("the DC"));
    keep(seeds, "ldap_message", "root-dse", &plain.ask(1, search("", LdapSearchScope::Base, "WebApp01$")));

    let tls = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_quiet", "-connect", "dc1.example.com:636"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let mut tls = Wire::Tls(tls);
    let name = format!("{}@{}", lab("LAB_USER"), lab("LAB_DOMAIN"));
    tls.ask(1, bind(&name, LdapBindCred::Simple(lab("LAB_USER_PW"))));
    for (what, base, account) in [
        ("search", "DC=example,DC=com", "WebApp01$"),
        ("search-nothing", "DC=example,DC=com", "Nobody$"),
        ("search-no-such-object", "DC=nowhere,DC=com", "WebApp01$"),
    ] {
        let answer = tls.ask(2, search(base, LdapSearchScope::Subtree, account));
        keep(seeds, "ldap_message", what, &answer);
        keep(seeds, "sasl_frame", &format!("{what}-message"), &answer);
        keep(seeds, "sasl_frame", &format!("{what}-frames"), &frames(&answer));
        if let LdapOp::SearchResultEntry(entry) = first(&answer).op {
            let blob = entry.attributes.iter().find(|given| given.atype == "msDS-ManagedPassword").expect("a blob");
            keep(seeds, "managed_password", "lab", &blob.vals[0]);
        }
    }
    if let Wire::Tls(mut child) = tls {
        child.kill().expect("openssl ends");
    }
}

/// Carries an exchange through; returns every reply, and the ticket if there is one.
fn ask(login: Principal, service: Principal, password: &str, now: SystemTime) -> (Vec<Vec<u8>>, Option<Ticket>) {
    let proof = Proof::Password(Password::new(Zeroizing::new(password.to_owned())));
    let (mut exchange, mut request) =
        AsExchange::start(login, service, proof, TicketOptions::default(), now, entropy).expect("a request");
    let mut replies = Vec::new();
    loop {
        let mut kdc = TcpStream::connect(("dc1.example.com", 88)).expect("the KDC");
        kdc.write_all(&(request.len() as u32).to_be_bytes()).expect("it listens");
        kdc.write_all(&request).expect("it listens");
        let mut length = [0; 4];
        kdc.read_exact(&mut length).expect("an answer");
        let mut reply = vec![0; u32::from_be_bytes(length) as usize];
        kdc.read_exact(&mut reply).expect("an answer");
        let step = exchange.receive(&reply, now);
        replies.push(reply);
        match step {
            Ok(Step::Send(next)) => request = next,
            Ok(Step::Done(ticket, _key)) => return (replies, Some(*ticket)),
            Err(_refusal) => return (replies, None),
        }
    }
}

fn keep(seeds: &Path, target: &str, name: &str, bytes: &[u8]) {
    fs::create_dir_all(seeds.join(target)).expect("a folder");
    fs::write(seeds.join(target).join(name), bytes).expect("a file");
}

enum Wire {
    Plain(TcpStream),
    Tls(std::process::Child),
}

impl Wire {
    /// Sends a request; returns the bytes of its whole answer.
    fn ask(&mut self, id: i32, request: LdapOp) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        LdapCodec::default().encode(LdapMsg::new(id, request), &mut bytes).expect("a message");
        let (input, output): (&mut dyn Write, &mut dyn Read) = match self {
            Self::Plain(stream) => (&mut stream.try_clone().expect("a stream"), stream),
            Self::Tls(child) => (child.stdin.as_mut().expect("a pipe"), child.stdout.as_mut().expect("a pipe")),
        };
        input.write_all(&bytes).expect("it is sent");
        input.flush().expect("it is sent");
        let (mut answer, mut buffer) = (Vec::new(), [0; 65536]);
        loop {
            let got = output.read(&mut buffer).expect("an answer");
            assert!(got > 0, "the DC closed the connection");
            answer.extend(&buffer[..got]);
            let mut copy = BytesMut::from(&answer[..]);
            while !copy.is_empty()
                && let Ok(Some(message)) = LdapCodec::default().decode(&mut copy)
            {
                if matches!(message.op, LdapOp::BindResponse(_) | LdapOp::SearchResultDone(_)) {
                    return answer;
                }
            }
        }
    }
}

fn first(answer: &[u8]) -> LdapMsg {
    LdapCodec::default().decode(&mut BytesMut::from(answer)).expect("a message").expect("a whole message")
}

fn bind(dn: &str, cred: LdapBindCred) -> LdapOp {
    LdapOp::BindRequest(LdapBindRequest { version: 3, dn: dn.into(), cred })
}

/// As `gmsa` asks.
fn search(base: &str, scope: LdapSearchScope, account: &str) -> LdapOp {
    let filter = match scope {
        LdapSearchScope::Base => LdapFilter::Present("objectClass".into()),
        _ => LdapFilter::Equality("sAMAccountName".into(), account.into()),
    };
    let attrs = ["sAMAccountName", "msDS-ManagedPassword", "msDS-KeyVersionNumber", "defaultNamingContext"];
    LdapOp::SearchRequest(LdapSearchRequest {
        base: base.into(),
        scope,
        aliases: LdapDerefAliases::Never,
        sizelimit: 2,
        timelimit: 0,
        typesonly: false,
        filter,
        attrs: attrs.map(str::to_owned).to_vec(),
    })
}
