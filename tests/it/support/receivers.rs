//! Receivers beside the world's push service: mail, text messages and webhooks.

use carebell::dev::{
    smtp_server::{Protection, SmtpServer},
    webhook_endpoint::WebhookEndpoint,
};

use super::{Phones, World};

pub struct Receivers {
    pub mail: SmtpServer,
    pub phones: Phones,
    pub hooks: WebhookEndpoint,
    /// For a worker.
    pub variables: Vec<(String, String)>,
}

impl Receivers {
    pub async fn start(world: &World) -> Self {
        let mail = SmtpServer::start(Protection::Tls, None).await.unwrap();
        let phones = Phones::start(world).await;
        let hooks = WebhookEndpoint::start().await.unwrap();
        let mut variables = phones.one("SMS");
        for (name, pem) in [("SMTP_CA_FILE", mail.ca_pem()), ("WEBHOOK_CA_FILE", hooks.ca_pem())] {
            let file = world.directory.path().join(format!("{}.pem", name.to_lowercase()));
            std::fs::write(&file, pem).unwrap();
            variables.push((name.into(), file.display().to_string()));
        }
        let named = [
            ("SMTP_URL", mail.url()),
            ("SMTP_FROM", "Carebell <care@example.org>".into()),
            ("WEBHOOK_ALLOWED_HOSTS", hooks.host_port()),
        ];
        variables.extend(named.map(|(name, value)| (name.to_owned(), value)));
        Self { mail, phones, hooks, variables }
    }

    pub fn with<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        own.chain(more.iter().copied()).collect()
    }

    /// The endpoint knows the webhook by the user's name.
    pub async fn hook(&self, world: &World, user: &str) {
        let (url, secret) = self.hooks.subscribe(user);
        sqlx::query("INSERT INTO user_addresses (user_id, channel, address, secrets) VALUES ($1, 'webhook', $2, $3)")
            .bind(user)
            .bind(url)
            .bind(secret)
            .execute(&world.db)
            .await
            .unwrap();
    }

    pub fn are_content(&self, world: &World) {
        assert_eq!(world.push.rejected(), []);
        assert_eq!(self.mail.violations(), [""; 0]);
        assert_eq!(self.phones.first.rejected(), []);
        assert_eq!(self.hooks.rejected(), [""; 0]);
    }
}
