//! Faults that are put in on purpose, to show that the invariants would find them. Each alters what an engine says or receives;
//! the code under test stays as it is.

/// A fault that is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A proxy in panic names its unhealthy nodes as unusable and does not say that it is in panic.
    PanicRewritesPins,
    /// A decision whose stream is gone counts as delivered, whether the stream left before the release or before the response.
    LostRelease,
    /// A proxy that does not see its members renews the cooldowns that it saw before.
    UnrenewedCooldown,
    /// No proxy learns of a rehome.
    SilentRehome,
    /// No proxy learns that it missed changes.
    SilentGap,
    /// The state service is not notified that a session is over.
    LostEnd,
    /// A new configuration does not know which nodes have left, and with which start of each its sessions began.
    ForgetfulReload,
    /// An answer that was asked for before a change is believed: no doubt is cast on what is under way.
    StaleAnswer,
    /// The engine does not see that a node was restarted.
    SilentRestart,
}

impl Mutant {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 9] = [
        ("panic-rewrites-pins", Self::PanicRewritesPins),
        ("lost-release", Self::LostRelease),
        ("unrenewed-cooldown", Self::UnrenewedCooldown),
        ("silent-rehome", Self::SilentRehome),
        ("silent-gap", Self::SilentGap),
        ("lost-end", Self::LostEnd),
        ("forgetful-reload", Self::ForgetfulReload),
        ("stale-answer", Self::StaleAnswer),
        ("silent-restart", Self::SilentRestart),
    ];

    /// The mutant of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, mutant)| *mutant)
    }
}
