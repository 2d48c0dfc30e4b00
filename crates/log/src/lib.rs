//! The log of every program that runs until it is stopped. One event is one line, whatever anybody wrote into it: names,
//! paths, error texts and messages of others are escaped here, once, and nowhere before.

use ferrovirt_qemu::text::Escaping;
use std::{
    fmt::{self, Write as _},
    io::{IsTerminal as _, stderr},
};
use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::{
        FormatFields, MakeWriter,
        format::{Writer, debug_fn},
    },
};

/// Logs to standard error from now on: what `RUST_LOG` says, or `filter`.
pub fn start(filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| filter.into());
    tracing_subscriber::fmt()
        .fmt_fields(fields())
        .with_writer(stderr)
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        // What cannot be written, to a file on a full disk for one, would be said by a panic.
        .log_internal_errors(false)
        .init();
}

/// Writes the fields of an event: the message, and the others behind their names.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let mut escaping = Escaping(writer);
        match field.name() {
            "message" => write!(escaping, "{value:?}"),
            name => write!(escaping, "{name}={value:?}"),
        }
    })
    .delimited(" ")
}

/// A subscriber like the real one that writes elsewhere.
#[doc(hidden)]
pub fn subscriber<W>(writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .fmt_fields(fields())
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_event_is_one_line_whatever_is_in_it() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = super::subscriber(move || writer.clone());
        let foreign = "/disk/a\n2026-01-01T00:00:00Z  INFO forged\u{1b}[2J\u{202e}\u{85}\r";
        let error = io::Error::other(foreign);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("the launcher refuses: {foreign}");
            tracing::warn!(%error, path = foreign, name = ?foreign, "x");
            let span = tracing::info_span!("pod", name = foreign);
            span.in_scope(|| tracing::info!(display = %foreign, "inside"));
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.chars().all(|c| c == '\n' || !ferrovirt_qemu::text::acts(c)), "{text:?}");
        assert!(
            text.contains("the launcher refuses: /disk/a\\n2026-01-01T00:00:00Z  INFO forged\\u{1b}[2J"),
            "{text}"
        );
    }
}
