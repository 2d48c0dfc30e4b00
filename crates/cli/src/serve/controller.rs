//! `ferrovirt serve controller`: the controllers against a cluster, as one of several replicas.

use super::{client, health, stop, verbosity};
use anyhow::{Context, Result};
use clap::Args;
use ferrovirt_control::lease::{Election, Standing, Timing};
use ferrovirt_model::Profile;
use ferrovirt_plan::config::{ClusterConfig, verbosity::Program};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    path::PathBuf,
};
use tokio::{net::TcpListener, sync::watch};

#[derive(Args)]
pub(super) struct Options {
    /// Address and port of /healthz and /readyz, over plain HTTP
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Image of launcher pods
    #[arg(long, default_value_t = ClusterConfig::default().launcher_image)]
    launcher_image: String,
    /// Profile of the KubeVirt object that is made where there is none: minimal or documented
    #[arg(long, default_value = "minimal")]
    profile: Profile,
    /// Group of that object by which launchers use claims; none where security context constraints give pods one
    #[arg(long)]
    volume_group: Option<u32>,
    /// How to reach the cluster; the pod's own service account when absent
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// Waits for the Lease, works while it holds, and gives it back when it is asked to end.
///
/// # Errors
/// A Lease that is lost: the process ends with all that it was doing, and is started again as one of those that wait.
pub(super) async fn run(options: Options) -> Result<()> {
    let Options { listen, launcher_image, profile, volume_group, kubeconfig } = options;
    let defaults = ClusterConfig::on_cluster(profile, launcher_image, volume_group);
    let client = client(kubeconfig.as_deref()).await?;
    let (standing, seen) = watch::channel(Standing::Unknown);
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
    let health = tokio::spawn(health::serve(listener, seen));
    tokio::spawn(verbosity::follow(client.clone(), Program::Controller));
    let mut election = Election::new(client.clone(), identity(), Timing::default(), standing.clone());
    tokio::select! {
        () = election.acquire() => tracing::info!("this replica leads"),
        stopped = stop() => {
            ferrovirt_control::leave(&client).await;
            return stopped;
        }
    }
    let working = || {
        standing.send_replace(Standing::Working);
    };
    let outcome = tokio::select! {
        lost = election.keep() => {
            standing.send_replace(Standing::Unknown);
            return Err(lost.into());
        }
        ended = ferrovirt_control::run_and_tell(client.clone(), defaults, working) => match ended {
            Err(error) => Err(error.into()),
            Ok(never) => match never {},
        },
        stopped = stop() => stopped,
    };
    // The controllers have ended with their future.
    election.release().await;
    ferrovirt_control::leave(&client).await;
    health.abort();
    outcome
}

/// A name that no other process has: the pod's, and chance, for a container that is started again is another replica.
fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}_{:016x}", RandomState::new().build_hasher().finish())
}
