//! The end of a delivery, for the ledger.

/// The end of a delivery, for the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The final state of the row.
    pub state: Delivered,
    /// Why it was not sent.
    pub reason: Option<&'static str>,
    /// Who answered: a provider's name, or the host.
    pub provider: String,
    /// The provider's own message id, by which its status can be asked.
    pub provider_id: Option<String>,
    /// The answer in short, for example `201`.
    pub answer: String,
    /// Whether the address is gone for good and is to be removed.
    pub address_gone: bool,
    /// Whether it was sent in the person's quiet hours because it is critical.
    pub overrode_quiet_hours: bool,
}

impl Receipt {
    /// A send that may have been accepted. It cannot be called back, so it is not repeated: a person has to look.
    #[must_use]
    pub fn unknown(provider: &str, why: &str) -> Self {
        Self {
            state: Delivered::Unknown,
            reason: Some("no_answer"),
            provider: provider.to_owned(),
            provider_id: None,
            answer: why.to_owned(),
            address_gone: false,
            overrode_quiet_hours: false,
        }
    }
}

/// The final state of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Accepted by the provider.
    Sent,
    /// Refused, and by nobody's mistake: the subscription has ended, for example.
    Failed,
    /// Nobody knows whether it was accepted. Sending again might reach the person twice.
    Unknown,
}
