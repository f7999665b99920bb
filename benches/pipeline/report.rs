//! Results as a table or JSON, with ratios against an earlier run.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

/// Figures in order of measurement.
#[derive(Default)]
pub struct Report {
    figures: Map<String, Value>,
    /// Titles with the names of their figures.
    sections: Vec<(String, Vec<String>)>,
}

impl Report {
    /// Title of the figures that follow.
    pub fn section(&mut self, title: &str) {
        eprintln!("{title}");
        self.sections.push((title.to_owned(), Vec::new()));
    }

    pub fn add(&mut self, name: impl Into<String>, figure: f64) {
        let name = name.into();
        eprintln!("  {name:<44} {:>10}", shown(figure));
        if let Some((_, names)) = self.sections.last_mut() {
            names.push(name.clone());
        }
        self.note(name, figure);
    }

    /// Adds a parameter of the run.
    pub fn note(&mut self, name: impl Into<String>, figure: f64) {
        let rounded = (figure * 1000.0).round() / 1000.0;
        self.figures.insert(name.into(), Number::from_f64(rounded).map_or(Value::Null, Value::Number));
    }

    pub fn json(&self) -> Value {
        Value::Object(self.figures.clone())
    }

    /// A table, with ratios to an earlier run.
    pub fn table(&self, earlier: Option<&Value>) -> String {
        let mut text = String::new();
        for (title, names) in &self.sections {
            let _ = writeln!(text, "\n{title}");
            for name in names {
                let figure = self.figures[name].as_f64().unwrap_or(f64::NAN);
                let before = earlier.and_then(|earlier| before(earlier, name)).filter(|before| *before != 0.0);
                let ratio = before.map(|before| format!("  {:>8.2} x of {}", figure / before, shown(before)));
                let _ = writeln!(text, "  {name:<44} {:>10}{}", shown(figure), ratio.unwrap_or_default());
            }
        }
        text
    }
}

/// A figure of an earlier run. Other programs say `per_s` and `rss_mb`.
fn before(earlier: &Value, name: &str) -> Option<f64> {
    let other = match name {
        "pushes_per_s" => "per_s",
        "peak_rss_mb" => "rss_mb",
        same => same,
    };
    earlier[name].as_f64().or_else(|| earlier[other].as_f64())
}

fn shown(figure: f64) -> String {
    if figure.abs() >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

/// `values` ascend, and `share` is 0 to 1.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let index = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1);
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
