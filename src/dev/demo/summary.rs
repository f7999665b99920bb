use serde_json::json;

/// Result of `--once`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Reminders published.
    pub reminders: usize,
    /// Inbox rows written.
    pub inbox_rows: i64,
    /// Pushes sent, by the ledger.
    pub pushes_sent: i64,
    /// Pushes received and decrypted.
    pub pushes_decrypted: usize,
    /// Pushes received more than once.
    pub duplicates: usize,
    /// Mails received.
    pub mails: usize,
    /// Text messages received.
    pub texts: usize,
    /// Webhook requests received and verified.
    pub webhooks: usize,
    /// From publish to the last push, in milliseconds, including the delay.
    pub elapsed_ms: u128,
    /// From the due time to the last push, in milliseconds.
    pub due_to_last_push_ms: i64,
}

impl Summary {
    /// As one JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "reminders": self.reminders,
            "inbox_rows": self.inbox_rows,
            "pushes_sent": self.pushes_sent,
            "pushes_decrypted": self.pushes_decrypted,
            "duplicates": self.duplicates,
            "mails": self.mails,
            "texts": self.texts,
            "webhooks": self.webhooks,
            "elapsed_ms": self.elapsed_ms,
            "due_to_last_push_ms": self.due_to_last_push_ms,
        })
    }
}
