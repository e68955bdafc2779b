use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use crate::examples::{Fake, relayed};
use crate::support::lab;

/// An address of this process in the lab's network, which has no route to any other.
fn address() -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, high.into(), low.into());
    let add = ["-6", "address", "replace", &format!("{address}/128"), "dev", "lo", "nodad"];
    assert!(Command::new("ip").args(add).status().unwrap().success());
    address.into()
}

/// DNS is asked over IPv6 and knows AAAA records only; KDC and LDAP listen there and nowhere else. The app finds the KDC
/// by the krb5.conf that is written for it.
#[test]
fn a_domain_with_nothing_but_ipv6() {
    let dc = Fake::start_on(address(), |_, request| relayed(request));
    let sidecar = dc.sidecar().without("GMSA_DOMAIN_CONTROLLERS").with("GMSA_OWNER", "1654:1654");
    sidecar.init().ok();
    let conf = std::fs::read_to_string(sidecar.path("krb5.conf")).unwrap();
    assert!(conf.contains(&format!("        kdc = [{}]\n", dc.address)), "{conf}");
    assert_eq!(conf.matches(" kdc = ").count(), 1, "{conf}");
    let service = format!("postgres/{}", lab("LAB_DB"));
    assert!(sidecar.app(1654, &["kvno", &service]).ok().contains("kvno = "));
}

/// The sidecar's own HTTP, where a task has no IPv4.
#[test]
fn the_sidecar_listens_on_ipv6() {
    let dc = Fake::start_on(address(), |_, request| relayed(request));
    let sidecar = dc.sidecar().with("GMSA_LISTEN", &format!("[{}]:8488", dc.address));
    let running = sidecar.run();
    running.wait("the gate", || sidecar.call(&["health"]).code == Some(0));
}
