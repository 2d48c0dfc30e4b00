//! Any bytes as the body of a request, JSON and YAML: read in bounded time and memory, or refused.
#![no_main]

use std::time::{Duration, Instant};

use ferrovirt_api::document::{self, MAX_BYTES, MAX_DEPTH, MAX_VALUES};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// For the largest bodies on a busy machine; a reader that is not linear takes a hundred times as long.
const LIMIT: Duration = Duration::from_secs(5);

fuzz_target!(|data: &[u8]| {
    // Depth is where parsers are slow, and mutation finds it hard to get there.
    let again = data.split_first().map_or(Vec::new(), |(times, text)| text.repeat(usize::from(*times) * 16));
    for bytes in [data, &again] {
        for read in [document::json, document::yaml] {
            let start = Instant::now();
            if let Ok(value) = read(bytes) {
                bounded(&value);
            }
            assert!(start.elapsed() < LIMIT, "{:?} for {} bytes", start.elapsed(), bytes.len());
        }
    }
});

fn bounded(value: &Value) {
    let (mut values, mut bytes) = (0, 0);
    let mut todo = vec![(value, 0)];
    while let Some((value, depth)) = todo.pop() {
        assert!(depth <= MAX_DEPTH);
        values += 1;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => todo.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => {
                values += fields.len();
                bytes += fields.keys().map(String::len).sum::<usize>();
                todo.extend(fields.values().map(|field| (field, depth + 1)));
            }
            _ => {}
        }
    }
    assert!(values <= MAX_VALUES + 1 && bytes <= MAX_BYTES);
}
