//! A whole Ferrovirt with users who mean harm. Each test tries one thing and looks at the host, the other users and the
//! other machines afterwards; it has bounds in count and time and leaves nothing behind.

pub mod image;

use anyhow::Result;
use ferrovirt_e2e::{Cluster, Person};

/// The users of the tests and their namespaces: who attacks is `edit` in alpha alone.
#[derive(Debug)]
pub struct Users<'a> {
    /// ClusterRole `edit` in alpha.
    pub alice: Person<'a>,
    /// ClusterRole `admin` in alpha.
    pub adam: Person<'a>,
    /// ClusterRole `edit` in beta.
    pub bob: Person<'a>,
    /// ClusterRole `view` in alpha.
    pub carol: Person<'a>,
}

impl<'a> Users<'a> {
    /// Makes the namespaces alpha and beta, and the users with their rights. The accounts of a namespace share
    /// what one user may take, so each user has a namespace of their own.
    pub fn new(cluster: &'a Cluster) -> Result<Self> {
        for namespace in ["alpha", "beta"] {
            cluster.kubectl(&["create", "namespace", namespace])?;
        }
        let person = |name: &str, role: &str, namespace: &str| -> Result<Person<'a>> {
            let home = format!("people-{name}");
            cluster.kubectl(&["create", "namespace", &home])?;
            let person = Person::new(cluster, &home, name)?;
            person.may(role, namespace)?;
            Ok(person)
        };
        Ok(Self {
            alice: person("alice", "edit", "alpha")?,
            adam: person("adam", "admin", "alpha")?,
            bob: person("bob", "edit", "beta")?,
            carol: person("carol", "view", "alpha")?,
        })
    }
}
