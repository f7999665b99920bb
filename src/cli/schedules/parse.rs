use chrono::{DateTime, Utc};

use super::super::failed::Failed;
use crate::{
    drafts,
    schedule::{Fold, Gap, Zone},
};

/// An instant, or a date as its midnight in the zone.
pub(super) fn parse_from(option: &str, text: &str, zone: Zone) -> Result<DateTime<Utc>, Failed> {
    drafts::instant(text, zone).map_err(|why| Failed(format!("{option} {why}")))
}

pub(super) fn parse_gap(text: &str) -> Result<Gap, String> {
    Gap::parse(text).ok_or_else(|| "expected shift or skip".into())
}

pub(super) fn parse_fold(text: &str) -> Result<Fold, String> {
    Fold::parse(text).ok_or_else(|| "expected first, second or both".into())
}
