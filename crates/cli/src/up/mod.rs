//! `ferrovirt up`: everything on this machine, in the foreground, as four processes.
//!
//! ```text
//!   supervisor (root): starts the others again when they end, owns the files of credentials; no network
//!      │ listening sockets, one socket for credentials       │
//!      ▼                                                     ▼
//!   API server and controllers (a user of their own,  ──►  node agent, `virt-handler` (root, listed capabilities)
//!   no capability, own directory)                  agent.sock    ▲ the sockets of a kubelet
//!                                                                │
//!                                                       `virt-handler plug` (root, no capability, own directory)
//! ```
//!
//! All end with the supervisor. Launchers are nobody's children here: they go on and are adopted by the next one.

mod api;
mod control;
mod credentials;
mod layout;
mod output;
mod part;
mod supervisor;

pub(crate) use api::api_server;

use crate::requirements;
use anyhow::Result;
use clap::Args;
use ferrovirt_sys::kvm;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// Number of the API server's user and group where nobody names another: outside of what Debian and systemd give to
/// people, to services, and to containers, so that nothing else runs under it. It needs no entry in /etc/passwd.
const API_USER: u32 = 76_443;

#[derive(Args)]
pub(crate) struct Options {
    /// Where everything is kept
    #[arg(long, default_value = "/var/lib/ferrovirt")]
    data_dir: PathBuf,
    /// Address and port of the API server
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Number of the user and of the group that the API server runs as and that own DATA_DIR/api. Nothing else should
    /// run under it; it needs no entry in /etc/passwd
    #[arg(long, default_value_t = API_USER, value_parser = user)]
    api_user: u32,
    /// Directory of OCI layouts and archives that machines may name; DATA_DIR/images when absent
    #[arg(long)]
    image_dir: Option<PathBuf>,
    /// Name of the node; the host name when absent
    #[arg(long)]
    node_name: Option<String>,
    #[command(flatten)]
    api: ApiOptions,
    /// Install the SELinux policy of launcher pods where this machine has SELinux and lacks it
    #[arg(long)]
    install_selinux_policy: bool,
    /// Milliseconds that a virtual processor of KVM may take to run a few instructions before guests are emulated instead.
    /// One that works answers within some, on a machine that is itself emulated within some thousand
    // The alias is the name that it had: to go with the next release.
    #[arg(long, alias = "kvm-patience", default_value_t = kvm::TIMEOUT)]
    kvm_timeout: u32,
    /// An option of virt-handler, such as `image-max-entries=100000`; `virt-handler --help` lists them
    #[arg(long, value_name = "NAME=VALUE")]
    handler_option: Vec<String>,
    /// Directory of virt-handler and virt-launcher; this program's own when absent
    #[arg(long)]
    program_dir: Option<PathBuf>,
}

/// What is handed on to the API server's process. It works in DATA_DIR/api, and paths are below it.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
struct ApiOptions {
    /// Who admits pods by SecurityContextConstraints: this program, or `ferrovirt serve webhook` registered as on any
    /// Kubernetes. With `webhook` and nothing registered nobody does: for trying and testing the webhook only
    #[arg(long, value_enum, default_value_t = SccAdmission::InProcess)]
    scc_admission: SccAdmission,
    /// Seconds after which the API server ends a watch, whatever its client asked for; clients watch again from there
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    longest_watch: Option<u64>,
    /// File of audit events, one JSON line each; none are written when absent. Its directory has to be one in which the
    /// API server's user may write
    #[arg(long)]
    audit_log: Option<PathBuf>,
    /// MiB after which the audit log is renamed and begun again
    #[arg(long, default_value_t = 100)]
    audit_log_maxsize: u64,
    /// How many renamed audit logs are kept; 0 keeps all
    #[arg(long, default_value_t = 10)]
    audit_log_maxbackup: usize,
}

/// A user that is nobody's: not root, not the launchers' own 107, not the kernel's number for strangers.
fn user(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if ![0, 107, 65_534, 65_535, u32::MAX].contains(&number) => Ok(number),
        _ => Err("name the number of a user that nothing else runs as, not root".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum, Serialize, Deserialize)]
enum SccAdmission {
    InProcess,
    Webhook,
}

impl From<SccAdmission> for ferrovirt_apiserver::app::SccAdmission {
    fn from(choice: SccAdmission) -> Self {
        match choice {
            SccAdmission::InProcess => Self::InProcess,
            SccAdmission::Webhook => Self::Webhook,
        }
    }
}

pub(crate) fn up(options: Options) -> Result<()> {
    ferrovirt_log::start("info,kube=warn");
    requirements::check()?;
    supervisor::run(&options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Parser)]
    struct Up {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_old_name_of_kvm_timeout_is_taken_and_not_shown() {
        let parsed = |flag| Up::try_parse_from(["up", flag, "7"]).map(|up| up.options.kvm_timeout);
        assert_eq!(parsed("--kvm-timeout").ok(), Some(7));
        assert_eq!(parsed("--kvm-patience").ok(), Some(7));
        let help = Up::command().render_long_help().to_string();
        assert!(help.contains("--kvm-timeout") && !help.contains("kvm-patience"), "{help}");
    }
}
