//! Schemas of the bodies and responses that are no Rust types, for the OpenAPI document.

use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType,
    Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

fn object(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().description(Some(description))
}

fn named(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn list_of(name: &str, description: &str) -> Schema {
    Schema::Array(ArrayBuilder::new().items(named(name)).description(Some(description)).build())
}

fn text(description: &str) -> Schema {
    Schema::Object(object(description).schema_type(Type::String).build())
}

fn count(description: &str) -> Schema {
    Schema::Object(object(description).schema_type(Type::Integer).build())
}

/// An object without additional fields.
fn closed(object: ObjectBuilder) -> Schema {
    Schema::Object(object.additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false))).build())
}

/// Schemas of JSON bodies and responses. Every union and object has a name, since generators of clients derive types
/// from names: for anonymous ones they invent a name in each place, or omit the operation.
macro_rules! schemas {
    ($($(#[$outer:meta])* $name:ident $schema:expr;)*) => {
        $(
            $(#[$outer])*
            #[derive(Debug)]
            pub struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    RefOr::T($schema)
                }
            }

            impl ToSchema for $name {}
        )*
    };
}

schemas! {
    /// A cell of a row.
    Cell Schema::OneOf(
        OneOfBuilder::new()
            .description(Some("A number, a text, which can be that of a number, true or false, or null"))
            .item(Schema::Object(ObjectBuilder::new().schema_type(Type::Number).build()))
            .item(Schema::Object(ObjectBuilder::new().schema_type(Type::String).build()))
            .item(Schema::Object(ObjectBuilder::new().schema_type(Type::Boolean).build()))
            .item(Schema::Object(ObjectBuilder::new().schema_type(Type::Null).build()))
            .build(),
    );
    /// A row by the names of its columns.
    Row Schema::Object(
        object("A row: `ts` and every number column by name").additional_properties(Some(named("Cell"))).build(),
    );
    /// Rows, one object each.
    RowList list_of("Row", "Rows, one object each");
    /// Cells by column.
    ColumnLists Schema::Object(
        object("The cells of each column by name, including `ts`")
            .additional_properties(Some(Schema::Array(ArrayBuilder::new().items(named("Cell")).build())))
            .build(),
    );
    /// Body of a JSON write with the key `rows`.
    RowsObject closed(object("An object with the key `rows`").property("rows", named("RowList")).required("rows"));
    /// Body of a JSON write with the key `columns`.
    ColumnsObject closed(object("An object with the key `columns`").property("columns", named("ColumnLists")).required("columns"));
    /// Body of a JSON write: rows, or columns.
    RowsBody Schema::OneOf(
        OneOfBuilder::new()
            .description(Some("Rows to write. Every column must be present; decimals are parsed exactly, also from text."))
            .item(named("RowsObject"))
            .item(named("ColumnsObject"))
            .item(named("RowList"))
            .build(),
    );
    /// Rows of one series in a write of several.
    SeriesRows closed(
        object("Rows of one series: `rows` or `columns`")
            .property("series", text("Key of the series, at most once per body"))
            .property("rows", named("RowList"))
            .property("columns", named("ColumnLists"))
            .required("series"),
    );
    /// Body of a JSON write of several series.
    WritesBody Schema::Object(
        object("Rows to write, by series")
            .property("writes", list_of("SeriesRows", "One entry per series"))
            .required("writes")
            .build(),
    );
    /// The series of a response.
    SeriesOrList Schema::OneOf(
        OneOfBuilder::new()
            .description(Some("Key of the series; a list for several series, whose rows each have a `series`"))
            .item(text("Key of the series"))
            .item(Schema::Array(ArrayBuilder::new().items(RefOr::T(text("A key or glob"))).build()))
            .build(),
    );
    /// A JSON response to a read.
    RowsReply Schema::Object(
        object("The rows: `rows`, or `columns` under `shape=columns`")
            .property("series", named("SeriesOrList"))
            .property("version", count("Version of the series; absent for several"))
            .property("commit", count("Commit of the store"))
            .property("rows", named("RowList"))
            .property("columns", named("ColumnLists"))
            .property("next_cursor", Schema::Object(
                object("Continues after the last row; null when no row is left")
                    .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
                    .build(),
            ))
            .property("stats", named("ScanStats"))
            .required("series")
            .required("commit")
            .required("next_cursor")
            .build(),
    );
    /// A column of the result of a statement.
    SqlColumn Schema::Object(
        object("A column of the result of a statement")
            .property("name", text("Its name; a repeated one has a number"))
            .property("type", text("Its type, such as decimal(18,2), timestamp(ms) or text"))
            .required("name")
            .required("type")
            .build(),
    );
    /// A JSON response to a statement.
    SqlReply Schema::Object(
        object("The columns and rows of a statement")
            .property("columns", list_of("SqlColumn", "Names and types"))
            .property("rows", named("RowList"))
            .property("truncated", Schema::Object(
                object("Whether rows beyond `sql.json_rows_max` were left out").schema_type(Type::Boolean).build(),
            ))
            .required("columns")
            .required("rows")
            .required("truncated")
            .build(),
    );
}

macro_rules! texts {
    ($($(#[$outer:meta])* $name:ident $pattern:literal $about:literal;)*) => {
        $(
            $(#[$outer])*
            #[derive(Debug)]
            pub struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    RefOr::T(Schema::Object(object($about).schema_type(Type::String).pattern(Some($pattern)).build()))
                }
            }

            impl ToSchema for $name {}
        )*
    };
}

texts! {
    /// A symbol or name in a key.
    Symbol "^[A-Za-z0-9_:@+=^$&-][A-Za-z0-9._:@+=^$&-]{0,63}$"
        "1 to 64 characters: ASCII letters, digits and `. _ - : @ + = ^ $ &`, not starting with a dot";
    /// A timeframe in a key.
    Timeframe "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,31}$"
        "A count and one of `s m h d w M` (`1m` a minute, `1M` a month), or a label of 1 to 32 ASCII letters, digits and `. _ -`";
    /// A category in a key.
    Category "^[A-Za-z0-9_]{1,32}$" "1 to 32 characters: ASCII letters, digits and `_`";
}

/// Content encoding of a body.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "documents a header")]
pub enum ContentCoding {
    Identity,
    Gzip,
    Zstd,
}

/// Binary data.
#[derive(Debug)]
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        RefOr::T(Schema::Object(object("Bytes").schema_type(Type::String).format(Some(format)).build()))
    }
}

impl ToSchema for Binary {}
