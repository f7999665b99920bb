//! Recording a group must equal recording each outcome alone, although identical outcomes share one plain statement.

use std::cell::Cell;

use carebell::{
    meta::NO_MESSAGE,
    plan::{Delivered, Receipt},
    store::{Commit, DirectClaims, LedgerEntry, LedgerRecord, Store, Verdict},
};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    records::{ask_by, attempt, death, entry_by, planned, receipt, store},
    support::utc_now,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    /// Claimed for a direct send.
    AtOnce,
    /// Claimed for a direct send, then given up.
    GivenUp,
    /// Given up, then claimed by another worker.
    Taken,
    /// Claimed by its message.
    ByMessage,
    Pending,
    /// Sent directly, with an outcome on record.
    Ended(Word),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    Sent { provider: &'static str, answer: &'static str, overrode: bool, named: bool },
    Failed { gone: bool },
    Unknown,
    Attempt,
    AttemptThenParked,
    Dead,
    Released,
    Held,
    Expired,
    Skipped,
}

const USUAL: Word = Word::Sent { provider: "push.example", answer: "201", overrode: false, named: false };

impl Word {
    fn record(self, now: DateTime<Utc>) -> LedgerRecord {
        let of = |state, change: &dyn Fn(&mut Receipt)| {
            let LedgerRecord::Receipt(mut receipt) = receipt(state) else { unreachable!("a receipt") };
            change(&mut receipt);
            LedgerRecord::Receipt(receipt)
        };
        let later = now + TimeDelta::seconds(30);
        match self {
            Self::Sent { provider, answer, overrode, named } => of(Delivered::Sent, &|receipt| {
                receipt.provider = provider.into();
                receipt.answer = answer.into();
                receipt.overrode_quiet_hours = overrode;
                receipt.reason = overrode.then_some("quiet_hours_overridden");
                receipt.provider_id = named.then(|| "theirs".into());
            }),
            Self::Failed { gone } => of(Delivered::Failed, &|receipt| {
                receipt.answer = "410".into();
                receipt.reason = Some("gone");
                receipt.address_gone = gone;
            }),
            Self::Unknown => of(Delivered::Unknown, &|receipt| receipt.reason = Some("no_answer")),
            Self::Attempt => LedgerRecord::Verdict(attempt()),
            Self::AttemptThenParked => {
                LedgerRecord::Verdict(Verdict::Attempt { error: "no luck".into(), until: Some(later) })
            }
            Self::Dead => LedgerRecord::Verdict(death()),
            Self::Released => LedgerRecord::Verdict(Verdict::Released(None)),
            Self::Held => LedgerRecord::Held(later, "retry_later"),
            Self::Expired => LedgerRecord::Expired("expired"),
            Self::Skipped => LedgerRecord::Skipped("gone"),
        }
    }
}

fn word() -> impl Strategy<Value = Word> {
    let sent = (
        prop_oneof![Just("push.example"), Just("other.example")],
        prop_oneof![3 => Just("201"), 1 => Just("202")],
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
    );
    prop_oneof![
        8 => Just(USUAL),
        8 => sent.prop_map(|(provider, answer, overrode, named)| Word::Sent { provider, answer, overrode, named }),
        1 => any::<bool>().prop_map(|gone| Word::Failed { gone }),
        1 => Just(Word::Unknown),
        1 => Just(Word::Attempt),
        1 => Just(Word::AttemptThenParked),
        1 => Just(Word::Dead),
        1 => Just(Word::Released),
        1 => Just(Word::Held),
        1 => Just(Word::Expired),
        1 => Just(Word::Skipped),
    ]
}

/// A delivery and its report: worker, outcome, delay in seconds, repetitions.
#[derive(Clone, Copy, Debug)]
struct Told {
    before: Before,
    worker: &'static str,
    word: Word,
    after: i64,
    times: usize,
}

fn told() -> impl Strategy<Value = Told> {
    let before = prop_oneof![
        10 => Just(Before::AtOnce),
        1 => Just(Before::GivenUp),
        1 => Just(Before::Taken),
        1 => Just(Before::ByMessage),
        1 => Just(Before::Pending),
        2 => word().prop_map(Before::Ended),
    ];
    let worker = prop_oneof![9 => Just("one"), 1 => Just("two")];
    let after = prop_oneof![4 => Just(0_i64), 1 => Just(7)];
    let times = prop_oneof![4 => Just(1_usize), 1 => Just(2)];
    (before, worker, word(), after, times).prop_map(|(before, worker, word, after, times)| Told {
        before,
        worker,
        word,
        after,
        times,
    })
}

/// The cases that the rules name; random groups complement it.
fn mixed() -> Vec<Told> {
    let told = |before, word| Told { before, worker: "one", word, after: 0, times: 1 };
    let other = Word::Sent { provider: "other.example", answer: "201", overrode: false, named: false };
    let mut group: Vec<Told> = [USUAL, other].into_iter().flat_map(|word| [told(Before::AtOnce, word); 5]).collect();
    group.extend([
        told(Before::AtOnce, Word::Failed { gone: true }),
        told(Before::AtOnce, Word::Attempt),
        told(Before::Taken, USUAL),
        told(Before::Taken, Word::Attempt),
        told(Before::Ended(USUAL), other),
        told(Before::Ended(Word::Failed { gone: false }), USUAL),
        told(Before::Ended(Word::Dead), USUAL),
        Told { times: 2, ..told(Before::AtOnce, USUAL) },
        Told { times: 2, ..told(Before::AtOnce, Word::AttemptThenParked) },
    ]);
    group
}

/// Ids begin with `set`.
async fn make(store: &Store, set: &str, group: &[Told], now: DateTime<Utc>) -> Vec<String> {
    let ids: Vec<String> = (0..group.len()).map(|number| format!("{set}-{number:02}")).collect();
    let plan = |(id, told): (&String, &Told)| -> Commit {
        let mut commit = planned(id);
        commit.plan.deliveries[0].address.clone_from(id);
        (commit.now, commit.not_after) = (now, now + TimeDelta::hours(1));
        if !matches!(told.before, Before::Pending | Before::ByMessage) {
            commit.direct = Some(DirectClaims { worker: "one".into(), ids: [id.clone()].into() });
        }
        commit
    };
    let commits: Vec<Commit> = ids.iter().zip(group).map(plan).collect();
    store.commit(&commits).await.unwrap();
    sqlx::query(
        "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth) \
         SELECT id, 'ana', 'https://push.example/' || id, '', '' FROM unnest($1::text[]) AS s(id)",
    )
    .bind(&ids)
    .execute(store.pool())
    .await
    .unwrap();
    for (id, told) in ids.iter().zip(group) {
        match told.before {
            Before::AtOnce | Before::Pending => {}
            Before::GivenUp => store.release_direct(&format!("job-{id}"), "one").await.unwrap(),
            Before::Taken => {
                let later = now + TimeDelta::seconds(61);
                store.claim_deliveries(&[ask_by("two", id, 7, 1, later)]).await.unwrap();
            }
            Before::ByMessage => {
                store.claim_deliveries(&[ask_by("one", id, 7, 1, now)]).await.unwrap();
            }
            Before::Ended(word) => {
                let entry = entry_by("one", id, NO_MESSAGE, 1, word.record(now), now);
                assert_eq!(store.record_deliveries(&[entry]).await.unwrap(), [true]);
            }
        }
    }
    ids
}

fn entries(ids: &[String], group: &[Told], now: DateTime<Utc>) -> Vec<LedgerEntry> {
    let entry = |(id, told): (&String, &Told)| {
        let now = now + TimeDelta::seconds(told.after);
        let sequence = if told.before == Before::ByMessage { 7 } else { NO_MESSAGE };
        vec![entry_by(told.worker, id, sequence, 1, told.word.record(now), now); told.times]
    };
    ids.iter().zip(group).flat_map(entry).collect()
}

/// Everything on record, apart from ids and addresses.
async fn rows(store: &Store, ids: &[String]) -> Vec<serde_json::Value> {
    let rows = "SELECT to_jsonb(d) - '{id,job_id,run_id,address}'::text[] || jsonb_build_object( \
                    'failures', (SELECT jsonb_agg(jsonb_build_array(a.at, a.answer) ORDER BY a.at) \
                                 FROM delivery_attempts a WHERE a.delivery_id = d.id), \
                    'subscribed', EXISTS (SELECT FROM push_subscriptions s WHERE s.id = d.address)) \
                FROM deliveries d WHERE id = ANY($1) ORDER BY id";
    sqlx::query_scalar(rows).bind(ids).fetch_all(store.pool()).await.unwrap()
}

async fn is_as_if_told_alone(store: &Store, number: u32, group: &[Told]) -> Result<(), TestCaseError> {
    let now = utc_now();
    let [together, alone] = ["together", "alone"].map(|set| format!("{set}-{number}"));
    let (together, alone) = (make(store, &together, group, now).await, make(store, &alone, group, now).await);
    let answers = store.record_deliveries(&entries(&together, group, now)).await.unwrap();
    let mut expected = Vec::new();
    for told in entries(&alone, group, now).chunk_by(|one, next| one.id == next.id) {
        let alone = store.record_deliveries(&told[..1]).await.unwrap()[0];
        for again in &told[1..] {
            store.record_deliveries(std::slice::from_ref(again)).await.unwrap();
        }
        // Repeats within one group share one answer.
        expected.extend(told.iter().map(|_| alone));
    }
    prop_assert_eq!(answers, expected);
    let (found, expected) = (rows(store, &together).await, rows(store, &alone).await);
    prop_assert_eq!(found.len(), group.len());
    for ((found, expected), told) in found.into_iter().zip(expected).zip(group) {
        prop_assert_eq!(found, expected, "{:?}", told);
    }
    // Recording again, as after a lost answer, changes nothing.
    let before = rows(store, &together).await;
    store.record_deliveries(&entries(&together, group, now)).await.unwrap();
    prop_assert_eq!(rows(store, &together).await, before);
    Ok(())
}

async fn with_ana() -> Store {
    let store = store().await;
    sqlx::query("INSERT INTO users (id, name) VALUES ('ana', 'Ana')").execute(store.pool()).await.unwrap();
    store
}

#[tokio::test]
async fn a_mixed_group_is_recorded_as_if_each_were_told_alone() {
    let store = with_ana().await;
    is_as_if_told_alone(&store, 0, &mixed()).await.unwrap();
    // Also checks the baseline against known counts.
    let states = "SELECT state, count(*) FROM deliveries WHERE id LIKE 'together-%' GROUP BY 1 ORDER BY 1";
    let states: Vec<(String, i64)> = sqlx::query_as(states).fetch_all(store.pool()).await.unwrap();
    let expected = [("failed", 2), ("held", 1), ("pending", 1), ("sending", 1), ("sent", 14)];
    assert_eq!(states, expected.map(|(state, count)| (state.to_owned(), count)));
}

#[test]
fn whatever_is_told_together_is_recorded_as_if_told_alone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(with_ana());
    let number = Cell::new(0);
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() };
    // With a fixed seed, every run tests the same groups.
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let outcome = runner.run(&prop::collection::vec(told(), 1..16), |group| {
        number.set(number.get() + 1);
        runtime.block_on(is_as_if_told_alone(&store, number.get(), &group))
    });
    outcome.unwrap();
}
