//! The Flight methods: each finds its verb and hands the work to a blocking thread.
//!
//! [`Front`] stands before tonic's service and answers DoGet itself; everything else goes on to that.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, SchemaResult, Ticket,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::acks::Reader;
use super::get;
use super::line::HangUp;
use super::put::Puts;
use super::status::{blocking, status, unimplemented};
use super::{actions, describe};
use crate::access::{Gate, header_of, token_of};
use crate::error::{Error, ErrorCode, Result};
use crate::query::{Numbers, Shape};
use crate::server::begin::begin;
use crate::server::{AUDIT, metrics};
use crate::service::{SeriesFilter, Service};

/// Series of one page of ListFlights.
const LIST_PAGE: u64 = 500;

/// The Flight face of one store.
#[derive(Debug)]
pub(super) struct Face {
    pub gate: Arc<Gate>,
    pub puts: Puts,
    /// One permit an answer that is being sent.
    pub readers: Arc<Semaphore>,
    pub readers_max: usize,
    /// How long a reader may take nothing before its connection is ended.
    pub stall: Duration,
}

/// Path of the method that [`Front`] answers.
const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// Characters of the body of an action that the log tells.
const AUDIT_CHARS_MAX: usize = 500;
/// Most bytes of a ticket.
const TICKET_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where every call comes in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub service: Arc<Service>,
    pub gate: Arc<Gate>,
}

impl Door {
    /// The verbs as whoever calls may use them.
    fn admit(&self, headers: &http::HeaderMap) -> Result<Arc<Service>> {
        let values = headers.get_all(http::header::AUTHORIZATION).iter().map(http::HeaderValue::as_bytes);
        Ok(self.service.as_caller(self.gate.admit(values)?))
    }
}

/// The verbs of the caller of this request: only one that was let in has them.
fn admitted(extensions: &http::Extensions) -> Result<Arc<Service>, Status> {
    let service = extensions.get::<Arc<Service>>().cloned();
    service.ok_or_else(|| status(&Error::internal("a call came past the gate")))
}

/// The Flight service as it is served.
#[derive(Clone, Debug)]
pub(super) struct Front {
    door: Door,
    face: Arc<Face>,
    rest: FlightServiceServer<Face>,
}

impl Front {
    /// Takes messages of at most so many bytes.
    pub(super) fn new(door: Door, face: Face, message_bytes_max: usize) -> Self {
        let face = Arc::new(face);
        let rest = FlightServiceServer::from_arc(face.clone()).max_decoding_message_size(message_bytes_max);
        Self { door, face, rest }
    }
}

/// A method as a label, of which there are few.
fn method_of(path: &str) -> &'static str {
    const METHODS: [&str; 10] = [
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
    let name = path.rsplit('/').next().unwrap_or_default();
    METHODS.into_iter().find(|known| *known == name).unwrap_or("other")
}

impl NamedService for Front {
    const NAME: &'static str = <FlightServiceServer<Face> as NamedService>::NAME;
}

impl tower::Service<http::Request<Body>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        tower::Service::<http::Request<Body>>::poll_ready(&mut self.rest, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let (method, begun) = (method_of(request.uri().path()), Instant::now());
        match self.door.admit(request.headers()) {
            Ok(service) => request.extensions_mut().insert(service),
            Err(error) => {
                metrics::refused("flight");
                metrics::flight_call(method, false, begun.elapsed());
                return Box::pin(async move { Ok(status(&error).into_http()) });
            }
        };
        if request.uri().path() != DO_GET {
            let answering = self.rest.call(request);
            return Box::pin(async move {
                let answer = answering.await;
                metrics::flight_call(method, true, begun.elapsed());
                answer
            });
        }
        let face = self.face.clone();
        Box::pin(async move {
            let answer = face.answer(request).await.unwrap_or_else(Status::into_http);
            metrics::flight_call(method, true, begun.elapsed());
            Ok(answer)
        })
    }
}

impl Face {
    /// DoGet.
    async fn answer(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let permit = self.readers.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{} answers are being sent already", self.readers_max);
            status(&Error::new(ErrorCode::Overloaded, detail).with_hint("try again shortly"))
        })?;
        let service = admitted(request.extensions())?;
        let line = request.extensions().get::<HangUp>().cloned();
        let decoder = ProstCodec::<Ticket, Ticket>::default().decoder();
        let mut messages = Streaming::new_request(decoder, request.into_body(), None, Some(TICKET_BYTES_MAX));
        let ticket = messages.message().await?.ok_or_else(|| status(&Error::invalid("the request has no ticket")))?;
        let query = describe::query_of_ticket(&ticket).map_err(|error| status(&error))?;
        let is_quick = service.is_at_hand(&query);
        // The work holds its permit, also when nobody waits for it any more.
        let work = move |service: &Service| Ok((get::start(service.read(&query)?), permit));
        let started = begin(is_quick, move || work(&service));
        let (started, permit) = started.await.map_err(|error| status(&error))?;
        let mut response = http::Response::new(Body::new(get::stream(started, self.stall, line, permit)));
        response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
        Ok(response)
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
        let shape = Shape::of(&def, None, Numbers::Stored, row.version, inventory.commit);
        infos.push(describe::of_series(&shape, row)?);
    }
    Ok((infos, inventory.next_cursor))
}

#[tonic::async_trait]
impl FlightService for Face {
    type HandshakeStream = Boxed<HandshakeResponse>;
    type ListFlightsStream = Boxed<FlightInfo>;
    type DoGetStream = Boxed<FlightData>;
    type DoPutStream = Reader;
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
        let first = Some((service, filter));
        let pages = stream::try_unfold(first, |state| async move {
            let Some((service, filter)) = state else { return Ok(None) };
            blocking(move || {
                let (infos, next) = page(&service, &filter)?;
                let rest = next.map(|cursor| (service, SeriesFilter { cursor: Some(cursor), ..filter }));
                Ok(Some((stream::iter(infos.into_iter().map(Ok)), rest)))
            })
            .await
        });
        Ok(Response::new(pages.try_flatten().boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let (service, descriptor) = (admitted(request.extensions())?, request.into_inner());
        blocking(move || {
            let plan = service.plan(&describe::query_of_descriptor(&descriptor)?)?;
            describe::of_plan(&plan, descriptor).map(Response::new)
        })
        .await
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(status(&unimplemented("poll_flight_info").with_hint("use get_flight_info")))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let service = admitted(request.extensions())?;
        blocking(move || {
            let plan = service.plan(&describe::query_of_descriptor(request.get_ref())?)?;
            let schema = describe::schema_bytes(&plan.shape.arrow_schema());
            Ok(Response::new(SchemaResult { schema }))
        })
        .await
    }

    /// [`Front`] answers before a request comes here.
    async fn do_get(&self, _request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(status(&Error::internal("a DoGet came past its own answer")))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let service = admitted(request.extensions())?;
        Ok(Response::new(self.puts.start(service, self.gate.clone(), request.into_inner())))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(status(&unimplemented("do_exchange")))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let service = admitted(request.extensions())?;
        let (caller, verb) = (service.caller().id.clone(), request.get_ref().r#type.clone());
        let body = blocking(move || {
            let action = request.get_ref();
            let outcome = actions::run(&service, action);
            // Here, so that a client who goes away takes no line with it.
            if actions::AUDITED.contains(&verb.as_str()) {
                let outcome = outcome.as_ref().err().map_or("ok", |error| error.code().name());
                let asked: String = String::from_utf8_lossy(&action.body).chars().take(AUDIT_CHARS_MAX).collect();
                tracing::info!(target: AUDIT, caller = &*caller, verb, asked, outcome, "audit");
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
