//! Ledger and runs as state machines: Postgres agrees with a model in plain Rust, whatever workers report.

use std::cell::Cell;

use carebell::{
    plan::{DeadReason, Delivered, Plan},
    store::{Claimed, Committed, LedgerRecord, RunAsk, RunState, Store, Verdict},
};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    records::{
        LEASE, PATIENCE, ask, ask_by, attempt, commit, death, entry_by, failed, meta, planned, put, receipt, store,
    },
    support::utc_now,
};

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig { cases: 80, failure_persistence: None, ..Default::default() })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    Sent,
    Failed,
    Expired,
    HeldFor(i64),
    Attempt,
    AttemptThenParkedFor(i64),
    Dead,
    Released,
}

impl Word {
    fn record(self, now: DateTime<Utc>) -> LedgerRecord {
        let later = |seconds| now + TimeDelta::seconds(seconds);
        match self {
            Self::Sent => receipt(Delivered::Sent),
            Self::Failed => receipt(Delivered::Failed),
            Self::Expired => LedgerRecord::Expired("expired"),
            Self::HeldFor(seconds) => LedgerRecord::Held(later(seconds), "retry_later"),
            Self::Attempt => LedgerRecord::Verdict(attempt()),
            Self::AttemptThenParkedFor(seconds) => {
                LedgerRecord::Verdict(Verdict::Attempt { error: "no luck".into(), until: Some(later(seconds)) })
            }
            Self::Dead => LedgerRecord::Verdict(death()),
            Self::Released => LedgerRecord::Verdict(Verdict::Released(None)),
        }
    }
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        Just(Word::Sent),
        Just(Word::Failed),
        Just(Word::Expired),
        (0..100_i64).prop_map(Word::HeldFor),
        Just(Word::Attempt),
        Just(Word::Attempt),
        (0..100_i64).prop_map(Word::AttemptThenParkedFor),
        Just(Word::Dead),
        Just(Word::Released),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Claim { worker: &'static str, sequence: i64, delivered: i64 },
    Record { worker: &'static str, sequence: i64, delivered: i64, word: Word },
    GiveUp,
    Crashed { sequence: i64, delivered: i64 },
}

fn event() -> impl Strategy<Value = (i64, Event)> {
    let message = || (1..4_i64, 1..9_i64);
    let worker = || prop_oneof![Just("one"), Just("two")];
    let event = prop_oneof![
        5 => (worker(), message())
            .prop_map(|(worker, (sequence, delivered))| Event::Claim { worker, sequence, delivered }),
        8 => (worker(), message(), word())
            .prop_map(|(worker, (sequence, delivered), word)| Event::Record { worker, sequence, delivered, word }),
        1 => Just(Event::GiveUp),
        1 => message().prop_map(|(sequence, delivered)| Event::Crashed { sequence, delivered }),
    ];
    (0..50_i64, event)
}

#[derive(Clone, Debug)]
struct Row {
    state: &'static str,
    attempts: i32,
    claims: i32,
    /// Sequence, delivery count and worker.
    fence: Option<(i64, i64, &'static str)>,
    claimed_at: DateTime<Utc>,
    /// Delivery count at the last report.
    recorded: i64,
    held_until: Option<DateTime<Utc>>,
}

impl Row {
    fn ended(&self) -> bool {
        !["pending", "held", "sending"].contains(&self.state)
    }

    fn claim(&mut self, worker: &'static str, sequence: i64, delivered: i64, now: DateTime<Utc>) -> bool {
        let own = self.fence.filter(|fence| fence.0 == sequence);
        let old = self.claimed_at < now - PATIENCE;
        let recorded = if own.is_some() { self.recorded } else { 0 };
        let free = match (self.state, own) {
            ("pending", _) => true,
            ("held", _) => self.held_until.is_none_or(|until| until <= now),
            // A claim is given up if it is the asker's own, has a report on record, or is too old.
            ("sending", Some((_, holder, by))) => {
                holder <= delivered && ((holder, by) == (delivered, worker) || self.recorded >= holder || old)
            }
            ("sending", None) => self.claimed_at < now - LEASE,
            _ => false,
        };
        let taken = free && delivered - recorded <= 5;
        if taken {
            self.state = "sending";
            self.claims += 1;
            self.fence = Some((sequence, delivered, worker));
            // A server that lost its counts in a crash counts anew: what is on record is of an earlier delivery.
            (self.claimed_at, self.recorded, self.held_until) = (now, recorded.min(delivered - 1), None);
        }
        taken
    }

    /// Whether the report is on record.
    fn record(
        &mut self,
        worker: &'static str,
        (sequence, delivered): (i64, i64),
        word: Word,
        now: DateTime<Utc>,
    ) -> bool {
        let holds = self.fence == Some((sequence, delivered, worker));
        let repeated = holds && self.recorded == delivered;
        let counts = match word {
            // A send counts whoever reports it, even after death or expiry.
            Word::Sent => ["pending", "held", "sending", "dead", "expired"].contains(&self.state),
            _ => self.state == "sending" && holds,
        };
        if counts {
            let later = |seconds| Some(now + TimeDelta::seconds(seconds));
            self.attempts += i32::from(matches!(word, Word::Attempt | Word::AttemptThenParkedFor(_) | Word::Dead));
            self.recorded = delivered;
            (self.state, self.held_until) = match word {
                Word::Sent => ("sent", None),
                Word::Failed => ("failed", None),
                Word::Expired => ("expired", None),
                Word::HeldFor(seconds) | Word::AttemptThenParkedFor(seconds) => ("held", later(seconds)),
                Word::Attempt => ("pending", None),
                Word::Dead => ("dead", None),
                Word::Released => ("sending", None),
            };
        }
        counts || repeated
    }
}

#[test]
fn the_ledger_is_as_its_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(store());
    let number = Cell::new(0);
    let outcome = runner().run(&prop::collection::vec(event(), 1..30), |events| {
        number.set(number.get() + 1);
        runtime.block_on(ledger_follows(&store, &format!("d-{}", number.get()), &events))
    });
    outcome.unwrap();
}

async fn ledger_follows(store: &Store, id: &str, events: &[(i64, Event)]) -> Result<(), TestCaseError> {
    store.commit(&[planned(id)]).await.unwrap();
    let mut now = utc_now();
    let mut row =
        Row { state: "pending", attempts: 0, claims: 0, fence: None, claimed_at: now, recorded: 0, held_until: None };
    for (seconds, event) in events {
        now += TimeDelta::seconds(*seconds);
        let before = row.clone();
        match *event {
            Event::Claim { worker, sequence, delivered } => {
                let claimed =
                    store.claim_deliveries(&[ask_by(worker, id, sequence, delivered, now)]).await.unwrap().remove(0);
                let taken = row.claim(worker, sequence, delivered, now);
                prop_assert_eq!(matches!(claimed, Claimed::Taken(_)), taken, "{:?} of {:?}", event, before);
                if let Claimed::Busy(until) = claimed {
                    prop_assert!(!row.ended() && (row.state != "held" || Some(until) == row.held_until));
                }
            }
            Event::Record { worker, sequence, delivered, word } => {
                let entry = entry_by(worker, id, sequence, delivered, word.record(now), now);
                let written = store.record_deliveries(&[entry]).await.unwrap().remove(0);
                let known = row.record(worker, (sequence, delivered), word, now);
                prop_assert_eq!(written, known, "{:?} of {:?}", event, before);
            }
            Event::GiveUp => {
                store.give_up(id, DeadReason::Exhausted, "too often", now).await.unwrap();
                if !row.ended() {
                    row.state = "dead";
                }
            }
            Event::Crashed { sequence, delivered } => {
                store.record_crashed_delivery(&ask(id, sequence, delivered, now), "ends workers").await.unwrap();
                if !row.ended() {
                    row.state = "dead";
                    (row.fence, row.recorded) = (Some((sequence, delivered, "one")), delivered);
                }
            }
        }
        let found = store.ledger_of(&format!("job-{id}")).await.unwrap().remove(0);
        let seen = (found.state.as_str(), found.attempts, found.claims);
        prop_assert_eq!(seen, (row.state, row.attempts, row.claims), "after {:?} of {:?}", event, before);
        let only_found_sent = ["dead", "expired"].contains(&before.state) && row.state == "sent";
        prop_assert!(!before.ended() || before.state == row.state || only_found_sent);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Commit { sequence: i64, state: RunState },
    Fail { sequence: i64, delivered: i64 },
    Release { sequence: i64, delivered: i64 },
    Die { sequence: i64, delivered: i64 },
    GiveUp,
}

fn step() -> impl Strategy<Value = Step> {
    let message = || (1..4_i64, 1..5_i64);
    let state = prop_oneof![Just(RunState::Done), Just(RunState::Skipped), Just(RunState::Expired)];
    prop_oneof![
        1 => (1..4_i64, state).prop_map(|(sequence, state)| Step::Commit { sequence, state }),
        5 => message().prop_map(|(sequence, delivered)| Step::Fail { sequence, delivered }),
        2 => message().prop_map(|(sequence, delivered)| Step::Release { sequence, delivered }),
        2 => message().prop_map(|(sequence, delivered)| Step::Die { sequence, delivered }),
        1 => Just(Step::GiveUp),
    ]
}

#[derive(Clone, Debug)]
struct Run {
    state: &'static str,
    attempts: i32,
    sequence: i64,
    recorded: i64,
}

/// Returns whether the report is on record.
fn said(run: &mut Option<Run>, sequence: i64, delivered: i64, burnt: i32, state: &'static str) -> bool {
    let fresh = Run { state, attempts: burnt, sequence, recorded: delivered };
    let Some(known) = run else {
        *run = Some(fresh);
        return true;
    };
    let same = known.sequence == sequence;
    match known.state {
        "open" => {
            let counted = same && known.recorded >= delivered;
            *known = Run { attempts: known.attempts + if counted { 0 } else { burnt }, ..fresh };
            true
        }
        // It died under another message, so it starts anew.
        "dead" if !same => {
            *known = fresh;
            true
        }
        state => state == "dead",
    }
}

#[test]
fn runs_are_as_their_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(store());
    let number = Cell::new(0);
    let outcome = runner().run(&prop::collection::vec(step(), 1..20), |steps| {
        number.set(number.get() + 1);
        runtime.block_on(runs_follow(&store, &format!("r-{}", number.get()), &steps))
    });
    outcome.unwrap();
}

async fn runs_follow(store: &Store, id: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut run: Option<Run> = None;
    for step in steps {
        let before = run.clone();
        let written = match *step {
            Step::Commit { sequence, state } => {
                let mut wanted = commit(meta(id, sequence, 1), Plan::default());
                wanted.state = state;
                let committed = put(store, &[wanted]).await.unwrap().remove(0);
                let fresh = match &mut run {
                    Some(known) if known.state != "open" && (known.state != "dead" || known.sequence == sequence) => {
                        false
                    }
                    Some(known) => {
                        (known.state, known.sequence) = (state.name(), sequence);
                        true
                    }
                    None => {
                        run = Some(Run { state: state.name(), attempts: 0, sequence, recorded: 0 });
                        true
                    }
                };
                (committed == Committed::Fresh) == fresh
            }
            Step::Fail { sequence, delivered } => {
                let one = failed(meta(id, sequence, delivered), attempt());
                store.record_run_failures(&[one]).await.unwrap() == [said(&mut run, sequence, delivered, 1, "open")]
            }
            Step::Release { sequence, delivered } => {
                let one = failed(meta(id, sequence, delivered), Verdict::Released(None));
                store.record_run_failures(&[one]).await.unwrap() == [said(&mut run, sequence, delivered, 0, "open")]
            }
            Step::Die { sequence, delivered } => {
                let one = failed(meta(id, sequence, delivered), death());
                store.record_run_failures(&[one]).await.unwrap() == [said(&mut run, sequence, delivered, 1, "dead")]
            }
            Step::GiveUp => {
                let given_up = store.give_up(id, DeadReason::Exhausted, "too often", utc_now()).await.unwrap();
                if let Some(run) = run.as_mut().filter(|run| run.state == "open") {
                    run.state = "dead";
                }
                given_up == run.as_ref().is_none_or(|run| run.state == "dead")
            }
        };
        prop_assert!(written, "the answer to {:?} of {:?}", step, before);
        let found = store.look_up_runs(&[RunAsk { job_id: id.into() }]).await.unwrap().remove(0);
        let found = found.as_ref().map(|run| (run.state.as_str(), run.attempts, run.sequence));
        let wanted = run.as_ref().map(|run| (run.state, run.attempts, run.sequence));
        prop_assert_eq!(found, wanted, "after {:?} of {:?}", step, before);
        if let (Some(before), Some(after)) = (before, run.as_ref())
            && ["done", "skipped", "expired"].contains(&before.state)
        {
            prop_assert_eq!(before.state, after.state, "the first commit is final");
        }
    }
    Ok(())
}
