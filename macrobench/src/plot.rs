//! A plot of cost against the number of containers.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// The margins around the axes; the right one has room for the lines' names.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// A line: its name, its colour, and the CPU time by the number of containers.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) colour: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws the plot with logarithmic axes: a cost that grows with the containers is a rising straight line, a constant
/// one is flat.
pub(crate) fn draw(lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let (x_low, x_high) = decades(all().map(|(x, _)| x));
    let (y_low, y_high) = decades(all().map(|(_, y)| y));
    let x = |value: f64| {
        LEFT + (value.log10() - f64::from(x_low)) / f64::from(x_high - x_low) * (WIDTH - LEFT - RIGHT)
    };
    let y = |value: f64| {
        HEIGHT
            - BOTTOM
            - (value.log10() - f64::from(y_low)) / f64::from(y_high - y_low) * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">CPU time against containers</text>\n"
    );
    // Writing to a string cannot fail, here and below.
    for power in x_low..=x_high {
        let at = x(10f64.powi(power));
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
            thousands(10u64.pow(power.unsigned_abs()))
        );
    }
    for power in y_low..=y_high {
        let at = y(10f64.powi(power));
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            time(power)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">containers</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0
    );
    // The names stand at the lines' ends, one below the other where two would meet.
    let mut ends: Vec<(f64, &Line)> =
        lines.iter().filter_map(|line| Some((y(line.points.last()?.1), line))).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = f64::MIN;
    for (end, line) in ends {
        let path: Vec<String> =
            line.points.iter().map(|(px, py)| format!("{:.1} {:.1}", x(*px), y(*py))).collect();
        let colour = line.colour;
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
            path.join("L")
        );
        for (px, py) in &line.points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
                x(*px),
                y(*py)
            );
        }
        lowest = (end + 4.0).max(lowest + 17.0);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{lowest:.1}\" fill=\"{colour}\">{}</text>",
            WIDTH - RIGHT + 12.0,
            line.name
        );
    }
    svg + "</svg>\n"
}

/// The powers of ten around some values; two at least.
fn decades(values: impl Iterator<Item = f64> + Clone) -> (i32, i32) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || !high.is_finite() {
        return (0, 1);
    }
    let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (low, high.max(low + 1))
}

/// The label of a power of ten of microseconds.
fn time(power: i32) -> String {
    let (power, unit) = match power {
        ..3 => (power, "µs"),
        3..6 => (power - 3, "ms"),
        6.. => (power - 6, "s"),
    };
    if power < 0 {
        format!("{} {unit}", 10f64.powi(power))
    } else {
        format!("{} {unit}", 10u64.pow(power.unsigned_abs()))
    }
}

fn thousands(number: u64) -> String {
    match number / 1_000 {
        0 => number.to_string(),
        thousands => format!("{thousands},{:03}", number % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_every_line_with_its_points_and_its_name() {
        let lines = [
            Line { name: "flat", colour: "red", points: vec![(100.0, 50.0), (10_000.0, 50.0)] },
            Line { name: "steep", colour: "blue", points: vec![(100.0, 50.0), (10_000.0, 5_000.0)] },
            Line { name: "nothing", colour: "green", points: Vec::new() },
        ];
        let svg = draw(&lines);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains(">flat<") && svg.contains(">steep<") && !svg.contains(">nothing<"));
        for tick in ["100<", "1,000<", "10,000<", "10 µs<", "10 ms<"] {
            assert!(svg.contains(tick), "{tick}: {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(!draw(&[]).contains("NaN"));
    }
}
