//! The commands that the documents tell users to run.

use std::fs;
use std::path::{Path, PathBuf};

/// A command, and the document that it stands in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Documented {
    /// Its path in the repository.
    pub(crate) document: String,
    pub(crate) command: String,
}

/// All of them, in the order of the documents.
pub(crate) fn commands() -> Vec<Documented> {
    let mut documents = vec![repository().join("README.md"), repository().join("otel-collector.yaml")];
    for directory in ["docs", "config", "examples"] {
        files(&repository().join(directory), &mut documents);
    }
    documents.sort();
    let mut commands = Vec::new();
    for path in documents {
        // Pictures are skipped.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let document = path.strip_prefix(repository()).unwrap().display().to_string();
        let found = match path.extension().and_then(|extension| extension.to_str()) {
            Some("md") => of_markdown(&text),
            Some("yaml" | "yml" | "service" | "cfg") => of_comments(&text),
            _ => Vec::new(),
        };
        commands.extend(found.into_iter().map(|command| Documented { document: document.clone(), command }));
    }
    commands
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The commands in shell blocks, in lines of crontabs, and the exporter's commands in inline code.
fn of_markdown(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut is_shell = false;
    let mut goes_on = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_shell = line == "```sh";
            continue;
        }
        if is_shell {
            let line = line.split("  #").next().unwrap().trim();
            let (part, continues) = match line.strip_suffix('\\') {
                Some(part) => (part.trim_end(), true),
                None => (line, false),
            };
            match commands.last_mut() {
                Some(command) if goes_on => *command = format!("{command} {part}"),
                _ => commands.push(part.to_owned()),
            }
            goes_on = continues;
        } else if let Some(command) = line.strip_prefix("    * * * * * root ") {
            commands.push(command.to_owned());
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            commands
                .extend(spans.filter(|span| span.starts_with("docker-state-exporter ")).map(str::to_owned));
        }
    }
    commands
}

/// The commands that are indented in the comments at a file's head.
fn of_comments(text: &str) -> Vec<String> {
    let head = text.lines().take_while(|line| line.starts_with('#'));
    head.filter_map(|line| line.strip_prefix("#     ")).map(str::to_owned).collect()
}

/// The repository's root.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
