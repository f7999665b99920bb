//! Titles and bodies from template files: one file per kind and language.
//!
//! The built-in files are `src/templates/<locale>/<name>.txt`. A directory with the same layout (`TEMPLATES_DIR`)
//! replaces and adds files. All are checked and compiled once, at start. `docs/TEMPLATES.md` describes the format.
//!
//! Texts are plain: variables are inserted verbatim and never parsed. Each channel does its own escaping.

mod catalogue;
mod file;
mod filters;
mod load;
mod locale;
mod problem;
#[cfg(test)]
mod tests;
mod words;

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use self::{
    catalogue::{Catalogue, Named, values},
    filters::NOW,
};
pub use self::{
    catalogue::{LONGEST_BODY, LONGEST_TITLE, Text},
    file::is_name,
    locale::DEFAULT_LOCALE,
    problem::{LoadError, Problem},
};
use crate::{near::nearest, text};

/// All templates of a worker. Cheap to clone.
#[derive(Clone)]
pub struct Templates(Arc<Catalogue>);

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
        load::load(own).map(|catalogue| Self(Arc::new(catalogue)))
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
        Ok(Filled { catalogue: &self.0, named, variables: values(&variables) })
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
    catalogue: &'a Catalogue,
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
        let texts = self.catalogue.render(key, file, &self.variables);
        texts.map_err(|(line, error)| Broken { place: file.place.clone(), line, what: without_values(&error) })
    }
}

/// Error text without its own message, which may quote values.
fn without_values(error: &minijinja::Error) -> String {
    filters::what_was_spoken(error).map_or_else(|| error.kind().to_string(), str::to_owned)
}
