//! The texts of a notification, one for each language of its recipients.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields;
use crate::{
    job::{Context, Failure, Invalid, field},
    plan::Content,
    templates::{self, Filled, Text},
    wire,
};

/// Longer than any language tag.
const LONGEST_LOCALE: usize = 35;

/// A job's template and variables.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Template {
    name: String,
    variables: Map<String, Value>,
    /// For recipients whose language is unknown; empty for the default.
    locale: String,
    /// Carebell's own, named by a reminder.
    is_own: bool,
}

impl Template {
    /// The job's template, if it names one. It excludes title and body.
    pub(super) fn parse(wire: &mut wire::Notification) -> Result<Option<Self>, Invalid> {
        let (field, name) = match (wire.template.as_str(), wire.own_template.as_str()) {
            ("", "") if wire.variables.is_some() => {
                return Err(Invalid::new("variables", "require a `template`"));
            }
            ("", "") => return Ok(None),
            (name, "") => ("template", name.to_owned()),
            ("", name) => ("own_template", name.to_owned()),
            _ => return Err(Invalid::new("own_template", "must be empty if `template` is given")),
        };
        if !templates::is_name(&name) {
            return Err(Invalid::new(
                field,
                "must be 1 to 64 of the characters a-z 0-9 . _ -, the first a letter or a digit",
            ));
        }
        for (field, text) in [("title", &wire.title), ("body", &wire.body)] {
            if !text.is_empty() {
                return Err(Invalid::new(field, "must be empty if `template` is given"));
            }
        }
        Ok(Some(Self {
            name,
            variables: fields::json("variables", wire.variables.take())?,
            locale: field::text("locale", &wire.locale, LONGEST_LOCALE)?,
            is_own: field == "own_template",
        }))
    }
}

/// The texts of a job, rendered when first needed in a language.
pub(super) struct Texts<'a> {
    content: Content,
    filled: Option<(Filled<'a>, String)>,
    made: BTreeMap<&'a str, Content>,
}

impl<'a> Texts<'a> {
    /// Fills in the job's template, if it names one.
    pub(super) fn new(content: Content, template: Option<Template>, cx: &'a Context) -> Result<Self, Failure> {
        let filled = match template {
            None => None,
            Some(Template { name, variables, locale, is_own }) => {
                let filled = cx.templates.fill(&name, variables, cx.clock.now());
                let filled = filled.map_err(|unfit| {
                    // During a rolling upgrade, a worker of the reminder's version has the template.
                    if is_own { Failure::retry(unfit.to_string()) } else { Failure::permanent(unfit.to_string()) }
                });
                Some((filled?, locale))
            }
        };
        Ok(Self { content, filled, made: BTreeMap::new() })
    }

    /// Renders the text for a locale if necessary. Returns the text's locale.
    pub(super) fn locale(&mut self, wanted: &str) -> Result<String, Failure> {
        let Some((filled, of_others)) = &self.filled else { return Ok(self.content.locale.clone()) };
        let locale = filled.locale_for(if wanted.trim().is_empty() { of_others } else { wanted });
        if !self.made.contains_key(locale) {
            // An error in one language must not keep a dose from readers of another.
            let text = filled.text(locale).or_else(|broken| {
                tracing::error!("a template is broken, falling back to the default language: {broken}");
                filled.text(templates::DEFAULT_LOCALE)
            });
            let Text { title, body } = text.map_err(|broken| Failure::permanent(broken.to_string()))?;
            self.made.insert(locale, Content { locale: locale.to_owned(), title, body, ..self.content.clone() });
        }
        Ok(locale.to_owned())
    }

    /// All rendered texts.
    pub(super) fn contents(self) -> Vec<Content> {
        if self.filled.is_none() { vec![self.content] } else { self.made.into_values().collect() }
    }
}
