use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{
    error::{ConfigError, error},
    variables::known,
};

/// Values of variables, from the environment and a TOML file.
#[derive(Clone, Default)]
pub struct Source {
    environment: HashMap<String, String>,
    file: HashMap<String, String>,
}

impl Source {
    /// Reads the environment, and a TOML file if named.
    ///
    /// # Errors
    /// The file is unreadable or has unknown keys.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        Ok(Self { environment, file })
    }

    /// These values only, for tests and `carebell dev`.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { environment: values.into_iter().collect(), file: HashMap::new() }
    }

    /// A non-empty value.
    pub(super) fn get(&self, variable: &str) -> Option<&str> {
        debug_assert!(known().any(|(known, _)| *known == variable), "VARIABLES lacks {variable}");
        let value = self.environment.get(variable).or_else(|| self.file.get(&variable.to_ascii_lowercase()));
        value.map(String::as_str).map(str::trim).filter(|value| !value.is_empty())
    }

    pub(super) fn require(&self, variable: &str) -> Result<&str, ConfigError> {
        self.get(variable).ok_or_else(|| error(variable, "is not set"))
    }

    pub(super) fn parse<T: FromStr>(&self, variable: &str, default: T) -> Result<T, ConfigError> {
        self.parse_with(variable, |text| text.parse().ok()).map(|value| value.unwrap_or(default))
    }

    pub(super) fn parse_with<T>(
        &self,
        variable: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.get(variable) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| error(variable, "is malformed"))
    }

    pub(super) fn path(&self, variable: &str) -> Result<Option<PathBuf>, ConfigError> {
        match self.get(variable).map(PathBuf::from) {
            Some(path) if !path.is_file() => Err(error(variable, "names a file that does not exist")),
            path => Ok(path),
        }
    }

    pub(super) fn pace(&self) -> Result<u32, ConfigError> {
        let pace =
            self.parse_with("CAREBELL_PACE", |text| text.parse().ok().filter(|pace| (1..=100).contains(pace)))?;
        Ok(pace.unwrap_or(1))
    }

    pub(super) fn duration(&self, variable: &str, default: Duration) -> Result<Duration, ConfigError> {
        Ok(self.parse_with(variable, |text| humantime::parse_duration(text).ok())?.unwrap_or(default))
    }
}

fn read_file(path: &Path) -> Result<HashMap<String, String>, ConfigError> {
    let problem = |problem: String| ConfigError { variable: format!("--config {}", path.display()), problem };
    let text = std::fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // The full error quotes the line, which may hold a secret.
        let at = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        problem(format!("is not TOML: {} in line {at}", error.message()))
    })?;
    let mut values = HashMap::new();
    for (key, value) in table {
        if !known().any(|(name, _)| name.to_ascii_lowercase() == key) {
            return Err(problem(format!("holds the unknown key `{key}`")));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => return Err(problem(format!("must hold a string or a number at `{key}`"))),
        };
        values.insert(key, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_fills_in_what_the_environment_does_not_say() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "health_port = 4000\nlog_format = \"json\"\n").unwrap();
        let mut source = Source::read(Some(file.path())).unwrap();
        source.environment = HashMap::from([("LOG_FORMAT".into(), "text".into())]);
        assert_eq!(source.parse("HEALTH_PORT", 3002), Ok(4000));
        assert!(!source.log("info").unwrap().json);

        std::fs::write(file.path(), "helth_port = 4000\n").unwrap();
        assert!(Source::read(Some(file.path())).err().unwrap().problem.contains("helth_port"));
        std::fs::write(file.path(), "database_url = postgres://secret\n").unwrap();
        let error = Source::read(Some(file.path())).err().unwrap().to_string();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
    }
}
