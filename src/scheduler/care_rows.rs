//! Tells of rows of the care tables that are not read as they are written, once an hour.

use std::time::Duration;

use tokio::time::sleep;

use super::Scheduler;
use crate::store::OddRows;

const EVERY: Duration = Duration::from_hours(1);

/// After a failure.
const AGAIN: Duration = Duration::from_mins(15);

impl Scheduler {
    pub(super) async fn watch_care_rows(&self) {
        loop {
            self.health.database_up().await;
            let rest = match self.store.odd_rows().await {
                Ok(odd) => {
                    self.tell_of(odd);
                    EVERY
                }
                Err(why) => {
                    tracing::warn!(
                        "the rows of the care tables cannot be checked, again in a quarter of an hour: {why}"
                    );
                    AGAIN
                }
            };
            sleep(self.clock.paced(rest)).await;
        }
    }

    fn tell_of(&self, odd: Vec<OddRows>) {
        if let Some(first) = odd.first() {
            let rows: i64 = odd.iter().map(|odd| odd.count).sum();
            tracing::warn!(rows, "rows of the care tables are not read as they are written: {}", first.first);
        }
        self.health.set_odd_rows(odd);
    }
}
