//! Pages of a list: a limit, and a cursor that goes on after the last item.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::admin::problem::Problem;

/// Items of a page if no limit is named.
const USUAL: i64 = 50;

/// The most items of a page.
const MOST: i64 = 100;

/// Which page of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Paged {
    /// 1 to 100; 50 if it is not named.
    pub limit: Option<String>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
}

/// The most items, checked.
///
/// # Errors
/// If it is no number from 1 to 100.
pub fn limit(text: Option<&str>) -> Result<i64, Problem> {
    let Some(text) = text else { return Ok(USUAL) };
    let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| Problem::field("limit", format!("expected a number from 1 to {MOST}")))
}

/// The number after which the page begins, counting down.
///
/// # Errors
/// If it is not what a page before gave.
pub fn before(cursor: Option<&str>) -> Result<i64, Problem> {
    let Some(cursor) = cursor else { return Ok(i64::MAX) };
    let number = cursor.strip_prefix('b').and_then(|number| number.parse().ok()).filter(|number| *number > 0);
    number.ok_or_else(|| Problem::field("cursor", "expected the `next` of the page before, as it was given"))
}

/// A number of jobs, for `serde`: such as the document's `int64` holds.
///
/// # Errors
/// If it is none.
pub fn count<'de, D: Deserializer<'de>>(field: D) -> Result<u64, D::Error> {
    let count = i64::deserialize(field)?;
    u64::try_from(count).map_err(|_| D::Error::custom("expected a number from 0 on"))
}

/// A page of items, each with its number.
#[must_use]
pub fn page(mut items: Vec<(i64, Value)>, limit: i64) -> Value {
    let limit = usize::try_from(limit).unwrap_or(0);
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(|(number, _)| format!("b{number}"));
    json!({ "items": items.into_iter().map(|(_, item)| item).collect::<Vec<_>>(), "next": next })
}
