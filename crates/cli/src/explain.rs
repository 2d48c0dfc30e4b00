//! `ferrovirt explain` and `ferrovirt matrix`: the privilege table, offline.

use crate::manifests::Platform;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ferrovirt_api::{
    cause::rejection,
    config::ClusterDefaults,
    convert::machine,
    defaults::{default_vm, default_vmi},
    kubevirt::{VirtualMachine, VirtualMachineInstance},
    validate::{validate_vm, validate_vmi},
};
use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::object;
use ferrovirt_model::{Machine, Profile};
use ferrovirt_plan::{
    config::ClusterConfig, explain, matrix, render::cluster::VOLUME_GROUP, user_namespace::UserNamespaces,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    path::PathBuf,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Manifest with VirtualMachines and VirtualMachineInstances, YAML or JSON; `-` for standard input
    #[arg(short, long)]
    file: PathBuf,
    /// minimal or documented
    #[arg(long, default_value = "minimal")]
    profile: Profile,
    /// Explain for a cluster whose guests are emulated in software, without /dev/kvm
    #[arg(long)]
    emulation: bool,
    /// Explain for a cluster whose kubelets run the pods
    #[arg(long)]
    cluster: bool,
    /// userNamespaces of that cluster's KubeVirt object: Auto, Always or Never. Its nodes are taken to give pods one
    #[arg(long, default_value = "Auto", requires = "cluster")]
    user_namespaces: UserNamespaces,
    /// okd gives pods their users by SecurityContextConstraints
    #[arg(long, value_enum, default_value_t = Platform::Kubernetes, requires = "cluster")]
    platform: Platform,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

pub(crate) fn explain(options: &Options) -> Result<()> {
    let machines = read(options)?;
    ensure!(
        !machines.is_empty(),
        "no VirtualMachine or VirtualMachineInstance in {}",
        options.file.display()
    );
    let image = ClusterConfig::default().launcher_image;
    // As the controller makes the KubeVirt object there.
    let group = (options.platform == Platform::Kubernetes).then_some(VOLUME_GROUP);
    let cluster = || ClusterConfig::on_cluster(options.profile, image, group);
    let config = ClusterConfig {
        profile: options.profile,
        use_emulation: options.emulation,
        user_namespaces: options.user_namespaces,
        cluster_has_user_namespaces: true,
        ..if options.cluster { cluster() } else { ClusterConfig::default() }
    };
    let surroundings = config.surroundings(&BTreeSet::new());
    let explained = |machine| explain::explain_in(machine, &surroundings, &config);
    let all: Vec<_> = machines.iter().map(explained).collect();
    let text = match options.output {
        Form::Text => all.iter().map(|explanation| format!("{explanation}\n")).collect(),
        Form::Json => format!("{}\n", serde_json::to_string_pretty(&all)?),
    };
    print(&text)
}

pub(crate) fn matrix() -> Result<()> {
    print(&format!("{}\n{}", matrix::features(), matrix::subjects()))
}

/// Writes to standard output; a reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Every machine of the file, defaulted and validated as the API server does it.
fn read(options: &Options) -> Result<Vec<Machine>> {
    let name = options.file.display().to_string();
    let mut text = String::new();
    if name == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(&options.file).with_context(|| name.clone())?;
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(|| name.clone())?;
    // A file that is reviewed may use what a cluster would have to be asked for first.
    let mut config = ClusterDefaults::default();
    config.feature_gates.insert("HostDisk".to_owned());
    let mut machines = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let kind = object::kind(&document).to_owned();
        let object = json::string(&document, "/metadata/name").unwrap_or("without a name").to_owned();
        let instance = match kind.as_str() {
            "VirtualMachine" => of_machine(document, &config),
            "VirtualMachineInstance" => of_instance(document, &config),
            _ => continue,
        };
        let converted = instance.and_then(|instance| machine(&instance).map_err(|causes| refused(&causes)));
        machines.push(converted.with_context(|| format!("{kind} {object}"))?);
    }
    Ok(machines)
}

pub(crate) fn refused(causes: &[ferrovirt_api::cause::Cause]) -> anyhow::Error {
    anyhow::anyhow!(rejection(causes))
}

pub(crate) fn of_machine(document: Value, config: &ClusterDefaults) -> Result<VirtualMachineInstance> {
    let mut vm: VirtualMachine = strict(document)?;
    default_vm(&mut vm, config, None);
    let causes = validate_vm(&vm, config, false);
    if !causes.is_empty() {
        return Err(refused(&causes));
    }
    let template = vm.spec.template;
    let metadata =
        ObjectMeta { name: vm.metadata.name, namespace: vm.metadata.namespace, ..template.metadata };
    let mut instance =
        VirtualMachineInstance { metadata, spec: template.spec, ..VirtualMachineInstance::default() };
    place(&mut instance);
    default_vmi(&mut instance, config);
    Ok(instance)
}

pub(crate) fn of_instance(document: Value, config: &ClusterDefaults) -> Result<VirtualMachineInstance> {
    let mut instance: VirtualMachineInstance = strict(document)?;
    place(&mut instance);
    default_vmi(&mut instance, config);
    let causes = validate_vmi(&instance, config, false);
    if causes.is_empty() { Ok(instance) } else { Err(refused(&causes)) }
}

fn place(instance: &mut VirtualMachineInstance) {
    instance.metadata.namespace.get_or_insert_with(|| "default".to_owned());
}

/// Decodes; an unknown field is an error, as it is for kubectl.
fn strict<T: serde::de::DeserializeOwned>(document: Value) -> Result<T> {
    let mut unknown = Vec::new();
    let object =
        serde_ignored::deserialize(document, |path| unknown.push(format!("unknown field \"{path}\"")))?;
    ensure!(unknown.is_empty(), "{}", unknown.join(", "));
    Ok(object)
}
