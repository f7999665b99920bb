//! `maintenance.subscriptions`: removes Web Push subscriptions of users who no longer exist.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    plan::Maintenance,
    store::Orphans,
    wire,
};

/// Default limit of one job: a share of all subscriptions, and a minimum.
const ONE_IN: i64 = 20;
const AT_LEAST: i64 = 10;

/// Bounds the ids held in memory.
const MOST: i32 = 1_000_000;

/// A younger subscription's user may not be visible yet.
const OLDER_THAN: TimeDelta = TimeDelta::days(1);

const USEFUL_FOR: TimeDelta = TimeDelta::hours(6);

/// Removes orphaned subscriptions.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanSubscriptions {
    most_removed: Option<i64>,
}

impl Job for CleanSubscriptions {
    const KIND: Kind = Kind::maintenance("maintenance.subscriptions");

    type Wire = wire::CleanSubscriptions;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        match wire.most_removed {
            0 => Ok(Self { most_removed: None }),
            most @ 1..=MOST => Ok(Self { most_removed: Some(most.into()) }),
            _ => Err(Invalid::new("most_removed", format!("must be 1 to {MOST}, or 0 for a share of all"))),
        }
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    /// Refuses likely mistakes. A removed subscription cannot be restored, and its user would miss doses; an extra one
    /// is harmless.
    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let before = cx.clock.now() - OLDER_THAN;
        let Orphans { orphans, subscriptions, has_users } =
            cx.store.count_orphaned_subscriptions(before).await.map_err(Failure::reading)?;
        let most = self.most_removed.unwrap_or((subscriptions / ONE_IN).max(AT_LEAST));
        if orphans > 0 && !has_users {
            return Err(Failure::permanent(
                "nothing is removed: `users` has no row, so that no subscription would be left; check that it is complete",
            ));
        }
        if orphans > most {
            return Err(Failure::permanent(format!(
                "nothing is removed: {orphans} of {subscriptions} subscriptions belong to no row of `users`, and at most \
                 {most} are removed at once; check that `users` is complete, and if so, publish the job with \
                 \"mostRemoved\": {orphans}"
            )));
        }
        let ids = cx.store.orphaned_subscriptions(before, most).await.map_err(Failure::reading)?;
        Ok(Outcome::Maintenance(Maintenance::RemoveSubscriptions { ids }))
    }
}
