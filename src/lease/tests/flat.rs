//! Months of leases that come and go leave memory flat.

#![expect(clippy::disallowed_methods, reason = "a test looks at its own memory and its own files")]

use std::time::Instant as Wall;

use crate::credspec::{GivenLogin, LoginSource};
use crate::lease::fakes::World;
use crate::lease::manager::{LeasePolicy, LeaseSpec, Manager};
use crate::lease::status::Order;
use crate::lease::*;
use crate::volume::{LeaseFolder, Location, Mode, Ownership, Volume};

/// Kilobytes that this process has in memory: Linux's proc(5).
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One lease comes, has its ticket, and goes.
async fn come_and_go(world: &World, spec: &LeaseSpec, number: usize) {
    let account = format!("Web{}", number % 1000);
    let folder = LeaseFolder::new(&[&format!("{number:020x}"), &account]).unwrap();
    let login =
        GivenLogin { user: format!("svc{number}"), domain: spec.domain.clone(), password: "x".to_owned().into() };
    let spec = LeaseSpec {
        account: account.parse().unwrap(),
        login: LoginSource::Given(Arc::new(login)),
        location: Location { folder, at_root: number.is_multiple_of(2), ..spec.location },
        order: Order { spec: number % 3, ..Order::default() },
        ..spec.clone()
    };
    let key = world.manager.add(spec).unwrap();
    let mut outcome = world.manager.outcome(key).unwrap();
    assert!(outcome.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().is_ok());
    world.manager.remove(key).wait().await;
    assert!(outcome.changed().await.is_err(), "who waits for a lease that ended is not told");
}

#[tokio::test(start_paused = true)]
async fn leases_come_and_go_and_leave_nothing() {
    many(1_000, 4_000).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "a minute in a debug build: scripts/full"]
async fn a_hundred_thousand_leases_come_and_go_and_leave_nothing() {
    let grown = many(5_000, 100_000).await;
    // Leases that left the smallest allocation each would be 3,000 KiB.
    assert!(grown < 2_500, "{grown} KiB more after 95,000 leases");
}

/// Returns by how many KiB the process grew from the first of them to the last.
async fn many(from: usize, to: usize) -> usize {
    let world = World::of(LeasePolicy::HOST);
    world.domains.only_count();
    let (begun, spec) = (Wall::now(), world.spec("WebApp01"));
    for number in 0..from {
        come_and_go(&world, &spec, number).await;
    }
    let before = resident();
    for number in from..to {
        come_and_go(&world, &spec, number).await;
    }
    let grown = resident().saturating_sub(before);
    println!("{to} leases in {:?}; {before} KiB grew by {grown} KiB", begun.elapsed());
    assert_eq!(world.domains.count(), to);
    assert!(world.manager.is_empty() && world.manager.folders().is_empty() && world.states().is_empty());
    assert_eq!((world.domains.held(), world.domains.remembered()), (0, 0));
    assert_eq!(world.files.paths(), [""; 0]);
    let metrics = world.metrics.render(&world.status(), clock::now());
    assert!(!metrics.contains("account="), "series of leases that have ended: {metrics}");
    grown
}

#[tokio::test(start_paused = true)]
async fn a_thousand_leases_come_and_go_on_a_volume() {
    let folder = crate::volume::tests::folder();
    let volume = Volume::open(folder.path(), None, Mode::default()).unwrap();
    let world = World::with_files(LeasePolicy::RUN, Arc::new(volume), Arc::default());
    let theirs = folder.path().join("somebody-elses");
    std::fs::write(&theirs, "precious").unwrap();
    // One that stays, and what it wrote.
    let staying = world.add("Staying");
    world.until(&["Staying: held"]).await;
    let mut keys = std::collections::VecDeque::new();
    for number in 0..1_000 {
        let spec = world.spec(&format!("Web{number}"));
        let location = Location { at_root: true, ownership: Ownership::default(), ..spec.location };
        keys.push_back(world.manager.add(LeaseSpec { location, ..spec }).unwrap());
        if keys.len() > 10 {
            let key = keys.pop_front().unwrap();
            assert!(done(&world.manager, key).await);
            world.manager.remove(key).wait().await;
        }
    }
    for key in keys {
        assert!(done(&world.manager, key).await);
        world.manager.remove(key).wait().await;
    }
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["Staying", "krb5.conf", "somebody-elses"]);
    world.manager.remove(staying).wait().await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["somebody-elses"]);
}

async fn done(manager: &Manager, key: crate::lease::status::LeaseKey) -> bool {
    let mut outcome = manager.outcome(key).unwrap();
    outcome.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().is_ok()
}
