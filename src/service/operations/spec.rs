//! The fields of an entry in the table of operations.

use crate::error::ErrorCode;
use crate::service::Scope;

/// How an operation is reached through one interface, or why it is not.
#[derive(Clone, Copy, Debug)]
pub enum Access<T: 'static> {
    At(&'static [T]),
    /// The reason.
    Dash(&'static str),
}

impl<T> Access<T> {
    /// The routes, calls or commands of the interface; empty when it does not offer the operation.
    pub fn bindings(&self) -> &'static [T] {
        match self {
            Access::At(bindings) => bindings,
            Access::Dash(_) => &[],
        }
    }
}

/// An operation and how each interface reaches it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub name: &'static str,
    /// The scope that it requires.
    pub scope: Scope,
    /// Whether it concerns the whole store, so that a token limited to some series may not run it.
    pub whole_store: bool,
    pub rest: Access<Route>,
    pub flight: Access<FlightBinding>,
    /// Commands after `fastk`.
    pub cli: Access<&'static str>,
}

impl Spec {
    /// An operation that no interface offers yet.
    pub const fn new(name: &'static str, scope: Scope) -> Self {
        let (rest, flight, cli) = (Access::At(&[]), Access::At(&[]), Access::At(&[]));
        Self { name, scope, whole_store: false, rest, flight, cli }
    }

    pub const fn whole_store(self) -> Self {
        Self { whole_store: true, ..self }
    }

    pub const fn rest(self, routes: &'static [Route]) -> Self {
        Self { rest: Access::At(routes), ..self }
    }

    pub const fn flight(self, bindings: &'static [FlightBinding]) -> Self {
        Self { flight: Access::At(bindings), ..self }
    }

    pub const fn cli(self, commands: &'static [&'static str]) -> Self {
        Self { cli: Access::At(commands), ..self }
    }

    pub const fn not_in_rest(self, reason: &'static str) -> Self {
        Self { rest: Access::Dash(reason), ..self }
    }

    pub const fn not_in_flight(self, reason: &'static str) -> Self {
        Self { flight: Access::Dash(reason), ..self }
    }

    pub const fn not_in_cli(self, reason: &'static str) -> Self {
        Self { cli: Access::Dash(reason), ..self }
    }

    /// Whether each run leaves a line in the audit log: operations that remove or administer.
    pub fn is_audited(&self) -> bool {
        self.rest.bindings().iter().any(Route::is_audited)
    }
}

/// A way through Flight.
#[derive(Clone, Copy, Debug)]
pub enum FlightBinding {
    /// A method of the protocol.
    Method(&'static str),
    /// An action of `DoAction`, and what `ListActions` says of it.
    Action(&'static str, &'static str),
}

impl FlightBinding {
    pub fn name(&self) -> &'static str {
        match self {
            FlightBinding::Method(name) | FlightBinding::Action(name, _) => name,
        }
    }
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// A header of a request that the operation reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Accept,
    AcceptEncoding,
    ContentEncoding,
    /// A condition on a change: the entity tag that the series must have.
    IfMatch,
    /// Entity tags of responses that the client has.
    IfNoneMatch,
    /// The bytes of the body that are wanted: a success is also 206, and the body is kept in a file meanwhile.
    Range,
    IdempotencyKey,
    /// As [`Header::IdempotencyKey`], for requests that must have one.
    IdempotencyKeyRequired,
}

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    None,
    /// The whole request.
    Whole,
    /// The whole request, or no body for its default; the text says what that is.
    Optional(&'static str),
    /// One field of the request; the others are in the path.
    Field(&'static str),
    /// Rows, in one of several formats.
    Rows,
}

/// Who may send a request, and when it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Needs a token, and counts against the limits on concurrency and time.
    Limited,
    /// Needs a token, and is accepted by an overloaded server too.
    Unlimited,
    /// Needs no token.
    Public,
}

/// The path in the table of one that a router serves.
pub fn documented_path(served: &str) -> std::borrow::Cow<'_, str> {
    match (served.find("/{word1}"), served.rfind("/{word")) {
        (Some(first), Some(last)) => {
            let (head, tail) = (served.get(..first), served.get(last + "/{word1}".len()..));
            format!("{}{}", head.unwrap_or_default(), tail.unwrap_or_default()).into()
        }
        _ => served.into(),
    }
}

/// Placeholder of a whole key, of a series of any kind.
pub const ANY_KEY: &str = "{key}";

/// One request of REST.
///
/// A path with `{timeframe}` or `{key}` names a series: the field `series` of the request. Its other placeholders are fields of
/// their own names. The rest of the request is in the query string or in the body.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    /// `operationId` in the OpenAPI document.
    pub id: &'static str,
    pub tag: &'static str,
    pub title: &'static str,
    pub about: &'static str,
    /// The fields of the request that are query parameters.
    pub query: &'static [&'static str],
    /// A field of the request whose value follows from the path.
    pub fixed: Option<(&'static str, &'static str)>,
    pub headers: &'static [Header],
    pub body: BodyKind,
    /// Whether the body may be as long as that of a dataset or a definition.
    pub long_body: bool,
    /// Whether each request creates another version of its object from all its rows: it has no time limit, and cannot be
    /// repeated.
    pub creates_version: bool,
    /// Statuses of success with their meaning; the first one unless the reply has another.
    pub success: &'static [(u16, &'static str)],
    /// What the header `Location` of the first status names; empty without that header.
    pub location: &'static str,
    /// Whether the request changes the store; it then fails while the store is read-only.
    pub writes: bool,
    /// Error codes in addition to those of every request, of every body and of every change.
    pub errors: &'static [ErrorCode],
    pub guard: Guard,
}

impl Route {
    pub const fn new(method: Method, tag: &'static str) -> Self {
        Self {
            method,
            path: "",
            id: "",
            tag,
            title: "",
            about: "",
            query: &[],
            fixed: None,
            headers: &[],
            body: BodyKind::None,
            long_body: false,
            creates_version: false,
            success: &[],
            location: "",
            writes: false,
            errors: &[],
            guard: Guard::Limited,
        }
    }

    /// The same request at this path.
    pub const fn at(self, path: &'static str, id: &'static str, title: &'static str) -> Self {
        Self { path, id, title, ..self }
    }

    /// The same request with this value of a field.
    pub const fn with(self, field: &'static str, value: &'static str) -> Self {
        Self { fixed: Some((field, value)), ..self }
    }

    /// The same request with this description.
    pub const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    /// Whether the path names a series.
    pub fn names_series(&self) -> bool {
        self.path.contains("{timeframe}") || self.path.contains(ANY_KEY)
    }

    /// The paths that a router serves: those of a key of any kind with its slashes encoded, and as segments.
    pub fn served_paths(&self) -> Vec<String> {
        if !self.path.contains(ANY_KEY) {
            return vec![self.path.to_owned()];
        }
        let segments = ["{key}", "{word1}", "{word2}", "{word3}", "{word4}"];
        (1..=segments.len())
            .map(|count| {
                let key: Vec<&str> = segments.into_iter().take(count).collect();
                self.path.replace(ANY_KEY, &key.join("/"))
            })
            .collect()
    }

    /// Whether requests leave a line in the audit log.
    pub fn is_audited(&self) -> bool {
        matches!(self.method, Method::Delete | Method::Patch)
            || (self.path.starts_with("/v1/admin/") && self.method != Method::Get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_kind_is_one_segment_or_several() {
        let route = Route::new(Method::Get, "rows").at("/v1/series/{key}/rows", "readRows", "Read");
        let served = route.served_paths();
        assert_eq!(
            (served.len(), served.last().unwrap().as_str()),
            (5, "/v1/series/{key}/{word1}/{word2}/{word3}/{word4}/rows")
        );
        assert!(served.iter().all(|path| documented_path(path) == route.path));
        assert_eq!(documented_path("/v1/klines/{symbol}/{timeframe}"), "/v1/klines/{symbol}/{timeframe}");
    }
}
