//! The query string: options of every verb.

use ferrovirt_kubernetes::selector::Labels;

use super::path::unescape;
use super::selector::Fields;
use crate::status::ApiError;

/// What happens to unknown fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped, with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// The options of a request.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) watch: bool,
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_from: Option<String>,
    pub(crate) resource_version: Option<u64>,
    /// `Exact` or `NotOlderThan` or empty.
    pub(crate) resource_version_match: String,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: bool,
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    /// Which part of an object goes with each row of a table: `None`, `Metadata` or `Object`.
    pub(crate) include_object: String,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) orphan_dependents: Option<bool>,
}

impl Query {
    /// Reads a query string. Unknown parameters are ignored, as upstream does.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| {
                unescape(&text.replace('+', " "))
                    .ok_or_else(|| ApiError::bad_request("the query string is not valid UTF-8"))
            };
            query.set(&decode(name)?, decode(value)?)?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), ApiError> {
        match name {
            "watch" => self.watch = truth(&value),
            "allowWatchBookmarks" => self.bookmarks = truth(&value),
            "sendInitialEvents" => self.send_initial_events = truth(&value),
            "labelSelector" => {
                self.labels = Labels::parse(&value).map_err(|why| ApiError::bad_request(why.to_string()))?
            }
            "fieldSelector" => self.fields = Fields::parse(&value)?,
            "limit" => self.limit = Some(number(name, &value)?).filter(|limit| *limit > 0),
            "continue" => self.continue_from = Some(value).filter(|token| !token.is_empty()),
            "resourceVersion" if !value.is_empty() => {
                let version = value.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "Invalid value: \"{value}\": resourceVersion: must be a number"
                    ))
                })?;
                self.resource_version = Some(version);
            }
            "resourceVersionMatch" => self.resource_version_match = value,
            "timeoutSeconds" => self.timeout_seconds = Some(number(name, &value)?),
            "dryRun" => match value.as_str() {
                "All" => self.dry_run = true,
                "" => {}
                _ => return Err(invalid("dryRun", &value, "supported values: \"All\"")),
            },
            "fieldValidation" => {
                self.field_validation = match value.as_str() {
                    "" | "Warn" => FieldValidation::Warn,
                    "Ignore" => FieldValidation::Ignore,
                    "Strict" => FieldValidation::Strict,
                    _ => {
                        let supported = "supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"";
                        return Err(invalid("fieldValidation", &value, supported));
                    }
                }
            }
            "includeObject" => self.include_object = value,
            "propagationPolicy" => self.propagation_policy = Some(value).filter(|policy| !policy.is_empty()),
            "gracePeriodSeconds" => self.grace_period_seconds = Some(number(name, &value)?),
            "orphanDependents" => self.orphan_dependents = Some(truth(&value)),
            _ => {}
        }
        Ok(())
    }
}

fn truth(value: &str) -> bool {
    !matches!(value, "false" | "0")
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, ApiError> {
    value
        .parse()
        .map_err(|_| ApiError::bad_request(format!("the query parameter {name} must be a number: {value}")))
}

fn invalid(name: &str, value: &str, why: &str) -> ApiError {
    ApiError::new(422, "Invalid", format!("{name}: Unsupported value: \"{value}\": {why}"))
}
