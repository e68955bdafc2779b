//! Our Kerberos against MIT's, by way of its Python binding: who accepts what we seal, and seals what we accept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use gmsa_sidecar::entropy;
use gmsa_sidecar::kerberos::{
    AsExchange, Password, Proof, SecurityContext, Step, Ticket, TicketOptions, login_principal, service,
};
use zeroize::Zeroizing;

use crate::examples::dc1;
use crate::support::{lab, samba_tool};

/// An acceptor that takes a command a line: a token of the negotiation, a message to open, one to seal.
const ACCEPTOR: &str = "
import gssapi, sys
context = gssapi.SecurityContext(usage='accept')
for line in sys.stdin:
    command, octets = line.split(' ')
    octets = bytes.fromhex(octets)
    if command == 'step':
        answer = context.step(octets)
        assert context.complete and str(context.initiator_name) == sys.argv[1], context.initiator_name
    elif command == 'open':
        answer = context.unwrap(octets)
        assert answer.encrypted
        answer = answer.message
    else:
        answer = context.wrap(octets, True)
        assert answer.encrypted
        answer = answer.message
    print(answer.hex(), flush=True)
";

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The login's ticket for a service, from the lab's KDC.
fn ticket(spn: &str) -> Ticket {
    let domain = lab("LAB_DOMAIN").parse().unwrap();
    let login = login_principal(lab("LAB_USER"), &domain);
    let service = service(&spn.parse().unwrap(), &domain);
    let proof = Proof::Password(Password::new(Zeroizing::new(lab("LAB_USER_PW").to_owned())));
    let options = TicketOptions::default();
    let (mut exchange, mut request) =
        AsExchange::start(login, service, proof, options, now(), entropy::system).unwrap();
    let mut kdc = TcpStream::connect((dc1(), 88)).unwrap();
    loop {
        kdc.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
        kdc.write_all(&request).unwrap();
        let mut length = [0; 4];
        kdc.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u32::from_be_bytes(length) as usize];
        kdc.read_exact(&mut reply).unwrap();
        match exchange.receive(&reply, now()).unwrap() {
            Step::Send(next) => request = next,
            Step::Done(ticket, _) => return *ticket,
        }
    }
}

#[test]
fn mit_accepts_what_we_seal_and_we_what_it_seals() {
    let folder = tempfile::TempDir::new().unwrap();
    let keytab = folder.path().join("keytab");
    let spn = format!("postgres/{}", lab("LAB_DB"));
    samba_tool(&["domain", "exportkeytab", keytab.to_str().unwrap(), &format!("--principal={spn}")]);
    let who = format!("{}@{}", lab("LAB_USER"), lab("LAB_REALM"));
    let mut acceptor = Command::new("/usr/bin/python3")
        .args(["-c", ACCEPTOR, &who])
        .env("KRB5_KTNAME", &keytab)
        .env("KRB5RCACHENAME", "none:")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) =
        (acceptor.stdin.take().unwrap(), BufReader::new(acceptor.stdout.take().unwrap()).lines());
    let mut ask = |command: &str, octets: &[u8]| {
        writeln!(input, "{command} {}", hex(octets)).unwrap();
        unhex(&output.next().expect("it goes on").unwrap())
    };
    let ldap = ticket(&spn).into_ldap_ticket();
    let (mut context, token) = SecurityContext::initiate(&ldap, now(), entropy::system).unwrap();
    assert_eq!(context.step(&ask("step", &token)).unwrap(), None);
    let mut sealer = context.into_sealer().unwrap().unwrap();
    for length in (0..66).chain([1000, 65_537]) {
        let message: Vec<u8> = (0..length).map(|at: usize| at.to_be_bytes()[7]).collect();
        assert_eq!(ask("open", &sealer.seal(&message).unwrap()), message, "{length} octets of ours");
        assert_eq!(*sealer.unseal(&ask("seal", &message)).unwrap(), message, "{length} octets of MIT's");
    }
    drop(input);
    assert!(acceptor.wait().unwrap().success());
}

#[expect(clippy::disallowed_methods, reason = "a test has no other clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
