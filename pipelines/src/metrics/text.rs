//! Figures as Prometheus's text exposition format, version 0.0.4.

use stage::Figure;

/// The page. Figures of one name must stand together.
pub(super) fn page(figures: &[Figure]) -> String {
    let mut page = String::new();
    let mut family = "";
    for figure in figures {
        if figure.name != family {
            family = figure.name;
            let help = figure.help.replace('\\', "\\\\").replace('\n', "\\n");
            let kind = if family.ends_with("_total") { "counter" } else { "gauge" };
            page.push_str(&format!("# HELP {family} {help}\n# TYPE {family} {kind}\n"));
        }
        page.push_str(family);
        for (i, (key, value)) in figure.labels.iter().enumerate() {
            page.push(if i == 0 { '{' } else { ',' });
            page.push_str(&format!("{key}=\"{}\"", escaped(value)));
        }
        page.push_str(if figure.labels.is_empty() { " " } else { "} " });
        page.push_str(&number(figure.value));
        page.push('\n');
    }
    page
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}

/// What `promtool check metrics` looks at: names, one HELP and one TYPE before a family's samples,
/// families in one piece, no sample twice, `_total` for counters and for nothing else.
#[cfg(test)]
pub(super) fn check(page: &str) {
    let (mut families, mut samples) = (Vec::<String>::new(), std::collections::BTreeSet::new());
    let mut lines = page.lines().peekable();
    assert!(page.ends_with('\n'));
    while let Some(help) = lines.next() {
        let (name, text) = help.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(text.ends_with('.'), "{help}");
        assert!(!families.contains(&name.to_owned()), "{name} is in two pieces");
        families.push(name.to_owned());
        let kind = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
        let counter = kind == format!("{name} counter");
        assert!(counter || kind == format!("{name} gauge"), "{kind}");
        assert_eq!(counter, name.ends_with("_total"), "{kind}");
        let before = samples.len();
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (series, value) = sample.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{sample}");
            let of = series.split('{').next().unwrap();
            assert_eq!(of, name, "{sample}");
            assert!(series == of || series.ends_with('}'), "{sample}");
            assert!(samples.insert(series.to_owned()), "{series} twice");
        }
        assert!(samples.len() > before, "{name} has no sample");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_head_a_family_and_one_line_a_figure() {
        let figures = [
            Figure::new("a_total", "How many.", 3.0).with("why", "x"),
            Figure::new("a_total", "How many.", 0.5).with("why", "y").with("z", ""),
            Figure::new("b", "Another.", 1e21),
        ];
        assert_eq!(
            page(&figures),
            "# HELP a_total How many.\n# TYPE a_total counter\na_total{why=\"x\"} 3\n\
             a_total{why=\"y\",z=\"\"} 0.5\n# HELP b Another.\n# TYPE b gauge\n\
             b 1000000000000000000000\n"
        );
        check(&page(&figures));
    }

    #[test]
    fn quotes_backslashes_and_line_ends_are_escaped() {
        let page = page(&[Figure::new("a", "H.", f64::NAN).with("k", "a\"b\\c\nd")]);
        assert_eq!(page.lines().last().unwrap(), "a{k=\"a\\\"b\\\\c\\nd\"} NaN");
    }
}
