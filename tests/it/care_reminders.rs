//! Reminders that follow from the care tables: which they are, that each is published once, and what stops them.

use std::{collections::BTreeSet, time::Duration};

use carebell::{
    clock::Clock,
    health::Health,
    jobs,
    scheduler::{Pass, Scheduler, care::care_job_id},
    store::{CareKind, CareReminder, Planned, Store},
};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::support::{LIMIT, Process, Worker, World, sorted, utc_now};

/// A world, a scheduler in it, and the clock that the scheduler reads.
struct Town {
    world: World,
    clock: Clock,
    scheduler: Scheduler,
}

/// A scheduler with a pool of its own, as a process has.
pub fn scheduler(world: &World, clock: &Clock) -> Scheduler {
    Scheduler {
        store: Store::new(&world.database_url, 3).unwrap(),
        producer: world.context.clone(),
        clock: clock.clone(),
        health: Health::new(),
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

impl Town {
    /// At this instant, at which everything has been looked at once.
    async fn at(now: &str) -> Self {
        let town = Self::unseen(now).await;
        town.scheduler.plan_care().await.unwrap();
        town
    }

    /// At this instant, at which nobody has looked at anything yet.
    async fn unseen(now: &str) -> Self {
        let (world, clock) = (World::new().await, Clock::manual(at(now)));
        let scheduler = scheduler(&world, &clock);
        Self { world, clock, scheduler }
    }

    async fn sql(&self, statement: &str) {
        self.world.sql(statement).await;
    }

    /// Another care recipient of the family, in this zone, with a medication of the same name.
    async fn recipient(&self, name: &str, zone: &str) {
        self.sql(&format!("INSERT INTO care_recipients VALUES ('{name}', 'browns', '{name}', '{zone}')")).await;
        self.sql(&format!("INSERT INTO medications VALUES ('{name}', '{name}', 'X', '1 mg')")).await;
    }

    /// Doses of a medication: times, and the values of weekdays, start, end, leads and status.
    async fn doses(&self, medication: &str, times: &str, more: &str) {
        let more = if more.is_empty() { "'{}', '2000-01-01', NULL, '{0}', 'ACTIVE'" } else { more };
        let id = self.world.count("SELECT count(*) FROM medication_schedules").await;
        self.sql(&format!("INSERT INTO medication_schedules VALUES ('{id}', '{medication}', '{{{times}}}', {more})"))
            .await;
    }

    async fn appointment(&self, id: &str, starts: &str, leads: &str) {
        self.sql(&format!(
            "INSERT INTO appointments (id, care_recipient_id, title, starts_at, reminder_minutes) \
             VALUES ('{id}', 'rose', 'Dentist', '{starts}', '{{{leads}}}')"
        ))
        .await;
    }

    async fn plan(&self) -> (i64, i64) {
        let Planned { added, removed } = self.scheduler.plan_care().await.unwrap().unwrap();
        (added, removed)
    }

    /// What a scheduler does at an instant: looks, and publishes. Answers what is new, without `care:reminder.`.
    async fn arrive(&self, now: &str) -> Vec<String> {
        self.clock.advance(at(now) - self.clock.now());
        self.plan().await;
        self.publish().await
    }

    /// Publishes what is due at this instant, without a look.
    async fn publish(&self) -> Vec<String> {
        let before = published(&self.world).await.len();
        while self.scheduler.care_pass(1000).await.unwrap().moved > 0 {}
        let ids = published(&self.world).await.split_off(before);
        sorted(ids.into_iter().map(|id| id.replace("care:reminder.", "").replace("care:", "")).collect())
    }

    /// Goes on in steps, and answers all that was published on the way.
    async fn walk(&self, until: &str, step: TimeDelta) -> Vec<String> {
        let mut ids = Vec::new();
        while self.clock.now() < at(until) {
            let next = (self.clock.now() + step).min(at(until));
            ids.extend(self.arrive(&next.to_rfc3339()).await);
        }
        ids
    }
}

/// The ids of the jobs in the stream, in their order.
async fn published(world: &World) -> Vec<String> {
    let mut stream = world.context.get_stream("JOBS").await.unwrap();
    let state = stream.info().await.unwrap().state.clone();
    let mut ids = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        if let Ok(message) = stream.get_raw_message(sequence).await {
            ids.push(message.headers.get("Carebell-Job-Id").unwrap().to_string());
        }
    }
    ids
}

const NOTHING: [&str; 0] = [];

#[test]
fn its_kinds_are_registered() {
    let registry = jobs::registry();
    for kind in CareKind::ALL {
        assert!(registry.kinds().iter().any(|known| known.name == kind.name()), "{kind:?}");
    }
}

#[tokio::test]
async fn doses_by_times_weekdays_dates_and_leads() {
    let town = Town::at("2026-03-01T00:00:00Z").await;
    town.sql("UPDATE care_recipients SET timezone = 'America/New_York'").await;
    // Sundays and Wednesdays, from Wednesday the 4th to Wednesday the 11th; the clock is set forward on Sunday the 8th.
    town.doses("metformin", "09:00,21:30:15.5", "'{3,7}', '2026-03-04', '2026-03-11', '{0,45}', 'ACTIVE'").await;
    let ids = town.walk("2026-03-16T00:00:00Z", TimeDelta::minutes(29)).await;
    let doses = [
        "2026-03-04T14:00:00Z",
        "2026-03-05T02:30:15.500Z",
        "2026-03-08T13:00:00Z",
        "2026-03-09T01:30:15.500Z",
        "2026-03-11T13:00:00Z",
        "2026-03-12T01:30:15.500Z",
    ];
    let expected: Vec<_> =
        doses.iter().flat_map(|dose| [45, 0].map(|lead| format!("medication:metformin:{dose}:{lead}"))).collect();
    assert_eq!(ids, expected);
    // What is long published is forgotten.
    assert_eq!(town.world.count("SELECT count(*) FROM care_reminders").await, 0);
    let body = town.world.context.get_stream("JOBS").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(body.subject.as_str(), "jobs.reminder.medication");
}

#[tokio::test]
async fn the_nights_on_which_clocks_change() {
    for (zone, before, times, after, expected) in [
        // Lost, lost, and the hour after: one instant is one dose, whatever the times are that it stands for.
        (
            "America/New_York",
            "2026-03-08T00:00:00Z",
            "01:59,02:00,02:30,03:00,03:30",
            "2026-03-08T12:00:00Z",
            &["2026-03-08T06:59:00Z", "2026-03-08T07:00:00Z", "2026-03-08T07:30:00Z"][..],
        ),
        (
            "America/New_York",
            "2026-11-01T00:00:00Z",
            "00:59,01:00,01:30,02:00",
            "2026-11-01T12:00:00Z",
            &["2026-11-01T04:59:00Z", "2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z", "2026-11-01T07:00:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "2026-10-03T12:00:00Z",
            "02:15,02:45",
            "2026-10-04T00:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-03T15:45:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "2026-04-04T12:00:00Z",
            "01:45,02:15",
            "2026-04-05T00:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-04T15:45:00Z"],
        ),
        (
            "Pacific/Apia",
            "2011-12-29T20:00:00Z",
            "08:00",
            "2011-12-31T00:00:00Z",
            &["2011-12-30T10:00:00Z", "2011-12-30T18:00:00Z"],
        ),
        ("Vienna, I think", "2026-03-29T00:00:00Z", "02:30", "2026-03-29T04:00:00Z", &["2026-03-29T02:30:00Z"]),
        (" Europe/Vienna ", "2026-03-29T00:00:00Z", "02:30", "2026-03-29T04:00:00Z", &["2026-03-29T01:00:00Z"]),
    ] {
        let town = Town::at(before).await;
        town.recipient("sam", zone).await;
        town.doses("sam", times, "").await;
        let expected: Vec<_> = expected.iter().map(|dose| format!("medication:sam:{dose}:0")).collect();
        assert_eq!(town.walk(after, TimeDelta::minutes(13)).await, expected, "{times} in {zone}, minute by minute");
    }
}

#[tokio::test]
async fn odd_schedules() {
    let town = Town::at("2026-03-01T23:50:00Z").await;
    town.sql("ALTER TABLE care_recipients ALTER timezone DROP NOT NULL").await;
    town.sql("UPDATE care_recipients SET timezone = NULL").await;
    for statement in ["weekdays DROP NOT NULL", "start_date DROP NOT NULL", "reminder_minutes DROP NOT NULL"] {
        town.sql(&format!("ALTER TABLE medication_schedules ALTER {statement}")).await;
    }
    // Sunday's 24:00 is the first instant of Monday; a second schedule names the same dose; NULLs ask for nothing.
    town.doses("metformin", "24:00,NULL", "'{7}', '2026-03-01', '2026-03-01', '{0,NULL,0}', 'ACTIVE'").await;
    town.doses("metformin", "00:00,00:00", "NULL, NULL, NULL, '{0}', 'ACTIVE'").await;
    town.doses("metformin", "00:01", "NULL, NULL, NULL, NULL, 'ACTIVE'").await;
    town.doses("metformin", "00:02", "'{1}', '2026-03-03', NULL, '{0}', 'ACTIVE'").await;
    town.doses("metformin", "00:03", "'{1}', '2026-01-01', '2026-03-01', '{0}', 'ACTIVE'").await;
    town.doses("metformin", "00:04", "'{2,3,4,5,6,7}', '2026-01-01', NULL, '{0}', 'ACTIVE'").await;
    town.doses("metformin", "00:05", "'{}', '2026-01-01', NULL, '{0}', 'PAUSED'").await;
    town.doses("metformin", "00:06", "'{}', '2026-01-01', NULL, '{0}', 'ENDED'").await;
    town.sql("INSERT INTO medications VALUES ('stopped', 'rose', 'X', '1 mg', false)").await;
    town.doses("stopped", "00:00", "").await;
    let ids = town.walk("2026-03-02T00:20:00Z", TimeDelta::minutes(7)).await;
    assert_eq!(ids, ["medication:metformin:2026-03-02T00:00:00Z:0"]);
}

#[tokio::test]
async fn a_change_is_planned_anew_and_the_past_is_not() {
    let town = Town::unseen("2026-03-01T10:30:00Z").await;
    town.doses("metformin", "10:00,10:30,10:40,10:45", "").await;
    assert_eq!(town.plan().await, (2, 0), "the first look ever looks only forward");
    assert_eq!(town.plan().await, (0, 0), "nothing has changed");
    town.sql("UPDATE medication_schedules SET times = '{10:10,10:41,10:45}'").await;
    assert_eq!(town.plan().await, (1, 1), "what was to be at 10:10 was not there then");
    town.sql("UPDATE medication_schedules SET status = 'PAUSED'").await;
    assert_eq!(town.plan().await, (0, 2));
    town.sql("UPDATE medication_schedules SET status = 'ACTIVE'").await;
    assert_eq!(town.plan().await, (2, 0));
    town.sql("UPDATE medications SET is_active = false").await;
    assert_eq!(town.plan().await, (0, 2));
    town.sql("UPDATE medications SET is_active = true").await;
    town.sql("UPDATE care_recipients SET timezone = 'Asia/Kolkata'").await;
    assert_eq!(town.plan().await, (0, 0));
    // A schedule that is made within the minute between two looks, for a dose of that minute, is made in time.
    town.sql("UPDATE care_recipients SET timezone = 'UTC'").await;
    town.clock.advance(TimeDelta::seconds(30));
    town.doses("metformin", "10:30:20", "").await;
    assert_eq!(town.publish().await, NOTHING);
    assert_eq!(town.arrive("2026-03-01T10:31:00Z").await, ["medication:metformin:2026-03-01T10:30:20Z:0"]);
    town.sql("DELETE FROM medication_schedules").await;
    assert_eq!(town.plan().await, (0, 2));
    assert_eq!(town.arrive("2026-03-01T11:00:00Z").await, NOTHING);
}

#[tokio::test]
async fn appointments_and_shifts_are_followed() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    town.appointment("a", "2026-03-03T15:00:00Z", "1440,60,10").await;
    town.appointment("near", "2026-03-02T08:30:00Z", "60,10").await;
    town.appointment("far", "2026-05-03T15:00:00Z", "60").await;
    town.sql(
        "INSERT INTO caregiver_shifts (id, care_recipient_id, user_id, starts_at, ends_at) \
         VALUES ('s', 'rose', 'ana', '2026-03-02T12:00:00Z', '2026-03-02T20:00:00Z')",
    )
    .await;
    for status in ["CANCELLED", "COMPLETED"] {
        town.appointment(status, "2026-03-03T15:00:00Z", "60").await;
        town.sql(&format!("UPDATE appointments SET status = '{status}' WHERE id = '{status}'")).await;
    }
    let ids = town.walk("2026-03-02T12:00:00Z", TimeDelta::minutes(9)).await;
    // A lead that has passed when an appointment is made is told of by nobody.
    assert_eq!(ids, ["appointment:near:2026-03-02T08:30:00Z:10", "shift:s:2026-03-02T12:00:00Z:60"]);

    // Moved on by an hour: the reminders are moved with it, and the old ones do not come.
    town.sql("UPDATE appointments SET starts_at = '2026-03-03T16:00:00Z' WHERE id = 'a'").await;
    assert_eq!(town.plan().await, (3, 3));
    assert_eq!(town.arrive("2026-03-02T15:59:00Z").await, NOTHING);
    assert_eq!(town.arrive("2026-03-02T16:00:00Z").await, ["appointment:a:2026-03-03T16:00:00Z:1440"]);
    // To within two leads: one reminder at once, and that of the third in time.
    town.sql("UPDATE appointments SET starts_at = '2026-03-02T16:30:00Z' WHERE id = 'a'").await;
    assert_eq!(town.arrive("2026-03-02T16:00:30Z").await, ["appointment:a:2026-03-02T16:30:00Z:60"]);
    assert_eq!(town.arrive("2026-03-02T16:19:59Z").await, NOTHING);
    assert_eq!(town.arrive("2026-03-02T16:20:00Z").await, ["appointment:a:2026-03-02T16:30:00Z:10"]);
    // Its title changes, and nothing else; then it is called off, and comes back.
    town.sql("UPDATE appointments SET starts_at = '2026-03-02T19:00:00Z', title = 'X' WHERE id = 'a'").await;
    assert_eq!(town.arrive("2026-03-02T16:21:00Z").await, ["appointment:a:2026-03-02T19:00:00Z:1440"]);
    town.sql("UPDATE appointments SET title = 'Y', status = 'CONFIRMED' WHERE id = 'a'").await;
    assert_eq!(town.plan().await, (0, 0));
    town.sql("UPDATE appointments SET status = 'CANCELLED' WHERE id = 'a'").await;
    assert_eq!(town.plan().await, (0, 2));
    assert_eq!(town.arrive("2026-03-02T18:00:00Z").await, NOTHING);
    town.sql("UPDATE appointments SET status = 'SCHEDULED' WHERE id = 'a'").await;
    assert_eq!(town.arrive("2026-03-02T18:01:00Z").await, NOTHING, "18:00 has passed, and it was not there then");
    assert_eq!(town.arrive("2026-03-02T18:50:00Z").await, ["appointment:a:2026-03-02T19:00:00Z:10"]);
    // To what has passed: nothing.
    town.sql("UPDATE appointments SET starts_at = '2026-03-02T18:45:00Z' WHERE id = 'a'").await;
    assert_eq!(town.arrive("2026-03-02T18:51:00Z").await, NOTHING);
    assert_eq!(town.walk("2026-03-03T20:00:00Z", TimeDelta::minutes(50)).await, NOTHING);
}

#[tokio::test]
async fn a_shortage_is_told_of_once_and_the_next_one_again() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    let world = &town.world;
    let supply = async |left: &str| town.sql(&format!("UPDATE medications SET current_supply = {left}")).await;
    town.sql("UPDATE medications SET refill_at = 10").await;
    supply("11").await;
    assert_eq!(town.arrive("2026-03-02T08:01:00Z").await, NOTHING);
    supply("10").await;
    assert_eq!(town.arrive("2026-03-02T08:02:00Z").await, ["alert.refill:metformin:2026-03-02T08:02:00Z"]);
    assert_eq!(town.walk("2026-03-02T09:00:00Z", TimeDelta::minutes(9)).await, NOTHING, "the job is on its way");
    assert_eq!(
        town.walk("2026-03-03T00:10:00Z", TimeDelta::minutes(90)).await.len(),
        1,
        "another day, and nobody was told"
    );
    town.sql("UPDATE medications SET is_active = false").await;
    assert_eq!(town.plan().await, (0, 2));
    assert_eq!(town.arrive("2026-03-03T00:11:00Z").await, NOTHING);
    town.sql("UPDATE medications SET is_active = true").await;

    let worker = Worker::without_scheduler(world);
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM refill_shortages").await, 1, "two jobs, one shortage");
    world.push.wait_for(4, LIMIT).await.unwrap();
    for hours in 1..60 {
        let now = at("2026-03-03T00:11:00Z") + TimeDelta::hours(hours);
        assert_eq!(town.arrive(&now.to_rfc3339()).await, NOTHING, "it was told of");
    }
    // Refilled and used up again on the same day.
    for (now, left) in [("2026-03-06T08:00:00Z", "3"), ("2026-03-06T10:00:00Z", "-1")] {
        supply("90").await;
        assert_eq!(town.arrive(now).await, NOTHING);
        assert_eq!(world.count("SELECT count(*) FROM refill_shortages").await, 0, "it is over");
        supply(left).await;
        town.clock.advance(TimeDelta::minutes(1));
        town.plan().await;
        let id = format!("care:alert.refill:metformin:{}", town.clock.now().format("%Y-%m-%dT%H:%M:%SZ"));
        assert_eq!(town.scheduler.care_pass(10).await.unwrap().published, 1);
        assert_eq!(world.ended(&id).await, ("done".into(), None));
    }
    world.push.wait_for(12, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 12);

    // Of the last nobody was told after all: another day, another job, which takes the shortage over.
    town.sql("UPDATE job_runs SET state = 'dead' WHERE job_id LIKE '%10:01:00Z:notification'").await;
    assert_eq!(town.arrive("2026-03-06T23:00:00Z").await, NOTHING);
    town.clock.advance(TimeDelta::hours(2));
    town.plan().await;
    assert_eq!(town.scheduler.care_pass(10).await.unwrap().published, 1);
    world.push.wait_for(16, LIMIT).await.unwrap();
    // Refilled in the moment between plan and publishing.
    supply("90").await;
    town.plan().await;
    supply("1").await;
    town.clock.advance(TimeDelta::minutes(1));
    assert_eq!(town.plan().await, (1, 0));
    supply("90").await;
    assert_eq!(town.scheduler.care_pass(10).await.unwrap(), Pass { moved: 1, ..Pass::default() });
    worker.stop().await;
}

#[tokio::test]
async fn after_an_hour_without_schedulers() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    town.doses("metformin", "08:10,08:40,09:05", "'{}', '2000-01-01', NULL, '{0,30}', 'ACTIVE'").await;
    town.appointment("a", "2026-03-02T09:30:00Z", "60,45,10").await;
    town.appointment("off", "2026-03-02T09:30:00Z", "60").await;
    assert_eq!(town.plan().await, (6, 0), "08:10; the leads of 08:40; and four of appointments");
    town.sql("UPDATE appointments SET status = 'CANCELLED' WHERE id = 'off'").await;
    let ids = town.arrive("2026-03-02T09:00:00Z").await;
    // Each dose once, with the last reminder that was missed: nobody needs to hear that it is half an hour until now.
    let expected = [
        "appointment:a:2026-03-02T09:30:00Z:45",
        "medication:metformin:2026-03-02T08:10:00Z:0",
        "medication:metformin:2026-03-02T08:40:00Z:0",
        "medication:metformin:2026-03-02T09:05:00Z:30",
    ];
    assert_eq!(ids, expected);
    assert_eq!(town.scheduler.health.schedule_lag(), Some(TimeDelta::minutes(50)));
    assert_eq!(town.arrive("2026-03-02T09:20:00Z").await.len(), 2);

    // A month: doses of the last day are still told to the jobs, which decide; older ones are not.
    assert_eq!(town.arrive("2026-04-02T09:20:00Z").await.len(), 3);
    assert_eq!(town.arrive("2026-04-02T09:21:00Z").await, NOTHING);
}

#[tokio::test]
async fn clocks_that_jump() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    town.doses("metformin", "08:10,08:20,09:10,09:20", "").await;
    town.appointment("a", "2026-03-02T12:00:00Z", "170").await;
    assert_eq!(town.arrive("2026-03-02T08:10:00Z").await.len(), 1);
    assert_eq!(town.arrive("2026-03-02T07:30:00Z").await, NOTHING, "back");
    assert_eq!(town.arrive("2026-03-02T08:15:00Z").await, NOTHING, "08:10 once more");
    assert_eq!(town.arrive("2026-03-02T09:15:00Z").await.len(), 3, "forward");
    assert_eq!(town.arrive("2026-03-02T08:15:00Z").await, NOTHING, "and back");
    assert_eq!(town.walk("2026-03-02T09:19:00Z", TimeDelta::minutes(1)).await, NOTHING);
    assert_eq!(town.arrive("2026-03-02T09:20:00Z").await, ["medication:metformin:2026-03-02T09:20:00Z:0"]);
    // Somebody's clock was a year ahead for a moment.
    town.sql("UPDATE scheduler_state SET looked_at = '2027-03-02T09:20:00Z'").await;
    assert_eq!(town.walk("2026-03-03T08:30:00Z", TimeDelta::minutes(10)).await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_published_stays_planned() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    town.doses("metformin", "08:10", "").await;
    assert_eq!(town.plan().await, (1, 0));
    town.world.context.delete_stream("JOBS").await.unwrap();
    town.clock.advance(TimeDelta::minutes(20));
    for _ in 0..3 {
        let pass = town.scheduler.care_pass(10).await.unwrap();
        assert_eq!((pass.moved, pass.stuck, pass.published), (0, 1, 0));
        town.clock.advance(TimeDelta::minutes(1));
        assert_eq!(town.plan().await, (0, 0), "it is still to be");
    }
    town.sql("UPDATE medication_schedules SET status = 'PAUSED'").await;
    assert_eq!(town.plan().await, (0, 1), "and can still be called off");
}

/// A queue that is full takes no more; the others go on, whatever is stuck before them.
#[tokio::test]
async fn a_full_queue_holds_up_no_other_kind() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    town.sql("UPDATE medications SET current_supply = 1, refill_at = 2").await;
    town.doses("metformin", "08:05,08:06,08:07,08:08", "").await;
    town.appointment("a", "2026-03-02T09:10:00Z", "60").await;
    let mut jobs = town.world.context.get_stream("JOBS").await.unwrap();
    let mut config = jobs.info().await.unwrap().config.clone();
    let most = std::mem::replace(&mut config.max_messages_per_subject, 1);
    town.world.context.update_stream(&config).await.unwrap();
    town.plan().await;
    town.clock.advance(TimeDelta::minutes(10));
    let pass = town.scheduler.care_pass(2).await.unwrap();
    assert_eq!((pass.moved, pass.stuck, pass.published), (3, 1, 3), "one of each kind");
    let pass = town.scheduler.care_pass(2).await.unwrap();
    assert_eq!((pass.moved, pass.stuck, pass.published), (0, 2, 0));
    config.max_messages_per_subject = most;
    town.world.context.update_stream(&config).await.unwrap();
    assert_eq!(town.publish().await.len(), 3);
}

#[tokio::test]
async fn two_and_five_schedulers_publish_each_once() {
    let world = World::new().await;
    let start = at("2026-03-02T08:00:00Z");
    world.sql("INSERT INTO medications SELECT 'm' || n, 'rose', 'X', '1 mg' FROM generate_series(1, 20) n").await;
    world
        .sql(
            "INSERT INTO medication_schedules SELECT n::text, 'm' || n, \
                 ARRAY(SELECT time '08:00' + make_interval(secs => n * 7 + k * 60) FROM generate_series(0, 5) k), \
                 '{}', '2026-01-01', NULL, '{0,1}' FROM generate_series(1, 20) n",
        )
        .await;
    let clock = Clock::manual(start);
    scheduler(&world, &clock).plan_care().await.unwrap();
    let mut total = 0;
    for count in [2, 5] {
        let schedulers: Vec<_> = (0..count).map(|_| scheduler(&world, &clock)).collect();
        for second in 0..240 {
            clock.advance(TimeDelta::seconds(1));
            if second % 20 == 0 {
                let looks = join_all(schedulers.iter().map(Scheduler::plan_care)).await;
                assert!(looks.into_iter().any(|look| look.unwrap().is_some()), "one of them looks");
            }
            let passes = join_all(schedulers.iter().map(|scheduler| scheduler.care_pass(2))).await;
            total += passes.into_iter().map(|pass| pass.unwrap().published).sum::<usize>();
        }
    }
    let last = scheduler(&world, &clock);
    while let Pass { moved: 1.., published, .. } = last.care_pass(100).await.unwrap() {
        total += published;
    }
    let ids = published(&world).await;
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), total), (distinct.len(), distinct.len()), "each was published by one scheduler");
    // Within the eight minutes: all 20 × 6 doses, and their leads but for those before 08:00.
    assert_eq!(total, 20 * 6 + 20 * 6 - 8);
}

#[tokio::test]
async fn a_stop_between_publishing_and_marking_has_no_second_effect() {
    for step in ["due", "fired"] {
        let world = World::new().await;
        let soon = utc_now() + TimeDelta::minutes(1);
        plan_at(&world, soon - TimeDelta::minutes(2)).await;
        dose(&world, soon - TimeDelta::minutes(1)).await;
        let mut environment = world.environment();
        environment.insert("CAREBELL_ABORT_AT".into(), step.into());
        let mut doomed = Process::start(&["run", "--only", "scheduler"], &environment, world.directory.path());
        assert_eq!(doomed.ended().await.code(), Some(134), "at {step}:\n{}", doomed.output());
        let open = "SELECT count(*) FROM care_reminders WHERE published_at IS NULL";
        assert_eq!(world.count(open).await, 1, "at {step} it is still due");
        assert_eq!(published(&world).await.len(), usize::from(step == "fired"));
        let worker = Worker::start(&world);
        world.eventually("it is marked", async || (world.count(open).await == 0).then_some(())).await;
        world.queues_are_empty().await;
        let ids: Vec<String> = sqlx::query_scalar("SELECT job_id FROM job_runs WHERE kind = 'reminder.medication'")
            .fetch_all(&world.db)
            .await
            .unwrap();
        assert_eq!(ids.len(), 1, "{ids:?}");
        world.everyone_has_it_once(&ids[0]).await;
        worker.stop().await;
    }
}

/// As if a scheduler had looked at an instant, and not since.
async fn plan_at(world: &World, now: DateTime<Utc>) {
    scheduler(world, &Clock::manual(now)).plan_care().await.unwrap();
}

/// A dose of `metformin` each day at the time of this instant, to the second. Answers the instant to the second.
async fn dose(world: &World, at: DateTime<Utc>) -> DateTime<Utc> {
    let at = at.with_nanosecond(0).unwrap();
    let time = at.format("%H:%M:%S");
    world
        .sql(&format!(
            "INSERT INTO medication_schedules (id, medication_id, times, start_date) \
             VALUES ('{time}', 'metformin', '{{{time}}}', '2000-01-01')"
        ))
        .await;
    at
}

fn job_of(at: DateTime<Utc>) -> String {
    format!("care:reminder.medication:metformin:{}:0", at.format("%Y-%m-%dT%H:%M:%SZ"))
}

/// The whole way, from a row that somebody inserts to pushes that arrive on its second.
#[tokio::test]
async fn from_a_row_to_four_pushes() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.eventually("it has looked", async || world.store.care_looked_at().await.unwrap()).await;
    let due = dose(&world, utc_now() + TimeDelta::seconds(3)).await;
    world.sql("NOTIFY carebell_care").await;
    world.everyone_has_it_once(&job_of(due)).await;
    let pushes = world.push.received();
    let first = pushes.iter().map(|push| push.received - due).min().unwrap();
    let last = pushes.iter().map(|push| push.received - due).max().unwrap();
    println!(
        "first push {} ms after the second of the dose, last {} ms",
        first.num_milliseconds(),
        last.num_milliseconds()
    );
    assert!(first >= TimeDelta::zero() && first < TimeDelta::seconds(5), "{first}");
    assert!(pushes.iter().all(|push| push.json()["body"] == "Time to give Metformin (500 mg) to Rose"));

    // An appointment that is moved to within its lead is told of at once.
    let start = utc_now() + TimeDelta::hours(30);
    world
        .sql(&format!(
            "INSERT INTO appointments (id, care_recipient_id, title, starts_at) VALUES ('a', 'rose', 'Dentist', '{start}')"
        ))
        .await;
    world.sql("NOTIFY carebell_care").await;
    let planned = "SELECT count(*) FROM care_reminders WHERE kind = 'reminder.appointment'";
    world.eventually("it is planned", async || (world.count(planned).await == 1).then_some(())).await;
    world.sql("UPDATE appointments SET starts_at = starts_at - interval '29 hours 30 minutes'").await;
    world.sql("NOTIFY carebell_care").await;
    world.push.wait_for(8, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 8);
    worker.stop().await;
}

#[tokio::test]
async fn a_dose_that_was_given_or_told_of_is_skipped_by_its_job() {
    let world = World::new().await;
    let now = utc_now();
    plan_at(&world, now - TimeDelta::minutes(30)).await;
    let given = dose(&world, now - TimeDelta::minutes(20)).await;
    let told = dose(&world, now - TimeDelta::minutes(10)).await;
    world.sql(&format!("INSERT INTO medication_logs VALUES ('l', 'metformin', '{given}', 'GIVEN')")).await;
    world.publish_json("jobs.reminder.medication", "by-hand", &crate::support::reminder("metformin", told)).await;
    let first = Worker::without_scheduler(&world);
    assert_eq!(world.ended("by-hand").await.0, "done");
    first.stop().await;
    let worker = Worker::start(&world);
    let skipped = |reason: &str| ("skipped".to_owned(), Some(reason.to_owned()));
    assert_eq!(world.ended(&job_of(given)).await, skipped("already_given"));
    assert_eq!(world.ended(&job_of(told)).await, skipped("already_sent"));
    worker.stop().await;
}

#[tokio::test]
async fn ids_of_any_characters() {
    let reminder = |kind, record_id: &str, lead_minutes| CareReminder {
        kind,
        record_id: record_id.into(),
        instant: at("2026-03-02T08:00:00.25Z"),
        lead_minutes,
        due_at: at("2026-03-02T07:00:00Z"),
        overtaken: false,
    };
    let id = |record: &str| care_job_id(&reminder(CareKind::Medication, record, 60));
    assert_eq!(id("a:b"), "care:reminder.medication:a:b:2026-03-02T08:00:00.250Z:60");
    assert_eq!(care_job_id(&reminder(CareKind::Refill, "a", 0)), "care:alert.refill:a:2026-03-02T07:00:00Z");
    for odd in ["a b", "ä", "a.>", "'", "a/b", &"x".repeat(100), "\u{1F48A}"] {
        let (hashed, other) = (id(odd), care_job_id(&reminder(CareKind::Medication, odd, 0)));
        assert!(hashed.starts_with("care:reminder.medication:") && hashed.len() == 68, "{hashed}");
        assert_ne!(hashed, other, "the lead counts");
        assert!(hashed.chars().all(|c| c.is_ascii_alphanumeric() || "_:.-".contains(c)), "{hashed}");
    }

    let world = World::new().await;
    let now = utc_now();
    plan_at(&world, now - TimeDelta::minutes(5)).await;
    let ids = ["a b", "ä \u{1F48A}", "a.>", "O''Hara", "*", &"x".repeat(100)];
    for odd in ids {
        world.sql(&format!("INSERT INTO medications VALUES ('{odd}', 'rose', 'X', '1 mg')")).await;
    }
    let time = (now - TimeDelta::minutes(1)).format("%H:%M:%S");
    world
        .sql(&format!(
            "INSERT INTO medication_schedules (id, medication_id, times, start_date) \
             SELECT id, id, '{{{time}}}', '2000-01-01' FROM medications WHERE id <> 'metformin'"
        ))
        .await;
    let worker = Worker::start(&world);
    let done = "SELECT count(*) FROM job_runs WHERE kind = 'reminder.medication' AND state = 'done'";
    world.eventually("all are told", async || (world.count(done).await == 6).then_some(())).await;
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_storm_of_announcements_is_about_a_look_a_second() {
    let world = World::new().await;
    world.sql("CREATE TABLE looks (at timestamptz NOT NULL DEFAULT clock_timestamp())").await;
    world
        .sql(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO looks DEFAULT VALUES; RETURN NEW; END'",
        )
        .await;
    world
        .sql("CREATE TRIGGER look AFTER INSERT OR UPDATE ON scheduler_state FOR EACH ROW EXECUTE FUNCTION look()")
        .await;
    let stop = CancellationToken::new();
    let running: Vec<_> = (0..3).map(|_| tokio::spawn(scheduler(&world, &Clock::system()).run(stop.clone()))).collect();
    world.eventually("one has looked", async || world.store.care_looked_at().await.unwrap()).await;
    let since = std::time::Instant::now();
    let mut announced = 0;
    while since.elapsed() < Duration::from_secs(4) {
        world.sql("NOTIFY carebell_care").await;
        announced += 1;
    }
    // What was written before the last announcement is seen.
    let due = dose(&world, utc_now() + TimeDelta::minutes(1)).await;
    world.sql("NOTIFY carebell_care").await;
    let planned = format!("SELECT count(*) FROM care_reminders WHERE instant = '{due}'");
    world.eventually("the last change is seen", async || (world.count(&planned).await == 1).then_some(())).await;
    let (looks, took) = (world.count("SELECT count(*) FROM looks").await, since.elapsed());
    println!("{announced} announcements in 4 s, three schedulers: {looks} looks within {took:?}");
    assert!((3..=10).contains(&looks), "{looks}");
    stop.cancel();
    for one in running {
        one.await.unwrap();
    }
}

/// A view that is broken by an application's migration holds up nothing else, and is looked at again when it is mended.
#[tokio::test]
async fn care_tables_that_cannot_be_read_hold_up_nothing_else() {
    let world = World::new().await;
    let now = utc_now();
    plan_at(&world, now - TimeDelta::minutes(2)).await;
    dose(&world, now + TimeDelta::seconds(2)).await;
    plan_at(&world, now - TimeDelta::minutes(2)).await;
    world.sql("ALTER TABLE medication_schedules RENAME TO elsewhere").await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(scheduler(&world, &Clock::system()).run(stop.clone()));
    world
        .eventually("what was planned is published", async || (published(&world).await.len() == 1).then_some(()))
        .await;
    world.sql("ALTER TABLE elsewhere RENAME TO medication_schedules").await;
    let due = dose(&world, utc_now() + TimeDelta::minutes(5)).await;
    world.sql("NOTIFY carebell_care").await;
    let planned = format!("SELECT count(*) FROM care_reminders WHERE instant = '{due}'");
    world.eventually("it is looked at again", async || (world.count(&planned).await == 1).then_some(())).await;
    stop.cancel();
    running.await.unwrap();
}

/// 08:00 is everybody's dose time.
#[tokio::test]
async fn a_hundred_thousand_doses_in_one_second() {
    const COUNT: i64 = 100_000;
    let world = World::new().await;
    let due = (utc_now() + TimeDelta::seconds(20)).with_nanosecond(0).unwrap();
    let zones = ["UTC", "Europe/London", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"];
    for (number, zone) in zones.iter().enumerate() {
        world.sql(&format!("INSERT INTO care_recipients VALUES ('r{number}', 'browns', 'X', '{zone}')")).await;
    }
    world
        .sql(&format!(
            "INSERT INTO medications SELECT 'm' || n, 'r' || n % 5, 'X', '1 mg' FROM generate_series(1, {COUNT}) n"
        ))
        .await;
    world
        .sql(&format!(
            "INSERT INTO medication_schedules \
             SELECT n::text, 'm' || n, ARRAY[d.time, d.time + interval '6 hours'], '{{}}', \
                    '2000-01-01', NULL, '{{0,60}}' \
             FROM generate_series(1, {COUNT}) n JOIN care_recipients r ON r.id = 'r' || n % 5 \
             CROSS JOIN LATERAL (SELECT ('{due}'::timestamptz AT TIME ZONE r.timezone)::time AS time) d"
        ))
        .await;
    let look = async |what: &str, now: DateTime<Utc>| {
        let since = std::time::Instant::now();
        let planned = scheduler(&world, &Clock::manual(now)).plan_care().await.unwrap().unwrap();
        println!("a look at {COUNT} medication schedules, {what}: {:?}, {planned:?}", since.elapsed());
        (planned, since.elapsed())
    };
    look("none of them due soon", due - TimeDelta::hours(3)).await;
    // As if it had gone on each minute.
    world.sql(&format!("UPDATE scheduler_state SET looked_at = '{}'", due - TimeDelta::minutes(6))).await;
    let (planned, _) = look("all of them new in the plan", due - TimeDelta::minutes(5)).await;
    assert_eq!(planned.added, COUNT);
    let (planned, took) = look("all of them planned already", due - TimeDelta::minutes(4)).await;
    assert_eq!(planned, Planned::default());
    assert!(took < Duration::from_secs(10), "{took:?}");

    let mut worker = Process::start(&["run", "--only", "scheduler"], &world.environment(), world.directory.path());
    worker.ready().await;
    let left = "SELECT count(*) FROM care_reminders WHERE published_at IS NULL";
    world
        .eventually_within(Duration::from_mins(2), "all are published", async || {
            (world.count(left).await == 0).then_some(())
        })
        .await;
    let took = utc_now() - due;
    let (peak, health) = (worker.peak_memory_kb(), worker.get("/health").await.1);
    println!(
        "{COUNT} doses in one second: the last is published {took} after it (debug build), peak {peak} kB; {health}"
    );
    assert_eq!(worker.terminate().await.code(), Some(0));
    let jobs = world.context.get_stream("JOBS").await.unwrap().cached_info().state.messages;
    assert_eq!(i64::try_from(jobs).unwrap(), COUNT);
    look("all of them published", due + TimeDelta::minutes(3)).await;
}
