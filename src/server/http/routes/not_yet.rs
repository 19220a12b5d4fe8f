//! Paths of the contract that this version does not offer: known, and refused as such.

use axum::http::{Method, Uri};
use axum::routing::{MethodRouter, get};
use utoipa_axum::router::OpenApiRouter;

use super::{Failure, Gated};
use crate::error::{Error, ErrorCode};

async fn refuse(method: Method, uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure(Error::new(ErrorCode::Unimplemented, format!("{method} {path} is not offered by this version")))
}

/// The routes; they are left out of the OpenAPI document.
pub fn all() -> OpenApiRouter<Gated> {
    let both = || -> MethodRouter<Gated> { get(refuse).post(refuse) };
    let any = || both().put(refuse).patch(refuse).delete(refuse);
    let mut router = OpenApiRouter::new();
    for registry in ["datasets", "features", "factors"] {
        router = router.route(&format!("/v1/{registry}"), both()).route(&format!("/v1/{registry}/{{*rest}}"), any());
    }
    router
}
