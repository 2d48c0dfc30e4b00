//! Huge pages of the node.

use ferrovirt_model::{Bytes, PageSize};

/// Huge pages of this size that nobody has taken or reserved; `None` when the kernel does not offer the size.
pub fn free(page_bytes: u64) -> Option<u64> {
    let directory = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes >> 10);
    let read = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("{directory}/{file}")).ok()?.trim().parse().ok()
    };
    Some(read("free_hugepages")?.saturating_sub(read("resv_hugepages")?))
}

/// What to say, and do, when huge pages for a guest are not there; `None` when they are.
pub fn missing(guest: Bytes, page: PageSize) -> Option<String> {
    let needed = page.pages(guest);
    let free = free(page.bytes()).unwrap_or_default();
    (free < needed).then(|| {
        format!(
            "the guest needs {needed} huge pages of {page}, {free} are free on this node: reserve more with \
             `echo N > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages` as root",
            page.bytes() >> 10
        )
    })
}
