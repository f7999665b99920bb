//! Jobs as older systems publish them: `{data, options: {jobId, delay, attempts}}` to a queue, or `type: daily|range`.

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    older::Meant,
    schedules::{self, Written},
};
use crate::{
    admin::{
        access::Viewer,
        api::{JsonText, Path, Published, parse, publish_text},
        problem::Problem,
        state::Admin,
    },
    gateway::key,
    kind::{Lane, Queue},
};

/// Names of our fields, and theirs.
const NAMES: [(&str, &str); 4] =
    [("job", "data"), ("jobId", "options.jobId"), ("delay", "options.delay"), ("attempts", "options.attempts")];

/// Whether it is one job, or one of each day.
#[derive(Debug, Deserialize)]
struct Sort {
    r#type: Option<IgnoredAny>,
}

/// A job.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Publishing {
    data: Box<RawValue>,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Options {
    job_id: Option<String>,
    /// Milliseconds.
    delay: Option<u64>,
    attempts: Option<u32>,
}

/// Publishes a job, or saves a daily one.
pub async fn publish(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    headers: HeaderMap,
    JsonText(text): JsonText,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let meant = Meant::named(&admin, &name)?;
    let queue = Queue { kind: meant.kind, lane: meant.lane.or_else(|| meant.kind.lane_for(Lane::Normal)) };
    admin.open_queue(&queue.durable())?;
    if parse::<Sort>(&text)?.r#type.is_some() {
        return schedules::of_queue(&admin, &viewer, &meant, parse::<Written>(&text)?).await;
    }
    let Publishing { data, options } = parse(&text)?;
    let mut fields = Map::new();
    let given = [
        ("jobId", options.job_id.map(Value::from)),
        ("delay", options.delay.map(|millis| format!("{millis}ms").into())),
        ("attempts", options.attempts.map(Value::from)),
    ];
    fields.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    let mut text = serde_json::to_string(&fields).unwrap_or_default();
    text.truncate(text.len() - 1);
    let comma = if fields.is_empty() { "" } else { "," };
    // As it was written: numbers keep their digits.
    let text = format!("{text}{comma}\"job\":{}}}", data.get());
    let id = headers.get("Idempotency-Key").map(|value| value.to_str().map(key).unwrap_or_default());
    let published = publish_text(&admin, &viewer, queue, &Bytes::from(text), id).await;
    let (status, Json(Published { job_id, duplicate })) = published.map_err(|why| why.with_names(&NAMES))?;
    Ok((status, Json(json!({ "jobId": job_id, "duplicate": duplicate }))))
}
