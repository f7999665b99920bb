//! Reads all files, and refuses what could fail later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, DirEntry},
    path::Path,
};

use minijinja::{Environment, ErrorKind};

use super::{
    Compiled, Known, NOW, Named, Part,
    file::{self, Example, Parsed, Source},
    filters, key_of, values,
    words::{Role, words},
};
use crate::schedule::nearest;

/// The built-in files: locale, name and text. Written by `build.rs`.
const EMBEDDED: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The instant at which the examples are rendered.
const EXAMPLE_NOW: &str = "2027-03-01T08:00:00Z";

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or directory.
    pub place: String,
    /// The line in it, where it is one line's fault.
    pub line: Option<usize>,
    /// What is wrong, and what it should be.
    pub what: String,
}

impl Problem {
    pub(super) fn new(place: &str, line: usize, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line: Some(line), what: what.into() }
    }

    fn of(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), line: None, what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.what),
            None => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// All that is wrong with the templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(pub Vec<Problem>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "{}", problems.join("; "))
    }
}

impl std::error::Error for LoadError {}

/// A file that was read.
struct File {
    place: String,
    locale: String,
    name: String,
    own: bool,
    parsed: Parsed,
}

/// What the files of one name say together.
#[derive(Default)]
struct Examples {
    variables: BTreeSet<String>,
    all: Vec<Example>,
}

pub(super) fn load(own: Option<&Path>) -> Result<Known, LoadError> {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for (locale, file, text) in EMBEDDED {
        let place = format!("src/templates/{locale}/{file}");
        let name = file.trim_end_matches(".txt");
        files.extend(read(place, locale, name, false, text, &mut problems));
    }
    if let Some(directory) = own {
        read_directory(directory, &mut files, &mut problems);
    }
    let examples = examples(&files, &mut problems);
    let known = compile(files, &examples, &mut problems);
    if problems.is_empty() { Ok(known) } else { Err(LoadError(problems)) }
}

fn read(place: String, locale: &str, name: &str, own: bool, text: &str, problems: &mut Vec<Problem>) -> Option<File> {
    let (locale, name) = (locale.to_owned(), name.to_owned());
    match file::parse(&place, text) {
        Ok(parsed) => Some(File { place, locale, name, own, parsed }),
        Err(found) => {
            problems.extend(found);
            None
        }
    }
}

/// `<locale>/<name>.txt`. What is hidden is left alone, for instance what a mounted volume puts beside.
fn read_directory(directory: &Path, files: &mut Vec<File>, problems: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    for locale in entries(directory, problems) {
        let (path, name) = (locale.path(), locale.file_name().to_string_lossy().into_owned());
        let place = path.display().to_string();
        if !path.is_dir() {
            if name.to_ascii_lowercase().ends_with(".txt") {
                problems.push(Problem::of(place, "belongs into the directory of its locale, such as `en`"));
            }
            continue;
        }
        if !file::is_locale(&name) || !seen.insert(key_of(&name)) {
            problems.push(Problem::of(place, "must be named as one locale, such as `de` or `de-AT`"));
            continue;
        }
        for entry in entries(&path, problems) {
            let (path, file) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let place = path.display().to_string();
            let Some(template) = file.strip_suffix(".txt").filter(|template| file::is_name(template)) else {
                let what = "must be named <template>.txt, with at most 64 of a-z 0-9 . _ - in the template's name";
                problems.push(Problem::of(place, what));
                continue;
            };
            match fs::read_to_string(&path) {
                Ok(text) => files.extend(read(place, &name, template, true, &text, problems)),
                Err(error) => problems.push(Problem::of(place, format!("cannot be read: {error}"))),
            }
        }
    }
}

fn entries(directory: &Path, problems: &mut Vec<Problem>) -> Vec<DirEntry> {
    let read = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = read.unwrap_or_else(|error| {
        problems.push(Problem::of(directory.display().to_string(), format!("cannot be read: {error}")));
        Vec::new()
    });
    entries.retain(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    entries.sort_by_key(DirEntry::file_name);
    entries
}

/// The examples of each name, from all its files, those that are replaced too: they say what jobs give.
fn examples(files: &[File], problems: &mut Vec<Problem>) -> BTreeMap<String, Examples> {
    let mut by_name: BTreeMap<String, Examples> = BTreeMap::new();
    for file in files {
        let known = by_name.entry(file.name.clone()).or_default();
        for example in &file.parsed.examples {
            let variables: BTreeSet<String> = example.variables.keys().cloned().collect();
            if known.all.is_empty() {
                known.variables = variables;
            } else if known.variables != variables {
                let differing: Vec<&str> =
                    known.variables.symmetric_difference(&variables).map(String::as_str).collect();
                let what = format!(
                    "all examples of `{}` must have the same variables; this one differs in {}",
                    file.name,
                    differing.join(", ")
                );
                problems.push(Problem::new(&file.place, example.line, what));
                continue;
            }
            known.all.push(example.clone());
        }
    }
    by_name
}

fn compile(files: Vec<File>, examples: &BTreeMap<String, Examples>, problems: &mut Vec<Problem>) -> Known {
    let mut known = Known { environments: BTreeMap::new(), named: BTreeMap::new() };
    let none = Examples::default();
    let replaced: BTreeSet<(String, String)> =
        files.iter().filter(|file| file.own).map(|file| (key_of(&file.locale), file.name.clone())).collect();
    for file in files {
        let key = key_of(&file.locale);
        let of_name = examples.get(&file.name).unwrap_or(&none);
        known.named.entry(file.name.clone()).or_insert_with(|| Named {
            variables: of_name.variables.clone(),
            files: BTreeMap::new(),
            built_in: !file.own,
        });
        if !file.own && replaced.contains(&(key.clone(), file.name.clone())) {
            continue;
        }
        let environment = known.environments.entry(key.clone()).or_insert_with(|| filters::environment(&file.locale));
        let before = problems.len();
        for (part, source) in [("title", &file.parsed.title), ("body", &file.parsed.body)] {
            let part = format!("{}/{part}", file.name);
            problems.extend(add(environment, &part, source, of_name).into_iter().map(|(line, what)| {
                let line = line + source.line - 1;
                Problem::new(&file.place, line, what)
            }));
        }
        let compiled = Compiled {
            title: Part { key: format!("{}/title", file.name), line: file.parsed.title.line },
            body: Part { key: format!("{}/body", file.name), line: file.parsed.body.line },
            place: file.place,
            locale: file.locale,
            own: file.own,
        };
        if problems.len() == before {
            problems.extend(try_examples(&known, &key, &compiled, of_name));
        }
        if let Some(named) = known.named.get_mut(&file.name) {
            named.files.insert(key, compiled);
        }
    }
    known.named.retain(|_, named| !named.files.is_empty());
    known
}

/// Compiles one text. What it names and is not there is told with its line.
fn add(environment: &mut Environment<'static>, key: &str, source: &Source, of_name: &Examples) -> Vec<(usize, String)> {
    if let Err(error) = environment.add_template_owned(key.to_owned(), source.text.clone()) {
        return vec![(error.line().unwrap_or(1), words_of(&error))];
    }
    let Ok(template) = environment.get_template(key) else { return Vec::new() };
    let mut undeclared = template.undeclared_variables(false);
    undeclared.retain(|name| name != NOW && !of_name.variables.contains(name));
    undeclared.retain(|name| !environment.globals().any(|(global, _)| global == name));
    let mut state = environment.empty_state();
    let mut found = Vec::new();
    for word in words(&source.text) {
        let what = match word.role {
            // Told of once.
            Role::Name if undeclared.remove(word.text) => unknown_variable(word.text, of_name),
            Role::Filter if is(ErrorKind::UnknownFilter, state.apply_filter(word.text, &[]).err()) => {
                format!("there is no filter `{}`", word.text)
            }
            Role::Test if is(ErrorKind::UnknownTest, state.perform_test(word.text, &[]).err()) => {
                format!("there is no test `{}`", word.text)
            }
            _ => continue,
        };
        found.push((word.line, what));
    }
    found.extend(undeclared.into_iter().map(|name| (1, unknown_variable(&name, of_name))));
    found
}

fn is(kind: ErrorKind, error: Option<minijinja::Error>) -> bool {
    error.is_some_and(|error| error.kind() == kind)
}

fn unknown_variable(name: &str, of_name: &Examples) -> String {
    let known: Vec<&str> = of_name.variables.iter().map(String::as_str).collect();
    if known.is_empty() {
        return format!("unknown variable `{name}`: no file of this template has an `example:` line that gives any");
    }
    let near = nearest(name, known.iter().copied());
    let near = near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
    format!("unknown variable `{name}`{near}; there are {}", known.join(", "))
}

/// Renders a file with each example of its name. Nothing personal is in these, so all words of an error may be shown.
fn try_examples(known: &Known, key: &str, file: &Compiled, of_name: &Examples) -> Option<Problem> {
    let without = [Example { line: 0, variables: serde_json::Map::new() }];
    let all = if of_name.all.is_empty() { &without[..] } else { &of_name.all };
    for (number, example) in (1..).zip(all) {
        let mut variables = example.variables.clone();
        variables.insert(NOW.to_owned(), EXAMPLE_NOW.into());
        if let Err((line, error)) = known.render(key, file, &values(&variables)) {
            let what = format!("with example {number} of the template: {}", words_of(&error));
            return Some(Problem::new(&file.place, line, what));
        }
    }
    None
}

fn words_of(error: &minijinja::Error) -> String {
    match (filters::what_was_spoken(error), error.detail()) {
        (Some(words), _) => words.to_owned(),
        (None, Some(detail)) => format!("{}: {detail}", error.kind()),
        (None, None) => error.kind().to_string(),
    }
}
