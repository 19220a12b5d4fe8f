//! Arrow Flight over gRPC.
