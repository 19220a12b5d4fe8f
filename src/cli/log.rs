//! Log lines on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::error::{Error, Result};
use crate::server::AUDIT;

/// Variable that overrides the level of the configuration.
pub const LOG_VARIABLE: &str = "FASTK_LOG";

/// Starts logging to standard error at `level`, or at what `FASTK_LOG` says.
///
/// # Errors
/// `invalid_argument` when the directives cannot be read.
pub fn init(level: &str, format: LogFormat) -> Result<()> {
    let directives = std::env::var(LOG_VARIABLE).ok().filter(|text| !text.is_empty());
    let directives = directives.as_deref().unwrap_or(level);
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Error::invalid(format!("log level {directives:?} cannot be read: {error}")))?;
    // Who deleted what is told whatever the level.
    let filter = match format!("{AUDIT}=info").parse() {
        Ok(audit) => filter.add_directive(audit),
        Err(_) => filter,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| Error::internal(format!("logging: {error}")))
}
