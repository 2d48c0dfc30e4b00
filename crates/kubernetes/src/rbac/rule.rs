//! RBAC rules: what one rule grants, and whether a set of rules covers another.

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;

use super::{Action, Attributes};
use crate::json;

/// One `PolicyRule` of `rbac.authorization.k8s.io/v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// API groups, `""` for core, `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Only these objects; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resources; a trailing `*` is a prefix. Cluster roles only.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// The rules of a stored role; anything that is not a rule grants nothing.
    #[must_use]
    pub fn list(role: &serde_json::Value) -> Vec<Self> {
        json::list(role, "rules").filter_map(|rule| Self::deserialize(rule).ok()).collect()
    }

    /// Whether this rule grants the request.
    #[must_use]
    pub fn allows(&self, request: &Attributes) -> bool {
        if !has(&self.verbs, &request.verb) {
            return false;
        }
        if request.resource.is_empty() {
            return self.covers_path(&request.path);
        }
        has(&self.api_groups, &request.group)
            && self.covers_resource(&request.resource, &request.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&request.name))
    }

    /// The names of the objects on which this rule grants an action, empty for all; nothing when it does not grant it.
    #[must_use]
    pub fn objects(&self, action: &Action<'_>) -> Option<&[String]> {
        let grants = has(&self.verbs, action.verb)
            && has(&self.api_groups, action.group)
            && self.covers_resource(action.resource, "");
        grants.then_some(&self.resource_names)
    }

    /// The two rules of anyone who may do everything.
    #[must_use]
    pub fn everything() -> [Self; 2] {
        let all = || vec!["*".to_owned()];
        [
            Self { api_groups: all(), resources: all(), verbs: all(), ..Self::default() },
            Self { non_resource_urls: all(), verbs: all(), ..Self::default() },
        ]
    }

    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|granted| match granted.split_once('/') {
            _ if granted == "*" => true,
            None => subresource.is_empty() && granted == resource,
            Some((parent, sub)) => {
                !subresource.is_empty() && sub == subresource && (parent == "*" || parent == resource)
            }
        })
    }

    fn covers_path(&self, path: &str) -> bool {
        self.non_resource_urls.iter().any(|granted| match granted.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => granted == path,
        })
    }

    /// How many rules `Rule::atoms` makes of this one: small lists multiply.
    #[must_use]
    pub fn combinations(&self) -> usize {
        let of_resources = [self.api_groups.len(), self.resources.len(), self.resource_names.len().max(1)]
            .into_iter()
            .fold(1, usize::saturating_mul);
        self.verbs.len().saturating_mul(of_resources.saturating_add(self.non_resource_urls.len()))
    }

    /// Splits into rules of one verb on one resource (and name) or path: the units of the escalation check.
    fn atoms(&self) -> Vec<Self> {
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                out.push(Self {
                    verbs: vec![verb.clone()],
                    non_resource_urls: vec![url.clone()],
                    ..Self::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let atom = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(atom);
                    } else {
                        out.extend(
                            self.resource_names
                                .iter()
                                .map(|name| Self { resource_names: vec![name.clone()], ..atom.clone() }),
                        );
                    }
                }
            }
        }
        out
    }

    fn covers_atom(&self, atom: &Self) -> bool {
        let all = |have: &[String], want: &[String]| want.iter().all(|w| has(have, w));
        if !all(&self.verbs, &atom.verbs) {
            return false;
        }
        if let Some(url) = atom.non_resource_urls.first() {
            // `/a/*` is covered by `/*`, `/a/*` and `*`: the granted prefix must be a prefix of the wanted text.
            return self.covers_path(url);
        }
        all(&self.api_groups, &atom.api_groups)
            && atom.resources.iter().all(|wanted| match wanted.split_once('/') {
                Some((resource, sub)) => self.covers_resource(resource, sub),
                None => has(&self.resources, wanted),
            })
            && (self.resource_names.is_empty()
                || (!atom.resource_names.is_empty()
                    && atom.resource_names.iter().all(|name| self.resource_names.contains(name))))
    }
}

/// What of `wanted` the holder of `held` does not have.
#[must_use]
pub fn not_covered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::atoms)
        .filter(|atom| !held.iter().any(|rule| rule.covers_atom(atom)))
        .collect()
}

impl From<&PolicyRule> for Rule {
    fn from(rule: &PolicyRule) -> Self {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        Self {
            api_groups: list(&rule.api_groups),
            resources: list(&rule.resources),
            resource_names: list(&rule.resource_names),
            non_resource_urls: list(&rule.non_resource_urls),
            verbs: rule.verbs.clone(),
        }
    }
}

impl std::fmt::Display for Rule {
    /// The compact form of Kubernetes' escalation message: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{list:?}"))
        .collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            verbs: own(verbs),
            ..Rule::default()
        }
    }

    fn ask(verb: &str, resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_resource_is_not_its_subresources() {
        let pods = rule(&[""], &["pods"], &[], &["get"]);
        assert!(pods.allows(&ask("get", "pods", "", "a")));
        assert!(!pods.allows(&ask("get", "pods", "log", "a")));
        assert!(!pods.allows(&ask("list", "pods", "", "")));
        let logs = rule(&[""], &["pods/log"], &[], &["get"]);
        assert!(logs.allows(&ask("get", "pods", "log", "a")));
        assert!(!logs.allows(&ask("get", "pods", "", "a")));
        let any_status = rule(&[""], &["*/status"], &[], &["get"]);
        assert!(any_status.allows(&ask("get", "nodes", "status", "a")));
        assert!(!any_status.allows(&ask("get", "nodes", "", "a")));
        assert!(rule(&["*"], &["*"], &[], &["*"]).allows(&ask("get", "nodes", "status", "a")));
    }

    #[test]
    fn names_limit_to_named_requests() {
        let one = rule(&[""], &["secrets"], &["a"], &["get", "list", "create"]);
        assert!(one.allows(&ask("get", "secrets", "", "a")));
        assert!(!one.allows(&ask("get", "secrets", "", "b")));
        assert!(!one.allows(&ask("create", "secrets", "", "")));
        let action = |verb| Action { verb, group: "", resource: "secrets" };
        assert_eq!(one.objects(&action("get")), Some(&["a".to_owned()][..]));
        assert_eq!(one.objects(&action("delete")), None);
        assert_eq!(rule(&["*"], &["*"], &[], &["*"]).objects(&action("get")), Some(&[][..]));
        assert_eq!(rule(&[""], &["secrets/x", "*/x"], &[], &["get"]).objects(&action("get")), None);
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let rule = Rule {
            non_resource_urls: vec!["/healthz".into(), "/apis/*".into()],
            verbs: vec!["get".into()],
            ..Rule::default()
        };
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert!(rule.allows(&path("/healthz")));
        assert!(!rule.allows(&path("/healthz/etcd")));
        assert!(rule.allows(&path("/apis/a/v1")));
        assert!(!rule.allows(&path("/metrics")));
    }

    #[test]
    fn coverage_is_by_atoms_across_rules() {
        let held = [rule(&[""], &["pods"], &[], &["get"]), rule(&[""], &["pods", "secrets"], &[], &["list"])];
        let wanted = [rule(&[""], &["pods"], &[], &["get", "list"])];
        assert!(not_covered(&held, &wanted).is_empty());
        let more = [rule(&[""], &["pods", "pods/log"], &[], &["get", "delete"])];
        let missing: Vec<String> = not_covered(&held, &more).iter().map(ToString::to_string).collect();
        assert_eq!(
            missing,
            [
                r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}"#,
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#,
                r#"{APIGroups:[""], Resources:["pods/log"], Verbs:["delete"]}"#,
            ]
        );
        let named = [rule(&[""], &["pods"], &["a"], &["get"])];
        assert!(not_covered(&held, &named).is_empty());
        assert_eq!(not_covered(&named, &[rule(&[""], &["pods"], &[], &["get"])]).len(), 1);
    }
}
