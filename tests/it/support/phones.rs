//! Two SMS and voice providers, and deliveries through them.

use std::path::PathBuf;

use carebell::{dev::phone_service::PhoneService, kind::Lane, plan::Channel};
use serde_json::json;
use sqlx::Row as _;

use super::{Worker, World};

/// A number that belongs to no user.
pub const NUMBER: &str = "+4366012345678";

pub struct Phones {
    pub first: PhoneService,
    pub second: PhoneService,
    ca_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub state: String,
    pub reason: Option<String>,
    pub attempts: i32,
    pub provider: Option<String>,
    pub provider_id: Option<String>,
    pub answer: Option<String>,
}

impl Row {
    pub fn ended(&self) -> (&str, Option<&str>, i32) {
        (self.state.as_str(), self.reason.as_deref(), self.attempts)
    }
}

impl Phones {
    pub async fn start(world: &World) -> Self {
        let (first, second) = (PhoneService::start().await.unwrap(), PhoneService::start().await.unwrap());
        let ca_file = world.directory.path().join("providers.pem");
        std::fs::write(&ca_file, format!("{}{}", first.ca_pem(), second.ca_pem())).unwrap();
        Self { first, second, ca_file }
    }

    /// Variables of a channel (`SMS`, `WHATSAPP`, `VOICE`) with the first provider.
    pub fn one(&self, channel: &str) -> Vec<(String, String)> {
        vec![
            (format!("{channel}_PROVIDER_URL"), self.first.url()),
            (format!("{channel}_FROM"), "+43720123456".into()),
            ("PROVIDER_CA_FILE".into(), self.ca_file.display().to_string()),
        ]
    }

    /// With both providers.
    pub fn both(&self, channel: &str) -> Vec<(String, String)> {
        let mut variables = self.one(channel);
        variables.push((format!("{channel}_FALLBACK_URL"), self.second.url()));
        variables.push((format!("{channel}_FALLBACK_FROM"), "+43720654321".into()));
        variables
    }

    pub fn worker(world: &World, variables: &[(String, String)], more: &[(&str, &str)]) -> Worker {
        let own = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Worker::with(world, &own.chain(more.iter().copied()).collect::<Vec<_>>())
    }
}

impl World {
    pub async fn text(&self, job_id: &str, numbers: usize) {
        let numbers: Vec<_> = (0..numbers).map(|number| format!("{NUMBER}{number}")).collect();
        self.text_to(job_id, &numbers).await;
    }

    pub async fn text_to(&self, job_id: &str, numbers: &[String]) {
        let recipients: Vec<_> = numbers.iter().map(|number| json!({ "phone": number })).collect();
        let body =
            json!({ "recipients": recipients, "title": "Visit moved", "body": "To Friday", "url": "/visits?id=3" });
        self.publish_json("jobs.notification.normal", job_id, &body).await;
    }

    /// Waits until all deliveries of a root job have ended.
    pub async fn rows(&self, root_id: &str) -> Vec<Row> {
        self.ledger(root_id).await;
        self.rows_now(root_id).await
    }

    pub async fn rows_now(&self, root_id: &str) -> Vec<Row> {
        let rows = sqlx::query(
            "SELECT id, state, reason, attempts, provider, provider_id, answer FROM deliveries WHERE job_id = $1 \
             ORDER BY id",
        )
        .bind(root_id)
        .fetch_all(&self.db)
        .await
        .unwrap();
        let read = |row: &sqlx::postgres::PgRow| Row {
            id: row.get("id"),
            state: row.get("state"),
            reason: row.get("reason"),
            attempts: row.get("attempts"),
            provider: row.get("provider"),
            provider_id: row.get("provider_id"),
            answer: row.get("answer"),
        };
        rows.iter().map(read).collect()
    }

    /// Plans one delivery and publishes its message.
    pub async fn deliver(&self, id: &str, channel: Channel, address: &str, text: (&str, &str)) {
        let subject = channel.kind().subject(Lane::Normal);
        sqlx::query(
            "INSERT INTO contents (job_id, type, title, body, url, data, created_at) \
             VALUES ($1, 'T', $2, $3, '/visits?id=3', '{}', now())",
        )
        .bind(format!("job-{id}"))
        .bind(text.0)
        .bind(text.1)
        .execute(&self.db)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, subject, state, not_after, \
                                     created_at, updated_at) \
             VALUES ($1, $2, $2, '', $3, $4, 'normal', $5, 'pending', now() + interval '1 hour', now(), now())",
        )
        .bind(id)
        .bind(format!("job-{id}"))
        .bind(channel.name())
        .bind(address)
        .bind(&subject)
        .execute(&self.db)
        .await
        .unwrap();
        let root = format!("job-{id}");
        let headers =
            [("Carebell-Job-Id", id), ("Carebell-Root-Id", root.as_str()), ("Content-Type", "application/json")];
        self.publish(&subject, &headers, json!({ "deliveryId": id }).to_string()).await;
    }
}
