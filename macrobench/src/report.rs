//! Goals, and whether they were met.

/// Something that was measured, and what it should be.
pub(crate) struct Goal {
    what: String,
    measured: f64,
    bound: f64,
    least: bool,
    unit: &'static str,
}

impl Goal {
    pub(crate) fn at_most(what: &str, measured: f64, bound: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, bound, least: false, unit }
    }

    pub(crate) fn at_least(what: &str, measured: f64, bound: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, bound, least: true, unit }
    }

    /// A goal that was not measured is not met.
    fn met(&self) -> bool {
        if self.least { self.measured >= self.bound } else { self.measured <= self.bound }
    }
}

/// A table of goals. A missed goal is printed, and is no error.
pub(crate) fn print_goals(goals: &[Goal]) {
    println!("| what | measured | goal | |");
    println!("|---|---:|---:|---|");
    for goal in goals {
        let unit = if goal.unit.is_empty() { String::new() } else { format!(" {}", goal.unit) };
        println!(
            "| {} | {}{unit} | at {} {}{unit} | {} |",
            goal.what,
            number(goal.measured),
            if goal.least { "least" } else { "most" },
            number(goal.bound),
            if goal.met() { "met" } else { "**missed**" }
        );
    }
    println!("\n{} of {} goals met.", goals.iter().filter(|goal| goal.met()).count(), goals.len());
}

/// Formats a number with its significant decimal places.
fn number(value: f64) -> String {
    match value.abs() {
        v if v.fract() == 0.0 || v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_bounds_and_no_measurement_meets_none() {
        assert!(Goal::at_most("", 1.0, 1.0, "").met() && !Goal::at_most("", 1.1, 1.0, "").met());
        assert!(Goal::at_least("", 1.0, 1.0, "").met() && !Goal::at_least("", 0.9, 1.0, "").met());
        assert!(!Goal::at_most("", f64::NAN, 1.0, "").met() && !Goal::at_least("", f64::NAN, 1.0, "").met());
    }

    #[test]
    fn numbers_have_as_many_places_as_say_something() {
        let shown = [0.0, 0.0123, 0.245, 1.0, 1.5, 19.86, 9_950.3].map(number);
        assert_eq!(shown, ["0", "0.012", "0.24", "1", "1.50", "19.9", "9950"]);
    }
}
