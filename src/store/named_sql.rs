//! Statements in `.sql` files with named parameters.
//!
//! A row is a struct made by [`rows!`]; each column of a list of rows is sent as one
//! array. The file names them in braces:
//!
//! - `FROM {runs}`, bound by `.rows("runs", …)`, becomes
//!   `FROM unnest($1::TEXT[], $2::INT8[]) AS runs(job_id, stream_seq)`, and `{runs.job_id}` becomes `$1::TEXT[]`.
//! - `{lease}`, bound by `.value("lease", …)`, becomes `$3::INTERVAL`.
//! - `{on_conflict}` may be a part of the text ([`NamedSql::with`]).
//!
//! Numbers and types follow from the bound values. The text is filled in once, at a statement's first use.

use std::{fmt::Write, sync::OnceLock};

use sqlx::{Arguments, Encode, Postgres, Type, TypeInfo, error::BoxDynError, postgres::PgArguments};

use super::{error::StoreError, keyed::Statement};

pub(super) struct NamedSql {
    template: &'static str,
    parts: &'static [(&'static str, &'static str)],
    text: OnceLock<String>,
}

impl NamedSql {
    pub const fn new(template: &'static str) -> Self {
        Self::with(template, &[])
    }

    /// A statement in which some names stand for parts of the text.
    pub const fn with(template: &'static str, parts: &'static [(&'static str, &'static str)]) -> Self {
        Self { template, parts, text: OnceLock::new() }
    }

    pub fn bind(&'static self) -> Bound {
        let parameters = if self.text.get().is_none() { Some(Vec::new()) } else { None };
        Bound { sql: self, arguments: PgArguments::default(), refused: None, parameters }
    }

    /// The text with numbered parameters.
    ///
    /// # Panics
    /// If the file and the code name different parameters. Each statement has a unit test for that.
    fn fill(&self, parameters: &[Parameter]) -> String {
        let mut text = one_line(self.template);
        for (name, part) in self.parts {
            text = text.replace(&format!("{{{name}}}"), &one_line(part));
        }
        for Parameter { list, name, .. } in parameters {
            let is_named = text.contains(&format!("{{{list}}}")) || text.contains(&format!("{{{list}.{name}}}"));
            let is_used = text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *name);
            assert!(is_named && is_used, "{list}.{name} is bound, but not used by: {text}");
        }
        for Parameter { list, .. } in parameters.iter().filter(|parameter| parameter.is_column()) {
            text = text.replace(&format!("{{{list}}}"), &unnest(list, parameters));
        }
        for parameter in parameters {
            text = text.replace(&format!("{{{}}}", parameter.in_file()), &parameter.placeholder);
        }
        assert!(!text.contains(['{', '}']), "a name is not bound: {text}");
        text
    }
}

/// A column of a list of rows, or a single value, which is its own list.
struct Parameter {
    list: &'static str,
    name: &'static str,
    placeholder: String,
}

impl Parameter {
    fn is_column(&self) -> bool {
        self.list != self.name
    }

    fn in_file(&self) -> String {
        if self.is_column() { format!("{}.{}", self.list, self.name) } else { self.name.to_owned() }
    }
}

pub(super) struct Bound {
    sql: &'static NamedSql,
    arguments: PgArguments,
    refused: Option<BoxDynError>,
    /// Collected until the text is complete.
    parameters: Option<Vec<Parameter>>,
}

impl Bound {
    pub fn rows<R: Rows>(mut self, list: &'static str, rows: impl IntoIterator<Item = R>) -> Self {
        R::bind(rows.into_iter().collect(), list, &mut self);
        self
    }

    pub fn value<'t, T: Encode<'t, Postgres> + Type<Postgres>>(mut self, name: &'static str, value: T) -> Self {
        self.add(name, name, value);
        self
    }

    pub fn add<'t, T: Encode<'t, Postgres> + Type<Postgres>>(
        &mut self,
        list: &'static str,
        name: &'static str,
        value: T,
    ) {
        if let Err(error) = self.arguments.add(value) {
            self.refused.get_or_insert(error);
        }
        if let Some(parameters) = &mut self.parameters {
            let placeholder = format!("${}::{}", parameters.len() + 1, T::type_info().name());
            parameters.push(Parameter { list, name, placeholder });
        }
    }

    /// # Errors
    /// If a value cannot be encoded, for example an interval in nanoseconds.
    pub fn statement<'q>(self) -> Result<Statement<'q>, StoreError> {
        if let Some(error) = self.refused {
            return Err(sqlx::Error::Encode(error).into());
        }
        let text = self.sql.text.get_or_init(|| self.sql.fill(&self.parameters.unwrap_or_default()));
        Ok(sqlx::query_with(text.as_str(), self.arguments))
    }
}

/// Rows bound as arrays, by [`rows!`].
pub(super) trait Rows: Sized {
    /// In the order of the fields.
    fn bind(rows: Vec<Self>, list: &'static str, to: &mut Bound);
}

/// Declares a row: a struct whose fields are columns.
macro_rules! rows {
    ($(#[$doc:meta])* $visibility:vis struct $name:ident<$life:lifetime> {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)+
    }) => {
        $(#[$doc])*
        $visibility struct $name<$life> {
            $($(#[$field_doc])* pub $field: $type,)+
        }

        impl<$life> $crate::store::named_sql::Rows for $name<$life> {
            fn bind(rows: Vec<Self>, list: &'static str, to: &mut $crate::store::named_sql::Bound) {
                $(let mut $field: Vec<$type> = Vec::with_capacity(rows.len());)+
                for row in rows {
                    $($field.push(row.$field);)+
                }
                $(to.add(list, stringify!($field), $field);)+
            }
        }
    };
}
pub(super) use rows;

fn unnest(list: &str, parameters: &[Parameter]) -> String {
    let columns = || parameters.iter().filter(|parameter| parameter.list == list);
    let placeholders: Vec<&str> = columns().map(|column| column.placeholder.as_str()).collect();
    let names: Vec<&str> = columns().map(|column| column.name).collect();
    format!("unnest({}) AS {list}({})", placeholders.join(", "), names.join(", "))
}

/// Without comments and line breaks: the text is the cache key of prepared statements.
fn one_line(sql: &str) -> String {
    let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default().trim());
    let mut text = String::with_capacity(sql.len());
    for line in lines.filter(|line| !line.is_empty()) {
        let blank = if text.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{blank}{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    rows! {
        struct DoseRow<'q> {
            id: &'q str,
            amount: Option<i64>,
        }
    }

    fn doses() -> [DoseRow<'static>; 2] {
        [DoseRow { id: "a", amount: Some(1) }, DoseRow { id: "b", amount: None }]
    }

    #[test]
    fn names_become_numbers_in_the_order_of_the_values() {
        static SQL: NamedSql = NamedSql::with(
            "SELECT id, amount -- of each\nFROM {doses}\n\nWHERE amount > {least} AND {doses.id} <> '' {locking}",
            &[("locking", "FOR UPDATE")],
        );
        let statement = |least: i32| SQL.bind().rows("doses", doses()).value("least", least).statement();
        for least in [3, 4] {
            drop(statement(least).unwrap());
            assert_eq!(
                SQL.text.get().unwrap(),
                "SELECT id, amount FROM unnest($1::TEXT[], $2::INT8[]) AS doses(id, amount) \
                 WHERE amount > $3::INT4 AND $1::TEXT[] <> '' FOR UPDATE"
            );
        }
    }

    #[test]
    #[should_panic(expected = "a name is not bound")]
    fn a_name_that_is_not_bound_is_refused() {
        static SQL: NamedSql = NamedSql::new("SELECT id, amount FROM {doses} WHERE amount > {least}");
        drop(SQL.bind().rows("doses", doses()).statement().unwrap());
    }

    #[test]
    #[should_panic(expected = "doses.amount is bound, but not used")]
    fn a_column_that_is_not_used_is_refused() {
        static SQL: NamedSql = NamedSql::new("SELECT id FROM {doses}");
        drop(SQL.bind().rows("doses", doses()).statement().unwrap());
    }

    #[test]
    #[should_panic(expected = "least.least is bound, but not used")]
    fn a_value_that_is_not_used_is_refused() {
        static SQL: NamedSql = NamedSql::new("SELECT id, amount FROM {doses}");
        drop(SQL.bind().rows("doses", doses()).value("least", 3).statement().unwrap());
    }
}
