//! The routers of the listeners: routes, documentation and middleware.

use std::sync::Arc;

use axum::Router;

use super::settings::HttpSettings;
use super::state::RequestState;
use super::{console, cors, middleware, routes, udf};
use crate::access::Authenticator;
use crate::service::Service;

/// A router with health and metrics alone.
pub fn health_router(service: Arc<Service>, auth: Arc<Authenticator>, config: HttpSettings) -> Router {
    let app = RequestState::new(service, auth, config);
    let middleware = axum::middleware::from_fn_with_state(app.clone(), middleware::handle);
    routes::health().with_state(app).fallback(routes::not_found).layer(middleware)
}

/// The complete REST router.
pub fn router(service: Arc<Service>, auth: Arc<Authenticator>, config: HttpSettings) -> Router {
    let app = RequestState::new(service, auth, config);
    let origins = app.0.cors_origins.clone();
    let middleware = axum::middleware::from_fn_with_state(app.clone(), middleware::handle);
    let pages = routes::docs().merge(console::routes());
    let router =
        routes::all().merge(udf::routes()).with_state(app).merge(pages).fallback(routes::not_found).layer(middleware);
    // Outermost: a browser sends preflight requests without a token.
    if origins.is_empty() { router } else { router.layer(cors::layer(origins)) }
}
