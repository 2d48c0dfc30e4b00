//! Conditions: the same five fields on three kinds.

use ferrovirt_kubernetes::typed_condition::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{KubeVirtCondition, VirtualMachineCondition, VirtualMachineInstanceCondition};

macro_rules! conditions {
    ($($kind:ident),*) => {$(
        impl Condition for $kind {
            fn new(kind: &str, status: &str, reason: &str, message: &str) -> Self {
                let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                Self {
                    r#type: kind.to_owned(),
                    status: status.to_owned(),
                    reason: text(reason),
                    message: text(message),
                    ..Self::default()
                }
            }
            fn kind(&self) -> &str {
                &self.r#type
            }
            fn status(&self) -> &str {
                &self.status
            }
            fn reason(&self) -> &str {
                self.reason.as_deref().unwrap_or_default()
            }
            fn same(&self, other: &Self) -> bool {
                self.status == other.status && self.reason == other.reason && self.message == other.message
            }
            fn changed_at(&mut self) -> &mut Option<Time> {
                &mut self.last_transition_time
            }
        }
    )*};
}

conditions!(VirtualMachineInstanceCondition, VirtualMachineCondition, KubeVirtCondition);
