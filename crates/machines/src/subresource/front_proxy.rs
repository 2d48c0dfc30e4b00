//! Whom a front proxy names in the headers of a request.
//!
//! Only for requests that came with a client certificate of the proxy: headers are anybody's to write.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/#authentication-flow>.

use std::collections::BTreeMap;

use ferrovirt_kubernetes::subject;

/// The headers that the cluster's API server writes, by the ConfigMap `kube-system/extension-apiserver-authentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Common names of the proxy's certificate that count; any where there are none.
    pub allowed: Vec<String>,
    user: Vec<String>,
    uid: Vec<String>,
    groups: Vec<String>,
    extra: Vec<String>,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// User name.
    pub name: String,
    /// UID, or empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the credential says, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Requester {
    /// Whether it is somebody who has shown the API server nothing.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous" || self.groups.iter().any(|group| group == "system:unauthenticated")
    }

    /// For whom limits count.
    #[must_use]
    pub fn share(&self) -> Owner {
        match subject::split_service_account(&self.name) {
            Some((namespace, _)) => Owner::Namespace(namespace.to_owned()),
            None => Owner::User(self.name.clone()),
        }
    }
}

/// Whose a share of what is bounded is. A namespace is never a user, however it is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// One user.
    User(String),
    /// All service accounts of a namespace, of which it makes as many as it wants.
    Namespace(String),
}

impl Names {
    /// Reads the values of the ConfigMap; `of` finds one by its key.
    ///
    /// # Errors
    /// What is not a list of texts, or names no header for the user, in words.
    pub fn read<'a>(of: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let list = |key: &str| -> Result<Vec<String>, String> {
            let text = of(key).map(str::trim).unwrap_or_default();
            if text.is_empty() {
                return Ok(Vec::new());
            }
            serde_json::from_str(text).map_err(|why| format!("{key} is not a list of texts: {why}"))
        };
        let headers =
            |key: &str| list(key).map(|all| all.iter().map(|name| name.to_ascii_lowercase()).collect());
        let names = Self {
            allowed: list("requestheader-allowed-names")?,
            user: headers("requestheader-username-headers")?,
            uid: headers("requestheader-uid-headers")?,
            groups: headers("requestheader-group-headers")?,
            extra: headers("requestheader-extra-headers-prefix")?,
        };
        if names.user.is_empty() {
            return Err("requestheader-username-headers names no header".to_owned());
        }
        Ok(names)
    }

    /// Whether a common name is the proxy's.
    #[must_use]
    pub fn allows(&self, common_name: &str) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|name| name == common_name)
    }

    /// Reads the headers of a request: names in lower case, and values.
    ///
    /// # Errors
    /// No user or two, and values that are no text, in words.
    pub fn requester<'a>(
        &self,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Requester, String> {
        let mut out = Requester::default();
        let (mut users, mut uids) = (0usize, 0usize);
        for (name, value) in headers {
            let is = |names: &[String]| names.iter().any(|known| known == name);
            let value = || {
                std::str::from_utf8(value)
                    .map(str::to_owned)
                    .map_err(|_| format!("the header {name} is no text"))
            };
            if is(&self.user) {
                users += 1;
                out.name = value()?;
            } else if is(&self.uid) {
                uids += 1;
                out.uid = value()?;
            } else if is(&self.groups) {
                out.groups.push(value()?);
            } else if let Some(key) = self
                .extra
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix.as_str()).filter(|_| !prefix.is_empty()))
            {
                out.extra.entry(unescaped(key)).or_default().push(value()?);
            }
        }
        // The proxy takes away what its own clients send, and writes each once: another number is not its work.
        match (users, uids) {
            (1, 0 | 1) if !out.name.is_empty() => Ok(out),
            (0 | 1, _) if out.name.is_empty() => Err("the front proxy names no user".to_owned()),
            _ => Err("the front proxy names more than one user".to_owned()),
        }
    }
}

/// The key of a header name in which the proxy has escaped what names cannot have; as it is where it is not escaped rightly.
/// The name comes in lower case, and what it decodes to stays as it is, as Kubernetes reads it: keys that differ in case are two.
fn unescaped(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let hex = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match (first, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'%', None) => return key.to_owned(),
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::read(|key| match key {
            "requestheader-allowed-names" => Some(r#"["front-proxy-client"]"#),
            "requestheader-username-headers" => Some(r#"["X-Remote-User"]"#),
            "requestheader-uid-headers" => Some(r#"["X-Remote-Uid"]"#),
            "requestheader-group-headers" => Some(r#"["X-Remote-Group"]"#),
            "requestheader-extra-headers-prefix" => Some(r#"["X-Remote-Extra-"]"#),
            _ => None,
        })
        .unwrap()
    }

    fn requester(headers: &[(&str, &str)]) -> Result<Requester, String> {
        names().requester(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn a_requester_is_what_the_headers_say() {
        let alice = requester(&[
            ("host", "h"),
            ("x-remote-user", "alice é"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a, b"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-example.com%2fkey", "1"),
            ("x-remote-extra-example.com%2Fkey", "2"),
            ("x-remote-extra-odd%zz", "3"),
            ("x-remote-extra-%41%c3%84", "4"),
        ])
        .unwrap();
        assert_eq!((alice.name.as_str(), alice.uid.as_str()), ("alice é", "7"));
        assert_eq!(alice.groups, ["a, b", "system:authenticated"]);
        assert_eq!(alice.extra["example.com/key"], ["1", "2"]);
        assert_eq!(alice.extra["odd%zz"], ["3"]);
        assert_eq!(alice.extra["AÄ"], ["4"], "{:?}", alice.extra);
        assert!(!alice.is_anonymous());
        assert!(requester(&[("x-remote-user", "system:anonymous")]).unwrap().is_anonymous());
    }

    #[test]
    fn accounts_of_a_namespace_share_and_a_user_of_its_name_does_not() {
        let share = |user: &str| requester(&[("x-remote-user", user)]).unwrap().share();
        assert_eq!(share("system:serviceaccount:team:a"), share("system:serviceaccount:team:b"));
        assert_ne!(share("system:serviceaccount:team:a"), share("team"));
        assert_ne!(share("system:serviceaccount:team:a"), share("system:serviceaccount:other:a"));
        assert_ne!(share("team"), share("Team"));
    }

    #[test]
    fn what_no_proxy_writes_names_nobody() {
        for headers in [
            &[][..],
            &[("x-remote-user", "")],
            &[("x-remote-user", ""), ("x-remote-user", "root")],
            &[("x-remote-user", "a"), ("x-remote-user", "b")],
            &[("x-remote-user", "a"), ("x-remote-user", "a")],
            &[("x-remote-user", "a"), ("x-remote-uid", "1"), ("x-remote-uid", "2")],
            &[("x-remote-username", "a"), ("x-remote-group", "system:masters")],
        ] {
            assert!(requester(headers).is_err(), "{headers:?}");
        }
        let bytes: [(&str, &[u8]); 1] = [("x-remote-user", &[0xff])];
        assert!(names().requester(bytes.into_iter()).is_err());
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        assert!(names().allows("front-proxy-client") && !names().allows("admin") && !names().allows(""));
        let users = |key: &str| (key == "requestheader-username-headers").then_some(r#"["X-User"]"#);
        assert!(Names::read(users).unwrap().allows("whatever"));
        assert!(Names::read(|_| None).is_err());
        assert!(Names::read(|_| Some("x")).is_err());
    }
}
