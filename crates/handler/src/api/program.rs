//! `virt-handler api`: the program.

use super::{http, net, node::Node, stream::Streams, worker::Shared};
use crate::{
    machine::{accept::Reader, client, events::Recorder},
    net::program::STREAMS,
};
use anyhow::Context as _;
use clap::Parser;
use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_model::Profile;
use ferrovirt_plan::config::{
    ClusterConfig, KUBEVIRT, NAMESPACE,
    verbosity::{Program, verbosity},
};
use ferrovirt_sys::rights;
use kube::api::GetParams;
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// The word after the program's name that starts it.
pub const COMMAND: &str = "api";
/// How often the KubeVirt object is looked at for how much is logged.
const LOOK: Duration = Duration::from_secs(10);

/// Reads machines and their pods, has `virt-handler net` make what they need, and reports their state
#[derive(Debug, Parser)]
#[command(name = "virt-handler api", version)]
struct Options {
    /// Name of the node
    #[arg(long)]
    node_name: String,
    /// Where `virt-handler net` is heard
    #[arg(long)]
    net_socket: PathBuf,
    /// Image of launcher pods, as the controller has it
    #[arg(long, default_value_t = ClusterConfig::default().launcher_image)]
    launcher_image: String,
    /// Profile that holds while there is no KubeVirt object, as the controller has it: minimal or documented
    #[arg(long, default_value = "minimal")]
    profile: Profile,
    /// Group by which launchers use claims while there is no KubeVirt object, as the controller has it
    #[arg(long)]
    volume_group: Option<u32>,
    /// Where consoles, pause and unpause are served to the cluster's API
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Directory with tls.crt, tls.key and ca.crt, which may come later and change. Without it nothing is served
    #[arg(long)]
    certificate_directory: Option<PathBuf>,
}

/// Runs until it is asked to end, with the arguments after [`COMMAND`]. `log` learns how much to say, as the KubeVirt object
/// has it.
///
/// # Errors
/// What keeps it from running, in words for an administrator.
pub fn run(arguments: impl IntoIterator<Item = OsString>, log: fn(Option<u32>)) -> anyhow::Result<()> {
    let options = Options::parse_from(std::iter::once(OsString::from("virt-handler api")).chain(arguments));
    anyhow::ensure!(options.net_socket.is_absolute(), "{} is no absolute path", options.net_socket.display());
    rights::hide_memory().context("keeping memory out of core dumps")?;
    rights::give_up().context("giving up rights")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, log))
}

async fn serve(options: Options, log: fn(Option<u32>)) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut config = kube::Config::incluster()
        .context("this is not a pod of a cluster, or it has no token of its service account")?;
    // An answer that does not go on is an error, and not a task that waits for ever; a watch is renewed before.
    config.read_timeout = Some(Duration::from_secs(330));
    config.reset_reader_on_write = true;
    let client = client::bounded(config)?;
    let Options {
        node_name,
        net_socket,
        launcher_image,
        profile,
        volume_group,
        listen,
        certificate_directory,
    } = options;
    let defaults = ClusterConfig::on_cluster(profile, launcher_image, volume_group);
    let (net, outgoing) = net::channel();
    let verbosity = follow_verbosity(client.clone(), node_name.clone(), log);
    let shared = Shared {
        reader: Reader { pods: client.clone(), machines: client.clone(), node: node_name.clone(), defaults },
        events: Recorder::new(client, "virt-handler", node_name.clone()),
        net,
        changed: Notify::new(),
    };
    tracing::info!(node = node_name, "virt-handler api is up");
    let node = Node::new(Arc::new(shared));
    let served = async {
        if let Some(directory) = &certificate_directory {
            let streams = Streams::new(net_socket.with_file_name(STREAMS));
            http::run(listen, directory, node.clone(), streams).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        () = node.clone().run(&net_socket, outgoing) => {}
        () = served => {}
        () = verbosity => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Tells how much is to be logged, again and again. Never ends.
///
/// There is no watch of the KubeVirt object here: the account may read the one object, and following it would take two verbs
/// more on every node. The API server answers out of its memory.
async fn follow_verbosity(client: kube::Client, node: String, log: fn(Option<u32>)) {
    let objects: kube::Api<KubeVirt> = kube::Api::namespaced(client, NAMESPACE);
    loop {
        // What was said last holds while nobody answers.
        match objects.get_with(KUBEVIRT, &GetParams::any()).await {
            Ok(object) => log(verbosity(&object, Program::Handler, &node)),
            Err(kube::Error::Api(status)) if status.code == 404 => log(None),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}
