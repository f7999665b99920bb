//! The compiled templates, and their rendering.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

use super::{
    filters::spoken,
    locale::{DEFAULT_LOCALE, key_of},
};
use crate::text::shorten;

/// Characters. Care tables have no limits, so longer titles are cut.
pub const LONGEST_TITLE: usize = 200;
/// Characters. Longer bodies are cut.
pub const LONGEST_BODY: usize = 2000;

/// All compiled templates.
pub(super) struct Catalogue {
    pub(super) environments: BTreeMap<String, Environment<'static>>,
    pub(super) named: BTreeMap<String, Named>,
}

/// All files of one name.
pub(super) struct Named {
    /// Variables that a job must supply.
    pub(super) variables: BTreeSet<String>,
    /// By locale key.
    pub(super) files: BTreeMap<String, Compiled>,
    pub(super) built_in: bool,
}

/// A compiled file. Its two texts are in the environment of its locale.
pub(super) struct Compiled {
    /// Path, for errors.
    pub(super) place: String,
    /// Name of its directory.
    pub(super) locale: String,
    pub(super) own: bool,
    pub(super) title: Part,
    pub(super) body: Part,
}

/// Title or body of a file.
pub(super) struct Part {
    /// Name in the environment.
    pub(super) key: String,
    pub(super) line: usize,
}

/// A rendered text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// One line of 1 to 200 characters.
    pub title: String,
    /// Up to 2000 characters.
    pub body: String,
}

impl Named {
    /// The file for a reader of this locale, with its locale key.
    pub(super) fn best(&self, wanted: &str) -> (&str, &Compiled) {
        let wanted = key_of(wanted);
        let mut candidate = wanted.as_str();
        loop {
            if let Some((key, file)) = self.files.get_key_value(candidate) {
                return (key, file);
            }
            match candidate.rsplit_once('-') {
                Some((wider, _)) => candidate = wider,
                None if candidate == DEFAULT_LOCALE => break,
                None => candidate = DEFAULT_LOCALE,
            }
        }
        #[expect(clippy::expect_used, reason = "a name is known by its files: load.rs makes none without")]
        self.files.first_key_value().map(|(key, file)| (key.as_str(), file)).expect("a file")
    }
}

impl Catalogue {
    pub(super) fn render(
        &self,
        key: &str,
        file: &Compiled,
        variables: &minijinja::Value,
    ) -> Result<Text, (usize, minijinja::Error)> {
        let part = |part: &Part| {
            let environment = self.environments.get(key).ok_or_else(|| ErrorKind::TemplateNotFound.into());
            let rendered =
                environment.and_then(|environment| environment.get_template(&part.key)?.render(variables.clone()));
            rendered.map_err(|error: minijinja::Error| (part.line + error.line().unwrap_or(1) - 1, error))
        };
        let title = one_line(&part(&file.title)?);
        if title.is_empty() {
            return Err((file.title.line, spoken("the title comes out empty")));
        }
        let body = printable(part(&file.body)?.trim());
        Ok(Text { title: shorten(&title, LONGEST_TITLE), body: shorten(&body, LONGEST_BODY) })
    }
}

pub(super) fn values(variables: &Map<String, Value>) -> minijinja::Value {
    minijinja::Value::from(minijinja::value::Serde(variables))
}

/// A title is one line, whatever its variables hold.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Keeps line breaks, drops other control characters.
fn printable(text: &str) -> String {
    let blank = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.replace("\r\n", "\n").chars().map(|c| if blank(c) { ' ' } else { c }).collect()
}
