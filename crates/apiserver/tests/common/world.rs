//! A server with everything installed that `ferrovirt up` installs, and people who use it.

#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::PathBuf;

use ferrovirt_plan::config::ClusterConfig;
use ferrovirt_plan::render::install;
use serde_json::{Value, json};

use super::Cluster;

/// A server with all manifests, and a directory for kubeconfigs.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let config = ClusterConfig::default();
        let mut manifests = install::install(&config);
        manifests.extend(install::embedded(&config));
        let cluster = Cluster::start_with(&manifests);
        Self { cluster, directory: tempfile::tempdir().unwrap() }
    }

    /// A kubeconfig with a token instead of the administrator's certificate.
    pub(crate) fn with_token(&self, name: &str, token: &str) -> PathBuf {
        let text = self.cluster.kubectl("config view --raw -o json");
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({"token": token});
        let path = self.directory.path().join(name);
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// `kubectl create …` as somebody: the object is made by kubectl and sent as JSON. Answers whether it was made,
    /// and what was said.
    pub(crate) fn make(&self, who: &[String], args: &str) -> (bool, String) {
        let who: Vec<&str> = who.iter().map(String::as_str).collect();
        let all: Vec<&str> = who
            .iter()
            .copied()
            .chain(["create"])
            .chain(args.split(' '))
            .chain(["--dry-run=client", "-o", "json"])
            .collect();
        let object = serde_json::from_str(&self.cluster.ok(&all)).unwrap();
        self.create(&who, &object)
    }

    pub(crate) fn made(&self, args: &str) {
        let (ok, said) = self.make(&[], args);
        assert!(ok, "{said}");
    }

    /// kubectl as a service account of the namespace `default`, made for it.
    pub(crate) fn account(&self, name: &str) -> Vec<String> {
        self.made(&format!("serviceaccount {name}"));
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{name}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer =
            self.cluster.run_with_input(&["create", "--raw", &path, "-f", "-"], &request.to_string());
        assert!(answer.status.success(), "{answer:?}");
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        let path = self.with_token(name, answer["status"]["token"].as_str().unwrap());
        vec!["--kubeconfig".to_owned(), path.to_str().unwrap().to_owned()]
    }

    pub(crate) fn run(&self, who: &[String], args: &str) -> String {
        let args: Vec<&str> = who.iter().map(String::as_str).chain(args.split(' ')).collect();
        self.cluster.ok(&args)
    }

    pub(crate) fn refused(&self, who: &[String], args: &str) -> String {
        let args: Vec<&str> = who.iter().map(String::as_str).chain(args.split(' ')).collect();
        self.cluster.fails(&args)
    }

    /// `kubectl create -f -`; what it said, whether it succeeded or not.
    pub(crate) fn create(&self, who: &[&str], object: &Value) -> (bool, String) {
        let args: Vec<&str> = who.iter().copied().chain(["create", "-f", "-"]).collect();
        let output = self.cluster.run_with_input(&args, &object.to_string());
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }
}
