//! Columns of server-side tables: what `kubectl get` shows.

pub mod events;
pub mod kubevirt;
pub mod nodes;
pub mod others;
pub mod pods;
pub mod rbac;
pub mod storage;

use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::texts;
use ferrovirt_kubernetes::time::parse;
use serde_json::Value;

use crate::clock;

/// How a cell is made from an object.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// The value at a JSON pointer; null when there is none.
    At(&'static str),
    /// How long ago the time at a JSON pointer was.
    Since(&'static str),
    /// The status of the condition of this type.
    Condition(&'static str),
    /// Something made for the purpose.
    Made(fn(&Value) -> Value),
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// 0: always shown; 1: only with `-o wide`.
    pub priority: u8,
    /// Where it comes from.
    pub cell: Cell,
}

impl Column {
    const fn new(name: &'static str, cell: Cell) -> Self {
        Self { name, kind: "string", priority: 0, cell }
    }

    const fn number(name: &'static str, cell: Cell) -> Self {
        Self { name, kind: "integer", priority: 0, cell }
    }

    const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }

    /// `format` of the column definition.
    #[must_use]
    pub fn format(&self) -> &'static str {
        if self.name == "Name" { "name" } else { "" }
    }

    /// The cell of one object.
    #[must_use]
    pub fn cell(&self, object: &Value) -> Value {
        match self.cell {
            Cell::At(pointer) => object.pointer(pointer).cloned().unwrap_or(Value::Null),
            Cell::Since(pointer) => since(object.pointer(pointer)),
            Cell::Condition(kind) => condition::find(object, kind)
                .and_then(|condition| condition.get("status"))
                .cloned()
                .unwrap_or_default(),
            Cell::Made(make) => make(object),
        }
    }
}

const NAME: Column = Column::new("Name", Cell::At("/metadata/name"));
const AGE: Column = Column::new("Age", Cell::Since("/metadata/creationTimestamp"));

/// The columns of a kind that has none of its own.
pub const NAME_AGE: &[Column] = &[NAME, AGE];

/// `<none>` instead of nothing.
fn or_none(text: &str) -> Value {
    Value::String(if text.is_empty() { "<none>".to_owned() } else { text.to_owned() })
}

/// How many entries the map or list at a pointer has.
fn count(object: &Value, pointer: &str) -> usize {
    match object.pointer(pointer) {
        Some(Value::Object(fields)) => fields.len(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    }
}

fn joined<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// Short names of access modes.
fn access_modes(object: &Value, pointer: &str) -> String {
    joined(texts(object, pointer).map(|mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    }))
}

/// Age of a `metav1.Time`, as kubectl writes ages.
fn since(time: Option<&Value>) -> Value {
    let seconds = time.and_then(Value::as_str).and_then(parse);
    Value::String(match seconds {
        Some(then) => duration(clock::now().saturating_sub(then)),
        None => "<unknown>".to_owned(),
    })
}

/// Upstream's `HumanDuration`: at most two units, the second only while the first is small.
#[must_use]
pub fn duration(seconds: i64) -> String {
    let two = |big: i64, big_unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        i64::MIN..=-2 => "<invalid>".to_owned(),
        -1 | 0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_as_in_kubectl() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_072_000, "2y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
