//! The `gmsa-sidecar` command: arguments -> a command of the library -> an exit code.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use gmsa_sidecar::command::check::{Configured, OutputFormat, Screen, check};
use gmsa_sidecar::command::{explain, health, klist};
use gmsa_sidecar::config::{Command, Environment, Invocation};
use gmsa_sidecar::fault::{Code, Fault};
use gmsa_sidecar::lease::refresh::Refresh;
use gmsa_sidecar::{clock, log};
use mimalloc::MiMalloc;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing::Level;
use zeroizing_alloc::ZeroAlloc;

/// Freed memory is wiped: keys and passwords pass through buffers of crates that do not do it themselves.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    let invocation = match Invocation::new(std::env::args_os(), &Environment::of_process()) {
        Ok(invocation) => invocation,
        Err(usage) => {
            // If this fails, nobody is left to tell.
            let _ = usage.print();
            return if usage.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    log::start(invocation.log.clone());
    keep_memory_private();
    if matches!(invocation.command, Command::Run(_) | Command::Init(_) | Command::Host(_)) {
        for unknown in &invocation.unknown {
            let (variable, nearest) = (&unknown.variable, unknown.nearest);
            tracing::warn!(event = "config.unknown-variable", variable, nearest);
        }
        let unknown: Vec<_> = invocation.unknown.iter().map(|known| (known.variable.as_str(), known.nearest)).collect();
        log::repeat_unknown(&unknown);
        for target in invocation.log.filter.foreign() {
            tracing::warn!(event = "config.foreign-log-target", ignored = target, "{FOREIGN}");
        }
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    if matches!(invocation.command, Command::Host(_)) {
        // A hundred calls at once would start a thread for each file and each key, and each keeps memory.
        runtime.max_blocking_threads(BLOCKING);
    }
    let code = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(obey(invocation)).unwrap_or_else(exit),
        Err(error) => exit(system("the runtime cannot start", &error)),
    };
    log::finish();
    code
}

async fn obey(invocation: Invocation) -> Result<ExitCode, Fault> {
    match invocation.command {
        Command::Run(config) => {
            let (config, shutdown, refresh) = (config.map_err(told)?, shutdown()?, Refresh::default());
            tokio::spawn(refresh_on_hangup(refresh.clone())?);
            gmsa_sidecar::run(config, refresh, shutdown).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Init(config) => {
            let (config, shutdown) = (config.map_err(told)?, shutdown()?);
            tokio::select! {
                done = gmsa_sidecar::init(config) => done.map(|()| ExitCode::SUCCESS),
                () = shutdown => Ok(TERMINATED.into()),
            }
        }
        Command::Host(config) => {
            let (config, shutdown, refresh) = (config.map_err(told)?, shutdown()?, Refresh::default());
            tokio::spawn(refresh_on_hangup(refresh.clone())?);
            let (config, host) = *config;
            gmsa_sidecar::host_daemon(config, host, refresh, shutdown).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { config, fault, host, json } => {
            let style = match io::stdout().is_terminal() {
                _ if json => OutputFormat::Json,
                true => OutputFormat::Terminal { colour: invocation.log.colour },
                false => OutputFormat::Plain,
            };
            let given = Configured { config, fault, unknown: invocation.unknown, host: host.map(|host| *host) };
            let report = check(given, Screen::new(&mut io::stdout().lock(), style)).await;
            Ok(report.exit().into())
        }
        Command::Health { listen, wait } => {
            let answer = match listen {
                Ok(listen) => health::health(listen, wait).await,
                Err(fault) => Err(health::No::from(&fault)),
            };
            Ok(answer.map_or_else(no, |()| ExitCode::SUCCESS))
        }
        Command::Explain { code, json } => {
            let told = explain::explain(code.as_deref(), json, &mut io::stdout().lock());
            Ok(told.map_or_else(unknown_code, |()| ExitCode::SUCCESS))
        }
        Command::Klist { path, json } => {
            let shown = klist::klist(&path, json, clock::now(), &mut io::stdout().lock());
            Ok(if shown.unwrap_or(false) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// No core file, and nobody of our uid may read our memory: it holds keys and, for moments, passwords.
fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none);
    if let Err(error) = limited.and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable)) {
        tracing::warn!(event = "sidecar.dumpable", why = %error, "a core file could hold keys");
    }
}

/// Completes on SIGTERM or SIGINT.
fn shutdown() -> Result<impl Future<Output = ()>, Fault> {
    let listen = |kind| signal(kind).map_err(|error| system("signals cannot be received", &error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// SIGHUP asks for a refresh, as `POST /refresh` does.
fn refresh_on_hangup(refresh: Refresh) -> Result<impl Future<Output = ()>, Fault> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| system("signals cannot be received", &error))?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            match refresh.ask(Instant::now()) {
                Ok(()) => tracing::info!(event = "refresh.asked"),
                Err(wait) => tracing::warn!(event = "refresh.too-soon", wait = format!("{}s", wait.as_secs() + 1)),
            }
        }
    })
}

fn system(what: &str, error: &io::Error) -> Fault {
    told(Fault::new(Code::InternalBug, what).caused_by(error))
}

/// Logs a fault of the start; the library logs its own.
fn told(fault: Fault) -> Fault {
    log::fault(Level::ERROR, "sidecar.failed", &fault);
    fault
}

fn exit(fault: Fault) -> ExitCode {
    ExitCode::from(fault.code.exit() as u8)
}

fn unknown_code(unknown: explain::UnknownCode) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {unknown}");
    USAGE.into()
}

/// A no, in three lines.
fn no(no: health::No) -> ExitCode {
    let _ = writeln!(io::stderr(), "{no}");
    ExitCode::FAILURE
}

const FOREIGN: &str = "GMSA_LOG names another crate: only the sidecar's own records are ever logged";

/// Threads of `host` for files and for the derivation of keys.
const BLOCKING: usize = 8;

/// sysexits.h: EX_USAGE.
const USAGE: u8 = 64;

/// What a shell reports for a process that SIGTERM ended.
const TERMINATED: u8 = 128 + 15;
