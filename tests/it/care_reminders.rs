//! Reminders derived from the care tables: when they are due, that each is published once, and how they are cancelled.

mod running;

use async_nats::jetstream::stream::DiscardPolicy;
use carebell::{
    clock::Clock,
    health::Health,
    jobs,
    scheduler::{Scheduler, Tally},
    store::{CareKind, PlanChanges},
};
use chrono::{DateTime, TimeDelta, Utc};

use crate::support::{LIMIT, Worker, World, sorted};

struct Town {
    world: World,
    clock: Clock,
    scheduler: Scheduler,
}

/// A scheduler with its own pool, like a separate process.
fn scheduler(world: &World, clock: &Clock) -> Scheduler {
    Scheduler::new(crate::support::store(&world.database_url, 3), world.context.clone(), clock.clone(), Health::new())
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

impl Town {
    /// A town whose scheduler has looked once.
    async fn at(now: &str) -> Self {
        let town = Self::unseen(now).await;
        town.scheduler.plan_care().await.unwrap();
        town
    }

    /// A town whose scheduler has not looked yet.
    async fn unseen(now: &str) -> Self {
        let (world, clock) = (World::new().await, Clock::manual(at(now)));
        let scheduler = scheduler(&world, &clock);
        Self { world, clock, scheduler }
    }

    async fn sql(&self, statement: &str) {
        self.world.sql(statement).await;
    }

    /// Adds a care recipient with a medication of the same name.
    async fn recipient(&self, name: &str, zone: &str) {
        self.sql(&format!("INSERT INTO care_recipients VALUES ('{name}', 'browns', '{name}', '{zone}')")).await;
        self.sql(&format!("INSERT INTO medications VALUES ('{name}', '{name}', 'X', '1 mg')")).await;
    }

    /// `more` holds weekdays, start, end, leads and status.
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
        let PlanChanges { added, removed } = self.scheduler.plan_care().await.unwrap().unwrap();
        (added, removed)
    }

    /// Plans and publishes. Returns the new ids without `care~reminder.`.
    async fn arrive(&self, now: &str) -> Vec<String> {
        self.clock.advance(at(now) - self.clock.now());
        self.plan().await;
        self.publish().await
    }

    /// Publishes what is due without planning.
    async fn publish(&self) -> Vec<String> {
        // Compares sequences: a worker may remove messages meanwhile.
        let before = last_sequence(&self.world).await;
        while self.scheduler.care_pass(1000).await.unwrap().moved > 0 {}
        let ids = published_after(&self.world, before).await;
        sorted(ids.into_iter().map(|id| id.replace("care~reminder.", "").replace("care~", "")).collect())
    }

    /// Returns all ids published on the way.
    async fn walk(&self, until: &str, step: TimeDelta) -> Vec<String> {
        let mut ids = Vec::new();
        while self.clock.now() < at(until) {
            let next = (self.clock.now() + step).min(at(until));
            ids.extend(self.arrive(&next.to_rfc3339()).await);
        }
        ids
    }
}

async fn published(world: &World) -> Vec<String> {
    published_after(world, 0).await
}

async fn last_sequence(world: &World) -> u64 {
    world.context.get_stream("WORK").await.unwrap().cached_info().state.last_sequence
}

async fn published_after(world: &World, last: u64) -> Vec<String> {
    let mut stream = world.context.get_stream("WORK").await.unwrap();
    let state = stream.info().await.unwrap().state.clone();
    let mut ids = Vec::new();
    for sequence in state.first_sequence.max(last + 1)..=state.last_sequence {
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
#[ignore = "soak: weeks of doses, look by look"]
async fn doses_by_times_weekdays_dates_and_leads() {
    let town = Town::at("2026-03-01T00:00:00Z").await;
    town.sql("UPDATE care_recipients SET timezone = 'America/New_York'").await;
    // Sundays and Wednesdays, March 4 to 11. The clock goes forward on the 8th.
    town.doses("metformin", "09:00,21:30:15.5", "'{3,7}', '2026-03-04', '2026-03-11', '{0,45}', 'ACTIVE'").await;
    let ids = town.walk("2026-03-16T00:00:00Z", TimeDelta::minutes(43)).await;
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
    assert_eq!(town.world.count("SELECT count(*) FROM care_reminders").await, 0);
    let body = town.world.context.get_stream("WORK").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(body.subject.as_str(), "work.reminder.medication");
}

#[tokio::test]
#[ignore = "soak: weeks of doses, look by look"]
async fn the_nights_on_which_clocks_change() {
    for (zone, before, times, after, expected) in [
        // Two lost times and the hour after. One instant is one dose, whichever times map to it.
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
    // Sunday's 24:00 is Monday's first instant. Another schedule names the same dose. NULLs request nothing.
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
    assert_eq!(town.plan().await, (2, 0), "the first look covers only the future");
    assert_eq!(town.plan().await, (0, 0), "nothing has changed");
    town.sql("UPDATE medication_schedules SET times = '{10:10,10:41,10:45}'").await;
    assert_eq!(town.plan().await, (1, 1), "10:10 has passed");
    town.sql("UPDATE medication_schedules SET status = 'PAUSED'").await;
    assert_eq!(town.plan().await, (0, 2));
    town.sql("UPDATE medication_schedules SET status = 'ACTIVE'").await;
    assert_eq!(town.plan().await, (2, 0));
    town.sql("UPDATE medications SET is_active = false").await;
    assert_eq!(town.plan().await, (0, 2));
    town.sql("UPDATE medications SET is_active = true").await;
    town.sql("UPDATE care_recipients SET timezone = 'Asia/Kolkata'").await;
    assert_eq!(town.plan().await, (0, 0));
    // A schedule added between two looks is in time for a dose within that minute.
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
    // A lead that was already past is not announced.
    assert_eq!(ids, ["appointment:near:2026-03-02T08:30:00Z:10", "shift:s:2026-03-02T12:00:00Z:60"]);

    // Postponed by an hour.
    town.sql("UPDATE appointments SET starts_at = '2026-03-03T16:00:00Z' WHERE id = 'a'").await;
    assert_eq!(town.plan().await, (3, 3));
    assert_eq!(town.arrive("2026-03-02T15:59:00Z").await, NOTHING);
    assert_eq!(town.arrive("2026-03-02T16:00:00Z").await, ["appointment:a:2026-03-03T16:00:00Z:1440"]);
    // Moved to within two leads: one reminder now, the third on time.
    town.sql("UPDATE appointments SET starts_at = '2026-03-02T16:30:00Z' WHERE id = 'a'").await;
    assert_eq!(town.arrive("2026-03-02T16:00:30Z").await, ["appointment:a:2026-03-02T16:30:00Z:60"]);
    assert_eq!(town.arrive("2026-03-02T16:19:59Z").await, NOTHING);
    assert_eq!(town.arrive("2026-03-02T16:20:00Z").await, ["appointment:a:2026-03-02T16:30:00Z:10"]);
    // A new title changes nothing. Then the appointment is cancelled and restored.
    town.sql("UPDATE appointments SET starts_at = '2026-03-02T19:00:00Z', title = 'X' WHERE id = 'a'").await;
    assert_eq!(town.arrive("2026-03-02T16:21:00Z").await, ["appointment:a:2026-03-02T19:00:00Z:1440"]);
    town.sql("UPDATE appointments SET title = 'Y', status = 'CONFIRMED' WHERE id = 'a'").await;
    assert_eq!(town.plan().await, (0, 0));
    town.sql("UPDATE appointments SET status = 'CANCELLED' WHERE id = 'a'").await;
    assert_eq!(town.plan().await, (0, 2));
    assert_eq!(town.arrive("2026-03-02T18:00:00Z").await, NOTHING);
    town.sql("UPDATE appointments SET status = 'SCHEDULED' WHERE id = 'a'").await;
    assert_eq!(town.arrive("2026-03-02T18:01:00Z").await, NOTHING, "18:00 passed while it was cancelled");
    assert_eq!(town.arrive("2026-03-02T18:50:00Z").await, ["appointment:a:2026-03-02T19:00:00Z:10"]);
    // Moved into the past: nothing.
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
        "a new day, and nobody was told"
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
        assert_eq!(town.arrive(&now.to_rfc3339()).await, NOTHING, "it is reported already");
    }
    // Refilled and used up again on the same day.
    for (now, left) in [("2026-03-06T08:00:00Z", "3"), ("2026-03-06T10:00:00Z", "-1")] {
        supply("90").await;
        assert_eq!(town.arrive(now).await, NOTHING);
        assert_eq!(world.count("SELECT count(*) FROM refill_shortages").await, 0, "it is over");
        supply(left).await;
        town.clock.advance(TimeDelta::minutes(1));
        town.plan().await;
        let id = format!("care~alert.refill:metformin:{}", town.clock.now().format("%Y-%m-%dT%H:%M:%SZ"));
        assert_eq!(town.scheduler.care_pass(10).await.unwrap().published, 1);
        assert_eq!(world.ended(&id).await, ("done".into(), None));
        // The notification may still be under way.
        world.queues_are_empty().await;
    }
    world.push.wait_for(12, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 12);

    // Nobody got the last alert, so another day's job takes over.
    town.sql("UPDATE job_runs SET state = 'dead' WHERE job_id LIKE '%10:01:00Z~notification'").await;
    assert_eq!(town.arrive("2026-03-06T23:00:00Z").await, NOTHING);
    town.clock.advance(TimeDelta::hours(2));
    town.plan().await;
    assert_eq!(town.scheduler.care_pass(10).await.unwrap().published, 1);
    world.push.wait_for(16, LIMIT).await.unwrap();
    // Refilled between planning and publishing.
    supply("90").await;
    town.plan().await;
    supply("1").await;
    town.clock.advance(TimeDelta::minutes(1));
    assert_eq!(town.plan().await, (1, 0));
    supply("90").await;
    assert_eq!(town.scheduler.care_pass(10).await.unwrap(), Tally { moved: 1, ..Tally::default() });
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
    // Each dose once, by its latest missed reminder.
    let expected = [
        "appointment:a:2026-03-02T09:30:00Z:45",
        "medication:metformin:2026-03-02T08:10:00Z:0",
        "medication:metformin:2026-03-02T08:40:00Z:0",
        "medication:metformin:2026-03-02T09:05:00Z:30",
    ];
    assert_eq!(ids, expected);
    assert_eq!(town.scheduler.health.schedule_lag(), Some(TimeDelta::minutes(50)));
    assert_eq!(town.arrive("2026-03-02T09:20:00Z").await.len(), 2);

    // After a month, only doses of the last day become jobs.
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
    // Some worker's clock was briefly a year ahead.
    town.sql("UPDATE scheduler_state SET looked_at = '2027-03-02T09:20:00Z'").await;
    assert_eq!(town.walk("2026-03-03T08:30:00Z", TimeDelta::minutes(10)).await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_published_stays_planned() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    town.doses("metformin", "08:10", "").await;
    assert_eq!(town.plan().await, (1, 0));
    town.world.context.delete_stream("WORK").await.unwrap();
    town.clock.advance(TimeDelta::minutes(20));
    for late in 10..13 {
        let pass = town.scheduler.care_pass(10).await.unwrap();
        assert_eq!((pass.moved, pass.stuck, pass.published), (0, 1, 0));
        assert_eq!(town.scheduler.health.schedule_lag(), Some(TimeDelta::minutes(late)), "late, and not hidden");
        assert_eq!(town.scheduler.health.schedule_due(), Some(town.clock.now()));
        town.clock.advance(TimeDelta::minutes(1));
        assert_eq!(town.plan().await, (0, 0), "it is still planned");
    }
    town.sql("UPDATE medication_schedules SET status = 'PAUSED'").await;
    assert_eq!(town.plan().await, (0, 1), "and can still be called off");
}

/// The other kinds continue past its stuck reminders.
#[tokio::test]
async fn a_full_queue_holds_up_no_other_kind() {
    let town = Town::at("2026-03-02T08:00:00Z").await;
    town.sql("UPDATE medications SET current_supply = 1, refill_at = 2").await;
    town.doses("metformin", "08:05,08:06,08:07,08:08", "").await;
    town.appointment("a", "2026-03-02T09:10:00Z", "60").await;
    let mut work = town.world.context.get_stream("WORK").await.unwrap();
    let roomy = work.info().await.unwrap().config.clone();
    let mut config = roomy.clone();
    (config.discard, config.discard_new_per_subject, config.max_messages_per_subject) = (DiscardPolicy::New, true, 1);
    town.world.context.update_stream(&config).await.unwrap();
    town.plan().await;
    town.clock.advance(TimeDelta::minutes(10));
    let pass = town.scheduler.care_pass(2).await.unwrap();
    assert_eq!((pass.moved, pass.stuck, pass.published), (3, 1, 3), "one of each kind");
    let pass = town.scheduler.care_pass(2).await.unwrap();
    assert_eq!((pass.moved, pass.stuck, pass.published), (0, 2, 0));
    town.world.context.update_stream(&roomy).await.unwrap();
    assert_eq!(town.publish().await.len(), 3);
}
