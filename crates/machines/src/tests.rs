//! What becomes of a request.

use super::*;
use ferrovirt_api::ClusterDefaults;
use ferrovirt_plan::scc::rights::{ANNOTATIONS, Decision, Problem};
use serde_json::json;

const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";
const UUID: &str = "5d307ca9-b3ef-428c-8861-06e72d69f223";

struct Case {
    operation: Operation,
    resource: &'static str,
    user: &'static str,
    old: Value,
}

impl Case {
    fn new(operation: Operation, resource: &'static str) -> Self {
        Self { operation, resource, user: "alice", old: Value::Null }
    }

    fn request<'a>(&'a self, object: &'a mut Value) -> Request<'a> {
        Request {
            operation: self.operation,
            resource: self.resource,
            subresource: "",
            namespace: "n",
            name: "m",
            user: self.user,
            groups: &[],
            old: Some(&self.old).filter(|old| !old.is_null()),
            object,
        }
    }

    fn complete(&self, object: &mut Value) -> Result<Subject, Refusal> {
        let around = Surroundings {
            defaults: &ClusterDefaults::default(),
            unique: &|| UUID.to_owned(),
            now: &|| "2026-01-01T00:00:00Z".to_owned(),
        };
        complete(&mut self.request(object), &around)
    }

    /// What is said to it, if it is refused.
    fn said(&self, mut object: Value) -> String {
        let result = self.complete(&mut object).and_then(|subject| {
            check(&subject, &self.request(&mut object), &ClusterDefaults::default(), || false)
        });
        result.err().map(|refusal| refusal.text()).unwrap_or_default()
    }
}

fn vm() -> Value {
    json!({"metadata": {"name": "m", "namespace": "n"}, "spec": {"runStrategy": "Halted", "template": {"spec": {
        "domain": {"memory": {"guest": "64Mi"}, "devices": {}}}}}})
}

fn vmi() -> Value {
    json!({"metadata": {"name": "m", "namespace": "n"}, "spec": {
        "domain": {"memory": {"guest": "64Mi"}, "devices": {}}}})
}

fn decision(scc: &str) -> Decision {
    Decision { scc: scc.into(), subject: "user alice".into(), pod_scc: scc.into() }
}

#[test]
fn an_instance_gets_an_interface_its_finalizer_and_its_first_phase() {
    let mut object = vmi();
    object["status"] = json!({"phase": "Running"});
    Case::new(Operation::Create, INSTANCES).complete(&mut object).unwrap();
    assert_eq!(object["spec"]["domain"]["devices"]["interfaces"][0]["name"], "default");
    assert_eq!(object["status"]["phase"], "Pending", "a phase of the requester's own");
    let first = &object["status"]["phaseTransitionTimestamps"][0];
    assert_eq!(first["phaseTransitionTimestamp"], "2026-01-01T00:00:00Z");
    assert!(object["metadata"]["finalizers"].is_array());
}

#[test]
fn a_machine_gets_an_identity_once() {
    let mut object = vm();
    Case::new(Operation::Create, MACHINES).complete(&mut object).unwrap();
    let firmware = &object["spec"]["template"]["spec"]["domain"]["firmware"];
    assert_eq!(firmware, &json!({"uuid": UUID, "serial": UUID}));
    let mut later = vm();
    let case = Case { old: vm(), ..Case::new(Operation::Update, MACHINES) };
    case.complete(&mut later).unwrap();
    assert!(later["spec"]["template"]["spec"]["domain"]["firmware"].is_null());
}

#[test]
fn what_is_wrong_is_refused_under_the_name_of_the_webhook_that_people_know() {
    let mut object = vm();
    object["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"cores": 0, "sockets": 1, "maxSockets": 0});
    object["spec"]["running"] = json!(true);
    let said = Case::new(Operation::Create, MACHINES).said(object);
    let frame = "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: ";
    assert!(said.starts_with(frame) && said.contains("mutually exclusive"), "{said}");
    let said = Case::new(Operation::Create, MACHINES).said(json!({"metadata": {}, "spec": []}));
    assert!(said.contains("virtualmachines-mutator.kubevirt.io"), "{said}");
    assert_eq!(Case::new(Operation::Create, MACHINES).said(vm()), "");
    assert_eq!(Case::new(Operation::Delete, MACHINES).said(Value::Null), "");
}

#[test]
fn an_instance_stays_what_it_is_and_its_status_is_ours() {
    let mut case = Case { old: vmi(), ..Case::new(Operation::Update, INSTANCES) };
    case.old["status"] = json!({"phase": "Scheduling"});
    let mut object = case.old.clone();
    object["status"]["phase"] = json!("Running");
    case.complete(&mut object).unwrap();
    assert_eq!(object, case.old, "a user's status");
    // Somebody has written it after it was completed.
    object["status"]["phase"] = json!("Running");
    let request = case.request(&mut object);
    let refused = check(&Subject::Changed, &request, &ClusterDefaults::default(), || false).unwrap_err();
    assert!(refused.code == 403 && refused.text().contains("own accounts"), "{refused:?}");
    let mut bigger = case.old.clone();
    bigger["spec"]["domain"]["memory"]["guest"] = json!("128Mi");
    let said = case.said(bigger);
    assert!(said.contains("virtualmachineinstances-update-validator.kubevirt.io"), "{said}");
    case.user = CONTROLLER;
    case.complete(&mut object).unwrap();
    assert_eq!(object["status"]["phase"], "Running");
}

#[test]
fn there_is_one_configuration_and_it_can_be_acted_on() {
    let case = Case::new(Operation::Create, CONFIGURATIONS);
    let mut object = json!({"metadata": {"name": "kubevirt"}, "spec": {}});
    let request = case.request(&mut object);
    let refused = check(&Subject::Configuration, &request, &ClusterDefaults::default(), || true).unwrap_err();
    assert!(refused.text().ends_with("Kubevirt is already created"), "{refused:?}");
    let bad =
        json!({"metadata": {"name": "kubevirt"}, "spec": {"configuration": {"privilegeProfile": "huge"}}});
    assert!(case.said(bad.clone()).contains("privilegeProfile"));
    // From before there was a check: something else of it can be changed.
    let later = Case { old: bad.clone(), ..Case::new(Operation::Update, CONFIGURATIONS) };
    assert_eq!(later.said(bad), "");
}

#[test]
fn what_was_decided_is_written_by_admission_alone() {
    let forged = |object: &mut Value| {
        for key in ANNOTATIONS {
            object["metadata"]["annotations"][key] = json!("privileged");
        }
    };
    let recorded = |object: &Value| Decision::read(|key| object::annotation(object, key));
    let defaults = ClusterDefaults::default();
    let case = Case::new(Operation::Create, MACHINES);
    for answer in [Some(decision("restricted-v2")), None] {
        let mut object = vm();
        forged(&mut object);
        let subject = case.complete(&mut object).unwrap();
        let mut request = case.request(&mut object);
        let asked = question(&subject, &mut request, None, &defaults).unwrap();
        settle(&mut request, &asked, Ok(answer.clone())).unwrap();
        assert_eq!(recorded(&object), answer);
    }
    // The template is the same: nobody is asked, and what was decided stays.
    let mut old = vm();
    for (key, value) in decision("restricted-v2").annotations() {
        old["metadata"]["annotations"][key] = json!(value);
    }
    for (operation, leaving) in [(Operation::Update, false), (Operation::Update, true)] {
        let mut old = old.clone();
        if leaving {
            old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let mut object = old.clone();
        forged(&mut object);
        let case = Case { old, ..Case::new(operation, MACHINES) };
        // Completing gives the stored template its defaults; here it has none to miss.
        let subject = Subject::Machine(Box::new(serde_json::from_value(vm()).unwrap()));
        let subject = if leaving { case.complete(&mut object).unwrap() } else { subject };
        assert!(question(&subject, &mut case.request(&mut object), None, &defaults).is_none());
        assert_eq!(recorded(&object), Some(decision("restricted-v2")), "leaving: {leaving}");
    }
}

#[test]
fn an_instance_of_the_controllers_has_what_was_decided_about_its_machine() {
    let case = Case { user: CONTROLLER, ..Case::new(Operation::Create, INSTANCES) };
    let mut object = vmi();
    object["metadata"]["ownerReferences"] = json!([
        {"kind": "VirtualMachine", "name": "other", "uid": "1"},
        {"kind": "VirtualMachine", "name": "m", "uid": "2", "controller": true},
    ]);
    let subject = case.complete(&mut object).unwrap();
    assert_eq!(owner(&case.request(&mut object)), Some(("m".to_owned(), "2".to_owned())));
    let mut machine = vm();
    for (key, value) in decision("anyuid").annotations() {
        machine["metadata"]["annotations"][key] = json!(value);
    }
    let defaults = ClusterDefaults::default();
    let asked = question(&subject, &mut case.request(&mut object), Some(&machine), &defaults).unwrap();
    assert_eq!(asked.recorded, Some(Some(decision("anyuid"))));
    let problem = || Err(Problem::NotReady("later".to_owned()));
    let refused = settle(&mut case.request(&mut object), &asked, problem()).unwrap_err();
    assert_eq!(refused.text(), "virtualmachineinstances.kubevirt.io \"m\" is forbidden: later");
    // One that a user makes is the user's.
    let theirs = Case::new(Operation::Create, INSTANCES);
    assert_eq!(owner(&theirs.request(&mut object)), None);
    let asked = question(&subject, &mut theirs.request(&mut object), None, &defaults).unwrap();
    assert_eq!(asked.recorded, None);
}
