//! What differs between the base policies that nodes have: names of domains.

use ferrovirt_privilege::{Domain, Right, domain_grants};
use ferrovirt_selinux::{Database, LookupError};
use std::collections::BTreeSet;

/// Names that the SELinux rules of the minimal profile take from the base policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The domain of the container runtime, which starts launchers.
    pub runtime: String,
    /// The domain of the node agent, which passes open descriptors.
    pub agent: String,
}

/// Why the types of the minimal profile do not fit a base policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// None of the known domains of container runtimes.
    #[error(
        "the base policy has none of the types {}: install its policy for containers (package container-selinux, on \
         Debian the module services/container of selinux-policy-src), or name the runtime's domain",
        RUNTIMES.join(" and ")
    )]
    Runtime,
    /// A type of that name is there and is no domain: refpolicy has files of the type `container_runtime_t`.
    #[error("the base policy's type \"{0}\" is not the domain of a process: name the one that runs there")]
    NotDomain(String),
    /// A rule names what the base policy does not have.
    #[error("the base policy lacks what the rule \"{rule}\" names: {problem}")]
    Missing {
        /// The rule.
        rule: String,
        /// What is missing, with near names.
        problem: LookupError,
    },
}

/// Domains of container runtimes by base policy: container-selinux, refpolicy.
const RUNTIMES: [&str; 2] = ["container_runtime_t", "container_engine_t"];
/// A privileged pod's domain, in both.
const AGENT: &str = "spc_t";

/// Whether a type is one of processes: refpolicy calls the runtime's files what container-selinux calls its process.
fn is_domain(database: &Database, name: &str) -> bool {
    let types = database.find_type(name).and_then(|kind| Ok((kind, database.find_type("domain")?)));
    types.is_ok_and(|(kind, domain)| database.covers(domain, kind))
}

impl Base {
    /// Fedora, RHEL and OKD.
    pub fn container_selinux() -> Self {
        Self { runtime: "container_runtime_t".to_owned(), agent: AGENT.to_owned() }
    }

    /// Debian, Gentoo and others.
    pub fn refpolicy() -> Self {
        Self { runtime: "container_engine_t".to_owned(), agent: AGENT.to_owned() }
    }

    /// The names of a family of base policies, which need no policy: `refpolicy` or `container-selinux`.
    pub fn family(name: &str) -> Option<Self> {
        match name {
            "refpolicy" => Some(Self::refpolicy()),
            "container-selinux" => Some(Self::container_selinux()),
            _ => None,
        }
    }

    /// The names of a policy.
    ///
    /// # Errors
    /// It has no policy for containers.
    pub fn of(database: &Database) -> Result<Self, BaseError> {
        let found = RUNTIMES.into_iter().find(|name| is_domain(database, name));
        let runtime = found.ok_or(BaseError::Runtime)?.to_owned();
        Ok(Self { runtime, agent: AGENT.to_owned() })
    }

    /// Refuses a policy that lacks a type, class, permission, attribute or role of the rules: a compiler that drops such
    /// rules without a word would leave machines that fail later.
    ///
    /// # Errors
    /// The first missing name, with the rule that names it.
    pub fn check(&self, database: &Database) -> Result<(), BaseError> {
        for name in [&self.runtime, &self.agent] {
            if database.find_type(name).is_ok() && !is_domain(database, name) {
                return Err(BaseError::NotDomain(name.clone()));
            }
        }
        for right in Domain::all().iter().flat_map(|domain| self.rights(domain)) {
            let known = |name: &str| {
                let own = name == "self" || name.starts_with(ferrovirt_privilege::DOMAIN_BLOCK);
                if own { Ok(()) } else { database.find_type(name).map(drop) }
            };
            let found = match &right {
                Right::Selinux { source, target, class, permission } => known(source)
                    .and_then(|()| known(target))
                    .and_then(|()| database.find_class(class))
                    .and_then(|class| database.find_permission(class, permission))
                    .map(drop),
                Right::SelinuxAttribute { attribute, .. } => known(attribute),
                Right::SelinuxRole { role, .. } => database.find_role(role).map(drop),
                _ => Ok(()),
            };
            found.map_err(|problem| BaseError::Missing { rule: right.to_string(), problem })?;
        }
        Ok(())
    }

    /// What a type is granted, with the names of this base.
    pub fn rights(&self, domain: &Domain) -> BTreeSet<Right<String>> {
        domain_grants(domain)
            .iter()
            .map(|(held, _)| held.right.map(&|name| self.name(name).to_owned()))
            .collect()
    }

    /// A name of the table on this base.
    pub fn name<'a>(&'a self, name: &'a str) -> &'a str {
        match name {
            "{runtime}" => &self.runtime,
            "{agent}" => &self.agent,
            other => other,
        }
    }
}
