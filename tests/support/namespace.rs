//! A shell in process and mount namespaces of its own, for what must not outlive the test.
//!
//! The namespace's first process is a shell that reads its commands from us: when the test process ends, in
//! whatever way, the shell comes to the end of its input, and with it the kernel ends every other process there,
//! and drops every mount.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The root of the machine's own file system.
pub(crate) const MACHINE: &str = "/";

/// The shell, and a directory for the programs in its namespace. Dropping it ends all these programs and deletes the
/// directory.
pub(crate) struct Namespace {
    directory: PathBuf,
    /// `unshare`, whose child is the shell.
    shell: Child,
    /// The shell's process id.
    process: String,
    /// `None` once the shell is to end.
    commands: Option<ChildStdin>,
    replies: Receiver<String>,
}

impl Namespace {
    /// Starts the shell. The directory's name begins with `prefix`.
    pub(crate) fn new(prefix: &str) -> Self {
        Self::in_root(prefix, MACHINE)
    }

    /// Starts the shell in this root directory, which `scripts/engine-root` prints.
    pub(crate) fn in_root(prefix: &str, root: &str) -> Self {
        Self::start(prefix, root, &[])
    }

    /// Starts the shell in a network namespace of its own as well, which has only a loopback interface. The calling
    /// thread joins that namespace, with all that it starts from now on.
    pub(crate) fn with_network(prefix: &str, root: &str) -> Self {
        let namespace = Self::start(prefix, root, &["--net"]);
        let network = fs::File::open(format!("/proc/{}/ns/net", namespace.process)).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let busybox = program("busybox", "busybox-static");
        let up = Command::new(busybox).args(["ip", "link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success(), "no loopback: {up}");
        namespace
    }

    fn start(prefix: &str, root: &str, options: &[&str]) -> Self {
        let unshare = program("unshare", "util-linux");
        // Not under TMPDIR, which may be too long a path for a socket.
        let directory = tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp").unwrap().keep();
        let mut shell = Command::new(unshare)
            .args(options)
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(script("enter-root"))
            .arg(root)
            .arg(&directory)
            .arg("sh")
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start unshare; is this root? {error}"));
        let output = BufReader::new(shell.stdout.take().unwrap());
        let (sender, replies) = mpsc::channel();
        // This thread ends with the shell. It reads the replies, so that waiting for one can have a deadline.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let commands = shell.stdin.take();
        let mut namespace = Self { directory, shell, process: String::new(), commands, replies };
        let begun = namespace.command("echo begun", Duration::from_secs(60));
        assert_eq!(begun.as_deref(), Ok("begun"), "no shell in the root {root}");
        let unshare = namespace.shell.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
        namespace.process = children.trim().to_owned();
        namespace
    }

    /// A command for a program in the shell's root directory.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(program("nsenter", "util-linux"));
        command.args(["--target", &self.process, "--mount", "--root", "--wd", "--", name]);
        command.env("PATH", search_path());
        command
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has the shell run a command that prints one line.
    pub(crate) fn command(&mut self, command: &str, deadline: Duration) -> Result<String, String> {
        let commands = self.commands.as_mut().ok_or("the shell has ended")?;
        writeln!(commands, "{command}").map_err(|error| error.to_string())?;
        self.replies.recv_timeout(deadline).map_err(|error| error.to_string())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.commands.take());
        // Closing its input ends the shell, and with it all that still runs. Killing `unshare` ends a shell that
        // still waits for something.
        for _ in 0..100 {
            if !matches!(self.shell.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("{} is left: {error}", self.directory.display());
        }
    }
}

/// The path of a script of this repository.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// The root directory of the engine under test: the value of this variable, else the machine's own root, which has to
/// have these programs. Each comes with the name of its Debian package.
pub(crate) fn engine_root(variable: &str, programs: &[(&str, &str)]) -> String {
    if let Ok(root) = std::env::var(variable) {
        return root;
    }
    for (name, package) in programs {
        program(name, package);
    }
    MACHINE.into()
}

/// The search path for programs. Debian has some in `sbin`, which is not in every user's path.
pub(crate) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// The path of a program. If it is missing, the test fails with the name of its Debian package.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    let path = search_path();
    let mut found =
        path.split(':').map(|directory| Path::new(directory).join(name)).filter(|path| path.is_file());
    found.next().unwrap_or_else(|| panic!("{name} is not installed; on Debian: apt-get install {package}"))
}

/// Makes a file system for an image, packed as `image.tar` in this directory: busybox, and a link for each of its
/// applets.
pub(crate) fn busybox_tar(directory: &Path) -> PathBuf {
    let busybox = program("busybox", "busybox-static");
    let root = directory.join("image");
    for directory in ["bin", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(&busybox, root.join("bin/busybox")).unwrap();
    let list = Command::new(&busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let tar = directory.join("image.tar");
    let packed = Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&root).arg(".").status().unwrap();
    assert!(packed.success(), "tar: {packed}");
    fs::remove_dir_all(root).unwrap();
    tar
}
