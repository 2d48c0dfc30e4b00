//! Device plug-ins of a whole Ferrovirt: places for machines, and another one's devices.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, process::Process, wait_for};
use ferrovirt_kubelet_api::{
    grpc::{self, Channel},
    messages::{
        ALLOCATE, AllocateRequest, AllocateResponse, Device, Devices, Empty, HEALTHY, LIST, LIST_AND_WATCH,
        Options as PluginOptions, PodList, REGISTER, RegisterRequest, VERSION,
    },
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

const PLACES: &str = "devices.ferrovirt.io/machine";
const THING: &str = "vendor.example/thing";

/// Waits until the node has so many of a resource in all, and to give.
fn has(cluster: &Cluster, resource: &str, wanted: (&str, &str)) -> Result<()> {
    wait_for(&format!("{wanted:?} of {resource}"), TIMEOUT, || {
        let node = cluster.json(&["get", "nodes"])?["items"][0]["status"].clone();
        let count = |field: &str| node[field][resource].clone();
        Ok(((count("capacity"), count("allocatable")) == (json!(wanted.0), json!(wanted.1))).then_some(()))
    })
}

#[test]
fn a_node_has_places_for_machines_whichever_of_its_processes_was_killed() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let all = ("110", "110");
    has(&cluster, PLACES, all)?;
    let directory = fs::metadata(cluster.data().join("plug"))?;
    ensure!((directory.uid(), directory.mode() & 0o777) == (0, 0o700), "{directory:?}");
    cluster.apply(&machine("kept", "Always", 0))?;
    cluster.wait_phase("default", "kept", "Running")?;
    let qemu = Process::qemu("default", "kept").pop().context("no QEMU")?;
    for part in [Cluster::plug as fn(&Cluster) -> Option<Process>, Cluster::agent] {
        let killed = part(&cluster).context("not there")?;
        killed.signal(Signal::KILL)?;
        wait_for("another process in its place", TIMEOUT, || {
            Ok(part(&cluster).filter(|other| other.pid != killed.pid && other.alive()).map(drop))
        })?;
        has(&cluster, PLACES, all)?;
    }
    let plug = cluster.plug().context("no virt-handler plug")?;
    cluster.kill()?;
    wait_for("its end", TIMEOUT, || Ok((!plug.alive()).then_some(())))?;
    cluster.launch()?;
    cluster.wait_ready()?;
    has(&cluster, PLACES, all)?;
    ensure!(Process::qemu("default", "kept") == [qemu], "it is another QEMU");
    cluster.stop()
}

/// `virt-handler plug` is root without a capability: the way to the programs is closed to it.
#[test]
fn programs_in_somebodys_home_offer_places() -> Result<()> {
    let home = tempfile::tempdir()?;
    for program in ["virt-handler", "virt-launcher"] {
        fs::copy(Cluster::binaries()?.join(program), home.path().join(program))?;
    }
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700))?;
    chown(home.path(), Some(1000), Some(1000))?;
    let directory = home.path().to_str().context("no text")?.to_owned();
    let arguments = vec!["--program-dir".to_owned(), directory];
    let mut cluster = Cluster::start(Options { arguments, ..Options::default() })?;
    has(&cluster, PLACES, ("110", "110"))?;
    cluster.stop()
}

/// Serves a plug-in with one healthy device, and says which were asked for.
async fn serve(listener: tokio::net::UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = grpc::serve(stream, |request| async {
            match request.uri().path() {
                LIST_AND_WATCH => {
                    let device =
                        |id: &str, health: &str| Device { id: id.to_owned(), health: health.to_owned() };
                    let devices = vec![device("well", HEALTHY), device("ill", "Unhealthy")];
                    let first = futures::stream::iter([Ok(Devices { devices })]);
                    let list = futures::StreamExt::chain(first, futures::stream::pending());
                    grpc::streaming::<Empty, Devices, _>(request, 1 << 16, list).await
                }
                ALLOCATE => {
                    let answer = |_: AllocateRequest| std::future::ready(Ok(AllocateResponse::default()));
                    grpc::unary(request, 1 << 16, answer).await
                }
                _ => grpc::unimplemented(),
            }
        });
        tokio::spawn(async { drop(connection.await) });
    }
}

async fn register(directory: &Path, resource: &str) -> Result<Empty, tonic::Status> {
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: "thing.sock".to_owned(),
        resource_name: resource.to_owned(),
        options: Some(PluginOptions::default()),
    };
    let connected = Channel::connect(&directory.join("kubelet.sock")).await;
    connected
        .map_err(|error| tonic::Status::internal(error.to_string()))?
        .unary(REGISTER, request, 1 << 16)
        .await
}

#[test]
fn devices_of_a_plug_in_are_the_nodes_as_long_as_it_lives_and_pods_are_shown() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let plugins = cluster.data().join("agent/device-plugins");
    let resources = cluster.data().join("agent/pod-resources/kubelet.sock");
    cluster.apply(&machine("shown", "Always", 0))?;
    cluster.wait_phase("default", "shown", "Running")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::bind(plugins.join("thing.sock"))?
    };
    let plugin = runtime.spawn(serve(listener));
    runtime.block_on(register(&plugins, THING))?;
    has(&cluster, THING, ("2", "1"))?;
    // What is the node's own is nobody's to offer.
    let refused = runtime.block_on(register(&plugins, "devices.kubevirt.io/kvm"));
    ensure!(refused.is_err(), "a plug-in offers the node's KVM");

    let list = async {
        let channel = Channel::connect(&resources).await?;
        channel.unary::<_, PodList>(LIST, Empty {}, 1 << 20).await.map_err(std::io::Error::other)
    };
    let shown = runtime.block_on(list)?.pods;
    let pods = cluster.json(&["get", "pods"])?;
    ensure!(shown.len() == 1 && pods["items"][0]["metadata"]["name"] == shown[0].name, "{shown:?}");
    ensure!(shown[0].containers.iter().any(|container| container.name == "compute"), "{shown:?}");

    plugin.abort();
    drop(runtime);
    has(&cluster, THING, ("2", "0"))?;
    cluster.stop()
}
