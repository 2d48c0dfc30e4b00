//! Kubeconfigs: address, authority and credential in one file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use std::net::SocketAddr;

use super::{Credentials, Server, ServerError};
use crate::auth::Tie;
use crate::request::UserInfo;

/// Life of the tokens that the server hands to its own parts. They are handed out again every hour
/// ([`Credentials::keep`]); what is left of an earlier start is good for a day.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// The same as of [`Credentials`].
#[allow(missing_docs, clippy::missing_errors_doc, reason = "said there")]
impl Server {
    #[must_use]
    pub fn admin_kubeconfig(&self) -> String {
        self.credentials.admin_kubeconfig()
    }

    pub async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<String, ServerError> {
        self.credentials.kubeconfig_for_service_account(namespace, name)
    }

    pub fn kubeconfig_for_node(&self, node: &str) -> Result<String, ServerError> {
        self.credentials.kubeconfig_for_node(node)
    }
}

impl Credentials {
    /// The administrator's kubeconfig: a client certificate. Everybody who can read it may do everything.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> String {
        let admin = self.pki().admin;
        let user = json!({
            "client-certificate-data": STANDARD.encode(&admin.cert_pem),
            "client-key-data": STANDARD.encode(&admin.key_pem),
        });
        self.kubeconfig(self.address, "kubernetes-admin", &user)
    }

    /// The kubeconfig of a service account that exists.
    ///
    /// # Errors
    /// [`ServerError::Credential`] when there is no such account.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<String, ServerError> {
        let token = self.service_account_token(namespace, name)?;
        let own = UserInfo::service_account(namespace, name, "").is_system();
        Ok(self.kubeconfig(
            if own { self.internal } else { self.address },
            &ferrovirt_kubernetes::subject::service_account(namespace, name),
            &json!({"token": token}),
        ))
    }

    /// A token of a service account that exists.
    ///
    /// # Errors
    /// [`ServerError::Credential`] when there is no such account.
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Result<String, ServerError> {
        let token =
            self.app.auth.service_account_token(namespace, name, TOKEN_SECONDS, Vec::new(), Tie::default());
        let who = ferrovirt_kubernetes::subject::service_account(namespace, name);
        token.map_err(|source| ServerError::Credential { who, source })
    }

    /// The kubeconfig of a node's agent: user `system:node:NAME`.
    ///
    /// # Errors
    /// [`ServerError::Credential`] when the system gives no random numbers.
    pub fn kubeconfig_for_node(&self, node: &str) -> Result<String, ServerError> {
        let who = format!("system:node:{node}");
        let token = self.app.auth.node_token(node, TOKEN_SECONDS);
        let token = token.map_err(|source| ServerError::Credential { who: who.clone(), source })?;
        Ok(self.kubeconfig(self.internal, &who, &json!({"token": token})))
    }

    fn kubeconfig(&self, mut address: SocketAddr, user: &str, credential: &Value) -> String {
        if address.ip().is_unspecified() {
            // Listening everywhere is no address to connect to.
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        let cluster = json!({
            "server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(self.pki().ca_pem),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "ferrovirt", "cluster": cluster}],
            "contexts": [{"name": "ferrovirt", "context": {"cluster": "ferrovirt", "user": user}}],
            "current-context": "ferrovirt",
            "users": [{"name": user, "user": credential}],
        });
        // YAML that people can read; JSON, which is YAML too, if that ever fails.
        let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
        serde_saphyr::to_string_with_options(&config, options).unwrap_or_else(|_| config.to_string())
    }
}
