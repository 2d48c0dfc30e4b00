//! What the kubelet says of its pods, and what is made of it.
#![no_main]

use ferrovirt_handler::plug::{
    MACHINE, look,
    messages::{AllocateRequest, PodList},
    table::{Action, State, Table},
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use std::time::{Duration, Instant};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = AllocateRequest::decode(bytes) {
        assert!(request.containers.len() <= bytes.len());
    }
    let Ok(list) = PodList::decode(bytes) else { return };
    let shown = look::shown(&list, MACHINE);
    let now = Instant::now();
    let mut table = Table::new(Duration::ZERO, 3);
    for slot in ["0", "1", "2"] {
        assert!(table.allocate(slot, slot, now).is_ok());
    }
    for action in table.seen(&shown, now, now) {
        if let Action::Write(_, record) = action
            && let State::Held(holder) = record.state
        {
            let names = [&holder.namespace, &holder.pod, &holder.container];
            assert!(names.iter().all(|name| (1..=253).contains(&name.len()) && !name.contains('/')));
            assert_eq!(shown.holders[&record.slot].len(), 1);
        }
    }
});
