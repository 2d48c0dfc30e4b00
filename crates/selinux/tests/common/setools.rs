//! A setools that answers questions: one process for each policy.

use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

pub(crate) struct Setools {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Setools {
    /// Debian's setools with these policies; what it says when it cannot read them.
    pub(crate) fn start(policies: &[&Path]) -> Result<Self, String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ask_setools.py");
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .args(policies)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut setools = Self { child, answers };
        let first = setools.read();
        match first.get("unreadable") {
            Some(problem) => Err(problem.as_str().unwrap().to_owned()),
            None => Ok(setools),
        }
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        let length = self.answers.read_line(&mut line).unwrap();
        assert!(length > 0, "setools ended; `cargo xtask setup` installs the package python3-setools");
        serde_json::from_str(&line).unwrap()
    }

    /// The answer to a question.
    pub(crate) fn ask(&mut self, question: &Value) -> Value {
        let pipe = self.child.stdin.as_mut().unwrap();
        writeln!(pipe, "{question}").unwrap();
        pipe.flush().unwrap();
        let answer = self.read();
        assert!(answer.get("problem").is_none(), "{question}: {answer}");
        answer
    }
}

impl Drop for Setools {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
