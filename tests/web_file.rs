//! `web.config_file`: which files are taken, and what is said of the others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::path::Path;
use std::time::Duration;

use docker_state_exporter::config::{ClientAuth, Pem, RateLimit, Version, WebFile, from_web_yaml};
use proptest::prelude::*;

const ALICE: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

fn read(text: &str) -> Result<(WebFile, Vec<String>), String> {
    from_web_yaml(Path::new("/etc/web.yaml"), text).map_err(|error| error.to_string())
}

#[test]
fn every_key_of_the_toolkit_is_taken() {
    let (file, warnings) = read(&format!(
        "tls_server_config:
  cert_file: server.crt
  key_file: /keys/server.key
  client_auth_type: VerifyClientCertIfGiven
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example.com, 'spiffe://a/b', 10.0.0.1]
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [X25519, CurveP256]
http_server_config:
  http2: true
  headers:
    Strict-Transport-Security: max-age=63072000
    x-frame-options: DENY
basic_auth_users:
  alice: {ALICE}
  $2: '{ALICE}'
"
    ))
    .unwrap();
    let tls = file.tls.as_ref().unwrap();
    assert_eq!(tls.certificate, Pem::File("/etc/server.crt".into()));
    assert_eq!(tls.key, Pem::File("/keys/server.key".into()));
    assert_eq!(tls.client_ca, Some(Pem::File("/etc/ca.crt".into())));
    assert_eq!(tls.client_auth, ClientAuth::VerifyClientCertIfGiven);
    assert_eq!((tls.min_version, tls.max_version), (Version::Tls12, Version::Tls13));
    assert_eq!(
        (tls.cipher_suites.len(), tls.curve_preferences.len(), tls.client_allowed_sans.len()),
        (2, 2, 3)
    );
    assert!(!tls.prefer_server_cipher_suites);
    assert_eq!(file.users.keys().collect::<Vec<_>>(), ["$2", "alice"]);
    assert_eq!(file.users["alice"], ALICE);
    assert_eq!(
        file.describe(),
        "TLS, VerifyClientCertIfGiven; users: $2, alice; headers: strict-transport-security, x-frame-options"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("http2: has no effect"), "{warnings:?}");
}

#[test]
fn a_file_that_says_nothing_asks_for_nothing() {
    for text in ["", "# nothing\n", "tls_server_config: {}\nbasic_auth_users:\nhttp_server_config:\n"] {
        assert_eq!(read(text), Ok((WebFile::default(), Vec::new())), "{text:?}");
    }
}

#[test]
fn a_rate_is_a_duration_of_gos_and_a_burst() {
    for (text, millis, burst) in [
        ("interval: 1s, burst: 5", 1000, 5),
        ("interval: 100ms, burst: 1", 100, 1),
        ("interval: 1.5s, burst: 2", 1500, 2),
        ("interval: 1m30s, burst: 2", 90_000, 2),
        ("interval: 500000us, burst: 2", 500, 2),
    ] {
        let (file, _) = read(&format!("rate_limit: {{{text}}}")).unwrap();
        let expected = RateLimit { interval: Duration::from_millis(millis), burst };
        assert_eq!(file.rate_limit, Some(expected), "{text}");
    }
    // As the toolkit has it, 0 is none.
    for text in ["interval: 0, burst: 5", "interval: 0s, burst: 5", "burst: 5", ""] {
        assert_eq!(read(&format!("rate_limit: {{{text}}}")).unwrap().0.rate_limit, None, "{text}");
    }
    for text in ["1", "-1s", "1d", "1 s", "s", "one", "1s2", "1month"] {
        let refused = read(&format!("rate_limit: {{interval: '{text}', burst: 1}}")).unwrap_err();
        assert!(refused.contains("rate_limit.interval: "), "{text}: {refused}");
    }
}

#[test]
fn what_is_wrong_is_told_with_place_and_hint() {
    const PAIR: &str = "cert_file: a, key_file: b";
    let tls = |more: &str| format!("tls_server_config: {{{PAIR}, {more}}}");
    for (text, expected) in [
        (
            "tls_sever_config: {}".into(),
            "1:1: tls_sever_config: unknown key\nhint: did you mean tls_server_config?",
        ),
        (
            tls("min_versoin: TLS12"),
            "1:48: tls_server_config.min_versoin: unknown key\nhint: did you mean min_version?",
        ),
        (
            "tls_server_config: {cert_file: a}".into(),
            "1:20: tls_server_config: TLS without key_file\nhint: add key_file",
        ),
        (
            tls("cert: x"),
            "1:32: tls_server_config.cert_file: cert and cert_file are both given\nhint: one of them",
        ),
        (
            tls("min_version: TLS10"),
            "1:61: tls_server_config.min_version: a version of TLS that is not spoken: TLS10\nhint: TLS12 and TLS13 \
             are; the older ones are no longer safe",
        ),
        (
            tls("min_version: TLS13, max_version: TLS12"),
            "1:81: tls_server_config.max_version: older than min_version\nhint: leave one of them out",
        ),
        (
            tls("client_auth_type: RequireAndVerifyClientCert"),
            "1:66: tls_server_config.client_auth_type: certificates are to be verified, but no authority is \
             named\nhint: add client_ca_file",
        ),
        (
            tls("client_ca_file: c"),
            "1:20: tls_server_config: authorities for clients, but no client has to show a certificate\nhint: add \
             client_auth_type: RequireAndVerifyClientCert",
        ),
        (
            tls("client_allowed_sans: [a]"),
            "1:69: tls_server_config.client_allowed_sans: names of certificates that nobody verifies\nhint: add \
             client_auth_type: RequireAndVerifyClientCert",
        ),
        (
            "basic_auth_users: {alice: secret}".into(),
            "1:27: basic_auth_users.alice: not a bcrypt hash, which begins with $2a$, $2b$ or $2y$; it is not \
             shown\nhint: make one with: htpasswd -nBC 10 \"\"",
        ),
        (
            format!("basic_auth_users: {{alice: {}}}", ALICE.replace("$10$", "$17$")),
            "1:27: basic_auth_users.alice: a cost out of range: 17\nhint: from 4 to 16: each step doubles the time \
             that a login takes",
        ),
        (
            "basic_auth_users: {alice: }".into(),
            "1:20: basic_auth_users.alice: a user without a password's hash\nhint: make one with: htpasswd -nBC 10 \
             \"\"",
        ),
        (
            "http_server_config: {headers: {Server: x}}".into(),
            "1:40: http_server_config.headers.Server: a header that cannot be set: Server\nhint: these can: \
             Content-Security-Policy, Strict-Transport-Security, X-Content-Type-Options, X-Frame-Options, \
             X-XSS-Protection",
        ),
        (
            "rate_limit: {interval: 1s}".into(),
            "1:13: rate_limit: an interval without burst\nhint: add burst: how many requests may come at once",
        ),
        (
            "rate_limit: {interval: 5, burst: 1}".into(),
            "1:24: rate_limit.interval: not a duration; it is not shown\nhint: a number with a unit, for example 100ms or 1s",
        ),
        (
            "rate_limit: {interval: 1s, burst: 0}".into(),
            "1:35: rate_limit.burst: no request would ever pass\nhint: 1 or more",
        ),
        (
            "basic_auth_users: [a]".into(),
            "1:19: basic_auth_users: not a mapping: a list\nhint: keys with values are expected here",
        ),
        (
            "basic_auth_users: secret".into(),
            "1:19: basic_auth_users: not a mapping: a value that is not shown\nhint: keys with values are expected \
             here",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: '-----BEGIN PRIVATE KEY-----'}".into(),
            "1:45: tls_server_config.key_file: PEM text where a path is expected; it is not shown\nhint: key takes \
             the text itself",
        ),
    ] {
        let error = read(&text).unwrap_err();
        assert_eq!(error, format!("/etc/web.yaml:{expected}"), "of {text}");
    }
    // Of what there is to choose from, all is told.
    for (more, expected) in [
        ("client_auth_type: Require", "RequireAndVerifyClientCert"),
        ("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ("curve_preferences: [CurveP521]", "CurveP256"),
        ("max_version: SSL3", "TLS13"),
    ] {
        let error = read(&tls(more)).unwrap_err();
        assert!(error.contains("\nhint: ") && error.contains(expected), "{error}");
    }
}

/// Every kind of protection, and secrets: the key's text, and what of the hash nobody may see.
const PROTECTED: &str = "rate_limit:
  interval: 1s
  burst: 100
tls_server_config:
  cert: CERTIFICATE
  key: |
    -----BEGIN PRIVATE KEY-----
    5ecret5ecret5ecret
    -----END PRIVATE KEY-----
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  min_version: TLS13
  client_allowed_sans:
    - prometheus.example.com
basic_auth_users:
  alice: $2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi
  bob: '$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi'
http_server_config:
  headers:
    X-Frame-Options: DENY
";
const SECRETS: [&str; 2] = ["5ecret5", "QOauhQNb"];

#[test]
fn a_file_that_is_cut_off_anywhere_takes_no_protection_away() {
    let (whole, _) = read(PROTECTED).unwrap();
    assert!(whole.protection_lost_in(&whole).is_empty());
    let mut accepted = 0;
    for end in 0..PROTECTED.len() {
        let Ok((cut, _)) = read(&PROTECTED[..end]) else { continue };
        if !whole.protection_lost_in(&cut).is_empty() {
            continue;
        }
        accepted += 1;
        let tls = cut.tls.unwrap();
        assert_eq!(tls.client_auth, ClientAuth::RequireAndVerifyClientCert, "{end}");
        assert_eq!((tls.min_version, tls.client_allowed_sans.len()), (Version::Tls13, 1), "{end}");
        assert!(cut.users.contains_key("alice") && cut.rate_limit.is_some(), "{end}");
    }
    // Without the second user, and without the headers.
    assert!(accepted > 0);
    let nothing = WebFile::default();
    assert_eq!(
        whole.protection_lost_in(&nothing),
        ["passwords (basic_auth_users)", "the limit of requests (rate_limit)", "TLS"]
    );
    assert!(nothing.protection_lost_in(&whole).is_empty());
}

/// A file in which lines are moved, taken out and come twice, and bytes are others.
fn mutated() -> impl Strategy<Value = String> {
    let lines: Vec<&str> = PROTECTED.lines().collect();
    let moved = prop::collection::vec(0..lines.len(), 1..lines.len());
    let bytes =
        prop::collection::vec((any::<prop::sample::Index>(), "[-{}\\[\\],'\"#|>%@` \n\tx0é\u{1F433}]"), 0..4);
    let indents = prop::collection::vec(0..8_usize, lines.len());
    let keeps_order = any::<bool>();
    (moved, bytes, indents, keeps_order).prop_map(move |(mut chosen, bytes, indents, keeps_order)| {
        if keeps_order {
            chosen.sort_unstable();
        }
        let indented = |i: usize| match indents[i] {
            0 => format!("  {}", lines[i]),
            1 => lines[i].trim_start().to_owned(),
            _ => lines[i].to_owned(),
        };
        let mut text: Vec<String> = chosen
            .into_iter()
            .map(indented)
            .collect::<Vec<_>>()
            .join("\n")
            .chars()
            .map(String::from)
            .collect();
        for (at, replaced) in bytes {
            let at = at.index(text.len());
            // Lines stay lines, and get no colon: what makes a key of a secret shows it.
            if text[at] != "\n" {
                text[at] = replaced;
            }
        }
        text.concat()
    })
}

/// What is said of a file, whatever it is: a place for each thing that is wrong, and no secret.
fn check(text: &str) -> Result<(), TestCaseError> {
    let Err(error) = read(text) else { return Ok(()) };
    for line in error.lines().filter(|line| !line.starts_with("hint: ")) {
        let place = line.strip_prefix("/etc/web.yaml:").and_then(|place| {
            let mut numbers = place.splitn(3, ':');
            let mut number = || numbers.next()?.parse::<usize>().ok();
            number().zip(number())
        });
        prop_assert!(place.is_some(), "no place in {:?} of {:?}", line, text);
    }
    for secret in SECRETS {
        prop_assert!(!error.contains(secret), "{} in {:?} of {:?}", secret, error, text);
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_is_in_the_file_is_told_with_a_place_and_without_secrets(text in mutated()) {
        check(&text)?;
    }

    #[test]
    fn arbitrary_text_is_told_with_a_place(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn arbitrary_yaml_is_told_with_a_place(text in "[-a-z:{}\\[\\]&*!|>'\"%@`#,? \n]{0,60}") {
        check(&text)?;
    }
}
