//! What to do, as the host wrote it: one thing on a line, its words separated by tabs.

use std::io;

/// A process in a domain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Worker {
    /// Number of its directory below `/w`.
    pub(crate) number: u32,
    /// Its context.
    pub(crate) context: String,
    /// The context of the files of its pod.
    pub(crate) files: String,
    /// The worker that plays another machine for it.
    pub(crate) neighbour: Option<u32>,
    /// Names of operations.
    pub(crate) operations: Vec<String>,
}

/// The whole scenario.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// The context of the node agent, which makes TAP devices for the workers.
    pub(crate) agent: String,
    /// How many huge pages of 2 MiB the kernel sets apart.
    pub(crate) huge_pages: u32,
    /// What the kernel is asked about: source, target, class.
    pub(crate) questions: Vec<[String; 3]>,
    /// In the order in which they start and run; a neighbour comes before those that it is one for.
    pub(crate) workers: Vec<Worker>,
}

/// Reads a scenario.
///
/// # Errors
/// A line that means nothing here: host and guest are of different versions.
pub(crate) fn parse(text: &str) -> io::Result<Scenario> {
    let mut scenario = Scenario::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let wrong = || io::Error::other(format!("the scenario's line {line:?} is not understood"));
        match words.as_slice() {
            ["agent", context] if !context.is_empty() => scenario.agent = (*context).to_owned(),
            ["huge-pages", count] => scenario.huge_pages = count.parse().map_err(|_| wrong())?,
            ["ask", source, target, class] => {
                scenario.questions.push([source, target, class].map(|word| (*word).to_owned()));
            }
            ["worker", number, context, files, neighbour, operations @ ..] => {
                scenario.workers.push(Worker {
                    number: number.parse().map_err(|_| wrong())?,
                    context: (*context).to_owned(),
                    files: (*files).to_owned(),
                    neighbour: match *neighbour {
                        "-" => None,
                        number => Some(number.parse().map_err(|_| wrong())?),
                    },
                    operations: operations.iter().map(|word| (*word).to_owned()).collect(),
                });
            }
            _ => return Err(wrong()),
        }
    }
    if scenario.agent.is_empty() {
        return Err(io::Error::other("the scenario names no agent"));
    }
    Ok(scenario)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_read() {
        let text = "agent\tu:r:a:s0\nhuge-pages\t24\nask\ta\tb\tfile\nworker\t1\tu:r:t:s0\tu:o:f:s0\t-\nworker\t2\tc\tf\t1\tx\ty\n";
        let found = parse(text).unwrap();
        assert_eq!(found.agent, "u:r:a:s0");
        assert_eq!((found.huge_pages, found.questions.len(), found.workers.len()), (24, 1, 2));
        assert_eq!(found.workers[1].neighbour, Some(1));
        assert_eq!(found.workers[1].operations, ["x", "y"]);
        assert_eq!(
            found.workers[0],
            Worker {
                number: 1,
                context: "u:r:t:s0".to_owned(),
                files: "u:o:f:s0".to_owned(),
                ..Worker::default()
            }
        );
        assert_eq!(found.questions, [["a", "b", "file"].map(str::to_owned)]);
    }

    /// Host and guest of different versions are noticed before anything is tried.
    #[test]
    fn what_is_not_understood_is_said() {
        assert!(parse("agent\ta\n").is_ok());
        for line in [
            "worker\tone\tc\tf\t-",
            "worker\t1\tc\tf\tx",
            "worker\t1\tc\tf",
            "worker\t-1\tc\tf\t-",
            "huge-pages\tmany",
            "huge-pages\t1\t2",
            "ask\ta\tb",
            "ask\ta\tb\tc\td",
            "agent\t",
            "agents\ta",
            "",
        ] {
            let error = parse(&format!("agent\ta\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("not understood"), "{line:?}: {error}");
        }
        assert!(parse("huge-pages\t24\n").unwrap_err().to_string().contains("names no agent"));
    }
}
