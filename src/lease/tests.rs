//! One lease over fakes, with tokio's clock paused: hours pass in no time, and only while everybody waits.

mod flat;

use super::fakes::{A_MONTH, Answer, TEN_HOURS, World, fault, login};
use super::manager::{LeasePolicy, LeaseSpec};
use super::status::LeaseState;
use super::*;
use crate::directory::Extras;
use crate::volume::{LeaseFolder, Location, Owner, Ownership};

#[tokio::test(start_paused = true)]
async fn a_ticket_is_renewed_after_seven_to_eight_tenths_of_its_life() {
    let world = World::new();
    world.add("WebApp01");
    world.wait(|world| world.domains.count() == 4).await;
    let times = world.domains.times("WebApp01");
    assert_eq!(times[0], 0);
    for pair in times.windows(2) {
        let waited = pair[1] - pair[0];
        assert!((25_200..=28_801).contains(&waited), "{times:?}");
    }
    let asked = world.domains.asked();
    assert_eq!(asked.iter().map(|asked| asked.by_key).collect::<Vec<_>>(), [false, true, true, true]);
}

/// With AD away now and then, for as long as a ticket's last fifth.
#[tokio::test(start_paused = true)]
async fn thirty_days_pass_without_a_gap() {
    let world = World::new();
    let outages = (0..200).flat_map(|number| {
        let away = (0..number % 5).map(|_| Answer::Fault(Code::DcUnreachable));
        away.chain([Answer::Ticket(TEN_HOURS)]).collect::<Vec<_>>()
    });
    world.domains.script("WebApp01", outages);
    let key = world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    let mut outcome = world.manager.outcome(key).unwrap();
    let mut attempts = 0;
    while clock::fake::elapsed() < A_MONTH {
        outcome.changed().await.unwrap();
        attempts += 1;
        assert!(world.status().is_ready(clock::now()), "a gap after {:?}", clock::fake::elapsed());
    }
    // 90 tickets of 7.5 hours, and twice as many attempts in vain.
    assert!((200..400).contains(&attempts), "{attempts}");
    let faults = world.metrics.render(&world.status(), clock::now());
    assert!(faults.contains("gmsa_faults_total{code=\"dc-unreachable\"}"), "{faults}");
}

#[tokio::test(start_paused = true)]
async fn failures_are_waited_out_longer_and_longer_and_denials_longer_still() {
    for (code, first, last) in [(Code::DcUnreachable, 1..=2, 150..=300), (Code::GmsaReadDenied, 15..=30, 300..=600)] {
        let world = World::new();
        world.domains.script("WebApp01", (0..12).map(|_| Answer::Fault(code)));
        world.add("WebApp01");
        world.until(&["WebApp01: held"]).await;
        let times = world.domains.times("WebApp01");
        let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits.len(), 12);
        assert!(first.contains(&waits[0]) && last.contains(&waits[11]), "{code}: {waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_tells_when_it_is_tried_again_and_ends_with_a_ticket() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::Fault(Code::GmsaReadDenied)]);
    world.add("WebApp01");
    world.until(&["WebApp01: pending gmsa-read-denied"]).await;
    let lease = world.status().leases[0].clone();
    assert_eq!(lease.attempts, 1);
    assert_eq!(lease.state.fault().unwrap().next_attempt_at, lease.next_renewal_at);
    let wait = lease.next_renewal_at.unwrap().duration_since(clock::now()).unwrap().as_secs();
    assert!((14..=30).contains(&wait), "{wait}");
    world.until(&["WebApp01: held"]).await;
    assert_eq!(world.status().leases[0].history.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_stays_while_its_renewal_fails() {
    let world = World::new();
    world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    world.domains.script("WebApp01", (0..500).map(|_| Answer::Fault(Code::DcUnreachable)));
    world.until(&["WebApp01: overdue dc-unreachable"]).await;
    let before = world.expiry("WebApp01");
    assert!(world.status().is_ready(clock::now()));
    world.wait(|world| !world.status().is_ready(clock::now())).await;
    assert_eq!(world.expiry("WebApp01"), before);
    assert!((36_000..36_010).contains(&clock::fake::elapsed().as_secs()), "{:?}", clock::fake::elapsed());
}

/// What the sidecar does when the wall clock is set is to insist on a refresh; this is the lease alone.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_is_noticed_within_a_minute_and_delays_nothing() {
    for (step, expected) in [(8 * 3600, 30..100), (-2 * 86_400, 25_200..28_900)] {
        let world = World::new();
        world.add("WebApp01");
        world.until(&["WebApp01: held"]).await;
        world.pass(30).await;
        clock::fake::set(step);
        world.wait(|world| world.domains.count() == 2).await;
        let at = world.domains.times("WebApp01")[1];
        assert!(expected.contains(&at), "{step}: {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn refreshes_while_a_renewal_is_under_way_are_one_more_renewal() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::After(Duration::from_secs(30))]);
    world.add("WebApp01");
    world.pass(5).await;
    assert_eq!(world.refresh.ask(Instant::now()), Ok(()));
    assert!(world.refresh.ask(Instant::now()).is_err());
    world.pass(15).await;
    assert_eq!(world.refresh.ask(Instant::now()), Ok(()));
    world.pass(600).await;
    assert_eq!(world.domains.times("WebApp01"), [0, 30]);
}

#[tokio::test(start_paused = true)]
async fn one_lease_is_renewed_on_demand_but_not_past_its_back_off() {
    let world = World::new();
    let (one, two) = (world.add("WebApp01"), world.add("WebApp02"));
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    world.manager.renew(one);
    world.manager.renew(one);
    world.pass(100).await;
    assert_eq!((world.domains.times("WebApp01").len(), world.domains.times("WebApp02").len()), (2, 1));
    world.domains.script("WebApp02", [Answer::Fault(Code::TicketLoginRefused)]);
    world.manager.renew(two);
    world.pass(1).await;
    world.manager.renew(two);
    world.refresh.insist(Instant::now());
    world.pass(10).await;
    assert_eq!(world.domains.times("WebApp02").len(), 2, "asked again in its back-off");
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_hangs_is_given_up_after_a_minute() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::Hangs]);
    world.add("WebApp01");
    world.until(&["WebApp01: pending dc-unreachable"]).await;
    assert!((60..62).contains(&clock::fake::elapsed().as_secs()));
    world.until(&["WebApp01: held"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_has_expired_already_is_a_wrong_clock() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::Ticket(Duration::ZERO)]);
    world.add("WebApp01");
    world.until(&["WebApp01: pending ticket-clock-skew"]).await;
    assert_eq!(world.files.paths(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_password_that_cannot_be_read_is_counted_and_the_kept_key_serves() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::Unread(Code::GmsaReadDenied)]);
    world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    let metrics = world.metrics.render(&world.status(), clock::now());
    assert!(metrics.contains("gmsa_faults_total{code=\"gmsa-read-denied\"} 1"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn the_password_is_read_again_when_it_is_due() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::Ticket(2 * A_MONTH)]);
    world.add("WebApp01");
    world.wait(|world| world.domains.count() == 2).await;
    let at = world.domains.times("WebApp01")[1];
    assert!((2_592_000..2_592_060).contains(&at), "{at}");
}

fn with_service(world: &World) -> LeaseSpec {
    let services = vec!["MSSQLSvc/db.example.com:1433".parse().unwrap()];
    LeaseSpec { extras: Extras { services, ..Extras::default() }, ..world.spec("WebApp01") }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_ready_once_it_has_the_tickets_of_its_services_too() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::NoService(Code::TicketServiceUnknown)]);
    world.manager.add(with_service(&world)).unwrap();
    world.until(&["WebApp01: overdue ticket-service-unknown"]).await;
    assert!(!world.status().is_ready(clock::now()));
    assert!(world.files.read("WebApp01/krb5cc").is_some(), "the TGT was kept from the app");
    world.until(&["WebApp01: held"]).await;
    // One that is not granted again stays from before, while it is good.
    world.domains.script("WebApp01", [Answer::NoService(Code::TicketServiceUnknown)]);
    world.refresh.insist(Instant::now());
    world.until(&["WebApp01: overdue ticket-service-unknown"]).await;
    assert!(world.status().is_ready(clock::now()));
}

#[tokio::test(start_paused = true)]
async fn the_twin_of_a_service_comes_along_and_decides_nothing() {
    let world = World::new();
    world.manager.add(with_service(&world)).unwrap();
    world.until(&["WebApp01: held"]).await;
    let count = |name: &str| {
        let cache = world.files.read("WebApp01/krb5cc").unwrap();
        cache.windows(name.len()).filter(|part| *part == name.as_bytes()).count()
    };
    let (both, port) = (count("db.example.com"), count("db.example.com:1433"));
    assert!(port > 0 && both == 2 * port, "{both} tickets, {port} with the port");
    let services = |world: &World| world.status().leases[0].state.held().unwrap().services.len();
    assert_eq!(services(&world), 1, "the twin counts for readiness");
    // One that is not granted again stays while it is good, as the named one does.
    world.domains.script("WebApp01", [Answer::NoTwin]);
    world.refresh.insist(Instant::now());
    world.wait(|world| world.domains.count() == 2).await;
    world.until(&["WebApp01: held"]).await;
    assert_eq!(count("db.example.com"), both);
    // From a start without the twin nothing is missing.
    let world = World::new();
    world.domains.script("WebApp01", [Answer::NoTwin]);
    world.manager.add(with_service(&world)).unwrap();
    world.until(&["WebApp01: held"]).await;
    assert!(world.status().is_ready(clock::now()));
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_full_is_tried_again_with_the_key_that_is_at_hand() {
    let world = World::new();
    world.files.refuse(Some(Code::VolumeWriteFailed));
    world.add("WebApp01");
    world.until(&["WebApp01: pending volume-write-failed"]).await;
    world.files.refuse(None);
    world.until(&["WebApp01: held"]).await;
    assert!(clock::fake::elapsed() < Duration::from_secs(35));
    assert!(world.domains.asked().last().unwrap().by_key);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_an_earlier_process_left_counts_in_run_and_not_in_init() {
    let earlier = World::new();
    earlier.add("WebApp01");
    earlier.until(&["WebApp01: held"]).await;
    let left = earlier.files.read("WebApp01/krb5cc").unwrap();
    for (policy, states) in [
        (LeasePolicy::RUN, "WebApp01: overdue dc-unreachable"),
        (LeasePolicy::INIT, "WebApp01: pending dc-unreachable"),
    ] {
        let world = World::of(policy);
        world.files.plant("WebApp01/krb5cc", left.clone());
        world.domains.script("WebApp01", (0..9).map(|_| Answer::Fault(Code::DcUnreachable)));
        world.add("WebApp01");
        world.until(&[states]).await;
        assert_eq!(world.status().ever_ready, policy.warm_start);
    }
    // Without the keytab that it should have it is not whole; and it is not another gMSA's.
    for (account, keytab) in [("WebApp01", true), ("WebApp02", false)] {
        let world = World::new();
        world.files.plant(&format!("{account}/krb5cc"), left.clone());
        world.domains.script(account, [Answer::Fault(Code::DcUnreachable)]);
        let extras = Extras { keytab, ..Extras::default() };
        world.manager.add(LeaseSpec { extras, ..world.spec(account) }).unwrap();
        world.until(&[&format!("{account}: pending dc-unreachable")]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_otherwise_is_renewed_at_once_and_another_login_when_it_is_due() {
    let world = World::new();
    let key = world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    let spec = LeaseSpec { login: login("other"), ..world.spec("WebApp01") };
    assert!(world.manager.change(key, spec.clone()));
    world.pass(100).await;
    assert_eq!(world.domains.count(), 1);
    assert_eq!(world.domains.held(), 0, "the login that is not used any more is held");
    let ownership = Ownership { owner: Some(Owner { uid: 1654, gid: None }), ..Ownership::default() };
    let location = Location { ownership, ..spec.location.clone() };
    assert!(world.manager.change(key, LeaseSpec { location, ..spec.clone() }));
    world.pass(1).await;
    assert_eq!(world.domains.asked()[1].login, login("other"));
    // The same again is no change.
    let same = world.manager.spec(key).unwrap();
    assert!(world.manager.change(key, LeaseSpec::clone(&same)));
    world.pass(1).await;
    assert_eq!(world.domains.count(), 2);
    // A lease's folder is its own for good.
    let location = Location { folder: LeaseFolder::new(&["elsewhere"]).unwrap(), ..spec.location.clone() };
    assert!(world.manager.change(key, LeaseSpec { location, ..spec }));
    assert_eq!(world.manager.spec(key).unwrap().location.folder, LeaseFolder::new(&["WebApp01"]).unwrap());
}

#[tokio::test(start_paused = true)]
async fn another_login_is_used_at_once_where_the_last_one_failed() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::Fault(Code::TicketLoginRefused)]);
    let key = world.add("WebApp01");
    world.until(&["WebApp01: pending ticket-login-refused"]).await;
    world.manager.change(key, LeaseSpec { login: login("other"), ..world.spec("WebApp01") });
    world.until(&["WebApp01: held"]).await;
    assert!(clock::fake::elapsed() < Duration::from_secs(3));
}

/// No attempt goes on behind the back of its end.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_removed_during_a_renewal_writes_nothing() {
    let world = World::new();
    world.domains.script("WebApp01", [Answer::After(Duration::from_secs(30))]);
    let key = world.add("WebApp01");
    world.pass(10).await;
    world.manager.remove(key).wait().await;
    assert_eq!(clock::fake::elapsed().as_secs(), 10);
    world.pass(100).await;
    assert_eq!((world.files.paths(), world.states().len(), world.domains.held()), (vec![], 0, 0));
}

/// A thread cannot be stopped: a write that has begun ends, and then its files go.
#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_when_its_lease_is_removed_leaves_nothing() {
    let world = World::new();
    world.files.gate(true);
    let key = world.add("WebApp01");
    // The clock does not move while a thread works.
    while world.files.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let ended = world.manager.remove(key);
    world.files.gate(false);
    ended.wait().await;
    assert_eq!(world.files.paths(), [""; 0]);
    assert!(world.manager.is_empty() && world.manager.folders().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_configuration_ends_a_process_that_was_never_ready_and_no_other() {
    use crate::credspec::LoginSource;
    let ends = |world: &World| {
        let status = world.status();
        status.faults().any(|fault| LeasePolicy::RUN.ends_with(fault, status.ever_ready))
    };
    let world = World::new();
    let joined = |account: &str, world: &World| LeaseSpec { login: LoginSource::DomainJoined, ..world.spec(account) };
    world.manager.add(joined("WebApp01", &world)).unwrap();
    world.until(&["WebApp01: pending config-login-missing"]).await;
    assert!(ends(&world));
    assert_eq!(world.status().first_fault().unwrap().next_attempt_at, None, "it takes a new task");

    let world = World::new();
    world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    world.manager.add(joined("WebApp02", &world)).unwrap();
    world.until(&["WebApp01: held", "WebApp02: pending config-login-missing"]).await;
    assert!(!ends(&world));
    assert!(world.status().first_fault().unwrap().next_attempt_at.is_some());
    assert!(!world.status().is_ready(clock::now()) && world.status().is_open(clock::now()));
    world.pass(10 * 86_400).await;
    assert_eq!(world.states(), ["WebApp01: held", "WebApp02: pending config-login-missing"]);
}

#[test]
fn one_line_tells_of_a_clock_that_differs_and_one_that_it_does_no_more() {
    let held = |offset| HeldTicket {
        clock_offset: Some(offset),
        ..HeldTicket::found(clock::from_unix(9), clock::from_unix(1))
    };
    tell_clock(None, &held(90));
    tell_clock(Some(&held(90)), &held(0));
    tell_clock(Some(&held(0)), &held(0));
    let mut state = LeaseState::Pending(None);
    state.fail(fault(Code::DcUnreachable));
    assert!(state.held().is_none() && state.fault().is_some());
}

/// In a process whose callers bring logins, one that takes the place of another proves itself, once.
#[tokio::test(start_paused = true)]
async fn a_login_that_replaces_another_proves_itself_and_the_key_serves_if_it_cannot() {
    let world = World::of(LeasePolicy::HOST);
    let key = world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    let change = |name: &str| {
        world.manager.change(key, LeaseSpec { login: login(name), ..world.spec("WebApp01") });
        world.manager.renew(key);
    };
    let by_key = || world.domains.asked().iter().map(|asked| asked.by_key).collect::<Vec<_>>();
    change("good");
    world.wait(|world| world.domains.count() == 2).await;
    world.until(&["WebApp01: held"]).await;
    assert_eq!(by_key(), [false, false]);
    world.domains.script("WebApp01", [Answer::Fault(Code::TicketLoginRefused)]);
    change("bad");
    world.until(&["WebApp01: overdue ticket-login-refused"]).await;
    // Whoever brought it takes it back; the one before need not prove itself again.
    change("good");
    world.until(&["WebApp01: held"]).await;
    assert_eq!(by_key(), [false, false, false, true]);
    assert_eq!(world.domains.asked()[3].login, login("good"));
}

#[tokio::test(start_paused = true)]
async fn the_bridge_to_the_next_process_comes_after_the_ticket_and_is_written_apart() {
    let world = World::of(LeasePolicy::HOST);
    let private = tempfile::tempdir().unwrap();
    let mut spec = world.spec("WebApp01");
    spec.extras.bridge = Some(private.path().to_owned());
    let key = world.manager.add(spec).unwrap();
    world.add("WebApp02");
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    world.wait(|_| crate::volume::read_private(private.path()).is_some()).await;
    assert_eq!(world.domains.bridged(), ["WebApp01"], "who asks for none gets none");
    // With each ticket there is another one.
    world.manager.renew(key);
    world.wait(|world| world.domains.bridged().len() == 2).await;
    assert_eq!(world.domains.times("WebApp01").len(), 2);
    // What a lease leaves is nobody else's to remove, but nothing comes to it later.
    world.manager.remove(key).wait().await;
    std::fs::remove_file(private.path().join("krbtgt")).unwrap();
    world.pass(3600).await;
    assert!(crate::volume::read_private(private.path()).is_none());
}

#[tokio::test(start_paused = true)]
async fn whoever_brings_a_login_to_a_host_is_answered_also_in_a_back_off() {
    let world = World::of(LeasePolicy::HOST);
    world.domains.script("WebApp01", [Answer::Fault(Code::GmsaReadDenied)]);
    let key = world.add("WebApp01");
    world.until(&["WebApp01: pending gmsa-read-denied"]).await;
    // What was just found is the answer ..
    let mut outcome = world.manager.outcome(key).unwrap();
    outcome.mark_unchanged();
    world.manager.renew(key);
    tokio::time::timeout(Duration::from_millis(10), outcome.changed()).await.unwrap().unwrap();
    assert_eq!(world.domains.count(), 1);
    // .. and what is older is looked for again.
    tokio::time::sleep(ASKED_AGAIN).await;
    world.manager.renew(key);
    world.until(&["WebApp01: held"]).await;
    assert!(clock::fake::elapsed() < Duration::from_secs(15), "that is the least back-off after a denial");
}
