//! Families and their care records. They don't change during the storm, so each job's outcome is known beforehand.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use rand::{Rng, rngs::StdRng};

use crate::support::{World, utc_now};

/// Each has a care recipient, a medication, appointments, and shifts for each member.
const FAMILIES: usize = 8;

/// Appointments per family and shifts per member. Each allows some ten thousand lead times.
pub const ROUNDS: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Browser {
    Live,
    /// Answers 410.
    Ended,
}

/// Its users are `u<family>-<member>`.
#[derive(Clone, Debug)]
pub struct Family {
    pub number: usize,
    pub members: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Scene {
    pub families: Vec<Family>,
    /// Browsers of each user, by subscription name.
    pub browsers: BTreeMap<String, Vec<(String, Browser)>>,
    /// When past doses were due and given.
    pub given: DateTime<Utc>,
    /// Of appointments and shifts, after any storm.
    pub begins: DateTime<Utc>,
}

impl Scene {
    pub fn draw(rng: &mut StdRng) -> Self {
        let now = utc_now().trunc_subsecs(0);
        let families: Vec<Family> = (0..FAMILIES)
            .map(|number| {
                let members = rng.random_range(1..=5);
                Family { number, members: (0..members).map(|member| format!("u{number}-{member}")).collect() }
            })
            .collect();
        let browsers =
            families.iter().flat_map(|family| &family.members).map(|user| (user.clone(), draw_browsers(user, rng)));
        let browsers = browsers.collect();
        Self { families, browsers, given: now - TimeDelta::minutes(10), begins: now + TimeDelta::hours(6) }
    }

    pub fn browsers(&self, which: Browser) -> Vec<String> {
        let all = self.browsers.values().flatten();
        all.filter(|(_, browser)| *browser == which).map(|(name, _)| name.clone()).collect()
    }

    pub async fn set(&self, world: &World) {
        for family in &self.families {
            self.set_family(world, family).await;
        }
        world.sql("INSERT INTO families VALUES ('empty')").await;
        world.sql("INSERT INTO care_recipients (id, family_id, name) VALUES ('lone', 'empty', 'Lou')").await;
        world
            .sql("INSERT INTO medications (id, care_recipient_id, name, dosage) VALUES ('untold', 'lone', 'Zinc', '5 mg')")
            .await;
        for (user, browsers) in &self.browsers {
            for (name, _) in browsers {
                world.subscribe(name, user).await;
            }
        }
    }

    async fn set_family(&self, world: &World, family: &Family) {
        let Self { given, begins, .. } = self;
        let f = family.number;
        let later = *begins + TimeDelta::hours(1);
        world.sql(&format!("INSERT INTO families VALUES ('f{f}')")).await;
        world
            .sql(&format!("INSERT INTO care_recipients (id, family_id, name) VALUES ('r{f}', 'f{f}', 'Rose {f}')"))
            .await;
        world
            .sql(&format!(
                "INSERT INTO medications (id, care_recipient_id, name, dosage, is_active, current_supply, refill_at) \
                 VALUES ('m{f}', 'r{f}', 'Metformin', '500 mg', true, 100, 10), \
                        ('stopped{f}', 'r{f}', 'Aspirin', '100 mg', false, 1, 10)"
            ))
            .await;
        world
            .sql(&format!(
                "INSERT INTO medication_logs (medication_id, scheduled_time, status) VALUES ('m{f}', '{given}', 'GIVEN')"
            ))
            .await;
        let mut appointments = vec![
            (format!("a-cancelled{f}"), begins, "CANCELLED"),
            (format!("a-over{f}"), begins, "COMPLETED"),
            (format!("a-moved{f}"), &later, "CONFIRMED"),
        ];
        appointments.extend((0..ROUNDS).map(|round| (format!("a{f}-{round}"), begins, "SCHEDULED")));
        for (id, starts_at, status) in appointments {
            world
                .sql(&format!(
                    "INSERT INTO appointments (id, care_recipient_id, title, starts_at, status) \
                     VALUES ('{id}', 'r{f}', 'Dr. Gray', '{starts_at}', '{status}')"
                ))
                .await;
        }
        for user in &family.members {
            world.sql(&format!("INSERT INTO users (id, name) VALUES ('{user}', 'User')")).await;
            world.sql(&format!("INSERT INTO family_members (family_id, user_id) VALUES ('f{f}', '{user}')")).await;
            world
                .sql(&format!(
                    "INSERT INTO caregiver_shifts (id, care_recipient_id, user_id, starts_at, ends_at) \
                     SELECT 's-{user}-' || round, 'r{f}', '{user}', '{begins}', '{later}' \
                     FROM generate_series(0, {ROUNDS} - 1) round"
                ))
                .await;
        }
    }

    /// A medication that runs low. It has no threshold, so that schedulers don't announce it themselves.
    pub async fn set_shortage(world: &World, family: usize, id: &str) {
        world
            .sql(&format!(
                "INSERT INTO medications (id, care_recipient_id, name, dosage, current_supply) \
                 VALUES ('{id}', 'r{family}', 'Insulin', '10 IU', 2)"
            ))
            .await;
    }
}

/// Most users have one browser; some have several, none, or ended ones.
fn draw_browsers(user: &str, rng: &mut StdRng) -> Vec<(String, Browser)> {
    let count = match rng.random_range(0..20) {
        0 => 0,
        1..=14 => 1,
        15..=17 => 2,
        _ => 3,
    };
    (0..count)
        .map(|number| {
            let browser = if rng.random_range(0..8) == 0 { Browser::Ended } else { Browser::Live };
            (format!("{user}.{number}"), browser)
        })
        .collect()
}
