//! Bearer tokens: JSON web tokens signed with ES256 by the server's own key.
//!
//! The claims are those of Kubernetes' bound service-account tokens, so that clients that look inside find what they
//! expect. Node agents get the same kind of token from a different issuer, without a service account.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

/// Issuer and default audience of service-account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc";
/// Issuer of the node agents' tokens. It is no audience of service accounts and cannot be asked for by anybody.
pub const NODE_ISSUER: &str = "urn:ferrovirt:node";
/// A longer token is refused before anything is decoded.
const MAX_TOKEN: usize = 16 << 10;

/// Why a token is not accepted. The text is for the log; clients only see "Unauthorized".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not three dot-separated parts of base64 and JSON, or too long.
    #[error("it is not a JSON web token")]
    Malformed,
    /// The header names another algorithm than ours.
    #[error("it is not signed with ES256")]
    Algorithm,
    /// The signature is not ours.
    #[error("its signature is not of this server's key")]
    Signature,
    /// Past `exp`.
    #[error("it has expired")]
    Time,
    /// The issuer is unknown.
    #[error("its issuer is unknown")]
    Issuer,
    /// Meant for somebody else.
    #[error("it is meant for another audience")]
    Audience,
}

/// Name and UID of an object that a token is tied to.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct BoundRef {
    /// Name of the object.
    pub name: String,
    /// UID of the object: one made again under the same name does not count.
    #[serde(default)]
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Bound {
    /// Namespace of the account and of the pod.
    pub namespace: String,
    /// The account.
    pub serviceaccount: BoundRef,
    /// The pod that the token lives as long as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundRef>,
    /// The secret that the token lives as long as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundRef>,
    /// The node that the pod runs on, or that the token is tied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundRef>,
}

/// The claims of a token. Times are seconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Claims {
    /// Issuer: [`ISSUER`] or [`NODE_ISSUER`].
    pub iss: String,
    /// User name.
    pub sub: String,
    /// Audiences.
    pub aud: Vec<String>,
    /// End.
    pub exp: i64,
    /// Made at.
    pub iat: i64,
    /// Start.
    pub nbf: i64,
    /// Unique name of this token.
    pub jti: String,
    /// The account and what the token is tied to; absent in node tokens.
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Bound>,
}

/// Signs and verifies tokens.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

impl TokenKey {
    /// From a PKCS#8 P-256 key; nothing when it is not one.
    #[must_use]
    pub fn new(pkcs8: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random).ok()?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Some(Self { pair, random, key_id: B64.encode(digest) })
    }

    /// Signs claims; nothing when the system's randomness fails.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = Header { alg: "ES256".into(), kid: Some(self.key_id.clone()) };
        let mut token = B64.encode(serde_json::to_vec(&header).ok()?);
        token.push('.');
        token.push_str(&B64.encode(serde_json::to_vec(claims).ok()?));
        let signature = self.pair.sign(&self.random, token.as_bytes()).ok()?;
        token.push('.');
        token.push_str(&B64.encode(signature.as_ref()));
        Some(token)
    }

    /// Checks signature, issuer and end. The audience and whether the account still exists are the caller's to check.
    ///
    /// A token counts from when it was signed, whatever `nbf` says: that is always the time of signing, so that a token
    /// before it only shows that the clock was set back since.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = decode(header)?;
        if header.alg != "ES256" {
            return Err(TokenError::Algorithm);
        }
        let signature = B64.decode(signature).map_err(|_| TokenError::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = decode(payload)?;
        if claims.iss != ISSUER && claims.iss != NODE_ISSUER {
            return Err(TokenError::Issuer);
        }
        if now >= claims.exp {
            return Err(TokenError::Time);
        }
        Ok(claims)
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let bytes = B64.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::new(&rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            iss: ISSUER.into(),
            sub: "system:serviceaccount:a:b".into(),
            aud: vec![ISSUER.into()],
            exp: 200,
            iat: 100,
            nbf: 100,
            jti: "1".into(),
            kubernetes: Some(Bound {
                namespace: "a".into(),
                serviceaccount: BoundRef { name: "b".into(), uid: "u".into() },
                pod: None,
                secret: None,
                node: None,
            }),
        }
    }

    #[test]
    fn a_signed_token_verifies_until_its_end_and_also_after_the_clock_was_set_back() {
        let key = key();
        let token = key.sign(&claims()).unwrap();
        assert_eq!(key.verify(&token, 150), Ok(claims()));
        assert_eq!(key.verify(&token, 100 - 3 * 3600), Ok(claims()));
        assert_eq!(key.verify(&token, 200), Err(TokenError::Time));
    }

    #[test]
    fn another_key_a_changed_claim_and_no_signature_are_refused() {
        let (ours, theirs) = (key(), key());
        let token = theirs.sign(&claims()).unwrap();
        assert_eq!(ours.verify(&token, 150), Err(TokenError::Signature));
        let token = ours.sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let mut changed = claims();
        changed.sub = "system:admin".into();
        let forged =
            format!("{}.{}.{}", parts[0], B64.encode(serde_json::to_vec(&changed).unwrap()), parts[2]);
        assert_eq!(ours.verify(&forged, 150), Err(TokenError::Signature));
        let none = format!("{}.{}.", B64.encode(br#"{"alg":"none"}"#), parts[1]);
        assert_eq!(ours.verify(&none, 150), Err(TokenError::Algorithm));
        for text in ["", ".", "..", "a.b.c", "\u{e9}.\u{e9}.\u{e9}"] {
            assert_eq!(ours.verify(text, 150), Err(TokenError::Malformed), "{text}");
        }
        assert_eq!(ours.verify(&"a".repeat(MAX_TOKEN + 1), 150), Err(TokenError::Malformed));
    }
}
