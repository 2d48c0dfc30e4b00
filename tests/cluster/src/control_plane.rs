//! The control plane: its command lines and kubeconfigs. No program here is ours.

use crate::layout::{CONTROL_PLANE, Layout, PORT, SERVICES};
use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::OpenOptionsExt, path::Path};

const ETCD: &str = "http://127.0.0.1:2379";

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its name among the built programs.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Line {
    fn new(program: &'static str, arguments: &[&str]) -> Self {
        Self { program, arguments: arguments.iter().map(|one| format!("--{one}")).collect() }
    }

    fn file(mut self, flag: &str, path: &Path) -> Self {
        self.arguments.push(format!("--{flag}={}", path.display()));
        self
    }
}

/// The store. It does not wait for its disk: a test cluster that loses power is made again.
pub fn etcd(layout: &Layout) -> Line {
    let peer = "http://127.0.0.1:2380";
    Line::new(
        "etcd",
        &[
            &format!("listen-client-urls={ETCD}"),
            &format!("advertise-client-urls={ETCD}"),
            &format!("listen-peer-urls={peer}"),
            &format!("initial-advertise-peer-urls={peer}"),
            &format!("initial-cluster=default={peer}"),
            "unsafe-no-fsync",
            "log-level=warn",
        ],
    )
    .file("data-dir", &layout.path("etcd"))
}

/// The API server, which behaves as an earlier version where one is named: one that knows nothing of user namespaces either.
pub fn api_server(layout: &Layout, behaves_as: Option<&str>) -> Line {
    let pki = |name: &str| layout.path("pki").join(name);
    let mut line = Line::new(
        "kube-apiserver",
        &[
            &format!("advertise-address={CONTROL_PLANE}"),
            &format!("secure-port={PORT}"),
            &format!("etcd-servers={ETCD}"),
            &format!("service-cluster-ip-range={SERVICES}"),
            "authorization-mode=Node,RBAC",
            "enable-admission-plugins=NodeRestriction",
            "allow-privileged=true",
            // Webhooks and aggregated API servers are called at their pods' addresses: no kube-proxy runs here.
            "enable-aggregator-routing=true",
            "kubelet-preferred-address-types=InternalIP",
            "service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "requestheader-allowed-names=front-proxy-client",
            "requestheader-extra-headers-prefix=X-Remote-Extra-",
            "requestheader-group-headers=X-Remote-Group",
            "requestheader-username-headers=X-Remote-User",
        ],
    )
    .file("client-ca-file", &pki("ca.crt"))
    .file("tls-cert-file", &pki("kube-apiserver.crt"))
    .file("tls-private-key-file", &pki("kube-apiserver.key"))
    .file("kubelet-certificate-authority", &pki("ca.crt"))
    .file("kubelet-client-certificate", &pki("kubelet-client.crt"))
    .file("kubelet-client-key", &pki("kubelet-client.key"))
    .file("requestheader-client-ca-file", &pki("front-proxy-ca.crt"))
    .file("proxy-client-cert-file", &pki("front-proxy-client.crt"))
    .file("proxy-client-key-file", &pki("front-proxy-client.key"))
    .file("service-account-key-file", &pki("service-accounts.pub"))
    .file("service-account-signing-key-file", &pki("service-accounts.key"));
    if let Some(version) = behaves_as {
        line.arguments.push(format!("--emulated-version={version}"));
        // The second one depends on the first.
        line.arguments.push("--feature-gates=UserNamespacesSupport=false,ProcMountType=false".to_owned());
    }
    line
}

/// What may only start when the API server is ready: both end for good when they cannot read a ConfigMap of it.
pub fn controllers(layout: &Layout) -> [Line; 2] {
    let pki = |name: &str| layout.path("pki").join(name);
    let with_kubeconfig = |line: Line| {
        let kubeconfig = layout.path(format!("{}.kubeconfig", line.program));
        ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
            .iter()
            .fold(line, |line, flag| line.file(flag, &kubeconfig))
    };
    let manager = Line::new(
        "kube-controller-manager",
        &["use-service-account-credentials=true", "leader-elect=false", "bind-address=127.0.0.1"],
    )
    .file("service-account-private-key-file", &pki("service-accounts.key"))
    .file("root-ca-file", &pki("ca.crt"))
    .file("cluster-signing-cert-file", &pki("ca.crt"))
    .file("cluster-signing-key-file", &pki("ca.key"));
    let scheduler = Line::new("kube-scheduler", &["leader-elect=false", "bind-address=127.0.0.1"]);
    [with_kubeconfig(manager), with_kubeconfig(scheduler)]
}

/// A kubeconfig for one of the certificates of [`crate::pki`], which it contains.
fn kubeconfig(authority: &[u8], certificate: &[u8], key: &[u8]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {
            "server": format!("https://{CONTROL_PLANE}:{PORT}"),
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": "user", "user": {
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(key),
        }}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "user"}}],
        "current-context": "cluster",
    })
}

/// Writes `NAME.kubeconfig` for everybody who has a client certificate.
pub fn kubeconfigs(layout: &Layout) -> Result<()> {
    let pki = layout.path("pki");
    let read = |name: String| fs::read(pki.join(&name)).context(name);
    let authority = read("ca.crt".to_owned())?;
    for subject in crate::pki::subjects(layout).into_iter().filter(|subject| subject.serves.is_empty()) {
        let name = &subject.file;
        let config = kubeconfig(&authority, &read(format!("{name}.crt"))?, &read(format!("{name}.key"))?);
        let path = layout.path(format!("{name}.kubeconfig"));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut file, config.to_string().as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &Line) -> Vec<&str> {
        line.arguments.iter().map(String::as_str).collect()
    }

    #[test]
    fn the_api_server_authorizes_nodes_and_roles_and_knows_the_front_proxy() {
        let layout = Layout::new("dev", 2).unwrap();
        let line = api_server(&layout, None);
        let flags = flags(&line);
        for flag in [
            "--authorization-mode=Node,RBAC",
            "--enable-aggregator-routing=true",
            "--requestheader-allowed-names=front-proxy-client",
            "--kubelet-certificate-authority=/var/lib/ferrovirt-cluster/dev/pki/ca.crt",
        ] {
            assert!(flags.contains(&flag), "{flag}");
        }
        assert!(!flags.iter().any(|flag| flag.contains("AlwaysAllow") || flag.contains("insecure")));
    }

    #[test]
    fn the_store_listens_inside_the_namespace_only() {
        let line = etcd(&Layout::new("dev", 1).unwrap());
        let urls = line.arguments.iter().filter(|flag| flag.contains("urls="));
        assert!(urls.clone().count() == 4 && urls.clone().all(|flag| flag.contains("http://127.0.0.1:")));
    }

    #[test]
    fn controllers_have_identities_of_their_own() {
        let layout = Layout::new("dev", 1).unwrap();
        for line in controllers(&layout) {
            let own = format!("--kubeconfig=/var/lib/ferrovirt-cluster/dev/{}.kubeconfig", line.program);
            assert!(flags(&line).contains(&own.as_str()), "{line:?}");
        }
    }

    #[test]
    fn a_kubeconfig_holds_all_that_it_needs() {
        let config = kubeconfig(b"ca", b"certificate", b"key");
        assert_eq!(config.pointer("/clusters/0/cluster/server").unwrap(), "https://172.30.0.1:6443");
        assert_eq!(config.pointer("/users/0/user/client-key-data").unwrap(), &STANDARD.encode("key"));
        assert_eq!(config.get("current-context").unwrap(), "cluster");
    }
}
