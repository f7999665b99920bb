use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::{Entries, Journal, KEPT, KeptPages, LARGEST, MOST, Page, Pages, Written, messages, write::Kept};
use crate::{
    kind::{Kind, Lane},
    meta::{Ids, IntakePosition, Meta},
    plan::{Channel, Content, DeadReason, Delivered, InboxRow, Mark, Plan, PlannedDelivery, Receipt, Shortage, Unsent},
    store::{
        Child, Commit, CommitOutcome, Committed, DelayAnswer, DelayAsk, DelayStep, DirectClaims, EarlierCommit,
        FailedRun, LedgerEntry, LedgerRecord, RunState, Verdict,
    },
};

const REMINDER: Kind = Kind::reminder("reminder.medication");
const NOTIFICATION: Kind = Kind::notification("notification");

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_764_000_000_123_456).unwrap()
}

fn meta(kind: Kind, id: &str) -> Meta {
    let queue = kind.queues()[0];
    let ids = Ids { job: id.to_owned(), root: "root".to_owned() };
    let meta = Meta::without_message(queue, "JOBS", ids, now(), now());
    Meta { not_after: None, trace: Some("00-trace".to_owned()), ..meta }
}

fn commit(kind: Kind, id: &str, plan: Plan) -> Commit {
    Commit {
        meta: meta(kind, id),
        state: RunState::Done,
        reason: None,
        plan,
        children: Vec::new(),
        next: None,
        not_after: now() + TimeDelta::hours(1),
        direct: None,
        now: now(),
    }
}

const UNSENT: [Option<Unsent>; 9] = [
    None,
    Some(Unsent::NoChannel),
    Some(Unsent::NoAddress),
    Some(Unsent::NotNamed),
    Some(Unsent::NotOptedIn),
    Some(Unsent::NoSubscription),
    Some(Unsent::OptedOut),
    Some(Unsent::InboxOnly),
    Some(Unsent::UnknownUser),
];

fn notification(recipients: usize) -> Commit {
    let row = |number: usize| PlannedDelivery {
        id: format!("delivery-{number}"),
        user_id: format!("user-{number}"),
        channel: Channel::WebPush,
        address: format!("subscription-{number}"),
        locale: "de".to_owned(),
        lane: Lane::Critical,
        named: true,
        unsent: UNSENT[number % UNSENT.len()],
    };
    let content = Content {
        locale: "de".to_owned(),
        kind: "medication".to_owned(),
        title: "Zeit für \"Metformin\"\n".to_owned(),
        body: "500 mg".to_owned(),
        url: Some("/care/rose".to_owned()),
        data: json!({ "a": [1, null] }).as_object().unwrap().clone(),
        tag: None,
    };
    let inbox = |number: usize| InboxRow {
        id: format!("inbox-{number}"),
        user_id: format!("user-{number}"),
        locale: "de".to_owned(),
    };
    let plan = Plan {
        contents: vec![content],
        inbox: (0..recipients).map(inbox).collect(),
        deliveries: (0..recipients).map(row).collect(),
        push_targets: HashMap::new(),
        ..Plan::default()
    };
    let direct = DirectClaims { worker: "worker".into(), ids: HashSet::from(["delivery-0".to_owned()]) };
    Commit { direct: Some(direct), ..commit(NOTIFICATION, "root~notification", plan) }
}

fn reminder() -> Commit {
    let mark = Mark { record_id: "metformin".to_owned(), instant: now(), lead_minutes: 15 };
    let shortage = Shortage::Over { medication_id: "metformin".to_owned(), told_by: "other".to_owned() };
    let plan =
        Plan { mark: Some(mark), shortage: Some(shortage), result: Some(json!({ "removed": 3 })), ..Plan::default() };
    let child = Child {
        job_id: "child".to_owned(),
        root_id: "root".to_owned(),
        subject: "work.notification.critical".to_owned(),
        body: vec![0, 255],
        not_after: now(),
        trace: None,
        due: None,
        at: Some(now()),
        is_json: true,
    };
    let next = Some(Box::new(notification(2)));
    Commit { children: vec![child], next, ..commit(REMINDER, "root", plan) }
}

/// As written to the stream and read from it.
fn read_back(page: &Page) -> Entries {
    let mut pages = Pages::default();
    for (sequence, (subject, payload)) in (1..).zip(messages(page)) {
        pages.add(sequence, &subject, payload);
    }
    Entries::of(pages.take(), &[REMINDER, NOTIFICATION])
}

fn outcome(committed: Committed, followed: bool) -> CommitOutcome {
    CommitOutcome { committed, followed, claimed: HashSet::new(), earlier: None }
}

/// Of a commit whose first answer was lost.
fn repeated(is_mark_taken: bool, followed: bool) -> CommitOutcome {
    CommitOutcome { earlier: Some(EarlierCommit { is_mark_taken, followed }), ..outcome(Committed::Duplicate, false) }
}

#[test]
fn commits_come_back_as_they_were_written() {
    let mut page = Page::default();
    reminder().keep(&outcome(Committed::Fresh, true), &mut page);
    reminder().keep(&outcome(Committed::Fresh, false), &mut page);
    reminder().keep(&outcome(Committed::MarkTaken, false), &mut page);
    reminder().keep(&outcome(Committed::Duplicate, false), &mut page);
    reminder().keep(&repeated(false, true), &mut page);
    reminder().keep(&repeated(true, false), &mut page);
    let read = read_back(&page).commits;
    let without_next = Commit { next: None, ..reminder() };
    let taken =
        Commit { state: RunState::Skipped, reason: Some("already_sent"), ..commit(REMINDER, "root", Plan::default()) };
    let expected = [reminder(), without_next, taken.clone(), reminder(), taken];
    assert_eq!(format!("{read:#?}"), format!("{expected:#?}"));
}

#[test]
fn outcomes_failures_and_delayed_jobs_come_back_as_they_were_written() {
    let receipt = Receipt {
        state: Delivered::Failed,
        reason: Some("subscription_gone"),
        provider: "push.example.org".to_owned(),
        provider_id: Some("17".to_owned()),
        answer: "410".to_owned(),
        address_gone: true,
        tried: Some("abc".to_owned()),
        overrode_quiet_hours: true,
    };
    let records = [
        LedgerRecord::Receipt(receipt),
        LedgerRecord::Receipt(Receipt::unknown("sms", "no answer")),
        LedgerRecord::Expired("expired"),
        LedgerRecord::Skipped("opted_out"),
        LedgerRecord::Held(now(), "quiet_hours"),
        LedgerRecord::Verdict(Verdict::Attempt { error: "503".to_owned(), until: Some(now()) }),
        LedgerRecord::Verdict(Verdict::Dead { error: "400".to_owned(), reason: DeadReason::Permanent }),
    ];
    let entry = |(number, record): (i64, &LedgerRecord)| LedgerEntry {
        id: format!("delivery-{number}"),
        sequence: number,
        delivered: 2,
        worker: Arc::from("worker"),
        record: record.clone(),
        now: now(),
    };
    let entries: Vec<LedgerEntry> = (0..).zip(&records).map(entry).collect();
    let dead = Verdict::Dead { error: "no".to_owned(), reason: DeadReason::Exhausted };
    let failures = [Verdict::Attempt { error: "away".to_owned(), until: None }, dead].map(|verdict| FailedRun {
        meta: meta(REMINDER, "root"),
        verdict,
        now: now(),
    });
    let position = IntakePosition { created: now(), sequence: 3, stream: "JOBS".to_owned() };
    let delays = [DelayStep::Wait, DelayStep::Run, DelayStep::Cancel].map(|step| DelayAsk {
        step,
        job_id: "later".to_owned(),
        application: String::new(),
        kind: "notification",
        lane: Some("normal"),
        due: Some(now()),
        size: 100,
        position: position.clone(),
        now: now(),
    });
    let mut page = Page::default();
    for entry in &entries {
        entry.keep(&true, &mut page);
    }
    for failed in &failures {
        failed.keep(&true, &mut page);
    }
    for ask in &delays {
        ask.keep(&DelayAnswer::Taken(None), &mut page);
    }
    // Neither written nor a state that lasts.
    entries[0].keep(&false, &mut page);
    failures[0].keep(&false, &mut page);
    delays[0].keep(&DelayAnswer::Replaced, &mut page);
    let released = LedgerRecord::Verdict(Verdict::Released(None));
    LedgerEntry { record: released, ..entries[0].clone() }.keep(&true, &mut page);

    let read = read_back(&page);
    assert_eq!(format!("{:#?}", read.outcomes), format!("{entries:#?}"));
    assert_eq!(format!("{:#?}", read.failures), format!("{failures:#?}"));
    assert_eq!(format!("{:#?}", read.delays), format!("{delays:#?}"));
}

#[test]
fn a_page_of_ten_thousand_recipients_takes_several_messages() {
    let mut page = Page::default();
    notification(10_000).keep(&outcome(Committed::Fresh, false), &mut page);
    assert!(messages(&page).len() > 1);
    assert!(messages(&page).iter().all(|(_, body)| body.len() <= LARGEST));
    let read = read_back(&page).commits;
    assert_eq!(format!("{read:?}"), format!("{:?}", [notification(10_000)]));
}

#[test]
fn what_cannot_be_read_is_passed_over() {
    let mut page = Page::default();
    commit(Kind::reminder("reminder.of_tomorrow"), "newer", Plan::default())
        .keep(&outcome(Committed::Fresh, false), &mut page);
    reminder().keep(&outcome(Committed::Fresh, true), &mut page);
    let mut pages = Pages::default();
    let mut add = |subject: &str, body: &[u8]| pages.add(1, subject, Bytes::copy_from_slice(body));
    add("journal.page", b"no page");
    add("journal.page", br#"{"stream":"JOBS","seq":1}"#);
    add("journal.part.x.0.2", b"half a page");
    add("journal.part.x", b"");
    add("journal.page", &messages(&page)[0].1);
    let read = Entries::of(pages.take(), &[REMINDER, NOTIFICATION]);
    assert_eq!(format!("{:?}", read.commits), format!("{:?}", [reminder()]));
}

#[tokio::test]
async fn an_acknowledgement_waits_for_all_pages_that_were_handed_over_before() {
    let (pages, mut handed_over) = mpsc::unbounded_channel();
    let (server, written) = watch::channel(Written::default());
    let journal = Journal { pages, handed_over: Arc::default(), written };
    journal.is_written().now_or_never().expect("nothing was handed over");
    journal.write(Page::default());
    journal.write(Page::default());
    let mut waiting = std::pin::pin!(journal.is_written());
    assert!(waiting.as_mut().now_or_never().is_none());
    journal.write(Page::default());
    server.send_replace(Written { count: 1, is_behind: false });
    assert!(waiting.as_mut().now_or_never().is_none(), "one of the two is missing");
    server.send_replace(Written { count: 2, is_behind: true });
    waiting.await;
    assert!(journal.is_written().now_or_never().is_none(), "the third is missing");
    server.send_replace(Written { count: 3, is_behind: true });
    journal.is_written().now_or_never().expect("no acknowledgement waits for a journal that cannot be written");
    assert!(journal.is_stored().now_or_never().is_none(), "pages are kept for it");
    server.send_replace(Written { count: 3, is_behind: false });
    journal.is_stored().now_or_never().expect("all are written");
    journal.write(Page::default());
    assert_eq!(handed_over.len(), 4);
    handed_over.recv().await.unwrap();
    drop(server);
    journal.is_written().now_or_never().expect("the worker is stopping");
}

#[test]
fn of_pages_that_wait_the_latest_are_kept() {
    let page = |number: usize| {
        let mut page = Page { worker: format!("{number:04}"), ..Page::default() };
        commit(NOTIFICATION, &"x".repeat(KEPT / 100), Plan::default())
            .keep(&outcome(Committed::Fresh, false), &mut page);
        page
    };
    let mut kept = KeptPages::default();
    (0..200).for_each(|number| kept.push(page(number)));
    let (left, first) = (kept.pages.len(), kept.take());
    assert!(left < 100 && kept.bytes <= KEPT, "{left} pages, {} bytes", kept.bytes);
    assert_eq!((first.commits.len(), first.worker), (MOST, format!("{:04}", 200 - left)));
    kept.take();
    assert_eq!((kept.pages.len(), kept.bytes), (0, 0));
}
