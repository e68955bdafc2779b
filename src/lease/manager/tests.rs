//! The manager over fakes.

use super::*;
use crate::clock;
use crate::lease::fakes::{Answer, World, login};

fn at(spec: LeaseSpec, at_root: bool) -> LeaseSpec {
    LeaseSpec { location: Location { at_root, ..spec.location.clone() }, ..spec }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_given_out_once_and_a_lease_that_ended_comes_again_with_another() {
    let world = World::new();
    let one = world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    // At once, while the files of the first one are still to be removed.
    let _ended = world.manager.remove(one);
    let two = world.add("WebApp01");
    assert_ne!(one, two);
    world.until(&["WebApp01: held"]).await;
    assert!(world.files.read("WebApp01/krb5cc").is_some(), "the end of the first lease took the second one's files");
    world.manager.remove(one).wait().await;
    assert_eq!(world.manager.len(), 1);
    assert!(!world.manager.change(one, world.spec("WebApp01")) && world.manager.spec(one).is_none());
    world.manager.renew(one);
    assert_eq!(world.manager.folders(), ["webapp01"]);
}

#[tokio::test(start_paused = true)]
async fn a_folder_is_one_lease_s_whatever_the_case_of_its_name() {
    let world = World::new();
    world.add("WebApp01");
    let fault = world.manager.add(LeaseSpec { named_by: "Another".into(), ..world.spec("WEBAPP01") }).unwrap_err();
    assert_eq!(fault.code, Code::ConfigAccountTwice);
    assert_eq!(fault.why.as_deref(), Some("Another and a test"));
    world.until(&["WebApp01: held"]).await;
}

/// Whoever writes to the bucket of a list decides how many gMSAs it names.
#[tokio::test(start_paused = true)]
async fn there_are_as_many_leases_as_there_may_be_and_one_that_ends_makes_room() {
    let world = World::of(LeasePolicy { most_leases: 2, ..LeasePolicy::RUN });
    let one = world.add("WebApp01");
    world.add("WebApp02");
    let fault = world.manager.add(world.spec("WebApp03")).unwrap_err();
    assert_eq!(fault.code, Code::CredSpecTooLarge);
    assert!(!LeasePolicy::RUN.ends_with(&fault, false), "the others go on");
    world.manager.remove(one).wait().await;
    world.add("WebApp03");
    world.until(&["WebApp02: held", "WebApp03: held"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nothing_names_gives_way_and_its_files_stay_until_they_are_written_again() {
    let world = World::new();
    let old = world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    let before = world.files.read("WebApp01/krb5cc");
    world.manager.retire(old, true);
    world.domains.script("WebApp01", [Answer::Fault(Code::DcUnreachable)]);
    let new = world.add("WebApp01");
    // What was there is valid: the new lease starts from it.
    world.until(&["WebApp01: overdue dc-unreachable"]).await;
    assert_eq!(world.files.read("WebApp01/krb5cc"), before);
    world.until(&["WebApp01: held"]).await;
    assert_eq!((world.manager.len(), world.manager.outcome(old).is_none()), (1, true));
    world.manager.remove(new).wait().await;
    assert_eq!(world.files.paths(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_copies_in_the_root_follow_the_field() {
    let world = World::new();
    let one = world.manager.add(at(world.spec("WebApp01"), true)).unwrap();
    let two = world.add("WebApp02");
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    let same = |account: &str| world.files.read("krb5cc") == world.files.read(&format!("{account}/krb5cc"));
    assert!(same("WebApp01") && !same("WebApp02"));
    world.manager.change(two, at(world.spec("WebApp02"), true));
    world.manager.change(one, at(world.spec("WebApp01"), false));
    world.wait(|_| same("WebApp02")).await;
    world.manager.remove(one).wait().await;
    assert!(same("WebApp02"), "the first lease took the copy with it");
    world.manager.remove(two).wait().await;
    assert_eq!(world.files.paths(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_root_s_krb5_conf_names_the_realms_of_those_that_are_there_in_their_order() {
    let world = World::new();
    let spec = |account: &str, domain: &str, spec| LeaseSpec {
        domain: domain.parse().unwrap(),
        order: Order { spec, ..Order::default() },
        ..world.spec(account)
    };
    world.manager.add(spec("WebApp02", "two.test", 2)).unwrap();
    world.until(&["WebApp02: held"]).await;
    let one = world.manager.add(spec("WebApp01", "one.test", 1)).unwrap();
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    let conf = || String::from_utf8(world.files.read("krb5.conf").unwrap()).unwrap();
    assert!(conf().contains("default_realm = ONE.TEST") && conf().contains(".two.test = TWO.TEST"), "{}", conf());
    let own = String::from_utf8(world.files.read("WebApp02/krb5.conf").unwrap()).unwrap();
    assert!(own.contains("default_realm = TWO.TEST") && !own.contains("one.test"), "{own}");
    world.manager.remove(one).wait().await;
    assert!(conf().contains("default_realm = TWO.TEST") && !conf().contains("one.test"), "{}", conf());
    // Who is not named there leaves it alone.
    let hidden = LeaseSpec { krb5_conf: ConfAt::Folder, ..spec("WebApp03", "three.test", 0) };
    world.manager.add(hidden).unwrap();
    world.until(&["WebApp03: held", "WebApp02: held"]).await;
    assert!(!conf().contains("three.test"), "{}", conf());
    world.manager.add(LeaseSpec { krb5_conf: ConfAt::Root, ..spec("WebApp04", "four.test", 4) }).unwrap();
    world.until(&["WebApp03: held", "WebApp02: held", "WebApp04: held"]).await;
    assert!(conf().contains("four.test") && world.files.read("WebApp04/krb5.conf").is_none());
}

#[tokio::test(start_paused = true)]
async fn reports_keep_the_order_of_the_credspecs() {
    let world = World::new();
    let spec = |account: &str, spec| LeaseSpec { order: Order { spec, ..Order::default() }, ..world.spec(account) };
    let three = world.manager.add(spec("WebApp03", 3)).unwrap();
    world.manager.add(spec("WebApp01", 1)).unwrap();
    world.manager.add(spec("WebApp02", 2)).unwrap();
    world.until(&["WebApp01: held", "WebApp02: held", "WebApp03: held"]).await;
    world.manager.change(three, spec("WebApp03", 0));
    assert_eq!(world.states(), ["WebApp03: held", "WebApp01: held", "WebApp02: held"]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_ticket_or_the_fault_that_does_not_pass() {
    let world = World::new();
    let soon = || Instant::now() + Duration::from_secs(18);
    let passes = |fault: &Fault| fault.code == Code::DcUnreachable;
    world.domains.script("WebApp01", [Answer::Fault(Code::DcUnreachable)]);
    let key = world.add("WebApp01");
    let held = world.manager.wait(key, soon(), passes).await.unwrap();
    assert_eq!(Some(held.expires_at), world.expiry("WebApp01"));

    world.domains.script("WebApp02", [Answer::Fault(Code::TicketLoginRefused)]);
    let key = world.add("WebApp02");
    let begun = clock::fake::elapsed();
    assert_eq!(world.manager.wait(key, soon(), passes).await.unwrap_err().code, Code::TicketLoginRefused);
    assert_eq!(clock::fake::elapsed(), begun);
    // Somebody else may mend it: the lease goes on.
    world.until(&["WebApp01: held", "WebApp02: held"]).await;

    world.domains.script("WebApp03", (0..99).map(|_| Answer::Fault(Code::DcUnreachable)));
    let key = world.add("WebApp03");
    let begun = clock::fake::elapsed();
    assert_eq!(world.manager.wait(key, soon(), passes).await.unwrap_err().code, Code::DcUnreachable);
    assert_eq!((clock::fake::elapsed() - begun).as_secs(), 18);

    world.domains.script("WebApp04", [Answer::Hangs]);
    let key = world.add("WebApp04");
    assert_eq!(world.manager.wait(key, soon(), passes).await.unwrap_err().code, Code::TaskStartTimeout);
    let waits = world.manager.wait(key, soon(), passes);
    let (waited, ()) = tokio::join!(waits, async { world.manager.remove(key).wait().await });
    assert_eq!(waited.unwrap_err().code, Code::InternalBug);
    assert!(world.manager.wait(key, soon(), passes).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn leases_of_one_login_share_a_directory_and_the_last_one_lets_go_of_it() {
    let world = World::new();
    let spec = |account: &str, secret: &str| LeaseSpec { login: login(secret), ..world.spec(account) };
    let one = world.manager.add(spec("WebApp01", "a")).unwrap();
    let two = world.manager.add(spec("WebApp02", "a")).unwrap();
    let three = world.manager.add(spec("WebApp03", "b")).unwrap();
    world.until(&["WebApp01: held", "WebApp02: held", "WebApp03: held"]).await;
    assert_eq!(world.domains.held(), 2);
    world.manager.remove(one).wait().await;
    assert_eq!(world.domains.held(), 2);
    world.manager.remove(two).wait().await;
    world.manager.remove(three).wait().await;
    assert_eq!((world.domains.held(), world.domains.remembered()), (0, 0));
}

/// A host keeps several leases of one gMSA: what was counted goes with the last.
#[tokio::test(start_paused = true)]
async fn metrics_of_a_gmsa_end_with_its_last_lease() {
    let world = World::of(LeasePolicy::HOST);
    let spec = |id: &str| {
        let folder = crate::volume::LeaseFolder::new(&[id, "WebApp01"]).unwrap();
        LeaseSpec { location: Location { folder, ..world.spec("WebApp01").location }, ..world.spec("WebApp01") }
    };
    let keys = ["0a", "0b"].map(|id| world.manager.add(spec(id)).unwrap());
    world.until(&["WebApp01: held", "WebApp01: held"]).await;
    assert_eq!(world.files.paths().iter().filter(|path| path.ends_with("WebApp01/krb5cc")).count(), 2);
    let renewals = || {
        let told = world.metrics.render(&world.status(), clock::now());
        told.lines().find(|line| line.starts_with("gmsa_renewals_total{")).map(str::to_owned)
    };
    world.manager.remove(keys[0]).wait().await;
    assert!(renewals().is_some_and(|line| line.ends_with(" 2")), "{:?}", renewals());
    world.manager.remove(keys[1]).wait().await;
    assert_eq!(renewals(), None);
}

#[tokio::test(start_paused = true)]
async fn files_that_cannot_be_removed_do_not_keep_a_lease() {
    let world = World::new();
    let key = world.add("WebApp01");
    world.until(&["WebApp01: held"]).await;
    world.files.refuse(Some(Code::VolumeWriteFailed));
    world.manager.remove(key).wait().await;
    assert!(world.manager.is_empty() && world.manager.folders().is_empty());
    assert!(world.files.read("WebApp01/krb5cc").is_some());
}
