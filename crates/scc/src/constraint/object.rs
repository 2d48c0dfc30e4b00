//! The SCC object itself: what is filled in when it is stored, and what makes it invalid.

use std::fmt;

use serde_json::Value;

use crate::constraint::metadata;
use crate::constraint::types::{GroupStrategy, IdRange, SecurityContextConstraints};
use crate::pod::volume;
use crate::report::quote::{json_list, json_string, quoted};

/// One reason why an object is invalid; displays as `FIELD: KIND: VALUE: DETAIL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field.
    pub field: String,
    /// Everything after the path.
    pub text: String,
    /// The kind as machine-readable reason: `FieldValueInvalid`, `FieldValueRequired`, `FieldValueForbidden` or
    /// `FieldValueNotSupported`.
    pub reason: &'static str,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.text)
    }
}

impl FieldError {
    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl fmt::Display,
        detail: impl fmt::Display,
    ) -> Self {
        let text = format!("Invalid value: {value}: {detail}");
        Self { field: field.into(), text, reason: "FieldValueInvalid" }
    }

    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        Self { field: field.into(), text: format!("Required value: {detail}"), reason: "FieldValueRequired" }
    }

    pub(crate) fn too_long(field: &str, most: usize) -> Self {
        let text = format!("Too long: may not be more than {most} bytes");
        Self { field: field.to_owned(), text, reason: "FieldValueTooLong" }
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { field: field.into(), text: format!("Forbidden: {detail}"), reason: "FieldValueForbidden" }
    }
}

/// Fills in what the author left open, as on create and update before validation. The schema's own default for
/// `userNamespaceLevel` is added by [`prepare`].
pub fn default_object(scc: &mut SecurityContextConstraints) {
    for strategy in [&mut scc.fs_group, &mut scc.supplemental_groups] {
        if strategy.kind.is_empty() {
            strategy.kind = "RunAsAny".to_owned();
        }
    }
    let metadata = &mut scc.metadata;
    for text in [&mut metadata.name, &mut metadata.generate_name, &mut metadata.namespace] {
        // What is empty is not stored.
        *text = text.take().filter(|text| !text.is_empty());
    }
    scc.user_namespace_level = scc.user_namespace_level.take().filter(|level| !level.is_empty());
    scc.allow_privilege_escalation.get_or_insert(true);
    let host = scc.allow_host_dir_volume_plugin;
    let mut volumes: Vec<String> = match scc.volumes.take() {
        None => vec!["*".to_owned()],
        Some(list) if list.is_empty() => vec![if host { "hostPath" } else { "none" }.to_owned()],
        Some(list) => list,
    };
    let all = volumes.iter().any(|v| v == "*");
    if host {
        if !all {
            volumes.push("hostPath".to_owned());
        }
    } else {
        volumes.retain(|v| v != "*" && v != "hostPath");
        if all {
            volumes.extend(volume::KINDS.iter().map(|k| k.1).filter(|k| *k != "hostPath").map(str::to_owned));
        }
    }
    volumes.sort_unstable();
    volumes.dedup();
    scc.volumes = Some(volumes);
}

/// Reads, defaults and validates an object; the result is what is to be stored.
///
/// # Errors
/// Every reason why the object is invalid; one that says so when it is no SCC at all.
pub fn prepare(object: Value) -> Result<Value, Vec<FieldError>> {
    let unreadable = |e: serde_json::Error| {
        vec![FieldError {
            field: "object".into(),
            text: format!("Invalid value: {e}"),
            reason: "FieldValueInvalid",
        }]
    };
    let mut scc: SecurityContextConstraints = serde_json::from_value(object).map_err(unreadable)?;
    // The schema looks at what was sent: an empty text is none of the two levels.
    let level = scc.user_namespace_level.clone().unwrap_or_else(|| "AllowHostLevel".to_owned());
    default_object(&mut scc);
    scc.user_namespace_level = Some(level.clone());
    let mut errors = Vec::new();
    if level != "AllowHostLevel" && level != "RequirePodLevel" {
        let level = json_string(&level);
        let text =
            format!("Unsupported value: {level}: supported values: \"AllowHostLevel\", \"RequirePodLevel\"");
        errors.push(FieldError {
            field: "userNamespaceLevel".into(),
            text,
            reason: "FieldValueNotSupported",
        });
    }
    // Here a name may still be to be generated.
    let unnamed = scc.metadata.generate_name.as_ref().is_some_and(|prefix| !prefix.is_empty());
    let no_name = |e: &FieldError| unnamed && e.field == "metadata.name" && e.reason == "FieldValueRequired";
    errors.extend(validate_object(&scc).into_iter().filter(|e| !no_name(e)));
    if errors.is_empty() { serde_json::to_value(scc).map_err(unreadable) } else { Err(errors) }
}

/// Every reason why an object is invalid.
pub fn validate_object(scc: &SecurityContextConstraints) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&scc.metadata, &mut errors);
    if let Some(priority) = scc.priority.filter(|p| *p < 0) {
        errors.push(FieldError::invalid("priority", priority, "priority cannot be negative"));
    }
    strategy("runAsUser.type", &scc.run_as_user.kind, &USER_STRATEGIES, &mut errors);
    if let Some(uid) = scc.run_as_user.uid.filter(|uid| *uid < 0) {
        errors.push(FieldError::invalid("runAsUser.uid", uid, "uid cannot be negative"));
    }
    strategy("seLinuxContext.type", &scc.se_linux_context.kind, &STRATEGIES, &mut errors);
    groups("fsGroup", &scc.fs_group, &mut errors);
    groups("supplementalGroups", &scc.supplemental_groups, &mut errors);
    capabilities(scc, &mut errors);
    if scc.default_allow_privilege_escalation == Some(true) && scc.allow_privilege_escalation == Some(false) {
        let detail = "Cannot set DefaultAllowPrivilegeEscalation to true without also setting AllowPrivilegeEscalation to true";
        errors.push(FieldError::invalid("defaultAllowPrivilegeEscalation", true, detail));
    }
    volumes(scc, &mut errors);
    sysctls("allowedUnsafeSysctls", &scc.allowed_unsafe_sysctls, &mut errors);
    sysctls("forbiddenSysctls", &scc.forbidden_sysctls, &mut errors);
    overlaps(&scc.allowed_unsafe_sysctls, &scc.forbidden_sysctls, &mut errors);
    errors
}

const USER_STRATEGIES: [&str; 4] = ["MustRunAs", "MustRunAsNonRoot", "MustRunAsRange", "RunAsAny"];
const STRATEGIES: [&str; 2] = ["MustRunAs", "RunAsAny"];

fn strategy(field: &str, kind: &str, valid: &[&str], errors: &mut Vec<FieldError>) {
    if !valid.contains(&kind) {
        let detail = format!("invalid strategy type.  Valid values are {}", valid.join(", "));
        errors.push(FieldError::invalid(field, json_string(kind), detail));
    }
}

fn groups(field: &str, strategy: &GroupStrategy, errors: &mut Vec<FieldError>) {
    if !STRATEGIES.contains(&strategy.kind.as_str()) {
        let kind = json_string(&strategy.kind);
        let text = format!("Unsupported value: {kind}: supported values: \"MustRunAs\", \"RunAsAny\"");
        errors.push(FieldError { field: format!("{field}.type"), text, reason: "FieldValueNotSupported" });
    }
    for (index, range) in strategy.ranges.iter().enumerate() {
        let IdRange { min, max } = *range;
        if min < 0 {
            let field = format!("{field}.ranges[{index}].min");
            errors.push(FieldError::invalid(field, min, "min cannot be negative"));
        }
        if max < 0 {
            let field = format!("{field}.ranges[{index}].max");
            errors.push(FieldError::invalid(field, max, "max cannot be negative"));
        }
        if min > max {
            let field = format!("{field}.ranges[{index}].min");
            let value = serde_json::to_string(range).unwrap_or_default();
            errors.push(FieldError::invalid(field, value, "min cannot be greater than max"));
        }
    }
}

fn capabilities(scc: &SecurityContextConstraints, errors: &mut Vec<FieldError>) {
    let drop = &scc.required_drop_capabilities;
    let lists = [
        ("defaultAddCapabilities", &scc.default_add_capabilities),
        ("allowedCapabilities", &scc.allowed_capabilities),
    ];
    for (field, list) in lists {
        for name in list.iter().filter(|name| drop.contains(name)) {
            let detail = format!("capability is listed in {field} and requiredDropCapabilities");
            errors.push(FieldError::invalid(field, json_string(name), detail));
        }
    }
    if scc.allowed_capabilities.iter().any(|c| c == "*") && !drop.is_empty() {
        let detail = "required capabilities must be empty when all capabilities are allowed by a wildcard";
        let value = json_list(drop.iter().map(String::as_str));
        errors.push(FieldError::invalid("requiredDropCapabilities", value, detail));
    }
}

fn volumes(scc: &SecurityContextConstraints, errors: &mut Vec<FieldError>) {
    let list = scc.volume_types();
    if list.len() > 1 && list.iter().any(|v| v == "none") {
        let value = json_list(list.iter().map(String::as_str));
        errors.push(FieldError::invalid(
            "volumes",
            value,
            "if 'none' is specified, no other values are allowed",
        ));
    }
    let drivers = &scc.allowed_flex_volumes;
    if drivers.is_empty() {
        return;
    }
    if list.iter().any(|v| v == "*" || v == "flexVolume") {
        for (index, _) in drivers.iter().enumerate().filter(|(_, d)| d.driver.is_empty()) {
            let field = format!("allowedFlexVolumes[{index}].driver");
            errors.push(FieldError::required(field, "must specify a driver"));
        }
    } else {
        let each: Vec<String> =
            drivers.iter().map(|d| format!("{{\"driver\":{}}}", json_string(&d.driver))).collect();
        let detail = "volumes does not include 'flexVolume' or '*', so no flex volumes are allowed";
        errors.push(FieldError::invalid("allowedFlexVolumes", format!("[{}]", each.join(",")), detail));
    }
}

const SYSCTL_LENGTH: usize = 253;

fn sysctls(field: &str, list: &[String], errors: &mut Vec<FieldError>) {
    let mut all = false;
    for (index, entry) in list.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if entry.is_empty() {
            errors.push(FieldError::invalid(field, quoted(entry), "empty sysctl not allowed"));
        } else if entry.len() > SYSCTL_LENGTH || !is_sysctl_pattern(entry) {
            let detail = "must have at most 253 characters and match regex \
                          ([a-z0-9]([-_a-z0-9]*[a-z0-9])?\\.)*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]";
            errors.push(FieldError::invalid(field, quoted(entry), detail));
        } else {
            all |= entry.starts_with('*');
        }
    }
    if all && list.len() > 1 {
        let field = format!("{field}.items");
        errors.push(FieldError::forbidden(field, "if '*' is present, must not specify other sysctls"));
    }
}

/// Segments between dots as host names have them, also with inner underscores; the last character may be `*`.
fn is_sysctl_pattern(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| plain(c) || c == '-' || c == '_';
    let mut chars = text.chars();
    if !chars.next_back().is_some_and(|c| plain(c) || c == '*') {
        return false;
    }
    let (segments, last) = match chars.as_str().rsplit_once('.') {
        Some((segments, last)) => (Some(segments), last),
        None => (None, chars.as_str()),
    };
    let whole = |s: &str| s.starts_with(plain) && s.ends_with(plain) && s.chars().all(inner);
    segments.is_none_or(|s| s.split('.').all(whole))
        && (last.is_empty() || (last.starts_with(plain) && last.chars().all(inner)))
}

fn overlaps(allowed: &[String], forbidden: &[String], errors: &mut Vec<FieldError>) {
    for (i, a) in allowed.iter().enumerate() {
        for (j, f) in forbidden.iter().enumerate() {
            let covers = |pattern: &str, other: &str| match pattern.strip_suffix('*') {
                Some(prefix) => other.strip_suffix('*').unwrap_or(other).starts_with(prefix),
                None => pattern == other,
            };
            // The error stands at the narrower one, at the allowed one when both are the same.
            if covers(f, a) && (f.ends_with('*') || !a.ends_with('*')) {
                let field = format!("allowedUnsafeSysctls[{i}]");
                errors.push(FieldError::invalid(field, quoted(a), format_args!("sysctl overlaps with {f}")));
            } else if a.ends_with('*') && covers(a, f) {
                let field = format!("forbiddenSysctls[{j}]");
                errors.push(FieldError::invalid(field, quoted(f), format_args!("sysctl overlaps with {a}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_still_be_to_be_generated_when_an_object_is_prepared() {
        let scc = |metadata: Value| serde_json::json!({"metadata": metadata, "runAsUser": {"type": "RunAsAny"}, "seLinuxContext": {"type": "RunAsAny"}});
        assert!(prepare(scc(serde_json::json!({"generateName": "a-"}))).is_ok());
        assert_eq!(prepare(scc(serde_json::json!({}))).unwrap_err().len(), 1);
        assert_eq!(prepare(scc(serde_json::json!({"generateName": "Aa-"}))).unwrap_err().len(), 1);
    }

    #[test]
    fn sysctl_patterns() {
        for good in ["a", "*", "a.*", "net.core.a_b", "a-b.c", "a.b*", "a_*", "a.b-*"] {
            assert!(is_sysctl_pattern(good), "{good}");
        }
        for bad in ["a*b", "a..b", "a.", "-a", "a.b_", "a/b", "**", "A", "é"] {
            assert!(!is_sysctl_pattern(bad), "{bad}");
        }
    }
}
