//! Memory, huge pages and the resources of the pod.

use ferrovirt_kubernetes::quantity::{Amount, QuantityError};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Rules;
use crate::cause::{Path, Reason};

/// The amount of a quantity that [`Rules::quantities`] has accepted; nothing for one that it has refused.
fn amount(quantity: Option<&Quantity>) -> Amount {
    quantity.and_then(|quantity| Amount::parse(&quantity.0).ok()).unwrap_or(Amount::ZERO)
}

impl Rules<'_> {
    pub(super) fn request(&self, name: &str) -> Amount {
        amount(self.spec.domain.resources.as_ref().and_then(|resources| resources.requests.get(name)))
    }

    pub(super) fn limit(&self, name: &str) -> Amount {
        amount(self.spec.domain.resources.as_ref().and_then(|resources| resources.limits.get(name)))
    }

    pub(super) fn guest_memory(&self) -> Amount {
        amount(self.spec.domain.memory.as_ref().and_then(|memory| memory.guest.as_ref()))
    }

    /// Every quantity is one, and fits 64 bits. Negative ones have rules of their own where upstream has them.
    pub(super) fn quantities(&mut self) {
        let mut found: Vec<(Path, &Quantity, bool)> = Vec::new();
        if let Some(memory) = &self.spec.domain.memory {
            let path = self.domain("memory");
            found.extend(memory.guest.iter().map(|q| (path.child("guest"), q, false)));
            found.extend(memory.max_guest.iter().map(|q| (path.child("maxGuest"), q, false)));
        }
        if let Some(resources) = &self.spec.domain.resources {
            let path = self.domain("resources");
            found.extend(
                resources.requests.iter().map(|(name, q)| (path.child("requests").child(name), q, true)),
            );
            found
                .extend(resources.limits.iter().map(|(name, q)| (path.child("limits").child(name), q, true)));
        }
        for (index, volume) in self.spec.volumes.iter().enumerate() {
            let path = self.path.child("volumes").index(index);
            found.extend(
                volume
                    .empty_disk
                    .iter()
                    .map(|disk| (path.child("emptyDisk.capacity"), &disk.capacity, false)),
            );
            let capacity = volume.host_disk.as_ref().and_then(|disk| disk.capacity.as_ref());
            found.extend(capacity.map(|q| (path.child("hostDisk.capacity"), q, false)));
        }
        for (path, quantity, negative_checked_elsewhere) in found {
            let result = Amount::parse(&quantity.0).and_then(|amount| {
                let checked = if path.to_string().ends_with(".cpu") {
                    amount.millis().map(|_| ())
                } else {
                    amount.bytes().map(|_| ())
                };
                match checked {
                    Err(QuantityError::Negative) if negative_checked_elsewhere => Ok(()),
                    other => other,
                }
            });
            if let Err(error) = result {
                self.report.invalid(&path, format!("{path} '{}': {error}", quantity.0));
            }
        }
    }

    pub(super) fn memory(&mut self) {
        let request_path = self.domain("resources.requests.memory");
        let limit_path = self.domain("resources.limits.memory");
        let (request, limit) = (self.request("memory"), self.limit("memory"));
        let million = Amount::parse("1M").unwrap_or(Amount::ZERO);
        for (path, amount) in [(&request_path, request), (&limit_path, limit)] {
            if amount.is_negative() {
                let message = format!("{path} '{amount}': must be greater than or equal to 0.");
                self.report.invalid(path, message);
            }
        }
        if request > Amount::ZERO && request < million {
            let message = format!("{request_path} '{request}': must be greater than or equal to 1M.");
            self.report.invalid(&request_path, message);
        }
        if limit > Amount::ZERO && request > limit {
            let message = format!("{request_path} '{request}' is greater than {limit_path} '{limit}'");
            self.report.invalid(&request_path, message);
        }
        self.huge_pages(request, limit);
        let guest = self.guest_memory();
        if !self.config.live_update && !limit.is_zero() && limit < guest {
            let path = self.domain("memory.guest");
            let message = format!(
                "{path} '{guest}' must be equal to or less than the memory limit {limit_path} '{limit}'"
            );
            self.report.invalid(&path, message);
        }
    }

    fn huge_pages(&mut self, request: Amount, limit: Amount) {
        let Some(pages) = self.spec.domain.memory.as_ref().and_then(|memory| memory.hugepages.as_ref())
        else {
            return;
        };
        let path = self.domain("memory.hugepages.pageSize");
        let text = pages.page_size.as_deref().unwrap_or_default();
        let size = match Amount::parse(text) {
            Ok(size) if size.whole() > 0 => size,
            // Upstream divides by a page size of zero; both are refused here.
            Ok(_) => {
                self.report.invalid(&path, format!("{path} '{text}': must be greater than 0"));
                return;
            }
            Err(error) => {
                self.report.invalid(&path, format!("{path} '{text}': {error}"));
                return;
            }
        };
        let given = [request, self.guest_memory(), limit].into_iter().find(|amount| !amount.is_zero());
        let Some(memory) = given.map(Amount::whole) else { return };
        let request_path = self.domain("resources.requests.memory");
        if memory < size.whole() {
            let message = format!(
                "{request_path} '{request}' must be equal to or larger than page size {path} '{text}'"
            );
            self.report.invalid(request_path, message);
        } else if memory % size.whole() != 0 {
            let message =
                format!("{request_path} '{request}' is not a multiple of the page size {path} '{text}'");
            self.report.invalid(request_path, message);
        }
    }

    /// An instance, unlike a template, must say how much memory it has.
    pub(super) fn memory_is_given(&mut self) {
        let memory = self.spec.domain.memory.as_ref();
        let some = memory.is_some_and(|memory| memory.guest.is_some() || memory.hugepages.is_some());
        if self.request("memory").is_zero() && !some {
            let message = format!(
                "no memory requested, at least one of '{}', '{}' or '{}' must be set",
                self.domain("memory.guest"),
                self.domain("memory.hugepages.pageSize"),
                self.domain("resources.requests.memory"),
            );
            self.report.add(Reason::FieldValueRequired, "", message);
        }
    }

    pub(super) fn cpu_resources(&mut self) {
        let request_path = self.domain("resources.requests.cpu");
        let limit_path = self.domain("resources.limits.cpu");
        let (request, limit) = (self.request("cpu"), self.limit("cpu"));
        for (path, amount) in [(&request_path, request), (&limit_path, limit)] {
            if amount.is_negative() {
                let message = format!("{path} '{amount}': must be greater than or equal to 0.");
                self.report.invalid(path, message);
            }
        }
        if limit > Amount::ZERO && request > limit {
            let message = format!("{request_path} '{request}' is greater than {limit_path} '{limit}'");
            self.report.invalid(request_path, message);
        }
    }
}
