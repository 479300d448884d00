//! Faults that are put in on purpose, to show that the invariants would find them. Each alters what an engine says or receives;
//! the code under test stays as it is.

/// A fault that is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A proxy in panic names its unhealthy nodes as unusable and does not say that it is in panic.
    PanicRewritesPins,
    /// A release whose stream is gone counts as delivered.
    LostRelease,
    /// A proxy that does not see its members renews the cooldowns that it saw before.
    UnrenewedCooldown,
    /// No proxy learns of a rehome.
    SilentRehome,
    /// No proxy learns that it missed changes.
    SilentGap,
    /// The state service is not notified that a session is over.
    LostEnd,
}

impl Mutant {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("panic-rewrites-pins", Self::PanicRewritesPins),
        ("lost-release", Self::LostRelease),
        ("unrenewed-cooldown", Self::UnrenewedCooldown),
        ("silent-rehome", Self::SilentRehome),
        ("silent-gap", Self::SilentGap),
        ("lost-end", Self::LostEnd),
    ];

    /// The mutant of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
    }
}
