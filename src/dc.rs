//! DNS -> domain controllers, in the order of preference, and the connections to them.
//!
//! Names are asked for as they are, with a final dot: no search list, never a reverse look-up. What a DC is called
//! is what its SRV record says.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::DomainControllers;
use crate::fault::{Code, Fault};
use crate::name::{Domain, Host};

/// Finds domain controllers.
pub struct Locator {
    resolver: TokioResolver,
    /// For the faults: who was asked.
    servers: String,
    configured: DomainControllers,
}

impl Locator {
    /// A locator that asks `servers`, or those of `/etc/resolv.conf` where none are given.
    pub fn new(servers: &[SocketAddr], configured: DomainControllers) -> Result<Self, Fault> {
        let (config, mut options) = if servers.is_empty() {
            read_system_conf()
                .map_err(|error| Fault::new(Code::DcDnsUnreachable, "no DNS server is known").caused_by(&error))?
        } else {
            let servers = servers.iter().map(name_server).collect();
            (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
        };
        let servers: Vec<_> = config.name_servers().iter().map(|server| server.ip.to_string()).collect();
        options.timeout = QUERY_DEADLINE;
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        let resolver = builder
            .build()
            .map_err(|error| Fault::new(Code::DcDnsUnreachable, "the resolver cannot start").caused_by(&error))?;
        Ok(Self { resolver, servers: format!("asked {}", servers.join(", ")), configured })
    }

    /// The domain controllers of a domain, best first: those configured, else those of the SRV record
    /// `_ldap._tcp.dc._msdcs.<domain>` (MS-ADTS 6.3.2.3). Never empty.
    pub async fn locate(&self, domain: &Domain) -> Result<Vec<Host>, Fault> {
        let configured = self.configured.of(domain);
        if !configured.is_empty() {
            return Ok(configured.to_vec());
        }
        let name = format!("_ldap._tcp.dc._msdcs.{domain}");
        let what = format!("no domain controller is known for `{domain}`");
        let lookup = self.resolver.lookup(format!("{name}."), RecordType::SRV);
        let lookup = match timeout(DNS_DEADLINE, lookup).await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(error)) if is_negative(&error) => {
                let why = format!("DNS has no record `{name}` ({})", self.servers);
                return Err(Fault::new(Code::DcSrvNotFound, what).because(why));
            }
            Ok(Err(error)) => {
                let why = format!("the question for `{name}` failed ({}): {error}", self.servers);
                return Err(Fault::new(Code::DcDnsUnreachable, what).because(why));
            }
            Err(_elapsed) => {
                let why = format!("no answer for `{name}` in {DNS_DEADLINE:?} ({})", self.servers);
                return Err(Fault::new(Code::DcDnsUnreachable, what).because(why));
            }
        };
        let targets = lookup.answers().iter().filter_map(|record| match &record.data {
            // A DNS server may answer anything: a target that is no host name is passed over.
            RData::SRV(srv) => srv.target.to_ascii().parse().ok().map(|host| Target {
                priority: srv.priority,
                weight: srv.weight,
                host,
            }),
            _ => None,
        });
        let hosts = order(targets.collect(), &mut rand::thread_rng());
        if hosts.is_empty() {
            return Err(Fault::new(Code::DcSrvNotFound, what).because(format!("`{name}` names no host")));
        }
        Ok(hosts)
    }

    /// The addresses of a host, IPv4 and IPv6. Never empty.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Fault> {
        let fault = |code| Fault::new(code, format!("the domain controller `{host}` has no address"));
        match timeout(DNS_DEADLINE, self.resolver.lookup_ip(format!("{host}."))).await {
            Ok(Ok(lookup)) => {
                let addresses: Vec<_> = lookup.iter().collect();
                if addresses.is_empty() {
                    return Err(fault(Code::DcAddressNotFound).because("DNS has neither A nor AAAA records"));
                }
                Ok(addresses)
            }
            Ok(Err(error)) if is_negative(&error) => {
                let why = format!("DNS has neither A nor AAAA records ({})", self.servers);
                Err(fault(Code::DcAddressNotFound).because(why))
            }
            Ok(Err(error)) => Err(fault(Code::DcDnsUnreachable).because(format!("{error} ({})", self.servers))),
            Err(_elapsed) => {
                let why = format!("no answer in {DNS_DEADLINE:?} ({})", self.servers);
                Err(fault(Code::DcDnsUnreachable).because(why))
            }
        }
    }
}

/// Connects to one of a host's addresses; the first that answers wins. Each gets its deadline, so a DC that hangs
/// costs little.
pub async fn dial(host: &Host, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Fault> {
    let mut failures = Vec::new();
    for &address in addresses {
        #[expect(clippy::disallowed_methods, reason = "this is the one door to the network of the domain")]
        let connect = TcpStream::connect((address, port));
        match timeout(CONNECT_DEADLINE, connect).await {
            Ok(Ok(stream)) => {
                // Every message is one write and waits for its answer: Nagle could only delay it. A kernel that
                // refuses the option costs time, not correctness.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_elapsed) => failures.push(format!("{address}: no answer in {CONNECT_DEADLINE:?}")),
        }
    }
    let what = format!("the domain controller `{host}` cannot be reached on TCP port {port}");
    Err(Fault::new(Code::DcUnreachable, what).because(failures.join("; ")))
}

/// A kept connection to a KDC: each message is a length of four octets, network order, and the message (RFC 4120
/// section 7.2.2). Some KDCs close it after each reply, so a request on a closed one dials again.
pub struct KdcConnection {
    host: Host,
    addresses: Vec<IpAddr>,
    stream: Option<TcpStream>,
}

impl KdcConnection {
    /// Connects to port 88.
    pub async fn open(host: Host, addresses: Vec<IpAddr>) -> Result<Self, Fault> {
        let stream = dial(&host, &addresses, KDC_PORT).await?;
        Ok(Self { host, addresses, stream: Some(stream) })
    }

    /// The KDC's name.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// One request and its reply. Sending a request again on a new connection is safe: the KDC took no notice of one
    /// that it closed the connection on.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        if let Some(stream) = &mut self.stream {
            match timeout(KDC_DEADLINE, converse(stream, request)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) if closed(&error) => self.stream = None,
                Ok(Err(error)) => return Err(self.lost(&error.to_string())),
                Err(_elapsed) => return Err(self.lost(&format!("no answer in {KDC_DEADLINE:?}"))),
            }
        }
        let mut stream = dial(&self.host, &self.addresses, KDC_PORT).await?;
        match timeout(KDC_DEADLINE, converse(&mut stream, request)).await {
            Ok(Ok(reply)) => {
                self.stream = Some(stream);
                Ok(reply)
            }
            Ok(Err(error)) => Err(self.lost(&error.to_string())),
            Err(_elapsed) => Err(self.lost(&format!("no answer in {KDC_DEADLINE:?}"))),
        }
    }

    fn lost(&mut self, why: &str) -> Fault {
        self.stream = None;
        Fault::new(Code::DcUnreachable, format!("the KDC on `{}` does not answer", self.host)).because(why)
    }
}

async fn converse(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(request);
    stream.write_all(&message).await?;
    let length = usize::try_from(stream.read_u32().await?).map_err(io::Error::other)?;
    if length > KDC_REPLY_LIMIT {
        return Err(io::Error::other(format!("a reply of {length} bytes, more than is allowed")));
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn is_negative(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(_)))
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    priority: u16,
    weight: u16,
    host: Host,
}

/// The order of RFC 2782: by priority, within one at random by weight, a weight of zero hardly ever first.
fn order(mut targets: Vec<Target>, random: &mut impl Rng) -> Vec<Host> {
    // Zero weights stand first within a priority, as the RFC's running sum wants it.
    targets.sort_by_key(|target| (target.priority, target.weight));
    let mut hosts = Vec::with_capacity(targets.len());
    while let Some(first) = targets.first() {
        let priority = first.priority;
        let same = targets.iter().take_while(|target| target.priority == priority);
        let total: u32 = same.map(|target| u32::from(target.weight)).sum();
        let mut left = random.gen_range(0..=total);
        let chosen = targets.iter().position(|target| {
            let weight = u32::from(target.weight);
            let taken = left <= weight;
            left = left.saturating_sub(weight);
            taken
        });
        hosts.push(targets.remove(chosen.unwrap_or(0)).host);
    }
    hosts
}

/// A DC that does not take a connection in this time is passed over.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// A KDC answers in milliseconds; one that hangs is passed over.
const KDC_DEADLINE: Duration = Duration::from_secs(2);
/// For one query to one server; there are two attempts.
const QUERY_DEADLINE: Duration = Duration::from_secs(1);
/// For a name, all servers and attempts included.
const DNS_DEADLINE: Duration = Duration::from_secs(5);
const KDC_REPLY_LIMIT: usize = 128 << 10;
const KDC_PORT: u16 = 88;
/// LDAP, sealed by SASL.
pub const LDAP_PORT: u16 = 389;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn target(priority: u16, weight: u16, host: &str) -> Target {
        Target { priority, weight, host: host.parse().unwrap() }
    }

    #[test]
    fn priorities_come_first_and_weights_share_the_load() {
        let targets =
            vec![target(10, 0, "late"), target(0, 75, "heavy"), target(0, 25, "light"), target(0, 0, "never")];
        let mut first = HashMap::new();
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..1000 {
            let hosts = order(targets.clone(), &mut random);
            assert_eq!(hosts.len(), 4);
            assert_eq!(hosts[3].as_str(), "late");
            *first.entry(hosts[0].as_str().to_owned()).or_insert(0) += 1;
        }
        assert!((700..800).contains(&first["heavy"]), "{first:?}");
        assert!((200..300).contains(&first["light"]), "{first:?}");
        assert!(first.get("never").copied().unwrap_or(0) < 30, "{first:?}");
    }

    #[test]
    fn no_targets_are_no_hosts() {
        assert!(order(Vec::new(), &mut StdRng::seed_from_u64(1)).is_empty());
    }
}
