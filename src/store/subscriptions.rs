//! `users` and `push_subscriptions`: who exists, and where they can be reached.

use std::{collections::BTreeMap, fmt};

use sqlx::Row;

use super::{Store, StoreError};

/// A Web Push subscription, as the browser gave it. All three parts are secrets of the user's.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The push service's URL for this browser.
    pub endpoint: String,
    /// The browser's public key, base64url.
    pub p256dh: String,
    /// The shared secret, base64url.
    pub auth: String,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription(…)")
    }
}

/// The known users among those asked for, each with the ids of their Web Push subscriptions.
pub type Addresses = BTreeMap<String, Vec<String>>;

impl Store {
    /// Which of these users exist, and their subscriptions.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn addresses(&self, user_ids: &[String]) -> Result<Addresses, StoreError> {
        let rows = sqlx::query(
            "SELECT u.id AS user_id, s.id AS subscription_id FROM users u \
             LEFT JOIN push_subscriptions s ON s.user_id = u.id WHERE u.id = ANY($1) ORDER BY s.id",
        )
        .bind(user_ids)
        .fetch_all(&self.pool)
        .await?;
        let mut addresses = Addresses::new();
        for row in rows {
            let subscriptions = addresses.entry(row.try_get("user_id")?).or_default();
            subscriptions.extend(row.try_get::<Option<String>, _>("subscription_id")?);
        }
        Ok(addresses)
    }
}
