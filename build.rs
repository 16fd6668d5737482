//! Tells the program its own revision and compiler, for `--version` and the build_info metric.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DSE_REVISION");
    let revision = std::env::var("DSE_REVISION").ok().filter(|r| !r.is_empty()).or_else(git_revision);
    println!("cargo:rustc-env=DSE_REVISION={}", revision.as_deref().unwrap_or("unknown"));
    println!("cargo:rustc-env=DSE_RUSTC={}", rustc_version().as_deref().unwrap_or("unknown"));
}

/// The commit that is checked out. A build outside of a checkout gives it as `DSE_REVISION`.
fn git_revision() -> Option<String> {
    // Sources that were unpacked inside somebody else's repository must not take that one's revision.
    let top = output("git", &["rev-parse", "--show-toplevel"])?;
    let manifest = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&manifest).canonicalize().ok()? {
        return None;
    }
    // The log of HEAD grows with every commit and checkout, and with nothing else. A file that does not exist
    // would run this script, and compile the crate, at every build.
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    output("git", &["rev-parse", "--short=12", "HEAD"])
}

fn rustc_version() -> Option<String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    output(&rustc, &["--version"])?.split_whitespace().nth(1).map(String::from)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
