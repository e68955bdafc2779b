//! DNS: SRV records and addresses of AD names.
//!
//! Names are asked for as they are, with a final dot: no search list, never a reverse look-up. An answer is bounded:
//! whoever answers DNS is not proven by anything.

/// sockets that pass on answers, no more than were asked for
mod bounded;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::time::timeout;

use self::bounded::Sockets;
use crate::directory::dc::Target;
use crate::fault::{Code, Fault, Owner};
use crate::name::{Domain, Host, SiteName};
use crate::progress;
use crate::text::shell;

/// Asks the DNS servers of AD names.
pub(super) struct Dns {
    /// `GMSA_DNS_SERVERS`; those of `/etc/resolv.conf` where that is not set.
    configured: Vec<SocketAddr>,
    current: Mutex<Option<Current>>,
}

#[derive(Clone)]
struct Current {
    resolver: Resolver<Sockets>,
    servers: Vec<SocketAddr>,
}

impl Dns {
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        Self { configured: servers.to_vec(), current: Mutex::default() }
    }

    /// The SRV records `_ldap._tcp.dc._msdcs.<domain>`, or those of a site (MS-ADTS 6.3.2.3), in no order. Never empty.
    pub(super) async fn controllers(&self, domain: &Domain, site: Option<&SiteName>) -> Result<Vec<Target>, Fault> {
        let (mut name, what) = match site {
            None => {
                (format!("_ldap._tcp.dc._msdcs.{domain}"), format!("DNS names no domain controller for `{domain}`"))
            }
            Some(site) => (
                format!("_ldap._tcp.{site}._sites.dc._msdcs.{domain}"),
                format!("DNS names no domain controller for the site `{site}` of `{domain}`"),
            ),
        };
        let current = self.current()?;
        for _alias in 0..ALIASES {
            let answers = match current.ask(&name, RecordType::SRV).await {
                Ok(answers) => answers,
                Err(miss) => match current.alias(&name, &miss).await {
                    Some(alias) => {
                        name = alias;
                        continue;
                    }
                    None => return Err(self.fault(&miss, Code::DcSrvNotFound, what, &name, domain, &current)),
                },
            };
            let targets: Vec<_> = answers.iter().filter_map(target).take(TARGETS).collect();
            if targets.is_empty() {
                return Err(self.fault(&Miss::Useless, Code::DcSrvNotFound, what, &name, domain, &current));
            }
            return Ok(targets);
        }
        Err(self.fault(&Miss::Circle, Code::DcSrvNotFound, what, &name, domain, &current))
    }

    /// The addresses of a host, IPv4 and IPv6. Never empty.
    pub(super) async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Fault> {
        let current = self.current()?;
        let what = || format!("the domain controller `{host}` has no address");
        let (v4, v6) =
            tokio::join!(current.ask(host.as_str(), RecordType::A), current.ask(host.as_str(), RecordType::AAAA));
        let mut addresses = Vec::new();
        for data in v4.iter().chain(&v6).flatten() {
            addresses.extend(data.ip_addr());
        }
        addresses.truncate(ADDRESSES);
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        let miss = match (v4, v6) {
            // What failed tells more than what is not there.
            (Err(miss @ (Miss::Failed(_) | Miss::Silence)), _) | (_, Err(miss)) | (Err(miss), _) => miss,
            (Ok(_), Ok(_)) => Miss::Useless,
        };
        Err(self.fault(&miss, Code::DcAddressNotFound, what(), host.as_str(), host.as_str(), &current))
    }

    fn current(&self) -> Result<Current, Fault> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*current {
            return Ok(current.clone());
        }
        let made = self.resolver()?;
        *current = Some(made.clone());
        Ok(made)
    }

    fn resolver(&self) -> Result<Current, Fault> {
        let no_server = |why: String| {
            let what = "no DNS server is known";
            let next = "set GMSA_DNS_SERVERS to the addresses of the domain's DNS servers, or let the platform write \
                        /etc/resolv.conf; it is read again before the next attempt";
            Fault::new(Code::DcDnsUnreachable, what).because(why).with_next(next)
        };
        let config = if self.configured.is_empty() {
            let (config, _options) = read_system_conf().map_err(|error| {
                no_server(format!("/etc/resolv.conf cannot be used: {}", short(&error.to_string())))
            })?;
            config
        } else {
            ResolverConfig::from_parts(None, Vec::new(), self.configured.iter().map(name_server).collect())
        };
        let servers: Vec<_> = if self.configured.is_empty() {
            config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).collect()
        } else {
            self.configured.clone()
        };
        if servers.is_empty() {
            return Err(no_server("/etc/resolv.conf names no server".into()));
        }
        let mut options = ResolverOpts::default();
        options.timeout = QUERY_DEADLINE;
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // What matters is remembered by the locator; a stranger's answers are not worth memory.
        options.cache_size = CACHED;
        options.edns0 = true;
        let builder = Resolver::builder_with_config(config, Sockets::default()).with_options(options);
        let resolver = builder
            .build()
            .map_err(|error| Fault::new(Code::DcDnsUnreachable, "the DNS resolver cannot start").caused_by(&error))?;
        Ok(Current { resolver, servers })
    }

    /// What a question failed on. `/etc/resolv.conf` is read again before the next one: a platform may write it late.
    fn fault(
        &self,
        miss: &Miss,
        missing: Code,
        what: String,
        name: &str,
        subject: impl std::fmt::Display,
        current: &Current,
    ) -> Fault {
        if self.configured.is_empty() {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let servers: Vec<_> = current.servers.iter().take(NAMED).map(server_name).collect();
        let servers = servers.join(", ");
        let source = if self.configured.is_empty() { "/etc/resolv.conf" } else { "GMSA_DNS_SERVERS" };
        let asked = format!("{servers} (from {source})");
        let (code, why) = match miss {
            Miss::NoName => (missing, format!("{asked}: the name `{name}` does not exist (NXDOMAIN)")),
            Miss::NoRecord => (missing, format!("{asked}: the name `{name}` has no such record")),
            Miss::Useless => (missing, format!("{asked}: the records of `{name}` name no host")),
            Miss::Circle => (missing, format!("{asked}: the aliases of `{name}` lead in a circle")),
            Miss::Failed(error) => (Code::DcDnsUnreachable, format!("{asked}: {error} for `{name}`")),
            Miss::Silence => (Code::DcDnsUnreachable, format!("{asked}: no answer for `{name}`, by UDP or TCP")),
        };
        let what = match (code, missing) {
            (Code::DcDnsUnreachable, Code::DcSrvNotFound) => {
                format!("DNS gives no answer about the domain controllers of `{subject}`")
            }
            (Code::DcDnsUnreachable, _) => format!("DNS gives no answer about the address of `{subject}`"),
            _ => what,
        };
        let fault = Fault::new(code, what).because(why);
        let fixed = !self.configured.is_empty();
        match miss {
            Miss::Silence if fixed => fault.owned_by(Owner::Network).with_next(format!(
                "allow UDP and TCP port 53 from the task to {servers}, or correct GMSA_DNS_SERVERS"
            )),
            Miss::Silence => fault.with_next(format!(
                "allow UDP and TCP port 53 from the task to {servers}, or set GMSA_DNS_SERVERS to servers that it reaches"
            )),
            Miss::Failed(_) => fault.with_next(format!(
                "look at the DNS server, which fails for `{name}`: {}",
                current.servers.first().map(|server| nslookup(name, server, missing)).unwrap_or_default()
            )),
            _ if fixed => fault.owned_by(Owner::TaskDefinition).with_next(format!(
                "set GMSA_DNS_SERVERS to DNS servers that know `{subject}`, usually its domain controllers; {servers} \
                 does not"
            )),
            _ => fault.with_next(format!(
                "forward `{subject}` to the DNS servers of the domain (a Route 53 Resolver rule, or the DHCP options of \
                 the VPC), or set GMSA_DNS_SERVERS to them"
            )),
        }
    }
}

impl Current {
    /// The records of a name, of all types that the answer holds, bounded.
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, Miss> {
        let mut asked = Name::from_ascii(name).map_err(|error| Miss::Failed(short(&error.to_string())))?;
        asked.set_fqdn(true);
        let servers: Vec<_> = self.servers.iter().take(NAMED).map(server_name).collect();
        let peer = format!("DNS {} for {name}", servers.join(", "));
        let answer = timeout(DNS_DEADLINE, self.resolver.lookup(asked, kind));
        match progress::during("dc", peer, DNS_DEADLINE, answer).await {
            Ok(Ok(lookup)) => Ok(lookup.answers().iter().take(RECORDS).map(|record| record.data.clone()).collect()),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => Err(match none.response_code {
                ResponseCode::NXDomain => Miss::NoName,
                ResponseCode::NoError => Miss::NoRecord,
                other => Miss::Failed(format!("the server answers {}", other.to_str())),
            }),
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => {
                Err(Miss::Failed(format!("the server answers {}", code.to_str())))
            }
            Ok(Err(NetError::Timeout)) | Err(_) => Err(Miss::Silence),
            Ok(Err(error)) => Err(Miss::Failed(short(&error.to_string()))),
        }
    }
}

impl Current {
    /// The name that an owner without SRV records is an alias of. The resolver follows aliases itself, but takes the target
    /// of the SRV record that it finds there for one more alias, and so finds nothing.
    async fn alias(&self, name: &str, miss: &Miss) -> Option<String> {
        if !matches!(miss, Miss::NoName | Miss::NoRecord) {
            return None;
        }
        let answers = self.ask(name, RecordType::CNAME).await.ok()?;
        answers.iter().find_map(|data| match data {
            RData::CNAME(alias) => Some(alias.0.to_ascii().trim_end_matches('.').to_owned()),
            _ => None,
        })
    }
}

/// Why a question brought nothing.
enum Miss {
    NoName,
    NoRecord,
    /// There are records, but none that names a host.
    Useless,
    Circle,
    Failed(String),
    Silence,
}

/// A DNS server may answer anything: a target that is not a host name is passed over.
fn target(data: &RData) -> Option<Target> {
    let RData::SRV(srv) = data else { return None };
    let host = srv.target.to_ascii().parse().ok()?;
    Some(Target { priority: srv.priority, weight: srv.weight, host })
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// The question again, for a person.
fn nslookup(name: &str, server: &SocketAddr, missing: Code) -> String {
    let kind = if missing == Code::DcSrvNotFound { "srv" } else { "a" };
    let port = if server.port() == 53 { String::new() } else { format!(" -port={}", server.port()) };
    format!("nslookup -type={kind}{port} {} {}", shell(name), server.ip())
}

/// `10.0.0.2`, or with a port that is not DNS's own `10.0.0.2:5353`.
pub(super) fn server_name(server: &SocketAddr) -> String {
    if server.port() == 53 { server.ip().to_string() } else { server.to_string() }
}

/// The DNS servers of `/etc/resolv.conf`.
pub(super) fn system_servers() -> Vec<SocketAddr> {
    let servers = read_system_conf().map(|(config, _)| config.name_servers().to_vec()).unwrap_or_default();
    servers.iter().map(|server| SocketAddr::new(server.ip, 53)).collect()
}

/// Another crate's words, escaped and cut.
fn short(text: &str) -> String {
    text.escape_debug().take(200).collect()
}

/// For one query to one server; there are two attempts.
const QUERY_DEADLINE: Duration = Duration::from_secs(1);
/// For a name, all servers and attempts included.
pub(super) const DNS_DEADLINE: Duration = Duration::from_secs(5);
/// How many domain controllers of a domain count.
const TARGETS: usize = 256;
/// How many records of an answer are looked at.
const RECORDS: usize = 512;
const ADDRESSES: usize = 16;
/// How many aliases are followed.
const ALIASES: usize = 4;
/// How many names are cached.
const CACHED: u64 = 16;
/// How many servers a fault names.
const NAMED: usize = 5;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn labels(name: &str) -> Vec<u8> {
        let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
        name.split('.').chain([""]).flat_map(label).collect()
    }

    /// A DNS server that knows one record of each name, of a type and with data (RFC 1035 section 4.1).
    /// With `whole` it also tells what the name behind an alias has, as servers do that know both.
    fn server(records: &'static [(&'static str, u8, &'static str)], whole: bool) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let record = |owner: &[u8], kind: u8, data: &str| {
            let data = match kind {
                1 => data.parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec(),
                33 => [[0, 0, 0, 100, 1, 0x85].as_slice(), &labels(data)].concat(),
                _ => labels(data),
            };
            [owner, &[0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()], &data].concat()
        };
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                let asked = question[..length].to_ascii_lowercase();
                let end = 12 + asked[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
                let named = records.iter().find(|(name, ..)| asked[12..end - 4] == labels(name));
                let known = named.filter(|(_, kind, _)| *kind == asked[end - 3] || *kind == 5);
                let mut told: Vec<_> = known.iter().map(|(_, kind, data)| record(&[0xc0, 12], *kind, data)).collect();
                let behind = known.filter(|(_, kind, _)| whole && *kind == 5);
                let behind = behind.and_then(|(.., alias)| records.iter().find(|(name, ..)| name == alias));
                told.extend(behind.map(|(name, kind, data)| record(&labels(name), *kind, data)));
                let (count, code) = (u8::try_from(told.len()).unwrap(), if named.is_some() { 0x80 } else { 0x83 });
                let head = [&question[..2], &[0x85, code, 0, 1, 0, count, 0, 0, 0, 0], &question[12..end]].concat();
                socket.send_to(&[head, told.concat()].concat(), from).unwrap();
            }
        });
        Dns::new(&[address])
    }

    async fn hosts(dns: &Dns, domain: &str) -> Vec<String> {
        let targets = dns.controllers(&domain.parse().unwrap(), None).await.unwrap();
        targets.into_iter().map(|target| target.host.to_string()).collect()
    }

    #[tokio::test]
    async fn names_with_an_inner_underscore_are_asked_for() {
        let dns = server(
            &[
                ("_ldap._tcp.dc._msdcs.my_corp.example.com", 33, "dc_1.my_corp.example.com"),
                ("dc_1.my_corp.example.com", 1, "10.0.0.1"),
            ],
            false,
        );
        assert_eq!(hosts(&dns, "my_corp.example.com").await, ["dc_1.my_corp.example.com"]);
        let host = "dc_1.my_corp.example.com".parse().unwrap();
        assert_eq!(dns.addresses(&host).await.unwrap(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn an_owner_of_srv_records_that_is_an_alias_is_followed_and_a_circle_is_not() {
        const RECORDS: &[(&str, u8, &str)] = &[
            ("_ldap._tcp.dc._msdcs.corp.example.com", 5, "_ldap._tcp.elsewhere.example.com"),
            ("_ldap._tcp.elsewhere.example.com", 33, "dc1.corp.example.com"),
            ("_ldap._tcp.dc._msdcs.circle.example.com", 5, "_ldap._tcp.round.example.com"),
            ("_ldap._tcp.round.example.com", 5, "_ldap._tcp.dc._msdcs.circle.example.com"),
        ];
        for whole in [false, true] {
            let dns = server(RECORDS, whole);
            assert_eq!(hosts(&dns, "corp.example.com").await, ["dc1.corp.example.com"], "{whole}");
            let circle = dns.controllers(&"circle.example.com".parse().unwrap(), None).await.unwrap_err();
            assert!([Code::DcSrvNotFound, Code::DcDnsUnreachable].contains(&circle.code), "{circle:?}");
        }
    }
}
