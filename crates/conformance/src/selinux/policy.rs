//! Policies: valid, and written back byte for byte.

use ferrovirt_selinux::{Database, Policy, diff::between_policies};

use super::{Known, files::File, report::Report};

const KIND: &str = "policies";

/// Checks a policy and keeps it for the files that refer to it.
pub(super) fn check(file: &File, report: &mut Report) -> Option<Known> {
    let policy = match Policy::parse(&file.bytes) {
        Ok(policy) => policy,
        Err(error) => {
            report.compare(KIND, Err(error.to_string()));
            return None;
        }
    };
    let written = policy.serialize();
    let place = written.iter().zip(&file.bytes).take_while(|(ours, theirs)| ours == theirs).count();
    let (have, want) = (written.len(), file.bytes.len());
    let same = written == file.bytes;
    report.compare(
        KIND,
        if same {
            Ok(())
        } else {
            Err(format!("written back differently from byte {place} ({have} bytes, read {want})"))
        },
    );
    match Database::new(policy) {
        Ok(database) => {
            let difference = between_policies(&database, &database);
            if !difference.is_empty() {
                report.compare(KIND, Err(format!("the policy differs from itself: {difference}")));
            }
            Some(Known { directory: file.directory.clone(), name: file.name.clone(), size: want, database })
        }
        Err(error) => {
            report.compare(KIND, Err(error.to_string()));
            None
        }
    }
}
