//! The machine proper: processors, memory, clock, resources.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Devices, Features, Firmware};
use crate::wire;

crate::wire::wire! {
    DomainSpec {
        chassis: Option<Chassis>,
        clock: Option<Clock>,
        cpu: Option<Cpu>,
        devices: Devices,
        features: Option<Features>,
        firmware: Option<Firmware>,
        io_threads: Option<DiskIoThreads>,
        io_threads_policy: Option<String>,
        launch_security: Option<LaunchSecurity>,
        machine: Option<Machine>,
        memory: Option<Memory>,
        reboot_policy: Option<String>,
        resources: Option<ResourceRequirements>,
    }

    Chassis {
        asset: Option<String>,
        manufacturer: Option<String>,
        serial: Option<String>,
        sku: Option<String>,
        version: Option<String>,
    }

    Clock {
        timer: Option<Timer>,
        timezone: Option<String>,
        utc: Option<ClockOffsetUtc>,
    }

    Timer {
        hpet: Option<HpetTimer>,
        hyperv: Option<HypervTimer>,
        kvm: Option<KvmTimer>,
        pit: Option<PitTimer>,
        rtc: Option<RtcTimer>,
    }

    HpetTimer {
        present: Option<bool>,
        tick_policy: Option<String>,
    }

    HypervTimer {
        present: Option<bool>,
    }

    KvmTimer {
        present: Option<bool>,
    }

    PitTimer {
        present: Option<bool>,
        tick_policy: Option<String>,
    }

    RtcTimer {
        present: Option<bool>,
        tick_policy: Option<String>,
        track: Option<String>,
    }

    ClockOffsetUtc {
        offset_seconds: Option<i32>,
    }

    Cpu {
        cores: Option<u32>,
        dedicated_cpu_placement: Option<bool>,
        #[serde(default)]
        features: Vec<CpuFeature>,
        isolate_emulator_thread: Option<bool>,
        max_sockets: Option<u32>,
        model: Option<String>,
        numa: Option<Numa>,
        realtime: Option<Realtime>,
        sockets: Option<u32>,
        threads: Option<u32>,
    }

    CpuFeature {
        name: String,
        policy: Option<String>,
    }

    Numa {
        guest_mapping_passthrough: Option<NumaGuestMappingPassthrough>,
    }

    NumaGuestMappingPassthrough {}

    Realtime {
        mask: Option<String>,
    }

    DiskIoThreads {
        supplemental_pool_thread_count: Option<u32>,
    }

    LaunchSecurity {
        sev: Option<Sev>,
        snp: Option<SevSnp>,
        tdx: Option<Tdx>,
    }

    Sev {
        attestation: Option<SevAttestation>,
        dh_cert: Option<String>,
        policy: Option<SevPolicy>,
        session: Option<String>,
    }

    SevAttestation {}

    SevPolicy {
        encrypted_state: Option<bool>,
    }

    SevSnp {}

    Tdx {}

    Machine {
        r#type: Option<String>,
    }

    Memory {
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        guest: Option<Quantity>,
        hugepages: Option<Hugepages>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        max_guest: Option<Quantity>,
        reserved_overhead: Option<ReservedOverhead>,
    }

    Hugepages {
        page_size: Option<String>,
    }

    ReservedOverhead {
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity")]
        added_overhead: Option<Quantity>,
        mem_lock: Option<String>,
    }

    ResourceRequirements {
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity_map")]
        limits: BTreeMap<String, Quantity>,
        overcommit_guest_overhead: Option<bool>,
        #[serde(default)]
        #[schemars(schema_with = "wire::quantity_map")]
        requests: BTreeMap<String, Quantity>,
    }
}
