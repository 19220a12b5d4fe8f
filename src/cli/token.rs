//! `fastk admin token`: the tokens of a data directory.
//!
//! The token file is changed directly; a running server reloads it. Only a user who can write the directory can create
//! tokens: servers issue none.

use std::path::PathBuf;

use clap::Subcommand;
use jiff::Timestamp;

use super::print;
use super::target::{TargetArgs, root_of};
use crate::access;
use crate::error::{Error, Result};
use crate::service::Scope;

#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Create a token and print it; it is not shown again. Once a token exists, a server over this directory requires
    /// one.
    Create(TokenCreateArgs),
    /// List tokens, without their secrets.
    List(TokenFileArgs),
    /// Revoke a token. A server with no token left refuses every request.
    Revoke(TokenRevokeArgs),
}

#[derive(Debug, clap::Args)]
struct TokenFileArgs {
    /// Data directory [default: the configured one]. A server over it reloads the tokens.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Accepted for a clear error: servers do not manage tokens.
    #[arg(long, hide = true)]
    server: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct TokenCreateArgs {
    /// Name, such as the client that uses it.
    #[arg(long)]
    name: String,
    /// read, write or admin; each includes the ones before it.
    #[arg(long)]
    scope: String,
    /// Prefix of the series keys it may access, such as kline/BTC; repeatable [default: all].
    #[arg(long, value_name = "KEY")]
    prefix: Vec<String>,
    /// When it expires: a duration from now (12h, 30d, 8w) or a time (RFC 3339) [default: never].
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Only check the arguments; create no token.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: TokenFileArgs,
}

#[derive(Debug, clap::Args)]
struct TokenRevokeArgs {
    /// Id of the token.
    id: String,
    /// Only print the token; do not revoke it.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: TokenFileArgs,
}

impl TokenFileArgs {
    fn root(&self) -> Result<PathBuf> {
        if self.server.is_some() {
            return Err(Error::invalid("tokens cannot be managed through a server")
                .with_hint("use --root DIR on the machine with the data; a running server reloads the tokens"));
        }
        root_of(&TargetArgs { root: self.root.clone(), ..TargetArgs::default() })
    }
}

/// Runs one of the commands under `admin token`.
pub fn run(args: TokenArgs) -> Result<u8> {
    match args.command {
        TokenCommand::Create(args) => {
            let scope = args.scope.parse::<Scope>()?;
            let until = args.expires.as_deref().map(|text| access::parse_expiry(text, Timestamp::now())).transpose()?;
            if args.dry_run {
                access::check_new(&args.name, &args.prefix)?;
                let root = args.place.root()?;
                access::list(&root)?;
                print::note(&format!("would create a token ({}, {}) in {}", args.name, scope.name(), root.display()));
                return Ok(0);
            }
            let created = access::create_until(&args.place.root()?, &args.name, scope, &args.prefix, until)?;
            if args.place.json {
                print::reply(&created, true)?;
            } else {
                print::out(&format!("{}\n", created.token))?;
                print::note(&format!(
                    "token {} ({}, {}) is not shown again",
                    created.id,
                    created.name,
                    created.scope.name()
                ));
            }
        }
        TokenCommand::List(place) => {
            let tokens = access::list(&place.root()?)?;
            if place.json {
                print::reply(&access::redacted(&tokens), true)?;
            } else {
                let now = Timestamp::now();
                let row = |token: access::Token| {
                    let prefixes = if token.prefixes.is_empty() { "all".to_owned() } else { token.prefixes.join(" ") };
                    let expires = match token.expires_at {
                        None => "never".to_owned(),
                        Some(at) if at <= now => format!("{at} (expired)"),
                        Some(at) => at.to_string(),
                    };
                    vec![token.id, token.name, token.scope.name().to_owned(), prefixes, token.created_at, expires]
                };
                let rows = tokens.into_iter().map(row).collect();
                print::out(&print::table(&["id", "name", "scope", "series", "created_at", "expires_at"], rows))?;
            }
        }
        TokenCommand::Revoke(args) => {
            let root = args.place.root()?;
            let token = if args.dry_run { access::find(&root, &args.id)? } else { access::revoke(&root, &args.id)? };
            if args.place.json {
                print::reply(&access::redacted(std::slice::from_ref(&token)), true)?;
            } else if args.dry_run {
                print::out(&format!("token {} ({}) would be revoked\n", token.id, token.name))?;
            } else {
                print::out(&format!("token {} ({}) is revoked\n", token.id, token.name))?;
            }
        }
    }
    Ok(0)
}
