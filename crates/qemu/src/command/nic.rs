//! Network interfaces.

use super::{Devices, OrderError};
use crate::order::Nic;
use serde_json::json;

/// Models of the machine's interface, and QEMU's devices for them.
pub(super) const MODELS: [(&str, &str); 4] =
    [("virtio", "virtio-net-pci"), ("e1000", "e1000"), ("e1000e", "e1000e"), ("rtl8139", "rtl8139")];

impl Devices {
    /// `queues`: the TAP's descriptors.
    pub(super) fn nic(&mut self, index: usize, nic: &Nic, queues: &[i32]) -> Result<(), OrderError> {
        let need = usize::try_from(nic.queues).unwrap_or(usize::MAX);
        if queues.len() != need {
            let what = format!("TAP queues of interface {:?}", nic.name);
            return Err(OrderError::Descriptors { what, have: queues.len(), need });
        }
        let id = format!("net{index}");
        let fds: Vec<String> = queues.iter().map(i32::to_string).collect();
        let key = if queues.len() == 1 { "fd" } else { "fds" };
        self.args.json("-netdev", &json!({"type": "tap", "id": id, key: fds.join(":"), "vhost": false}));

        let driver = MODELS.iter().find(|(model, _)| *model == nic.model).map_or("", |(_, driver)| *driver);
        let mut device = json!({
            "driver": driver, "id": format!("nic{index}"), "netdev": id, "mac": nic.mac,
        });
        if let Some(map) = device.as_object_mut() {
            if nic.model == "virtio" {
                map.insert("disable-legacy".into(), "on".into());
            }
            if nic.queues > 1 {
                map.insert("mq".into(), true.into());
                // One interrupt for each direction of each queue, one for the control queue, one for the configuration.
                map.insert("vectors".into(), (2 * nic.queues + 2).into());
            }
            match nic.boot_order {
                Some(order) => map.insert("bootindex".into(), order.into()),
                // The firmware would run the network boot ROM of every interface, at half a second each.
                None => map.insert("romfile".into(), "".into()),
            };
        }
        self.pci(device)
    }
}
