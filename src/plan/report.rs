//! Provider reports about a delivery, and their effect on its ledger row.
//!
//! Reports come late, twice and in any order, even before the worker records the answer. So they are ranked, and a row
//! keeps the highest. The worker's own records rank lowest, except `sent`, which equals [`Report::Underway`].

/// A provider's report about a message or call, in rising rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Report {
    /// Accepted, and on its way.
    Underway,
    /// Reached nobody.
    Failed(Undelivered),
    /// Reached the device, or the call was answered.
    Delivered,
}

/// Why a message or call reached nobody.
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
    /// The report that a row's state and reason correspond to; `None` before the first report.
    #[must_use]
    pub fn on_record(state: &str, reason: Option<&str>) -> Option<Self> {
        let failed = || Undelivered::ALL.into_iter().find(|how| Some(how.name()) == reason).map(Self::Failed);
        match state {
            "sent" => Some(Self::Underway),
            "delivered" => Some(Self::Delivered),
            // Other reasons are the worker's own record, which a report overrides.
            "failed" => failed(),
            _ => None,
        }
    }

    /// The new state and reason, if this report changes them.
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

    /// An event of a claimed row.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Told(Report),
        /// The worker's own record, written only while it holds the claim.
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
