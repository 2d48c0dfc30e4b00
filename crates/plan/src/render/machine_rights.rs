//! Whose word it is which SCC a machine's pod may have: that of somebody who may use it.
//!
//! The machine API decides it and writes it on the machine, in the name of the one who makes or changes that; the controller
//! binds the pod to it. Were the machine API not asked (its webhooks are gone, or not there yet), anybody could write there what
//! nobody has decided. So the API server looks for itself, with its own authorizers, when the record or what it is about changes. It
//! knows roles and no SCC: who is named by one alone (`users`, `groups`) needs the verb on it, too.

use super::policy::{bound, validation};
use crate::config::NAMESPACE;
use crate::render::{api, controller, handler};
use crate::scc::rights::{EVERYBODYS, POD_SCC, SCC, SUBJECT};
use ferrovirt_kubernetes::subject;
use serde_json::{Value, json};

/// The policy and its binding.
pub const NAME: &str = "kubevirt-machine-rights";

/// The policy and its binding. Our own accounts carry what was decided from a machine to its instance, and are held by other
/// policies. That a record is enough for its machine is looked at when the instance is made.
pub fn policy() -> [Value; 2] {
    let own = [controller::NAME, handler::ACCOUNT, api::NAME];
    let own = own.map(|name| format!("'{}'", subject::service_account(NAMESPACE, name))).join(", ");
    let noted = |object: &str, key: &str| format!("{object}.metadata.?annotations[?'{key}'].orValue('')");
    let before = |key: &str| format!("oldObject == null ? '' : {}", noted("oldObject", key));
    let may_use = |who: &str, constraint: &str| {
        format!(
            "{who}.group('security.openshift.io').resource('securitycontextconstraints').namespace(request.namespace)\
             .name({constraint}).check('use').allowed()"
        )
    };
    let may = |who: &str| may_use(who, "variables.scc");
    let variable = |name: &str, expression: String| json!({"name": name, "expression": expression});
    let of = |object: &str| {
        format!(
            "request.resource.resource == 'virtualmachines' ? {object}.?spec.?template.?spec : {object}.?spec"
        )
    };
    let kept = [
        "request.operation == 'UPDATE'".to_owned(),
        "variables.scc == variables.sccBefore".to_owned(),
        "variables.pod == variables.podBefore".to_owned(),
        "variables.subject == variables.subjectBefore".to_owned(),
        format!("({}) == ({})", of("object"), of("oldObject")),
    ];
    let account = [
        "variables.subject.startsWith('serviceaccount ' + request.namespace + '/')".to_owned(),
        may("authorizer.serviceAccount(request.namespace, variables.subject.split('/')[1])"),
    ];
    let controller = may(&format!("authorizer.serviceAccount('{NAMESPACE}', '{}')", controller::NAME));
    // Another one for the pod only where the controller cannot make it under the same: everybody's, or one that the author may
    // use, too. The right to use one that the controller has not must not lead to what the controller has.
    let pod = format!(
        "variables.scc != '' && (variables.pod == variables.scc || !variables.controller && \
         (variables.pod == '{EVERYBODYS}' || variables.pod != '' && variables.authorOfPod))"
    );
    let absent = |key: &str| format!("!('{key}' in object.metadata.?annotations.orValue({{}}))");
    let rule = format!(
        "({} && {}) || ({}) || ({pod} && (variables.author || variables.account))",
        absent(SCC),
        absent(POD_SCC),
        kept.join(" && ")
    );
    bound(
        NAME,
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "operations": ["CREATE", "UPDATE"],
                "apiGroups": ["kubevirt.io"],
                "apiVersions": ["*"],
                "resources": ["virtualmachines", "virtualmachineinstances"],
                "scope": "*",
            }]},
            "matchConditions": [
                {"name": "others", "expression": format!("!(request.userInfo.username in [{own}])")},
            ],
            "variables": [
                variable("scc", noted("object", SCC)),
                variable("pod", noted("object", POD_SCC)),
                variable("subject", noted("object", SUBJECT)),
                variable("sccBefore", before(SCC)),
                variable("podBefore", before(POD_SCC)),
                variable("subjectBefore", before(SUBJECT)),
                // Each by itself: an expression may ask twice at the most.
                variable("author", may("authorizer")),
                variable("authorOfPod", may_use("authorizer", "variables.pod")),
                variable("account", account.join(" && ")),
                variable("controller", controller),
            ],
            "validations": [
                validation(
                    rule,
                    format!(
                        "{SCC} names a security context constraint that neither you nor the machine's service account may use by a \
                         role (verb use): leave it to admission, which writes it"
                    ),
                ),
            ],
        }),
    )
}
