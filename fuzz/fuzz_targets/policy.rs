//! Any bytes as a kernel binary policy: what is read is written back byte for byte, and what is valid can be searched,
//! compared, copied and asked.
#![no_main]

use ferrovirt_selinux::{
    Database, Policy, cil, clone,
    diff::{between_policies, between_types},
    query::{Criterion, Query, search},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(policy) = Policy::parse(data) else { return };
    assert!(policy.serialize() == data, "the policy is written back differently");
    let Ok(database) = Database::new(policy) else { return };
    for found in search(&database, &Query::default()).unwrap_or_default() {
        let _ = database.found_text(found);
    }
    let types: Vec<u32> = database.types().take(3).collect();
    for kind in &types {
        let name = database.type_name(*kind).to_owned();
        let criterion = Some(Criterion { name: name.clone(), direct: false });
        let _ = search(&database, &Query { source: criterion.clone(), target: criterion, ..Query::default() });
        if let Ok(module) = clone::module(&database, &name, "block", "process", &[]) {
            let _ = cil::text(&module.statements);
        }
        let _ = between_types(&database, types[0], *kind).grouped("one", "two");
    }
    let contexts: Vec<_> = database.policy().ocontexts.initial.iter().map(|(_, context)| context).collect();
    for source in contexts.iter().take(4) {
        let _ = database.is_valid(source);
        for target in contexts.iter().take(4) {
            for class in 1..=database.policy().classes.highest.min(8) {
                let decision = database.decide(source, target, class);
                let _ = database.permission_names(class, decision.allowed);
                let _ = database.new_label(source, target, class, Some("name"));
                let _ = database.judge(source, target, class, 1);
            }
        }
    }
    assert!(between_policies(&database, &database).is_empty(), "a policy differs from itself");
});
