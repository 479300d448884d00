//! The promises of this module, kept.
