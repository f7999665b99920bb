//! Parses a template file: lines of `key: value`, a blank line, and the body.

use serde_json::{Map, Value};

use super::{filters::NOW, locale::DEFAULT_LOCALE, problem::Problem};

const EXPECTED: &str = "expected `title: …`, `example: {…}`, a comment (`# …`), or the blank line before the body";

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parsed {
    pub title: Source,
    pub body: Source,
    pub examples: Vec<Example>,
}

/// Source of a template, and its first line in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub text: String,
    pub line: usize,
}

/// Sample variables. Every job must supply the same names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Example {
    pub line: usize,
    pub variables: Map<String, Value>,
}

pub(super) fn parse(place: &str, text: &str) -> Result<Parsed, Vec<Problem>> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let mut lines = (1..).zip(text.split('\n'));
    let (mut title, mut examples, mut problems) = (None, Vec::new(), Vec::new());
    let mut body_at = 1;
    for (line, text) in lines.by_ref() {
        body_at = line + 1;
        if text.trim().is_empty() {
            break;
        }
        if text.starts_with('#') {
            continue;
        }
        let problem = |what: String| Problem::new(place, line, what);
        match text.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
            Some(("title", "")) => problems.push(problem("the title is empty".into())),
            Some(("title", value)) if title.is_none() => title = Some(Source { text: value.to_owned(), line }),
            Some(("title", _)) => problems.push(problem("there is a title already".into())),
            Some(("example", value)) => match example(value) {
                Ok(variables) => examples.push(Example { line, variables }),
                Err(why) => problems.push(problem(why)),
            },
            _ => problems.push(problem(EXPECTED.into())),
        }
    }
    let body = Source { text: lines.map(|(_, text)| text).collect::<Vec<_>>().join("\n"), line: body_at };
    match title {
        Some(title) if problems.is_empty() => Ok(Parsed { title, body, examples }),
        None if problems.is_empty() => {
            problems.push(Problem::new(place, 1, "there is no line `title: …` before the first blank line"));
            Err(problems)
        }
        _ => Err(problems),
    }
}

fn example(text: &str) -> Result<Map<String, Value>, String> {
    let variables: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        format!("the example is not a JSON object on one line (column {}): {error}", error.column())
    })?;
    for name in variables.keys() {
        let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !word || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
            return Err(format!("the variable {name:?} must be a word of a-z, 0-9 and _ that begins with a letter"));
        }
        if name == NOW {
            return Err(format!("the variable `{NOW}` is set by Carebell: the instant at which a text is rendered"));
        }
    }
    Ok(variables)
}

/// Whether this is a valid template name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(fits) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Whether this is a valid locale: `de`, `de-AT`, `zh-Hant`.
pub(super) fn is_locale(locale: &str) -> bool {
    let mut parts = locale.split('-');
    let language = parts.next().unwrap_or(DEFAULT_LOCALE);
    let is_part = |part: &str| (2..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric());
    (2..=3).contains(&language.len()) && language.chars().all(|c| c.is_ascii_lowercase()) && parts.all(is_part)
}
