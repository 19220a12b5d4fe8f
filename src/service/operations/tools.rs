//! Operations of one interface alone: tools for a data directory that no server has open, the server itself, tokens.

use super::spec::{FlightBinding, Spec};
use crate::service::Scope;

/// An operation of the command line.
const fn command(name: &'static str, commands: &'static [&'static str], reason: &'static str) -> Spec {
    Spec::new(name, Scope::Admin).whole_store().not_in_rest(reason).not_in_flight(reason).cli(commands)
}

pub(super) const REPAIR: Spec = command("repair", &["admin repair"], "needs exclusive access to the data directory");
pub(super) const REBUILD_MANIFEST: Spec =
    command("rebuild the manifest", &["admin rebuild-manifest"], "needs exclusive access to the data directory");
pub(super) const RESTORE: Spec = command("restore", &["admin restore"], "creates a store that no server has open");
pub(super) const TOKENS: Spec =
    command("tokens", &["admin token"], "creating tokens requires access to the data directory");
pub(super) const INSPECT: Spec = command("inspect", &["inspect"], "reads files, not the store");
pub(super) const SERVE: Spec = command("serve", &["serve", "demo"], "starts the listeners");

pub(super) const LOG_IN: Spec = Spec::new("log in", Scope::Read)
    .not_in_rest("every request carries its token")
    .flight(&[FlightBinding::Method("Handshake")])
    .not_in_cli("every request carries its token");
