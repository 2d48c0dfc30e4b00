//! From credentials to a user.

use ferrovirt_kubernetes::object;
use ferrovirt_kubernetes::subject::{
    AUTHENTICATED, NODES, UNAUTHENTICATED, service_account, split_service_account,
};
use http::HeaderMap;

use super::token::{Bound, BoundRef, Claims, ISSUER, NODE_ISSUER};
use super::user::EXTRA_NODE;
use super::{Auth, pki};
use crate::clock;
use crate::request::{Attributes, UserInfo};
use crate::status::ApiError;
use crate::store::Key;

impl Auth {
    /// Who asks: the verified client certificate if there is one, else the bearer token, else anonymous; then, if the
    /// impersonation headers are there and RBAC lets the user, somebody else.
    ///
    /// # Errors
    /// 401 for a bad token (never a fall back to anonymous), 403 for impersonation without the right.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&[u8]>,
    ) -> Result<UserInfo, ApiError> {
        let user = self.identify(headers, certificate)?;
        self.impersonate(user, headers)
    }

    /// Whose the credentials are.
    ///
    /// # Errors
    /// 401 for a bad token.
    pub fn identify(&self, headers: &HeaderMap, certificate: Option<&[u8]>) -> Result<UserInfo, ApiError> {
        match certificate.and_then(pki::subject) {
            Some((name, groups)) => Ok(UserInfo::authenticated(name, groups)),
            None => match bearer(headers)? {
                Some(token) => self.user_of_token(token, &[ISSUER.to_owned()]).map(|(user, _)| user),
                None => Ok(UserInfo::anonymous()),
            },
        }
    }

    /// The user of a token and the audiences that it shares with `audiences`.
    ///
    /// # Errors
    /// 401; why is only logged.
    pub fn user_of_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), ApiError> {
        self.read_token(token, audiences).map_err(|why| {
            tracing::debug!(%why, "a bearer token was refused");
            ApiError::unauthorized()
        })
    }

    fn read_token(&self, token: &str, audiences: &[String]) -> Result<(UserInfo, Vec<String>), String> {
        let claims = self.key.verify(token, clock::now()).map_err(|e| e.to_string())?;
        let shared: Vec<String> = claims.aud.iter().filter(|aud| audiences.contains(aud)).cloned().collect();
        if claims.iss == NODE_ISSUER {
            if !audiences.iter().any(|aud| aud == ISSUER) {
                return Err(super::token::TokenError::Audience.to_string());
            }
            let node = claims.sub.strip_prefix("system:node:").unwrap_or_default();
            if node.is_empty() {
                return Err("it names no node".into());
            }
            return Ok((UserInfo::authenticated(claims.sub, [NODES.to_owned()]), vec![ISSUER.to_owned()]));
        }
        if shared.is_empty() {
            return Err(super::token::TokenError::Audience.to_string());
        }
        self.account_of(claims).map(|user| (user, shared))
    }

    fn account_of(&self, claims: Claims) -> Result<UserInfo, String> {
        let bound = claims.kubernetes.ok_or("it names no service account")?;
        let named = (bound.namespace.as_str(), bound.serviceaccount.name.as_str());
        if split_service_account(&claims.sub) != Some(named) {
            return Err("its subject is not its service account".into());
        }
        self.alive("serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
        let mut user = UserInfo::service_account(named.0, named.1, &bound.serviceaccount.uid);
        let mut extra = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        extra("credential-id", &format!("JTI={}", claims.jti));
        if let Some(pod) = &bound.pod {
            self.alive("pods", &bound.namespace, pod)?;
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(secret) = &bound.secret {
            self.alive("secrets", &bound.namespace, secret)?;
        }
        if let Some(node) = &bound.node {
            extra("node-name", &node.name);
            if !node.uid.is_empty() {
                extra("node-uid", &node.uid);
            }
        }
        Ok(user)
    }

    /// The object must exist, with the same UID: an account that was made again is another account.
    fn alive(&self, resource: &str, namespace: &str, wanted: &BoundRef) -> Result<(), String> {
        let entry = self.store.get(&Key::new("", resource, namespace, &wanted.name));
        match entry.as_ref().map(|entry| object::uid(&entry.object)) {
            None | Some("") => Err(format!("{resource} {namespace}/{} does not exist", wanted.name)),
            Some(uid) if uid != wanted.uid => {
                Err(format!("{resource} {namespace}/{} was made again", wanted.name))
            }
            Some(_) => Ok(()),
        }
    }

    /// As whom the user acts: somebody else if the impersonation headers are there and RBAC lets the user.
    ///
    /// # Errors
    /// 403 for impersonation without the right, 400 for headers that make no sense.
    pub fn impersonate(&self, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, ApiError> {
        // A header that cannot be read must not be skipped: the request would be made as somebody else than was meant.
        let mut asked: Vec<(&str, &str)> = Vec::new();
        for (key, value) in headers {
            if key.as_str().starts_with("impersonate-") {
                let value = std::str::from_utf8(value.as_bytes())
                    .map_err(|_| ApiError::bad_request(format!("the header {key} is not UTF-8")))?;
                asked.push((key.as_str(), value));
            }
        }
        let text = |name: &str| asked.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
        let name = text("impersonate-user");
        let groups: Vec<String> = asked
            .iter()
            .filter(|(key, _)| *key == "impersonate-group")
            .map(|(_, value)| (*value).to_owned())
            .collect();
        let uid = text("impersonate-uid");
        let extras: Vec<(String, String)> = asked
            .iter()
            .filter_map(|(key, value)| {
                let key = key.strip_prefix("impersonate-extra-")?;
                Some((percent_decode(key), (*value).to_owned()))
            })
            .collect();
        if name.is_empty() {
            if groups.is_empty() && uid.is_empty() && extras.is_empty() {
                return Ok(user);
            }
            return Err(ApiError::bad_request(
                "requested impersonation of a group, UID or extra field without impersonating a user",
            ));
        }
        let ask = |group: &str, resource: &str, sub: &str, namespace: &str, name: &str| Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: sub.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: String::new(),
        };
        const AUTHENTICATION: &str = "authentication.k8s.io";
        let mut out = match split_service_account(name) {
            Some((namespace, account)) => {
                self.authorizer.check(&user, &ask("", "serviceaccounts", "", namespace, account))?;
                UserInfo::service_account(namespace, account, "")
            }
            None => {
                self.authorizer.check(&user, &ask("", "users", "", "", name))?;
                let added =
                    if name == "system:anonymous" { vec![UNAUTHENTICATED.to_owned()] } else { vec![] };
                UserInfo { name: name.into(), groups: added, ..UserInfo::default() }
            }
        };
        for group in &groups {
            self.authorizer.check(&user, &ask("", "groups", "", "", group))?;
        }
        if !groups.is_empty() {
            out.groups = groups;
        }
        if name != "system:anonymous" && !out.in_group(AUTHENTICATED) && !out.in_group(UNAUTHENTICATED) {
            out.groups.push(AUTHENTICATED.to_owned());
        }
        if !uid.is_empty() {
            self.authorizer.check(&user, &ask(AUTHENTICATION, "uids", "", "", uid))?;
            out.uid = uid.into();
        }
        for (key, value) in extras {
            self.authorizer.check(&user, &ask(AUTHENTICATION, "userextras", &key, "", &value))?;
            out.extra.entry(key).or_default().push(value);
        }
        Ok(out)
    }

    /// A token for a service account, tied to what is given. `seconds` is its life.
    ///
    /// # Errors
    /// 404 when the account does not exist, 500 when the system's randomness fails.
    pub fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        seconds: i64,
        audiences: Vec<String>,
        tie: Tie,
    ) -> Result<String, ApiError> {
        let entry = self
            .store
            .get(&Key::new("", "serviceaccounts", namespace, name))
            .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
        let uid = object::uid(&entry.object);
        let bound = Bound {
            namespace: namespace.into(),
            serviceaccount: BoundRef { name: name.into(), uid: uid.into() },
            pod: tie.pod,
            secret: tie.secret,
            node: tie.node,
        };
        self.sign(ISSUER, service_account(namespace, name), audiences, seconds, Some(bound))
    }

    /// A token of `system:node:NAME` for the node's agent.
    ///
    /// # Errors
    /// 500 when the system's randomness fails.
    pub fn node_token(&self, node: &str, seconds: i64) -> Result<String, ApiError> {
        self.sign(NODE_ISSUER, format!("system:node:{node}"), vec![ISSUER.into()], seconds, None)
    }

    fn sign(
        &self,
        issuer: &str,
        subject: String,
        audiences: Vec<String>,
        seconds: i64,
        kubernetes: Option<Bound>,
    ) -> Result<String, ApiError> {
        let now = clock::now();
        let claims = Claims {
            iss: issuer.into(),
            sub: subject,
            aud: if audiences.is_empty() { vec![ISSUER.into()] } else { audiences },
            exp: now.saturating_add(seconds),
            iat: now,
            nbf: now,
            jti: super::unique().ok_or_else(|| ApiError::internal("the system gives no random numbers"))?,
            kubernetes,
        };
        self.key.sign(&claims).ok_or_else(|| ApiError::internal("the token could not be signed"))
    }
}

/// What a service-account token is tied to, besides the account.
#[derive(Debug, Clone, Default)]
pub struct Tie {
    /// It dies with this pod.
    pub pod: Option<BoundRef>,
    /// It dies with this secret.
    pub secret: Option<BoundRef>,
    /// It says that it is used from this node.
    pub node: Option<BoundRef>,
}

impl Tie {
    /// Tied to a node by name: the user's `extra` then names the node (see [`EXTRA_NODE`]).
    #[must_use]
    pub fn to_node(name: &str) -> Self {
        Self { node: Some(BoundRef { name: name.into(), uid: String::new() }), ..Self::default() }
    }
}

/// The node that the user's token is tied to.
#[must_use]
pub fn node_of(user: &UserInfo) -> Option<&str> {
    user.extra.get(EXTRA_NODE).and_then(|values| values.first()).map(String::as_str)
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(http::header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| ApiError::unauthorized())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => match token.trim() {
            "" => Err(ApiError::unauthorized()),
            token => Ok(Some(token)),
        },
        // Basic and others were never accepted; silence would make the user anonymous without a word.
        _ => Err(ApiError::unauthorized()),
    }
}

/// Extra keys come percent-encoded, since header names are limited.
fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (byte, tail.get(2..)) {
            (Some(byte), Some(after)) => {
                out.push(byte);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
