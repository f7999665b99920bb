//! The demo family of `carebell dev`, in its private database only.

use super::{CARE_CHANGED, CHANGED, database::Store, error::StoreError};

/// A user and their addresses.
#[derive(Clone, Debug)]
pub struct DemoMember {
    /// Id and name.
    pub name: String,
    /// Push endpoint.
    pub endpoint: String,
    /// Browser's public key.
    pub p256dh: String,
    /// Shared secret.
    pub auth: String,
    /// A second channel beside Web Push.
    pub beside: Option<DemoAddress>,
}

/// A second address.
#[derive(Clone, Debug)]
pub enum DemoAddress {
    /// E-mail.
    Email(String),
    /// Text message.
    Sms(String),
    /// Webhook.
    Webhook {
        /// URL.
        url: String,
        /// Signing secret.
        secret: String,
    },
}

impl DemoMember {
    /// Whether this is the member's second address.
    #[must_use]
    pub fn has(&self, address: &str) -> bool {
        match &self.beside {
            Some(DemoAddress::Email(own) | DemoAddress::Sms(own) | DemoAddress::Webhook { url: own, .. }) => {
                own == address
            }
            None => false,
        }
    }
}

impl Store {
    /// Ids of all schedules.
    pub async fn schedule_ids(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT id::text FROM schedules").fetch_all(&self.pool).await?)
    }

    /// Empties all tables of a private database, but for the schedules named by id, the tokens of the HTTP door, and what
    /// was migrated.
    pub async fn empty_private(&self, schedules: &[String]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        // Neither foreign keys nor triggers: the order of the tables does not matter, and nothing is announced.
        sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM schedules WHERE NOT id::text = ANY ($1)")
            .bind(schedules)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(include_str!("sql/empty_private.sql")).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Lets schedulers look at their tables, as after changes.
    pub async fn announce_changes(&self) -> Result<(), StoreError> {
        let announce = sqlx::query("SELECT pg_notify($1, ''), pg_notify($2, '')");
        announce.bind(CHANGED).bind(CARE_CHANGED).execute(&self.pool).await?;
        Ok(())
    }

    /// Creates a family that cares for Rose. She takes `metformin`, which runs low, and has the appointment `checkup`
    /// tomorrow at 09:00 UTC. Without a refill threshold, no alert disturbs the doses that the demo counts.
    pub async fn seed_demo(&self, members: &[DemoMember]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO families (id) VALUES ('the-browns')").execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO care_recipients (id, family_id, name) VALUES ('rose', 'the-browns', 'Rose')")
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO medications (id, care_recipient_id, name, dosage, current_supply) \
             VALUES ('metformin', 'rose', 'Metformin', '500 mg', 5)",
        )
        .execute(&mut *transaction)
        .await?;
        // Tomorrow, so that its reminder can be published by hand.
        sqlx::query(
            "INSERT INTO appointments (id, care_recipient_id, title, starts_at) \
             VALUES ('checkup', 'rose', 'Check-up', ((now() AT TIME ZONE 'UTC')::date + 1 + time '09:00') AT TIME ZONE 'UTC')",
        )
        .execute(&mut *transaction)
        .await?;
        for member in members {
            let id = member.name.to_lowercase();
            sqlx::query("INSERT INTO users (id, name) VALUES ($1, $2)")
                .bind(&id)
                .bind(&member.name)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("INSERT INTO family_members (family_id, user_id) VALUES ('the-browns', $1)")
                .bind(&id)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("INSERT INTO push_subscriptions (user_id, endpoint, p256dh, auth) VALUES ($1, $2, $3, $4)")
                .bind(&id)
                .bind(&member.endpoint)
                .bind(&member.p256dh)
                .bind(&member.auth)
                .execute(&mut *transaction)
                .await?;
            let Some(beside) = &member.beside else { continue };
            let (channel, address, secret) = match beside {
                DemoAddress::Email(address) => ("email", address, None),
                DemoAddress::Sms(number) => ("sms", number, None),
                DemoAddress::Webhook { url, secret } => ("webhook", url, Some(secret)),
            };
            sqlx::query("INSERT INTO user_addresses (user_id, channel, address, secrets) VALUES ($1, $2, $3, $4)")
                .bind(&id)
                .bind(channel)
                .bind(address)
                .bind(secret)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("INSERT INTO preferences (user_id, channels) VALUES ($1, ARRAY['web_push', $2])")
                .bind(&id)
                .bind(channel)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
