//! Keys of `core/testdata/token`.

/// An RSA key of 2048 bits.
pub const RSA: &str = include_str!("../../testdata/token/rsa-2048.pem");
/// One on P-256.
pub const P256: &str = include_str!("../../testdata/token/p256.pem");
/// One on P-384.
pub const P384: &str = include_str!("../../testdata/token/p384.pem");
/// One on Ed25519.
pub const ED25519: &str = include_str!("../../testdata/token/ed25519.pem");
/// What signs for it.
pub const ED25519_PRIVATE: &str = include_str!("../../testdata/token/ed25519.private.pem");
