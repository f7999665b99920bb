//! The family that `carebell dev` shows. Written only into its own private database.

use super::{Store, StoreError};

/// A user of the demo and where to reach them.
#[derive(Clone, Debug)]
pub struct DemoMember {
    /// Their id and name.
    pub name: String,
    /// The push endpoint.
    pub endpoint: String,
    /// The browser's public key.
    pub p256dh: String,
    /// The shared secret.
    pub auth: String,
    /// Another way to reach them, which they chose beside Web Push.
    pub beside: Option<DemoAddress>,
}

/// Another way to reach a user of the demo.
#[derive(Clone, Debug)]
pub enum DemoAddress {
    /// By e-mail.
    Email(String),
    /// By text message.
    Sms(String),
    /// By a webhook.
    Webhook {
        /// Its URL.
        url: String,
        /// What its requests are signed with.
        secret: String,
    },
}

impl Store {
    /// A family of these members, who care for Rose, who takes the medication `metformin`, of which little is left, and
    /// has the appointment `checkup` tomorrow at 09:00 UTC. At how many doses a refill is due the medication does not say,
    /// so that an alert of it is published by hand, and does not come among the doses that the demo counts.
    ///
    /// # Errors
    /// If the database does not answer, or has such a family already.
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
        // Tomorrow at nine, so that a reminder of it can be published by hand.
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
            sqlx::query("INSERT INTO preferences (user_id, channels) VALUES ($1, ARRAY['push', $2])")
                .bind(&id)
                .bind(channel)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
