//! The `krb5.conf` that the app reads through `KRB5_CONFIG`.

use std::fmt;
use std::net::IpAddr;

use crate::name::{Domain, Host};

/// What the app must know of its realms. Its [`Display`](fmt::Display) is the file's text, in the plain syntax that
/// MIT, Heimdal, the JDK and gokrb5 all read; every value is of a type that cannot hold syntax of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Krb5Conf {
    /// The domain of the first lease's gMSA.
    pub default: Domain,
    /// All domains of the task, logins' and gMSAs', each once.
    pub realms: Vec<RealmEntry>,
}

/// One realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmEntry {
    /// The AD domain; the realm is its name in upper case.
    pub domain: Domain,
    /// Its KDCs in order of preference; none while none is known.
    pub kdcs: Vec<KdcAddress>,
}

/// A KDC, at port 88.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KdcAddress {
    /// By name, which the app resolves itself.
    Host(Host),
    /// By address: with `GMSA_DNS_SERVERS` the app's resolver does not know the name.
    Address(IpAddr),
}

impl fmt::Display for Krb5Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("# Written by gmsa-sidecar, again whenever the domain controllers change: do not edit.\n\n")?;
        writeln!(f, "[libdefaults]\n    default_realm = {}", self.default.realm())?;
        f.write_str(LIBDEFAULTS)?;
        f.write_str("\n[realms]\n")?;
        // A realm without KDCs is left out: only then is DNS asked for them. Each DC is also named as a master, which
        // in AD it is: MIT otherwise asks DNS after every exchange whether it was one (three queries, and as many
        // time-outs where DNS does not answer), and repeats a refused login there, which counts as a second failure.
        for RealmEntry { domain, kdcs } in self.realms.iter().filter(|entry| !entry.kdcs.is_empty()) {
            writeln!(f, "    {} = {{", domain.realm())?;
            for kdc in kdcs {
                writeln!(f, "        kdc = {kdc}")?;
            }
            for kdc in kdcs {
                writeln!(f, "        master_kdc = {kdc}")?;
            }
            f.write_str("    }\n")?;
        }
        f.write_str("\n[domain_realm]\n")?;
        for RealmEntry { domain, .. } in &self.realms {
            writeln!(f, "    .{domain} = {realm}\n    {domain} = {realm}", realm = domain.realm())?;
        }
        Ok(())
    }
}

impl fmt::Display for KdcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// - `rdns`, `dns_canonicalize_hostname`: an SPN is asked for by the name the app was given; the name behind an alias
///   only if the KDC does not know that one. Reverse DNS is never asked: in a VPC it gives `ip-10-0-0-1` names.
///   Two lines, since `fallback` is not a boolean: gokrb5 (go-mssqldb, every Go client) refuses the whole file for it.
///   MIT takes the first value of a relation, and reads a `*` after the name as a mark that later files cannot change
///   it. Others read the star as a part of another name: gokrb5, Heimdal and the JDK come to the second line.
/// - `enforce_ok_as_delegate`: Microsoft's drivers always ask to delegate, and MIT then sends the whole TGT to every SQL
///   server, after one more request to the KDC for each login. With this line it sends the TGT only to services that
///   the directory trusts for delegation (RFC 4120 2.8). MIT 1.18 has it; the JDK does not.
/// - `kdc_timeout`, `max_retries`: the JDK otherwise waits three times 30 seconds for a dead KDC before it asks the next.
///   With the unit: a bare number is in seconds for Heimdal and in milliseconds for the JDK. MIT has its own limits (a
///   second and then the next KDC, too), gokrb5 too (5 s).
/// - `udp_preference_limit`: an AS-REP with a PAC never fits a datagram, so UDP would do every login twice.
/// - `dns_lookup_kdc`: a realm listed here never comes to it. It is for the others that AD refers to, such as a
///   trusted domain with the app's database; without DNS they could not be reached at all.
/// - `dns_lookup_realm`: hosts outside `[domain_realm]` are found by the KDC's referrals, as Windows does it.
/// - `forwardable`: for tickets that the app gets itself. Ours is forwardable too, for constrained delegation.
/// - `fcache_strict_checking`: clients with Heimdal inside, such as `smbclient`, otherwise refuse a cache that belongs
///   to another user or that a group may read: the sidecar's, by its nature. Others do not know the word.
const LIBDEFAULTS: &str = "    dns_lookup_realm = false
    dns_lookup_kdc = true
    rdns = false
    dns_canonicalize_hostname* = fallback
    dns_canonicalize_hostname = false
    enforce_ok_as_delegate = true
    kdc_timeout = 3s
    max_retries = 1
    udp_preference_limit = 1
    forwardable = true
    fcache_strict_checking = false
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_lists_every_realm_with_its_kdcs_in_order() {
        let conf = Krb5Conf {
            default: "corp.example.com".parse().unwrap(),
            realms: vec![
                RealmEntry {
                    domain: "corp.example.com".parse().unwrap(),
                    kdcs: vec![
                        KdcAddress::Host("dc2.corp.example.com".parse().unwrap()),
                        KdcAddress::Address("10.0.0.10".parse().unwrap()),
                        KdcAddress::Address("2001:db8::10".parse().unwrap()),
                    ],
                },
                RealmEntry { domain: "login.test".parse().unwrap(), kdcs: vec![] },
            ],
        };
        insta::assert_snapshot!(conf, @r"
        # Written by gmsa-sidecar, again whenever the domain controllers change: do not edit.

        [libdefaults]
            default_realm = CORP.EXAMPLE.COM
            dns_lookup_realm = false
            dns_lookup_kdc = true
            rdns = false
            dns_canonicalize_hostname* = fallback
            dns_canonicalize_hostname = false
            enforce_ok_as_delegate = true
            kdc_timeout = 3s
            max_retries = 1
            udp_preference_limit = 1
            forwardable = true
            fcache_strict_checking = false

        [realms]
            CORP.EXAMPLE.COM = {
                kdc = dc2.corp.example.com
                kdc = 10.0.0.10
                kdc = [2001:db8::10]
                master_kdc = dc2.corp.example.com
                master_kdc = 10.0.0.10
                master_kdc = [2001:db8::10]
            }

        [domain_realm]
            .corp.example.com = CORP.EXAMPLE.COM
            corp.example.com = CORP.EXAMPLE.COM
            .login.test = LOGIN.TEST
            login.test = LOGIN.TEST
        ");
    }
}
