//! The error responses in the OpenAPI document.

use std::collections::BTreeMap;

use utoipa::Modify;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::{Components, Content, Ref, RefOr, Response, ResponseBuilder};

use super::problem::{PROBLEM, Problem};
use crate::error::{Error, ErrorCode, RowError};
use crate::service::operations::{BodyKind, Guard, Header, Route};

/// Codes of every route.
const EVERYWHERE: [ErrorCode; 4] =
    [ErrorCode::UriTooLong, ErrorCode::HeadersTooLarge, ErrorCode::Internal, ErrorCode::Io];
/// Codes of every route that requires a token.
const AUTHENTICATED: [ErrorCode; 2] = [ErrorCode::Unauthenticated, ErrorCode::PermissionDenied];
/// Codes of every route with limits on concurrency and time.
const LIMITED: [ErrorCode; 3] = [ErrorCode::RateLimited, ErrorCode::Overloaded, ErrorCode::DeadlineExceeded];

/// The error responses of a route.
pub fn of_route(route: &Route) -> BTreeMap<String, RefOr<Response>> {
    let mut codes = vec![ErrorCode::InvalidArgument];
    codes.extend(route.errors);
    if route.body != BodyKind::None {
        codes.extend([ErrorCode::RequestTimeout, ErrorCode::TooLarge, ErrorCode::UnsupportedMediaType]);
        codes.push(ErrorCode::Overloaded);
    }
    if route.headers.contains(&Header::Range) {
        codes.extend([ErrorCode::TooLarge, ErrorCode::RangeNotSatisfiable, ErrorCode::StorageFull]);
    }
    if route.writes {
        codes.extend([ErrorCode::WriterStopped, ErrorCode::StorageFull]);
    }
    if route.guard == Guard::Limited {
        codes.push(ErrorCode::NotReady);
    }
    if route.guard != Guard::Public {
        codes.extend(AUTHENTICATED);
    }
    if route.guard == Guard::Limited {
        codes.extend(LIMITED);
    }
    codes.extend(EVERYWHERE);
    problems(&codes)
}

/// Error responses: one per status, with its codes.
fn problems(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        let codes_of_status = by_status.entry(code.http()).or_default();
        if !codes_of_status.contains(code) {
            codes_of_status.push(*code);
        }
    }
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let text =
                codes.iter().map(|code| format!("`{}`: {}", code.name(), code.title())).collect::<Vec<_>>().join(" ");
            let mut content = Content::new(Some(Ref::from_schema_name("Problem")));
            let example = |code: ErrorCode| RefOr::Ref(Ref::new(format!("#/components/examples/{}", code.name())));
            content.examples = codes.iter().map(|code| (code.name().to_owned(), example(*code))).collect();
            (status.to_string(), ResponseBuilder::new().description(text).content(PROBLEM, content).build().into())
        })
        .collect()
}

/// A problem document for every code, referenced by the error responses.
#[derive(Debug)]
pub struct ProblemExamples;

impl Modify for ProblemExamples {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let examples = ErrorCode::ALL.iter().map(|code| (code.name().to_owned(), RefOr::T(problem_example(*code))));
        document.components.get_or_insert_with(Components::new).examples.extend(examples);
    }
}

fn problem_example(code: ErrorCode) -> Example {
    let mut detail = code.title().trim_end_matches('.').to_owned();
    if let Some(first) = detail.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let row = RowError {
        series: None,
        row: 7,
        field: "open".into(),
        reason: "missing".into(),
        message: "open is missing".into(),
    };
    let rows = if code == ErrorCode::InvalidRows { vec![row] } else { Vec::new() };
    let problem = Problem::new(&Error::new(code, detail).with_rows(rows), "5f0c9a7d3e1b2846");
    ExampleBuilder::new().summary(code.title()).value(serde_json::to_value(problem).ok()).build()
}
