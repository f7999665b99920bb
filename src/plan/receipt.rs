/// The end of a delivery, for the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// Final state.
    pub state: Delivered,
    /// Why it was not sent.
    pub reason: Option<&'static str>,
    /// A provider's name or host.
    pub provider: String,
    /// Provider's message id.
    pub provider_id: Option<String>,
    /// Short form, for example `201`.
    pub answer: String,
    /// Whether to remove the address, or to mark it.
    pub address_gone: bool,
    /// Of a subscription that is malformed: the fingerprint of what was tried, so that no corrected one is marked.
    pub tried: Option<String>,
    /// Whether it was sent in quiet hours because it is critical.
    pub overrode_quiet_hours: bool,
}

impl Receipt {
    /// A send that may have been accepted. It is not repeated: a person has to look.
    #[must_use]
    pub fn unknown(provider: &str, why: &str) -> Self {
        Self {
            state: Delivered::Unknown,
            reason: Some("no_answer"),
            provider: provider.to_owned(),
            provider_id: None,
            answer: why.to_owned(),
            address_gone: false,
            tried: None,
            overrode_quiet_hours: false,
        }
    }
}

/// The final state of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Accepted by the provider.
    Sent,
    /// Refused through nobody's mistake, for example because the subscription ended.
    Failed,
    /// Possibly accepted. A retry might reach the person twice.
    Unknown,
}
