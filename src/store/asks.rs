use std::collections::HashSet;

use sqlx::{Row, postgres::PgRow};

use super::error::StoreError;

/// The answer for a row, by its column `position`, which Postgres counts from 1.
pub(super) fn at_position<'a, T>(answers: &'a mut [T], row: &PgRow) -> Result<&'a mut T, StoreError> {
    let position: i64 = row.try_get("position")?;
    let index = usize::try_from(position - 1).ok().and_then(|index| answers.get_mut(index));
    index.ok_or_else(|| StoreError::Fault(format!("position {position} was not asked for")))
}

/// Index of the first item of each key: one statement cannot touch a row twice.
pub(super) fn first_of_each<T>(items: &[T], key: impl Fn(&T) -> &String) -> Vec<usize> {
    let mut seen = HashSet::with_capacity(items.len());
    (0..items.len()).filter(|index| seen.insert(key(&items[*index]))).collect()
}
