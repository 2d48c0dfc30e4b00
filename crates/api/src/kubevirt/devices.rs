//! Devices other than disks and network interfaces.

use super::{Disk, FeatureState, Interface};

crate::wire::wire! {
    Devices {
        autoattach_graphics_device: Option<bool>,
        autoattach_input_device: Option<bool>,
        autoattach_mem_balloon: Option<bool>,
        autoattach_pod_interface: Option<bool>,
        autoattach_serial_console: Option<bool>,
        #[serde(rename = "autoattachVSOCK")]
        autoattach_vsock: Option<bool>,
        block_multi_queue: Option<bool>,
        client_passthrough: Option<ClientPassthroughDevices>,
        disable_hotplug: Option<bool>,
        #[serde(default)]
        disks: Vec<Disk>,
        downward_metrics: Option<DownwardMetrics>,
        #[serde(default)]
        filesystems: Vec<Filesystem>,
        #[serde(default)]
        gpus: Vec<Gpu>,
        #[serde(default)]
        host_devices: Vec<HostDevice>,
        #[serde(default)]
        inputs: Vec<Input>,
        #[serde(default)]
        interfaces: Vec<Interface>,
        log_serial_console: Option<bool>,
        network_interface_multiqueue: Option<bool>,
        #[serde(default)]
        panic_devices: Vec<PanicDevice>,
        rng: Option<Rng>,
        sound: Option<SoundDevice>,
        tpm: Option<TpmDevice>,
        use_virtio_transitional: Option<bool>,
        video: Option<VideoDevice>,
        watchdog: Option<Watchdog>,
    }

    ClientPassthroughDevices {}

    DownwardMetrics {}

    Filesystem {
        name: String,
        virtiofs: FilesystemVirtiofs,
    }

    FilesystemVirtiofs {}

    Gpu {
        claim_name: Option<String>,
        device_name: Option<String>,
        name: String,
        request_name: Option<String>,
        tag: Option<String>,
        #[serde(rename = "virtualGPUOptions")]
        virtual_gpu_options: Option<VgpuOptions>,
    }

    VgpuOptions {
        display: Option<VgpuDisplayOptions>,
    }

    VgpuDisplayOptions {
        enabled: Option<bool>,
        #[serde(rename = "ramFB")]
        ram_fb: Option<FeatureState>,
    }

    HostDevice {
        claim_name: Option<String>,
        device_name: Option<String>,
        name: String,
        request_name: Option<String>,
        tag: Option<String>,
    }

    Input {
        bus: Option<String>,
        name: String,
        r#type: String,
    }

    PanicDevice {
        model: Option<String>,
    }

    Rng {}

    SoundDevice {
        model: Option<String>,
        name: String,
    }

    TpmDevice {
        enabled: Option<bool>,
        persistent: Option<bool>,
    }

    VideoDevice {
        r#type: Option<String>,
    }

    Watchdog {
        diag288: Option<Diag288Watchdog>,
        i6300esb: Option<I6300EsbWatchdog>,
        name: String,
    }

    Diag288Watchdog {
        action: Option<String>,
    }

    I6300EsbWatchdog {
        action: Option<String>,
    }
}
