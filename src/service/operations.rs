//! Table of the operations: one line per operation, one column per interface, and a reason where an interface lacks it.
//!
//! A test checks the table in both directions: every entry exists in its interface, and every operation of an interface
//! is listed here.

/// How an operation is reached through one interface, or why it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    At(&'static [&'static str]),
    /// The reason.
    Dash(&'static str),
}

/// An operation and how each interface reaches it.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub name: &'static str,
    /// `METHOD /path` as in the OpenAPI document.
    pub rest: Access,
    /// A method of the Flight protocol, or the name of a `DoAction` action.
    pub flight: Access,
    /// Command after `fastk`.
    pub cli: Access,
}

use Access::{At, Dash};

/// Why the registry has no Flight actions.
const CONTROL: Access = Dash("Flight transports rows and can read a dataset; REST has the registry");

/// Every operation.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "register",
        rest: At(&["POST /v1/series"]),
        flight: At(&["register_series"]),
        cli: At(&["register"]),
    },
    Operation {
        name: "list",
        rest: At(&["GET /v1/series"]),
        flight: At(&["ListFlights"]),
        cli: At(&["admin list-series"]),
    },
    Operation {
        name: "describe",
        rest: At(&[
            "GET /v1/series/kline/{symbol}/{timeframe}",
            "GET /v1/series/scalar/{category}/{symbol}/{timeframe}/{name}",
        ]),
        flight: At(&["GetSchema"]),
        cli: Dash("`admin list-series --prefix KEY --json` prints it"),
    },
    Operation {
        name: "change",
        rest: At(&[
            "PATCH /v1/series/kline/{symbol}/{timeframe}",
            "PATCH /v1/series/scalar/{category}/{symbol}/{timeframe}/{name}",
        ]),
        flight: Dash("rare administration; REST has it"),
        cli: Dash("rare administration; REST has it"),
    },
    Operation {
        name: "drop",
        rest: At(&[
            "DELETE /v1/series/kline/{symbol}/{timeframe}",
            "DELETE /v1/series/scalar/{category}/{symbol}/{timeframe}/{name}",
        ]),
        flight: At(&["drop_series"]),
        cli: At(&["drop"]),
    },
    Operation {
        name: "write",
        rest: At(&[
            "POST /v1/klines/{symbol}/{timeframe}",
            "POST /v1/scalars/{category}/{symbol}/{timeframe}/{name}",
            "POST /v1/write",
        ]),
        flight: At(&["DoPut"]),
        cli: At(&[
            "write",
            "import",
            "bridge write-kline-range",
            "bridge write-scalar-range",
            "bridge write-indicator-range",
        ]),
    },
    Operation {
        name: "merge",
        rest: At(&[
            "POST /v1/klines/{symbol}/{timeframe}/merge",
            "POST /v1/scalars/{category}/{symbol}/{timeframe}/{name}/merge",
        ]),
        flight: At(&["DoPut"]),
        cli: At(&["write"]),
    },
    Operation {
        name: "delete",
        rest: At(&[
            "DELETE /v1/klines/{symbol}/{timeframe}",
            "DELETE /v1/scalars/{category}/{symbol}/{timeframe}/{name}",
        ]),
        flight: At(&["delete_range"]),
        cli: At(&["delete"]),
    },
    Operation {
        name: "read",
        rest: At(&[
            "GET /v1/klines/{symbol}/{timeframe}",
            "GET /v1/scalars/{category}/{symbol}/{timeframe}/{name}",
            "GET /v1/query",
            "POST /v1/query",
        ]),
        flight: At(&["DoGet"]),
        cli: At(&[
            "query",
            "export",
            "bridge read-kline-range",
            "bridge read-scalar-range",
            "bridge read-indicator-range",
            "bridge query-scalar-predicate",
        ]),
    },
    Operation {
        name: "coverage",
        rest: At(&[
            "GET /v1/coverage/kline/{symbol}/{timeframe}",
            "GET /v1/coverage/scalar/{category}/{symbol}/{timeframe}/{name}",
        ]),
        flight: At(&["coverage"]),
        cli: At(&["coverage"]),
    },
    Operation {
        name: "plan",
        rest: Dash("a response carries its size"),
        flight: At(&["GetFlightInfo"]),
        cli: Dash("a response carries its size"),
    },
    Operation {
        name: "create a snapshot",
        rest: At(&["POST /v1/snapshots"]),
        flight: At(&["create_snapshot"]),
        cli: At(&["snapshot create"]),
    },
    Operation {
        name: "list snapshots",
        rest: At(&["GET /v1/snapshots"]),
        flight: At(&["list_snapshots"]),
        cli: At(&["snapshot list"]),
    },
    Operation {
        name: "drop a snapshot",
        rest: At(&["DELETE /v1/snapshots/{name}"]),
        flight: At(&["drop_snapshot"]),
        cli: At(&["snapshot drop"]),
    },
    Operation {
        name: "create a dataset",
        rest: At(&["POST /v1/datasets"]),
        flight: CONTROL,
        cli: At(&["dataset create"]),
    },
    Operation { name: "list datasets", rest: At(&["GET /v1/datasets"]), flight: CONTROL, cli: At(&["dataset list"]) },
    Operation {
        name: "describe a dataset",
        rest: At(&["GET /v1/datasets/{name}", "GET /v1/datasets/{name}/versions/{version}"]),
        flight: CONTROL,
        cli: At(&["dataset show"]),
    },
    Operation {
        name: "list the versions of a dataset",
        rest: At(&["GET /v1/datasets/{name}/versions"]),
        flight: CONTROL,
        cli: At(&["dataset versions"]),
    },
    Operation {
        name: "change the status of a dataset",
        rest: At(&["PATCH /v1/datasets/{name}/versions/{version}"]),
        flight: CONTROL,
        cli: At(&["dataset status"]),
    },
    Operation {
        name: "lineage of a dataset",
        rest: At(&["GET /v1/datasets/{name}/versions/{version}/lineage"]),
        flight: CONTROL,
        cli: At(&["dataset lineage"]),
    },
    Operation {
        name: "register a feature or factor",
        rest: At(&["POST /v1/features", "POST /v1/factors"]),
        flight: CONTROL,
        cli: At(&["feature create", "factor create"]),
    },
    Operation {
        name: "list features or factors",
        rest: At(&["GET /v1/features", "GET /v1/factors"]),
        flight: CONTROL,
        cli: At(&["feature list", "factor list"]),
    },
    Operation {
        name: "describe a feature or factor",
        rest: At(&[
            "GET /v1/features/{name}",
            "GET /v1/features/{name}/versions/{version}",
            "GET /v1/factors/{name}",
            "GET /v1/factors/{name}/versions/{version}",
        ]),
        flight: CONTROL,
        cli: At(&["feature show", "factor show"]),
    },
    Operation {
        name: "list the versions of a feature or factor",
        rest: At(&["GET /v1/features/{name}/versions", "GET /v1/factors/{name}/versions"]),
        flight: CONTROL,
        cli: At(&["feature versions", "factor versions"]),
    },
    Operation {
        name: "change the status of a feature or factor",
        rest: At(&["PATCH /v1/features/{name}/versions/{version}", "PATCH /v1/factors/{name}/versions/{version}"]),
        flight: CONTROL,
        cli: At(&["feature status", "factor status"]),
    },
    Operation {
        name: "lineage of a feature or factor",
        rest: At(&[
            "GET /v1/features/{name}/versions/{version}/lineage",
            "GET /v1/factors/{name}/versions/{version}/lineage",
        ]),
        flight: CONTROL,
        cli: At(&["feature lineage", "factor lineage"]),
    },
    Operation {
        name: "inventory",
        rest: At(&["GET /inventory"]),
        flight: At(&["inventory"]),
        cli: At(&[
            "admin inventory",
            "admin stats",
            "admin capabilities",
            "bridge kline-inventory",
            "bridge scalar-inventory",
            "bridge indicator-inventory",
        ]),
    },
    Operation {
        name: "health",
        rest: At(&["GET /health", "GET /health/live", "GET /health/ready"]),
        flight: At(&["health"]),
        cli: At(&["admin health", "admin ping"]),
    },
    Operation {
        name: "compact",
        rest: At(&["POST /v1/admin/compact"]),
        flight: At(&["compact"]),
        cli: At(&["admin compact"]),
    },
    Operation {
        name: "verify",
        rest: At(&["POST /v1/admin/verify"]),
        flight: At(&["verify"]),
        cli: At(&["admin verify"]),
    },
    Operation {
        name: "scrub",
        rest: At(&["POST /v1/admin/scrub"]),
        flight: Dash("background work; REST has it"),
        cli: At(&["admin scrub"]),
    },
    Operation {
        name: "list orphans",
        rest: At(&["GET /v1/admin/orphans"]),
        flight: Dash("rare administration; REST has it"),
        cli: At(&["admin list-orphans"]),
    },
    Operation {
        name: "explain overlaps",
        rest: At(&["GET /v1/admin/overlaps"]),
        flight: Dash("rare administration; REST has it"),
        cli: At(&["admin explain-overlap"]),
    },
    Operation {
        name: "list the files of a series",
        rest: At(&["GET /v1/admin/files"]),
        flight: Dash("files are read without a server; REST lists them"),
        cli: At(&["files"]),
    },
    Operation {
        name: "jobs",
        rest: At(&["GET /v1/admin/jobs", "GET /v1/admin/jobs/{id}", "DELETE /v1/admin/jobs/{id}"]),
        flight: Dash("actions return when they are done"),
        cli: Dash("commands wait for their jobs and show progress"),
    },
    Operation {
        name: "backup",
        rest: At(&["POST /v1/admin/backup"]),
        flight: Dash("administration; REST has it as a job"),
        cli: At(&["admin backup"]),
    },
    Operation {
        name: "repair",
        rest: Dash("needs exclusive access to the data directory"),
        flight: Dash("needs exclusive access to the data directory"),
        cli: At(&["admin repair"]),
    },
    Operation {
        name: "rebuild the manifest",
        rest: Dash("needs exclusive access to the data directory"),
        flight: Dash("needs exclusive access to the data directory"),
        cli: At(&["admin rebuild-manifest"]),
    },
    Operation {
        name: "restore",
        rest: Dash("creates a store that no server has open"),
        flight: Dash("creates a store that no server has open"),
        cli: At(&["admin restore"]),
    },
    Operation {
        name: "metrics",
        rest: At(&["GET /metrics"]),
        flight: Dash("Prometheus scrapes over HTTP"),
        cli: Dash("Prometheus scrapes over HTTP"),
    },
    Operation {
        name: "tokens",
        rest: Dash("creating tokens requires access to the data directory"),
        flight: Dash("creating tokens requires access to the data directory"),
        cli: At(&["admin token"]),
    },
    Operation {
        name: "log in",
        rest: Dash("every request carries its token"),
        flight: At(&["Handshake"]),
        cli: Dash("every request carries its token"),
    },
    Operation {
        name: "actions",
        rest: Dash("the OpenAPI document lists the operations"),
        flight: At(&["ListActions"]),
        cli: Dash("`fastk --help` lists the commands"),
    },
    Operation {
        name: "inspect",
        rest: Dash("reads files, not the store"),
        flight: Dash("reads files, not the store"),
        cli: At(&["inspect"]),
    },
    Operation {
        name: "serve",
        rest: Dash("starts the listeners"),
        flight: Dash("starts the listeners"),
        cli: At(&["serve", "demo"]),
    },
];
