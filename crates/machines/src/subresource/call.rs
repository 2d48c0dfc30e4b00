//! Requests for subresources, and what is decided about each from the objects as they are stored.

use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_kubernetes::{condition, status};
use ferrovirt_plan::decide::subresource::{self as plan, Patches};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::EXPAND;
use crate::{GROUP, INSTANCES, MACHINES};

/// What can be asked of a machine or its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Starts a machine.
    Start,
    /// Stops it.
    Stop,
    /// Stops it and starts it again.
    Restart,
    /// The machine with everything resolved that it refers to.
    Expand,
    /// The same for one that the request brings.
    ExpandGiven,
    /// Stops the processors of an instance.
    Pause,
    /// Lets them run again.
    Unpause,
    /// The serial console, a stream.
    Console,
    /// The screen, a stream.
    Vnc,
}

impl Call {
    /// Every call.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Expand,
        Self::ExpandGiven,
        Self::Pause,
        Self::Unpause,
        Self::Console,
        Self::Vnc,
    ];

    /// The call of an HTTP method on a resource and its subresource.
    #[must_use]
    pub fn find(method: &str, resource: &str, subresource: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|call| (call.method(), call.resource(), call.name()) == (method, resource, subresource))
    }

    /// The subresource; nothing for what is no part of an object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Expand => "expand-spec",
            Self::ExpandGiven => "",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Console => "console",
            Self::Vnc => "vnc",
        }
    }

    /// The resource that has it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::ExpandGiven => EXPAND,
            Self::Start | Self::Stop | Self::Restart | Self::Expand => MACHINES,
            Self::Pause | Self::Unpause | Self::Console | Self::Vnc => INSTANCES,
        }
    }

    /// Its HTTP method.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Expand | Self::Console | Self::Vnc => "GET",
            Self::Start | Self::Stop | Self::Restart | Self::ExpandGiven | Self::Pause | Self::Unpause => {
                "PUT"
            }
        }
    }

    /// The verb for which a requester needs the right.
    #[must_use]
    pub fn verb(self) -> &'static str {
        if self.method() == "GET" { "get" } else { "update" }
    }

    /// The path of the same call at the handler of the instance's node.
    #[must_use]
    pub fn at_handler(self, namespace: &str, name: &str) -> String {
        format!("/v1/namespaces/{namespace}/{INSTANCES}/{name}/{}", self.name())
    }

    /// What `start`, `stop` and `restart` write; nothing for other calls. `body` is the request's.
    ///
    /// # Errors
    /// What the state of machine and instance does not allow, and options that cannot be read.
    pub fn patches(self, vm: &Value, vmi: Option<&Value>, body: Value) -> Result<Patches, Refused> {
        let name = text(vm, "/metadata/name").to_owned();
        let vm: VirtualMachine = typed(vm)?;
        let vmi: Option<VirtualMachineInstance> = vmi.map(typed).transpose()?;
        let patches = match self {
            Self::Start => plan::start(&vm, vmi.as_ref(), &options(body)?),
            Self::Stop => plan::stop(&vm, vmi.as_ref(), &options(body)?),
            Self::Restart => plan::restart(&vm, vmi.as_ref(), &options(body)?),
            _ => Ok(Patches::default()),
        };
        patches.map_err(|plan::Refusal { code, reason, message }| match code {
            409 => Refused::conflict(MACHINES, &name, &message),
            _ => Refused { code, reason, message, details: Value::Null },
        })
    }

    /// Whether `pause` and `unpause` fit the state of an instance; then whether the handler is to do it: a dry run is not.
    ///
    /// # Errors
    /// An instance that does not run, is paused already or is not, or whose liveness probe would fail.
    pub fn switch(self, vmi: &Value, body: Value) -> Result<bool, Refused> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Options {
            dry_run: Vec<String>,
        }
        let name = text(vmi, "/metadata/name");
        let wanted: Options = options(body)?;
        if text(vmi, "/status/phase") != "Running" {
            return Err(Refused::conflict(INSTANCES, name, "VMI is not running"));
        }
        match (self, condition::is_true(vmi, "Paused")) {
            (Self::Pause, true) => return Err(Refused::conflict(INSTANCES, name, "VMI is already paused")),
            (Self::Unpause, false) => return Err(Refused::conflict(INSTANCES, name, "VMI is not paused")),
            _ => {}
        }
        let probe = json::at(vmi, "/spec/livenessProbe");
        if self == Self::Pause && probe.is_some_and(|probe| probe.get("guestAgentPing").is_none()) {
            let message = "Pausing VMIs with LivenessProbe is currently not supported".to_owned();
            let details = Refused::details(INSTANCES, name);
            return Err(Refused { code: 403, reason: "Forbidden", message, details });
        }
        Ok(wanted.dry_run.is_empty())
    }

    /// Whether an instance has what `console` and `vnc` connect with, and runs.
    ///
    /// # Errors
    /// 400 where it has not, or does not run.
    pub fn stream(self, vmi: &Value) -> Result<(), Refused> {
        let (device, message) = match self {
            Self::Console => ("autoattachSerialConsole", "No serial consoles are present."),
            _ => ("autoattachGraphicsDevice", "No graphics devices are present."),
        };
        if vmi.pointer(&format!("/spec/domain/devices/{device}")) == Some(&Value::Bool(false)) {
            return Err(Refused::bad_request(message));
        }
        if text(vmi, "/status/phase") != "Running" {
            return Err(Refused::bad_request("VMI is not running"));
        }
        Ok(())
    }
}

/// A machine that a request brings, with everything resolved that it refers to. There are no instance types yet, so that it is
/// the machine itself.
///
/// # Errors
/// 400 for what is no machine, or one of another namespace; 501 for what we cannot resolve.
pub fn expanded(namespace: &str, body: Value) -> Result<Value, Refused> {
    if body.as_object().is_none_or(|object| object.is_empty()) {
        return Err(Refused::bad_request("empty request body"));
    }
    let group = text(&body, "/apiVersion").split('/').next();
    if (group, text(&body, "/kind")) != (Some(GROUP), "VirtualMachine") {
        return Err(Refused::bad_request("the body is no VirtualMachine of kubevirt.io"));
    }
    VirtualMachine::deserialize(&body)
        .map_err(|why| Refused::bad_request(format!("the VirtualMachine cannot be read: {why}")))?;
    let own = text(&body, "/metadata/namespace");
    if !own.is_empty() && own != namespace {
        let message =
            format!("VM namespace must match the request's: it is {own}, and the request's is {namespace}");
        return Err(Refused::bad_request(message));
    }
    let refers = |field: &&str| {
        let value = json::at(&body, &format!("/spec/{field}"));
        value.is_some_and(|value| !value.is_null() && *value != json!({}))
    };
    match ["instancetype", "preference"].into_iter().find(refers) {
        Some(field) => Err(Refused::new(501, format!("not supported yet: spec.{field}"))),
        None => Ok(body),
    }
}

/// Why a request is refused, as Kubernetes' Status says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// HTTP code.
    pub code: u16,
    /// Reason of the Status.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Details of the Status, or null.
    pub details: Value,
}

impl Refused {
    /// A refusal with the reason that clients expect with its code.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, reason: status::reason(code), message: message.into(), details: Value::Null }
    }

    /// 400: the request itself is wrong.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 404 for an object of [`GROUP`].
    #[must_use]
    pub fn missing(resource: &str, name: &str) -> Self {
        let message = format!("{resource}.{GROUP} \"{name}\" not found");
        Self { details: Self::details(resource, name), ..Self::new(404, message) }
    }

    /// 404 for a path that nothing has.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(404, "the server could not find the requested resource")
    }

    /// 409 for an object of [`GROUP`]; `why` is the end of the sentence.
    #[must_use]
    pub fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource}.{GROUP} {name:?}: {why}");
        Self { details: Self::details(resource, name), ..Self::new(409, message) }
    }

    /// 500: a bug, or a stored object that nobody can read.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    /// The body of the answer.
    #[must_use]
    pub fn status(&self) -> Value {
        status::failure(self.code, self.reason, &self.message, &self.details)
    }

    fn details(resource: &str, name: &str) -> Value {
        json!({"name": name, "group": GROUP, "kind": resource})
    }
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, Refused> {
    T::deserialize(object).map_err(|why| Refused::internal(format!("a stored object cannot be read: {why}")))
}

/// An empty body says nothing.
fn options<T: DeserializeOwned>(body: Value) -> Result<T, Refused> {
    let body = if body.is_null() { json!({}) } else { body };
    serde_json::from_value(body).map_err(|why| {
        Refused::bad_request(format!("Can not unmarshal Request body to struct, error: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subresource::VERBS;

    #[test]
    fn everything_that_is_listed_can_be_called_with_the_verb_of_its_method() {
        for (name, verb) in VERBS {
            let (resource, subresource) = name.split_once('/').unwrap();
            let method = if *verb == "get" { "GET" } else { "PUT" };
            let call = Call::find(method, resource, subresource).unwrap();
            assert_eq!((call.resource(), call.name(), call.verb()), (resource, subresource, *verb));
            let other = if *verb == "get" { "PUT" } else { "GET" };
            assert_eq!(Call::find(other, resource, subresource), None);
        }
        assert_eq!(Call::find("PUT", MACHINES, "pause"), None);
        assert_eq!(Call::find("DELETE", MACHINES, "start"), None);
        assert_eq!(Call::find("PUT", EXPAND, ""), Some(Call::ExpandGiven));
    }

    #[test]
    fn a_machine_that_a_request_brings_is_what_it_is_or_says_why_not() {
        let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "m"},
            "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}});
        assert_eq!(expanded("n", vm.clone()), Ok(vm.clone()));
        let said = |change: &dyn Fn(&mut Value)| {
            let mut other = vm.clone();
            change(&mut other);
            expanded("n", other).map(drop).map_err(|why| (why.code, why.message))
        };
        assert_eq!(said(&|vm| vm["metadata"]["namespace"] = json!("n")), Ok(()));
        assert_eq!(said(&|vm| vm["metadata"]["namespace"] = json!("o")).unwrap_err().0, 400);
        assert_eq!(said(&|vm| vm["kind"] = json!("VirtualMachineInstance")).unwrap_err().0, 400);
        assert_eq!(said(&|vm| vm["apiVersion"] = json!("v1")).unwrap_err().0, 400);
        assert_eq!(said(&|vm| vm["spec"]["template"] = json!(7)).unwrap_err().0, 400);
        for body in [Value::Null, json!({})] {
            assert_eq!(expanded("n", body).unwrap_err().message, "empty request body");
        }
        for field in ["instancetype", "preference"] {
            let refused = said(&|vm| vm["spec"][field] = json!({"name": "u1.small"}));
            assert_eq!(refused, Err((501, format!("not supported yet: spec.{field}"))));
            assert_eq!(said(&|vm| vm["spec"][field] = json!({})), Ok(()));
        }
    }

    fn instance(phase: &str, paused: bool) -> Value {
        let condition = json!({"type": "Paused", "status": if paused { "True" } else { "False" }});
        json!({"metadata": {"name": "m"}, "spec": {"domain": {"devices": {}}},
            "status": {"phase": phase, "conditions": [condition]}})
    }

    #[test]
    fn a_pause_needs_a_running_guest_and_a_second_one_is_refused() {
        let said = |call: Call, vmi: &Value, body: Value| {
            call.switch(vmi, body).map_err(|why| (why.code, why.message))
        };
        let frame = "Operation cannot be fulfilled on virtualmachineinstances.kubevirt.io \"m\": ";
        let conflict = |why: &str| Err((409, format!("{frame}{why}")));
        assert_eq!(said(Call::Pause, &instance("Running", false), Value::Null), Ok(true));
        assert_eq!(said(Call::Unpause, &instance("Running", true), json!({})), Ok(true));
        assert_eq!(said(Call::Pause, &instance("Running", false), json!({"dryRun": ["All"]})), Ok(false));
        assert_eq!(
            said(Call::Pause, &instance("Running", true), Value::Null),
            conflict("VMI is already paused")
        );
        assert_eq!(
            said(Call::Unpause, &instance("Running", false), Value::Null),
            conflict("VMI is not paused")
        );
        assert_eq!(
            said(Call::Pause, &instance("Scheduled", false), Value::Null),
            conflict("VMI is not running")
        );
        assert_eq!(said(Call::Pause, &instance("Running", false), json!([1])).unwrap_err().0, 400);
        let mut probed = instance("Running", false);
        probed["spec"]["livenessProbe"] = json!({"tcpSocket": {"port": 80}});
        assert_eq!(said(Call::Pause, &probed, Value::Null).unwrap_err().0, 403);
        probed["spec"]["livenessProbe"] = json!({"guestAgentPing": {}});
        assert_eq!(said(Call::Pause, &probed, Value::Null), Ok(true));
    }

    #[test]
    fn a_stream_needs_its_device_and_a_running_guest() {
        let mut vmi = instance("Running", false);
        assert_eq!(Call::Console.stream(&vmi), Ok(()));
        vmi["spec"]["domain"]["devices"]["autoattachSerialConsole"] = json!(false);
        assert_eq!(Call::Console.stream(&vmi).unwrap_err().message, "No serial consoles are present.");
        assert_eq!(Call::Vnc.stream(&vmi), Ok(()));
        assert_eq!(Call::Vnc.stream(&instance("Failed", false)).unwrap_err().message, "VMI is not running");
    }

    #[test]
    fn a_start_writes_what_the_plan_says_and_a_refusal_names_the_machine() {
        let mut vm = json!({"metadata": {"name": "m", "resourceVersion": "7"}, "spec": {"runStrategy": "Halted",
            "template": {"spec": {"domain": {"devices": {}}}}}});
        let patches = Call::Start.patches(&vm, None, Value::Null).unwrap();
        assert_eq!(patches.vm[1]["value"], "Always");
        vm["spec"]["runStrategy"] = json!("Always");
        let refused = Call::Start.patches(&vm, None, Value::Null).unwrap_err();
        assert_eq!(refused.code, 409);
        assert!(
            refused
                .message
                .starts_with("Operation cannot be fulfilled on virtualmachines.kubevirt.io \"m\": ")
        );
        assert_eq!(Call::Start.patches(&vm, None, json!([1])).unwrap_err().code, 400);
    }
}
