//! Users and passwords.
//!
//! bcrypt is slow on purpose, so that nobody tries all passwords. A password that was right is remembered, by a
//! keyed hash; and however many wrong ones come, one is worked on at a time, away from what answers requests. A wrong
//! one takes the same time whoever the user is, and whether or not there is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use tokio::sync::Semaphore;

/// Passwords that are checked or wait for it. Beyond that, requests are told to come back.
const MAX_QUEUED: usize = 16;

/// Checks users and passwords.
pub(super) struct Authenticator {
    key: hmac::Key,
    /// For each user, the keyed hash of the last correct credentials; at most one per user.
    verified: Mutex<HashMap<String, hmac::Tag>>,
    queue: Arc<Semaphore>,
    worker: Arc<Semaphore>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    Allowed,
    Denied,
    /// Too many passwords are being checked.
    Busy,
}

impl Authenticator {
    pub(super) fn new() -> Result<Self, String> {
        let random = ring::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random)
            .map_err(|_| "the system gives no random numbers".to_owned())?;
        Ok(Self {
            key,
            verified: Mutex::default(),
            queue: Arc::new(Semaphore::new(MAX_QUEUED)),
            worker: Arc::new(Semaphore::new(1)),
        })
    }

    /// Whether an `Authorization` header is that of one of `users`.
    pub(super) async fn check(
        &self,
        users: &BTreeMap<String, String>,
        header: Option<&HeaderValue>,
    ) -> Access {
        let Some((user, password)) = header.and_then(credentials) else { return Access::Denied };
        let hash = users.get(&user).cloned();
        let text = [user.as_bytes(), hash.as_deref().unwrap_or_default().as_bytes(), &password].map(|part| {
            let mut text = (part.len() as u64).to_be_bytes().to_vec();
            text.extend_from_slice(part);
            text
        });
        let text = text.concat();
        let was_right = {
            let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            verified.get(&user).is_some_and(|tag| hmac::verify(&self.key, &text, tag.as_ref()).is_ok())
        };
        if was_right && hash.is_some() {
            return Access::Allowed;
        }
        let Ok(queued) = Arc::clone(&self.queue).try_acquire_owned() else { return Access::Busy };
        let Ok(worker) = Arc::clone(&self.worker).acquire_owned().await else { return Access::Busy };
        let highest_cost = users.values().map(|hash| cost(hash)).max().unwrap_or_default();
        let checked = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a client that goes away does not end it.
            let _held = (queued, worker);
            is_right(&password, hash.as_deref(), highest_cost)
        });
        if !checked.await.unwrap_or(false) {
            return Access::Denied;
        }
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.retain(|user, _| users.contains_key(user));
        verified.insert(user, hmac::sign(&self.key, &text));
        Access::Allowed
    }
}

/// Whether a password is the one of a user's hash; none is where there is no such user. What is wrong takes the time of
/// the highest cost of all users, so that it tells nobody which users there are.
fn is_right(password: &[u8], hash: Option<&str>, highest_cost: u32) -> bool {
    if hash.is_some_and(|hash| bcrypt::verify(password, hash).unwrap_or(false)) {
        return true;
    }
    // Each step doubles the work: all from a hash's cost to the one before the highest make up for the difference.
    let missing = match hash {
        Some(hash) => cost(hash)..highest_cost,
        None => highest_cost..highest_cost + 1,
    };
    for cost in missing {
        // Only its time counts.
        let _ = std::hint::black_box(bcrypt::hash_with_salt(password, cost, [0; 16]));
    }
    false
}

/// User and password of a header `Basic …`.
fn credentials(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    let password = decoded[colon + 1..].to_vec();
    // bcrypt repeats a password with a NUL behind it to fill its key, so `a` and `a\0a` are one and the same to it.
    (!password.contains(&0)).then_some((user, password))
}

fn cost(hash: &str) -> u32 {
    hash.parse::<bcrypt::HashParts>().map_or(0, |parts| parts.get_cost())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn users(users: &[(&str, &str)]) -> BTreeMap<String, String> {
        users.iter().map(|(name, password)| (name.to_string(), bcrypt::hash(password, 4).unwrap())).collect()
    }

    fn basic(text: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text))).unwrap()
    }

    #[tokio::test]
    async fn only_a_users_own_password_is_right() {
        let (authenticator, users) =
            (Authenticator::new().unwrap(), users(&[("alice", "a:b"), ("bob", "secret")]));
        for (text, expected) in [
            ("alice:a:b", Access::Allowed),
            ("alice:a:b", Access::Allowed),
            ("bob:secret", Access::Allowed),
            ("bob:a:b", Access::Denied),
            ("bob:", Access::Denied),
            ("carol:secret", Access::Denied),
            (":secret", Access::Denied),
            ("bob", Access::Denied),
            ("alice:a:b\n", Access::Denied),
            ("alice:a:b\0", Access::Denied),
            ("alice:a:b\0a:b", Access::Denied),
            ("bob:secret\0secret\0secret", Access::Denied),
            ("bob:\0", Access::Denied),
        ] {
            assert_eq!(authenticator.check(&users, Some(&basic(text))).await, expected, "{text:?}");
        }
        for header in ["Bearer x", "Basic", "Basic !", "", "Basic YWxpY2U="] {
            let header = HeaderValue::from_static(header);
            assert_eq!(authenticator.check(&users, Some(&header)).await, Access::Denied, "{header:?}");
        }
        assert_eq!(authenticator.check(&users, None).await, Access::Denied);
    }

    #[tokio::test]
    async fn what_was_right_once_is_not_right_for_ever() {
        let (authenticator, before) =
            (Authenticator::new().unwrap(), users(&[("alice", "old"), ("bob", "b")]));
        for text in ["alice:old", "bob:b"] {
            assert_eq!(authenticator.check(&before, Some(&basic(text))).await, Access::Allowed);
        }
        let after = users(&[("alice", "new")]);
        for (text, expected) in
            [("alice:old", Access::Denied), ("bob:b", Access::Denied), ("alice:new", Access::Allowed)]
        {
            assert_eq!(authenticator.check(&after, Some(&basic(text))).await, expected, "{text}");
        }
        // Nothing is remembered of those who are gone.
        assert_eq!(authenticator.verified.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn passwords_beyond_the_queue_are_not_worked_on() {
        let (authenticator, users) = (Authenticator::new().unwrap(), users(&[("alice", "a")]));
        assert_eq!(authenticator.check(&users, Some(&basic("alice:a"))).await, Access::Allowed);
        let _all =
            authenticator.queue.clone().acquire_many_owned(u32::try_from(MAX_QUEUED).unwrap()).await.unwrap();
        assert_eq!(authenticator.check(&users, Some(&basic("alice:b"))).await, Access::Busy);
        // Whoever was right before is not kept out by it.
        assert_eq!(authenticator.check(&users, Some(&basic("alice:a"))).await, Access::Allowed);
    }

    #[tokio::test]
    async fn how_long_a_wrong_password_takes_tells_nobody_which_users_there_are() {
        let authenticator = Authenticator::new().unwrap();
        let hashes = [("low", 4), ("middle", 7), ("high", 10)];
        let users: BTreeMap<String, String> =
            hashes.map(|(name, cost)| (name.to_owned(), bcrypt::hash("a", cost).unwrap())).into();
        let mut times = Vec::new();
        for name in ["low", "middle", "high", "nobody"] {
            let mut least = Duration::MAX;
            for _ in 0..3 {
                let began = Instant::now();
                let access = authenticator.check(&users, Some(&basic(&format!("{name}:b")))).await;
                least = least.min(began.elapsed());
                assert_eq!(access, Access::Denied);
            }
            times.push(least);
        }
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        // What it was to tell users apart by: 64 times.
        assert!(*most < *least * 3, "{times:?}");
    }
}
