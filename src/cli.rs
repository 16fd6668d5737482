//! The command line: from arguments, configuration file and environment to what the program has to do.
//!
//! Flags are of two kinds. Those with two dashes are this program's, named as those of other exporters.
//! `-listen-address`, `-add-container-labels` and `-cache-period` are those of docker_state_exporter, and are
//! taken as Go's flag package takes them, so that a unit file or a Compose file need not change.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser};
use clap_complete::Shell;
use url::Url;

use crate::config::values::{choice, listen_address, log_level, telemetry_path};
use crate::config::{self, Config, Environment, Error, Filter, Invalid, Loaded, Problem, Pull};
use crate::files;
use crate::version;

/// What the program has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Run until a signal comes.
    Run(Box<Settings>),
    /// Say whether the configuration is valid, and what is in effect.
    Check {
        /// What the configuration is called: its file's name.
        name: String,
        /// What the program would run by.
        settings: Box<Settings>,
    },
    /// Print one exposition.
    Once {
        /// What the exposition is made by.
        settings: Box<Settings>,
        /// How long the daemon may take to tell of its containers.
        timeout: Duration,
        /// The file to write; standard output without one.
        output: Option<PathBuf>,
    },
    /// Print what a shell completes the command line by.
    Completions(Shell),
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Ask a running exporter whether it is well.
    Healthcheck {
        /// What to ask: `/-/ready` at the address that the same configuration listens on.
        url: Url,
    },
}

/// What the program runs by.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The configuration, flags included.
    pub config: Config,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Things to log as soon as something can be logged.
    pub warnings: Vec<String>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` pairs.
    #[default]
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Something to print instead of running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The text, without a line break at its end.
    pub text: String,
    /// The exit code: 0 for help and version, which go to standard output, else 2, and to standard error.
    pub code: u8,
}

impl Exit {
    /// Prints the text where it belongs. The code is what `main` returns.
    pub fn print(&self) -> ExitCode {
        use std::io::Write;
        // A reader that has gone away (`--help | head -1`) is no reason to fail.
        let _ = if self.code == 0 {
            writeln!(std::io::stdout(), "{}", self.text)
        } else {
            writeln!(std::io::stderr(), "{}", self.text)
        };
        ExitCode::from(self.code)
    }

    fn of(problems: Vec<Problem>) -> Self {
        Self::from(Error::new(problems))
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        Self { text: error.to_string(), code: 2 }
    }
}

/// What the process's own arguments and environment ask for.
pub fn from_process() -> Result<Command, Exit> {
    let env = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    parse(std::env::args_os(), &env)
}

/// What `arguments`, the program's name first, ask for. Reads the configuration file that they or `env` name.
pub fn parse<I>(arguments: I, env: &Environment<'_>) -> Result<Command, Exit>
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let arguments = double_dashes(arguments.into_iter().map(Into::into))?;
    let arguments = Arguments::try_parse_from(arguments).map_err(|error| {
        let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        Exit { text: error.render().to_string().trim_end().to_owned(), code: if shown { 0 } else { 2 } }
    })?;
    match arguments.command {
        // No matter of the configuration.
        Some(Subcommand::Completions { shell }) => return Ok(Command::Completions(shell)),
        Some(Subcommand::Schema) => return Ok(Command::Schema),
        _ => {}
    }
    let (loaded, flags) = (load(&arguments, env), arguments.flags());
    // Both, so that whoever has a wrong file and a wrong flag is told at once.
    let ((name, Loaded { mut config, warnings }), flags) = match (loaded, flags) {
        (Ok(loaded), Ok(flags)) => (loaded, flags),
        (Err(error), Ok(_)) => return Err(error),
        (Ok(_), Err(flags)) => return Err(Exit::of(flags)),
        (Err(error), Err(flags)) => {
            let flags = Error::new(flags);
            return Err(Exit { text: format!("{flags}\n{}", error.text), ..error });
        }
    };
    let log_format = flags.log_format.unwrap_or_default();
    let flag_level = flags.log_level;
    let disabled = config.readers.pull.is_none() && config.readers.periodic.is_empty();
    flags.apply(&mut config, disabled);
    let mut settings = Box::new(Settings { config, log_format, warnings });
    match arguments.command {
        None => Ok(Command::Run(settings)),
        Some(Subcommand::Check { .. }) => Ok(Command::Check { name, settings }),
        Some(Subcommand::Once { timeout, output }) => {
            // cron sends a mail for every line.
            settings.config.log_level = flag_level.unwrap_or(config::LogLevel::Error);
            Ok(Command::Once { settings, timeout: Duration::from_secs(timeout), output })
        }
        Some(Subcommand::Healthcheck) => health_url(&settings.config).map(|url| Command::Healthcheck { url }),
        Some(Subcommand::Completions { shell }) => Ok(Command::Completions(shell)),
        Some(Subcommand::Schema) => Ok(Command::Schema),
    }
}

/// What `shell` completes the command line by.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), env!("CARGO_PKG_NAME"), &mut script);
    script
}

/// The state and events of every container of a Docker daemon, for Prometheus and OpenTelemetry.
#[derive(Debug, Parser)]
#[command(name = env!("CARGO_PKG_NAME"), version = version::LONG, args_override_self = true)]
#[command(
    after_help = "A flag goes before what the file says. Each can be written with one dash, as docker_state_exporter\n\
                  has them. The file's keys and the environment variables are in docs/configuration.md."
)]
struct Arguments {
    /// The configuration file; without one, OTEL_CONFIG_FILE names it
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    /// The address to listen on: :8080, 127.0.0.1:8080, [::1]:8080; once for each, where there are several
    #[arg(
        long = "web.listen-address",
        visible_alias = "listen-address",
        value_name = "ADDRESS",
        action = ArgAction::Append,
        global = true
    )]
    listen_addresses: Vec<String>,

    /// Listen on the sockets that systemd has opened, and on no address
    #[arg(long = "web.systemd-socket", global = true)]
    systemd_socket: bool,

    /// The file with TLS, users and a rate limit, in the Prometheus exporter toolkit's format
    #[arg(long = "web.config.file", value_name = "FILE", global = true)]
    web_config_file: Option<OsString>,

    /// The path of the metrics [default: /metrics]
    #[arg(long = "web.telemetry-path", value_name = "PATH", global = true)]
    telemetry_path: Option<String>,

    /// The least severe level that is logged: trace, debug, info, warn, error [default: info]
    #[arg(long = "log.level", value_name = "LEVEL", global = true)]
    log_level: Option<String>,

    /// How log lines are written: logfmt, json [default: logfmt]
    #[arg(long = "log.format", value_name = "FORMAT", global = true)]
    log_format: Option<String>,

    /// Whether container labels become metric labels [default: true]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        global = true
    )]
    add_container_labels: Option<String>,

    /// For how many seconds an answer to a scrape is used again [default: 0]
    #[arg(long, value_name = "SECONDS", global = true)]
    cache_period: Option<String>,

    #[command(subcommand)]
    command: Option<Subcommand>,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Say whether a configuration is valid, and print what is in effect, with secrets hidden
    #[command(
        after_help = "Exit code 0 where the exporter would start, 2 where the file, a variable or a flag is \
                            wrong,\n1 where something that they name cannot be used, such as a certificate."
    )]
    Check {
        /// The file; without it, the one that --config or OTEL_CONFIG_FILE names, else the variables
        file: Option<PathBuf>,
    },
    /// Print one exposition and exit, for cron and node_exporter's textfile collector
    #[command(
        after_help = "Where the daemon does not tell of its containers in time, docker_up is 0 and the exit \
                            code 1.\nEvent counts and the process' own metrics are left out."
    )]
    Once {
        /// How many seconds the daemon may take
        #[arg(
            long,
            value_name = "SECONDS",
            default_value_t = 10,
            value_parser = clap::value_parser!(u64).range(1..=3600)
        )]
        timeout: u64,
        /// The file to write, replaced at once, also where a link leads to it; without it, standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Ask a running exporter whether it is well, by the address of the same configuration
    Healthcheck,
    /// Print a shell's completions
    #[command(after_help = "For example:\n  docker-state-exporter completions bash \
                            >/etc/bash_completion.d/docker-state-exporter")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
}

/// The flags' values.
struct Flags {
    listen_addresses: Vec<(String, u16)>,
    systemd_socket: bool,
    web_config_file: Option<PathBuf>,
    telemetry_path: Option<String>,
    log_level: Option<config::LogLevel>,
    log_format: Option<LogFormat>,
    add_container_labels: Option<bool>,
    cache_period: Option<Duration>,
}

impl Arguments {
    fn flags(&self) -> Result<Flags, Vec<Problem>> {
        fn flag<T>(
            problems: &mut Vec<Problem>,
            name: &str,
            value: Option<&String>,
            parse: impl FnOnce(&str) -> Result<T, Invalid>,
        ) -> Option<T> {
            parse(value?).map_err(|invalid| problems.push(Problem::of(name, invalid))).ok()
        }
        let p = &mut Vec::new();
        let flags = Flags {
            listen_addresses: self
                .listen_addresses
                .iter()
                .filter_map(|address| flag(p, "--web.listen-address", Some(address), listen_address))
                .collect(),
            systemd_socket: self.systemd_socket,
            web_config_file: self.web_config_file.as_ref().map(PathBuf::from),
            telemetry_path: flag(p, "--web.telemetry-path", self.telemetry_path.as_ref(), telemetry_path),
            log_level: flag(p, "--log.level", self.log_level.as_ref(), |text| {
                log_level(&text.to_ascii_lowercase())
            }),
            log_format: flag(p, "--log.format", self.log_format.as_ref(), |text| {
                choice(text, "a log format", &[("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)])
            }),
            add_container_labels: flag(
                p,
                "--add-container-labels",
                self.add_container_labels.as_ref(),
                |text| {
                    go_bool(text).ok_or_else(|| {
                        Invalid::value("not a boolean", text).hint("true or false, after an = sign")
                    })
                },
            ),
            cache_period: flag(p, "--cache-period", self.cache_period.as_ref(), seconds),
        };
        let problems = std::mem::take(p);
        if problems.is_empty() { Ok(flags) } else { Err(problems) }
    }
}

impl Flags {
    fn apply(self, config: &mut Config, disabled: bool) {
        // An address is no switch: what `disabled` in the file has turned off stays off.
        let mut addresses = self.listen_addresses;
        if let Some((host, port)) = addresses.pop().filter(|_| !disabled) {
            let pull = config.readers.pull.take().unwrap_or_default();
            let main = (host, port);
            addresses.retain(|address| *address != main);
            addresses.sort();
            addresses.dedup();
            config.web.listen_addresses = addresses;
            config.readers.pull = Some(Pull { host: main.0, port: main.1, ..pull });
        }
        if self.systemd_socket && !disabled {
            config.readers.pull.get_or_insert_default();
            config.web.systemd_socket = true;
        }
        if let Some(path) = self.web_config_file {
            // As other exporters take it, an empty one is none.
            config.web.config_file = Some(path).filter(|path| !path.as_os_str().is_empty());
        }
        if let Some(path) = self.telemetry_path {
            config.web.telemetry_path = path;
        }
        if let Some(level) = self.log_level {
            config.log_level = level;
        }
        match self.add_container_labels {
            Some(false) => config.containers.labels = Filter::none(),
            // The labels that the file leaves out are left out still.
            Some(true) if config.containers.labels.is_none() => config.containers.labels = Filter::all(),
            _ => {}
        }
        if let Some(period) = self.cache_period {
            config.web.cache_period = period;
        }
    }
}

/// The configuration, and what it is called.
fn load(arguments: &Arguments, env: &Environment<'_>) -> Result<(String, Loaded), Exit> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty());
    let file = match &arguments.command {
        Some(Subcommand::Check { file }) => file.as_ref(),
        _ => None,
    };
    if let (Some(file), Some(other)) = (file, &arguments.config) {
        let named = format!("{} and {}", file.display(), other.display());
        let invalid = Invalid::value("two files are named", &named).hint("check one at a time");
        return Err(Exit::of(vec![Problem::of("check", invalid)]));
    }
    let (path, hint) = match (file.or(arguments.config.as_ref()), variable("OTEL_CONFIG_FILE")) {
        (Some(path), _) if file.is_some() => (path.clone(), "the file is the one that check is given"),
        (Some(path), _) => (path.clone(), "the file is the one that --config names"),
        (None, Some(path)) => (PathBuf::from(path), "the file is the one that OTEL_CONFIG_FILE names"),
        (None, None) => {
            let mut loaded = config::from_environment(env)?;
            if let Some(path) = variable("OTEL_EXPERIMENTAL_CONFIG_FILE") {
                loaded.warnings.push(format!(
                    "OTEL_EXPERIMENTAL_CONFIG_FILE: {path} is not read; the variable is now OTEL_CONFIG_FILE"
                ));
            }
            return Ok(("the environment".into(), loaded));
        }
    };
    let name = path.display().to_string();
    let text = read(&path).map_err(|message| {
        Exit::of(vec![Problem {
            file: Some(name.clone()),
            place: None,
            subject: String::new(),
            invalid: Invalid::new(message).hint(hint),
        }])
    })?;
    let loaded = config::from_yaml(&name, &text, env)?;
    Ok((name, loaded))
}

fn read(path: &Path) -> Result<String, String> {
    files::read_text(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => error.to_string(),
        _ => format!("cannot be read: {error}"),
    })
}

/// Where the server that `config` describes says whether it follows its daemon.
fn health_url(config: &Config) -> Result<Url, Exit> {
    let exit = |message: &str, hint: &str| {
        Exit::of(vec![Problem::of("healthcheck", Invalid::new(message).hint(hint))])
    };
    let Some(pull) = &config.readers.pull else {
        return Err(exit("there is no server to ask", "the configuration has no pull reader"));
    };
    if pull.port == 0 {
        return Err(exit("the port is not known", "port 0 lets the system choose; give another one"));
    }
    let host = match pull.host.as_str() {
        // Every address: this machine's own is one of them.
        "" | "0.0.0.0" => "127.0.0.1".into(),
        "::" => "[::1]".into(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.into(),
    };
    // Whether the file asks for TLS shows when it is spoken: the server may have read another state of it.
    let scheme = if config.web.config_file.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{host}:{}/-/ready", pull.port);
    Url::parse(&url).map_err(|error| exit(&format!("not a URL: {url}"), &error.to_string()))
}

/// Arguments as Go's flag package takes them, in clap's form: `-name` is `--name`, and a value that stands in
/// the next argument is joined to its flag, whatever it looks like. So `-cache-period -1` is a wrong number
/// here too, and not a number followed by a flag.
fn double_dashes(arguments: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, Exit> {
    let command = Arguments::command();
    let long = |takes_next: bool| -> Vec<String> {
        command
            .get_arguments()
            .filter(|a| a.get_action().takes_values() && a.is_require_equals_set() != takes_next)
            .flat_map(|a| a.get_long_and_visible_aliases().unwrap_or_default())
            .map(String::from)
            .collect()
    };
    let (valued, booleans) = (long(true), long(false));

    let mut arguments = arguments.peekable();
    let mut output: Vec<OsString> = arguments.next().into_iter().collect();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            output.push(argument);
            break;
        }
        let Some(flag) = argument.to_str().and_then(long_flag) else {
            output.push(argument);
            continue;
        };
        let mut joined = OsString::from(format!("--{flag}"));
        if valued.iter().any(|name| name == flag)
            && let Some(value) = arguments.next()
        {
            joined.push("=");
            joined.push(value);
        } else if booleans.iter().any(|name| name == flag)
            && let Some(value) =
                arguments.peek().and_then(|next| next.to_str()).filter(|v| go_bool(v).is_some())
        {
            // Go would take the flag for true, and stop at the value without a word.
            let invalid = Invalid::value("a value in an argument of its own", value)
                .hint(format!("write --{flag}={value}"));
            return Err(Exit::of(vec![Problem::of(&format!("--{flag}"), invalid)]));
        }
        output.push(joined);
    }
    output.extend(arguments);
    Ok(output)
}

/// The flag without its dashes, unless it is a short one or none.
fn long_flag(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    let short = !argument.starts_with("--") && flag.chars().count() == 1;
    (!short && !flag.is_empty() && !flag.starts_with('-')).then_some(flag)
}

/// A boolean as Go's `strconv.ParseBool` takes it.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn seconds(text: &str) -> Result<Duration, Invalid> {
    let Some(seconds) = go_int(text) else {
        return Err(Invalid::value("not a whole number of seconds", text).hint("for example 2"));
    };
    // No longer than the file can say.
    const MOST: i64 = i32::MAX as i64 / 1000;
    (0..=MOST)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds.unsigned_abs()))
        .ok_or_else(|| Invalid::value("out of range", text).hint("from 0, which keeps nothing, to 2147483"))
}

/// An integer as Go's `strconv.ParseInt` takes it with base 0: with a prefix for its base (`0x`, `0b`, `0o`, or
/// a bare 0 for octal), and `_` between digits.
fn go_int(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = unsigned.to_ascii_lowercase();
    let (radix, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if let Some(digits) = lower.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        (8, digits)
    } else {
        (10, lower.as_str())
    };
    // An underscore stands between digits, or between the prefix and the first one.
    let groups = if radix == 10 { digits } else { digits.strip_prefix('_').unwrap_or(digits) };
    if groups.split('_').any(|group| group.is_empty() || !group.chars().all(|c| c.is_digit(radix))) {
        return None;
    }
    let digits = groups.replace('_', "");
    i64::from_str_radix(&if negative { format!("-{digits}") } else { digits }, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_gos() {
        for (text, value) in [
            ("2", Some(2)),
            ("+2", Some(2)),
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("0x10", Some(16)),
            ("0X1f", Some(31)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("010", Some(8)),
            ("00", Some(0)),
            ("1_000", Some(1000)),
            ("0x_1", Some(1)),
            ("0_7", Some(7)),
            ("08", None),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("", None),
            ("-", None),
            ("0x", None),
            ("2s", None),
            ("1.5", None),
            (" 2", None),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
        ] {
            assert_eq!(go_int(text), value, "{text}");
        }
    }

    #[test]
    fn one_dash_is_two() {
        let arguments =
            ["x", "-config", "-a.yaml", "-h", "-add-container-labels", "-x=1", "--", "-config", "-"];
        let rewritten = double_dashes(arguments.iter().map(OsString::from)).unwrap();
        let expected =
            ["x", "--config=-a.yaml", "-h", "--add-container-labels", "--x=1", "--", "-config", "-"];
        assert_eq!(rewritten, expected.map(OsString::from));
    }
}
