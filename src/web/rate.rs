//! How often requests may come: `rate_limit` of the web configuration file.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::RateLimit;

/// A bucket of tokens, full at the beginning. Each request takes one, and one is added in each interval.
pub(super) struct RateLimiter {
    limit: RateLimit,
    /// When the bucket is full again; all there is to know of it.
    full_at: Mutex<Instant>,
}

impl RateLimiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self { limit, full_at: Mutex::new(Instant::now()) }
    }

    /// Takes a token for a request of this moment, if there is one.
    pub(super) fn allows(&self, now: Instant) -> bool {
        let RateLimit { interval, burst } = self.limit;
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = full_at.saturating_duration_since(now);
        if missing > interval.saturating_mul(burst.saturating_sub(1)) {
            return false;
        }
        // An interval of ages has no second token.
        let Some(next) = now.checked_add(missing.saturating_add(interval)) else { return false };
        *full_at = next;
        true
    }

    /// For how many seconds a client that was refused should stay away.
    pub(super) fn retry_after(&self) -> u64 {
        self.limit.interval.saturating_add(Duration::from_millis(999)).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(burst: u32) -> (RateLimiter, Instant) {
        (RateLimiter::new(RateLimit { interval: SECOND, burst }), Instant::now())
    }

    fn allowed(limiter: &RateLimiter, at: Instant, requests: usize) -> usize {
        (0..requests).filter(|_| limiter.allows(at)).count()
    }

    #[test]
    fn a_burst_passes_and_then_one_in_each_interval() {
        let (limiter, now) = limiter(3);
        assert_eq!(allowed(&limiter, now, 10), 3);
        assert_eq!(allowed(&limiter, now + SECOND / 2, 10), 0);
        assert_eq!(allowed(&limiter, now + SECOND, 10), 1);
        assert_eq!(allowed(&limiter, now + SECOND * 3, 10), 2);
        // However long nobody came, no more than a burst.
        assert_eq!(allowed(&limiter, now + SECOND * 1000, 10), 3);
        let (limiter, now) = self::limiter(1);
        assert_eq!(allowed(&limiter, now, 10), 1);
        assert_eq!(allowed(&limiter, now + SECOND, 10), 1);
        assert_eq!(limiter.retry_after(), 1);
        let ages =
            RateLimiter::new(RateLimit { interval: Duration::from_secs(u64::MAX / 4), burst: u32::MAX });
        assert!(allowed(&ages, now, 10) <= 2);
    }
}
