//! The store as a whole: inventory, health, readiness, metrics.

use serde::{Deserialize, Serialize};

use super::operation::{Context, EntityTag, Operation, RequestSchemas};
use super::spec::{FlightBinding, Guard, Header, Method, Route, Spec};
use crate::error::Result;
use crate::service::{Health, HealthStatus, Inventory, Scope, SeriesFilter, Service, StatusReply};

/// A request without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRequest {}

/// Totals, and one row per series.
#[derive(Debug)]
pub struct InventoryOf;

impl Operation for InventoryOf {
    const SPEC: Spec = Spec::new("inventory", Scope::Read)
        .rest(&[Route {
            query: &["kind", "symbol", "timeframe", "category", "name", "prefix", "limit", "cursor", "months"],
            headers: &[Header::IfNoneMatch],
            success: &[(200, "The inventory")],
            ..Route::new(Method::Get, "server")
        }
        .at("/inventory", "getInventory", "Inventory")
        .about("Totals, and one row per series.")])
        .flight(&[FlightBinding::Action("inventory", "lists the stored series; body: empty, or a filter as JSON")])
        .cli(&[
            "admin inventory",
            "admin stats",
            "admin capabilities",
            "bridge kline-inventory",
            "bridge scalar-inventory",
            "bridge indicator-inventory",
        ]);
    type Request = SeriesFilter;
    type Reply = Inventory;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<SeriesFilter>()
    }

    fn run(service: &Service, request: SeriesFilter, _: &Context) -> Result<Inventory> {
        service.inventory(&request)
    }

    fn etag(service: &Service, _: &SeriesFilter) -> Result<Option<EntityTag>> {
        Ok(Some(EntityTag::OfContent(service.inventory_etag()?)))
    }
}

fn status_of(status: HealthStatus) -> Option<u16> {
    (status == HealthStatus::Failing).then_some(503)
}

/// The health checks.
#[derive(Debug)]
pub struct HealthOf;

impl Operation for HealthOf {
    const SPEC: Spec = Spec::new("health", Scope::Read)
        .rest(&[Route {
            success: &[(200, "Healthy, or degraded with the reason"), (503, "Failing, with the reason")],
            guard: Guard::Unlimited,
            ..Route::new(Method::Get, "server")
        }
        .at("/health", "getHealth", "Health")
        .about("The health checks; 503 when the server is failing.")])
        .flight(&[FlightBinding::Action("health", "returns the health of the server; no body")])
        .cli(&["admin health"]);
    type Request = NoRequest;
    type Reply = Health;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<Health> {
        service.health()
    }

    fn status(reply: &Health) -> Option<u16> {
        status_of(reply.status)
    }
}

/// Whether requests would succeed.
#[derive(Debug)]
pub struct Readiness;

impl Operation for Readiness {
    const SPEC: Spec = Spec::new("readiness", Scope::Read)
        .rest(&[Route {
            success: &[(200, "Ready"), (503, "Not ready")],
            guard: Guard::Public,
            ..Route::new(Method::Get, "server")
        }
        .at("/health/ready", "getReadiness", "Readiness")
        .about(
            "503 when requests would fail: while the store is being opened (the detail has the progress), while the \
             server shuts down, and when it is failing. `writer_stopped` is true when writes are rejected until the \
             store is opened again.",
        )])
        .not_in_flight("the health service of gRPC reports it")
        .cli(&["admin ping"]);
    type Request = NoRequest;
    type Reply = StatusReply;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<StatusReply> {
        service.check_ready()?;
        service.readiness()
    }

    fn status(reply: &StatusReply) -> Option<u16> {
        status_of(reply.status)
    }
}

/// Whether the process runs.
pub(super) const LIVENESS: Spec = Spec::new("liveness", Scope::Read)
    .rest(&[Route { success: &[(200, "Alive")], guard: Guard::Public, ..Route::new(Method::Get, "server") }
        .at("/health/live", "getLiveness", "Liveness")
        .about("Responds as long as the process runs.")])
    .not_in_flight("the health service of gRPC reports it")
    .not_in_cli("a command needs no running process");

/// Metrics for Prometheus.
pub(super) const METRICS: Spec = Spec::new("metrics", Scope::Read)
    .whole_store()
    .rest(&[Route { success: &[(200, "Metrics")], ..Route::new(Method::Get, "server") }
        .at("/metrics", "getMetrics", "Metrics")
        .about("Metrics in the text format of Prometheus; symbols are never labels.")])
    .not_in_flight("Prometheus scrapes over HTTP")
    .not_in_cli("Prometheus scrapes over HTTP");

/// What an interface offers.
pub(super) const DESCRIBE_INTERFACE: Spec = Spec::new("list the operations", Scope::Read)
    .rest(&[Route {
        success: &[(200, "The OpenAPI document")],
        guard: Guard::Public,
        ..Route::new(Method::Get, "server")
    }
    .at("/openapi.json", "getOpenapi", "This document")])
    .flight(&[FlightBinding::Method("ListActions")])
    .not_in_cli("`fastk --help` lists the commands");
