//! The events of a storm as data. The judge sees nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::Row;

use super::{MARK, faults::Fault, fleet::worker_of, jobs::Expected};
use crate::support::World;

#[derive(Clone, Debug, Default)]
pub struct History {
    pub jobs: Vec<Asked>,
    /// Browsers of each user that stayed subscribed.
    pub live: BTreeMap<String, Vec<String>>,
    /// By job id.
    pub runs: HashMap<String, Run>,
    /// Root and user.
    pub inbox: Vec<(String, String)>,
    pub deliveries: Vec<Delivery>,
    /// By job id and by the storm's mark.
    pub letters: HashMap<String, BTreeSet<String>>,
    /// Accepted, in order.
    pub pushes: Vec<Push>,
    pub faults: Vec<Fault>,
    /// By worker and delivery.
    pub words: HashMap<(usize, String), Vec<Word>>,
}

/// A published and acknowledged job.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: String,
    pub expected: Expected,
    /// When it could first run.
    pub ready: DateTime<Utc>,
    pub scheduled: bool,
}

/// A row of `job_runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub state: String,
    pub reason: Option<String>,
}

/// A row of `deliveries` that is sent; others only say why nobody is told.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: String,
    pub root: String,
    pub user: String,
    pub browser: String,
    pub state: String,
    pub reason: Option<String>,
    /// For the report: claims, and sequence and delivery count of the last.
    pub fence: String,
}

#[derive(Clone, Debug)]
pub struct Push {
    pub browser: String,
    pub topic: String,
    pub worker: usize,
    pub at: DateTime<Utc>,
}

/// A logged outcome of a delivery.
#[derive(Clone, Debug)]
pub struct Word {
    pub at: DateTime<Utc>,
    pub began: DateTime<Utc>,
    pub outcome: String,
}

impl History {
    /// Call it when the storm is over.
    pub async fn read(&mut self, world: &World, logs: &[PathBuf]) {
        self.read_rows(world).await;
        for (_, headers, _) in world.dead_letters().await {
            let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
            let reason = header("Carebell-Dead-Reason").unwrap_or_default();
            for name in [header("Carebell-Job-Id"), header(MARK)].into_iter().flatten() {
                self.letters.entry(name).or_default().insert(reason.clone());
            }
        }
        for push in world.push.received() {
            let worker = worker_of(&push.claims.sub).expect("a worker of the storm signed it");
            self.pushes.push(Push { browser: push.name, topic: push.topic, worker, at: push.received });
        }
        for (worker, log) in logs.iter().enumerate() {
            self.read_log(worker, log);
        }
    }

    async fn read_rows(&mut self, world: &World) {
        let runs = sqlx::query("SELECT job_id, state, reason FROM job_runs").fetch_all(&world.db).await.unwrap();
        for row in runs {
            self.runs.insert(row.get(0), Run { state: row.get(1), reason: row.get(2) });
        }
        let inbox = sqlx::query("SELECT job_id, user_id FROM notifications").fetch_all(&world.db).await.unwrap();
        self.inbox = inbox.iter().map(|row| (row.get(0), row.get(1))).collect();
        let deliveries = sqlx::query(
            "SELECT id, job_id, user_id, address, state, reason, \
                    format('%s claims, last %s/%s at %s', claims, claim_seq, claim_delivery, claimed_at) AS fence \
             FROM deliveries WHERE subject IS NOT NULL",
        );
        for row in deliveries.fetch_all(&world.db).await.unwrap() {
            self.deliveries.push(Delivery {
                id: row.get(0),
                root: row.get(1),
                user: row.get(2),
                browser: row.get(3),
                state: row.get(4),
                reason: row.get(5),
                fence: row.get(6),
            });
        }
    }

    fn read_log(&mut self, worker: usize, log: &PathBuf) {
        // A killed worker may leave half a line.
        for line in BufReader::new(File::open(log).unwrap()).split(b'\n').map_while(Result::ok) {
            let Ok(line) = serde_json::from_slice::<Value>(&line) else { continue };
            if let Some((delivery, word)) = word(&line) {
                self.words.entry((worker, delivery)).or_default().push(word);
            }
        }
    }
}

fn word(line: &Value) -> Option<(String, Word)> {
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    if text("kind")? != "deliver.web_push" {
        return None;
    }
    let at: DateTime<Utc> = text("timestamp")?.parse().ok()?;
    let took = line.get("duration_ms").and_then(Value::as_i64).unwrap_or(0);
    // Durations are whole milliseconds, so it may have begun one earlier.
    let began = at - TimeDelta::milliseconds(took + 1);
    Some((text("job")?.to_owned(), Word { at, began, outcome: text("outcome")?.to_owned() }))
}
