//! Kinds of series: register, list, describe, drop.

use serde::{Deserialize, Serialize};

use super::operation::{Context, Operation, RequestSchemas};
use super::series::encoded;
use super::spec::{BodyKind, FlightBinding, Method, Route, Spec};
use super::store::NoRequest;
use crate::error::ErrorCode::{KindExists, KindInUse, NotFound};
use crate::error::Result;
use crate::service::{KindDropped, KindInfo, KindList, KindRegistered, Scope, Service};
use crate::types::KindDef;

/// Path of a kind.
const KIND: &str = "/v1/kinds/{kind}";

/// Registers a kind.
#[derive(Debug)]
pub struct RegisterKind;

impl Operation for RegisterKind {
    const SPEC: Spec = Spec::new("register a kind", Scope::Write)
        .whole_store()
        .rest(&[Route {
            body: BodyKind::Whole,
            success: &[(201, "Registered"), (200, "Already registered with the same definition")],
            location: "Path of the kind",
            writes: true,
            errors: &[KindExists],
            ..Route::new(Method::Post, "kinds")
        }
        .at("/v1/kinds", "registerKind", "Register a kind of series")
        .about(
            "The words of the keys, the fields, the order and the rules of rows of a kind of series. Registering the same \
             definition again is no error.",
        )])
        .flight(&[FlightBinding::Action("register_kind", "registers a kind of series; body: the definition as JSON")])
        .cli(&["kind register"]);
    type Request = KindDef;
    type Reply = KindRegistered;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<KindDef>()
    }

    fn run(service: &Service, request: KindDef, _: &Context) -> Result<KindRegistered> {
        service.register_kind(request)
    }

    fn status(reply: &KindRegistered) -> Option<u16> {
        (!reply.created).then_some(200)
    }

    fn location(reply: &KindRegistered) -> Option<String> {
        Some(format!("/v1/kinds/{}", encoded(&reply.info.kind)))
    }
}

/// Lists the kinds.
#[derive(Debug)]
pub struct ListKinds;

impl Operation for ListKinds {
    const SPEC: Spec = Spec::new("list kinds", Scope::Read)
        .rest(&[Route { success: &[(200, "The kinds")], ..Route::new(Method::Get, "kinds") }
            .at("/v1/kinds", "listKinds", "List kinds of series")
            .about("The built-in kinds, then the registered ones, ordered by name.")])
        .flight(&[FlightBinding::Action("list_kinds", "lists the kinds of series; no body")])
        .cli(&["kind list"]);
    type Request = NoRequest;
    type Reply = KindList;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<KindList> {
        service.kinds()
    }
}

/// One kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindRequest {
    pub kind: String,
}

/// Describes a kind.
#[derive(Debug)]
pub struct DescribeKind;

impl Operation for DescribeKind {
    const SPEC: Spec = Spec::new("describe a kind", Scope::Read)
        .rest(&[Route { success: &[(200, "The kind")], errors: &[NotFound], ..Route::new(Method::Get, "kinds") }
            .at(KIND, "getKind", "Get a kind of series")
            .about("Its definition, as it was registered.")])
        .flight(&[FlightBinding::Action("describe_kind", "describes a kind of series; body: {\"kind\": name}")])
        .cli(&["kind show"]);
    type Request = KindRequest;
    type Reply = KindInfo;

    fn run(service: &Service, request: KindRequest, _: &Context) -> Result<KindInfo> {
        service.kind(&request.kind)
    }
}

/// Drops a kind.
#[derive(Debug)]
pub struct DropKind;

impl Operation for DropKind {
    const SPEC: Spec = Spec::new("drop a kind", Scope::Admin)
        .whole_store()
        .rest(&[Route {
            success: &[(200, "Dropped")],
            writes: true,
            errors: &[NotFound, KindInUse],
            ..Route::new(Method::Delete, "kinds")
        }
        .at(KIND, "dropKind", "Drop a kind of series")
        .about("Only a kind without series can be dropped; series that a snapshot still shows count too.")])
        .flight(&[FlightBinding::Action("drop_kind", "drops a kind without series; body: {\"kind\": name}")])
        .cli(&["kind drop"]);
    type Request = KindRequest;
    type Reply = KindDropped;

    fn run(service: &Service, request: KindRequest, _: &Context) -> Result<KindDropped> {
        service.drop_kind(&request.kind)
    }
}
