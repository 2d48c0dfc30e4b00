//! What virtctl sends, through the cluster's API server to a guest that runs: pauses, its console and its screen, and what is
//! not there, in the words that one machine's Ferrovirt has for it.

use super::{condition, instance};
use crate::common::Test;
use anyhow::{Context, Result, ensure};
use ferrovirt_clients::{Recorded, until};

pub(super) fn serve(test: &Test) -> Result<()> {
    let (virtctl, server) = (Recorded::virtctl()?, test.server()?);
    let run = |command: &str, code: u16| -> Result<String> {
        let answer = virtctl.run(&server, command)?.expect(code);
        Ok(answer.with_context(|| format!("{command}\n{}", test.log()))?.message().to_owned())
    };
    let paused = |wanted: bool| {
        instance(test, "guest", &format!("paused: {wanted}"), |vmi| {
            let paused = condition(vmi, "Paused").is_some_and(|condition| condition["status"] == "True");
            (paused == wanted).then_some(())
        })
    };
    run("pause vmi guest --dry-run", 200)?;
    run("pause vm guest", 200)?;
    paused(true)?;
    let said = run("pause vm guest", 409)?;
    ensure!(said.contains("VMI is already paused"), "{said}");
    run("unpause vmi guest", 200)?;
    paused(false)?;
    let stream = |command: &str| {
        let request = virtctl.of(command)?.requests.first().context("no request")?;
        server.stream(request).with_context(|| test.log())
    };
    until(stream("vnc guest --proxy-only")?, "", b"RFB 003.008\n")?;
    // Somebody has logged in on it before.
    until(stream("console guest")?, "echo a$((40 + 4))b\r", b"a44b")?;
    virtctl.missing(&server, false).with_context(|| test.log())
}
