//! `icecore doctor`: what works on this machine, what does not, and what to do about it.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use icecore::kernel::{self, Area, Finding, State};
use icecore::{Error, Kind, Result, track};
use serde_json::json;

use super::line;
use super::schema::SCHEMA;

/// Options of `doctor`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs `doctor`; fails when something is missing without which dumps or restores cannot be done.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let findings = findings();
    line(&if args.json {
        let report = json!({ "schema": SCHEMA, "findings": findings });
        serde_json::to_string_pretty(&report)
            .map_err(|e| Error::new(Kind::Failed, "Cannot write JSON").because(e))?
    } else {
        as_text(&findings)
    })?;
    let missing = findings.iter().find(|f| f.state == State::Missing);
    Ok(missing.map_or(ExitCode::SUCCESS, |finding| {
        let kind = match finding.area {
            Area::Rights => Kind::Permission,
            Area::Kernel | Area::Tracking => Kind::Unsupported,
        };
        ExitCode::from(kind.exit_code())
    }))
}

/// Everything there is to find.
fn findings() -> Vec<Finding> {
    let mut findings = kernel::doctor();
    findings.push(tracker());
    findings.push(keeper());
    findings.extend(connections());
    findings
}

/// The tracker that dumps will use.
fn tracker() -> Finding {
    let (best, why_not_better) = track::best();
    let found = if why_not_better.is_empty() {
        best.name().to_owned()
    } else {
        format!("{} ({why_not_better})", best.name())
    };
    let finding = Finding::ok(Area::Tracking, "finding written pages", found);
    if best.written().is_some() {
        return finding;
    }
    finding.but(
        State::Limited,
        "each incremental dump reads and compares all pages; there is no live counter",
        "Linux 6.7 or newer with CONFIG_USERFAULTFD=y, or a kernel with CONFIG_MEM_SOFT_DIRTY=y",
    )
}

/// What is tracked between commands.
fn keeper() -> Finding {
    let what = "processes tracked now";
    match track::list() {
        Ok(records) => Finding::ok(Area::Tracking, what, records.len().to_string()),
        Err(e) => Finding::ok(Area::Tracking, what, e.one_line()).but(
            State::Limited,
            "the next dump of a tracked process is compared or full",
            "set ICECORE_RUNTIME_DIR to a directory of your own",
        ),
    }
}

/// Connections of trees that were dumped and ended.
fn connections() -> Option<Finding> {
    let held = track::connections::list().ok()?;
    let text = format!(
        "{}, until their layer is restored; icecore keeper --let-go ends them",
        held.len()
    );
    (!held.is_empty()).then(|| Finding::ok(Area::Tracking, "TCP connections held", text))
}

fn as_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut area = None;
    for finding in findings {
        if area != Some(finding.area) {
            area = Some(finding.area);
            text.push_str(&format!("{}\n", title(finding.area)));
        }
        text.push_str(&format!("  {:<8} {}", finding.state.as_str(), finding.what));
        if !finding.found.is_empty() {
            text.push_str(&format!(": {}", finding.found));
        }
        text.push('\n');
        for (label, part) in [("so", &finding.consequence), ("try", &finding.fix)] {
            if let Some(part) = part {
                text.push_str(&format!("           {label}: {part}\n"));
            }
        }
    }
    text + verdict(findings)
}

fn title(area: Area) -> &'static str {
    match area {
        Area::Kernel => "Kernel",
        Area::Rights => "Rights",
        Area::Tracking => "Tracking",
    }
}

fn verdict(findings: &[Finding]) -> &'static str {
    match findings.iter().map(|f| f.state).max() {
        Some(State::Missing) => {
            "Not everything works here: see what is missing. Looking into layers works everywhere."
        }
        Some(State::Limited) => "Dumps and restores work here, within the limits above.",
        Some(State::Ok) | None => "Everything works here.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_consequence_and_what_to_try() {
        let findings = [
            Finding::ok(Area::Kernel, "freezing", ""),
            Finding::ok(Area::Rights, "Yama", "scope = 3").but(State::Missing, "no dumps", "boot"),
        ];
        let expected = "Kernel\n  ok       freezing\nRights\n  missing  Yama: scope = 3\n           \
                        so: no dumps\n           try: boot\nNot everything works here";
        assert!(
            as_text(&findings).starts_with(expected),
            "{}",
            as_text(&findings)
        );
    }
}
