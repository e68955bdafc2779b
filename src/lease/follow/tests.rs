//! CredSpecs and lists of them that are followed, over fakes.

use tokio::time::Instant;

use super::*;
use crate::fault::Code;
use crate::lease::fakes::{Answer, TEN_HOURS, World, cred_spec, fault, login, reference};
use crate::lease::manager::LeasePolicy;
use crate::name::Spn;

const ONE: &str = "arn:aws:s3:::bucket/one";
const TWO: &str = "arn:aws:s3:::bucket/two";
const LIST: &str = "arn:aws:s3:::bucket/list";

/// Follows CredSpecs in this order.
fn follow(world: &World, names: &[&str]) -> Vec<Arc<Followed>> {
    let start = |(spec, name): (usize, &&str)| {
        let order = Order { spec, ..Order::default() };
        let reader = Arc::clone(&world.specs) as Arc<dyn ReadSpecs>;
        Followed::start(reference(name), reader, &world.manager, Arc::default(), order, spec == 0)
    };
    let followed: Vec<_> = names.iter().enumerate().map(start).collect();
    for each in &followed {
        tokio::spawn(Arc::clone(each).follow());
    }
    followed
}

/// Has all CredSpecs read again, by a renewal of all leases.
async fn look(world: &World) {
    world.refresh.insist(Instant::now());
    world.pass(1).await;
}

fn ends(world: &World) -> bool {
    let status = world.status();
    status.faults().any(|fault| LeasePolicy::RUN.ends_with(fault, status.ever_ready))
}

#[tokio::test(start_paused = true)]
async fn a_credspec_is_one_entry_until_it_is_read_and_then_its_leases() {
    let world = World::new();
    world.specs.put(ONE, Err(fault(Code::CredSpecUnreachable)));
    world.specs.set(TWO, &["WebApp03"], Some("login"));
    follow(&world, &[ONE, TWO]);
    assert_eq!(world.states(), [format!("{ONE}: pending"), format!("{TWO}: pending")]);
    world.until(&[&format!("{ONE}: pending credspec-unreachable"), "WebApp03: held"]).await;
    let entry = world.status().leases[0].clone();
    assert_eq!((entry.attempts, entry.state.fault().unwrap().next_attempt_at), (1, entry.next_renewal_at));
    assert!(!world.status().is_ready(clock::now()));
    world.specs.set(ONE, &["WebApp01", "WebApp02"], Some("login"));
    world.until(&["WebApp01: held", "WebApp02: held", "WebApp03: held"]).await;
    assert!(world.status().is_ready(clock::now()));
    let same = |account: &str| world.files.read("krb5cc") == world.files.read(&format!("{account}/krb5cc"));
    assert!(same("WebApp01"), "the root has the first CredSpec's first account");
}

#[tokio::test(start_paused = true)]
async fn a_new_version_that_is_broken_or_cannot_be_read_changes_nothing() {
    let world = World::new();
    world.specs.set(ONE, &["WebApp01"], Some("login"));
    follow(&world, &[ONE]);
    world.until(&["WebApp01: held"]).await;
    world.specs.put(ONE, Err(fault(Code::CredSpecMalformed)));
    for _ in 0..3 {
        look(&world).await;
    }
    assert_eq!(world.states(), ["WebApp01: held"]);
    assert_eq!(world.domains.count(), 4);
    world.specs.hang();
    world.pass(100 * 3600).await;
    assert_eq!(world.states(), ["WebApp01: held"], "a source that hangs held a renewal up");
}

/// The first of the two faults: the edit of one CredSpec ended every lease.
#[tokio::test(start_paused = true)]
async fn an_edit_that_names_another_credspec_s_gmsa_ends_nothing() {
    let world = World::new();
    world.specs.set(ONE, &["WebApp01"], Some("login"));
    world.specs.set(TWO, &["WebApp02"], Some("login"));
    follow(&world, &[ONE, TWO]);
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    world.specs.set(TWO, &["WebApp01"], Some("login"));
    look(&world).await;
    world.until(&["WebApp01: held", "WebApp02: overdue config-account-twice"]).await;
    let shown = world.status().first_fault().cloned().unwrap();
    assert!(shown.next_attempt_at.is_some(), "{shown}");
    assert_eq!(shown.why.as_deref(), Some(&*format!("{ONE} and {TWO}")));
    assert!(!ends(&world) && world.status().is_ready(clock::now()) && world.status().is_open(clock::now()));
    // Both tickets stay fresh, for days.
    let before = world.expiry("WebApp02");
    world.pass(3 * 86_400).await;
    assert!(world.status().is_ready(clock::now()) && world.expiry("WebApp02") > before);
    assert_eq!(world.states(), ["WebApp01: held", "WebApp02: overdue config-account-twice"]);
    // The other CredSpec moves away: what was to be comes true, and the old one goes.
    world.specs.set(ONE, &["WebApp03"], Some("login"));
    look(&world).await;
    world.until(&["WebApp03: held", "WebApp01: held"]).await;
    world.wait(|world| world.files.read("WebApp02/krb5cc").is_none()).await;
}

/// The second of them: any fault of the configuration did.
#[tokio::test(start_paused = true)]
async fn an_edit_that_takes_the_login_away_ends_nothing() {
    let world = World::new();
    world.specs.set(ONE, &["WebApp01"], Some("login"));
    world.specs.set(TWO, &["WebApp02"], Some("login"));
    follow(&world, &[ONE, TWO]);
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    world.specs.set(TWO, &["WebApp02", "WebApp04"], None);
    look(&world).await;
    world.until(&["WebApp01: held", "WebApp02: overdue config-login-missing"]).await;
    assert!(!ends(&world));
    world.pass(3 * 86_400).await;
    assert!(world.status().is_ready(clock::now()));
    let last = world.domains.asked().into_iter().rfind(|asked| asked.account == "WebApp02").unwrap();
    assert_eq!(last.login, login("login"), "what was known stays in use");
    world.specs.set(TWO, &["WebApp02"], Some("other"));
    look(&world).await;
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
}

#[tokio::test(start_paused = true)]
async fn two_credspecs_that_swap_their_gmsas_do_so_without_a_gap() {
    let world = World::new();
    world.specs.set(ONE, &["WebApp01"], Some("login"));
    world.specs.set(TWO, &["WebApp02"], Some("login"));
    let followed = follow(&world, &[ONE, TWO]);
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    world.specs.set(ONE, &["WebApp02"], Some("login"));
    Arc::clone(&followed[0]).look_again().await;
    assert_eq!(world.states(), ["WebApp01: overdue config-account-twice", "WebApp02: held"]);
    world.specs.set(TWO, &["WebApp01"], Some("login"));
    Arc::clone(&followed[1]).look_again().await;
    // The second wants what the first one names no more, but keeps until its own wish comes true.
    world.until(&["WebApp02: held", "WebApp01: held"]).await;
    assert!(world.files.read("WebApp01/krb5cc").is_some() && world.files.read("WebApp02/krb5cc").is_some());
    assert_eq!(world.manager.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_a_start_a_gmsa_that_is_named_twice_ends_the_process() {
    let world = World::new();
    world.specs.set(ONE, &["WebApp01"], Some("login"));
    world.specs.set(TWO, &["webapp01"], Some("login"));
    world.domains.script("WebApp01", [Answer::Hangs]);
    world.domains.script("webapp01", [Answer::Hangs]);
    follow(&world, &[ONE, TWO]);
    world.wait(ends).await;
    assert_eq!(world.status().first_fault().unwrap().next_attempt_at, None);
}

#[tokio::test(start_paused = true)]
async fn an_old_gmsa_s_ticket_stays_until_the_new_one_s_is_there() {
    let world = World::new();
    world.specs.set(ONE, &["WebApp01"], Some("login"));
    let followed = follow(&world, &[ONE]);
    world.until(&["WebApp01: held"]).await;
    let before = world.files.read("krb5cc");
    world.domains.script("WebApp02", (0..10).map(|_| Answer::Fault(Code::GmsaNotFound)));
    world.specs.set(ONE, &["WebApp02"], Some("login"));
    look(&world).await;
    world.until(&["WebApp01: held", "WebApp02: pending gmsa-not-found"]).await;
    assert!(world.status().is_open(clock::now()) && !world.status().is_ready(clock::now()));
    assert_eq!(world.files.read("krb5cc").map(|f| f.len()), before.map(|f| f.len()));
    world.until(&["WebApp02: held"]).await;
    world.wait(|world| world.files.read("WebApp01/krb5cc").is_none()).await;
    assert_eq!(world.files.read("krb5cc"), world.files.read("WebApp02/krb5cc"));
    // And back, with another domain for the same name: another lease in the same folder.
    world.specs.put(ONE, Ok(cred_spec(&["WebApp02"], "other.test", Some("login"))));
    Arc::clone(&followed[0]).look_again().await;
    world.wait(|world| world.status().leases[0].identity.as_ref().unwrap().domain.as_str() == "other.test").await;
    world.until(&["WebApp02: held"]).await;
    assert_eq!(world.manager.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_set_wins_over_what_a_credspec_says() {
    let spn: Spn = "HTTP/web.example.com".parse().unwrap();
    let account: Account = "WebApp01".parse().unwrap();
    let overrides = Overrides {
        owner: Some("1654".parse().unwrap()),
        mode: Some("0640".parse().unwrap()),
        keytab: Some(true),
        service_tickets: Some(vec![spn.clone()]),
    };
    let (extras, ownership) = LeaseDefaults::default().of(&account, &overrides);
    assert_eq!((extras.keytab, extras.services.len(), ownership.owner), (true, 1, overrides.owner));
    assert_eq!(ownership.mode, overrides.mode.unwrap());
    let set = LeaseDefaults {
        owner: Some("7".parse().unwrap()),
        mode: Some(Mode::default()),
        keytab: Some(false),
        services: "HTTP/other.example.com".parse().unwrap(),
    };
    let (extras, ownership) = set.of(&account, &overrides);
    assert_eq!((extras.keytab, ownership), (false, Ownership { owner: set.owner, mode: Mode::default() }));
    assert_ne!(extras.services, [spn]);
}

fn list(world: &World) {
    let reader = Arc::clone(&world.specs) as Arc<dyn ReadSpecs>;
    let list = FollowedList::new(reference(LIST), reader, &world.manager, Arc::default(), Order::default(), true);
    tokio::spawn(list.follow());
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_again_and_what_it_names_comes_and_goes() {
    let world = World::new();
    for (name, account) in [(ONE, "WebApp01"), (TWO, "WebApp02")] {
        world.specs.set(name, &[account], Some("login"));
    }
    world.specs.list(Err(fault(Code::CredSpecUnreachable)));
    list(&world);
    world.until(&[&format!("{LIST}: pending credspec-unreachable")]).await;
    world.specs.list(Ok(&[TWO]));
    world.until(&["WebApp02: held"]).await;
    let root = |account: &str| world.files.read("krb5cc") == world.files.read(&format!("{account}/krb5cc"));
    assert!(root("WebApp02"));
    // One more, named before it: it comes after it, and the root stays as it is.
    world.specs.list(Ok(&[ONE, TWO]));
    world.until(&["WebApp02: held", "WebApp01: held"]).await;
    assert!(root("WebApp02") && !root("WebApp01"));
    // A list that cannot be read changes nothing.
    world.specs.list(Err(fault(Code::CredSpecUnreachable)));
    world.pass(3600).await;
    assert_eq!(world.states(), ["WebApp02: held", "WebApp01: held"]);
    world.specs.list(Ok(&[ONE]));
    world.until(&["WebApp01: held"]).await;
    world.wait(|_| root("WebApp01")).await;
    world.wait(|world| world.files.read("WebApp02/krb5cc").is_none()).await;
    world.specs.list(Ok(&[]));
    world.until(&[]).await;
    assert!(!world.status().is_ready(clock::now()), "no leases are not ready");
    world.wait(|world| world.files.paths().is_empty()).await;
    assert!(world.manager.is_empty() && world.domains.held() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_bad_document_in_a_list_is_a_fault_of_its_own() {
    let world = World::new();
    world.specs.set(ONE, &["WebApp01"], Some("login"));
    world.specs.list(Ok(&[ONE]));
    list(&world);
    world.until(&["WebApp01: held"]).await;
    // It names what another one has; later something good.
    world.specs.set(TWO, &["WebApp01"], Some("login"));
    world.specs.list(Ok(&[ONE, TWO]));
    world.until(&["WebApp01: held", &format!("{TWO}: pending config-account-twice")]).await;
    assert!(!ends(&world) && world.status().is_open(clock::now()));
    let shown = world.status().first_fault().cloned().unwrap();
    assert!(shown.next_attempt_at.is_some());
    world.specs.set(TWO, &["WebApp02"], Some("login"));
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
    assert!(clock::fake::elapsed() < Duration::from_secs(600), "{:?}", clock::fake::elapsed());
    // Or one that goes before it was ever read.
    let gone = "arn:aws:s3:::bucket/gone";
    world.specs.list(Ok(&[ONE, TWO, gone]));
    world.until(&["WebApp01: held", "WebApp02: held", &format!("{gone}: pending credspec-not-found")]).await;
    world.specs.list(Ok(&[ONE, TWO]));
    world.until(&["WebApp01: held", "WebApp02: held"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_when_it_changes() {
    let world = World::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = format!("file://{}", file.path().display());
    world.specs.set(&name, &["WebApp01"], Some("login"));
    follow(&world, &[&name]);
    world.until(&["WebApp01: held"]).await;
    world.pass(3600).await;
    let before = world.specs.count();
    world.specs.set(&name, &["WebApp02"], Some("login"));
    file.as_file().set_len(7).unwrap();
    world.until(&["WebApp02: held"]).await;
    assert!(world.specs.count() > before && clock::fake::elapsed() < Duration::from_secs(3700));
    assert_eq!(world.domains.times("WebApp01").len(), 1);
}

/// Whatever else wakes the follower.
#[tokio::test(start_paused = true)]
async fn a_change_of_a_file_is_not_missed_while_something_else_happens() {
    let world = World::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = format!("file://{}", file.path().display());
    world.specs.set(&name, &["WebApp01"], Some("login"));
    let followed = follow(&world, &[&name]).remove(0);
    world.until(&["WebApp01: held"]).await;
    world.specs.set(&name, &["WebApp02"], Some("login"));
    file.as_file().set_len(7).unwrap();
    for _ in 0..10 {
        followed.apply();
        world.pass(1).await;
    }
    world.pass(10).await;
    assert_eq!(world.states(), ["WebApp02: held"]);
}

#[tokio::test(start_paused = true)]
async fn leases_that_renew_together_are_served_by_one_reading() {
    let world = World::new();
    let accounts: Vec<_> = (0..20).map(|number| format!("Web{number}")).collect();
    world.specs.set(ONE, &accounts.iter().map(String::as_str).collect::<Vec<_>>(), Some("login"));
    for account in &accounts {
        world.domains.script(account, [Answer::Ticket(TEN_HOURS)]);
    }
    follow(&world, &[ONE]);
    world.wait(|world| world.status().is_ready(clock::now())).await;
    assert_eq!(world.specs.count(), 1);
    look(&world).await;
    assert_eq!(world.domains.count(), 40);
    assert!((2..=3).contains(&world.specs.count()), "{} readings", world.specs.count());
}
