//! What `GET /metrics` tells, in the Prometheus text format. The names are part of the interface.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::clock;
use crate::fault::Code;
use crate::lease::status::{Identity, Status};
use crate::log;

/// The counters of this process. What [`Status`] knows is not counted again but read at each scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ready: Gauge,
    expiry: Family<LeaseLabels, Gauge>,
    services: Family<ServiceLabels, Gauge>,
    renewals: Family<RenewalLabels, Counter>,
    duration: Family<LeaseLabels, Histogram, fn() -> Histogram>,
    faults: Family<FaultLabels, Counter>,
    clock: Family<LeaseLabels, Gauge>,
    /// How many leases count under which labels: several may keep tickets of one gMSA.
    leases: Mutex<HashMap<LeaseLabels, usize>>,
    dropped: Counter,
    unused: Counter,
}

impl Metrics {
    /// All counters at nought.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let ready = Gauge::default();
        let expiry = Family::default();
        let services = Family::default();
        let renewals = Family::default();
        let duration = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        let faults = Family::default();
        let clock = Family::default();
        let (dropped, unused) = (Counter::default(), Counter::default());
        let build = Family::<BuildLabels, Gauge<u64, AtomicU64>>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);

        registry.register("gmsa_ready", "Whether every lease holds a valid ticket", ready.clone());
        registry.register("gmsa_ticket_expiry_timestamp_seconds", "When the ticket expires", expiry.clone());
        registry.register(
            "gmsa_service_ticket_expiry_timestamp_seconds",
            "When the ticket for a service expires; 0 while there is none",
            services.clone(),
        );
        // The encoder adds `_total` to the names of counters.
        registry.register(RENEWALS, "Attempts to get a ticket", renewals.clone());
        registry.register("gmsa_renewal_duration_seconds", "How long an attempt took", duration.clone());
        registry.register(FAULTS, "Faults, by their code", faults.clone());
        registry.register(
            "gmsa_clock_offset_seconds",
            "How far the KDC's clock is ahead of ours; 0 below a minute",
            clock.clone(),
        );
        registry.register(DROPPED, "Log lines dropped because nothing reads stderr", dropped.clone());
        registry.register("gmsa_build_info", "The version that runs", build);
        let leases = Mutex::default();
        Self { registry, ready, expiry, services, renewals, duration, faults, clock, leases, dropped, unused }
    }

    /// With what only the daemon of a host counts.
    #[must_use]
    pub fn of_host(mut self) -> Self {
        let help = "Leases that were removed because no container had mounted them for a day";
        self.registry.register(UNUSED, help, self.unused.clone());
        self
    }

    /// A lease was removed because nobody used it.
    pub fn unused(&self) {
        self.unused.inc();
    }

    /// A lease begins.
    pub fn began(&self, identity: &Identity) {
        *self.leases().entry(identity.into()).or_default() += 1;
    }

    /// A lease has ended: what was counted for it goes with the last one of its gMSA.
    pub fn ended(&self, identity: &Identity) {
        let labels: LeaseLabels = identity.into();
        let mut leases = self.leases();
        match leases.get_mut(&labels) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                leases.remove(&labels);
                self.duration.remove(&labels);
                self.clock.remove(&labels);
                let LeaseLabels { account, realm } = labels;
                for result in [SUCCESS, FAILURE] {
                    let labels = RenewalLabels { account: account.clone(), realm: realm.clone(), result };
                    self.renewals.remove(&labels);
                }
            }
        }
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<LeaseLabels, usize>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a ticket got within `took`.
    pub fn renewed(&self, identity: &Identity, took: Duration) {
        self.attempted(identity, took, SUCCESS);
    }

    /// Notes how far the clock of the KDC that gave the last ticket is ahead of ours, in seconds.
    pub fn clock_offset(&self, identity: &Identity, seconds: i64) {
        self.clock.get_or_create(&identity.into()).set(seconds);
    }

    /// Counts an attempt that failed after `took`, and its fault.
    pub fn failed(&self, identity: &Identity, took: Duration, code: Code) {
        self.attempted(identity, took, FAILURE);
        self.fault(code);
    }

    /// Counts a fault that belongs to no attempt: of discovery, or of a CredSpec that names nobody yet.
    pub fn fault(&self, code: Code) {
        self.faults.get_or_create(&FaultLabels { code: code.name() }).inc();
    }

    fn attempted(&self, identity: &Identity, took: Duration, result: &'static str) {
        let LeaseLabels { account, realm } = identity.into();
        self.renewals.get_or_create(&RenewalLabels { account, realm, result }).inc();
        self.duration.get_or_create(&identity.into()).observe(took.as_secs_f64());
    }

    /// The answer to a scrape.
    pub fn render(&self, status: &Status, now: SystemTime) -> String {
        self.ready.set(i64::from(status.is_ready(now)));
        self.expiry.clear();
        self.services.clear();
        self.dropped.inner().store(log::dropped(), Ordering::Relaxed);
        for lease in &status.leases {
            let (Some(identity), Some(held)) = (&lease.identity, lease.state.held()) else { continue };
            // Of several leases of one gMSA the ticket that ends first counts.
            let ends = clock::unix(held.expires_at);
            let expiry = self.expiry.get_or_create(&identity.into());
            expiry.set(if expiry.get() == 0 { ends } else { expiry.get().min(ends) });
            drop(expiry);
            for ticket in &held.services {
                let LeaseLabels { account, realm } = identity.into();
                let labels = ServiceLabels { account, realm, service: ticket.spn.to_string() };
                self.services.get_or_create(&labels).set(ticket.expires_at.map_or(0, clock::unix));
            }
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode_registry(&mut text, &self.registry);
        // OpenMetrics describes a counter without its `_total`; the older format, which every scraper reads, with it.
        for counter in COUNTERS {
            for about in ["# HELP", "# TYPE"] {
                text = text.replace(&format!("{about} {counter} "), &format!("{about} {counter}_total "));
            }
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const SUCCESS: &str = "success";
const FAILURE: &str = "failure";
const RENEWALS: &str = "gmsa_renewals";
const FAULTS: &str = "gmsa_faults";
const DROPPED: &str = "gmsa_log_dropped";
const UNUSED: &str = "gmsa_host_leases_unused";
const COUNTERS: [&str; 4] = [RENEWALS, FAULTS, DROPPED, UNUSED];

/// From a ticket out of the next rack to an attempt that waited for every deadline.
const SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabels {
    account: String,
    realm: String,
}

impl From<&Identity> for LeaseLabels {
    fn from(identity: &Identity) -> Self {
        Self { account: identity.account.to_string(), realm: identity.domain.realm() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    account: String,
    realm: String,
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RenewalLabels {
    account: String,
    realm: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::status::{HeldTicket, LeaseKey, LeaseState, LeaseStatus, Order};

    fn status(expires_at: SystemTime, identity: &Identity) -> Status {
        let spn = "MSSQLSvc/db.example.com:1433".parse().unwrap();
        let services = vec![crate::lease::ServiceHeld { spn, expires_at: Some(expires_at) }];
        let held = HeldTicket { services, ..HeldTicket::found(expires_at, expires_at) };
        let lease = LeaseStatus {
            key: LeaseKey::default(),
            order: Order::default(),
            spec: "inline".to_owned(),
            identity: Some(identity.clone()),
            state: LeaseState::Held(held),
            was_ready: true,
            next_renewal_at: None,
            attempts: 1,
            history: std::collections::VecDeque::new(),
        };
        Status { leases: vec![lease], ..Status::default() }
    }

    #[test]
    fn a_scrape_tells_everything_by_its_name() {
        let metrics = Metrics::new();
        let identity = Identity {
            account: "WebApp01".parse().unwrap(),
            domain: "corp.example.com".parse().unwrap(),
            path: "/krbdir/WebApp01/krb5cc".into(),
        };
        metrics.renewed(&identity, Duration::from_millis(120));
        metrics.clock_offset(&identity, -90);
        metrics.failed(&identity, Duration::from_secs(20), Code::DcUnreachable);
        metrics.fault(Code::TaskMetadataUnreachable);
        let expiry = clock::from_unix(1_800_000_000);
        let text = metrics.render(&status(expiry, &identity), clock::from_unix(1_799_999_999));
        let told: Vec<_> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        // The order of label sets is that of a hash map.
        let (mut bucketless, buckets): (Vec<_>, Vec<_>) = told.into_iter().partition(|line| !line.contains("_bucket{"));
        assert_eq!(buckets.len(), SECONDS.len() + 1);
        bucketless.sort_unstable();
        insta::assert_snapshot!(bucketless.join("\n").replace(env!("CARGO_PKG_VERSION"), "VERSION"), @r#"
        # TYPE gmsa_build_info gauge
        # TYPE gmsa_clock_offset_seconds gauge
        # TYPE gmsa_faults_total counter
        # TYPE gmsa_log_dropped_total counter
        # TYPE gmsa_ready gauge
        # TYPE gmsa_renewal_duration_seconds histogram
        # TYPE gmsa_renewals_total counter
        # TYPE gmsa_service_ticket_expiry_timestamp_seconds gauge
        # TYPE gmsa_ticket_expiry_timestamp_seconds gauge
        gmsa_build_info{version="VERSION"} 1
        gmsa_clock_offset_seconds{account="WebApp01",realm="CORP.EXAMPLE.COM"} -90
        gmsa_faults_total{code="dc-unreachable"} 1
        gmsa_faults_total{code="task-metadata-unreachable"} 1
        gmsa_log_dropped_total 0
        gmsa_ready 1
        gmsa_renewal_duration_seconds_count{account="WebApp01",realm="CORP.EXAMPLE.COM"} 2
        gmsa_renewal_duration_seconds_sum{account="WebApp01",realm="CORP.EXAMPLE.COM"} 20.12
        gmsa_renewals_total{account="WebApp01",realm="CORP.EXAMPLE.COM",result="failure"} 1
        gmsa_renewals_total{account="WebApp01",realm="CORP.EXAMPLE.COM",result="success"} 1
        gmsa_service_ticket_expiry_timestamp_seconds{account="WebApp01",realm="CORP.EXAMPLE.COM",service="MSSQLSvc/db.example.com:1433"} 1800000000
        gmsa_ticket_expiry_timestamp_seconds{account="WebApp01",realm="CORP.EXAMPLE.COM"} 1800000000
        "#);

        assert!(metrics.render(&status(expiry, &identity), expiry).contains("\ngmsa_ready 0\n"), "expired");
        assert!(!metrics.render(&Status::default(), expiry).contains("gmsa_ticket_expiry_timestamp_seconds{"));
    }

    #[test]
    fn a_host_counts_unused_leases_and_tells_the_first_end_of_several_tickets() {
        let identity = Identity {
            account: "WebApp01".parse().unwrap(),
            domain: "corp.example.com".parse().unwrap(),
            path: "/krbdir/a/WebApp01/krb5cc".into(),
        };
        let metrics = Metrics::new().of_host();
        metrics.unused();
        let mut all = Status::default();
        for end in [1_800_000_500, 1_800_000_000, 1_800_000_900] {
            all.leases.extend(status(clock::from_unix(end), &identity).leases);
        }
        for _ in 0..2 {
            let text = metrics.render(&all, clock::from_unix(1_799_999_999));
            let line =
                "gmsa_ticket_expiry_timestamp_seconds{account=\"WebApp01\",realm=\"CORP.EXAMPLE.COM\"} 1800000000\n";
            assert!(text.contains(line), "{text}");
            assert!(
                text.contains("# TYPE gmsa_host_leases_unused_total counter\ngmsa_host_leases_unused_total 1\n"),
                "{text}"
            );
        }
    }
}
