//! A gMSA's renewable TGT: kept where no container sees it, it gets further tickets without the gMSA's key.

use std::time::SystemTime;

use super::GmsaTgt;
use super::ccache::Cache;
use super::crypto::Key;
use super::principal::Principal;
use super::tickets::{Credentials, Ticket};
use crate::clock;
use crate::name::Account;

/// The TGT in a ccache, if it is this gMSA's, good at `now` and can be renewed beyond that.
pub fn renewable(image: &[u8], account: &Account, realm: &str, now: SystemTime) -> Option<GmsaTgt> {
    let cache = Cache::decode(image)?;
    let tgs = Principal::krbtgt(realm);
    let seconds = clock::unix(now);
    let good = cache.entries.iter().filter(|entry| {
        let (client, server) = (&entry.client, &entry.server);
        entry.is_good(seconds) && client.realm == realm && server.same_as(&tgs) && entry.endtime < entry.renew_till
    });
    let entry = good.max_by_key(|entry| entry.renew_till)?;
    let credentials = Credentials {
        client: entry.client.clone(),
        server: Principal { name_type: super::NT_SRV_INST, ..tgs.clone() },
        session_key: Key::new(entry.enctype, entry.key).ok()?,
        authtime: entry.authtime,
        starttime: entry.starttime,
        endtime: entry.endtime,
        renew_till: entry.renew_till,
        flags: entry.flags,
        ticket: entry.ticket.to_vec(),
    };
    Ticket { credentials, offset: 0 }.into_gmsa_tgt(account).ok()
}

impl GmsaTgt {
    /// Until when it can be renewed, by the KDC's clock; none if it cannot.
    pub fn renewable_until(&self) -> Option<SystemTime> {
        let till = self.as_ticket().credentials.renew_till;
        (till > self.as_ticket().credentials.endtime).then(|| clock::from_unix(till.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kerberos::ccache::sample;

    #[test]
    fn only_a_tgt_of_the_gmsa_that_can_be_renewed_counts() {
        let account: Account = "WebApp01".parse().unwrap();
        let krbtgt: &[&str] = &["krbtgt", "EXAMPLE.COM"];
        let read = |image: &[u8], now| renewable(image, &account, "EXAMPLE.COM", clock::from_unix(now));
        let can = |client: &str, server| sample::cache(client, &[sample::WrittenTicket(server, 100, 200)]);
        assert_eq!(
            read(&can("WebApp01$", krbtgt), 150).unwrap().renewable_until(),
            Some(clock::from_unix(200 + 86_400))
        );
        assert!(read(&can("WebApp01$", krbtgt), 200).is_none(), "it has expired");
        assert!(read(&can("Other$", krbtgt), 150).is_none());
        assert!(read(&can("WebApp01$", &["HTTP", "web"]), 150).is_none());
        let cannot = sample::cache("WebApp01$", &[sample::WrittenTicket(krbtgt, 100, u32::MAX)]);
        assert!(read(&cannot, 150).is_none(), "it cannot be renewed");
        assert!(read(b"", 150).is_none());
    }
}
