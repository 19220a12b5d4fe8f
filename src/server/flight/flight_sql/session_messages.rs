//! The messages of sessions, which arrow-flight does not have.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// A value of an option.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub option_value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(sfixed64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    List(TextList),
}

#[derive(Clone, PartialEq, Message)]
pub struct TextList {
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// `SetSessionOptionsRequest`, and `GetSessionOptionsResult`, which has the same fields.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOptionList {
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsResult {
    /// Why an option was not set.
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, OptionProblem>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OptionProblem {
    /// 1 for an unknown name, 2 for an invalid value.
    #[prost(int32, tag = "1")]
    pub value: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct CloseSessionResult {
    /// 1 for closed.
    #[prost(int32, tag = "1")]
    pub status: i32,
}
