//! The judge, tested on histories made by hand: it must find each violation and nothing else.

use carebell::channels::web_push::Topic;
use chrono::{DateTime, TimeDelta, Utc};

use super::engine::{
    doubles::Doubles,
    faults::{Fault, Target},
    history::{Asked, Delivery, History, Push, Run, Word},
    jobs::{Expected, Told},
    judge::{Sort, Verdict, judge},
};

/// Notification `n` to Ana, pushed by worker 0 after one second.
fn calm() -> History {
    let told = Told { users: ["ana".to_owned()].into(), push: true, direct: true };
    let mut history = History {
        jobs: vec![Asked { id: "n".into(), expected: Expected::Done(told), ready: at(0), scheduled: false }],
        live: [("ana".to_owned(), vec!["phone".to_owned()])].into(),
        inbox: vec![("n".into(), "ana".into())],
        pushes: vec![push(0, 1000)],
        ..History::default()
    };
    end(&mut history, "n", "done", None);
    history.deliveries.push(Delivery {
        id: "d".into(),
        root: "n".into(),
        user: "ana".into(),
        browser: "phone".into(),
        state: "sent".into(),
        reason: None,
        fence: String::new(),
    });
    history
}

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis)
}

fn push(worker: usize, millis: i64) -> Push {
    Push { browser: "phone".into(), topic: Topic::of("d").to_string(), worker, at: at(millis) }
}

fn end(history: &mut History, id: &str, state: &str, reason: Option<&str>) {
    history.runs.insert(id.into(), Run { state: state.into(), reason: reason.map(Into::into) });
}

fn fault(target: Target, from: i64, until: i64) -> Fault {
    let outage = !matches!(target, Target::Worker(_));
    Fault { target, from: at(from), until: at(until), outage }
}

fn count(verdict: &Verdict) -> [usize; 3] {
    [Sort::Lost, Sort::DoubledRow, Sort::UnexplainedPush].map(|sort| verdict.count(sort))
}

fn late(change: impl FnOnce(&mut History)) -> usize {
    let mut history = calm();
    change(&mut history);
    judge(&history).count(Sort::Late)
}

#[test]
fn whoever_comes_late_must_have_had_no_server() {
    let comes = |after| move |history: &mut History| history.pushes = vec![push(0, after)];
    assert_eq!(late(comes(60_000)), 0);
    assert_eq!(late(comes(61_000)), 1);
    let without = |target, outage| {
        move |history: &mut History| {
            comes(61_000)(history);
            history.faults = vec![Fault { outage, ..fault(target, 5_000, 40_000) }];
        }
    };
    assert_eq!(late(without(Target::Nats, true)), 0, "26 s with servers");
    assert_eq!(late(without(Target::Nats, false)), 1, "two of three nodes were there");
    assert_eq!(late(without(Target::Worker(0), false)), 1);
    // The first of a hundred may, a second may not.
    for (slow, found) in [(0, 0), (1, 0), (2, 1)] {
        let many = |history: &mut History| {
            let calm = history.clone();
            for number in 1..100 {
                let (job, delivery) = (format!("n{number}"), format!("d{number}"));
                history.jobs.push(Asked { id: job.clone(), ..calm.jobs[0].clone() });
                end(history, &job, "done", None);
                history.inbox.push((job.clone(), "ana".into()));
                let topic = Topic::of(&delivery).to_string();
                let late = if number <= slow { 36_000 } else { 2_000 };
                history.pushes.push(Push { topic, at: at(late), ..calm.pushes[0].clone() });
                history.deliveries.push(Delivery { id: delivery, root: job, ..calm.deliveries[0].clone() });
            }
            history.pushes[0].at = at(2_000);
        };
        assert_eq!(late(many), found, "{slow} slow ones");
    }
    let word = |from, until, outcome: &str| Word { at: at(until), began: at(from), outcome: outcome.into() };
    let tried = |words: Vec<Word>| {
        move |history: &mut History| {
            without(Target::Postgres, true)(history);
            history.pushes = vec![push(0, 97_000)];
            history.words = [((0, "d".into()), words)].into();
        }
    };
    assert_eq!(late(tried(vec![])), 1);
    assert_eq!(late(tried(vec![word(50_000, 55_000, "retry")])), 0, "the push service kept it waiting");
    assert_eq!(late(tried(vec![word(50_000, 55_000, "done")])), 1);
    assert_eq!(late(tried(vec![word(30_000, 38_000, "retry")])), 1, "while Postgres was away");
    let again = |history: &mut History| history.pushes.push(push(0, 90_000));
    assert_eq!(late(again), 0, "it had come by then");
}

/// Lost, doubled rows, unexplained pushes.
fn counted(change: impl FnOnce(&mut History)) -> [usize; 3] {
    let mut history = calm();
    change(&mut history);
    count(&judge(&history))
}

#[test]
fn what_went_well_is_found_to_be_well() {
    assert_eq!(counted(|_| {}), [0, 0, 0]);
}

#[test]
fn whatever_is_missing_is_lost() {
    assert_eq!(counted(|history| history.runs.clear())[0], 1, "the run, without which nobody was to be told");
    assert_eq!(counted(|history| end(history, "n", "open", None))[0], 1);
    assert_eq!(counted(|history| end(history, "n", "skipped", Some("gone")))[0], 1);
    assert_eq!(counted(|history| history.inbox.clear()), [1, 0, 0]);
    assert_eq!(counted(|history| history.pushes.clear()), [1, 0, 0]);
    assert_eq!(counted(|history| history.deliveries[0].state = "sending".into()), [1, 0, 0]);
    assert_eq!(counted(|history| history.deliveries[0].state = "failed".into()), [1, 0, 0]);
    let without_delivery = |history: &mut History| {
        history.deliveries.clear();
        history.pushes.clear();
    };
    assert_eq!(counted(without_delivery), [1, 0, 0]);
}

#[test]
fn a_reminder_is_lost_without_its_notification() {
    let indirect = |history: &mut History| {
        if let Expected::Done(told) = &mut history.jobs[0].expected {
            told.direct = false;
        }
    };
    assert_eq!(counted(indirect)[0], 1);
    let whole = |history: &mut History| {
        indirect(history);
        end(history, "n~notification", "done", None);
    };
    assert_eq!(counted(whole), [0, 0, 0]);
}

#[test]
fn what_is_dead_must_have_its_letter() {
    let gave_up = |history: &mut History| {
        end(history, "n", "dead", Some("exhausted"));
        history.inbox.clear();
        history.deliveries.clear();
        history.pushes.clear();
    };
    assert_eq!(counted(gave_up), [1, 0, 0]);
    let mut history = calm();
    gave_up(&mut history);
    history.letters.insert("n".into(), ["exhausted".to_owned()].into());
    let verdict = judge(&history);
    assert_eq!((count(&verdict), verdict.given_up), ([0, 0, 0], 1));
    history.jobs[0].expected = Expected::Letter;
    assert_eq!(count(&judge(&history)), [0, 0, 0]);
    history.letters.clear();
    assert_eq!(count(&judge(&history)), [1, 0, 0]);
}

#[test]
fn a_row_too_many_is_doubled() {
    assert_eq!(counted(|history| history.inbox.push(("n".into(), "ana".into()))), [0, 1, 0]);
    assert_eq!(counted(|history| history.inbox.push(("n".into(), "ben".into()))), [0, 1, 0]);
}

#[test]
fn of_two_jobs_for_one_reminder_one_is_done() {
    let rivals = |state: &'static str, reason: Option<&'static str>, row: bool| {
        move |history: &mut History| {
            let Expected::Done(told) = history.jobs[0].expected.clone() else { unreachable!() };
            history.jobs[0].expected = Expected::Rival(1, told.clone());
            history.jobs.push(Asked {
                id: "m".into(),
                expected: Expected::Rival(1, told),
                ready: at(0),
                scheduled: false,
            });
            end(history, "m", state, reason);
            history.inbox.extend(row.then(|| ("m".into(), "ana".into())));
        }
    };
    assert_eq!(counted(rivals("skipped", Some("already_sent"), false)), [0, 0, 0]);
    assert_eq!(counted(rivals("done", None, true)), [1, 1, 0], "the second must not be done, and its row not be there");
}

#[test]
fn a_second_push_needs_a_reason() {
    let twice = |faults: Vec<Fault>, words: Vec<Word>| {
        let mut history = calm();
        history.pushes.push(push(1, 3000));
        history.faults = faults;
        history.words.insert((0, "d".into()), words);
        let verdict = judge(&history);
        assert_eq!(verdict.doubles.all, 1);
        (verdict.count(Sort::UnexplainedPush), verdict.doubles)
    };
    let done = |millis: i64| Word { at: at(millis), began: at(990), outcome: "done".into() };
    let explained = |doubles: Doubles| doubles.by_worker_kill + doubles.by_nats_outage + doubles.by_postgres_outage;

    let (unexplained, doubles) = twice(vec![], vec![]);
    assert_eq!((unexplained, explained(doubles)), (1, 0));
    let (unexplained, doubles) = twice(vec![fault(Target::Worker(0), 1010, 1020)], vec![]);
    assert_eq!((unexplained, doubles.by_worker_kill), (0, 1), "killed before it could record");
    let (unexplained, _) = twice(vec![fault(Target::Worker(1), 1010, 1020)], vec![]);
    assert_eq!(unexplained, 1, "another worker's death explains nothing");
    let (unexplained, _) = twice(vec![fault(Target::Worker(0), 3500, 3510)], vec![]);
    assert_eq!(unexplained, 1, "it died when all was over");
    let (unexplained, _) = twice(vec![fault(Target::Worker(0), 1010, 1020)], vec![done(1005)]);
    assert_eq!(unexplained, 1, "it had recorded that it had sent it");
    let (unexplained, doubles) = twice(vec![fault(Target::Nats, 1001, 1200)], vec![done(1005)]);
    assert_eq!((unexplained, doubles.by_nats_outage), (0, 1));
    let (unexplained, _) = twice(vec![Fault { outage: false, ..fault(Target::Nats, 1001, 1200) }], vec![done(1005)]);
    assert_eq!(unexplained, 1, "one of three nodes explains nothing");
    let (unexplained, _) = twice(vec![fault(Target::Nats, 2000, 2200)], vec![done(1005)]);
    assert_eq!(unexplained, 1, "it was on record when NATS was killed");
    let (unexplained, doubles) = twice(vec![fault(Target::Postgres, 1001, 1200)], vec![done(1300)]);
    assert_eq!((unexplained, doubles.by_postgres_outage), (0, 1));
}

#[test]
fn a_push_to_a_stranger_has_no_explanation() {
    assert_eq!(counted(|history| history.deliveries[0].user = "ben".into()), [1, 0, 1]);
    assert_eq!(counted(|history| history.pushes[0].browser = "another".into()), [1, 0, 1]);
}
