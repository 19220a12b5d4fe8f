//! Tokens: who may use a server, kept in a file beside the store.
//!
//! Invariants:
//! 1. The file holds hashes only; a token is shown once, when it is made. It has 256 random bits, so a plain SHA-256 is
//!    no weaker than the token, and there is nothing to guess.
//! 2. A server whose store has the file lets nobody in without a token, also when every token is revoked or the file
//!    goes away while it runs. A file it cannot read changes nothing: those of before stay good, and the log says so.
//! 3. What is compared is compared in constant time, with every token there is.
//! 4. A token that expires is refused from that second on, by the clock of the machine of the server.
//! 5. Two programs that change the file wait for each other; a crash leaves the old file or the new one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
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

use crate::error::{Error, ErrorCode, Result};
use crate::service::{Caller, Scope};

/// Target of the lines of the log that tell who deleted or administered what.
pub const AUDIT: &str = "fastk::audit";
/// Name of the file in a data directory.
pub const FILE: &str = "tokens.json";
/// What programs that change the file lock.
const LOCK_FILE: &str = "tokens.lock";
/// `O_NOFOLLOW` of Linux on x86-64; on others it may be another number, and then links are followed.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const NO_FOLLOW: i32 = 0o400_000;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
const NO_FOLLOW: i32 = 0;
/// Version of the file.
const VERSION: u32 = 1;
/// Beginning of every token.
const TOKEN_START: &str = "fastk_";
const SECRET_BYTES: usize = 32;
const ID_BYTES: usize = 4;
/// Longest name of a token, in characters.
const NAME_CHARS_MAX: usize = 100;
/// Most tokens of a file.
const TOKENS_MAX: usize = 10_000;
/// Most beginnings of keys a token is limited to, and the longest.
const PREFIXES_MAX: usize = 100;
const PREFIX_BYTES_MAX: usize = 256;
/// How often a server looks whether the file changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Least time between two attempts to read a file that could not be read.
const READ_AGAIN: Duration = Duration::from_millis(20);
/// Longest value of an `authorization` header.
const HEADER_BYTES_MAX: usize = 1_024;

/// Base64 as clients write it, with or without the `=` at the end.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, ANY_PADDING);
const LENIENT_URL: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, ANY_PADDING);
const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    /// Beginnings of the keys it reaches; all series when empty.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// SHA-256 of the token, in hexadecimal digits.
    sha256: String,
    /// RFC 3339.
    pub created_at: String,
    /// From when on it is refused, RFC 3339 in UTC; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339")]
    pub expires_at: Option<Timestamp>,
}

/// Times as text. One that cannot be read makes the file unreadable: it must not mean that a token never expires.
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

/// A token just made; the only time it is told.
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

/// What of a token may be shown.
#[derive(Debug, Serialize)]
pub struct TokenInfo<'t> {
    pub id: &'t str,
    pub name: &'t str,
    pub scope: Scope,
    pub prefixes: &'t [String],
    pub created_at: &'t str,
    /// `null` for a token that does not expire.
    #[serde(serialize_with = "rfc3339::serialize")]
    pub expires_at: Option<Timestamp>,
}

/// Tokens as they are listed.
#[derive(Debug, Serialize)]
pub struct TokenList<'t> {
    pub tokens: Vec<TokenInfo<'t>>,
}

/// Tokens without their hashes.
pub fn shown(tokens: &[Token]) -> TokenList<'_> {
    let info = |token| {
        let Token { id, name, scope, prefixes, created_at, expires_at, .. }: &Token = token;
        TokenInfo { id, name, scope: *scope, prefixes, created_at, expires_at: *expires_at }
    };
    TokenList { tokens: tokens.iter().map(info).collect() }
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    version: u32,
    tokens: Vec<Token>,
}

/// Reads the file; `None` when there is none.
fn read(path: &Path) -> Result<Option<Tokens>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, &error)),
    };
    let tokens: Tokens = serde_json::from_slice(&text)
        .map_err(|error| Error::corrupt(format!("{} is no file of tokens: {error}", path.display())))?;
    if tokens.version != VERSION {
        return Err(Error::new(
            ErrorCode::UnsupportedFormat,
            format!("{} has version {}, this program knows {VERSION}", path.display(), tokens.version),
        ));
    }
    Ok(Some(tokens))
}

/// Changes the file of a data directory, one program at a time.
fn change<T>(root: &Path, change: impl FnOnce(&mut Tokens) -> Result<T>) -> Result<T> {
    let lock_path = root.join(LOCK_FILE);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(NO_FOLLOW)
        .open(&lock_path);
    let lock = lock.map_err(|error| Error::io("open", &lock_path, &error))?;
    lock.lock().map_err(|error| Error::io("lock", &lock_path, &error))?;
    let path = root.join(FILE);
    let mut tokens = read(&path)?.unwrap_or(Tokens { version: VERSION, tokens: Vec::new() });
    let done = change(&mut tokens)?;
    let mut text = serde_json::to_vec_pretty(&tokens).map_err(|error| Error::internal(format!("tokens: {error}")))?;
    text.push(b'\n');
    let fresh = root.join(format!("{FILE}.new"));
    let written = (|| {
        // A new file, so that no link of somebody else is followed; it belongs to whom the directory belongs.
        let owner = std::fs::metadata(&path).or_else(|_| std::fs::metadata(root))?;
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
        if file.metadata()?.uid() != owner.uid() {
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        File::open(root)?.sync_all()
    })();
    written.map_err(|error: std::io::Error| Error::io("write", &path, &error))?;
    Ok(done)
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

/// SHA-256 of bytes, such as those of a certificate, in hexadecimal.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// When a token expires, of `text`: a time of RFC 3339, or how long it is good from `now` on, such as `12h` or `30d`.
///
/// # Errors
/// `invalid_argument` for another text, and for a time that is not after `now`.
pub fn expiry(text: &str, now: Timestamp) -> Result<Timestamp> {
    let seconds =
        |count: &str, unit: i64| count.parse::<i64>().ok().filter(|n| *n > 0).and_then(|n| n.checked_mul(unit));
    let units = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 7 * 86_400)];
    let found = units.iter().find_map(|(unit, length)| seconds(text.strip_suffix(*unit)?, *length));
    let at = match found {
        Some(seconds) => now.as_second().checked_add(seconds).and_then(|second| Timestamp::from_second(second).ok()),
        None => text.parse::<Timestamp>().ok().and_then(|at| Timestamp::from_second(at.as_second()).ok()),
    };
    let at = at.ok_or_else(|| {
        Error::invalid(format!("{text:?} is neither a duration nor a time"))
            .with_hint("such as 30d (s, m, h, d, w) or 2025-01-31T00:00:00Z")
    })?;
    if at <= now {
        return Err(Error::invalid(format!("a token that expires at {at} would never be good")));
    }
    Ok(at)
}

/// Whether a token can have this name and these prefixes.
///
/// # Errors
/// `invalid_argument`.
pub fn check_new(name: &str, prefixes: &[String]) -> Result<()> {
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!("the name of a token has 1 to {NAME_CHARS_MAX} visible characters")));
    }
    if prefixes.len() > PREFIXES_MAX {
        return Err(Error::invalid(format!("{} prefixes, more than {PREFIXES_MAX}", prefixes.len())));
    }
    let begins_key = |prefix: &str| {
        let whole = ["kline/", "scalar/"].iter().any(|kind| prefix.starts_with(kind) || kind.starts_with(prefix));
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-:@+=^$&/".contains(&b);
        whole && !prefix.is_empty() && prefix.len() <= PREFIX_BYTES_MAX && prefix.bytes().all(legal)
    };
    if let Some(prefix) = prefixes.iter().find(|prefix| !begins_key(prefix)) {
        return Err(Error::invalid(format!("prefix {prefix:?} is not how a series key begins"))
            .with_hint("such as kline/BTC or scalar/risk/"));
    }
    Ok(())
}

/// Makes a token that does not expire. The data directory is made when it is missing.
///
/// # Errors
/// Those of [`create_until`].
pub fn create(root: &Path, name: &str, scope: Scope, prefixes: &[String]) -> Result<NewToken> {
    create_until(root, name, scope, prefixes, None)
}

/// Makes a token that is good until `expires_at`, for good when that is `None`. The data directory is made when it is
/// missing.
///
/// # Errors
/// `invalid_argument` for a name or a prefix that cannot be, `too_large` beyond 10,000 tokens, `io`.
pub fn create_until(
    root: &Path,
    name: &str,
    scope: Scope,
    prefixes: &[String],
    expires_at: Option<Timestamp>,
) -> Result<NewToken> {
    check_new(name, prefixes)?;
    std::fs::create_dir_all(root).map_err(|error| Error::io("make", root, &error))?;
    let token = format!("{TOKEN_START}{}", URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>()?));
    let created_at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let id = change(root, |file| {
        if file.tokens.len() >= TOKENS_MAX {
            return Err(Error::new(ErrorCode::TooLarge, format!("there are {TOKENS_MAX} tokens already")));
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

/// The tokens of a data directory, oldest first; what is secret about them is not there.
///
/// # Errors
/// `corrupt_data`, `unsupported_format`, `io`.
pub fn list(root: &Path) -> Result<Vec<Token>> {
    Ok(read(&root.join(FILE))?.map(|file| file.tokens).unwrap_or_default())
}

/// Takes a token away. The file stays, so that a server without tokens lets nobody in.
///
/// # Errors
/// `not_found` for an id that is not there, and those of [`list`].
pub fn revoke(root: &Path, id: &str) -> Result<Token> {
    // Nothing is made where there is no file.
    find(root, id)?;
    change(root, |file| {
        let at = file.tokens.iter().position(|token| token.id == id).ok_or_else(|| missing(id))?;
        Ok(file.tokens.remove(at))
    })
}

/// The token with this id.
///
/// # Errors
/// `not_found` for an id that is not there, and those of [`list`].
pub fn find(root: &Path, id: &str) -> Result<Token> {
    list(root)?.into_iter().find(|token| token.id == id).ok_or_else(|| missing(id))
}

fn missing(id: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no token {id:?}"))
}

/// What tells one state of a file from another.
type Stamp = (u64, i64, i64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

/// What time it is, for whoever has to know when tokens expire.
#[derive(Clone, Copy, Debug)]
pub struct Clock(fn() -> Timestamp);

/// Lets callers of a server in, or not.
#[derive(Debug)]
pub struct Authenticator {
    path: PathBuf,
    clock: Clock,
    /// `None` where no token was ever made: then everybody is let in.
    known: ArcSwap<Option<Tokens>>,
    looked: Mutex<TokenFileState>,
}

/// The last look at the file.
#[derive(Debug)]
struct TokenFileState {
    at: Instant,
    /// What `known` was read from.
    read: Option<Stamp>,
    /// What could not be read, so that the log says so once.
    told: Option<Stamp>,
}

impl Authenticator {
    /// The gate of a data directory.
    ///
    /// # Errors
    /// Those of [`list`].
    pub fn of(root: &Path) -> Result<Self> {
        Self::with_clock(root, Clock(Timestamp::now))
    }

    fn with_clock(root: &Path, clock: Clock) -> Result<Self> {
        let path = root.join(FILE);
        let seen = stamp(&path);
        let known = ArcSwap::from_pointee(read(&path)?);
        Ok(Self {
            path,
            clock,
            known,
            looked: Mutex::new(TokenFileState { at: Instant::now(), read: seen, told: None }),
        })
    }

    /// Whether callers need a token.
    pub fn asks(&self) -> bool {
        self.known.load().is_some()
    }

    /// Whether somebody can get in with a token.
    pub fn has_tokens(&self) -> bool {
        self.known.load().as_ref().as_ref().is_some_and(|file| !file.tokens.is_empty())
    }

    /// Looks from time to time whether the file changed.
    fn look(&self) {
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if looked.at.elapsed() >= LOOK_EVERY {
            self.look_now(&mut looked);
        }
    }

    fn look_now(&self, looked: &mut TokenFileState) {
        let before = std::mem::replace(&mut looked.at, Instant::now());
        let seen = stamp(&self.path);
        if seen.is_none() || seen == looked.read || (seen == looked.told && before.elapsed() < READ_AGAIN) {
            return;
        }
        match read(&self.path) {
            Ok(Some(file)) => {
                tracing::info!(tokens = file.tokens.len(), "tokens were read anew");
                let before = self.known.load();
                tell_changes(before.as_ref().as_ref().map_or(&[], |before| &before.tokens), &file.tokens);
                self.known.store(Arc::new(Some(file)));
                looked.read = seen;
            }
            Ok(None) => {}
            // It is tried again: a file that can be read later may take tokens away.
            Err(error) => {
                if looked.told != seen {
                    tracing::error!(%error, "the tokens of before stay good");
                }
                looked.told = seen;
            }
        }
    }

    /// Whether somebody let in before still would be.
    ///
    /// # Errors
    /// `unauthenticated` once the token was revoked or expired.
    pub fn still(&self, caller: &Caller) -> Result<()> {
        self.look();
        let known = self.known.load();
        let Some(file) = known.as_ref() else { return Ok(()) };
        match file.tokens.iter().find(|token| *token.id == *caller.id) {
            Some(token) => self.unexpired(token).map(drop),
            None => Err(refused("the token was revoked")),
        }
    }

    /// Who comes with a known token.
    fn unexpired(&self, token: &Token) -> Result<Caller> {
        match token.expires_at {
            Some(at) if (self.clock.0)() >= at => Err(refused(&format!("the token expired at {at}"))
                .with_hint("`fastk admin token create` on the machine of the data makes another")),
            _ => Ok(token.caller()),
        }
    }

    /// Who comes with these values of the header `authorization`.
    ///
    /// # Errors
    /// `unauthenticated` without a good token where one is needed.
    pub fn admit<'v>(&self, values: impl IntoIterator<Item = &'v [u8]>) -> Result<Caller> {
        self.look();
        let mut values = values.into_iter();
        let (value, more) = (values.next(), values.next());
        let known = self.known.load();
        let Some(file) = known.as_ref() else { return Ok(Caller::trusted()) };
        let Some(value) = value else {
            return Err(refused("this server asks for a token").with_hint("send `authorization: Bearer TOKEN`"));
        };
        let token = if more.is_some() { None } else { token_of(value) };
        let token = token.ok_or_else(|| {
            refused("the header authorization cannot be read").with_hint("send `authorization: Bearer TOKEN`")
        })?;
        match file.find(&token) {
            Some(token) => self.unexpired(token),
            // The file may have changed since it was looked at, however lately: a new token is good at once.
            None => {
                self.look_now(&mut self.looked.lock().unwrap_or_else(PoisonError::into_inner));
                let known = self.known.load();
                let found = known.as_ref().as_ref().and_then(|file| file.find(&token));
                let found = found.ok_or_else(|| refused("the token is not known here, or was revoked"))?;
                self.unexpired(found)
            }
        }
    }
}

/// Tells the log which tokens came and went; they are made and revoked by other programs.
fn tell_changes(before: &[Token], after: &[Token]) {
    let is_among = |tokens: &[Token], token: &Token| tokens.iter().any(|other| other.id == token.id);
    let made = after.iter().filter(|token| !is_among(before, token)).map(|token| ("token created", token));
    let gone = before.iter().filter(|token| !is_among(after, token)).map(|token| ("token revoked", token));
    for (verb, token) in made.chain(gone) {
        let (scope, prefixes) = (token.scope.name(), token.prefixes.join(","));
        tracing::info!(target: AUDIT, verb, token = token.id, name = token.name, scope, prefixes, "audit");
    }
}

fn refused(detail: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, detail)
}

impl Tokens {
    /// The token with this text. Takes as long whichever it is.
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

/// The token in a value of `authorization`: after `Bearer`, or the password after `Basic`, whatever the user name.
pub fn token_of(value: &[u8]) -> Option<String> {
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

/// `authorization` of a client with this token.
pub fn header_of(token: &str) -> String {
    format!("Bearer {token}")
}

/// The same in the form that database clients send.
pub fn basic_header_of(user: &str, token: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{token}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(gate: &Authenticator, header: &str) -> Result<Caller> {
        gate.admit([header.as_bytes()])
    }

    #[test]
    fn tokens_open_the_gate_until_they_are_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let gate = Authenticator::of(root).unwrap();
        assert!(!gate.asks());
        assert_eq!(gate.admit([]).unwrap(), Caller::trusted());
        let made = create(root, "lab", Scope::Write, &["kline/BTC".into()]).unwrap();
        let gate = Authenticator::of(root).unwrap();
        assert!(gate.asks() && gate.has_tokens());
        assert_eq!(gate.admit([]).unwrap_err().code(), ErrorCode::Unauthenticated);
        let caller = admit(&gate, &header_of(&made.token)).unwrap();
        assert_eq!((caller.scope, &*caller.id, caller.prefixes.len()), (Scope::Write, made.id.as_str(), 1));
        assert_eq!(admit(&gate, &basic_header_of("anyone", &made.token)).unwrap(), caller);
        // A second one is good at once, without a new gate; a revocation is after a moment.
        let second = create(root, "second", Scope::Read, &[]).unwrap();
        assert_eq!(admit(&gate, &header_of(&second.token)).unwrap().scope, Scope::Read);
        assert_eq!(revoke(root, &made.id).unwrap().name, "lab");
        std::thread::sleep(LOOK_EVERY + Duration::from_millis(50));
        assert_eq!(admit(&gate, &header_of(&made.token)).unwrap_err().code(), ErrorCode::Unauthenticated);
        revoke(root, &second.id).unwrap();
        std::thread::sleep(LOOK_EVERY + Duration::from_millis(50));
        assert!(admit(&gate, &header_of(&second.token)).is_err());
        assert!(gate.admit([]).is_err(), "a server without tokens lets nobody in");
        assert!(Authenticator::of(root).unwrap().asks());
        assert_eq!(revoke(root, "nobody").unwrap_err().code(), ErrorCode::NotFound);
    }

    #[test]
    fn a_token_is_refused_from_the_second_at_which_it_expires() {
        static NOW: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(1_700_000_000);
        let now = || Timestamp::from_second(NOW.load(std::sync::atomic::Ordering::SeqCst)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let until = expiry("30d", now()).unwrap();
        let made = create_until(root, "month", Scope::Read, &[], Some(until)).unwrap();
        let ever = create(root, "ever", Scope::Read, &[]).unwrap();
        let gate = Authenticator::with_clock(root, Clock(now)).unwrap();
        let caller = admit(&gate, &header_of(&made.token)).unwrap();
        NOW.store(1_700_000_000 + 30 * 86_400 - 1, std::sync::atomic::Ordering::SeqCst);
        assert!(admit(&gate, &header_of(&made.token)).is_ok() && gate.still(&caller).is_ok());
        NOW.store(1_700_000_000 + 30 * 86_400, std::sync::atomic::Ordering::SeqCst);
        for error in [admit(&gate, &header_of(&made.token)).unwrap_err(), gate.still(&caller).unwrap_err()] {
            assert_eq!(error.code(), ErrorCode::Unauthenticated);
            assert!(error.detail().contains("expired at 2023-12-14T22:13:20Z"), "{}", error.detail());
        }
        assert!(admit(&gate, &header_of(&ever.token)).is_ok());
        // It is listed all the same, with when it expired.
        let listed = list(root).unwrap();
        assert_eq!(listed.iter().map(|token| token.expires_at).collect::<Vec<_>>(), [Some(until), None]);
    }

    #[test]
    fn expiry_is_a_duration_or_a_time_to_come() {
        let now: Timestamp = "2024-02-01T00:00:00.5Z".parse().unwrap();
        for (text, at) in [
            ("90s", "2024-02-01T00:01:30Z"),
            ("12h", "2024-02-01T12:00:00Z"),
            ("30d", "2024-03-02T00:00:00Z"),
            ("2w", "2024-02-15T00:00:00Z"),
            ("2024-02-01T02:00:00+01:00", "2024-02-01T01:00:00Z"),
        ] {
            assert_eq!(expiry(text, now).unwrap().to_string(), at, "{text}");
        }
        for bad in ["", "30", "d", "0d", "-1d", "1y", "2024-01-31T00:00:00Z", "tomorrow", "99999999999999999w"] {
            assert_eq!(expiry(bad, now).unwrap_err().code(), ErrorCode::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn a_new_token_is_good_at_once_whoever_else_asks() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        create(root, "first", Scope::Read, &[]).unwrap();
        let gate = Authenticator::of(root).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        assert!(admit(&gate, "Bearer wrong").is_err());
                    }
                });
            }
            let admitted: Vec<_> = (0..50)
                .map(|_| admit(&gate, &header_of(&create(root, "next", Scope::Read, &[]).unwrap().token)).is_ok())
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(admitted, [true; 50]);
        });
    }

    #[test]
    fn a_file_that_goes_or_breaks_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let made = create(root, "lab", Scope::Read, &[]).unwrap();
        let gate = Authenticator::of(root).unwrap();
        for broken in [Some("nonsense"), None] {
            match broken {
                Some(text) => std::fs::write(root.join(FILE), text).unwrap(),
                None => std::fs::remove_file(root.join(FILE)).unwrap(),
            }
            std::thread::sleep(LOOK_EVERY + Duration::from_millis(50));
            assert!(gate.admit([]).is_err() && admit(&gate, "Bearer x").is_err());
            assert!(admit(&gate, &header_of(&made.token)).is_ok());
        }
        std::fs::write(root.join(FILE), "{\"version\":1,\"tokens\":[{}]}").unwrap();
        assert_eq!(Authenticator::of(root).unwrap_err().code(), ErrorCode::CorruptData);
    }

    #[test]
    fn a_file_that_could_not_be_read_is_read_later_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let made = create(root, "lab", Scope::Read, &[]).unwrap();
        let gate = Authenticator::of(root).unwrap();
        let file = root.join(FILE);
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, "{").unwrap();
        std::thread::sleep(LOOK_EVERY + Duration::from_millis(50));
        let caller = admit(&gate, &header_of(&made.token)).unwrap();
        std::fs::write(&file, &text).unwrap();
        std::fs::write(root.join("elsewhere"), "kept").unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join(format!("{FILE}.new"))).unwrap();
        revoke(root, &made.id).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("elsewhere")).unwrap(), "kept");
        std::thread::sleep(LOOK_EVERY + Duration::from_millis(50));
        assert!(admit(&gate, &header_of(&made.token)).is_err());
        assert_eq!(gate.still(&caller).unwrap_err().code(), ErrorCode::Unauthenticated);
        std::fs::remove_file(root.join(LOCK_FILE)).unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join(LOCK_FILE)).unwrap();
        assert!(create(root, "x", Scope::Read, &[]).is_err());
    }

    #[test]
    fn the_file_tells_no_secret_and_nobody_else_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path(), "lab", Scope::Admin, &[]).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains(&made.token) && !text.contains(&made.token[6..]));
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(made.token, create(dir.path(), "lab", Scope::Admin, &[]).unwrap().token);
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn headers_are_read_as_clients_write_them_and_nothing_else() {
        for good in ["Bearer abc", "bearer abc", "BEARER  abc ", "Basic dTphYmM=", "basic dTphYmM", "Basic OmFiYw"] {
            assert_eq!(token_of(good.as_bytes()).as_deref(), Some("abc"), "{good}");
        }
        let long = format!("Bearer {}", "x".repeat(2_000));
        for bad in ["", "abc", "Bearer", "Bearer ", "Digest abc", "Basic !!", "Basic dQ==", "Basic dTo=", &long] {
            assert_eq!(token_of(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(token_of(b"Bearer \xff"), None);
        let dir = tempfile::tempdir().unwrap();
        let made = create(dir.path(), "lab", Scope::Admin, &[]).unwrap();
        let header = header_of(&made.token);
        let twice = Authenticator::of(dir.path()).unwrap().admit([header.as_bytes(), header.as_bytes()]);
        assert_eq!(twice.unwrap_err().code(), ErrorCode::Unauthenticated);
    }

    #[test]
    fn names_and_prefixes_that_cannot_be_are_refused() {
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
