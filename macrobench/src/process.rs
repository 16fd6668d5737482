//! A process that is measured: it is started, its use of resources is read, and it ends with this program.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Error;

/// A program that runs for as long as this is kept.
pub(crate) struct Process(Child);

/// What a process holds in memory, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// The most that it has held at once.
    pub(crate) peak: u64,
    /// Anonymous memory, its own data, as of now.
    pub(crate) anonymous: u64,
    /// Mapped files, mostly the program's text, as of now.
    pub(crate) mapped: u64,
}

impl Process {
    /// Starts a program. Its output goes to `log`.
    pub(crate) fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self, Error> {
        let output = File::create(log)?;
        // Started by setpriv, which has the kernel kill the process when this program ends, and then becomes the
        // program.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        Ok(Self(child))
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// The CPU time of all its live threads, to the nanosecond. The time of a thread that has ended is lost, so this
    /// is for differences over less than the ten seconds that an idle thread is kept.
    pub(crate) fn cpu(&self) -> Result<Duration, Error> {
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            // The thread may end meanwhile.
            let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            sum += text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(sum))
    }

    /// The CPU time since its start, including threads that have ended, in the kernel's ticks of 10 ms.
    pub(crate) fn whole_cpu(&self) -> Result<Duration, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // The fields after the name, which may itself hold spaces: utime and stime are the 12th and 13th.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// How many entries one of its directories in /proc has: `fd` for descriptors, `task` for threads.
    pub(crate) fn entries(&self, directory: &str) -> Result<usize, Error> {
        Ok(std::fs::read_dir(format!("/proc/{}/{directory}", self.0.id()))?.count())
    }

    /// Its use of memory.
    pub(crate) fn memory(&self) -> Result<Memory, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0) * 1024
        };
        Ok(Memory {
            peak: field("VmHWM:"),
            anonymous: field("RssAnon:"),
            mapped: field("RssFile:") + field("RssShmem:"),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
