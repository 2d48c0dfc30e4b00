//! One line.

use std::borrow::Cow;

/// When a record was made. Records of one event share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// Seconds since 1970; where `ausearch -i` wrote a date, whose form follows the language, its digits.
    pub seconds: u64,
    /// Milliseconds of the second.
    pub milliseconds: u16,
    /// The event's number since the kernel started.
    pub serial: u64,
}

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKind {
    /// An access decision.
    Avc,
    /// The system call of the event.
    Syscall,
    /// The command line.
    Proctitle,
    /// A path that the system call had.
    Path,
    /// The working directory.
    Cwd,
    /// A policy was loaded.
    PolicyLoad,
    /// Enforcing was switched.
    Status,
    /// Something else: its name or number.
    Other(String),
}

/// A permission that was denied or granted with a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Whether it was granted: the record of an auditallow rule.
    pub granted: bool,
    /// The permissions.
    pub permissions: Vec<String>,
    /// The source's context.
    pub source: String,
    /// The target's context.
    pub target: String,
    /// The class.
    pub class: String,
    /// Whether the access went on because the source or the system is permissive.
    pub permissive: bool,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When; lines of the journal may lack it.
    pub stamp: Option<Stamp>,
    /// What.
    pub kind: RecordKind,
    /// The decision, in [`RecordKind::Avc`].
    pub denial: Option<Denial>,
    fields: Vec<(String, String)>,
}

impl Record {
    /// A field, decoded.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All fields, decoded, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Why a line with a decision cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AvcError {
    /// There are no permissions in braces.
    #[error("the record names no permissions in braces; the line may be cut off")]
    Permissions,
    /// A field is missing.
    #[error("the record has no field {0}; the line may be cut off")]
    Field(&'static str),
    /// It is longer than 16 KiB.
    #[error("the record has more than {LONGEST} bytes, which no record has")]
    TooLong,
}

/// More bytes than a line with a record has: the kernel's have up to 8970.
const LONGEST: usize = 16 << 10;

/// Reads a line. Lines that are no audit records give nothing.
///
/// # Errors
/// The line has a decision, but not all of it.
pub fn parse(line: &str) -> Result<Option<Record>, AvcError> {
    if line.len() > LONGEST {
        return if decision(line).is_some() { Err(AvcError::TooLong) } else { Ok(None) };
    }
    // Behind this character auditd repeats fields with numbers resolved to names.
    let line = line.split('\u{1d}').next().unwrap_or(line).trim_end();
    let (kind, stamp, form, rest) = match head(line) {
        Some(parts) => parts,
        // The journal's own form has neither type nor stamp.
        None if decision(line).is_some() => (RecordKind::Avc, None, Form::Raw, line),
        None => return Ok(None),
    };
    let decision = if kind == RecordKind::Avc { decision(rest) } else { None };
    let Some((granted, decision)) = decision else {
        // Among them the cache's own notes, such as "received setenforce notice".
        let kind = if kind == RecordKind::Avc { RecordKind::Other("AVC".to_owned()) } else { kind };
        return Ok(Some(Record { stamp, kind, denial: None, fields: fields(rest, form) }));
    };
    let (permissions, rest) =
        decision.split_once('{').and_then(|(_, rest)| rest.split_once('}')).ok_or(AvcError::Permissions)?;
    let permissions: Vec<String> = permissions.split_whitespace().map(str::to_owned).collect();
    if permissions.is_empty() {
        return Err(AvcError::Permissions);
    }
    let fields = fields(rest, form);
    // The last of each: what stands before may be a name with such words in it.
    let field = |name: &'static str| {
        let found = fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        found.filter(|value| !value.is_empty()).ok_or(AvcError::Field(name))
    };
    let denial = Denial {
        granted,
        permissions,
        source: field("scontext")?,
        target: field("tcontext")?,
        class: field("tclass")?,
        permissive: field("permissive").is_ok_and(|value| value == "1"),
    };
    Ok(Some(Record { stamp, kind, denial: Some(denial), fields }))
}

/// Whether it was granted, and what follows.
fn decision(text: &str) -> Option<(bool, &str)> {
    text.match_indices("avc:").find_map(|(start, word)| {
        let rest = text.get(start + word.len()..)?.trim_start();
        let granted = rest.strip_prefix("granted").map(|rest| (true, rest));
        granted.or_else(|| rest.strip_prefix("denied").map(|rest| (false, rest)))
    })
}

/// How the values of fields are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As the kernel does: quoted, or hexadecimal.
    Raw,
    /// As `ausearch -i` does: readable, and some with spaces.
    Interpreted,
}

/// The type, the stamp and the form, and what follows the colon.
fn head(line: &str) -> Option<(RecordKind, Option<Stamp>, Form, &str)> {
    line.match_indices("type=").find_map(|(start, word)| head_at(line.get(start + word.len()..)?))
}

fn head_at(rest: &str) -> Option<(RecordKind, Option<Stamp>, Form, &str)> {
    let (kind, rest) = rest.split_once(' ')?;
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("msg=").unwrap_or(rest).strip_prefix("audit(")?;
    let (stamp, rest) = rest.split_once(')')?;
    let (time, serial) = stamp.rsplit_once(':')?;
    let (seconds, milliseconds) = time.rsplit_once('.').unwrap_or((time, "0"));
    let form = if seconds.contains(' ') { Form::Interpreted } else { Form::Raw };
    let seconds: String = match form {
        Form::Raw => seconds.to_owned(),
        Form::Interpreted => seconds.chars().filter(char::is_ascii_digit).collect(),
    };
    let stamp = Stamp {
        seconds: seconds.parse().ok()?,
        milliseconds: milliseconds.parse().ok()?,
        serial: serial.parse().ok()?,
    };
    let kind = match kind {
        // Programs that decide themselves, such as systemd and D-Bus, have a type of their own.
        "AVC" | "1400" | "USER_AVC" | "1107" => RecordKind::Avc,
        "SYSCALL" | "1300" => RecordKind::Syscall,
        "PROCTITLE" | "1327" => RecordKind::Proctitle,
        "PATH" | "1302" => RecordKind::Path,
        "CWD" | "1307" => RecordKind::Cwd,
        "MAC_POLICY_LOAD" | "1403" => RecordKind::PolicyLoad,
        "MAC_STATUS" | "1404" => RecordKind::Status,
        other => RecordKind::Other(other.to_owned()),
    };
    let rest = rest.trim_start();
    Some((kind, Some(stamp), form, rest.strip_prefix(':').unwrap_or(rest)))
}

/// `key=value` pairs; values may be quoted, and some are hexadecimal when they are not.
fn fields(text: &str, form: Form) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let Some(equals) = rest.get(..end).and_then(|word| word.find('=')) else {
            rest = rest.get(end..).unwrap_or_default().trim_start();
            continue;
        };
        let key = rest.get(..equals).unwrap_or_default();
        let value = rest.get(equals + 1..).unwrap_or_default();
        let (value, next) = match value.strip_prefix('"').and_then(|quoted| quoted.split_once('"')) {
            Some((value, next)) => (Cow::Borrowed(value), next),
            None => {
                let end = value_end(value, form);
                let (value, next) =
                    (value.get(..end).unwrap_or_default(), value.get(end..).unwrap_or_default());
                // A program's record stands in single quotes, which the last field of it closes.
                let value = value.strip_suffix('\'').unwrap_or(value);
                (if form == Form::Raw { decoded(key, value) } else { Cow::Borrowed(value) }, next)
            }
        };
        fields.push((key.to_owned(), value.into_owned()));
        rest = next.trim_start();
    }
    fields
}

/// Where a value without quotes ends: at a space, and where values may have spaces at the last one before the next key.
fn value_end(value: &str, form: Form) -> usize {
    let mut spaces = value.match_indices(char::is_whitespace).map(|(place, _)| place);
    let end = match form {
        Form::Raw => spaces.next(),
        Form::Interpreted => spaces.find(|place| {
            let next = value.get(*place..).unwrap_or_default().trim_start();
            let key = next.split('=').next().unwrap_or_default();
            let word =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
            key.len() < next.len() && !key.is_empty() && key.bytes().all(word)
        }),
    };
    end.unwrap_or(value.len())
}

/// Whether the kernel writes this field in hexadecimal when it has spaces or odd bytes.
fn may_be_hex(key: &str) -> bool {
    matches!(key, "comm" | "name" | "path" | "proctitle" | "exe" | "cwd" | "kmod" | "key" | "dev" | "ocomm")
}

fn decoded<'a>(key: &str, value: &'a str) -> Cow<'a, str> {
    let hex = may_be_hex(key)
        && value.len() >= 2
        && value.len().is_multiple_of(2)
        && value.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    if !hex {
        return Cow::Borrowed(value);
    }
    let digits: Vec<u8> =
        value.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    let bytes = digits.chunks_exact(2).map(|pair| match pair {
        [high, low] => high << 4 | low,
        _ => 0,
    });
    // The arguments of a command line end with NUL.
    let bytes: Vec<u8> = bytes.map(|byte| if byte == 0 { b' ' } else { byte }).collect();
    Cow::Owned(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_fields_and_quotes() {
        let line = "type=AVC msg=audit(12.5:7): avc:  denied  { read write } for  pid=1 comm=43505520312F4B564D \
                    name=\"a b=c\" dev=\"tmpfs\" ino=5 scontext=a:b:c:s0 tcontext=d:e:f:s0 tclass=file permissive=1";
        let record = parse(line).unwrap().unwrap();
        assert_eq!(record.field("comm"), Some("CPU 1/KVM"));
        assert_eq!(record.field("name"), Some("a b=c"));
        assert_eq!(record.stamp, Some(Stamp { seconds: 12, milliseconds: 5, serial: 7 }));
        let denial = record.denial.unwrap();
        assert_eq!(denial.permissions, ["read", "write"]);
        assert!(denial.permissive && !denial.granted);
    }

    /// As `ausearch -i` prints them.
    #[test]
    fn interpreted() {
        let line = "type=AVC msg=audit(11/24/2026 20:15:01.123:456) : avc:  denied  { write } for  pid=84 \
                    comm=CPU 0/KVM name=a=b c dev=\"sysfs\" ino=12 scontext=s tcontext=t tclass=file permissive=0 ";
        let record = parse(line).unwrap().unwrap();
        let field = |name| record.field(name);
        assert_eq!(
            (field("comm"), field("name"), field("dev")),
            (Some("CPU 0/KVM"), Some("a=b c"), Some("sysfs"))
        );
        let call = "type=SYSCALL msg=audit(11/24/2026 20:15:01.123:456) : arch=x86_64 syscall=ioctl success=no \
                    exit=EACCES(Permission denied) a0=0x7 a1=0x400454d9 items=0 comm=CPU 0/KVM exe=/usr/bin/qemu-kvm key=(null) ";
        let call = parse(call).unwrap().unwrap();
        assert_eq!((call.stamp, call.stamp.unwrap().serial), (record.stamp, 456));
        assert_eq!((call.field("exit"), call.field("a0")), (Some("EACCES(Permission denied)"), Some("0x7")));
        let title =
            parse("type=PROCTITLE msg=audit(24.11.2026 20:15:01.123:456) : proctitle=cat DEADBEEF 00")
                .unwrap();
        assert_eq!(title.unwrap().field("proctitle"), Some("cat DEADBEEF 00"));
    }

    /// A file's name cannot speak for the kernel.
    #[test]
    fn fields_within_names() {
        let line = "type=AVC msg=audit(11/24/2026 20:15:01.123:456) : avc:  denied  { write } for  pid=84 comm=x \
                    name=a scontext=s tcontext=forged tclass=file dev=\"tmpfs\" scontext=s tcontext=t tclass=security";
        let denial = parse(line).unwrap().unwrap().denial.unwrap();
        assert_eq!((&*denial.target, &*denial.class), ("t", "security"));
        let long = format!("{line} name={}", "a ".repeat(LONGEST));
        assert_eq!(parse(&long), Err(AvcError::TooLong));
        assert_eq!(parse(&"type= ".repeat(LONGEST)), Ok(None));
    }

    #[test]
    fn other_forms() {
        for line in [
            "Nov 23 host kernel: [ 3.1] audit: type=1400 audit(1.000:2): avc:  denied  { a } for  pid=1 scontext=s tcontext=t tclass=c",
            "node=n1 type=AVC msg=audit(1.000:2): avc:  denied  { a } for  scontext=s tcontext=t tclass=c permissive=0\u{1d}X=\"y\"",
            "Nov 23 host audit[81]: AVC avc:  denied  { a } for  pid=81 comm=\"x\" scontext=s tcontext=t tclass=c permissive=0",
        ] {
            let denial = parse(line).unwrap().unwrap().denial.unwrap();
            assert_eq!((&*denial.source, &*denial.target, &*denial.class), ("s", "t", "c"), "{line}");
        }
        let line = "type=USER_AVC msg=audit(1.000:2): pid=1 uid=0 subj=s msg='avc:  denied  { start } for auid=n/a uid=0 \
                    path=\"/x\" scontext=s tcontext=t tclass=service permissive=0  exe=\"/lib/systemd\" terminal=?'";
        let record = parse(line).unwrap().unwrap();
        assert_eq!((record.field("exe"), record.field("terminal")), (Some("/lib/systemd"), Some("?")));
        assert_eq!(record.denial.unwrap().class, "service");
        let line =
            "audit[9]: USER_AVC pid=9 msg='avc: denied { send_msg } for scontext=s tcontext=t tclass=dbus'";
        assert_eq!(parse(line).unwrap().unwrap().denial.unwrap().class, "dbus");
        let line = "host app: type=x avc:  denied  { a } for scontext=s tcontext=t tclass=c";
        assert_eq!(parse(line).unwrap().unwrap().denial.unwrap().class, "c");
        assert_eq!(parse("systemd[1]: Started something."), Ok(None));
        assert_eq!(parse(""), Ok(None));
        let cut = "type=AVC msg=audit(1.000:2): avc:  denied  { a } for  pid=1 scontext=s";
        assert_eq!(parse(cut), Err(AvcError::Field("tcontext")));
        assert_eq!(parse("type=AVC msg=audit(1.000:2): avc:  denied  { a"), Err(AvcError::Permissions));
        let note = parse("type=AVC msg=audit(1.000:2): avc:  received setenforce notice (enforcing=1)")
            .unwrap()
            .unwrap();
        assert_eq!(note.denial, None);
        // Seven letters of plain text are no hexadecimal number, and neither are small ones.
        let record = parse("type=SYSCALL msg=audit(1.000:2): comm=cafe a1=400454ca").unwrap().unwrap();
        assert_eq!((record.field("comm"), record.field("a1")), (Some("cafe"), Some("400454ca")));
    }
}
