//! The two spellings of a seccomp profile: the legacy name and the structured field.

/// A profile's legacy name. A localhost profile that comes from the field is kept in its two parts, so that no text
/// has to be built to compare it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    Plain(&'a str),
    Localhost(&'a str),
}

impl<'a> Name<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Plain(""))
    }

    pub(crate) fn is(&self, text: &str) -> bool {
        match self {
            Self::Plain(name) => *name == text,
            Self::Localhost(profile) => text.strip_prefix("localhost/") == Some(profile),
        }
    }

    /// The field that says the same; `None` when there is no such field.
    pub(crate) fn field(&self) -> Option<Field<'a>> {
        let localhost = |profile: &'a str| {
            (!profile.is_empty()).then_some(Field { kind: "Localhost", localhost: Some(profile) })
        };
        match self {
            Self::Plain("runtime/default" | "docker/default") => {
                Some(Field { kind: "RuntimeDefault", localhost: None })
            }
            Self::Plain("unconfined") => Some(Field { kind: "Unconfined", localhost: None }),
            Self::Plain(name) => name.strip_prefix("localhost/").and_then(localhost),
            Self::Localhost(profile) => localhost(profile),
        }
    }
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(name) => f.write_str(name),
            Self::Localhost(profile) => write!(f, "localhost/{profile}"),
        }
    }
}

/// A `seccompProfile` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) kind: &'a str,
    pub(crate) localhost: Option<&'a str>,
}

impl<'a> Field<'a> {
    pub(crate) fn name(&self) -> Name<'a> {
        match (self.kind, self.localhost) {
            ("RuntimeDefault", _) => Name::Plain("runtime/default"),
            ("Unconfined", _) => Name::Plain("unconfined"),
            ("Localhost", Some(profile)) => Name::Localhost(profile),
            _ => Name::Plain(""),
        }
    }
}

/// Whether a list of permitted profiles admits a name.
pub(crate) fn permits(list: &[String], name: Name<'_>) -> bool {
    if list.is_empty() {
        return name.is_empty();
    }
    let default = name.is("runtime/default") || name.is("docker/default");
    list.iter().any(|entry| {
        entry == "*"
            || name.is(entry)
            || (default && (entry == "runtime/default" || entry == "docker/default"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_admits_what_it_names_even_the_empty_name() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!(permits(&list(&[]), Name::Plain("")));
        assert!(!permits(&list(&[]), Name::Plain("unconfined")));
        assert!(!permits(&list(&["unconfined"]), Name::Plain("")));
        assert!(permits(&list(&["unconfined", ""]), Name::Plain("")));
        assert!(permits(&list(&["docker/default"]), Name::Plain("runtime/default")));
        assert!(permits(&list(&["localhost/a"]), Name::Localhost("a")));
        assert!(!permits(&list(&["localhost/*"]), Name::Localhost("a")));
    }
}
