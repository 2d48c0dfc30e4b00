//! Features of the hypervisor that the guest sees.

crate::wire::wire! {
    Features {
        acpi: Option<FeatureState>,
        apic: Option<FeatureApic>,
        hyperv: Option<FeatureHyperv>,
        hyperv_passthrough: Option<HypervPassthrough>,
        kvm: Option<FeatureKvm>,
        pvspinlock: Option<FeatureState>,
        smm: Option<FeatureState>,
    }

    FeatureState {
        enabled: Option<bool>,
    }

    FeatureApic {
        enabled: Option<bool>,
        end_of_interrupt: Option<bool>,
    }

    FeatureHyperv {
        evmcs: Option<FeatureState>,
        frequencies: Option<FeatureState>,
        ipi: Option<FeatureState>,
        reenlightenment: Option<FeatureState>,
        relaxed: Option<FeatureState>,
        reset: Option<FeatureState>,
        runtime: Option<FeatureState>,
        spinlocks: Option<FeatureSpinlocks>,
        synic: Option<FeatureState>,
        synictimer: Option<SynicTimer>,
        tlbflush: Option<TlbFlush>,
        vapic: Option<FeatureState>,
        vendorid: Option<FeatureVendorId>,
        vpindex: Option<FeatureState>,
    }

    FeatureSpinlocks {
        enabled: Option<bool>,
        spinlocks: Option<u32>,
    }

    SynicTimer {
        direct: Option<FeatureState>,
        enabled: Option<bool>,
    }

    TlbFlush {
        direct: Option<FeatureState>,
        enabled: Option<bool>,
        extended: Option<FeatureState>,
    }

    FeatureVendorId {
        enabled: Option<bool>,
        vendorid: Option<String>,
    }

    HypervPassthrough {
        enabled: Option<bool>,
    }

    FeatureKvm {
        hidden: Option<bool>,
    }
}
