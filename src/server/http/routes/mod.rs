//! The routes, one file per subject.

mod admin;
mod coverage;
mod datasets;
mod definitions;
mod records;
mod rows;
mod series;
mod server;
mod snapshots;

use axum::Router;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::openapi::Document;
use super::problem::ProblemResponse;
use super::state::{AppState, RequestState};
use crate::error::{Error, ErrorCode};

/// Result of a handler.
type Outcome<T = Response> = Result<T, ProblemResponse>;

/// All routes with their documentation.
pub fn all() -> OpenApiRouter<RequestState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(series::list_series, series::register_series))
        .routes(routes!(series::get_kline, series::change_kline, series::drop_kline))
        .routes(routes!(series::get_scalar, series::change_scalar, series::drop_scalar))
        .routes(routes!(rows::read_klines, rows::write_klines, rows::delete_klines))
        .routes(routes!(rows::read_scalars, rows::write_scalars, rows::delete_scalars))
        .routes(routes!(rows::merge_klines))
        .routes(routes!(rows::merge_scalars))
        .routes(routes!(rows::read_many, rows::query))
        .routes(routes!(snapshots::list_snapshots, snapshots::create_snapshot))
        .routes(routes!(snapshots::drop_snapshot))
        .routes(routes!(coverage::kline_coverage))
        .routes(routes!(coverage::scalar_coverage))
        .routes(routes!(rows::write_many))
        .routes(routes!(admin::verify))
        .routes(routes!(admin::scrub))
        .routes(routes!(admin::compact))
        .routes(routes!(admin::backup))
        .routes(routes!(admin::list_jobs))
        .routes(routes!(admin::get_job, admin::cancel_job))
        .routes(routes!(admin::orphans))
        .routes(routes!(admin::overlaps))
        .routes(routes!(admin::files))
        .routes(routes!(server::inventory))
        .routes(routes!(server::health))
        .routes(routes!(server::live))
        .routes(routes!(server::ready))
        .routes(routes!(server::metrics))
        .routes(routes!(server::openapi))
        .routes(routes!(datasets::list_datasets, datasets::create_dataset))
        .routes(routes!(datasets::get_dataset))
        .routes(routes!(datasets::list_dataset_versions))
        .routes(routes!(datasets::get_dataset_version, datasets::change_dataset))
        .routes(routes!(datasets::dataset_lineage))
        .routes(routes!(definitions::list_features, definitions::define_feature))
        .routes(routes!(definitions::get_feature))
        .routes(routes!(definitions::list_feature_versions))
        .routes(routes!(definitions::get_feature_version, definitions::change_feature))
        .routes(routes!(definitions::feature_lineage))
        .routes(routes!(definitions::list_factors, definitions::define_factor))
        .routes(routes!(definitions::get_factor))
        .routes(routes!(definitions::list_factor_versions))
        .routes(routes!(definitions::get_factor_version, definitions::change_factor))
        .routes(routes!(definitions::factor_lineage))
}

/// Routes of health and metrics.
pub fn health() -> Router<RequestState> {
    Router::new()
        .route("/health", get(server::health))
        .route("/health/live", get(server::live))
        .route("/health/ready", get(server::ready))
        .route("/metrics", get(server::metrics))
}

/// The interactive documentation, served from the program itself.
pub fn docs() -> Router {
    SwaggerUi::new("/docs").config(Config::new(["/openapi.json"])).into()
}

/// Fallback for unknown paths.
pub async fn not_found(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let error = if path.starts_with("/v1/") && path.contains("//") {
        Error::invalid(format!("{path} has an empty segment"))
            .with_hint("a symbol, timeframe, category or name must have at least one character")
    } else {
        Error::new(ErrorCode::NotFound, format!("{path} does not exist ({method})"))
            .with_hint("GET /openapi.json lists the paths")
    };
    ProblemResponse(error).into_response()
}
