//! Series: register, list, describe, change, drop.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::operation::{Context, EntityTag, Operation, RequestSchemas};
use super::spec::{BodyKind, FlightBinding, Header, Method, Route, Spec};
use crate::error::ErrorCode::{
    CommitConflict, KindExists, NotFound, RequestTimeout, SeriesExists, SeriesNotFound, TooLarge, UnsupportedMediaType,
};
use crate::error::{ErrorCode, Result};
use crate::service::{DropReply, Registered, Scope, SeriesFilter, SeriesInfo, SeriesPage, SeriesPatch, Service};
use crate::types::{SeriesKey, SeriesSpec};

/// The paths of a series.
const KLINE: &str = "/v1/series/kline/{symbol}/{timeframe}";
/// The path of a series of any kind.
const ANY: &str = "/v1/series/{key}";
const SCALAR: &str = "/v1/series/scalar/{category}/{symbol}/{timeframe}/{name}";

/// Errors of a change.
const CHANGE_ERRORS: &[ErrorCode] = &[SeriesNotFound, CommitConflict];

/// A path segment, percent-encoded.
pub(super) fn encoded(part: &str) -> impl std::fmt::Display {
    const SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-');
    utf8_percent_encode(part, SET)
}

/// Registers a series.
#[derive(Debug)]
pub struct Register;

impl Operation for Register {
    const SPEC: Spec = Spec::new("register", Scope::Write)
        .rest(&[Route {
            body: BodyKind::Whole,
            success: &[(201, "Registered"), (200, "Already registered with the same definition")],
            location: "Path of the series",
            writes: true,
            errors: &[NotFound, SeriesExists, KindExists],
            ..Route::new(Method::Post, "series")
        }
        .at("/v1/series", "registerSeries", "Register a series")
        .about("Registering the same definition again is no error.")])
        .flight(&[FlightBinding::Action("register_series", "registers a series; body: the registration as JSON")])
        .cli(&["register"]);
    type Request = SeriesSpec;
    type Reply = Registered;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<SeriesSpec>()
    }

    fn run(service: &Service, request: SeriesSpec, _: &Context) -> Result<Registered> {
        service.register(request)
    }

    fn status(reply: &Registered) -> Option<u16> {
        (!reply.created).then_some(200)
    }

    fn location(reply: &Registered) -> Option<String> {
        Some(format!("/v1/series/{}", encoded(reply.info.series.as_str())))
    }
}

/// Lists the registered series.
#[derive(Debug)]
pub struct ListSeries;

impl Operation for ListSeries {
    const SPEC: Spec = Spec::new("list", Scope::Read)
        .rest(&[Route {
            query: &["kind", "symbol", "timeframe", "category", "name", "prefix", "limit", "cursor"],
            success: &[(200, "A page of series")],
            ..Route::new(Method::Get, "series")
        }
        .at("/v1/series", "listSeries", "List series")
        .about("Ordered by key, in pages.")])
        .flight(&[FlightBinding::Method("ListFlights")])
        .cli(&["admin list-series"]);
    type Request = SeriesFilter;
    type Reply = SeriesPage;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<SeriesFilter>()
    }

    fn run(service: &Service, request: SeriesFilter, _: &Context) -> Result<SeriesPage> {
        service.list(&request)
    }
}

/// One series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesRequest {
    pub series: SeriesKey,
}

/// Describes a series.
#[derive(Debug)]
pub struct DescribeSeries;

impl DescribeSeries {
    const ROUTE: Route = Route {
        headers: &[Header::IfNoneMatch],
        success: &[(200, "The series")],
        errors: &[SeriesNotFound],
        ..Route::new(Method::Get, "series")
    };
}

impl Operation for DescribeSeries {
    const SPEC: Spec = Spec::new("describe", Scope::Read)
        .rest(&[
            Self::ROUTE.at(KLINE, "getKlineSeries", "Get a kline series"),
            Self::ROUTE.at(SCALAR, "getScalarSeries", "Get a scalar series"),
            Self::ROUTE.at(ANY, "getSeries", "Get a series of any kind"),
        ])
        .flight(&[FlightBinding::Method("GetSchema")])
        .not_in_cli("`admin list-series --prefix KEY --json` prints it");
    type Request = SeriesRequest;
    type Reply = SeriesInfo;

    fn run(service: &Service, request: SeriesRequest, _: &Context) -> Result<SeriesInfo> {
        service.series(&request.series)
    }

    fn etag(service: &Service, request: &SeriesRequest) -> Result<Option<EntityTag>> {
        Ok(Some(EntityTag::InReply(service.series(&request.series)?.etag)))
    }
}

/// Changes to the registration of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    pub series: SeriesKey,
    pub patch: SeriesPatch,
}

/// Changes the registration of a series.
#[derive(Debug)]
pub struct ChangeSeries;

impl ChangeSeries {
    const ROUTE: Route = Route {
        headers: &[Header::IfMatch],
        body: BodyKind::Field("patch"),
        success: &[(200, "The changed series")],
        writes: true,
        errors: CHANGE_ERRORS,
        about: "Changes retention, calendar, value index or description, and widens or adds columns; absent fields are unchanged.",
        ..Route::new(Method::Patch, "series")
    };
}

impl Operation for ChangeSeries {
    const SPEC: Spec = Spec::new("change", Scope::Write)
        .rest(&[
            Self::ROUTE.at(KLINE, "changeKlineSeries", "Change a kline series"),
            Self::ROUTE.at(SCALAR, "changeScalarSeries", "Change a scalar series"),
            Self::ROUTE.at(ANY, "changeSeries", "Change a series of any kind"),
        ])
        .not_in_flight("rare administration; REST has it")
        .not_in_cli("rare administration; REST has it");
    type Request = ChangeRequest;
    type Reply = SeriesInfo;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<SeriesPatch>()
    }

    fn run(service: &Service, request: ChangeRequest, context: &Context) -> Result<SeriesInfo> {
        service.change(&request.series, request.patch, &context.condition(None))
    }
}

/// A series to drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropRequest {
    pub series: SeriesKey,
    /// The version that it must have.
    #[serde(default)]
    pub if_version: Option<u64>,
}

/// Drops a series with all its rows.
#[derive(Debug)]
pub struct DropSeries;

impl DropSeries {
    const ROUTE: Route = Route {
        headers: &[Header::IfMatch],
        success: &[(200, "Dropped")],
        writes: true,
        errors: &[SeriesNotFound, CommitConflict, RequestTimeout, TooLarge, UnsupportedMediaType],
        about: "Deletes all its rows.",
        ..Route::new(Method::Delete, "series")
    };
}

impl Operation for DropSeries {
    const SPEC: Spec = Spec::new("drop", Scope::Admin)
        .rest(&[
            Self::ROUTE.at(KLINE, "dropKlineSeries", "Drop a kline series"),
            Self::ROUTE.at(SCALAR, "dropScalarSeries", "Drop a scalar series"),
            Self::ROUTE.at(ANY, "dropSeries", "Drop a series of any kind"),
        ])
        .flight(&[FlightBinding::Action(
            "drop_series",
            "drops a series with all its rows; body: {\"series\": key, \"if_version\": n?}",
        )])
        .cli(&["drop"]);
    type Request = DropRequest;
    type Reply = DropReply;

    fn run(service: &Service, request: DropRequest, context: &Context) -> Result<DropReply> {
        service.drop_series(&request.series, &context.condition(request.if_version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_percent_encoded() {
        let key = SeriesKey::kline("^GSPC", "1d").unwrap();
        assert_eq!(encoded(key.as_str()).to_string(), "kline/%5EGSPC/1d");
    }
}
