//! A mount that is dead, as one of a file server that is gone: whatever is looked up there never comes back.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::namespace::Namespace;

const DEADLINE: Duration = Duration::from_secs(20);

/// The mount, in a namespace that goes with it.
pub(crate) struct HungMount(Namespace);

impl HungMount {
    pub(crate) fn new() -> Self {
        let mut namespace = Namespace::new("hostile-");
        let directory = namespace.directory().join("hung");
        // A file system in user space whose server never says a word.
        let mount = "mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung";
        let command = format!(
            "mkdir {0} && exec 3<>/dev/fuse && {mount} {0} && echo mounted || echo failed",
            directory.display()
        );
        assert_eq!(namespace.command(&command, DEADLINE).as_deref(), Ok("mounted"), "needs root and FUSE");
        Self(namespace)
    }

    /// Has every name that is looked up there asked of a server at this address, and of no other.
    pub(crate) fn ask_for_names(&mut self, server: IpAddr) {
        let file = self.path("resolv.conf");
        std::fs::write(&file, format!("nameserver {server}\noptions timeout:60 attempts:5\n")).unwrap();
        let command =
            format!("mount --bind {} /etc/resolv.conf && echo mounted || echo failed", file.display());
        assert_eq!(self.0.command(&command, DEADLINE).as_deref(), Ok("mounted"));
    }

    /// A path in a directory beside the mount.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.directory().join(name)
    }

    /// Starts a program there, with all that it writes in the file `log`.
    pub(crate) fn start(&mut self, program: &str) {
        let log = self.path("log");
        let command = format!("{program} 3>&- </dev/null >{} 2>&1 & echo started", log.display());
        assert_eq!(self.0.command(&command, DEADLINE).as_deref(), Ok("started"));
    }

    /// Sends it a signal.
    pub(crate) fn signal(&mut self, signal: &str) {
        assert_eq!(self.0.command(&format!("kill -{signal} $!; echo $?"), DEADLINE).as_deref(), Ok("0"));
    }

    /// Its exit code, within a time.
    pub(crate) fn wait(&mut self, deadline: Duration) -> Result<String, String> {
        self.0.command("wait $!; echo $?", deadline)
    }

    /// What it has written.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}
