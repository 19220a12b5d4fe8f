//! Tokens: who may use a server, stored in a file of the data directory.
//!
//! Invariants:
//! 1. The file holds hashes only; a token is returned once, when it is created. It has 256 random bits, so a plain
//!    SHA-256 cannot be guessed either.
//! 2. A server whose data directory has the file rejects every caller without a token, also when every token is revoked
//!    or the file is removed while the server runs. If the file becomes unreadable, the tokens read before stay valid
//!    and the log reports it.
//! 3. Secrets are compared in constant time, against every stored token.
//! 4. A token is rejected from the second at which it expires, by the clock of the server.
//! 5. Programs that change the file take a lock; after a crash the file is the old one or the new one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Clock;
use crate::disk::local::{self, FileState};
use crate::error::{Error, ErrorCode, Result};
use crate::service::{Caller, Scope};
use crate::types::key::check_kind_name;

/// Target of audit log lines: who deleted or administered what.
pub const AUDIT: &str = "fastk::audit";
/// Name of the file in a data directory.
pub const FILE: &str = "tokens.json";
/// Name of the file locked by programs that change the tokens.
const LOCK_FILE: &str = "tokens.lock";
/// Version of the file format.
const VERSION: u32 = 1;
/// Prefix of every token.
const TOKEN_START: &str = "fastk_";
const SECRET_BYTES: usize = 32;
const ID_BYTES: usize = 4;
/// Maximum length of the name of a token, in characters.
const NAME_CHARS_MAX: usize = 100;
/// Maximum number of tokens in a file.
const TOKENS_MAX: usize = 10_000;
/// Maximum number of key prefixes of a token, and the maximum length of one.
const PREFIXES_MAX: usize = 100;
const PREFIX_BYTES_MAX: usize = 256;
/// How often a server checks whether the file changed.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Minimum time between two attempts to read a file that could not be read.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum length of an `authorization` header.
const HEADER_BYTES_MAX: usize = 1_024;

/// Base64 with or without padding, as clients send it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, ANY_PADDING);
const LENIENT_URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, ANY_PADDING);
const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    /// Prefixes of the keys that the token may access; every series when empty.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// SHA-256 of the token, in hexadecimal digits.
    sha256: String,
    /// RFC 3339.
    pub created_at: String,
    /// When the token expires, RFC 3339 in UTC; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339")]
    pub expires_at: Option<Timestamp>,
}

/// Times as text. An unreadable time makes the file unreadable: it must not mean that a token never expires.
mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.collect_str(at),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

/// A new token; its secret is returned only here.
#[derive(Clone, Debug, Serialize)]
pub struct NewToken {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    #[serde(serialize_with = "rfc3339::serialize", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    pub token: String,
}

/// The public fields of a token.
#[derive(Debug, Serialize)]
pub struct TokenInfo<'t> {
    pub id: &'t str,
    pub name: &'t str,
    pub scope: Scope,
    pub prefixes: &'t [String],
    pub created_at: &'t str,
    /// `null` for a token that never expires.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub expires_at: Option<Timestamp>,
}

/// The list of tokens.
#[derive(Debug, Serialize)]
pub struct TokenList<'t> {
    pub tokens: Vec<TokenInfo<'t>>,
}

/// Public fields of `tokens`.
pub fn redacted(tokens: &[Token]) -> TokenList<'_> {
    let info = |token| {
        let Token { id, name, scope, prefixes, created_at, expires_at, .. }: &Token = token;
        TokenInfo { id, name, scope: *scope, prefixes, created_at, expires_at: *expires_at }
    };
    TokenList { tokens: tokens.iter().map(info).collect() }
}

/// Content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    version: u32,
    tokens: Vec<Token>,
}

/// Reads the file; `None` when it does not exist.
fn read(path: &Path) -> Result<Option<Tokens>> {
    let Some(text) = local::read_existing(path)? else { return Ok(None) };
    let tokens: Tokens = serde_json::from_slice(&text)
        .map_err(|error| Error::corrupt(format!("{} is not a token file: {error}", path.display())))?;
    if tokens.version != VERSION {
        return Err(Error::new(
            ErrorCode::UnsupportedFormat,
            format!("{} has version {}, this program supports {VERSION}", path.display(), tokens.version),
        ));
    }
    Ok(Some(tokens))
}

/// Changes the file of a data directory under its lock.
fn change<T>(root: &Path, change: impl FnOnce(&mut Tokens) -> Result<T>) -> Result<T> {
    let _lock = local::lock(&root.join(LOCK_FILE))?;
    let path = root.join(FILE);
    let mut tokens = read(&path)?.unwrap_or(Tokens { version: VERSION, tokens: Vec::new() });
    let result = change(&mut tokens)?;
    let mut text = serde_json::to_vec_pretty(&tokens).map_err(|error| Error::internal(format!("tokens: {error}")))?;
    text.push(b'\n');
    local::replace_private(root, FILE, &text)?;
    Ok(result)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hash(token: &str) -> String {
    fingerprint(token.as_bytes())
}

/// SHA-256 of `bytes`, such as those of a certificate, in hexadecimal.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Parses when a token expires: an RFC 3339 time, or a duration from `now` such as `12h` or `30d`.
///
/// # Errors
/// `invalid_argument` for other text, and for a time that is not after `now`.
pub fn parse_expiry(text: &str, now: Timestamp) -> Result<Timestamp> {
    let seconds =
        |count: &str, unit: i64| count.parse::<i64>().ok().filter(|n| *n > 0).and_then(|n| n.checked_mul(unit));
    let units = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 7 * 86_400)];
    let found = units.iter().find_map(|(unit, length)| seconds(text.strip_suffix(*unit)?, *length));
    let at = match found {
        Some(seconds) => now.as_second().checked_add(seconds).and_then(|second| Timestamp::from_second(second).ok()),
        None => text.parse::<Timestamp>().ok().and_then(|at| Timestamp::from_second(at.as_second()).ok()),
    };
    let at = at.ok_or_else(|| {
        Error::invalid(format!("{text:?} is not a duration or a time"))
            .with_hint("such as 30d (s, m, h, d, w) or 2025-01-31T00:00:00Z")
    })?;
    if at <= now {
        return Err(Error::invalid(format!("a token that expires at {at} would never be valid")));
    }
    Ok(at)
}

/// Checks the name and the prefixes of a new token.
///
/// # Errors
/// `invalid_argument`.
pub fn check_new(name: &str, prefixes: &[String]) -> Result<()> {
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!("the name of a token must have 1 to {NAME_CHARS_MAX} visible characters")));
    }
    if prefixes.len() > PREFIXES_MAX {
        return Err(Error::invalid(format!("{} prefixes, more than {PREFIXES_MAX}", prefixes.len())));
    }
    let is_key_prefix = |prefix: &str| {
        let is_kind = prefix.split('/').next().is_some_and(|kind| check_kind_name(kind).is_ok());
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-:@+=^$&/".contains(&b);
        is_kind && !prefix.is_empty() && prefix.len() <= PREFIX_BYTES_MAX && prefix.bytes().all(legal)
    };
    if let Some(prefix) = prefixes.iter().find(|prefix| !is_key_prefix(prefix)) {
        return Err(Error::invalid(format!("prefix {prefix:?} is not the start of a series key"))
            .with_hint("such as kline/BTC, scalar/risk/ or greeks/"));
    }
    Ok(())
}

/// Creates a token that never expires, and the data directory when it is missing.
///
/// # Errors
/// Those of [`create_until`].
pub fn create(root: &Path, name: &str, scope: Scope, prefixes: &[String]) -> Result<NewToken> {
    create_until(root, name, scope, prefixes, None)
}

/// Creates a token that expires at `expires_at`, never when `None`, and the data directory when it is missing.
///
/// # Errors
/// `invalid_argument` for an invalid name or prefix, `too_large` above 10,000 tokens, `io`.
pub fn create_until(
    root: &Path,
    name: &str,
    scope: Scope,
    prefixes: &[String],
    expires_at: Option<Timestamp>,
) -> Result<NewToken> {
    check_new(name, prefixes)?;
    local::create_dir_all(root)?;
    let token = format!("{TOKEN_START}{}", URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>()?));
    let created_at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let id = change(root, |file| {
        if file.tokens.len() >= TOKENS_MAX {
            return Err(Error::new(ErrorCode::TooLarge, format!("there are already {TOKENS_MAX} tokens")));
        }
        let id = loop {
            let id = hex(&random::<ID_BYTES>()?);
            if file.tokens.iter().all(|other| other.id != id) {
                break id;
            }
        };
        file.tokens.push(Token {
            id: id.clone(),
            name: name.into(),
            scope,
            prefixes: prefixes.to_vec(),
            sha256: hash(&token),
            created_at,
            expires_at,
        });
        Ok(id)
    })?;
    Ok(NewToken { id, name: name.into(), scope, prefixes: prefixes.to_vec(), expires_at, token })
}

/// The tokens of a data directory with their hashes, oldest first.
///
/// # Errors
/// `corrupt_data`, `unsupported_format`, `io`.
pub fn list(root: &Path) -> Result<Vec<Token>> {
    Ok(read(&root.join(FILE))?.map(|file| file.tokens).unwrap_or_default())
}

/// Revokes a token. The file remains, so that a server without tokens rejects every caller.
///
/// # Errors
/// `not_found` for an unknown id, and those of [`list`].
pub fn revoke(root: &Path, id: &str) -> Result<Token> {
    // Without a file no file is created.
    find(root, id)?;
    change(root, |file| {
        let at = file.tokens.iter().position(|token| token.id == id).ok_or_else(|| missing(id))?;
        Ok(file.tokens.remove(at))
    })
}

/// The token with this id.
///
/// # Errors
/// `not_found` for an unknown id, and those of [`list`].
pub fn find(root: &Path, id: &str) -> Result<Token> {
    list(root)?.into_iter().find(|token| token.id == id).ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("token {id:?} does not exist"))
}

/// Authenticates the callers of a server.
#[derive(Debug)]
pub struct Authenticator {
    path: PathBuf,
    clock: Clock,
    /// `None` while no token was ever created: then every caller is trusted.
    known: ArcSwap<Option<Tokens>>,
    file_state: Mutex<TokenFileState>,
}

/// The last check of the file.
#[derive(Debug)]
struct TokenFileState {
    at: Instant,
    /// The state of the file that `known` was read from.
    read: Option<FileState>,
    /// The state of the file that could not be read, so that the log reports it once.
    unreadable: Option<FileState>,
}

impl Authenticator {
    /// The authenticator of a data directory.
    ///
    /// # Errors
    /// Those of [`list`].
    pub fn open(root: &Path) -> Result<Self> {
        Self::with_clock(root, Clock::default())
    }

    /// Like [`Authenticator::open`], with the time of this clock.
    #[doc(hidden)]
    pub fn with_clock(root: &Path, clock: Clock) -> Result<Self> {
        let path = root.join(FILE);
        let seen = FileState::of(&path);
        let known = ArcSwap::from_pointee(read(&path)?);
        Ok(Self {
            path,
            known,
            file_state: Mutex::new(TokenFileState { at: clock.now(), read: seen, unreadable: None }),
            clock,
        })
    }

    /// Whether callers need a token.
    pub fn requires_token(&self) -> bool {
        self.known.load().is_some()
    }

    /// Whether there is a token at all.
    pub fn has_tokens(&self) -> bool {
        self.known.load().as_ref().as_ref().is_some_and(|file| !file.tokens.is_empty())
    }

    /// Reads the file again when it changed and the last check is [`CHECK_INTERVAL`] ago.
    fn reload_if_due(&self) {
        let Ok(mut file_state) = self.file_state.try_lock() else { return };
        if self.clock.now().duration_since(file_state.at) >= CHECK_INTERVAL {
            self.reload(&mut file_state);
        }
    }

    fn reload(&self, file_state: &mut TokenFileState) {
        let now = self.clock.now();
        let before = std::mem::replace(&mut file_state.at, now);
        let seen = FileState::of(&self.path);
        if seen.is_none()
            || seen == file_state.read
            || (seen == file_state.unreadable && now.duration_since(before) < RETRY_INTERVAL)
        {
            return;
        }
        match read(&self.path) {
            Ok(Some(file)) => {
                tracing::info!(tokens = file.tokens.len(), "tokens reloaded");
                let before = self.known.load();
                log_changes(before.as_ref().as_ref().map_or(&[], |before| &before.tokens), &file.tokens);
                self.known.store(Arc::new(Some(file)));
                file_state.read = seen;
            }
            Ok(None) => {}
            // Retried later: the file may then revoke tokens.
            Err(error) => {
                if file_state.unreadable != seen {
                    tracing::error!(%error, "cannot read tokens; the previous ones stay valid");
                }
                file_state.unreadable = seen;
            }
        }
    }

    /// Checks that a caller admitted before would still be admitted.
    ///
    /// # Errors
    /// `unauthenticated` once the token was revoked or expired.
    pub fn recheck(&self, caller: &Caller) -> Result<()> {
        self.reload_if_due();
        let known = self.known.load();
        let Some(file) = known.as_ref() else { return Ok(()) };
        match file.tokens.iter().find(|token| *token.id == *caller.id) {
            Some(token) => self.caller_of(token).map(drop),
            None => Err(unauthenticated("the token was revoked")),
        }
    }

    /// The caller of a token, unless it expired.
    fn caller_of(&self, token: &Token) -> Result<Caller> {
        match token.expires_at {
            Some(at) if self.clock.wall_ms() >= at.as_millisecond() => {
                Err(unauthenticated(&format!("the token expired at {at}"))
                    .with_hint("`fastk admin token create` on the host of the data directory creates another"))
            }
            _ => Ok(token.caller()),
        }
    }

    /// The caller with these values of the header `authorization`.
    ///
    /// # Errors
    /// `unauthenticated` without a valid token where one is required.
    pub fn admit<'v>(&self, values: impl IntoIterator<Item = &'v [u8]>) -> Result<Caller> {
        self.reload_if_due();
        let mut values = values.into_iter();
        let (value, more) = (values.next(), values.next());
        let known = self.known.load();
        let Some(file) = known.as_ref() else { return Ok(Caller::trusted()) };
        let Some(value) = value else {
            return Err(unauthenticated("this server requires a token").with_hint("send `authorization: Bearer TOKEN`"));
        };
        let token = if more.is_some() { None } else { token_from_header(value) };
        let token = token.ok_or_else(|| {
            unauthenticated("the header authorization is malformed").with_hint("send `authorization: Bearer TOKEN`")
        })?;
        match file.find(&token) {
            Some(token) => self.caller_of(token),
            // The file may have changed since the last check: a new token is valid at once.
            None => {
                self.reload(&mut self.file_state.lock().unwrap_or_else(PoisonError::into_inner));
                let known = self.known.load();
                let found = known.as_ref().as_ref().and_then(|file| file.find(&token));
                let found = found.ok_or_else(|| unauthenticated("the token is unknown or was revoked"))?;
                self.caller_of(found)
            }
        }
    }
}

/// Logs which tokens were created and revoked; other programs change the file.
fn log_changes(before: &[Token], after: &[Token]) {
    let is_among = |tokens: &[Token], token: &Token| tokens.iter().any(|other| other.id == token.id);
    let created = after.iter().filter(|token| !is_among(before, token)).map(|token| ("token created", token));
    let revoked = before.iter().filter(|token| !is_among(after, token)).map(|token| ("token revoked", token));
    for (verb, token) in created.chain(revoked) {
        let (scope, prefixes) = (token.scope.name(), token.prefixes.join(","));
        tracing::info!(target: AUDIT, verb, token = token.id, name = token.name, scope, prefixes, "audit");
    }
}

fn unauthenticated(detail: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, detail)
}

impl Tokens {
    /// The token with this text, compared with every token so that the time reveals nothing.
    fn find(&self, text: &str) -> Option<&Token> {
        let hash = hash(text);
        let mut found = None;
        for token in &self.tokens {
            if bool::from(token.sha256.as_bytes().ct_eq(hash.as_bytes())) {
                found = Some(token);
            }
        }
        found
    }
}

impl Token {
    fn caller(&self) -> Caller {
        Caller { id: self.id.as_str().into(), scope: self.scope, prefixes: self.prefixes.clone().into() }
    }
}

/// The token in a value of `authorization`: after `Bearer`, or the password after `Basic`, with any user name.
pub fn token_from_header(value: &[u8]) -> Option<String> {
    if value.len() > HEADER_BYTES_MAX {
        return None;
    }
    let (scheme, rest) = std::str::from_utf8(value).ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned()).filter(|token| !token.is_empty());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = LENIENT.decode(rest).or_else(|_| LENIENT_URL.decode(rest)).ok()?;
    let (_, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some(password.to_owned()).filter(|token| !token.is_empty())
}

/// Value of `authorization` for a token.
pub fn bearer_header(token: &str) -> String {
    format!("Bearer {token}")
}

/// Value of `authorization` for a token as the password of Basic authentication, as database clients send it.
pub fn basic_header(user: &str, token: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{token}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(auth: &Authenticator, header: &str) -> Result<Caller> {
        auth.admit([header.as_bytes()])
    }

    #[test]
    fn tokens_authenticate_until_they_are_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let auth = Authenticator::open(root).unwrap();
        assert!(!auth.requires_token());
        assert_eq!(auth.admit([]).unwrap(), Caller::trusted());
        let created = create(root, "lab", Scope::Write, &["kline/BTC".into()]).unwrap();
        let clock = Clock::manual(0);
        let auth = Authenticator::with_clock(root, clock.clone()).unwrap();
        assert!(auth.requires_token() && auth.has_tokens());
        assert_eq!(auth.admit([]).unwrap_err().code(), ErrorCode::Unauthenticated);
        let caller = admit(&auth, &bearer_header(&created.token)).unwrap();
        assert_eq!((caller.scope, &*caller.id, caller.prefixes.len()), (Scope::Write, created.id.as_str(), 1));
        assert_eq!(admit(&auth, &basic_header("anyone", &created.token)).unwrap(), caller);
        // A new token is valid at once without reopening; a revocation takes effect after the check interval.
        let second = create(root, "second", Scope::Read, &[]).unwrap();
        assert_eq!(admit(&auth, &bearer_header(&second.token)).unwrap().scope, Scope::Read);
        assert_eq!(revoke(root, &created.id).unwrap().name, "lab");
        clock.advance(CHECK_INTERVAL);
        assert_eq!(admit(&auth, &bearer_header(&created.token)).unwrap_err().code(), ErrorCode::Unauthenticated);
        revoke(root, &second.id).unwrap();
        clock.advance(CHECK_INTERVAL);
        assert!(admit(&auth, &bearer_header(&second.token)).is_err());
        assert!(auth.admit([]).is_err(), "a server without tokens rejects everyone");
        assert!(Authenticator::open(root).unwrap().requires_token());
        assert_eq!(revoke(root, "nobody").unwrap_err().code(), ErrorCode::NotFound);
    }

    #[test]
    fn a_token_is_refused_from_the_second_at_which_it_expires() {
        let clock = Clock::manual(1_700_000_000_000);
        let now = Timestamp::from_millisecond(clock.wall_ms()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let expires_at = parse_expiry("30d", now).unwrap();
        let created = create_until(root, "month", Scope::Read, &[], Some(expires_at)).unwrap();
        let permanent = create(root, "ever", Scope::Read, &[]).unwrap();
        let auth = Authenticator::with_clock(root, clock.clone()).unwrap();
        let caller = admit(&auth, &bearer_header(&created.token)).unwrap();
        clock.advance(Duration::from_secs(30 * 86_400 - 1));
        assert!(admit(&auth, &bearer_header(&created.token)).is_ok() && auth.recheck(&caller).is_ok());
        clock.advance(Duration::from_secs(1));
        for error in [admit(&auth, &bearer_header(&created.token)).unwrap_err(), auth.recheck(&caller).unwrap_err()] {
            assert_eq!(error.code(), ErrorCode::Unauthenticated);
            assert!(error.detail().contains("expired at 2023-12-14T22:13:20Z"), "{}", error.detail());
        }
        assert!(admit(&auth, &bearer_header(&permanent.token)).is_ok());
        // An expired token is still listed, with its time.
        let listed = list(root).unwrap();
        assert_eq!(listed.iter().map(|token| token.expires_at).collect::<Vec<_>>(), [Some(expires_at), None]);
    }

    #[test]
    fn expiry_is_a_duration_or_a_future_time() {
        let now: Timestamp = "2024-02-01T00:00:00.5Z".parse().unwrap();
        for (text, at) in [
            ("90s", "2024-02-01T00:01:30Z"),
            ("12h", "2024-02-01T12:00:00Z"),
            ("30d", "2024-03-02T00:00:00Z"),
            ("2w", "2024-02-15T00:00:00Z"),
            ("2024-02-01T02:00:00+01:00", "2024-02-01T01:00:00Z"),
        ] {
            assert_eq!(parse_expiry(text, now).unwrap().to_string(), at, "{text}");
        }
        for bad in ["", "30", "d", "0d", "-1d", "1y", "2024-01-31T00:00:00Z", "tomorrow", "99999999999999999w"] {
            assert_eq!(parse_expiry(bad, now).unwrap_err().code(), ErrorCode::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn a_new_token_is_valid_at_once_under_concurrent_requests() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        create(root, "first", Scope::Read, &[]).unwrap();
        let auth = Authenticator::open(root).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        assert!(admit(&auth, "Bearer wrong").is_err());
                    }
                });
            }
            let admitted: Vec<_> = (0..50)
                .map(|_| admit(&auth, &bearer_header(&create(root, "next", Scope::Read, &[]).unwrap().token)).is_ok())
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(admitted, [true; 50]);
        });
    }

    #[test]
    fn a_removed_or_corrupt_file_admits_no_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let created = create(root, "lab", Scope::Read, &[]).unwrap();
        let clock = Clock::manual(0);
        let auth = Authenticator::with_clock(root, clock.clone()).unwrap();
        for broken in [Some("nonsense"), None] {
            match broken {
                Some(text) => std::fs::write(root.join(FILE), text).unwrap(),
                None => std::fs::remove_file(root.join(FILE)).unwrap(),
            }
            clock.advance(CHECK_INTERVAL);
            assert!(auth.admit([]).is_err() && admit(&auth, "Bearer x").is_err());
            assert!(admit(&auth, &bearer_header(&created.token)).is_ok());
        }
        std::fs::write(root.join(FILE), "{\"version\":1,\"tokens\":[{}]}").unwrap();
        assert_eq!(Authenticator::open(root).unwrap_err().code(), ErrorCode::CorruptData);
    }

    #[test]
    fn a_file_that_could_not_be_read_is_read_later_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let created = create(root, "lab", Scope::Read, &[]).unwrap();
        let clock = Clock::manual(0);
        let auth = Authenticator::with_clock(root, clock.clone()).unwrap();
        let file = root.join(FILE);
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, "{").unwrap();
        clock.advance(CHECK_INTERVAL);
        let caller = admit(&auth, &bearer_header(&created.token)).unwrap();
        std::fs::write(&file, &text).unwrap();
        std::fs::write(root.join("elsewhere"), "kept").unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join(format!("{FILE}.new"))).unwrap();
        revoke(root, &created.id).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("elsewhere")).unwrap(), "kept");
        clock.advance(CHECK_INTERVAL);
        assert!(admit(&auth, &bearer_header(&created.token)).is_err());
        assert_eq!(auth.recheck(&caller).unwrap_err().code(), ErrorCode::Unauthenticated);
        std::fs::remove_file(root.join(LOCK_FILE)).unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join(LOCK_FILE)).unwrap();
        assert!(create(root, "x", Scope::Read, &[]).is_err());
    }

    #[test]
    fn the_file_holds_no_secret_and_only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let created = create(dir.path(), "lab", Scope::Admin, &[]).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains(&created.token) && !text.contains(&created.token[6..]));
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(created.token, create(dir.path(), "lab", Scope::Admin, &[]).unwrap().token);
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn headers_are_accepted_only_in_the_forms_of_clients() {
        for good in ["Bearer abc", "bearer abc", "BEARER  abc ", "Basic dTphYmM=", "basic dTphYmM", "Basic OmFiYw"] {
            assert_eq!(token_from_header(good.as_bytes()).as_deref(), Some("abc"), "{good}");
        }
        let long = format!("Bearer {}", "x".repeat(2_000));
        for bad in ["", "abc", "Bearer", "Bearer ", "Digest abc", "Basic !!", "Basic dQ==", "Basic dTo=", &long] {
            assert_eq!(token_from_header(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(token_from_header(b"Bearer \xff"), None);
        let dir = tempfile::tempdir().unwrap();
        let created = create(dir.path(), "lab", Scope::Admin, &[]).unwrap();
        let header = bearer_header(&created.token);
        let twice = Authenticator::open(dir.path()).unwrap().admit([header.as_bytes(), header.as_bytes()]);
        assert_eq!(twice.unwrap_err().code(), ErrorCode::Unauthenticated);
    }

    #[test]
    fn names_and_prefixes_that_cannot_be_are_unauthenticated() {
        let dir = tempfile::tempdir().unwrap();
        let create = |name: &str, prefix: &str| create(dir.path(), name, Scope::Read, &[prefix.to_owned()]);
        for (name, prefix) in
            [("", "kline/"), ("a\nb", "kline/"), ("a", ""), ("a", "BTC"), ("a", "kline/*"), ("a", "kline/ ")]
        {
            assert_eq!(create(name, prefix).unwrap_err().code(), ErrorCode::InvalidArgument, "{name:?} {prefix:?}");
        }
        assert!(create("a", "kl").is_ok() && create("a", "scalar/risk/BTC").is_ok());
    }
}
