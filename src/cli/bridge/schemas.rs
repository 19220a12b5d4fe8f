//! JSON Schemas of the bridge, generated from the types of its input and output.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use super::contract::{
    BridgeFailure, IndicatorRange, KlineInventory, KlineRange, KlinesWritten, PredicateAnswer, ScalarInventory,
    ScalarRange, ScalarsWritten, WriteKlines, WriteScalars,
};

/// The schema of an input.
fn input<T: JsonSchema>() -> Value {
    schema::<T>(SchemaSettings::draft2020_12().into_generator())
}

/// The schema of an output.
fn output<T: JsonSchema>() -> Value {
    schema::<T>(SchemaSettings::draft2020_12().for_serialize().into_generator())
}

fn schema<T: JsonSchema>(generator: SchemaGenerator) -> Value {
    generator.into_root_schema_for::<T>().to_value()
}

/// Every schema by its name: a command and its direction, such as `write-kline-range.input`, or `failure`.
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("read-kline-range.output", output::<KlineRange>()),
        ("write-kline-range.input", input::<WriteKlines>()),
        ("write-kline-range.output", output::<KlinesWritten>()),
        ("kline-inventory.output", output::<KlineInventory>()),
        ("read-indicator-range.output", output::<IndicatorRange>()),
        ("write-indicator-range.input", input::<WriteScalars>()),
        ("write-indicator-range.output", output::<ScalarsWritten>()),
        ("indicator-inventory.output", output::<ScalarInventory>()),
        ("read-scalar-range.output", output::<ScalarRange>()),
        ("write-scalar-range.input", input::<WriteScalars>()),
        ("write-scalar-range.output", output::<ScalarsWritten>()),
        ("query-scalar-predicate.output", output::<PredicateAnswer>()),
        ("scalar-inventory.output", output::<ScalarInventory>()),
        ("failure", output::<BridgeFailure>()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Run with `FASTK_BLESS=1` to rewrite the committed schemas.
    #[test]
    fn the_committed_openapi_bridge_schemas_match_the_code() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/bridge");
        let is_blessed = std::env::var_os("FASTK_BLESS").is_some();
        let mut names = BTreeSet::new();
        for (name, schema) in schemas() {
            let file = format!("{name}.schema.json");
            let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
            if is_blessed {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(&file), &text).unwrap();
            }
            let committed = std::fs::read_to_string(folder.join(&file)).unwrap_or_default();
            assert!(committed == text, "openapi/bridge/{file} is stale: run this test with FASTK_BLESS=1");
            names.insert(file);
        }
        let there = std::fs::read_dir(&folder).unwrap();
        let there: BTreeSet<String> =
            there.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        assert_eq!(names, there);
    }
}
