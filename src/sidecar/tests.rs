//! What `init` comes to and when `run` gives up, with tokio's clock paused.

use super::*;
use crate::lease::status::{HeldTicket, Identity, LeaseKey, LeaseState};

/// A lease that was tried so often.
fn lease(state: LeaseState, attempts: u64) -> LeaseStatus {
    let identity = Identity {
        account: "WebApp01".parse().unwrap(),
        domain: "corp.example.com".parse().unwrap(),
        path: "/krbdir/WebApp01/krb5cc".into(),
    };
    LeaseStatus {
        key: LeaseKey::default(),
        order: Order::default(),
        spec: "inline".to_owned(),
        identity: Some(identity),
        was_ready: false,
        state,
        next_renewal_at: None,
        attempts,
        history: std::collections::VecDeque::new(),
    }
}

fn fault(code: Code) -> Fault {
    Fault::new(code, "no")
}

fn failed(code: Code) -> LeaseStatus {
    lease(LeaseState::Pending(Some(fault(code))), 1)
}

fn held() -> LeaseStatus {
    let now = clock::now();
    lease(LeaseState::Held(HeldTicket::found(now + Duration::from_secs(36_000), now)), 1)
}

fn status(leases: Vec<LeaseStatus>) -> Status {
    Status { leases, ..Status::default() }
}

/// What comes of leases that stay as they are, and after how many seconds; at most a minute is given.
async fn judged(leases: Vec<LeaseStatus>) -> Option<(Result<(), Code>, u64)> {
    let (_sender, receiver) = watch::channel(status(leases));
    let begun = Instant::now();
    let verdict = verdict(receiver, begun, begun + Duration::from_secs(60));
    let verdict = tokio::time::timeout(Duration::from_secs(3600), verdict).await.ok()?;
    Some((verdict.map_err(|fault| fault.code), begun.elapsed().as_secs()))
}

#[tokio::test(start_paused = true)]
async fn init_ends_at_once_on_what_lasts_and_waits_for_what_may_pass() {
    let untried = || lease(LeaseState::Pending(None), 0);
    assert_eq!(judged(vec![held(), held()]).await, Some((Ok(()), 0)));
    for code in [Code::CredSpecMalformed, Code::GmsaReadDenied, Code::ConfigAccountTwice, Code::VolumeWriteFailed] {
        assert_eq!(judged(vec![held(), failed(code)]).await, Some((Err(code), 0)));
    }
    for code in [Code::DcUnreachable, Code::TicketLoginRefused, Code::TicketLoginHeld, Code::CredSpecUnreachable] {
        assert_eq!(judged(vec![held(), failed(code)]).await, Some((Err(code), 60)));
    }
    for code in [Code::SecretDenied, Code::CredSpecDenied, Code::CredSpecAwsCredentials, Code::TaskDefinitionDenied] {
        assert_eq!(judged(vec![failed(code)]).await, Some((Err(code), 30)));
    }
    // The others have their try first; and the first in the order of the CredSpecs counts.
    assert_eq!(judged(vec![untried(), failed(Code::GmsaNotFound)]).await, Some((Err(Code::GmsaNotFound), 60)));
    let both = vec![failed(Code::DcUnreachable), failed(Code::GmsaNotFound)];
    assert_eq!(judged(both).await, Some((Err(Code::DcUnreachable), 0)));
    // An end at once would bring the next proof, whatever else is wrong.
    for held in [Code::TicketLoginRefused, Code::TicketLoginHeld] {
        for other in [Code::GmsaNotFound, Code::ConfigAccountTwice, Code::CredSpecMalformed] {
            assert_eq!(judged(vec![failed(other), failed(held)]).await, Some((Err(other), 60)), "{held}");
        }
    }
    // A first attempt that is under way when time is up is waited for.
    assert_eq!(judged(vec![untried()]).await, None);
    assert_eq!(judged(vec![]).await, Some((Err(Code::TaskStartTimeout), 60)));
}

#[tokio::test(start_paused = true)]
async fn init_is_done_when_the_last_ticket_is_there() {
    let (sender, receiver) = watch::channel(status(vec![held(), failed(Code::DcUnreachable)]));
    let begun = Instant::now();
    let late = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        sender.send_replace(status(vec![held(), held()]));
    };
    let (verdict, ()) = tokio::join!(verdict(receiver, begun, begun + Duration::from_secs(60)), late);
    assert_eq!((verdict, begun.elapsed().as_secs()), (Ok(()), 20));
}

#[test]
fn a_fault_of_the_configuration_ends_run_but_not_while_a_login_is_refused() {
    let ends = |leases| ends_with(LeasePolicy::RUN, &status(leases)).map(|fault| fault.code);
    let config = || failed(Code::ConfigAccountTwice);
    assert_eq!(ends(vec![failed(Code::DcUnreachable), config()]), Some(Code::ConfigAccountTwice));
    for code in [Code::TicketLoginRefused, Code::TicketLoginHeld] {
        assert_eq!(ends(vec![config(), failed(code)]), None, "a new process sends the next proof");
    }
    assert_eq!(ends_with(LeasePolicy::RUN, &Status { ever_ready: true, ..status(vec![config()]) }), None);
    assert_eq!(ends_with(LeasePolicy::HOST, &status(vec![config()])), None);
}

#[tokio::test(start_paused = true)]
async fn run_gives_up_in_time_but_not_while_a_login_is_refused() {
    let timeout = Some(Duration::from_secs(5));
    let begun = Instant::now();
    let (_sender, receiver) = watch::channel(status(vec![failed(Code::DcUnreachable)]));
    assert_eq!(never_ready(receiver, timeout).await.code, Code::DcUnreachable);
    let (_sender, receiver) = watch::channel(status(vec![lease(LeaseState::Pending(None), 0)]));
    assert_eq!(never_ready(receiver, timeout).await.code, Code::TaskStartTimeout);
    assert_eq!(begun.elapsed().as_secs(), 10);

    let leases = vec![failed(Code::DcUnreachable), failed(Code::TicketLoginRefused)];
    let (sender, receiver) = watch::channel(status(leases));
    let mut waits = Box::pin(never_ready(receiver, timeout));
    assert!(tokio::time::timeout(Duration::from_secs(3600), &mut waits).await.is_err());
    sender.send_replace(status(vec![failed(Code::TicketLoginHeld)]));
    assert!(tokio::time::timeout(Duration::from_secs(3600), &mut waits).await.is_err());
    sender.send_replace(status(vec![failed(Code::GmsaReadDenied)]));
    assert_eq!(waits.await.code, Code::GmsaReadDenied);

    for ready in [None, timeout] {
        let (_sender, receiver) =
            watch::channel(Status { ever_ready: true, ..status(vec![failed(Code::DcUnreachable)]) });
        let waits = tokio::time::timeout(Duration::from_secs(3600), never_ready(receiver, ready));
        assert!(waits.await.is_err(), "it was ready once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_has_all_leases_renewed() {
    clock::fake::start();
    let refresh = Refresh::default();
    let mut requests = refresh.requests();
    let watching = tokio::spawn(async move { renew_when_the_clock_is_set(&refresh).await });
    let asked = tokio::time::timeout(Duration::from_secs(3600), requests.next()).await;
    assert!(asked.is_err(), "the clock was not set");
    clock::fake::set(-3600);
    requests.next().await;
    watching.abort();
}
