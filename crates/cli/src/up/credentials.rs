//! Files of credentials: kubeconfigs, and the tokens that they name.

use super::{
    control::{File, Kubeconfig},
    layout::secret,
};
use anyhow::Result;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Pause before files that could not be written are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is to be on disk. A disk that is full is nobody's fault who is connected here: its files are written later.
#[derive(Default)]
pub(super) struct Credentials {
    /// The newest texts of each kubeconfig, in their order.
    unwritten: BTreeMap<File, Vec<(PathBuf, String)>>,
    again: Option<Instant>,
}

impl Credentials {
    /// Writes a kubeconfig, and its token to a file of its own.
    ///
    /// # Errors
    /// When it is none. A file that cannot be written is none: it is tried again.
    pub(super) fn take(&mut self, file: File, path: PathBuf, mut kubeconfig: Kubeconfig) -> Result<()> {
        let mut texts = Vec::new();
        // First: programs that run meanwhile find the newest token, and never a file that names none.
        let beside = path.with_extension("token");
        if let Some(token) = kubeconfig.move_token(&beside) {
            texts.push((beside, token));
        }
        texts.push((path, serde_saphyr::to_string(&kubeconfig)?));
        self.unwritten.insert(file, texts);
        self.write();
        Ok(())
    }

    /// When files that could not be written are to be tried again.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Tries them again when it is time.
    pub(super) fn retry(&mut self, now: Instant) {
        if self.again.is_some_and(|again| again <= now) {
            self.write();
        }
    }

    fn write(&mut self) {
        let mut failure = None;
        self.unwritten.retain(|_, texts| {
            let written = texts.iter().try_for_each(|(path, text)| secret(path, text));
            let failed = written.is_err();
            failure = written.err().or(failure.take());
            failed
        });
        match failure {
            Some(error) => {
                if self.again.is_none() {
                    tracing::error!("{error:#}; it is tried again every {} s", RETRY.as_secs());
                }
                self.again = Some(Instant::now() + RETRY);
            }
            None if self.again.take().is_some() => tracing::info!("all kubeconfigs are written again"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn kubeconfig(token: &str) -> Kubeconfig {
        let text = format!(
            "{{apiVersion: v1, kind: Config, clusters: [], contexts: [], current-context: f,\
             users: [{{name: u, user: {{token: {token}}}}}]}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    #[test]
    fn what_could_not_be_written_is_written_later_as_it_is_then() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("missing/handler.kubeconfig");
        let mut credentials = Credentials::default();
        credentials.take(File::Handler, path.clone(), kubeconfig("old")).unwrap();
        credentials.take(File::Handler, path.clone(), kubeconfig("new")).unwrap();
        // One that can be written does not wait for it.
        let node = data.path().join("node.kubeconfig");
        credentials.take(File::Node, node.clone(), kubeconfig("node")).unwrap();
        assert!(node.exists() && !path.exists());
        let again = credentials.again().unwrap();

        fs::create_dir(data.path().join("missing")).unwrap();
        credentials.retry(again);
        assert_eq!(credentials.again(), None);
        assert_eq!(fs::read_to_string(path.with_extension("token")).unwrap(), "new");
        assert!(fs::read_to_string(&path).unwrap().contains("handler.token"));
    }
}
