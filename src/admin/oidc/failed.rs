/// Why somebody is not signed in. Texts repeat nothing that a person or the provider wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The provider does not answer, or not as one does.
    #[error("the provider is away: {0}")]
    Away(String),
    /// The proof does not hold.
    #[error("{0}")]
    Refused(String),
    /// It holds, and no role is mapped to it.
    #[error("{0}")]
    NoRole(String),
}
