//! The policy of the outer machine: a base, the minimal profile's module, and what stands for the rest of a node.

use super::Nest;
use anyhow::{Context, Result, ensure};
use ferrovirt_model::Profile;
use ferrovirt_plan::{
    render,
    selinux::{base::Base, module},
};
use ferrovirt_selinux::Database;
use ferrovirt_selinux_node::{Output, cil_files, secilc};
use std::{fs, path::PathBuf};

/// The node agent starts the container runtime and passes it the launcher's socket. On a node the unit of a service or
/// the base policy arranges this; it is no part of a machine's type.
const NODE: &str = "
(allow AGENT RUNTIME (process (transition)))
(allow AGENT RUNTIME (process2 (nnp_transition)))
(allow RUNTIME AGENT (fd (use)))
(allow RUNTIME AGENT (fifo_file (read write append getattr ioctl)))
(allow RUNTIME AGENT (unix_stream_socket (read write getattr getopt ioctl)))
(allow RUNTIME AGENT (process (sigchld)))
";

/// What containers need on the reference policy beyond what it gives to `container_t`, whose copy the documented profile's
/// type is.
const REACHABLE: &str = include_str!("../../../examples/selinux/container_from_spc.cil");

/// What the node's agent and runtime have on a type through `domain`, for types without that attribute.
const ON_TYPE: &str = "
(typeattribute lacking)
(allow AGENT lacking (unix_stream_socket (connectto)))
(allow AGENT lacking (process (sigkill sigstop getattr)))
(allow AGENT lacking (dir (search getattr open read)))
(allow AGENT lacking (file (getattr open read)))
(allow AGENT lacking (fd (use)))
";

/// Which types of machines the policy has.
pub(super) enum Form<'a> {
    /// Those of the minimal profile.
    Whole,
    /// These, each in a block `without`, none with an attribute of the base.
    Lacking(&'a str),
    /// Those of both profiles; unless `reachable` the base does not let the node agent start containers.
    Node { reachable: bool },
}

/// Compiles the policy into `policy` of the nest's directory; its file contexts.
pub(super) fn compile(nest: &Nest, base: &Base, overlay: &str, form: &Form<'_>) -> Result<PathBuf> {
    let mut modules = cil_files(&nest.selinux.join("cil")).context("cargo xtask selinux-base makes it")?;
    if overlay != "base" {
        modules.push(nest.selinux.join("overlays").join(overlay).with_extension("cil"));
    }
    let own = nest.dir.join("virt_machine.cil");
    let names = |text: &str| text.replace("AGENT", &base.agent).replace("RUNTIME", &base.runtime);
    let text = match form {
        Form::Whole | Form::Node { .. } => ferrovirt_selinux::cil::text(&render::cil::minimal(base)),
        Form::Lacking(text) => {
            let types = text.lines().filter_map(|line| line.strip_prefix("(block without (type "));
            let names_of: Vec<String> =
                types.map(|name| format!("without.{}", name.trim_end_matches(')'))).collect();
            let all = names_of.join(" ");
            format!("{}(typeattributeset lacking ({all}))\n{}", names(ON_TYPE), merged(text))
        }
    };
    fs::write(&own, text)?;
    let (policy, contexts) = (nest.dir.join("policy"), nest.dir.join("file_contexts"));
    let output = Output { policy: &policy, contexts: &contexts, neverallow: true };
    let node = nest.dir.join("node.cil");
    if let Form::Node { reachable } = form {
        if *reachable {
            fs::write(&node, REACHABLE)?;
            modules.push(node);
        }
        // The copy is of what the node's policy has.
        secilc(&modules, output)?;
        let documented = module::module(&Database::open(&fs::read(&policy)?)?, Profile::Documented)?;
        let path = nest.dir.join("virt_launcher.cil");
        fs::write(&path, documented.text)?;
        modules.push(path);
    } else {
        fs::write(&node, names(NODE))?;
        modules.push(node);
    }
    modules.push(own);
    secilc(&modules, Output { neverallow: !matches!(form, Form::Lacking(_)), ..output })?;
    ensure!(policy.exists(), "secilc made no policy");
    Ok(contexts)
}

/// One block for all types: a block of one name may stand only once.
fn merged(text: &str) -> String {
    let (blocks, rules): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("(block without "));
    let types: Vec<&str> =
        blocks.iter().filter_map(|line| line.strip_prefix("(block without ")?.strip_suffix(')')).collect();
    format!("(block without {})\n{}\n", types.join(" "), rules.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// secilc refuses a block that stands twice; a rule that got lost would be missed by nobody.
    #[test]
    fn types_share_one_block_and_every_rule_stays() {
        let text = "(block without (type a))\n(allow without.a self (fd (use)))\n(block without (type b))\n(allow x without.b (fd (use)))";
        let expected = "(block without (type a) (type b))\n(allow without.a self (fd (use)))\n(allow x without.b (fd (use)))\n";
        assert_eq!(merged(text), expected);
    }
}
