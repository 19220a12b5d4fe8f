//! Features and factors: how series are computed, and from which inputs.

use crate::clock::wall_ms;
use crate::error::{Error, ErrorCode, Result};
use crate::registry::{
    DefinitionFields, Record, RecordKind, RecordRef, RecordSeries, RecordStatus, SeriesRole, check_name, hash,
};
use crate::service::caller::Scope;
use crate::service::registry::records::{TEXT_CHARS_MAX, WORD_CHARS_MAX, check_count, check_first_status, check_text};
use crate::service::registry::replies::{Defined, Definition, DefinitionPage, DefinitionSpec, RecordFilter};
use crate::service::shared::Service;
use crate::service::wall_clock::rfc3339;
use crate::types::SeriesKey;
use crate::types::schema::series_not_found;

/// Maximum size of the canonical form of a definition.
const DEFINITION_BYTES_MAX: usize = 256 << 10;

impl Service {
    /// Registers a feature or factor. An identical registration (definition, code version, inputs and outputs) returns
    /// the existing version that is not archived; any other creates the next version.
    ///
    /// # Errors
    /// `invalid_argument`; `series_not_found`, `dataset_not_found` and `not_found` for unknown inputs;
    /// `too_large`; those of a write.
    pub fn define(&self, kind: RecordKind, spec: &DefinitionSpec) -> Result<Defined> {
        self.caller.require_scope(Scope::Write)?;
        check_name(kind, &spec.name)?;
        check_first_status(spec.status)?;
        check_text("description", spec.description.as_deref(), TEXT_CHARS_MAX)?;
        check_text("code_version", Some(&spec.code_version), WORD_CHARS_MAX)?;
        if spec.code_version.is_empty() {
            return Err(Error::invalid("code_version is empty"));
        }
        if !spec.definition.is_object() {
            return Err(Error::invalid("definition must be a JSON object"));
        }
        let definition = hash::canonical(&spec.definition)?;
        if definition.len() > DEFINITION_BYTES_MAX {
            let detail = format!("the definition has {} bytes, more than {DEFINITION_BYTES_MAX}", definition.len());
            return Err(Error::new(ErrorCode::TooLarge, detail));
        }
        if spec.inputs.is_empty() {
            return Err(Error::invalid("inputs is empty").with_hint("list keys of series, or NAME@VERSION of datasets"));
        }
        check_count("inputs", spec.inputs.len())?;
        check_count("outputs", spec.outputs.len())?;
        let (inputs, parents) = self.inputs_of(&spec.inputs)?;
        let mut outputs = spec.outputs.clone();
        outputs.sort();
        outputs.dedup();
        outputs.iter().try_for_each(|key| self.caller.require_series(Scope::Write, key))?;
        let config_hash = hash::sha256(definition.as_bytes());
        let identity = serde_json::json!([config_hash, spec.code_version, parents, inputs, outputs]).to_string();
        let part =
            |role: SeriesRole| move |key: SeriesKey| RecordSeries { series: key.to_string(), role, member: None };
        let record = Record {
            // The registry assigns the version.
            reference: RecordRef::new(kind, &spec.name, 1),
            status: spec.status,
            description: spec.description.clone(),
            created_at: rfc3339(wall_ms()),
            dataset: None,
            definition: Some(DefinitionFields { definition, config_hash, code_version: spec.code_version.clone() }),
            parents,
            parts: inputs
                .into_iter()
                .map(part(SeriesRole::Input))
                .chain(outputs.into_iter().map(part(SeriesRole::Output)))
                .collect(),
            parts_total: 0,
        };
        self.store.check_owned()?;
        let (reference, created) =
            self.records().define(record, &hash::sha256(identity.as_bytes()), &self.caller.prefixes)?;
        let definition = self.definition(kind, &reference.name, Some(reference.version))?;
        Ok(Defined { created, definition })
    }

    /// The series and records listed as inputs, without duplicates; all of them must exist.
    fn inputs_of(&self, named: &[String]) -> Result<(Vec<SeriesKey>, Vec<RecordRef>)> {
        let (mut series, mut references) = (Vec::new(), Vec::new());
        for text in named {
            if text.contains('/') {
                series.push(SeriesKey::parse(text)?);
            } else {
                references.push(text.parse::<RecordRef>()?);
            }
        }
        series.sort();
        series.dedup();
        let state = self.store.snapshot();
        for key in &series {
            self.caller.require_series(Scope::Write, key)?;
            if state.get(key).is_none() {
                return Err(series_not_found(key));
            }
        }
        Ok((series, self.parents(references.into_iter())?))
    }

    /// One version of a feature or factor, or the latest version that is not archived.
    ///
    /// # Errors
    /// `not_found`.
    pub fn definition(&self, kind: RecordKind, name: &str, version: Option<u32>) -> Result<Definition> {
        definition(self.record(kind, name, version)?)
    }

    /// Features or factors ordered by name and version.
    pub fn definitions(&self, kind: RecordKind, filter: &RecordFilter) -> Result<DefinitionPage> {
        page(self.page(kind, filter)?)
    }

    /// Versions of a feature or factor, ordered by number.
    ///
    /// # Errors
    /// `not_found`.
    pub fn definition_versions(&self, kind: RecordKind, name: &str, filter: &RecordFilter) -> Result<DefinitionPage> {
        page(self.versions(kind, name, filter)?)
    }

    /// Changes the status of a feature or factor.
    ///
    /// # Errors
    /// `not_found`, `invalid_argument` for an invalid transition.
    pub fn set_definition_status(
        &self,
        kind: RecordKind,
        name: &str,
        version: Option<u32>,
        status: RecordStatus,
    ) -> Result<Definition> {
        definition(self.change_status(kind, name, version, status)?)
    }
}

fn page((records, next_cursor): (Vec<Record>, Option<String>)) -> Result<DefinitionPage> {
    let definitions = records.into_iter().map(definition).collect::<Result<_>>()?;
    Ok(DefinitionPage { definitions, next_cursor })
}

fn definition(record: Record) -> Result<Definition> {
    let Record { reference, status, description, created_at, parents, parts, parts_total, definition, .. } = record;
    let part = definition.ok_or_else(|| Error::internal(format!("{reference} has no definition")))?;
    let value = serde_json::from_str(&part.definition)
        .map_err(|error| Error::corrupt(format!("the definition of {reference} is not JSON: {error}")))?;
    let mut inputs: Vec<String> = parents.iter().map(ToString::to_string).collect();
    let mut outputs = Vec::new();
    for part in parts {
        match part.role {
            SeriesRole::Output => outputs.push(SeriesKey::parse(&part.series)?),
            SeriesRole::Input | SeriesRole::Member => inputs.push(part.series),
        }
    }
    Ok(Definition {
        kind: reference.kind,
        name: reference.name.clone(),
        version: reference.version,
        reference,
        status,
        description,
        definition: value,
        config_hash: part.config_hash,
        code_version: part.code_version,
        inputs,
        outputs,
        series_count: parts_total,
        created_at,
    })
}
