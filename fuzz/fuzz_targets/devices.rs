//! What a device plug-in says, and what is taken of it.
#![no_main]

use ferrovirt_kubelet_api::messages::{AllocateResponse, Devices, RegisterRequest};
use ferrovirt_node::devices::{
    answer,
    table::{Record, Table},
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = RegisterRequest::decode(bytes) {
        let socket = answer::socket(Path::new("/plugins"), &request.endpoint);
        assert!(socket.is_absolute() && !socket.to_string_lossy().contains("/../"));
        drop(Table::new(Record::default(), []).register(&request.resource_name));
    }
    if let Ok(list) = Devices::decode(bytes)
        && let Ok(devices) = answer::devices("vendor.example/thing", list)
    {
        assert!(devices.len() <= answer::MOST_DEVICES);
    }
    if let Ok(response) = AllocateResponse::decode(bytes)
        && let Ok(container) = answer::container(response)
    {
        let mounts = container.mounts.iter().flat_map(|mount| [&mount.container_path, &mount.host_path]);
        for path in mounts {
            assert!(path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path}");
        }
    }
});
