/// Rule for civil times that the clock skips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gap {
    /// They happen at the first instant after the gap, as one.
    #[default]
    Shift,
    /// They don't happen.
    Skip,
}

impl Gap {
    /// As written in a schedule.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shift => "shift",
            Self::Skip => "skip",
        }
    }

    /// Parses a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Shift, Self::Skip].into_iter().find(|gap| gap.name() == text)
    }
}

/// Rule for civil times that the clock repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fold {
    /// The first time only.
    #[default]
    First,
    /// The second time only.
    Second,
    /// Both times.
    Both,
}

impl Fold {
    /// As written in a schedule.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Both => "both",
        }
    }

    /// Parses a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::First, Self::Second, Self::Both].into_iter().find(|fold| fold.name() == text)
    }
}

/// Rules of a schedule. An expression whose hour is a bare `*` ignores them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For skipped times.
    pub gap: Gap,
    /// For repeated times.
    pub fold: Fold,
}

/// Effect of a rule on an occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Skipped by the clock; happens right after the gap.
    Moved,
    /// Happened before, under the earlier offset.
    Repeated,
    /// Skipped by the clock; does not happen.
    Dropped,
}

impl Note {
    /// As shown in previews.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Repeated => "repeated",
            Self::Dropped => "dropped",
        }
    }
}
