//! Volumes made of an object's data: secrets, the pod's own fields, and projections of them.

use super::{Error, Objects, unsupported};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};
use std::collections::BTreeMap;

/// A file of such a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Relative path.
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
}

type Data = BTreeMap<String, Vec<u8>>;

/// The files of a volume; `None` when it is of another kind.
pub(super) fn files(pod: &Pod, volume: &Volume, objects: &Objects) -> Result<Option<Vec<File>>, Error> {
    let name = &volume.name;
    let reader = Reader { pod, volume: name, objects };
    if let Some(source) = &volume.secret {
        let secret = source.secret_name.as_deref().unwrap_or_default();
        let data = reader.secret(secret, source.optional)?;
        return select(name, data, source.items.as_deref(), source.default_mode).map(Some);
    }
    if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        return reader.downward(items, source.default_mode).map(Some);
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let mut files = Vec::new();
    for source in projected.sources.iter().flatten() {
        let mode = projected.default_mode;
        if let Some(secret) = &source.secret {
            let data = reader.secret(&secret.name, secret.optional)?;
            files.extend(select(name, data, secret.items.as_deref(), mode)?);
        } else if let Some(fields) = &source.downward_api {
            files.extend(reader.downward(fields.items.as_deref().unwrap_or_default(), mode)?);
        } else {
            return Err(unsupported(name, "only secret and downwardAPI can be projected on this node"));
        }
    }
    Ok(Some(files))
}

struct Reader<'a> {
    pod: &'a Pod,
    volume: &'a str,
    objects: &'a Objects,
}

impl Reader<'_> {
    fn secret(&self, name: &str, optional: Option<bool>) -> Result<Data, Error> {
        match self.objects.secrets.get(name) {
            Some(secret) => Ok(secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()),
            None if optional == Some(true) => Ok(Data::new()),
            None => Err(self.not_found("secret", name)),
        }
    }

    fn not_found(&self, kind: &'static str, name: &str) -> Error {
        Error::NotFound { volume: self.volume.to_owned(), kind, name: name.to_owned() }
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: Option<i32>) -> Result<Vec<File>, Error> {
        items
            .iter()
            .map(|item| {
                let field = item.field_ref.as_ref().map(|f| f.field_path.as_str()).unwrap_or_default();
                let text = field_of(self.pod, field)
                    .ok_or_else(|| unsupported(self.volume, &format!("field {field:?} cannot be shown")))?;
                Ok(File { path: item.path.clone(), bytes: text.into_bytes(), mode: bits(item.mode.or(mode)) })
            })
            .collect()
    }
}

fn select(
    volume: &str,
    data: Data,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
) -> Result<Vec<File>, Error> {
    let Some(items) = items else {
        return Ok(data.into_iter().map(|(path, bytes)| File { path, bytes, mode: bits(mode) }).collect());
    };
    items
        .iter()
        .map(|item| {
            let bytes = data.get(&item.key).cloned();
            let bytes =
                bytes.ok_or_else(|| unsupported(volume, &format!("there is no key {:?}", item.key)))?;
            Ok(File { path: item.path.clone(), bytes, mode: bits(item.mode.or(mode)) })
        })
        .collect()
}

fn bits(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644) & 0o777
}

/// A field of the pod as the downward API shows it.
pub(super) fn field_of(pod: &Pod, path: &str) -> Option<String> {
    let data = &pod.metadata;
    let all = |map: &Option<BTreeMap<String, String>>| {
        // Quoted as Go's %q does for ordinary text.
        let lines = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let entry = |map: &Option<BTreeMap<String, String>>, rest: &str| {
        let key = rest.strip_prefix("['")?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => data.name.clone(),
        "metadata.namespace" => data.namespace.clone(),
        "metadata.uid" => data.uid.clone(),
        "metadata.labels" => Some(all(&data.labels)),
        "metadata.annotations" => Some(all(&data.annotations)),
        _ => match (path.strip_prefix("metadata.labels"), path.strip_prefix("metadata.annotations")) {
            (Some(rest), _) => entry(&data.labels, rest),
            (_, Some(rest)) => entry(&data.annotations, rest),
            _ => None,
        },
    }
}
