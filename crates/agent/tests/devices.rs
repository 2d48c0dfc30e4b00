//! `virt-handler plug` as a process, registered at the node's own device manager. Needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use ferrovirt_handler::plug::{MACHINE, MOUNT_POINT, messages};
use ferrovirt_node::devices::{
    Devices, listen,
    table::{Count, Holder},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

const LIMIT: Duration = Duration::from_secs(60);

/// Looks until it is so.
async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn plug(root: &Path) -> Child {
    let path = |option: &str, name: &str| format!("--{option}={}", root.join(name).display());
    Command::new(env!("CARGO_BIN_EXE_virt-handler"))
        .arg("plug")
        .args([path("directory", "own"), path("device-plugins", "plugins")])
        .arg(path("pod-resources", "resources/kubelet.sock"))
        .args(["--pod-name=virt-handler-x", "--pod-namespace=kubevirt", "--slots=3", "--keep-seconds=0"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The names of the pods that hold slots, by what the plug-in has kept.
fn holders(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("own/records")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let records = texts.filter_map(|text| serde_json::from_str(&text).ok());
    records.filter_map(|record: serde_json::Value| find(&record, "pod")).collect()
}

/// The text of a field, wherever it is.
fn find(value: &serde_json::Value, name: &str) -> Option<String> {
    let object = value.as_object()?;
    let own = object.get(name).and_then(|text| text.as_str()).map(str::to_owned);
    own.or_else(|| object.values().find_map(|value| find(value, name)))
}

#[tokio::test]
async fn the_handlers_plug_in_gives_slots_of_the_node_and_learns_who_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("own")).unwrap();
    let devices = Devices::open(root.join("plugins"), root.join("devices.json"), []).unwrap();
    let sockets = listen(&root.join("plugins"), &root.join("resources")).unwrap();
    let pod = |namespace: &str, name: &str| messages::Pod {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        containers: vec![messages::Container { name: "compute".to_owned(), devices: Vec::new() }],
    };
    // The plug-in believes a node that knows the plug-in's own pod.
    let pods = move || Some(vec![pod("kubevirt", "virt-handler-x"), pod("vms", "a")]);
    let serving = tokio::spawn(devices.clone().serve(sockets, pods));

    let mut child = plug(root);
    let counts = |capacity, allocatable| {
        let wanted = Count { capacity, allocatable };
        (devices.counts().get(MACHINE) == Some(&wanted)).then_some(())
    };
    until("its slots", || counts(3, 3)).await;
    let holder = Holder { namespace: "vms".to_owned(), pod: "a".to_owned(), container: "compute".to_owned() };
    let wanted = BTreeMap::from([(MACHINE.to_owned(), 1)]);
    let granted = devices.allocate("uid", holder.clone(), &wanted).await.unwrap();
    let mount = &granted.mounts[0];
    assert_eq!(mount.destination, MOUNT_POINT);
    assert!(mount.source.starts_with(root.join("own/slots")) && mount.options.contains(&"ro".to_owned()));
    assert_eq!(fs::metadata(&mount.source).unwrap().mode() & 0o777, 0o711);
    until("who holds the slot", || (holders(root) == ["a"]).then_some(())).await;
    // Two are more than a container of it can have, in the plug-in's own words; the pod has none then.
    let two = BTreeMap::from([(MACHINE.to_owned(), 2)]);
    let error = devices.allocate("other", holder, &two).await.unwrap_err().to_string();
    assert!(error.contains("a container can have one"), "{error}");
    assert_eq!(devices.holders(), ["uid".to_owned()].into());

    child.kill().await.unwrap();
    until("that it is gone", || counts(3, 0)).await;
    let _child = plug(root);
    until("that it is back", || counts(3, 3)).await;
    devices.release("uid");
    let slot = mount.source.clone();
    until("the end of the slot's directory", || (!slot.exists()).then_some(())).await;
    serving.abort();
}
