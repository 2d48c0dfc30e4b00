//! What the agent's command line says, and where it keeps things.

use crate::redacted::Redacted;
use ferrovirt_node::devices;
use std::path::{Path, PathBuf};

/// Paths and names.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// The agent's own directory.
    pub data: PathBuf,
    /// Socket that the API server connects to.
    pub socket: PathBuf,
    /// Images of this node.
    pub images: PathBuf,
    /// The launcher's program.
    pub launcher: PathBuf,
    /// What is `/usr` in containers: the node's own, or the copy of [`crate::container::programs`].
    pub usr: PathBuf,
}

/// The one image that this node runs; its files come from the node itself.
pub const LAUNCHER_IMAGE: &str = concat!("ferrovirt/virt-launcher:", env!("CARGO_PKG_VERSION"));

impl Config {
    /// A text as users may see it.
    pub fn redacted(&self, text: &str) -> Redacted {
        Redacted::new(text, &self.own())
    }

    /// A launcher's text, or one with some of it, as users may see it.
    pub fn redacted_foreign(&self, text: &str) -> Redacted {
        Redacted::foreign(text, &self.own())
    }

    /// The directories of which users learn nothing.
    fn own(&self) -> [&Path; 2] {
        [&self.images, &self.data]
    }

    /// Directories of pods.
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// Network namespaces.
    pub fn netns(&self) -> PathBuf {
        self.data.join("netns")
    }

    /// State of the runtime.
    pub fn crun(&self) -> PathBuf {
        self.data.join("crun")
    }

    /// Read-only copies of the directories that all pods share.
    pub fn sources(&self) -> PathBuf {
        self.data.join("sources")
    }

    /// Copies of QEMU.
    pub fn programs(&self) -> PathBuf {
        self.data.join("programs")
    }

    /// Sockets of device plug-ins, and the one on which they register.
    pub fn device_plugins(&self) -> PathBuf {
        devices::plugins(&self.data)
    }

    /// The socket of the pod-resources API.
    pub fn pod_resources(&self) -> PathBuf {
        devices::resources(&self.data)
    }

    /// What pods have of device plug-ins.
    pub fn devices(&self) -> PathBuf {
        self.data.join("devices.json")
    }

    /// Marks of claims that were in use.
    pub fn claims(&self) -> PathBuf {
        self.data.join("claims")
    }

    /// Unpacked images.
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods;
    use ferrovirt_node::{image, network, oci, volumes};
    use std::io;

    fn config() -> Config {
        Config {
            node: "n".into(),
            data: "/srv/secret place/agent".into(),
            socket: "/srv/secret place/run/agent.sock".into(),
            images: "/mnt/pictures".into(),
            launcher: "/opt/x/virt-launcher".into(),
            usr: "/usr".into(),
        }
    }

    /// Each error of the agent that can reach a user, with paths wherever it has some.
    #[test]
    fn no_error_tells_users_a_path_of_the_node() {
        let path = || "/srv/secret place/agent/pods/u/volumes/v".to_owned();
        let claim = PathBuf::from("/home/tank/vol1");
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let errors: Vec<String> = vec![
            image::Error::Reference("../x".into()).to_string(),
            image::Error::Missing { reference: "a".into(), name: "a".into() }.to_string(),
            image::Error::Tag { reference: "a".into(), found: "b".into() }.to_string(),
            image::Error::Broken { reference: "a".into(), what: "/mnt/pictures/a: it is empty".into() }
                .to_string(),
            image::Error::Io { reference: "a".into(), source: io::Error::other("/mnt/pictures/a: no") }
                .to_string(),
            image::Error::Disk { reference: "a".into(), what: "it has no /disk directory".into() }
                .to_string(),
            volumes::Error::Io { volume: "v".into(), path: claim, source: denied() }.to_string(),
            volumes::Error::Io { volume: "v".into(), path: path().into(), source: denied() }.to_string(),
            volumes::Error::NotFound { volume: "v".into(), kind: "secret", name: "s".into() }.to_string(),
            volumes::Error::Unsupported { volume: "v".into(), what: "path \"/x\" leaves the volume".into() }
                .to_string(),
            network::Error::Failed { program: "cni", message: format!("netns {:?}: denied", path()) }
                .to_string(),
            network::Error::Answer(format!("{{\"netns\":{:?}}}", path())).to_string(),
            oci::bundle::Error::Device { path: "/home/tank/dev".into(), source: denied() }.to_string(),
            oci::crun::Error::Failed { verb: "run", message: format!("mount `{}` to `/x`: denied", path()) }
                .to_string(),
            oci::crun::Error::Failed {
                verb: "run",
                message: "open executable `/opt/x/virt-launcher`".into(),
            }
            .to_string(),
            pods::Refusal::Launcher(config().redacted("opening /proc/self/fd/1")).to_string(),
        ];
        for error in errors {
            let shown = config().redacted(&error).as_str().to_owned();
            for secret in
                ["secret place", "/srv", "/home", "tank", "/mnt", "pictures", "/opt", "/proc", "pods/u"]
            {
                assert!(!shown.contains(secret), "{secret} in {shown}");
            }
            assert!(!shown.is_empty());
        }
    }
}
