//! A provider's report on an accepted delivery, and its effect on the ledger row.
//!
//! Reports come late, twice and in any order, even before the worker's own record. So they are ranked, and a row keeps
//! the highest: whatever the order, it ends the same. A worker's record ranks below all of them, except that `sent`
//! equals [`Report::Underway`].

/// A provider's report on a message or call. A report takes effect only if it ranks above the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Report {
    /// On its way.
    Underway,
    /// Ended without reaching anybody.
    Failed(Undelivered),
    /// It reached the device, or the call was answered.
    Delivered,
}

/// Why a message or call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Undelivered {
    /// A message, or a call that failed to connect.
    Undelivered,
    /// A cancelled call.
    Canceled,
    /// The line was busy.
    Busy,
    /// Nobody answered the call.
    NoAnswer,
}

impl Undelivered {
    const ALL: [Self; 4] = [Self::Undelivered, Self::Canceled, Self::Busy, Self::NoAnswer];

    /// `deliveries.reason`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Undelivered => "undelivered",
            Self::Canceled => "canceled",
            Self::Busy => "busy",
            Self::NoAnswer => "no_answer",
        }
    }
}

impl Report {
    /// The report equivalent to a ledger row. None if no provider has reported.
    #[must_use]
    pub fn on_record(state: &str, reason: Option<&str>) -> Option<Self> {
        let failed = || Undelivered::ALL.into_iter().find(|how| Some(how.name()) == reason).map(Self::Failed);
        match state {
            "sent" => Some(Self::Underway),
            "delivered" => Some(Self::Delivered),
            // Any other reason is the worker's record, which a report supersedes.
            "failed" => failed(),
            _ => None,
        }
    }

    /// State and reason after this report, if it changes them.
    #[must_use]
    pub fn changes(self, state: &str, reason: Option<&str>) -> Option<(&'static str, Option<&'static str>)> {
        if Some(self) <= Self::on_record(state, reason) {
            return None;
        }
        Some(match self {
            Self::Underway => ("sent", None),
            Self::Failed(how) => ("failed", Some(how.name())),
            Self::Delivered => ("delivered", None),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = (&'static str, Option<&'static str>);

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Told(Report),
        /// The worker's record. `Store::record_deliveries` writes it only while it holds the claim.
        Recorded(Row),
    }

    fn after(row: Row, event: Event) -> Row {
        match event {
            Event::Told(report) => report.changes(row.0, row.1).unwrap_or(row),
            Event::Recorded(recorded) if row.0 == "sending" => recorded,
            Event::Recorded(_) => row,
        }
    }

    const RECORDS: [Row; 8] = [
        ("sent", None),
        ("unknown", Some("no_answer")),
        ("failed", Some("invalid_number")),
        ("pending", None),
        ("held", Some("retry")),
        ("dead", Some("permanent")),
        ("expired", Some("expired")),
        ("sending", None),
    ];

    const REPORTS: [Report; 6] = [
        Report::Underway,
        Report::Failed(Undelivered::Undelivered),
        Report::Failed(Undelivered::Canceled),
        Report::Failed(Undelivered::Busy),
        Report::Failed(Undelivered::NoAnswer),
        Report::Delivered,
    ];

    #[test]
    fn what_is_written_is_read_back() {
        for report in REPORTS {
            let (state, reason) = report.changes("sending", None).unwrap();
            assert_eq!(Report::on_record(state, reason), Some(report));
            assert_eq!(report.changes(state, reason), None, "twice is once");
        }
        for (state, reason) in &RECORDS[1..] {
            assert_eq!(Report::on_record(state, *reason), None, "{state}");
        }
    }

    #[test]
    fn final_states_stay() {
        let delivered = ("delivered", None);
        let failed = ("failed", Some("undelivered"));
        for report in REPORTS {
            assert_eq!(after(delivered, Event::Told(report)), delivered);
        }
        assert_eq!(after(failed, Event::Told(Report::Underway)), failed);
        assert_eq!(after(("unknown", Some("no_answer")), Event::Told(Report::Underway)), ("sent", None));
    }

    proptest! {
        #[test]
        fn any_order_ends_the_same(
            (events, shuffled) in (
                prop::sample::select(&RECORDS[..]),
                prop::collection::vec(prop::sample::select(&REPORTS[..]), 0..8),
            ).prop_flat_map(|(record, reports)| {
                let mut events: Vec<Event> = reports.into_iter().map(Event::Told).collect();
                events.push(Event::Recorded(record));
                (Just(events.clone()), Just(events).prop_shuffle())
            }),
        ) {
            let end = |events: &[Event]| events.iter().fold(("sending", None), |row, event| after(row, *event));
            prop_assert_eq!(end(&events), end(&shuffled));
        }
    }
}
