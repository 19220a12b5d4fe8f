//! Features and factors: register, list, describe, change the status. The kind is a field of each request.

use serde::{Deserialize, Serialize};

use super::datasets::{LATEST, NOT_IN_FLIGHT, RecordChange, RecordRequest, VERSION_QUERY, location};
use super::operation::{Context, Operation, RequestSchemas};
use super::spec::{BodyKind, Method, Route, Spec};
use crate::error::ErrorCode::{CorruptData, DatasetNotFound, NotFound, SeriesNotFound, UnsupportedFormat};
use crate::error::{ErrorCode, Result};
use crate::registry::RecordKind;
use crate::service::{Defined, Definition, DefinitionPage, DefinitionSpec, RecordFilter, RecordPatch, Scope, Service};

const ERRORS: &[ErrorCode] = &[NotFound, CorruptData, UnsupportedFormat];

/// A feature or factor to register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefineRequest {
    pub kind: RecordKind,
    pub spec: DefinitionSpec,
}

/// Registers a feature or factor.
#[derive(Debug)]
pub struct Define;

impl Define {
    const ROUTE: Route = Route {
        body: BodyKind::Field("spec"),
        long_body: true,
        success: &[(201, "Registered"), (200, "This version already exists")],
        location: "Path of the version",
        writes: true,
        errors: &[NotFound, SeriesNotFound, DatasetNotFound, CorruptData, UnsupportedFormat],
        about: "An identical registration (definition, code version, inputs and outputs) returns the existing version \
                unless it is archived; any other creates the next version.",
        ..Route::new(Method::Post, "registry")
    };
}

impl Operation for Define {
    const SPEC: Spec = Spec::new("register a feature or factor", Scope::Write)
        .rest(&[
            Self::ROUTE.at("/v1/features", "registerFeature", "Register a feature").with("kind", "feature"),
            Self::ROUTE.at("/v1/factors", "registerFactor", "Register a factor").with("kind", "factor"),
        ])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["feature create", "factor create"]);
    type Request = DefineRequest;
    type Reply = Defined;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<DefinitionSpec>()
    }

    fn run(service: &Service, request: DefineRequest, _: &Context) -> Result<Defined> {
        service.define(request.kind, &request.spec)
    }

    fn status(reply: &Defined) -> Option<u16> {
        (!reply.created).then_some(200)
    }

    fn location(reply: &Defined) -> Option<String> {
        Some(location(&reply.definition.reference))
    }
}

/// Lists features or factors.
#[derive(Debug)]
pub struct ListDefinitions;

impl ListDefinitions {
    const ROUTE: Route = Route {
        query: &["name", "status", "series", "derived_from", "limit", "cursor"],
        errors: &[CorruptData, UnsupportedFormat],
        about: "Ordered by name and version, in pages, without series.",
        ..Route::new(Method::Get, "registry")
    };
}

impl Operation for ListDefinitions {
    const SPEC: Spec = Spec::new("list features or factors", Scope::Read)
        .rest(&[
            Route { success: &[(200, "A page of features")], ..Self::ROUTE }
                .at("/v1/features", "listFeatures", "List features")
                .with("kind", "feature"),
            Route { success: &[(200, "A page of factors")], ..Self::ROUTE }
                .at("/v1/factors", "listFactors", "List factors")
                .with("kind", "factor"),
        ])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["feature list", "factor list"]);
    type Request = RecordFilter;
    type Reply = DefinitionPage;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<RecordFilter>()
    }

    fn run(service: &Service, request: RecordFilter, _: &Context) -> Result<DefinitionPage> {
        service.definitions(request.kind, &request)
    }
}

/// Lists the versions of a feature or factor.
#[derive(Debug)]
pub struct ListDefinitionVersions;

impl ListDefinitionVersions {
    const ROUTE: Route = Route {
        query: VERSION_QUERY,
        success: &[(200, "A page of versions")],
        errors: ERRORS,
        about: "Ordered by number, in pages, without series.",
        ..Route::new(Method::Get, "registry")
    };
}

impl Operation for ListDefinitionVersions {
    const SPEC: Spec = Spec::new("list the versions of a feature or factor", Scope::Read)
        .rest(&[
            Self::ROUTE
                .at("/v1/features/{name}/versions", "listFeatureVersions", "List the versions of a feature")
                .with("kind", "feature"),
            Self::ROUTE
                .at("/v1/factors/{name}/versions", "listFactorVersions", "List the versions of a factor")
                .with("kind", "factor"),
        ])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["feature versions", "factor versions"]);
    type Request = RecordFilter;
    type Reply = DefinitionPage;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<RecordFilter>()
    }

    fn run(service: &Service, request: RecordFilter, _: &Context) -> Result<DefinitionPage> {
        service.definition_versions(request.kind, request.name.as_deref().unwrap_or_default(), &request)
    }
}

/// Describes a feature or factor.
#[derive(Debug)]
pub struct DescribeDefinition;

impl DescribeDefinition {
    const FEATURE: Route =
        Route { success: &[(200, "The feature")], errors: ERRORS, ..Route::new(Method::Get, "registry") }
            .with("kind", "feature");
    const FACTOR: Route = Route { success: &[(200, "The factor")], ..Self::FEATURE }.with("kind", "factor");
}

impl Operation for DescribeDefinition {
    const SPEC: Spec = Spec::new("describe a feature or factor", Scope::Read)
        .rest(&[
            Self::FEATURE
                .at("/v1/features/{name}/versions/{version}", "getFeatureVersion", "Get a version of a feature")
                .about("Includes the series."),
            Self::FEATURE.at("/v1/features/{name}", "getFeature", "Get the latest version of a feature").about(LATEST),
            Self::FACTOR
                .at("/v1/factors/{name}/versions/{version}", "getFactorVersion", "Get a version of a factor")
                .about("Includes the series."),
            Self::FACTOR.at("/v1/factors/{name}", "getFactor", "Get the latest version of a factor").about(LATEST),
        ])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["feature show", "factor show"]);
    type Request = RecordRequest;
    type Reply = Definition;

    fn run(service: &Service, request: RecordRequest, _: &Context) -> Result<Definition> {
        service.definition(request.kind, &request.name, request.version)
    }
}

/// Changes the status of a feature or factor.
#[derive(Debug)]
pub struct ChangeDefinition;

impl ChangeDefinition {
    const ROUTE: Route = Route {
        body: BodyKind::Field("change"),
        success: &[(200, "Changed")],
        writes: true,
        errors: &[NotFound, CorruptData, UnsupportedFormat],
        about: "Only the status can be changed.",
        ..Route::new(Method::Patch, "registry")
    };
}

impl Operation for ChangeDefinition {
    const SPEC: Spec = Spec::new("change the status of a feature or factor", Scope::Write)
        .rest(&[
            Self::ROUTE
                .at("/v1/features/{name}/versions/{version}", "changeFeature", "Change the status of a feature")
                .with("kind", "feature"),
            Self::ROUTE
                .at("/v1/factors/{name}/versions/{version}", "changeFactor", "Change the status of a factor")
                .with("kind", "factor"),
        ])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["feature status", "factor status"]);
    type Request = RecordChange;
    type Reply = Definition;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<RecordPatch>()
    }

    fn run(service: &Service, request: RecordChange, _: &Context) -> Result<Definition> {
        service.set_definition_status(request.kind, &request.name, request.version, request.change.status)
    }
}
