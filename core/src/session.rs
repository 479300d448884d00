//! Session identity.
