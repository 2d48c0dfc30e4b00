//! The serial console: a socket and a log in the pod. It needs nothing beyond the base machine's directories.

use super::Table;

pub(super) const TABLE: Table = Table::NONE;
