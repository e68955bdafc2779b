//! A request to renew everything now: `POST /refresh`, SIGHUP and a clock that is set ask, the leases wait.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Where a refresh is asked for and waited for; clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Refresh(watch::Sender<Option<Instant>>);

impl Refresh {
    /// Asks every lease to renew now. Requests that come while the leases are busy become one.
    ///
    /// # Errors
    /// How long to wait, if the last request was granted less than ten seconds ago.
    pub fn ask(&self, now: Instant) -> Result<(), Duration> {
        let mut answer = Ok(());
        self.0.send_if_modified(|last| {
            answer = decide(*last, now);
            if answer.is_ok() {
                *last = Some(now);
            }
            answer.is_ok()
        });
        answer
    }

    /// Asks every lease to renew now, for a reason of the sidecar's own: however soon it comes after the last request.
    pub fn insist(&self, now: Instant) {
        self.0.send_replace(Some(now));
    }

    /// The requests granted from now on.
    pub fn requests(&self) -> Requests {
        Requests(self.0.subscribe())
    }
}

/// A lease's end of [`Refresh`].
#[derive(Debug)]
pub struct Requests(watch::Receiver<Option<Instant>>);

impl Requests {
    /// Waits for a request not seen yet. Safe to cancel.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could ask.
            std::future::pending::<()>().await;
        }
    }
}

/// Whether a request at `now` is granted, given when the last one was.
fn decide(last: Option<Instant>, now: Instant) -> Result<(), Duration> {
    let wait = last.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(now.saturating_duration_since(last)));
    if wait.is_zero() { Ok(()) } else { Err(wait) }
}

/// The least time between two refreshes.
const PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_request_in_ten_seconds_is_granted() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(decide(None, start), Ok(()));
        assert_eq!(decide(Some(start), start), Err(Duration::from_secs(10)));
        assert_eq!(decide(Some(start), after(7)), Err(Duration::from_secs(3)));
        assert_eq!(decide(Some(start), after(10)), Ok(()));
        assert_eq!(decide(Some(after(5)), start), Err(Duration::from_secs(10)), "a request from the past");
    }

    #[tokio::test]
    async fn requests_reach_every_lease_once() {
        let refresh = Refresh::default();
        let (mut one, mut two) = (refresh.requests(), refresh.requests());
        let now = Instant::now();
        assert_eq!(refresh.clone().ask(now), Ok(()));
        assert_eq!(refresh.ask(now + PAUSE), Ok(()), "coalesced with the first");
        assert!(refresh.ask(now + PAUSE).is_err());
        one.next().await;
        two.next().await;
        let more = tokio::time::timeout(Duration::from_millis(50), one.next()).await;
        assert!(more.is_err(), "one request woke a lease twice");
    }
}
