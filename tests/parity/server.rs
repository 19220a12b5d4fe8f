//! One service with both listeners, and a client of each.

use std::sync::Arc;

use arrow_flight::FlightClient;
use fastk::access::Authenticator;
use fastk::cli::remote::RestClient;
use fastk::server::tls_stream::Tls;
use fastk::service::Service;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub struct Served {
    pub runtime: Runtime,
    pub rest: RestClient,
    pub flight: FlightClient,
    /// Sending, or dropping the senders, stops the listeners.
    pub stop: Vec<oneshot::Sender<()>>,
}

impl Served {
    pub fn start(service: &Arc<Service>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let authenticator = Arc::new(Authenticator::open(service.store().root()).unwrap());
        let bind = || runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (http, grpc) = (bind(), bind());
        let (rest, uri) = (http.local_addr().unwrap(), format!("http://{}", grpc.local_addr().unwrap()));
        let mut stop = Vec::new();
        let mut until = || {
            let (send, receive) = oneshot::channel();
            stop.push(send);
            async move { drop(receive.await) }
        };
        runtime.spawn(fastk::server::http::serve(
            http,
            Arc::clone(service),
            authenticator.clone(),
            Default::default(),
            Tls::off(),
            until(),
        ));
        runtime.spawn(fastk::server::flight::serve(
            grpc,
            Arc::clone(service),
            authenticator,
            Default::default(),
            Tls::off(),
            until(),
        ));
        let channel = runtime.block_on(tonic::transport::Endpoint::from_shared(uri).unwrap().connect()).unwrap();
        let (rest, flight) = (RestClient::new(&format!("http://{rest}")).unwrap(), FlightClient::new(channel));
        Self { runtime, rest, flight, stop }
    }
}
