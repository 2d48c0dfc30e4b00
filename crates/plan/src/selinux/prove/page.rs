//! A proof as one page of HTML that needs nothing else: for keeping with a review.

use super::{
    outcome::{Proof, Witnessed},
    report::{alike, expected, observed, summary},
};
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.4 sans-serif;margin:2em;max-width:100em}table{border-collapse:collapse;width:100%}\
    th,td{border:1px solid #bbb;padding:.25em .5em;text-align:left;vertical-align:top}th{background:#eee}\
    code{font-size:12px;overflow-wrap:anywhere}.yes{background:#e3f5e3}.no{background:#f6f1d8}\
    .wrong{background:#f4b6b6;font-weight:bold}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn row(out: &mut String, class: &str, columns: &[&str]) {
    let _ = write!(out, "<tr class=\"{class}\">");
    for column in columns {
        let _ = write!(out, "<td>{}</td>", escaped(column).replace('\n', "<br>"));
    }
    out.push_str("</tr>\n");
}

fn head(out: &mut String, columns: &[&str]) {
    out.push_str("<table><tr>");
    for column in columns {
        let _ = write!(out, "<th>{column}</th>");
    }
    out.push_str("</tr>\n");
}

/// The page.
pub fn html(proof: &Proof, base: &str) -> String {
    let title = if proof.holds() { "The kernel does as the table says" } else { "Kernel and table DIFFER" };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>SELinux proof</title><style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<p>Linux {}, SELinux enforcing, base policy {}.</p>\n<p>{}.</p>\n",
        escaped(&proof.kernel),
        escaped(base),
        escaped(&summary(proof)),
    );
    out.push_str(
        "<p>Each line is a system call that a process in the domain made. What is expected follows from the privilege \
         table and from what the base policy gives to container_t; it was not read from the compiled policy.</p>\n",
    );
    for (kinds, cells) in alike(proof) {
        let _ = writeln!(out, "<h2>{}</h2>", escaped(&kinds.join(", ")));
        head(&mut out, &["feature", "operation", "expected", "observed", "the kernel's record"]);
        for cell in cells {
            let seen = observed(cell);
            let class = match (cell.agrees, seen == "allowed") {
                (false, _) => "wrong",
                (true, true) => "yes",
                (true, false) => "no",
            };
            let columns = [
                cell.experiment.topic.name(),
                cell.experiment.title,
                &expected(cell),
                &seen,
                &cell.records.join("\n"),
            ];
            row(&mut out, class, &columns);
        }
        out.push_str("</table>\n");
    }
    if !proof.rules.is_empty() {
        out.push_str("<h2>Each documented permission left out in turn</h2>\n");
        head(&mut out, &["permission", "what fails without it", "the kernel's record"]);
        for (rule, witnessed) in &proof.rules {
            let rule = rule.to_string();
            match witnessed {
                Witnessed::Needed(experiment, record) => {
                    row(&mut out, "no", &[&rule, experiment.title, record])
                }
                Witnessed::Base => {
                    row(&mut out, "yes", &[&rule, "container_t has it already in this base", ""])
                }
                Witnessed::Unneeded => row(&mut out, "wrong", &[&rule, "nothing", ""]),
            }
        }
        out.push_str("</table>\n");
    }
    if !proof.difference.is_empty() {
        let _ = writeln!(out, "<h2>Given and loaded policy</h2>\n<pre>{}</pre>", escaped(&proof.difference));
    }
    out.push_str("</html>\n");
    out
}
