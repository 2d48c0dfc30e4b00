//! Places on the PCI bus.
//!
//! Devices sit on the root bus as long as there is room: it starts fastest, and QEMU's root bus has the slots 2 to
//! 30 free (0 is the host bridge, 1 the VGA adapter, 31 the chipset). A machine with more devices gets root ports,
//! eight to a slot, for the rest.

use super::{Args, OrderError};
use serde_json::json;

const FIRST: usize = 2;
const LAST: usize = 30;
/// Slots that keep carrying devices when root ports are needed; the others carry eight ports each.
const DIRECT_WITH_PORTS: usize = 13;
const PORTS_PER_SLOT: usize = 8;
/// Most devices of one machine.
pub(super) const MOST: usize = DIRECT_WITH_PORTS + (LAST - FIRST + 1 - DIRECT_WITH_PORTS) * PORTS_PER_SLOT;

pub(super) struct Slots {
    direct: usize,
    ports: usize,
    next: usize,
}

pub(super) struct Place {
    pub(super) bus: String,
    pub(super) address: String,
}

impl Slots {
    pub(super) fn new(devices: usize) -> Self {
        let all = LAST - FIRST + 1;
        if devices <= all {
            return Self { direct: all, ports: 0, next: 0 };
        }
        let room = (all - DIRECT_WITH_PORTS) * PORTS_PER_SLOT;
        Self { direct: DIRECT_WITH_PORTS, ports: (devices - DIRECT_WITH_PORTS).min(room), next: 0 }
    }

    /// Number of root ports.
    pub(super) fn ports(&self) -> usize {
        self.ports
    }

    pub(super) fn take(&mut self) -> Result<Place, OrderError> {
        let index = self.next;
        self.next += 1;
        if index < self.direct {
            Ok(Place { bus: "pcie.0".into(), address: format!("{:#x}", FIRST + index) })
        } else if index < self.direct + self.ports {
            Ok(Place { bus: format!("port{}", index - self.direct), address: "0x0".into() })
        } else {
            Err(OrderError::TooManyDevices(self.direct + self.ports))
        }
    }

    pub(super) fn root_ports(&self, args: &mut Args) {
        for port in 0..self.ports {
            let (slot, function) = (FIRST + self.direct + port / PORTS_PER_SLOT, port % PORTS_PER_SLOT);
            args.json(
                "-device",
                &json!({
                    "driver": "pcie-root-port", "id": format!("port{port}"), "bus": "pcie.0",
                    "addr": format!("{slot:#x}.{function:#x}"), "multifunction": function == 0,
                    "chassis": port + 1,
                }),
            );
        }
    }
}
