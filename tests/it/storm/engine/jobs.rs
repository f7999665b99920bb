//! The published jobs, of all kinds, each with its expected outcome.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use carebell::wire;
use chrono::TimeDelta;
use prost::Message;
use prost_reflect::ReflectMessage;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::{
    Settings,
    scene::{Family, Scene},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// With inbox rows of these users.
    Done(Told),
    /// One job with this number is done, the others are `already_sent`.
    Rival(usize, Told),
    Skipped(&'static str),
    Expired,
    /// With a dead letter.
    Dead(&'static str),
    /// Only a dead letter: the headers cannot be read.
    Letter,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub users: BTreeSet<String>,
    /// Whether pushes are sent too.
    pub push: bool,
    /// A notification, not a reminder.
    pub direct: bool,
}

#[derive(Clone, Debug)]
pub struct Job {
    pub id: String,
    pub subject: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// Since the storm began; up to three under the same id.
    pub sends: Vec<Duration>,
    /// Of a scheduled job.
    pub delay: Option<Duration>,
    pub expected: Expected,
    /// Family and id of a medication that must run low.
    pub shortage: Option<(usize, String)>,
}

pub struct Drawing<'a> {
    scene: &'a Scene,
    rng: &'a mut StdRng,
    settings: &'a Settings,
    jobs: Vec<Job>,
    /// Keeps reminders distinct.
    reminders: usize,
    rivals: usize,
}

/// A job before it has an id and headers.
struct Draft {
    subject: String,
    body: Value,
    expected: Expected,
}

pub fn draw(scene: &Scene, settings: &Settings, rng: &mut StdRng) -> Vec<Job> {
    let mut drawing = Drawing { scene, rng, settings, jobs: Vec::new(), reminders: 0, rivals: 0 };
    while drawing.jobs.len() < settings.jobs {
        drawing.draw_one();
    }
    // The last draw may add several rivals.
    drawing.jobs.truncate(settings.jobs);
    drawing.jobs
}

/// A lead, in minutes, that is longer than the time to the scene's events.
const DUE: i32 = 1000;

impl Drawing<'_> {
    fn draw_one(&mut self) {
        match self.rng.random_range(0..100) {
            0..22 => {
                let draft = self.medication();
                self.add(draft);
            }
            22..32 => {
                let draft = self.appointment();
                self.add(draft);
            }
            32..42 => {
                let draft = self.shift();
                self.add(draft);
            }
            42..46 => self.refills(1),
            46..68 => {
                let draft = self.notification();
                self.add(draft);
            }
            68..76 => self.rivals(),
            76..88 => {
                let draft = self.skipped();
                self.add(draft);
            }
            88..92 => self.late(),
            92..97 => self.undecodable(),
            _ => self.unreadable(),
        }
    }

    fn family(&mut self) -> Family {
        self.scene.families.choose(self.rng).unwrap().clone()
    }

    fn told(family: &Family) -> Expected {
        Expected::Done(Told { users: family.members.iter().cloned().collect(), push: true, direct: false })
    }

    /// A lead in minutes and a round; each reminder gets another pair. All are due: a lead is longer than the six hours
    /// to the scene's events, and their rounds.
    fn next_lead(&mut self) -> (i32, usize) {
        self.reminders += 1;
        let round = self.reminders / 9_000;
        assert!(round < super::scene::ROUNDS, "too many jobs for the scene");
        (DUE + i32::try_from(self.reminders % 9_000).unwrap(), round)
    }

    fn medication(&mut self) -> Draft {
        let family = self.family();
        let (minutes, round) = self.next_lead();
        let body = json!({
            "medicationId": format!("m{}", family.number),
            "scheduledTime": (self.scene.begins + TimeDelta::minutes(i64::try_from(round).unwrap())).to_rfc3339(),
            "reminderMinutes": minutes,
        });
        Draft { subject: "jobs.reminder.medication".into(), body, expected: Self::told(&family) }
    }

    fn appointment(&mut self) -> Draft {
        let family = self.family();
        let (minutes, round) = self.next_lead();
        let body = appointment(&format!("a{}-{round}", family.number), self.scene, minutes);
        Draft { subject: "jobs.reminder.appointment".into(), body, expected: Self::told(&family) }
    }

    fn shift(&mut self) -> Draft {
        let family = self.family();
        let user = family.members.choose(self.rng).unwrap().clone();
        let (minutes, round) = self.next_lead();
        let body = shift(&format!("s-{user}-{round}"), self.scene, minutes);
        let told = Told { users: [user].into(), push: true, direct: false };
        Draft { subject: "jobs.reminder.shift".into(), body, expected: Expected::Done(told) }
    }

    fn notification(&mut self) -> Draft {
        let family = self.family();
        let count = self.rng.random_range(1..=family.members.len());
        let users: BTreeSet<String> = family.members.choose_multiple(self.rng, count).cloned().collect();
        let mut recipients: Vec<Value> = users.iter().map(|user| json!({ "userId": user })).collect();
        recipients.push(json!({ "userId": "a-stranger" }));
        let push = self.rng.random_range(0..5) > 0;
        let channels = if push { json!([]) } else { json!(["CHANNEL_IN_APP"]) };
        let lane = *["critical", "normal", "bulk"].choose(self.rng).unwrap();
        let body = json!({ "recipients": recipients, "title": "Storm", "body": "It blows", "channels": channels });
        let expected = Expected::Done(Told { users, push, direct: true });
        Draft { subject: format!("jobs.notification.{lane}"), body, expected }
    }

    /// Alerts of one shortage.
    fn refills(&mut self, count: usize) {
        let family = self.family();
        let medication = format!("short-{}", self.jobs.len());
        for number in 0..count {
            let Expected::Done(told) = Self::told(&family) else { return };
            let expected = if count == 1 { Expected::Done(told) } else { Expected::Rival(self.rivals, told) };
            let body = json!({ "medicationId": medication, "currentSupply": 2, "refillAt": 10 });
            self.add(Draft { subject: "jobs.alert.refill".into(), body, expected });
            if let Some(job) = self.jobs.last_mut().filter(|_| number == 0) {
                job.shortage = Some((family.number, medication.clone()));
            }
        }
    }

    /// Several jobs for the same reminder.
    fn rivals(&mut self) {
        self.rivals += 1;
        let count = self.rng.random_range(2..=3);
        let draft = match self.rng.random_range(0..4) {
            0 => self.medication(),
            1 => self.appointment(),
            2 => self.shift(),
            _ => return self.refills(count),
        };
        for _ in 0..count {
            let Expected::Done(told) = draft.expected.clone() else { return };
            let expected = Expected::Rival(self.rivals, told);
            self.add(Draft { subject: draft.subject.clone(), body: draft.body.clone(), expected });
        }
    }

    fn skipped(&mut self) -> Draft {
        let f = self.family().number;
        let scene = self.scene;
        let dose = |id: String, at: chrono::DateTime<chrono::Utc>| json!({ "medicationId": id, "scheduledTime": at.to_rfc3339(), "reminderMinutes": DUE });
        let refill = |id: String| json!({ "medicationId": id, "currentSupply": 2, "refillAt": 10 });
        let cases = [
            ("reminder.medication", dose("gone".into(), scene.begins), "gone"),
            ("reminder.medication", dose(format!("stopped{f}"), scene.begins), "inactive"),
            ("reminder.medication", dose(format!("m{f}"), scene.given), "already_given"),
            ("reminder.medication", dose("untold".into(), scene.begins), "no_recipients"),
            ("reminder.appointment", appointment(&format!("a-cancelled{f}"), scene, 0), "cancelled"),
            ("reminder.appointment", appointment(&format!("a-over{f}"), scene, 0), "over"),
            ("reminder.appointment", appointment(&format!("a-moved{f}"), scene, 0), "moved"),
            ("reminder.shift", shift("gone", scene, 0), "gone"),
            ("alert.refill", refill(format!("m{f}")), "restocked"),
            ("alert.refill", refill(format!("stopped{f}")), "inactive"),
            (
                "notification.normal",
                json!({ "recipients": [{ "userId": "a-stranger" }], "title": "Storm" }),
                "no_recipients",
            ),
        ];
        let (kind, body, reason) = cases.choose(self.rng).unwrap();
        Draft { subject: format!("jobs.{kind}"), body: body.clone(), expected: Expected::Skipped(reason) }
    }

    /// A job that expired before it was published.
    fn late(&mut self) {
        let mut draft = if self.rng.random_bool(0.5) { self.medication() } else { self.notification() };
        draft.expected = Expected::Expired;
        self.add(draft);
        let past = (self.scene.given - TimeDelta::hours(1)).to_rfc3339();
        self.jobs.last_mut().unwrap().headers.push(("Carebell-Not-After", past));
    }

    /// An invalid body, a missing field or an unknown content type.
    fn undecodable(&mut self) {
        let mut draft = self.medication();
        draft.expected = Expected::Dead("undecodable");
        let which = self.rng.random_range(0..3);
        if which == 0 {
            draft.body.as_object_mut().unwrap().remove("medicationId");
        }
        self.add(draft);
        let job = self.jobs.last_mut().unwrap();
        match which {
            1 => job.body = Bytes::from_static(b"{\"medicationId\": "),
            2 => {
                job.headers.retain(|(name, _)| *name != "Content-Type");
                job.headers.push(("Content-Type", "text/plain".into()));
            }
            _ => {}
        }
    }

    fn unreadable(&mut self) {
        let mut draft = self.medication();
        draft.expected = Expected::Letter;
        self.add(draft);
        let job = self.jobs.last_mut().unwrap();
        let wrong = [
            ("Carebell-Backoff", "soon"),
            ("Carebell-Not-After", "tomorrow"),
            ("Carebell-Attempts", "a few"),
            ("Carebell-Job-Id", "an id with spaces"),
        ];
        let (name, value) = *wrong.choose(self.rng).unwrap();
        job.headers.retain(|(known, _)| *known != name);
        job.headers.push((name, value.to_owned()));
        job.delay = None;
    }

    fn add(&mut self, draft: Draft) {
        let Draft { subject, body, expected } = draft;
        let id = format!("storm-{}", self.jobs.len());
        let body_and_type = if self.rng.random_bool(0.5) { None } else { protobuf(&subject, &body) };
        let (content_type, body) = match body_and_type {
            Some(body) => ("application/x-protobuf", body),
            None => ("application/json", body.to_string().into()),
        };
        let mut headers = vec![
            ("Carebell-Job-Id", id.clone()),
            ("Content-Type", content_type.to_owned()),
            // Identifies a job whose id cannot be read.
            (super::MARK, id.clone()),
        ];
        let delay = self
            .rng
            .random_ratio(self.settings.scheduled, 100)
            .then(|| Duration::from_millis(self.rng.random_range(50..3000)));
        // With a message id, a schedule published again would not replace the first. Without one, the server stores a
        // repeated job twice.
        if delay.is_none() && self.rng.random_bool(0.6) {
            headers.push(("Nats-Msg-Id", id.clone()));
        }
        let sends = self.sends();
        self.jobs.push(Job { id, subject, headers, body, sends, delay, expected, shortage: None });
    }

    fn sends(&mut self) -> Vec<Duration> {
        let count = match self.rng.random_range(0..20) {
            0 => 3,
            1 => 2,
            _ => 1,
        };
        let span = self.settings.span;
        let first = self.rng.random_range(Duration::ZERO..span);
        let mut sends = vec![first];
        for _ in 1..count {
            sends.push((first + self.rng.random_range(Duration::ZERO..Duration::from_secs(3))).min(span));
        }
        sends
    }
}

fn appointment(id: &str, scene: &Scene, minutes: i32) -> Value {
    json!({ "appointmentId": id, "dateTime": scene.begins.to_rfc3339(), "reminderMinutes": minutes })
}

fn shift(id: &str, scene: &Scene, minutes: i32) -> Value {
    json!({ "shiftId": id, "startTime": scene.begins.to_rfc3339(), "reminderMinutes": minutes })
}

/// The body as protobuf, if it is a valid message of its subject.
fn protobuf(subject: &str, body: &Value) -> Option<Bytes> {
    fn encoded<M: Message + Default + ReflectMessage>(body: &Value) -> Option<Bytes> {
        let message: M = wire::from_json(body.to_string().as_bytes()).ok()?;
        Some(message.encode_to_vec().into())
    }
    match subject {
        "jobs.reminder.medication" => encoded::<wire::MedicationReminder>(body),
        "jobs.reminder.appointment" => encoded::<wire::AppointmentReminder>(body),
        "jobs.reminder.shift" => encoded::<wire::ShiftReminder>(body),
        "jobs.alert.refill" => encoded::<wire::RefillAlert>(body),
        _ => encoded::<wire::Notification>(body),
    }
}
