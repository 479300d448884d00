//! Reading Prometheus pages, Envoy's and the state service's.

/// Sums the series of a metric that carry these labels.
pub(crate) fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let series = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = match series.strip_prefix(name)? {
            "" => "",
            labels => labels.strip_prefix('{')?.strip_suffix('}')?,
        };
        let carries = |label: &String| format!(",{labels},").contains(&format!(",{label},"));
        wanted.iter().all(carries).then(|| value.parse::<f64>().ok())?
    });
    series.sum()
}
