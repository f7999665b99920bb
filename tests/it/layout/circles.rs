//! No circles: files of `src/` that import each other, directly or through others.
//!
//! A file imports another if it names an item that the other defines. A facade's `pub use` of its own children is no
//! import: the name counts as an import of the defining file. Unit tests do not count.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
};

use super::{expand, is_word, rust_files};

/// A module's path below the crate: `["store", "claims"]`; empty for `lib.rs`.
type Module = Vec<String>;

/// A module, and why it is imported: the first path that names it.
type Imports = BTreeMap<Module, String>;

#[derive(Default)]
struct File {
    defines: HashSet<String>,
    /// Names exported from elsewhere, with their paths.
    exports: HashMap<String, String>,
    /// Named paths, except exports of its own children.
    names: Vec<String>,
}

fn module(path: &Path) -> Module {
    let mut segments: Module =
        path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned()).collect();
    if segments.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        segments.pop();
    }
    segments
}

/// Without comments and without the unit tests at its end.
pub fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn read(text: &str) -> File {
    let mut file = File::default();
    let code = code(text);
    let mut rest = String::new();
    for item in code.split_inclusive(';') {
        let start = ["pub use ", "pub(crate) use ", "pub(super) use ", "use "].into_iter().find_map(|word| {
            let at = item.rfind(&format!("\n{word}")).map(|at| at + 1).or(item.starts_with(word).then_some(0));
            at.map(|at| (at, word))
        });
        let Some((at, word)) = start else {
            rest.push_str(item);
            continue;
        };
        rest.push_str(&item[..at]);
        let tree = item[at + word.len()..].trim_end_matches(';').replace(" as ", "@");
        let mut paths = Vec::new();
        expand("", &tree.split_whitespace().collect::<String>(), &mut paths);
        for path in paths {
            let (path, name) = match path.split_once('@') {
                Some((path, name)) => (path.to_owned(), name.to_owned()),
                None => (path.clone(), path.rsplit("::").next().unwrap_or_default().to_owned()),
            };
            let path = path.trim_end_matches("::self").to_owned();
            if word == "use " {
                file.names.push(path);
            } else {
                if !path.starts_with("self::") {
                    file.names.push(path.clone());
                }
                file.exports.insert(name, path);
            }
        }
    }
    for keyword in ["struct ", "enum ", "trait ", "fn ", "const ", "static ", "type ", "macro_rules! "] {
        for (at, _) in rest.match_indices(keyword) {
            if !rest[..at].ends_with(is_word) {
                let name = rest[at + keyword.len()..].split(|c| !is_word(c)).next().unwrap_or_default();
                file.defines.insert(name.to_owned());
            }
        }
    }
    // Paths in the code itself: `super::name`, `text::instant`.
    for word in rest.split(|c: char| !is_word(c) && c != ':') {
        let path = word.trim_matches(':');
        if path.contains("::") && path.starts_with(|c: char| c.is_lowercase()) {
            file.names.push(path.to_owned());
        }
    }
    file
}

struct House {
    files: BTreeMap<Module, File>,
}

impl House {
    fn new(texts: impl IntoIterator<Item = (Module, String)>) -> Self {
        Self { files: texts.into_iter().map(|(module, text)| (module, read(&text))).collect() }
    }

    /// The module that a path leads to, and the item named there.
    fn resolve(&self, from: &Module, path: &str) -> Option<(Module, Option<String>)> {
        let mut segments: Vec<&str> = path.split("::").filter(|segment| !segment.is_empty()).collect();
        let mut at = match *segments.first()? {
            "crate" => Module::new(),
            "self" | "super" => from.clone(),
            first => {
                let mut child = from.clone();
                child.push(first.to_owned());
                // A name of a file's own `use`, or a library.
                if !self.files.contains_key(&child) {
                    let imported =
                        self.files[from].names.iter().find(|known| known.ends_with(&format!("::{first}")))?;
                    let (module, item) = self.resolve(from, imported)?;
                    return item.is_none().then(|| (module, segments.get(1).map(|item| (*item).to_owned())));
                }
                segments.insert(0, "self");
                from.clone()
            }
        };
        let mut rest = segments.into_iter().peekable();
        while let Some(word @ ("crate" | "self" | "super")) = rest.peek().copied() {
            if word == "super" {
                at.pop();
            }
            rest.next();
        }
        for segment in rest {
            let mut deeper = at.clone();
            deeper.push(segment.to_owned());
            if !self.files.contains_key(&deeper) {
                return Some((at, Some(segment.to_owned())));
            }
            at = deeper;
        }
        Some((at, None))
    }

    /// The module that defines a path's item; follows exports.
    fn definer(&self, from: &Module, path: &str) -> Option<Module> {
        let (mut module, mut item) = self.resolve(from, path)?;
        for _ in 0..8 {
            let (Some(name), file) = (&item, self.files.get(&module)?) else { break };
            match file.exports.get(name) {
                Some(path) if !file.defines.contains(name) => (module, item) = self.resolve(&module, path)?,
                _ => break,
            }
        }
        Some(module)
    }

    fn imports(&self) -> BTreeMap<Module, Imports> {
        let imports = |(module, file): (&Module, &File)| {
            let mut found = Imports::new();
            for path in &file.names {
                if let Some(of) = self.definer(module, path).filter(|of| of != module && !of.is_empty()) {
                    found.entry(of).or_insert_with(|| path.clone());
                }
            }
            (module.clone(), found)
        };
        self.files.iter().map(imports).collect()
    }

    /// Each circle as a line a import: `a -> b (path)`.
    fn circles(&self) -> Vec<String> {
        let imports = self.imports();
        let reach: BTreeMap<&Module, BTreeSet<&Module>> = imports
            .keys()
            .map(|start| {
                let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
                while let Some(module) = open.pop() {
                    for next in imports.get(module).into_iter().flat_map(BTreeMap::keys) {
                        if seen.insert(next) {
                            open.push(next);
                        }
                    }
                }
                (start, seen)
            })
            .collect();
        let meet = |a: &Module, b: &Module| reach.get(a).is_some_and(|seen| seen.contains(b));
        let mut lines = Vec::new();
        for (from, found) in &imports {
            for (to, path) in found {
                if meet(to, from) {
                    lines.push(format!("{} -> {} ({path})", from.join("::"), to.join("::")));
                }
            }
        }
        lines
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let files =
        rust_files().into_iter().filter(|(path, _)| !path.iter().any(|part| part == "tests" || part == "tests.rs"));
    let house = House::new(files.map(|(path, text)| (module(&path), text)));
    assert!(house.imports().values().map(BTreeMap::len).sum::<usize>() > 500, "the imports are found");
    let circles = house.circles();
    assert!(circles.is_empty(), "move what is shared to a file that imports neither side:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let house = |texts: &[(&str, &str)]| {
        House::new(texts.iter().map(|(name, text)| (name.split("::").map(str::to_owned).collect(), (*text).to_owned())))
    };
    let circle = |texts: &[(&str, &str)]| house(texts).circles().len();
    // Two files, through `use`, through a path in the code, and through a third.
    assert_eq!(circle(&[("a", "use crate::b::B;\npub struct A;"), ("b", "use crate::a::A;\npub struct B;")]), 2);
    assert_eq!(
        circle(&[("a", "fn a() { crate::b::b(); }"), ("b", "use crate::{a, c};\nfn b() { a::a(); }"), ("c", "")]),
        2
    );
    assert_eq!(
        circle(&[
            ("a", "use crate::b::B;"),
            ("b", "use crate::c::C;\npub struct B;"),
            ("c", "use super::a::*;\npub struct C;")
        ]),
        3
    );
    // A child uses an item of its parent, which uses the child.
    let child = ("a::b", "use super::Shared;\npub struct B;");
    assert_eq!(circle(&[("a", "mod b;\nuse self::b::B;\npub struct Shared(B);"), child]), 2);
    // A path through a facade leads to the defining file.
    let facade = "mod b;\nmod c;\npub use self::{b::B, c::Shared};";
    assert_eq!(circle(&[("a", facade), child, ("a::c", "pub struct Shared;")]), 0);
    assert_eq!(circle(&[("a", facade), child, ("a::c", "use super::B;\npub struct Shared;")]), 2);
    // Unit tests may use anything.
    let tested = "pub struct B;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}";
    assert_eq!(circle(&[("a", "use crate::b::B;\npub struct A;"), ("b", tested)]), 0);
}
