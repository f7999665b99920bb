//! Somebody who uses the console while the storm blows: looks at pages, pauses queues and resumes them.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, COOKIE},
};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::jobs::Job;
use crate::support::{ADMIN_TOKEN, Console, World, utc_now};

const PLACES: [&str; 8] = [
    "/console",
    "/console/jobs",
    "/console/queues",
    "/console/delayed",
    "/console/dead-letters",
    "/console/schedules",
    "/console/audit",
    "/admin/api/v1/health",
];

/// Queues that most jobs go through.
const QUEUES: [&str; 4] =
    ["reminder_medication", "notification_normal", "deliver_web_push_critical", "deliver_web_push_normal"];

/// A pause ends by itself after this long.
const PAUSE: TimeDelta = TimeDelta::seconds(2);

/// The console answers within it, whatever is down.
const PATIENCE: Duration = Duration::from_secs(15);

/// Statements and requests of the console end after two seconds, and a page makes some.
pub struct Somebody {
    console: Console,
    cookie: String,
}

/// How the console answered.
#[derive(Clone, Debug, Default)]
pub struct Clicks {
    pub answers: usize,
    /// Of these, those that say that a server is away.
    pub unavailable: usize,
    pub slowest: Duration,
    /// Answers that nobody should get.
    pub odd: Vec<String>,
}

impl Somebody {
    pub async fn sit_down(world: &World, more: &[(&str, &str)]) -> Self {
        let console = Console::with(world, more).await;
        let cookie = console.sign_in(ADMIN_TOKEN).await;
        Self { console, cookie }
    }

    pub async fn click(&self, jobs: Arc<Vec<Job>>, start: Instant, span: Duration, mut rng: StdRng) -> Clicks {
        let mut clicks = Clicks::default();
        let mut after = Duration::ZERO;
        while after < span {
            sleep_until(start + after).await;
            let (method, place) = match rng.random_range(0..10) {
                0..6 => (Method::GET, (*PLACES.choose(&mut rng).unwrap()).to_owned()),
                6..8 => (Method::GET, format!("/console/jobs/{}", jobs.choose(&mut rng).unwrap().id)),
                act => {
                    let act = if act == 8 { "pause" } else { "resume" };
                    (Method::POST, format!("/admin/api/v1/queues/{}/{act}", QUEUES.choose(&mut rng).unwrap()))
                }
            };
            self.press(method, &place, &mut clicks).await;
            after = start.elapsed() + rng.random_range(Duration::from_millis(20)..Duration::from_millis(300));
        }
        clicks
    }

    async fn press(&self, method: Method, place: &str, clicks: &mut Clicks) {
        let began = Instant::now();
        let request = self.console.request(method.clone(), place).timeout(PATIENCE);
        let request = if place.starts_with("/console") {
            request.header(COOKIE, &self.cookie)
        } else {
            request.bearer_auth(ADMIN_TOKEN)
        };
        let request = match method {
            Method::POST => request
                .header(CONTENT_TYPE, "application/json")
                .body(json!({ "reason": "a storm", "until": utc_now() + PAUSE }).to_string()),
            _ => request,
        };
        match request.send().await {
            Ok(response) => {
                clicks.answers += 1;
                match response.status() {
                    StatusCode::SERVICE_UNAVAILABLE => clicks.unavailable += 1,
                    status if status.is_server_error() || status.is_redirection() => {
                        clicks.odd.push(format!("{method} {place}: {status}"));
                    }
                    _ => {}
                }
            }
            Err(error) => clicks.odd.push(format!("{method} {place}: {error}")),
        }
        clicks.slowest = clicks.slowest.max(began.elapsed());
    }
}
