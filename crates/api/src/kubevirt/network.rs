//! Network interfaces and the networks behind them.

crate::wire::wire! {
    Interface {
        acpi_index: Option<i32>,
        binding: Option<PluginBinding>,
        boot_order: Option<u32>,
        bridge: Option<InterfaceBridge>,
        dhcp_options: Option<DhcpOptions>,
        mac_address: Option<String>,
        macvtap: Option<DeprecatedInterfaceMacvtap>,
        masquerade: Option<InterfaceMasquerade>,
        model: Option<String>,
        name: String,
        passt: Option<DeprecatedInterfacePasst>,
        passt_binding: Option<InterfacePasstBinding>,
        pci_address: Option<String>,
        #[serde(default)]
        port_ranges: Vec<PortRange>,
        #[serde(default)]
        ports: Vec<Port>,
        slirp: Option<DeprecatedInterfaceSlirp>,
        sriov: Option<InterfaceSriov>,
        state: Option<String>,
        tag: Option<String>,
    }

    PluginBinding {
        name: String,
    }

    InterfaceBridge {}

    InterfaceMasquerade {}

    InterfaceSriov {}

    InterfacePasstBinding {}

    DeprecatedInterfaceMacvtap {}

    DeprecatedInterfacePasst {}

    DeprecatedInterfaceSlirp {}

    DhcpOptions {
        boot_file_name: Option<String>,
        #[serde(default)]
        ntp_servers: Vec<String>,
        #[serde(default)]
        private_options: Vec<DhcpPrivateOptions>,
        tftp_server_name: Option<String>,
    }

    DhcpPrivateOptions {
        option: i32,
        value: String,
    }

    Port {
        name: Option<String>,
        port: i32,
        protocol: Option<String>,
    }

    PortRange {
        end: i32,
        protocol: String,
        start: i32,
    }

    Network {
        multus: Option<MultusNetwork>,
        name: String,
        pod: Option<PodNetwork>,
        resource_claim: Option<ClaimRequest>,
    }

    MultusNetwork {
        r#default: Option<bool>,
        network_name: String,
    }

    PodNetwork {
        #[serde(rename = "vmIPv6NetworkCIDR")]
        vm_ipv6_network_cidr: Option<String>,
        #[serde(rename = "vmNetworkCIDR")]
        vm_network_cidr: Option<String>,
    }

    ClaimRequest {
        claim_name: Option<String>,
        request_name: Option<String>,
    }
}
