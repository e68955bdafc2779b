//! Attempts side by side, each a moment after the one before: the idea of RFC 8305 section 5, for hosts.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

/// What came of a race. Attempts are known by their place in the order of preference.
pub(super) struct Race<T, E, F> {
    /// The first that succeeded; of several at the same moment the most preferred.
    pub(super) winner: Option<(usize, T)>,
    /// Those that failed before, and why.
    pub(super) failed: Vec<(usize, E)>,
    /// Those still under way. Dropping them ends them.
    pub(super) pending: FuturesUnordered<F>,
    /// How many were begun.
    pub(super) begun: usize,
}

/// Runs `count` attempts until one succeeds. The second begins after [`HEAD_START`], each further one after another
/// [`STEP`], or at once when one has failed; at most [`PENDING`] are under way.
pub(super) async fn race<T, E, F, Attempt>(count: usize, attempt: Attempt) -> Race<T, E, F>
where
    F: Future<Output = (usize, Result<T, E>)>,
    Attempt: Fn(usize) -> F,
{
    let mut race = Race { winner: None, failed: Vec::new(), pending: FuturesUnordered::new(), begun: 0 };
    let mut next_start = Instant::now();
    while race.winner.is_none() && race.failed.len() < count {
        let may_begin = race.begun < count && race.pending.len() < PENDING;
        tokio::select! {
            biased;
            Some(ended) = race.pending.next() => match ended {
                (place, Ok(won)) => race.winner = Some((place, won)),
                (place, Err(error)) => {
                    race.failed.push((place, error));
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if may_begin => {
                next_start = Instant::now() + if race.begun == 0 { HEAD_START } else { STEP };
                race.pending.push(attempt(race.begun));
                race.begun += 1;
            }
        }
    }
    while let Some(Some((place, ended))) = race.pending.next().now_or_never() {
        match (ended, &race.winner) {
            (Ok(won), Some((first, _))) if place < *first => race.winner = Some((place, won)),
            (Ok(_later), _) => {}
            (Err(error), _) => race.failed.push((place, error)),
        }
    }
    race
}

/// What the first has before the second is tried too: longer than a round trip around the world.
const HEAD_START: Duration = Duration::from_millis(250);
/// Between the starts of the further ones.
pub(super) const STEP: Duration = Duration::from_millis(50);
/// How many are under way at the same time.
pub(super) const PENDING: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    /// Races hosts that answer (`Some`) or never do; returns the winner, when, and how many were begun.
    async fn run(hosts: &[Option<u64>], dead_for: u64) -> (Option<usize>, Duration, usize) {
        let start = Instant::now();
        let begun = std::cell::Cell::new(0);
        let attempt = |place: usize| {
            begun.set(begun.get() + 1);
            let answers = hosts[place];
            async move {
                sleep(Duration::from_millis(answers.unwrap_or(dead_for))).await;
                (place, answers.map(|_| ()).ok_or("no answer"))
            }
        };
        let race = race(hosts.len(), attempt).await;
        (race.winner.map(|(place, ())| place), start.elapsed(), begun.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_that_answers_is_the_only_one_asked() {
        assert_eq!(run(&[Some(200), Some(1)], 2000).await, (Some(0), Duration::from_millis(200), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_are_far_away_keep_their_order() {
        let (winner, took, _) = run(&[Some(300); 5], 2000).await;
        assert_eq!((winner, took), (Some(0), Duration::from_millis(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn nine_of_ten_dead_cost_less_than_a_second() {
        let mut hosts = vec![None; 9];
        hosts.push(Some(5));
        let (winner, took, _) = run(&hosts, 2000).await;
        assert_eq!(winner, Some(9));
        assert!(took < Duration::from_millis(700), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn fifty_nine_of_sixty_dead_cost_less_than_eight_seconds_and_sixteen_sockets() {
        let mut hosts = vec![None; 59];
        hosts.push(Some(5));
        let (winner, took, _) = run(&hosts, 2000).await;
        assert_eq!(winner, Some(59));
        assert!(took < Duration::from_secs(8), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_makes_room_at_once_and_all_failures_are_returned() {
        let start = Instant::now();
        let refused = |place: usize| async move { (place, Err::<(), _>(place)) };
        let race = race(20, refused).await;
        assert!(race.winner.is_none());
        assert_eq!(race.failed.len(), 20);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_answers_at_the_same_moment_the_preferred_one_counts() {
        // The first begins 250 ms before the second and takes as much longer.
        let (winner, _, begun) = run(&[Some(300), Some(50)], 2000).await;
        assert_eq!((winner, begun), (Some(0), 2));
    }
}
