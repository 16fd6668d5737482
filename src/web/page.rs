//! The page at `/`.

/// Name, version and links.
pub(super) fn index(telemetry_path: &str) -> String {
    let version = crate::version::VERSION;
    let revision = crate::version::REVISION;
    let path = escape(telemetry_path);
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>docker-state-exporter</title>
<style>:root {{ color-scheme: light dark }} body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem }}</style>
</head>
<body>
<h1>docker-state-exporter</h1>
<p>Version {version}, revision {revision}.</p>
<ul>
<li><a href="{path}">Metrics</a></li>
<li><a href="/-/healthy">Healthy</a>: whether the exporter runs</li>
<li><a href="/-/ready">Ready</a>: whether it knows every container</li>
</ul>
</body>
</html>
"#
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_end_its_attribute() {
        assert!(index(r#"/"><script>"#).contains(r#"href="/&quot;&gt;&lt;script&gt;""#));
    }
}
