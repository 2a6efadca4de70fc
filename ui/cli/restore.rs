//! `icecore restore`: CRIU's restore, after a preflight.

pub(crate) mod apart;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use icecore::files::Allow;
use icecore::restore::{self, Options, Outcome, Plan};
use icecore::{Cancel, Error, PAGE_SIZE, Pid, Result};
use nix::sys::wait::{WaitStatus, waitpid};
use serde_json::json;

use super::allow::Tcp;
use super::foreground::Lender;
use super::schema::SCHEMA;
use super::{Log, line, ourselves};
use crate::error;
use crate::format;

/// Options of `restore`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The layer
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".", value_parser = crate::home::place)]
    images_dir: PathBuf,
    /// Do not wait for the tree: init becomes its parent
    #[arg(short = 'd', long)]
    restore_detached: bool,
    /// Write the root's pid to this file
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// This terminal stands for the one that the tree was started from
    #[arg(short = 'j', long)]
    shell_job: bool,
    #[command(flatten)]
    tcp: Tcp,
    /// Accepted for CRIU's sake: the layer tells which sockets are connected by name
    #[arg(long, hide = true)]
    ext_unix_sk: bool,
    /// Accepted for CRIU's sake: locks of the layer are always taken again
    #[arg(short = 'l', long, hide = true)]
    file_locks: bool,
    /// Do not track memory (a restored tree is tracked, so that the next layer can be a branch)
    #[arg(long)]
    no_track_mem: bool,
    /// `none`: restore on a CPU that lacks instruction sets which the layer's had
    #[arg(long, value_name = "CAP", default_value = "ins")]
    cpu_cap: CpuCap,
    /// Put the copies of files that the layer has (dump --snapshot-files) back
    #[arg(long)]
    with_files: bool,
    /// Do not ask, although files are replaced
    #[arg(short, long, requires = "with_files")]
    yes: bool,
    /// The tree gets its ids in a pid namespace of its own, whoever has them outside
    #[arg(long, conflicts_with = "shell_job")]
    new_pid_namespace: bool,
    /// Show what would be done, and what is in the way, without doing it
    #[arg(long)]
    dry_run: bool,
    /// Print figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) log: Log,
}

/// What of the CPU must be as it was; CRIU's words, as far as they make a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CpuCap {
    /// Every instruction set
    Ins,
    /// Only what the registers need
    None,
}

/// Runs `restore`; without `-d` it waits for the root and ends as that does.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = Options {
        images_dir: args.images_dir.clone(),
        detach: args.restore_detached,
        pidfile: args.pidfile.clone(),
        track: !args.no_track_mem,
        allow: Allow {
            shell_job: args.shell_job,
            with_files: args.with_files,
            ..Allow::from(&args.tcp)
        },
        any_cpu: args.cpu_cap == CpuCap::None,
        apart: args.new_pid_namespace,
        keeper: ourselves()?,
    };
    let plan = restore::plan(&options)?;
    if args.new_pid_namespace {
        if !args.dry_run {
            agree(args, &plan)?;
        }
        return apart::run(args, &plan);
    }
    if args.dry_run {
        plan.check()?;
        if args.json {
            line(&plan_as_json(&plan))?;
        } else {
            show(&plan)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !plan.put_back.is_empty() {
        plan.check()?;
    }
    agree(args, &plan)?;
    let lender = (args.shell_job && !args.restore_detached)
        .then(Lender::new)
        .flatten();
    let mut outcome = restore::run(&plan, &(), &Cancel::default())?;
    outcome.warnings.splice(0..0, plan.warnings.iter().cloned());
    line(&if args.json {
        as_json(&outcome)
    } else {
        as_text(&outcome)
    })?;
    if let Some(lender) = lender {
        lender.wait(outcome.root, outcome.foreground)
    } else if args.restore_detached {
        Ok(ExitCode::SUCCESS)
    } else {
        wait(outcome.root)
    }
}

/// Tells what would be done.
fn show(plan: &Plan) -> Result<()> {
    line(&format!(
        "would restore process {} with {}, {} of memory from {}",
        plan.root,
        format::count(plan.threads as u64, "thread"),
        format::bytes(plan.pages * PAGE_SIZE),
        format::count(plan.layers as u64, "layer")
    ))?;
    files(plan)?;
    for warning in error::gathered(&plan.warnings) {
        line(&format!("warning: {warning}"))?;
    }
    Ok(())
}

/// The same as an object.
fn plan_as_json(plan: &Plan) -> String {
    let put_back = plan.put_back.iter();
    let put_back =
        put_back.map(|file| json!({ "path": file.path, "bytes": file.bytes, "now": file.now }));
    json!({
        "schema": SCHEMA,
        "dry_run": true,
        "root": plan.root.as_raw(),
        "tasks": plan.tasks,
        "threads": plan.threads,
        "pages": plan.pages,
        "layers": plan.layers,
        "put_back": put_back.collect::<Vec<_>>(),
        "warnings": plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
    .to_string()
}

/// Asks whether files may be replaced.
fn agree(args: &Args, plan: &Plan) -> Result<()> {
    if args.yes || plan.put_back.is_empty() {
        return Ok(());
    }
    files(plan)?;
    let count = format::count(plan.put_back.len() as u64, "file");
    super::change::ask(
        &mut std::io::stdout(),
        &format!("{count} would be replaced"),
        &format!("Replace {count} by what the layer has?"),
    )
}

/// Which files are put back.
fn files(plan: &Plan) -> Result<()> {
    for file in &plan.put_back {
        let now = file.now.map_or("is not there now".into(), |now| {
            format!("has {} now", format::bytes(now))
        });
        line(&format!(
            "  {} is put back: {}, {now}",
            format::plain(&file.path.to_string_lossy()),
            format::bytes(file.bytes)
        ))?;
    }
    Ok(())
}

/// Waits for the restored root and passes its end on, as a shell would.
fn wait(root: Pid) -> Result<ExitCode> {
    loop {
        match waitpid(root, None).map(code_of) {
            Ok(Some(code)) => return Ok(code),
            Ok(None) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Error::os(format!("Cannot wait for process {root}"), e)),
        }
    }
}

/// The end of a process as a shell tells it; `None` when it has not ended.
fn code_of(status: WaitStatus) -> Option<ExitCode> {
    let code = match status {
        WaitStatus::Exited(_, code) => code & 0xff,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => return None,
    };
    Some(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// One line about a restored tree.
pub(crate) fn as_text(o: &Outcome) -> String {
    let mut text = format!(
        "process {} runs again: {}, {}, {} filled in {}",
        o.root,
        format::count(o.tasks as u64, "task"),
        format::count(o.threads as u64, "thread"),
        format::count(o.pages, "page"),
        format::duration(o.elapsed),
    );
    for warning in error::gathered(&o.warnings) {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

fn as_json(o: &Outcome) -> String {
    json!({
        "schema": SCHEMA,
        "root": o.root.as_raw(),
        "tasks": o.tasks,
        "threads": o.threads,
        "pages": o.pages,
        "total_us": u64::try_from(o.elapsed.as_micros()).unwrap_or(u64::MAX),
        "warnings": o.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
    .to_string()
}
