use std::net::Ipv4Addr;
use std::process::Command;

use crate::examples::{Fake, relayed};
use crate::support::{Sidecar, lab};

const FAR: &str = "dc1.example.com";
/// Another name of the lab's first DC.
const NEAR: &str = "near.example.com";
const SITE: &str = "Lab-Near";

/// A domain with two controllers, of which DNS nearly always names the far one first and the near one for the site; to
/// the site belong all addresses of the lab, as the directory itself says.
fn two_sites(last: u8) -> Sidecar {
    assert_eq!(FAR, lab("LAB_DC1"));
    let tool = |arguments: &[&str]| {
        let database = ["-H", lab("LAB_SAMDB"), "-s", lab("LAB_SMB_CONF")];
        // It may all be there from an earlier run.
        let _ = Command::new("samba-tool").args(arguments).args(database).output().unwrap();
    };
    tool(&["sites", "create", SITE]);
    tool(&["sites", "subnet", "create", "127.0.0.0/8", SITE]);
    // The name that the login's ticket is for: that of a DC of this domain, in three parts and no other form.
    tool(&["spn", "add", &format!("ldap/{NEAR}/{}", lab("LAB_DOMAIN")), "DC1$"]);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let services = |name: &str| match name.to_ascii_lowercase().as_str() {
        "_ldap._tcp.dc._msdcs.example.com" => vec![(65535, FAR), (0, NEAR)],
        "_ldap._tcp.lab-near._sites.dc._msdcs.example.com" => vec![(100, NEAR)],
        _ => vec![],
    };
    let dc =
        Fake::start_with(Ipv4Addr::new(127, 0xb0 | last, high, low).into(), services, |_, request| relayed(request));
    dc.sidecar().without("GMSA_DOMAIN_CONTROLLERS")
}

/// Which DC gave the ticket, and the one after a renewal that waits for `event`.
fn choices(sidecar: &Sidecar, event: Option<&str>) -> [String; 2] {
    let running = sidecar.run();
    running.wait_ready();
    let dc = || sidecar.json("/leases")["leases"][0]["dc"].as_str().unwrap().to_owned();
    let before = dc();
    if let Some(event) = event {
        running.wait(event, || running.log().iter().any(|line| line["event"] == event));
    }
    let renewed = || running.log().iter().filter(|line| line["event"] == "lease.renewed").count();
    let count = renewed();
    assert_eq!(sidecar.http("POST", "/refresh").unwrap().0, 202);
    running.wait("the renewal", || renewed() > count);
    [before, dc()]
}

#[test]
fn the_site_of_this_address_is_learnt_and_its_controllers_come_first() {
    let sidecar = two_sites(1);
    assert_eq!(choices(&sidecar, Some("dc.site")), [FAR, NEAR]);
}

#[test]
fn sites_can_be_left_alone() {
    assert_eq!(choices(&two_sites(2).with("GMSA_SITE", "off"), None), [FAR, FAR]);
}

#[test]
fn a_site_that_is_named_counts_from_the_first_login_on() {
    assert_eq!(choices(&two_sites(3).with("GMSA_SITE", SITE), Some("dc.site")), [NEAR, NEAR]);
    let ended = two_sites(4).with("GMSA_SITE", "Nowhere").init();
    let warning = ended.log().into_iter().find(|line| line["event"] == "dc.site-unknown").expect("a warning");
    assert_eq!(warning["what"], "DNS names no domain controller for the site `Nowhere` of `example.com`");
    ended.ok();
}

#[test]
fn check_tells_the_site() {
    let report = two_sites(5).call(&["check", "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let step = |name: &str| {
        report["steps"]
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["step"] == name)
            .unwrap_or_else(|| panic!("{report:#}"))
    };
    let told = step("site")["what"].as_str().unwrap().to_owned();
    assert!(told.starts_with("`Lab-Near`, according to `") && told.ends_with(": near.example.com"), "{told}");
    assert_eq!(step("bind")["subject"], NEAR);
}

/// A read-only DC logs the login in and refuses the managed password: another one is asked.
#[test]
fn a_read_only_controller_is_passed_over_for_the_password() {
    let sidecar = |controllers: &str| Sidecar::of("webapp01.json").with("GMSA_DOMAIN_CONTROLLERS", controllers);
    let both = format!("{} {}", lab("LAB_RODC"), lab("LAB_DC1"));
    let ended = sidecar(&both).init();
    let warning = ended.log().into_iter().find(|line| line["event"] == "dc.failed");
    let warning = warning.unwrap_or_else(|| panic!("was it asked? {ended:#?}"));
    assert_eq!(warning["code"], "gmsa-search-failed");
    assert!(warning["why"].as_str().unwrap().contains("RODC"), "{warning}");
    ended.ok();
    let alone = sidecar(lab("LAB_RODC")).init_with("GMSA_INIT_TIMEOUT", "1s");
    assert!(alone.fault().starts_with("gmsa-search-failed exit 69"), "{alone:#?}");
}
