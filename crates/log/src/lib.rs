//! The log of every program that runs until it is stopped. One event is one line, whatever anybody wrote into it: names,
//! paths, error texts and messages of others are escaped here, once, and nowhere before.

use ferrovirt_qemu::text::Escaping;
use std::{
    fmt::{self, Write as _},
    io::{IsTerminal as _, stderr},
    sync::{Mutex, OnceLock, PoisonError},
};
use tracing::field::Field;
use tracing_subscriber::{
    Layer as _, Registry,
    field::MakeExt as _,
    filter::{LevelFilter, Targets},
    fmt::{
        FormatFields, MakeWriter,
        format::{Writer, debug_fn},
    },
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

/// Logs to standard error from now on: what `RUST_LOG` says, or `filter`, and then as much more as [`verbosity`] says. Both are
/// levels, and levels of targets, such as `info,kube=warn`. (Filters by spans and fields, as `EnvFilter` has them, would bring
/// regular expressions into every program.)
pub fn start(filter: &'static str) {
    let given = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let parsed = given.as_deref().map(|text| text.trim().parse::<Targets>());
    let (unreadable, given) = match parsed {
        Some(Ok(targets)) => (None, Some(targets)),
        Some(Err(error)) => (Some(error), None),
        None => (None, None),
    };
    let changes = given.is_none();
    let (targets, handle) = reload::Layer::new(given.unwrap_or_else(|| targets(filter, None)));
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(fields())
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        // What cannot be written, to a file on a full disk for one, would be said by a panic.
        .log_internal_errors(false);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
    if changes {
        // A second start has ended with a panic above.
        let _ = RELOAD.set(Reload { filter, handle });
    }
    if let Some(error) = unreadable {
        tracing::warn!(
            "RUST_LOG is not read ({error}): write levels such as `debug` or `info,kube=warn`; `{filter}` holds"
        );
    }
}

/// How the filter of the program is changed.
struct Reload {
    filter: &'static str,
    handle: reload::Handle<Targets, Registry>,
}

static RELOAD: OnceLock<Reload> = OnceLock::new();
/// What was asked for last.
static VERBOSITY: Mutex<Option<u32>> = Mutex::new(None);

/// Says as much as `level`, of KubeVirt's scale, asks for: up to 2, and without one, what the program was started with; above
/// also what our own parts decide. What other people's libraries say stays as it is: it may hold what is on its way. Where `RUST_LOG` says what is logged it does nothing.
pub fn verbosity(level: Option<u32>) {
    let Some(reload) = RELOAD.get() else { return };
    let mut last = VERBOSITY.lock().unwrap_or_else(PoisonError::into_inner);
    if *last == level {
        return;
    }
    *last = level;
    if reload.handle.reload(targets(reload.filter, level)).is_ok() {
        tracing::info!(
            "the log has verbosity {}",
            level.map_or_else(|| "2".to_owned(), |level| level.to_string())
        );
    }
}

fn targets(base: &str, level: Option<u32>) -> Targets {
    // Programs name what can be read.
    let base = base.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    match level {
        None | Some(0..=2) => base,
        // The beginning of all of our crates' names.
        Some(_) => base.with_target("ferrovirt", LevelFilter::DEBUG),
    }
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
    use super::*;
    use std::{io, sync::Arc};
    use tracing::Level;

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

    /// What a program starts with is read: where it is not, it would say more than was meant.
    #[test]
    fn the_filters_of_our_programs_are_read() {
        for (filter, kube) in [("info", LevelFilter::INFO), ("info,kube=warn", LevelFilter::WARN)] {
            let targets = targets(filter, None);
            assert_eq!(targets.default_level(), Some(LevelFilter::INFO), "{filter}");
            assert_eq!(targets.would_enable("kube_client::client", &Level::INFO), kube == LevelFilter::INFO);
            assert!(!targets.would_enable("ferrovirt_control", &Level::DEBUG));
        }
    }

    #[test]
    fn verbosity_is_that_of_our_own_parts() {
        let said = |level: Option<u32>| {
            let sink = Sink::default();
            let writer = sink.clone();
            let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
            let subscriber = tracing_subscriber::registry()
                .with(lines.with_filter(super::targets("info,kube=warn", level)));
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(target: "ferrovirt_control::queue", "a");
                tracing::debug!(target: "ferrovirt_control::queue", "b");
                tracing::trace!(target: "ferrovirt_control", "c");
                tracing::info!(target: "kube_client::client", "d");
                tracing::debug!(target: "hyper::proto", "e");
            });
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            text.lines().filter_map(|line| line.chars().last()).collect::<String>()
        };
        for (level, lines) in [
            (None, "a"),
            (Some(0), "a"),
            (Some(2), "a"),
            (Some(3), "ab"),
            (Some(5), "ab"),
            (Some(u32::MAX), "ab"),
        ] {
            assert_eq!(said(level), lines, "{level:?}");
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
