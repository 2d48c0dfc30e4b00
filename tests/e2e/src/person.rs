//! A user of the cluster beside the administrator.

use crate::Cluster;
use anyhow::Result;
use serde_json::Value;
use std::{fs, path::PathBuf, process::Output};

/// kubectl as somebody with a token.
#[derive(Debug)]
pub struct Person<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
    /// The bearer token.
    pub token: String,
    /// The user name that roles are bound to.
    pub user: String,
}

impl<'a> Person<'a> {
    /// A service account of `namespace` stands for a user: it has a name, the groups of everybody, and a token. It has no rights yet.
    pub fn new(cluster: &'a Cluster, namespace: &str, name: &str) -> Result<Self> {
        cluster.kubectl(&["create", "serviceaccount", name, "-n", namespace])?;
        let token = cluster.kubectl(&["create", "token", name, "-n", namespace])?.trim().to_owned();
        let text = cluster.kubectl(&["config", "view", "--raw", "-o", "json"])?;
        let mut config: Value = serde_json::from_str(&text)?;
        config["users"][0]["user"] = serde_json::json!({"token": token});
        let kubeconfig = cluster.data().join(format!("{namespace}.{name}.kubeconfig"));
        fs::write(&kubeconfig, config.to_string())?;
        let user = format!("system:serviceaccount:{namespace}:{name}");
        Ok(Self { cluster, kubeconfig, token, user })
    }

    /// Binds a cluster role to this user in `namespace`.
    pub fn may(&self, role: &str, namespace: &str) -> Result<()> {
        let (role_flag, user) = (format!("--clusterrole={role}"), format!("--user={}", self.user));
        let name = format!("{}-{}", self.user, role).replace(':', "-");
        self.cluster.kubectl(&["create", "rolebinding", &name, "-n", namespace, &role_flag, &user])?;
        Ok(())
    }

    /// Runs kubectl as this user, whatever comes of it.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        let config = self.kubeconfig.to_string_lossy();
        self.cluster.try_kubectl(&[&["--kubeconfig", &*config], arguments].concat())
    }

    /// Applies a manifest; whether it succeeded, and what kubectl said.
    pub fn apply(&self, manifest: &str) -> Result<(bool, String)> {
        let file = self.kubeconfig.with_extension("yaml");
        fs::write(&file, manifest)?;
        let output = self.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok((output.status.success(), said))
    }
}
