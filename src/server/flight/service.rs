//! The Flight methods: each finds its verb and hands the work to a blocking thread.
//!
//! [`FlightServer`] stands before tonic's service and answers DoGet itself; everything else goes on to that.

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
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::Instrument;

use super::acks::AckReceiver;
use super::connection::Disconnect;
use super::get;
use super::put::PutLimits;
use super::status::{blocking_within, status, unimplemented};
use super::{actions, describe};
use crate::access::{Authenticator, header_of, token_of};
use crate::error::{Error, ErrorCode, Result};
use crate::query::{CancelFlag, NumberFormat, ResultSchema};
use crate::server::blocking::{PLACE, begin};
use crate::server::connections::{InFlight, ResponseInProgress};
use crate::server::ids::{REQUEST_ID, request_id};
use crate::server::{AUDIT, metrics};
use crate::service::{Permit, PermitKind, SeriesFilter, Service, ServiceLimits};

/// Series of one page of ListFlights.
const LIST_PAGE: u64 = 500;

/// The Flight face of one store.
#[derive(Debug)]
pub(super) struct FlightApi {
    pub gate: Arc<Authenticator>,
    pub puts: PutLimits,
    /// One permit an answer that is being sent.
    pub readers: Arc<Semaphore>,
    pub readers_max: usize,
    /// One permit a put that is received.
    pub writers: Arc<Semaphore>,
    pub puts_max: usize,
    /// How long the message of a call may take to arrive.
    pub message_timeout: Duration,
    /// How long a put may send nothing.
    pub put_idle: Duration,
    /// How long a reader may take nothing before its connection is ended.
    pub stall: Duration,
}

/// Path of the method that [`FlightServer`] answers.
const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// Path of the method whose calls can delete and administrate.
const DO_ACTION: &str = "/arrow.flight.protocol.FlightService/DoAction";
/// Path of the method whose messages may come for days.
const DO_PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";
/// Characters of the body of an action that the log tells.
const AUDIT_CHARS_MAX: usize = 500;
/// Most bytes of a ticket.
const TICKET_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where every call comes in.
#[derive(Clone, Debug)]
pub(super) struct CallAdmission {
    pub service: Arc<Service>,
    pub gate: Arc<Authenticator>,
}

impl CallAdmission {
    /// The verbs as whoever calls may use them.
    fn admit(&self, headers: &http::HeaderMap) -> Result<Arc<Service>> {
        let values = headers.get_all(http::header::AUTHORIZATION).iter().map(http::HeaderValue::as_bytes);
        Ok(self.service.as_caller(self.gate.admit(values)?))
    }
}

/// The id of a call.
#[derive(Clone, Debug)]
struct RequestId(String);

/// Tells the log of a call that deletes or administrates.
fn audit(id: &str, caller: &str, verb: &str, asked: &str, outcome: &str) {
    tracing::info!(target: AUDIT, request_id = id, caller, verb, asked, outcome, "audit");
}

/// The verbs of the caller of this request: only one that was let in has them.
fn admitted(extensions: &http::Extensions) -> Result<Arc<Service>, Status> {
    let service = extensions.get::<Arc<Service>>().cloned();
    service.ok_or_else(|| status(&Error::internal("a call came past the gate")))
}

/// The Flight service as it is served.
#[derive(Clone, Debug)]
pub(super) struct FlightServer {
    door: CallAdmission,
    face: Arc<FlightApi>,
    rest: FlightServiceServer<FlightApi>,
}

impl FlightServer {
    /// Takes messages of at most so many bytes.
    pub(super) fn new(door: CallAdmission, face: FlightApi, message_bytes_max: usize) -> Self {
        let face = Arc::new(face);
        let rest = FlightServiceServer::from_arc(face.clone()).max_decoding_message_size(message_bytes_max);
        Self { door, face, rest }
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
/// Those that are answered by `unimplemented` alone.
pub const UNANSWERED: [&str; 2] = ["DoExchange", "PollFlightInfo"];

/// The label of a method that is none of these.
pub const OTHER: &str = "other";

/// A method as a label, of which there are few.
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
        tower::Service::<http::Request<Body>>::poll_ready(&mut self.rest, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let (method, begun) = (method_of(request.uri().path()), Instant::now());
        let id = request_id(request.headers());
        let named = http::HeaderValue::from_str(&id);
        let name = move |mut answer: http::Response<Body>| {
            if let Ok(id) = named {
                answer.headers_mut().insert(REQUEST_ID, id);
            }
            answer
        };
        let line = request.extensions().get::<Disconnect>().cloned();
        let under_way = line.as_ref().map(Disconnect::begin);
        let entered = self.door.admit(request.headers()).and_then(|service| {
            let place = Arc::new(service.take(PermitKind::Request)?);
            request.extensions_mut().insert(service);
            request.extensions_mut().insert(RequestId(id.clone()));
            Ok(place)
        });
        let span = tracing::info_span!("request", id);
        let place = match entered {
            Ok(place) => place,
            Err(error) => {
                if error.code() == ErrorCode::Unauthenticated {
                    metrics::refused("flight");
                }
                if request.uri().path() == DO_ACTION {
                    // Which one stands in a message that nobody reads.
                    audit(&id, "", "", "", error.code().name());
                }
                metrics::flight_call(method, false, begun.elapsed());
                return Box::pin(async move { Ok(name(status(&error).into_http())) });
            }
        };
        let is_put = request.uri().path() == DO_PUT;
        let (face, is_get) = (self.face.clone(), request.uri().path() == DO_GET);
        let patience = if is_put { face.put_idle } else { face.message_timeout };
        let request = request.map(|body| Body::new(ReadTimeout::new(body, patience, is_put)));
        let answering = if is_get { Err(request) } else { Ok(self.rest.call(request).instrument(span.clone())) };
        // Acknowledgements need not be read.
        let line = line.filter(|_| !is_put);
        Box::pin(PLACE.scope(Arc::clone(&place), async move {
            let answer = match answering {
                Ok(answering) => answering.await?,
                Err(request) => face.answer(request).instrument(span).await.unwrap_or_else(Status::into_http),
            };
            let answer = name(answer);
            metrics::flight_call(method, true, begun.elapsed());
            tracing::debug!(request_id = id, method, elapsed_us = begun.elapsed().as_micros(), "answering");
            let sending = line.map(|line| line.send());
            Ok(answer.map(|body| Body::new(TrackedResponse { body, sending, _under_way: under_way, _place: place })))
        }))
    }
}

impl FlightApi {
    /// DoGet.
    async fn answer(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let service = admitted(request.extensions())?;
        let line = request.extensions().get::<Disconnect>().cloned();
        let decoder = ProstCodec::<Ticket, Ticket>::default().decoder();
        let mut messages = Streaming::new_request(decoder, request.into_body(), None, Some(TICKET_BYTES_MAX));
        let ticket = messages.message().await?.ok_or_else(|| status(&Error::invalid("the request has no ticket")))?;
        let limits = *service.limits();
        let query = describe::query_of_ticket(&ticket, limits.json_depth_max).map_err(|error| status(&error))?;
        // Only now: a call whose ticket does not come takes no place from others.
        let permit = self.readers.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{} answers are being sent already", self.readers_max);
            status(&Error::new(ErrorCode::Overloaded, detail).with_hint("try again shortly"))
        })?;
        let permit = (permit, service.take(PermitKind::Answer).map_err(|error| status(&error))?);
        let is_quick = service.is_at_hand(&query);
        let stop = CancelFlag::default();
        let stopping = stop.clone();
        // The work holds its permit, also when nobody waits for it any more.
        let work = move |service: &Service| {
            let answer = service.read_until(&query, &stopping)?;
            Ok((get::start(answer, service.caller().clone()), permit))
        };
        let started = begin(is_quick, limits.request_timeout, stop, move || work(&service));
        let (started, permit) = started.await.map_err(|error| status(&error))?;
        let mut response = http::Response::new(Body::new(get::stream(started, self.stall, line, permit)));
        response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
        Ok(response)
    }
}

/// The body of a call that has to arrive in time: as a whole, or each part of it.
struct ReadTimeout {
    body: Body,
    patience: Duration,
    /// Whether each part has a time of its own.
    by_part: bool,
    deadline: Pin<Box<Sleep>>,
}

impl ReadTimeout {
    fn new(body: Body, patience: Duration, by_part: bool) -> Self {
        Self { body, patience, by_part, deadline: Box::pin(tokio::time::sleep(patience)) }
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
            if self.by_part {
                let until = Instant::now() + self.patience;
                self.deadline.as_mut().reset(until.into());
            }
            return frame;
        }
        ready!(self.deadline.as_mut().poll(context));
        let detail = format!("nothing more of the call came for {} ms", self.patience.as_millis());
        Poll::Ready(Some(Err(status(&Error::new(ErrorCode::RequestTimeout, detail)))))
    }
}

/// The body of an answer, which is under way until its end.
struct TrackedResponse {
    body: Body,
    sending: Option<ResponseInProgress>,
    _under_way: Option<InFlight>,
    _place: Arc<Permit>,
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
            sending.asked(frame.is_ready());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One page of ListFlights, and where the next begins.
fn page(service: &Service, filter: &SeriesFilter) -> Result<(Vec<FlightInfo>, Option<String>)> {
    let inventory = service.inventory(filter)?;
    let mut infos = Vec::with_capacity(inventory.series.len());
    for row in &inventory.series {
        let def = match service.def(&row.series) {
            Ok(def) => def,
            // Dropped since the inventory was taken.
            Err(error) if error.code() == ErrorCode::SeriesNotFound => continue,
            Err(error) => return Err(error),
        };
        let shape = ResultSchema::of(&def, None, NumberFormat::Stored, row.version, inventory.commit);
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
        // Whoever comes here was let in. The token comes back as the header that clients repeat with every call.
        let token = request.metadata().get("authorization").and_then(|value| token_of(value.as_bytes()));
        let mut response = Response::new(stream::empty().boxed());
        if let Some(token) = token {
            let bearer = header_of(&token).parse().map_err(|_| Status::unauthenticated("the token is no header"))?;
            response.metadata_mut().insert("authorization", bearer);
        }
        Ok(response)
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let service = admitted(request.extensions())?;
        let prefix = String::from_utf8(request.into_inner().expression.into())
            .map_err(|_| status(&Error::invalid("the criteria are not UTF-8").with_hint("a prefix of a series key")))?;
        let filter = SeriesFilter {
            prefix: (!prefix.is_empty()).then_some(prefix),
            limit: Some(LIST_PAGE),
            ..SeriesFilter::default()
        };
        let held = service.take(PermitKind::Answer).map_err(|error| status(&error))?;
        let patience = service.limits().request_timeout;
        let first = Some((service, filter));
        let pages = stream::try_unfold(first, move |state| async move {
            let Some((service, filter)) = state else { return Ok(None) };
            blocking_within(patience, move || {
                let (infos, next) = page(&service, &filter)?;
                let rest = next.map(|cursor| (service, SeriesFilter { cursor: Some(cursor), ..filter }));
                Ok(Some((stream::iter(infos.into_iter().map(Ok)), rest)))
            })
            .await
        });
        let infos = pages.try_flatten().inspect(move |_| {
            let _until_the_last = &held;
        });
        Ok(Response::new(infos.boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let (service, descriptor) = (admitted(request.extensions())?, request.into_inner());
        let ServiceLimits { request_timeout, json_depth_max, .. } = *service.limits();
        blocking_within(request_timeout, move || {
            let plan = service.plan(&describe::query_of_descriptor(&descriptor, json_depth_max)?)?;
            describe::of_plan(&plan, descriptor).map(Response::new)
        })
        .await
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(status(&unimplemented("poll_flight_info").with_hint("use get_flight_info")))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let service = admitted(request.extensions())?;
        let ServiceLimits { request_timeout, json_depth_max, .. } = *service.limits();
        blocking_within(request_timeout, move || {
            let plan = service.plan(&describe::query_of_descriptor(request.get_ref(), json_depth_max)?)?;
            let schema = describe::schema_bytes(&plan.shape.arrow_schema());
            Ok(Response::new(SchemaResult { schema }))
        })
        .await
    }

    /// [`FlightServer`] answers before a request comes here.
    async fn do_get(&self, _request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(status(&Error::internal("a DoGet came past its own answer")))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let service = admitted(request.extensions())?;
        let permit = self.writers.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{} puts are being received already", self.puts_max);
            status(&Error::new(ErrorCode::Overloaded, detail).with_hint("try again shortly"))
        })?;
        let place = (permit, service.take(PermitKind::Put).map_err(|error| status(&error))?);
        Ok(Response::new(self.puts.start(service, self.gate.clone(), request.into_inner(), place)))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(status(&unimplemented("do_exchange")))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let service = admitted(request.extensions())?;
        let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let (caller, verb) = (service.caller().id.clone(), request.get_ref().r#type.clone());
        // Jobs take as long as the store is large; whoever waits for one may set a deadline of its own.
        let is_job = actions::JOBS.contains(&request.get_ref().r#type.as_str());
        let patience = if is_job { Duration::MAX } else { service.limits().request_timeout };
        let body = blocking_within(patience, move || {
            let action = request.get_ref();
            let outcome = actions::run(&service, action);
            // Here, so that a client who goes away takes no line with it.
            if actions::AUDITED.contains(&verb.as_str()) {
                let outcome = outcome.as_ref().err().map_or("ok", |error| error.code().name());
                let asked: String = String::from_utf8_lossy(&action.body).chars().take(AUDIT_CHARS_MAX).collect();
                audit(&id, &caller, &verb, &asked, outcome);
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
