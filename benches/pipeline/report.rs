//! What was measured: a table for people, one JSON object for machines, ratios against an earlier run.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

/// Figures by name, in the order in which they were measured.
#[derive(Default)]
pub struct Report {
    figures: Map<String, Value>,
}

impl Report {
    pub fn add(&mut self, name: impl Into<String>, figure: f64) {
        let name = name.into();
        let rounded = (figure * 1000.0).round() / 1000.0;
        eprintln!("  {name:<44} {}", shown(rounded));
        let figure = Number::from_f64(rounded).map_or(Value::Null, Value::Number);
        self.figures.insert(name, figure);
    }

    pub fn json(&self) -> Value {
        Value::Object(self.figures.clone())
    }

    /// A table, with the ratio to an earlier run's figure where there is one.
    pub fn table(&self, earlier: Option<&Value>) -> String {
        let mut text = String::new();
        for (name, figure) in &self.figures {
            let figure = figure.as_f64().unwrap_or(f64::NAN);
            let before = earlier.and_then(|earlier| earlier[name].as_f64()).filter(|before| *before != 0.0);
            let ratio = before.map(|before| format!("  {:>8.2} x of {}", figure / before, shown(before)));
            let _ = writeln!(text, "{name:<46} {:>12}{}", shown(figure), ratio.unwrap_or_default());
        }
        text
    }
}

fn shown(figure: f64) -> String {
    if figure.abs() >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

/// What a share of all values does not exceed: `values` in ascending order, `share` from 0 to 1.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1);
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
