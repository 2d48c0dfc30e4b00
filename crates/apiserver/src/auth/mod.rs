//! Authentication and authorization.
//!
//! [`Auth`] is the one object that the request path holds: [`Auth::authenticate`] turns credentials into a
//! [`UserInfo`], [`Auth::authorizer`] decides, [`Auth::review`] answers the review kinds and [`Auth::token_request`]
//! makes service-account tokens. Roles and bindings are read from the store; nothing is cached beyond the next change.

mod authenticator;
mod authorizer;
pub mod escalation;
pub mod pki;
mod review;
pub mod token;
pub mod user;

pub use authenticator::{Tie, node_of};
pub use authorizer::{Authorizer, denied};
pub use pki::Pki;

use crate::request::{Attributes, Decision, UserInfo};
use crate::status::ApiError;
use crate::store::Store;

/// Authentication and authorization over one store.
pub struct Auth {
    /// Where accounts, roles and bindings are.
    store: Store,
    /// Signs and verifies tokens.
    key: token::TokenKey,
    /// Decides.
    pub authorizer: Authorizer,
}

impl Auth {
    /// From the store and the PKCS#8 key in [`Pki::token_key`].
    ///
    /// # Errors
    /// When the key is not a P-256 key.
    pub fn new(store: Store, token_key: &[u8]) -> Result<Self, ApiError> {
        let key = token::TokenKey::new(token_key)
            .ok_or_else(|| ApiError::internal("the key that signs tokens (pki/sa.key) is no P-256 key"))?;
        Ok(Self { authorizer: Authorizer::new(store.clone()), store, key })
    }

    /// Decides one request.
    #[must_use]
    pub fn authorize(&self, user: &UserInfo, request: &Attributes) -> Decision {
        self.authorizer.authorize(user, request)
    }
}

/// A random UUID (version 4); nothing when the system's randomness fails.
#[must_use]
pub fn unique() -> Option<String> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0u8; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).ok()?;
    Some(ferrovirt_kubernetes::names::uuid(bytes))
}

#[cfg(test)]
mod tests;
