//! `contents` and `notifications`: the texts of a notification job, one for each language, and one per inbox.

use sqlx::PgConnection;

use super::{StoreError, runs::Commit};
use crate::plan::{Content, InboxRow};

/// Writes the texts and the inbox rows of these runs. A row that is there already stays as it is.
pub(super) async fn insert(connection: &mut PgConnection, commits: &[&Commit]) -> Result<(), StoreError> {
    let with_content: Vec<(&Commit, &Content)> =
        commits.iter().flat_map(|commit| commit.plan.contents.iter().map(move |content| (*commit, content))).collect();
    if with_content.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO contents (job_id, type, title, body, url, data, tag, created_at, locale) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[], \
                              $8::timestamptz[], $9::text[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(with_content.iter().map(|(commit, _)| commit.meta.root_id.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.kind.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.title.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.body.as_str()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.url.as_deref()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| serde_json::Value::Object(content.data.clone())).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.tag.as_deref()).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(commit, _)| commit.now).collect::<Vec<_>>())
    .bind(with_content.iter().map(|(_, content)| content.locale.as_str()).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    let inbox: Vec<(&Commit, &InboxRow)> =
        commits.iter().flat_map(|commit| commit.plan.inbox.iter().map(move |row| (*commit, row))).collect();
    // The texts are read back by their key: sent along, they would be sent once for each recipient.
    sqlx::query(
        "INSERT INTO notifications (id, job_id, user_id, type, title, body, url, data, created_at) \
         SELECT r.id, r.job_id, r.user_id, c.type, c.title, c.body, c.url, c.data, r.now \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[]) AS r(id, job_id, user_id, locale, now) \
         JOIN contents c USING (job_id, locale) \
         ON CONFLICT (job_id, user_id) DO NOTHING",
    )
    .bind(inbox.iter().map(|(_, row)| row.id.as_str()).collect::<Vec<_>>())
    .bind(inbox.iter().map(|(commit, _)| commit.meta.root_id.as_str()).collect::<Vec<_>>())
    .bind(inbox.iter().map(|(_, row)| row.user_id.as_str()).collect::<Vec<_>>())
    .bind(inbox.iter().map(|(_, row)| row.locale.as_str()).collect::<Vec<_>>())
    .bind(inbox.iter().map(|(commit, _)| commit.now).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
