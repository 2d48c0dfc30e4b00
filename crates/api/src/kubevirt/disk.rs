//! Disks as the guest sees them.

use super::FeatureState;

crate::wire::wire! {
    Disk {
        block_size: Option<BlockSize>,
        boot_order: Option<u32>,
        cache: Option<String>,
        cdrom: Option<CdromTarget>,
        changed_block_tracking: Option<bool>,
        #[serde(rename = "dedicatedIOThread")]
        dedicated_io_thread: Option<bool>,
        disk: Option<DiskTarget>,
        error_policy: Option<String>,
        io: Option<String>,
        lun: Option<LunTarget>,
        name: String,
        serial: Option<String>,
        shareable: Option<bool>,
        tag: Option<String>,
    }

    DiskTarget {
        bus: Option<String>,
        pci_address: Option<String>,
        readonly: Option<bool>,
    }

    LunTarget {
        bus: Option<String>,
        readonly: Option<bool>,
        reservation: Option<bool>,
    }

    CdromTarget {
        bus: Option<String>,
        readonly: Option<bool>,
        tray: Option<String>,
    }

    BlockSize {
        custom: Option<CustomBlockSize>,
        match_volume: Option<FeatureState>,
    }

    CustomBlockSize {
        discard_granularity: Option<u32>,
        logical: Option<u32>,
        physical: Option<u32>,
    }
}
