//! Users and passwords.
//!
//! bcrypt is slow on purpose, so that nobody tries all passwords. A password that was right is remembered, by a
//! keyed hash; and however many wrong ones come, one is worked on at a time, away from what answers requests.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use tokio::sync::Semaphore;

/// Passwords that wait for their turn. Beyond that, requests are told to come back.
const WAITING: usize = 16;

/// Checks passwords.
pub(super) struct Gate {
    key: hmac::Key,
    /// For each user, of what the last right password was: at most one for each user that there is.
    right: Mutex<HashMap<String, hmac::Tag>>,
    room: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

/// What is said to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may pass.
    Allowed,
    /// It may not.
    Denied,
    /// Too many are being checked.
    Busy,
}

impl Gate {
    pub(super) fn new() -> Result<Self, String> {
        let random = ring::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random)
            .map_err(|_| "the system gives no random numbers".to_owned())?;
        Ok(Self {
            key,
            right: Mutex::default(),
            room: Arc::new(Semaphore::new(WAITING)),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Whether an `Authorization` header is that of one of `users`.
    pub(super) async fn judge(
        &self,
        users: &BTreeMap<String, String>,
        header: Option<&HeaderValue>,
    ) -> Verdict {
        let Some((user, password)) = header.and_then(credentials) else { return Verdict::Denied };
        let known = users.get(&user);
        // For a user that there is not, the work of one that there is: how long it takes tells nobody who is known.
        let Some(hash) = known.or_else(|| users.values().max_by_key(|hash| cost(hash))) else {
            return Verdict::Denied;
        };
        let text = [user.as_bytes(), hash.as_bytes(), &password].map(|part| {
            let mut text = (part.len() as u64).to_be_bytes().to_vec();
            text.extend_from_slice(part);
            text
        });
        let text = text.concat();
        let is_right = {
            let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
            right.get(&user).is_some_and(|tag| hmac::verify(&self.key, &text, tag.as_ref()).is_ok())
        };
        if is_right && known.is_some() {
            return Verdict::Allowed;
        }
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else { return Verdict::Busy };
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return Verdict::Busy };
        let hash = hash.clone();
        let checked = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a client that goes away does not end it.
            let _held = (room, turn);
            bcrypt::verify(&password, &hash).unwrap_or(false)
        });
        if !checked.await.unwrap_or(false) || known.is_none() {
            return Verdict::Denied;
        }
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        right.retain(|user, _| users.contains_key(user));
        right.insert(user, hmac::sign(&self.key, &text));
        Verdict::Allowed
    }
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
    Some((user, decoded[colon + 1..].to_vec()))
}

fn cost(hash: &str) -> u32 {
    hash.parse::<bcrypt::HashParts>().map_or(0, |parts| parts.get_cost())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(users: &[(&str, &str)]) -> BTreeMap<String, String> {
        users.iter().map(|(name, password)| (name.to_string(), bcrypt::hash(password, 4).unwrap())).collect()
    }

    fn basic(text: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(text))).unwrap()
    }

    #[tokio::test]
    async fn only_a_users_own_password_is_right() {
        let (gate, users) = (Gate::new().unwrap(), users(&[("alice", "a:b"), ("bob", "secret")]));
        for (text, expected) in [
            ("alice:a:b", Verdict::Allowed),
            ("alice:a:b", Verdict::Allowed),
            ("bob:secret", Verdict::Allowed),
            ("bob:a:b", Verdict::Denied),
            ("bob:", Verdict::Denied),
            ("carol:secret", Verdict::Denied),
            (":secret", Verdict::Denied),
            ("bob", Verdict::Denied),
            ("alice:a:b\n", Verdict::Denied),
        ] {
            assert_eq!(gate.judge(&users, Some(&basic(text))).await, expected, "{text:?}");
        }
        for header in ["Bearer x", "Basic", "Basic !", "", "Basic YWxpY2U="] {
            let header = HeaderValue::from_static(header);
            assert_eq!(gate.judge(&users, Some(&header)).await, Verdict::Denied, "{header:?}");
        }
        assert_eq!(gate.judge(&users, None).await, Verdict::Denied);
    }

    #[tokio::test]
    async fn what_was_right_once_is_not_right_for_ever() {
        let (gate, before) = (Gate::new().unwrap(), users(&[("alice", "old"), ("bob", "b")]));
        for text in ["alice:old", "bob:b"] {
            assert_eq!(gate.judge(&before, Some(&basic(text))).await, Verdict::Allowed);
        }
        let after = users(&[("alice", "new")]);
        for (text, expected) in
            [("alice:old", Verdict::Denied), ("bob:b", Verdict::Denied), ("alice:new", Verdict::Allowed)]
        {
            assert_eq!(gate.judge(&after, Some(&basic(text))).await, expected, "{text}");
        }
        // Nothing is remembered of those who are gone.
        assert_eq!(gate.right.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn passwords_beyond_the_room_are_not_worked_on() {
        let (gate, users) = (Gate::new().unwrap(), users(&[("alice", "a")]));
        assert_eq!(gate.judge(&users, Some(&basic("alice:a"))).await, Verdict::Allowed);
        let _all = gate.room.clone().acquire_many_owned(u32::try_from(WAITING).unwrap()).await.unwrap();
        assert_eq!(gate.judge(&users, Some(&basic("alice:b"))).await, Verdict::Busy);
        // Whoever was right before is not kept out by it.
        assert_eq!(gate.judge(&users, Some(&basic("alice:a"))).await, Verdict::Allowed);
    }
}
