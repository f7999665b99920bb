use super::{Step, error::ConfigError, source::Source};
use crate::streams::Application;

/// Settings of `carebell gateway`.
#[derive(Clone, Debug, Default)]
pub struct GatewayConfig {
    /// Port; 0 for any free one.
    pub port: u16,
    /// Port of the health endpoints; 0 for any free one.
    pub health_port: u16,
    /// Applications that are kept apart, with their kinds. Empty if there is one application.
    pub applications: Vec<Application>,
    /// Checkpoint to abort at, in crash tests.
    pub abort_at: Option<Step>,
}

impl Source {
    /// Settings of `carebell gateway`.
    ///
    /// # Errors
    /// The first malformed variable.
    pub fn http_gateway(&self) -> Result<GatewayConfig, ConfigError> {
        let limits = self.limits()?;
        Ok(GatewayConfig {
            port: self.parse("GATEWAY_PORT", 3005)?,
            health_port: limits.health_port,
            applications: self.adjustments()?.applications,
            abort_at: limits.abort_at,
        })
    }
}
