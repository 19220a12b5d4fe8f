//! `fastk admin token`: who may use a server over a data directory.
//!
//! The file is changed in place, also beside a running server, which notices. Only somebody who can write the directory
//! makes tokens: no server hands them out.

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
    verb: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and show it, this once. From the first one on a server over this directory asks for tokens.
    Create(TokenCreateArgs),
    /// Tokens, without what is secret about them.
    List(TokenFileArgs),
    /// Take a token away. A server that has no token left lets nobody in.
    Revoke(TokenRevokeArgs),
}

#[derive(Debug, clap::Args)]
struct TokenFileArgs {
    /// Data directory; the one of the configuration when left out. A server over it notices.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Taken to say that no server does this.
    #[arg(long, hide = true)]
    server: Option<String>,
    /// Print the reply as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct TokenCreateArgs {
    /// What it is for.
    #[arg(long)]
    name: String,
    /// read, write or admin; each includes those before it.
    #[arg(long)]
    scope: String,
    /// How the keys of the series begin that it reaches, such as kline/BTC; may be given again. All when left out.
    #[arg(long, value_name = "KEY")]
    prefix: Vec<String>,
    /// When it stops being good: a duration from now (12h, 30d, 8w) or a time (RFC 3339). Never when left out.
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Only check what was given: make no token.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: TokenFileArgs,
}

#[derive(Debug, clap::Args)]
struct TokenRevokeArgs {
    /// Id of the token.
    id: String,
    /// Only show the token: it stays good.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: TokenFileArgs,
}

impl TokenFileArgs {
    fn root(&self) -> Result<PathBuf> {
        if self.server.is_some() {
            return Err(Error::invalid("tokens are not made through a server")
                .with_hint("--root DIR on the machine of the data; a server that runs there notices"));
        }
        root_of(&TargetArgs { root: self.root.clone(), ..TargetArgs::default() })
    }
}

/// Runs one of the verbs under `admin token`.
pub fn run(args: TokenArgs) -> Result<u8> {
    match args.verb {
        TokenCommand::Create(args) => {
            let scope = args.scope.parse::<Scope>()?;
            let until = args.expires.as_deref().map(|text| access::expiry(text, Timestamp::now())).transpose()?;
            if args.dry_run {
                access::check_new(&args.name, &args.prefix)?;
                let root = args.place.root()?;
                access::list(&root)?;
                print::note(&format!("would make a token ({}, {}) in {}", args.name, scope.name(), root.display()));
                return Ok(0);
            }
            let made = access::create_until(&args.place.root()?, &args.name, scope, &args.prefix, until)?;
            if args.place.json {
                print::reply(&made, true)?;
            } else {
                print::out(&format!("{}\n", made.token))?;
                print::note(&format!("token {} ({}, {}) is not shown again", made.id, made.name, made.scope.name()));
            }
        }
        TokenCommand::List(place) => {
            let tokens = access::list(&place.root()?)?;
            if place.json {
                print::reply(&access::shown(&tokens), true)?;
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
                print::reply(&access::shown(std::slice::from_ref(&token)), true)?;
            } else if args.dry_run {
                print::out(&format!("token {} ({}) would no longer be good\n", token.id, token.name))?;
            } else {
                print::out(&format!("token {} ({}) is no longer good\n", token.id, token.name))?;
            }
        }
    }
    Ok(0)
}
