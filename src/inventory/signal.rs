//! Signals by name or number, as `Config.StopSignal` and the engine's `kill` events give them.

/// A signal of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

/// Linux' names, from 1 on. No container engine runs on architectures with other numbers.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first and the last real-time signal, as the engines count them: the C library keeps 32 and 33 for itself.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl Signal {
    /// Ctrl-C.
    pub const INT: Self = Self(2);
    /// Ctrl-\.
    pub const QUIT: Self = Self(3);
    /// No process can handle or ignore it.
    pub const KILL: Self = Self(9);
    /// What `docker stop` sends where the image names no other.
    pub const TERM: Self = Self(15);

    /// Reads `15`, `TERM`, `SIGTERM`, `sigterm`, `RTMIN+3` or `SIGRTMAX-1`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(number) = text.parse::<u8>() {
            return (1..=RTMAX).contains(&number).then_some(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(index) = NAMES.iter().position(|known| *known == name) {
            return u8::try_from(index + 1).ok().map(Self);
        }
        match name {
            "RTMIN" => return Some(Self(RTMIN)),
            "RTMAX" => return Some(Self(RTMAX)),
            "CLD" => return Self::parse("CHLD"),
            "POLL" => return Self::parse("IO"),
            _ => {}
        }
        let number = if let Some(offset) = name.strip_prefix("RTMIN+") {
            RTMIN.checked_add(offset.parse().ok()?)
        } else if let Some(offset) = name.strip_prefix("RTMAX-") {
            RTMAX.checked_sub(offset.parse().ok()?)
        } else {
            None
        };
        number.filter(|number| (RTMIN..=RTMAX).contains(number)).map(Self)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_number_and_names() {
        for (number, names) in [
            (1, ["1", "HUP", "SIGHUP"]),
            (2, ["2", "INT", "sigint"]),
            (3, ["3", "QUIT", "SigQuit"]),
            (9, ["9", "kill", "SIGKILL"]),
            (10, ["10", "USR1", "SIGUSR1"]),
            (15, [" 15 ", "TERM", "SIGTERM"]),
            (28, ["28", "WINCH", "SIGWINCH"]),
            (34, ["34", "RTMIN", "SIGRTMIN"]),
            (37, ["37", "RTMIN+3", "SIGRTMIN+3"]),
            (63, ["63", "RTMAX-1", "sigrtmax-1"]),
        ] {
            for name in names {
                assert_eq!(Signal::parse(name).map(Signal::number), Some(number), "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_signal_is_none() {
        for text in
            ["", "0", "-1", "65", "300", "SIG", "SIGFOO", "RTMIN+31", "RTMAX-31", "RTMIN+", "TERM TERM"]
        {
            assert_eq!(Signal::parse(text), None, "{text}");
        }
    }
}
