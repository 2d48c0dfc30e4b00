//! Names, label keys and label values: the rules of Kubernetes, in the words that its clients know
//! (`k8s.io/apimachinery/pkg/util/validation`).

/// Most bytes of a DNS label, of the name part of a key, and of a label's value.
const PART_LENGTH: usize = 63;
/// Most bytes of a DNS subdomain.
const SUBDOMAIN_LENGTH: usize = 253;

/// What a DNS label must be.
pub const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
    and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// What a DNS subdomain must be.
pub const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// What the name part of a key must be; follows the words for what it is part of.
pub const PART_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
/// What a label's value must be.
pub const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
    '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
    regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// The UUID of version 4 that these random bytes make.
#[must_use]
pub fn uuid(random: [u8; 16]) -> String {
    let number = (u128::from_be_bytes(random) & !(0xf << 76)) | (4 << 76);
    let number = (number & !(3 << 62)) | (2 << 62);
    let hex = format!("{number:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// Letters, digits and what else is allowed between them.
fn is_word(text: &str, plain: fn(&u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || inner.contains(byte))
}

fn is_label_text(text: &str) -> bool {
    is_word(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit(), b"-")
}

fn is_part_text(text: &str) -> bool {
    is_word(text, u8::is_ascii_alphanumeric, b"-_.")
}

fn is_subdomain_text(text: &str) -> bool {
    text.split('.').all(is_label_text)
}

/// A DNS label, such as the name of a namespace or a container.
#[must_use]
pub fn is_label(text: &str) -> bool {
    text.len() <= PART_LENGTH && is_label_text(text)
}

/// A DNS subdomain, such as the name of most objects.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_LENGTH && is_subdomain_text(text)
}

/// A name with an optional prefix and a slash, such as a label's key or a finalizer. The prefix counts in any case, as
/// that of an annotation's key does.
#[must_use]
pub fn is_qualified(key: &str) -> bool {
    let is_part = |name: &str| name.len() <= PART_LENGTH && is_part_text(name);
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(&prefix.to_lowercase()) && is_part(name),
        None => is_part(key),
    }
}

/// The value of a label.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || (text.len() <= PART_LENGTH && is_part_text(text))
}

/// What is wrong with a DNS label, if anything.
#[must_use]
pub fn label_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > PART_LENGTH {
        errors.push(format!("must be no more than {PART_LENGTH} characters"));
    }
    if !is_label_text(text) {
        errors.push(LABEL_RULE.to_owned());
    }
    errors
}

/// What is wrong with a DNS subdomain, if anything.
#[must_use]
pub fn subdomain_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_LENGTH {
        // Upstream counts bytes everywhere, but calls them characters here.
        errors.push(format!("must be no more than {SUBDOMAIN_LENGTH} characters"));
    }
    if !is_subdomain_text(text) {
        errors.push(SUBDOMAIN_RULE.to_owned());
    }
    errors
}

/// What is wrong with a name with an optional prefix and a slash, if anything. The prefix must be in small letters.
#[must_use]
pub fn qualified_errors(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors
                    .extend(subdomain_errors(prefix).into_iter().map(|error| format!("prefix part {error}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified name {PART_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > PART_LENGTH {
        errors.push(format!("name part must be no more than {PART_LENGTH} bytes"));
    }
    if !is_part_text(name) {
        errors.push(format!("name part {PART_RULE}"));
    }
    errors
}

/// What is wrong with the value of a label, if anything.
#[must_use]
pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > PART_LENGTH {
        errors.push(format!("must be no more than {PART_LENGTH} bytes"));
    }
    if !value.is_empty() && !is_part_text(value) {
        errors.push(LABEL_VALUE_RULE.to_owned());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a-1", "0"] {
            assert!(is_label(good) && is_subdomain(good) && label_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a_b", "\u{e9}", &"a".repeat(64)] {
            assert!(!is_label(bad) && !label_errors(bad).is_empty(), "{bad}");
        }
        for good in ["a-b.c", &"a".repeat(253)] {
            assert!(is_subdomain(good) && subdomain_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "a..b", "a.", ".a", "a.B", &"a".repeat(254)] {
            assert!(!is_subdomain(bad) && !subdomain_errors(bad).is_empty(), "{bad}");
        }
        assert_eq!(subdomain_errors(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert_eq!(label_errors(&"a".repeat(64)), ["must be no more than 63 characters"]);
    }

    #[test]
    fn keys_and_values() {
        for good in ["a", "a.b/c", "A_b.c-d", "kubevirt.io/created-by", "foregroundDeletion"] {
            assert!(is_qualified(good), "{good}");
            assert_eq!(qualified_errors(good), [""; 0], "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "a_", "\u{e9}", &"a".repeat(64)] {
            assert!(!is_qualified(bad) && !qualified_errors(bad).is_empty(), "{bad}");
        }
        assert!(is_qualified("A.b/c") && !qualified_errors("A.b/c").is_empty());
        assert!(is_label_value("") && is_label_value("A_b.c") && !is_label_value("-a"));
        assert_eq!((label_value_errors(""), label_value_errors("a b").len()), (Vec::new(), 1));
    }
}
