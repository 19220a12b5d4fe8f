//! The Flight methods: each calls its operation on a blocking thread.
//!
//! [`FlightServer`] wraps tonic's service and handles DoGet itself; all other methods are forwarded.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http_body::Frame;
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::Instrument;

use crate::access::{Authenticator, bearer_header, token_from_header};
use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode, Result};
use crate::query::{NumberFormat, ResultSchema};
use crate::server::blocking::{PERMIT, in_time, run, within};
use crate::server::connections::{InFlight, ResponseInProgress};
use crate::server::flight::acks::AckReceiver;
use crate::server::flight::connection::Disconnect;
use crate::server::flight::describe::TicketRequest;
use crate::server::flight::flight_sql::{self, ResultRows, SqlSession};
use crate::server::flight::put::PutLimits;
use crate::server::flight::settings::FlightSettings;
use crate::server::flight::sql::SqlMessages;
use crate::server::flight::status::{status, unimplemented};
use crate::server::flight::{actions, describe, get};
use crate::server::ids::{REQUEST_ID, request_id};
use crate::server::{AUDIT, metrics};
use crate::service::{Permit, PermitKind, SeriesFilter, Service};

/// Series per page of ListFlights.
const LIST_PAGE: u64 = 500;

/// The Flight API of one store.
#[derive(Debug)]
pub(super) struct FlightApi {
    pub auth: Arc<Authenticator>,
    pub puts: PutLimits,
    /// One permit per DoGet response being sent.
    pub gets: Arc<Semaphore>,
    /// One permit per put being received.
    pub put_permits: Arc<Semaphore>,
    pub settings: FlightSettings,
}

/// Path of the method that [`FlightServer`] handles.
const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// Path of the method whose calls can delete and administer.
const DO_ACTION: &str = "/arrow.flight.protocol.FlightService/DoAction";
/// Path of the method whose messages may arrive for days.
const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";
/// Maximum number of characters of the body of an action in an audit log connection.
const AUDIT_CHARS_MAX: usize = 500;
/// Maximum size of a ticket message.
const TICKET_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Admits calls.
#[derive(Clone, Debug)]
pub(super) struct CallAdmission {
    pub service: Arc<Service>,
    pub auth: Arc<Authenticator>,
}

impl CallAdmission {
    /// The service with the permissions of the caller.
    fn admit(&self, headers: &http::HeaderMap) -> Result<Arc<Service>> {
        let values = headers.get_all(http::header::AUTHORIZATION).iter().map(http::HeaderValue::as_bytes);
        Ok(self.service.as_caller(self.auth.admit(values)?))
    }
}

/// The id of a call.
#[derive(Clone, Debug)]
struct RequestId(String);

/// Logs a call that deletes or administers.
fn audit(id: &str, caller: &str, verb: &str, body: &str, outcome: &str) {
    tracing::info!(target: AUDIT, request_id = id, caller, verb, asked = body, outcome, "audit");
}

/// The service of an admitted request.
fn admitted(extensions: &http::Extensions) -> Result<Arc<Service>, Status> {
    let service = extensions.get::<Arc<Service>>().cloned();
    service.ok_or_else(|| status(&Error::internal("a call was not authenticated")))
}

/// The Flight service as served.
#[derive(Clone, Debug)]
pub(super) struct FlightServer {
    admission: CallAdmission,
    api: Arc<FlightApi>,
    inner: FlightServiceServer<FlightApi>,
}

impl FlightServer {
    /// Accepts messages of at most `message_bytes_max` bytes.
    pub(super) fn new(admission: CallAdmission, api: FlightApi, message_bytes_max: usize) -> Self {
        let api = Arc::new(api);
        let inner = FlightServiceServer::from_arc(api.clone()).max_decoding_message_size(message_bytes_max);
        Self { admission, api, inner }
    }
}

/// Every method of the Flight protocol.
pub const METHODS: [&str; 10] = [
    "DoGet",
    "DoPut",
    "DoAction",
    "DoExchange",
    "GetFlightInfo",
    "GetSchema",
    "Handshake",
    "ListActions",
    "ListFlights",
    "PollFlightInfo",
];
/// Methods that only return `unimplemented`.
pub const UNIMPLEMENTED_METHODS: [&str; 2] = ["DoExchange", "PollFlightInfo"];

/// Label of any other method.
pub const OTHER: &str = "other";

/// The metric label of a method.
fn method_of(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    METHODS.into_iter().find(|known| *known == name).unwrap_or(OTHER)
}

impl NamedService for FlightServer {
    const NAME: &'static str = <FlightServiceServer<FlightApi> as NamedService>::NAME;
}

impl tower::Service<http::Request<Body>> for FlightServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        tower::Service::<http::Request<Body>>::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let (method, started_at) = (method_of(request.uri().path()), Instant::now());
        let id = request_id(request.headers());
        let id_header = http::HeaderValue::from_str(&id);
        let with_id = move |mut response: http::Response<Body>| {
            if let Ok(id) = id_header {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            response
        };
        let connection = request.extensions().get::<Disconnect>().cloned();
        let in_flight = connection.as_ref().map(Disconnect::start_request);
        let admitted = self.admission.admit(request.headers()).and_then(|service| {
            let permit = Arc::new(service.acquire_permit(PermitKind::Request)?);
            request.extensions_mut().insert(service);
            request.extensions_mut().insert(RequestId(id.clone()));
            Ok(permit)
        });
        let span = tracing::info_span!("request", id);
        let permit = match admitted {
            Ok(permit) => permit,
            Err(error) => {
                if error.code() == ErrorCode::Unauthenticated {
                    metrics::rejected("flight");
                }
                if request.uri().path() == DO_ACTION {
                    // The action is in a message that is not read.
                    audit(&id, "", "", "", error.code().name());
                }
                metrics::flight_call(method, false, started_at.elapsed());
                return Box::pin(async move { Ok(with_id(status(&error).into_http())) });
            }
        };
        let is_put = request.uri().path() == DO_PUT;
        let (api, is_get) = (self.api.clone(), request.uri().path() == DO_GET);
        let FlightSettings { put_idle_timeout_ms, message_timeout_ms, .. } = api.settings;
        let timeout = Duration::from_millis(if is_put { put_idle_timeout_ms } else { message_timeout_ms });
        let request = request.map(|body| Body::new(ReadTimeout::new(body, timeout, is_put)));
        let forwarded = if is_get { Err(request) } else { Ok(self.inner.call(request).instrument(span.clone())) };
        // A client need not read acknowledgements.
        let connection = connection.filter(|_| !is_put);
        Box::pin(PERMIT.scope(Arc::clone(&permit), async move {
            let response = match forwarded {
                Ok(forwarded) => forwarded.await?,
                Err(request) => api.do_get_response(request).instrument(span).await.unwrap_or_else(Status::into_http),
            };
            let response = with_id(response);
            metrics::flight_call(method, true, started_at.elapsed());
            tracing::debug!(
                request_id = id,
                method,
                elapsed_us = started_at.elapsed().as_micros(),
                "response headers ready"
            );
            let sending = connection.map(|connection| connection.start_response());
            Ok(response.map(|body| Body::new(TrackedResponse { body, sending, _request: in_flight, _permit: permit })))
        }))
    }
}

impl FlightApi {
    /// DoGet.
    async fn do_get_response(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let service = admitted(&head.extensions)?;
        let connection = head.extensions.get::<Disconnect>().cloned();
        let decoder = ProstCodec::<Ticket, Ticket>::default().decoder();
        let mut messages = Streaming::new_request(decoder, body, None, Some(TICKET_BYTES_MAX));
        let ticket = messages.message().await?.ok_or_else(|| status(&Error::invalid("the request has no ticket")))?;
        let limits = *service.limits();
        let request = TicketRequest::of(&ticket, limits.json_depth_max)?;
        // Acquired only when there is something to send: a call whose ticket does not arrive uses no permit, and
        // statements that wait for their turn keep none from reads.
        let acquire = || -> Result<_, Status> {
            let permit = self.gets.clone().try_acquire_owned().map_err(|_| {
                let detail = format!("{} DoGet responses are already being sent", self.settings.gets_max);
                status(&Error::new(ErrorCode::Overloaded, detail).with_hint("retry shortly"))
            })?;
            Ok((permit, service.acquire_permit(PermitKind::Response)?))
        };
        let timeout = limits.request_timeout();
        let stop = CancelFlag::default();
        let (started, permit, held) = match request {
            TicketRequest::Query(query) => {
                let permit = acquire()?;
                let is_quick = service.is_in_memory(&query);
                let cancel = stop.clone();
                // The work holds its permits, even after the client is gone.
                let work = move |service: &Service| {
                    let result = service.read_until(&query, &cancel)?;
                    Ok((get::start(result, service.caller().clone()), permit))
                };
                let (started, permit) = run(is_quick, timeout, stop, move || work(&service)).await?;
                (started, permit, None)
            }
            statement => {
                let rows = match statement {
                    TicketRequest::Sql(statement) => ResultRows::Statement(Box::new(service.sql(statement).await?)),
                    TicketRequest::FlightSql(command) => {
                        let session = SqlSession::of(&MetadataMap::from_headers(head.headers))?;
                        in_time(timeout, flight_sql::rows(&service, *command, session)).await?
                    }
                    TicketRequest::Query(_) => return Err(status(&Error::internal("a query is not a statement"))),
                };
                let (messages, canceller) = match rows {
                    ResultRows::Statement(rows) => {
                        let canceller = rows.canceller();
                        (SqlMessages::new(*rows), Some(canceller))
                    }
                    ResultRows::Table(table) => (SqlMessages::of_table(table), None),
                };
                let permit = acquire()?;
                let caller = service.caller().clone();
                let work = move || Ok((get::start_sql(messages, caller), permit));
                let (started, permit) = run(false, timeout, stop, work).await?;
                (started, permit, canceller)
            }
        };
        let stall_timeout = Duration::from_millis(self.settings.stall_timeout_ms);
        let mut response =
            http::Response::new(Body::new(get::stream(started, stall_timeout, connection, (permit, held))));
        response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
        Ok(response)
    }
}

/// A request body that must arrive in time: as a whole, or each part of it.
struct ReadTimeout {
    body: Body,
    timeout: Duration,
    /// Whether the timeout applies to each part.
    per_part: bool,
    deadline: Pin<Box<Sleep>>,
}

impl ReadTimeout {
    fn new(body: Body, timeout: Duration, per_part: bool) -> Self {
        Self { body, timeout, per_part, deadline: Box::pin(tokio::time::sleep(timeout)) }
    }
}

impl http_body::Body for ReadTimeout {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            if self.per_part {
                let until = Instant::now() + self.timeout;
                self.deadline.as_mut().reset(until.into());
            }
            return frame;
        }
        ready!(self.deadline.as_mut().poll(context));
        let detail = format!("no data of the call was received for {} ms", self.timeout.as_millis());
        Poll::Ready(Some(Err(status(&Error::new(ErrorCode::RequestTimeout, detail)))))
    }
}

/// A response body that counts as in flight until its end.
struct TrackedResponse {
    body: Body,
    sending: Option<ResponseInProgress>,
    _request: Option<InFlight>,
    _permit: Arc<Permit>,
}

impl http_body::Body for TrackedResponse {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Some(sending) = &self.sending {
            sending.polled(frame.is_ready());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One page of ListFlights, and the cursor of the next.
fn page(service: &Service, filter: &SeriesFilter) -> Result<(Vec<FlightInfo>, Option<String>)> {
    let inventory = service.inventory(filter)?;
    let mut infos = Vec::with_capacity(inventory.series.len());
    for row in &inventory.series {
        let def = match service.def(&row.series) {
            Ok(def) => def,
            // Dropped after the inventory was read.
            Err(error) if error.code() == ErrorCode::SeriesNotFound => continue,
            Err(error) => return Err(error),
        };
        let dictionaries = service.dictionaries(&row.series);
        let shape = ResultSchema::of(&def, &dictionaries, None, NumberFormat::Stored, row.version, inventory.commit);
        infos.push(describe::of_series(&shape, row)?);
    }
    Ok((infos, inventory.next_cursor))
}

#[tonic::async_trait]
impl FlightService for FlightApi {
    type HandshakeStream = Boxed<HandshakeResponse>;
    type ListFlightsStream = Boxed<FlightInfo>;
    type DoGetStream = Boxed<FlightData>;
    type DoPutStream = AckReceiver;
    type DoExchangeStream = Boxed<FlightData>;
    type DoActionStream = Boxed<arrow_flight::Result>;
    type ListActionsStream = Boxed<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        // The caller is authenticated. The token is returned as the header that clients repeat with every call.
        let token = request.metadata().get("authorization").and_then(|value| token_from_header(value.as_bytes()));
        let mut response = Response::new(stream::empty().boxed());
        if let Some(token) = token {
            let bearer = bearer_header(&token)
                .parse()
                .map_err(|_| Status::unauthenticated("the token is not a valid header"))?;
            response.metadata_mut().insert("authorization", bearer);
        }
        Ok(response)
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let service = admitted(request.extensions())?;
        let prefix = String::from_utf8(request.into_inner().expression.into()).map_err(|_| {
            status(&Error::invalid("the criteria are not UTF-8").with_hint("send a prefix of a series key"))
        })?;
        let filter = SeriesFilter {
            prefix: (!prefix.is_empty()).then_some(prefix),
            limit: Some(LIST_PAGE),
            ..SeriesFilter::default()
        };
        let permit = service.acquire_permit(PermitKind::Response)?;
        let timeout = service.limits().request_timeout();
        let first = Some((service, filter));
        let pages = stream::try_unfold(first, move |state| async move {
            let Some((service, filter)) = state else { return Ok(None) };
            within(timeout, move || {
                let (infos, next) = page(&service, &filter)?;
                let rest = next.map(|cursor| (service, SeriesFilter { cursor: Some(cursor), ..filter }));
                Ok(Some((stream::iter(infos.into_iter().map(Ok)), rest)))
            })
            .await
            .map_err(Status::from)
        });
        let infos = pages.try_flatten().inspect(move |_| {
            let _hold = &permit;
        });
        Ok(Response::new(infos.boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let service = admitted(request.extensions())?;
        let (metadata, _, descriptor) = request.into_parts();
        let limits = *service.limits();
        if let Some(command) = describe::sql_of_descriptor(&descriptor)? {
            let session = SqlSession::of(&metadata)?;
            let described = flight_sql::describe(&service, command, descriptor, session);
            return Ok(Response::new(in_time(limits.request_timeout(), described).await?));
        }
        within(limits.request_timeout(), move || {
            let plan = service.plan(&describe::query_of_descriptor(&descriptor, limits.json_depth_max)?)?;
            describe::of_plan(&plan, descriptor).map(Response::new)
        })
        .await
        .map_err(Status::from)
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(status(&unimplemented("poll_flight_info").with_hint("use get_flight_info")))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let service = admitted(request.extensions())?;
        let limits = *service.limits();
        if let Some(command) = describe::sql_of_descriptor(request.get_ref())? {
            let session = SqlSession::of(request.metadata())?;
            let found = flight_sql::schema_of(&service, command, session);
            let schema = in_time(limits.request_timeout(), found).await?;
            return Ok(Response::new(SchemaResult { schema: describe::schema_bytes(&schema) }));
        }
        within(limits.request_timeout(), move || {
            let query = describe::query_of_descriptor(request.get_ref(), limits.json_depth_max)?;
            let schema = describe::schema_bytes(&service.result_schema(&query)?.arrow_schema());
            Ok(Response::new(SchemaResult { schema }))
        })
        .await
        .map_err(Status::from)
    }

    /// [`FlightServer`] handles DoGet before a request arrives here.
    async fn do_get(&self, _request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(status(&Error::internal("a DoGet was not handled by its own implementation")))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let service = admitted(request.extensions())?;
        let permit = self.put_permits.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{} puts are already being received", self.settings.puts_max);
            status(&Error::new(ErrorCode::Overloaded, detail).with_hint("retry shortly"))
        })?;
        let permit = (permit, service.acquire_permit(PermitKind::Put)?);
        Ok(Response::new(self.puts.start(service, self.auth.clone(), request.into_inner(), permit)))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(status(&unimplemented("do_exchange")))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let service = admitted(request.extensions())?;
        if flight_sql::sql_action(&request.get_ref().r#type) {
            let session = SqlSession::of(request.metadata())?;
            let done = flight_sql::run_action(&service, request.get_ref(), session);
            let reply = in_time(service.limits().request_timeout(), done).await?;
            let results = reply.body.map(|body| Ok(arrow_flight::Result { body }));
            let mut response = Response::new(stream::iter(results).boxed());
            if let Some(cookie) = reply.cookie {
                let cookie = cookie.parse().map_err(|_| status(&Error::internal("a cookie is not a valid header")))?;
                response.metadata_mut().insert("set-cookie", cookie);
            }
            return Ok(response);
        }
        let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let (caller, verb) = (service.caller().id.clone(), request.get_ref().r#type.clone());
        // The duration of a job depends on the size of the store; a client may set its own deadline.
        let is_job = actions::is_job(&request.get_ref().r#type);
        let timeout = if is_job { Duration::MAX } else { service.limits().request_timeout() };
        let body = within(timeout, move || {
            let action = request.get_ref();
            let outcome = actions::run(&service, action);
            // Logged here, so that a client that disconnects does not suppress the connection.
            if actions::is_audited(&verb) {
                let outcome = outcome.as_ref().err().map_or("ok", |error| error.code().name());
                let body: String = String::from_utf8_lossy(&action.body).chars().take(AUDIT_CHARS_MAX).collect();
                audit(&id, &caller, &verb, &body, outcome);
            }
            outcome
        })
        .await?;
        Ok(Response::new(stream::iter([Ok(arrow_flight::Result { body })]).boxed()))
    }

    async fn list_actions(&self, _request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(stream::iter(actions::list().into_iter().map(Ok)).boxed()))
    }
}
