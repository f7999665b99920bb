//! Titles and bodies from template files: one file per kind and language.
//!
//! The built-in files are `src/templates/<locale>/<name>.txt`. A directory with the same layout (`TEMPLATES_DIR`)
//! replaces and adds files. All are checked and compiled once, at start. `docs/TEMPLATES.md` describes the format.
//!
//! Texts are plain: variables are inserted verbatim and never parsed. Each channel does its own escaping.

mod file;
mod filters;
mod load;
#[cfg(test)]
mod tests;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

pub use self::{
    file::is_name,
    load::{LoadError, Problem},
};
use crate::{job, schedule::nearest, text};

/// Fallback if the user's language is unknown or has no translation.
pub const DEFAULT_LOCALE: &str = "en";

/// Built-in variable: the current instant, RFC 3339.
const NOW: &str = "now";

/// Characters. Care tables have no limits, so longer titles are cut.
pub const LONGEST_TITLE: usize = 200;
/// Characters. Longer bodies are cut.
pub const LONGEST_BODY: usize = 2000;

/// All templates of a worker. Cheap to clone.
#[derive(Clone)]
pub struct Templates(Arc<Known>);

struct Known {
    /// By locale key.
    environments: BTreeMap<String, Environment<'static>>,
    named: BTreeMap<String, Named>,
}

/// All files of one name.
struct Named {
    /// Variables that a job must supply.
    variables: BTreeSet<String>,
    /// By locale key.
    files: BTreeMap<String, Compiled>,
    built_in: bool,
}

/// A compiled file. Its two texts are in the environment of its locale.
struct Compiled {
    /// Path, for errors.
    place: String,
    /// Name of its directory.
    locale: String,
    own: bool,
    title: Part,
    body: Part,
}

/// Title or body of a file.
struct Part {
    /// Name in the environment.
    key: String,
    /// First line in the file.
    line: usize,
}

/// A rendered text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// One line of 1 to 200 characters.
    pub title: String,
    /// Up to 2000 characters.
    pub body: String,
}

/// A job that doesn't fit the templates. Holds names only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No template has this name.
    #[error("there is no template `{name}`{hint}; this worker has {}", known.join(", "))]
    Unknown {
        /// Requested name.
        name: String,
        /// Suggestion.
        hint: String,
        /// Existing names.
        known: Vec<String>,
    },
    /// A variable is missing.
    #[error("the template `{name}` needs the variable `{variable}`, which the job does not give")]
    Lacks {
        /// Template.
        name: String,
        /// Variable.
        variable: String,
    },
}

/// A template that can't be rendered with these variables. Holds no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}:{line}: {what}")]
pub struct Broken {
    /// File.
    pub place: String,
    /// Line.
    pub line: usize,
    /// Problem.
    pub what: String,
}

impl Templates {
    /// Loads the built-in files and those of a directory. Errors list every problem, with its line.
    pub fn load(own: Option<&Path>) -> Result<Self, LoadError> {
        load::load(own).map(|known| Self(Arc::new(known)))
    }

    /// Binds a template to the variables of one job. Fails if the name is unknown or a variable is missing. Others are
    /// ignored: the job may come from a newer version.
    pub fn fill(&self, name: &str, mut variables: Map<String, Value>, now: DateTime<Utc>) -> Result<Filled<'_>, Unfit> {
        let Some(named) = self.0.named.get(name) else {
            let known: Vec<String> = self.0.named.keys().cloned().collect();
            let near = nearest(name, known.iter().map(String::as_str));
            let hint = near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
            return Err(Unfit::Unknown { name: name.to_owned(), hint, known });
        };
        if let Some(variable) = named.variables.iter().find(|variable| !variables.contains_key(*variable)) {
            return Err(Unfit::Lacks { name: name.to_owned(), variable: variable.clone() });
        }
        variables.insert(NOW.to_owned(), text::instant(now).into());
        Ok(Filled { known: &self.0, named, variables: values(&variables) })
    }

    /// `4 built in (1 replaced), 2 of your own (welcome, farewell); in de, en, es, fr`
    #[must_use]
    pub fn summary(&self) -> String {
        let (built_in, own): (Vec<_>, Vec<_>) = self.0.named.iter().partition(|(_, named)| named.built_in);
        let replaced = built_in.iter().filter(|(_, named)| named.files.values().any(|file| file.own)).count();
        let replaced = if replaced == 0 { String::new() } else { format!(" ({replaced} replaced or added to)") };
        let names: Vec<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
        let own =
            if own.is_empty() { String::new() } else { format!(", {} of your own ({})", own.len(), names.join(", ")) };
        let files = self.0.named.values().flat_map(|named| named.files.values());
        let locales: BTreeSet<&str> = files.map(|file| file.locale.as_str()).collect();
        let locales: Vec<&str> = locales.into_iter().collect();
        format!("{} built in{replaced}{own}; in {}", built_in.len(), locales.join(", "))
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.named.keys()).finish()
    }
}

/// A template with the variables of one job.
pub struct Filled<'a> {
    known: &'a Known,
    named: &'a Named,
    variables: minijinja::Value,
}

impl<'a> Filled<'a> {
    /// Locale of the text for a reader: theirs, else their language (`de` for `de-AT`), else [`DEFAULT_LOCALE`], else
    /// the first available.
    #[must_use]
    pub fn locale_for(&self, wanted: &str) -> &'a str {
        let (_, file) = self.named.best(wanted);
        &file.locale
    }

    /// Renders the text for this locale. Errors name the line and no values.
    pub fn text(&self, locale: &str) -> Result<Text, Broken> {
        let (key, file) = self.named.best(locale);
        let texts = self.known.render(key, file, &self.variables);
        texts.map_err(|(line, error)| Broken { place: file.place.clone(), line, what: without_values(&error) })
    }
}

impl Named {
    fn best(&self, wanted: &str) -> (&str, &Compiled) {
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

impl Known {
    fn render(
        &self,
        key: &str,
        file: &Compiled,
        variables: &minijinja::Value,
    ) -> Result<Text, (usize, minijinja::Error)> {
        let part = |part: &Part| {
            let environment = self.environments.get(key).ok_or_else(|| ErrorKind::TemplateNotFound.into());
            let rendered = environment.and_then(|known| known.get_template(&part.key)?.render(variables.clone()));
            rendered.map_err(|error: minijinja::Error| (part.line + error.line().unwrap_or(1) - 1, error))
        };
        let title = one_line(&part(&file.title)?);
        if title.is_empty() {
            return Err((file.title.line, filters::spoken("the title comes out empty")));
        }
        let body = printable(part(&file.body)?.trim());
        Ok(Text { title: job::shorten(&title, LONGEST_TITLE), body: job::shorten(&body, LONGEST_BODY) })
    }
}

fn values(variables: &Map<String, Value>) -> minijinja::Value {
    minijinja::Value::from(minijinja::value::Serde(variables))
}

/// `de_AT.UTF-8` → `de-at`
fn key_of(locale: &str) -> String {
    let tag = locale.trim().split(['.', '@']).next().unwrap_or_default();
    tag.replace('_', "-").to_ascii_lowercase()
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

/// Error text without its own message, which may quote values.
fn without_values(error: &minijinja::Error) -> String {
    filters::what_was_spoken(error).map_or_else(|| error.kind().to_string(), str::to_owned)
}
