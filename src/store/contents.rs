//! `contents` and `notifications`: the texts of a notification job, one for each language, and one per inbox.

use sqlx::PgConnection;

use super::{StoreError, runs::Commit};
use crate::plan::Content;

/// Writes the texts and the inbox rows of these runs. A row that is there already stays as it is.
pub(super) async fn insert(connection: &mut PgConnection, commits: &[&Commit]) -> Result<(), StoreError> {
    let with_content: Vec<(&Commit, &Content)> =
        commits.iter().flat_map(|commit| commit.plan.contents.iter().map(move |content| (*commit, content))).collect();
    if with_content.is_empty() {
        return Ok(());
    }
    // One statement: the inbox rows copy their text from the arrays that also make the `contents` rows.
    let mut owner = Vec::new();
    let mut ids = Vec::new();
    let mut users = Vec::new();
    for (index, (commit, content)) in (1_i32..).zip(&with_content) {
        for row in commit.plan.inbox.iter().filter(|row| row.locale == content.locale) {
            owner.push(index);
            ids.push(row.id.as_str());
            users.push(row.user_id.as_str());
        }
    }
    sqlx::query(
        "WITH texts AS ( \
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[], \
                                  $8::timestamptz[], $12::text[]) \
                  WITH ORDINALITY AS t(job_id, type, title, body, url, data, tag, now, locale, position)), \
         kept AS ( \
             INSERT INTO contents (job_id, type, title, body, url, data, tag, created_at, locale) \
             SELECT job_id, type, title, body, url, data, tag, now, locale FROM texts ON CONFLICT DO NOTHING) \
         INSERT INTO notifications (id, job_id, user_id, type, title, body, url, data, created_at) \
         SELECT r.id, t.job_id, r.user_id, t.type, t.title, t.body, t.url, t.data, t.now \
         FROM unnest($9::int[], $10::text[], $11::text[]) AS r(owner, id, user_id) \
         JOIN texts t ON t.position = r.owner \
         ON CONFLICT (job_id, user_id) DO NOTHING",
    )
    .bind(with_content.iter().map(|(commit, _)| commit.meta.root_id.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.kind.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.title.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.body.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.url.as_deref()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| serde_json::Value::Object(content.data.clone())).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.tag.as_deref()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(commit, _)| commit.now).collect::<Vec<_>>())
    .bind(owner)
    .bind(ids)
    .bind(users)
    .bind(with_content.iter().map(|(_, content)| content.locale.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
